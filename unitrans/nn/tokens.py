"""The embedding of words: ids of tokens, places and segments as rows of a packed stream."""

import torch.nn.functional as F
from torch import Tensor, nn


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

    def forward(self, input_ids: Tensor, place: Tensor, token_type_ids: Tensor | None = None) -> Tensor:
        """int64 [T] each -> rows [T, C]. Without token_type_ids every token is of segment 0."""
        x = self.word_embeddings(input_ids)
        if self.token_type_embeddings is not None:
            table = self.token_type_embeddings.weight
            x = x + (table[0] if token_type_ids is None else F.embedding(token_type_ids, table))
        if self.position_embeddings is not None:
            x = x + self.position_embeddings(place)
        return self.drop(self.norm(x))
