"""What stands behind text encoders: scores of tokens, and tokens drawn from them."""

from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from unitrans.models.text import TextConfig, TextEncoder, TextPlans, draw_head
from unitrans.nn import Activation, activation_function
from unitrans.nn.block import KeyValues

IGNORED = -100  # the label of a position that is not predicted


class MaskedLMHead(nn.Module):
    """Rows to scores of tokens: a layer with a non-linearity and a LayerNorm, then the transposed table of tokens
    and a bias (BERT).

    Args:
        dim: C.
        vocab_size: V.
        activation, eps, std: of the encoder.
    """

    def __init__(
        self,
        dim: int,
        vocab_size: int,
        activation: Activation = "gelu",
        eps: float = 1e-12,
        std: float = 0.02,
    ) -> None:
        super().__init__()
        self.dense = nn.Linear(dim, dim)
        self.act = activation_function(activation)
        self.norm = nn.LayerNorm(dim, eps=eps)
        self.output_bias = nn.Parameter(torch.zeros(vocab_size))
        draw_head(self, std)

    def forward(self, rows: Tensor, table: Tensor) -> Tensor:
        """As `scores`."""
        return self.scores(rows, table)

    def scores(self, rows: Tensor, table: Tensor) -> Tensor:
        """Rows [P, C] and the table of tokens [V, C] -> scores [P, V]."""
        return F.linear(self.norm(self.act(self.dense(rows))), table, self.output_bias)


def head_arguments(config: TextConfig) -> tuple[int, int, Activation, float, float]:
    """What `MaskedLMHead` is made from."""
    return (
        config.embed_dim,
        config.vocab_size,
        config.activation,
        config.layer_norm_eps,
        config.initializer_range,
    )


def encoded(encoder: TextEncoder, *inputs: Any, tied: bool = False) -> tuple[Tensor, Any]:
    """Last rows [T, C] and the packed text of what a forward was given; tied: see `TextEncoder.embed`."""
    text = encoder.packed(*inputs)
    x = encoder.embed_kept(text.input_ids, text.plans, text.token_type_ids, tied=tied)
    return encoder.encode(x, text.plans), text


def token_scores(
    head: nn.Module, rows: Tensor, encoder: TextEncoder, labels: Tensor | None, index: Tensor
) -> tuple[Tensor, Tensor | None]:
    """Scores of tokens [T, V] and, with labels, the mean cross-entropy of those that are not -100."""
    logits = head(rows, encoder.embeddings.word_embeddings.weight)
    if labels is None:
        return logits, None
    return logits, F.cross_entropy(logits, labels.flatten()[index], ignore_index=IGNORED)


def next_tokens(labels: Tensor, plans: TextPlans) -> tuple[Tensor, Tensor]:
    """Labels int64 [T] of a stream -> (rows [P] that predict, the tokens [P] they predict): every row whose
    successor is in the same document and not -100."""
    asked = torch.zeros_like(labels, dtype=torch.bool)
    asked[:-1] = (plans.sample_index[1:] == plans.sample_index[:-1]) & (labels[1:] != IGNORED)
    at = asked.nonzero().squeeze(1)
    return at, labels[at + 1]


@torch.no_grad()
def sample_tokens(
    encoder: TextEncoder,
    prompt: Tensor,
    *,
    max_new_tokens: int,
    temperature: float = 1.0,
    top_k: int | None = None,
    end_token_id: int | None = None,
    generator: torch.Generator | None = None,
) -> Iterator[int]:
    """Tokens that continue a text, one by one.

    Args:
        encoder: a causal encoder, in eval mode.
        prompt: int64 [n], at least one token. What is longer than max_position_embeddings is seen through its end.
        max_new_tokens: at most this many.
        temperature: 0 takes the likeliest token, 1 draws from the model's distribution.
        top_k: draw among the likeliest tokens only.
        end_token_id: the token after which the text is finished; it is not returned.
        generator: of the draws; None: torch's own.

    Keys and values are kept, so that a token costs one row; once the text is longer than max_position_embeddings every
    token moves all places, and what is seen is computed anew.
    """
    if not len(prompt):
        raise ValueError("prompt: expected at least one token, got none")
    ids, longest = prompt, encoder.config.max_position_embeddings
    past = [KeyValues() for _ in encoder.blocks]
    for _ in range(max_new_tokens):
        row = _last_row(encoder, ids, past if len(ids) <= longest else None)
        scores = F.linear(row, encoder.embeddings.word_embeddings.weight).float()
        if temperature == 0:
            token = scores.argmax().view(1)
        else:
            if top_k is not None:
                kept = scores.topk(min(top_k, len(scores))).values[-1]
                scores = scores.masked_fill(scores < kept, float("-inf"))
            token = torch.multinomial((scores / temperature).softmax(0), 1, generator=generator)
        if end_token_id is not None and int(token) == end_token_id:
            return
        yield int(token)
        ids = torch.cat([ids, token.to(ids)])


def _last_row(encoder: TextEncoder, ids: Tensor, past: list[KeyValues] | None) -> Tensor:
    """The last row [C] of a text of tokens int64 [n]: from its last token and what was kept of those before it, or
    (None, or nothing kept yet) from all that can be seen."""
    if past is not None and past[0].keys is not None:
        seen, plans = ids[-1:], TextPlans.next_token(len(ids) - 1)
    else:
        seen = ids[-encoder.config.max_position_embeddings :]
        plans = encoder.config.plans([len(seen)])
    plans = plans.to(ids.device)
    return encoder.norm(encoder.encode_blocks(encoder.embed(seen, plans), plans, past)[-1][-1])
