"""GPT-2 (Radford et al. 2019, "Language Models are Unsupervised Multitask Learners") on the one Block.

Pre-norm Blocks with the tanh form of GELU. That a token sees only those before it is the reach (-1, 0) of its
document's group; padding does not exist.
"""

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import PreTrainedModel

from unitrans.models.bert import IGNORED, encoded
from unitrans.models.images import EncoderOutput
from unitrans.models.text import (
    TextConfig,
    TextEncoder,
    TextNorm,
    TextPlans,
    TextPooling,
    check_published,
    padded_like,
)
from unitrans.nn import Activation
from unitrans.nn.block import KeyValues


class Gpt2Config(TextConfig):
    """Configuration of a GPT-2 encoder; the defaults are the smallest published one."""

    model_type = "unitrans-gpt2"
    causal = True

    vocab_size: int = 50257
    max_position_embeddings: int = 1024
    type_vocab_size: int = 0
    activation: Activation = "gelu_tanh"
    pooling: TextPooling = "last"
    norm: TextNorm = "pre"
    layer_norm_eps: float = 1e-5
    pad_token_id: int | None = None

    @property
    def layout_family(self) -> str:
        """Whose names the weights have in transformers. ValueError for a model that it cannot hold."""
        check_published(self, "pre")
        return "gpt2"


class Gpt2Model(TextEncoder):
    """The GPT-2 encoder: rows of a token depend on it and on those before it in its document."""

    config_class = Gpt2Config
    base_model_prefix = "encoder"


class Gpt2LMHeadModel(PreTrainedModel):
    """GPT-2 that predicts the next token; its last layer is the table of tokens."""

    config_class = Gpt2Config
    base_model_prefix = "encoder"

    def __init__(self, config: Gpt2Config) -> None:
        super().__init__(config)
        self.encoder = Gpt2Model(config)
        self.post_init()

    def _init_weights(self, module: nn.Module) -> None:
        """The encoder draws its own weights."""

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        labels: Tensor | None = None,
        plans: TextPlans | None = None,
    ) -> EncoderOutput:
        """As `Gpt2Model.forward`; labels, of the shape of input_ids, are the tokens themselves (they are shifted
        here), -100 where nothing is predicted.

        Returns:
            With labels the mean cross-entropy as loss and logits [P, V] of the P positions that predict something;
            without, logits of all positions: [B, S, V] (0 at padding) or [T, V].
        """
        rows, text = encoded(self.encoder, input_ids, attention_mask, None, plans)
        table = self.encoder.embeddings.word_embeddings.weight
        if labels is None:
            return EncoderOutput(logits=padded_like(F.linear(rows, table), input_ids, text.places))
        at, targets = next_tokens(labels.flatten()[text.places], text.plans)
        logits = F.linear(rows.index_select(0, at), table)
        return EncoderOutput(loss=F.cross_entropy(logits, targets), logits=logits)


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
