"""GPT-2 (Radford et al. 2019, "Language Models are Unsupervised Multitask Learners") on the one Block.

Pre-norm Blocks with the tanh form of GELU. That a token sees only those before it is the reach (-1, 0) of its
document's group; padding does not exist.
"""

import torch.nn.functional as F
from torch import Tensor, nn
from transformers import PreTrainedModel

from unitrans.models.gpt2.config import Gpt2Config
from unitrans.models.images import EncoderOutput
from unitrans.models.text import TextEncoder, TextPlans, padded_like
from unitrans.models.text_heads import encoded, next_tokens


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
