"""GPT-2 (Radford et al. 2019, "Language Models are Unsupervised Multitask Learners") on the one Block.

Pre-norm Blocks with the tanh form of GELU. That a token sees only those before it is the reach (-1, 0) of its
document's group; padding does not exist.
"""

from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn
from transformers import GenerationMixin
from transformers.utils import can_return_tuple

from unitrans.models._encoder import Model
from unitrans.models.gpt2.config import Gpt2Config
from unitrans.models.images import EncoderOutput
from unitrans.models.text import TextEncoder, TextPlans, padded_like
from unitrans.models.text_heads import encoded, next_tokens


class Gpt2Model(TextEncoder):
    """The GPT-2 encoder: rows of a token depend on it and on those before it in its document."""

    config_class = Gpt2Config
    base_model_prefix = "encoder"


class Gpt2LMHeadModel(Model, GenerationMixin):
    """GPT-2 that predicts the next token; its last layer is the table of tokens.

    `generate` is that of transformers, with every token computed from all before it; `sample_tokens` keeps keys and
    values, for one text.

    Example:
        >>> model = Gpt2LMHeadModel(Gpt2Config(vocab_size=50, embed_dim=16, depth=1, num_heads=2)).eval()
        >>> model.generate(torch.tensor([[5, 6, 7]]), max_new_tokens=2, do_sample=False).shape
        torch.Size([1, 5])
    """

    config_class = Gpt2Config
    base_model_prefix = "encoder"

    def __init__(self, config: Gpt2Config) -> None:
        super().__init__(config)
        self.encoder = Gpt2Model(config)
        self.post_init()

    def _init_weights(self, module: nn.Module) -> None:
        """The encoder draws its own weights."""

    @classmethod
    def _supports_default_dynamic_cache(cls) -> bool:
        """Of transformers: it makes no cache, as nothing is kept."""
        return False

    def prepare_inputs_for_generation(self, input_ids: Tensor, *args: Any, **kwargs: Any) -> dict[str, Any]:
        """As in transformers: places count the tokens that are no padding."""
        mask: Tensor | None = kwargs.get("attention_mask")
        places = None if mask is None else (mask.long().cumsum(1) - 1).clamp(min=0)
        return {"input_ids": input_ids, "attention_mask": mask, "position_ids": places}

    @can_return_tuple
    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        labels: Tensor | None = None,
        plans: TextPlans | None = None,
        position_ids: Tensor | None = None,
    ) -> EncoderOutput:
        """As `Gpt2Model.forward`; labels, of the shape of input_ids, are the tokens themselves (they are shifted
        here), -100 where nothing is predicted.

        Returns:
            logits of all positions, [B, S, V] (0 at padding) or [T, V]; with labels the mean cross-entropy as loss.
        """
        rows, text = encoded(self.encoder, input_ids, attention_mask, None, plans, position_ids, tied=True)
        logits, loss = F.linear(rows, self.encoder.embeddings.word_embeddings.weight), None
        if labels is not None:
            at, targets = next_tokens(labels.flatten()[text.places], text.plans)
            loss = F.cross_entropy(logits.index_select(0, at), targets)
        return EncoderOutput(loss=loss, logits=padded_like(logits, input_ids, text.places))
