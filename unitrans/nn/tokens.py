"""The embedding of words: ids of tokens, places and segments as rows of a packed stream."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from unitrans.nn.linear import is_watched
from unitrans.ops.compiled import is_eager


class TokenEmbed(nn.Module):
    """The sum of a learned vector per token, per place and (BERT) per segment, normalised where asked for.

    Args:
        vocab_size: rows of the table of tokens.
        dim: C.
        num_positions: rows of the table of places; 0: none.
        type_vocab_size: rows of the table of segments; 0: none.
        norm: a LayerNorm on the sum (BERT; GPT-2 has none).
        eps: of that LayerNorm.
        drop: dropout of the result.
    """

    def __init__(
        self,
        vocab_size: int,
        dim: int,
        num_positions: int,
        *,
        type_vocab_size: int = 0,
        norm: bool = False,
        eps: float = 1e-12,
        drop: float = 0.0,
    ) -> None:
        super().__init__()
        self.word_embeddings = nn.Embedding(vocab_size, dim)
        self.position_embeddings = nn.Embedding(num_positions, dim) if num_positions else None
        self.token_type_embeddings = nn.Embedding(type_vocab_size, dim) if type_vocab_size else None
        self.norm = nn.LayerNorm(dim, eps=eps) if norm else nn.Identity()
        self.drop = nn.Dropout(drop)

    def forward(
        self, input_ids: Tensor, place: Tensor, token_type_ids: Tensor | None = None, *, tied: bool = False
    ) -> Tensor:
        """int64 [T] each -> rows [T, C]. Without token_type_ids every token is of segment 0; tied: see `look_up`."""
        x = look_up(self.word_embeddings, input_ids) if tied else self.word_embeddings(input_ids)
        if self.token_type_embeddings is not None:
            table = self.token_type_embeddings.weight
            x = x + (table[0] if token_type_ids is None else F.embedding(token_type_ids, table))
        if self.position_embeddings is not None:
            x = x + self.position_embeddings(place)
        return self.drop(self.norm(x))


def look_up(module: nn.Embedding, ids: Tensor) -> Tensor:
    """`module(ids)` for a table that the loss also decodes by: its gradient is added to the decoder's row by row.

    torch makes a gradient of the whole table for each use, here mostly of zeros, and adds the two: a tenth of a step of
    BERT-base. The numbers are the same but for rounding.
    """
    table = module.weight
    plain = type(module) is nn.Embedding and module.max_norm is None and module.padding_idx is None
    if not (plain and table.requires_grad and torch.is_grad_enabled() and is_eager(table, ids)):
        return module(ids)
    if (
        not table.is_leaf
        or table.device.type != "cpu"
        or torch.distributed.is_initialized()
        or is_watched(module)
    ):
        return module(ids)
    if not getattr(table, "_stays_dense", False):  # a copy of a parameter has neither the mark nor the hook
        table.register_post_accumulate_grad_hook(_make_dense)
        table._stays_dense = True  # type: ignore[attr-defined]
    return F.embedding(ids, table, sparse=True)


def _make_dense(table: Tensor) -> None:
    """Where nothing but the look-up had a gradient."""
    if table.grad is not None and table.grad.is_sparse:
        table.grad = table.grad.to_dense()
