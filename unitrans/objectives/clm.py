"""Causal language modelling: every token is predicted from those before it in its document (GPT)."""

from typing import Any, ClassVar

import numpy as np
import pydantic
import torch.nn.functional as F
from torch import Tensor, nn

from unitrans.models.bert import IGNORED
from unitrans.objectives.base import Labels, SignalOutput
from unitrans.objectives.mlm import TokenObjective, label_count, predicted_rows, token_output


class ClmOptions(pydantic.BaseModel):
    """The `objective` section of a run with clm."""

    model_config = pydantic.ConfigDict(extra="forbid")


class CausalLanguageModeling(TokenObjective):
    """Predict the next token.

    Args:
        encoder_config: configuration of a causal text encoder.

    Raises:
        ValueError: an encoder that sees both sides.
    """

    name = "clm"
    Options: ClassVar[type[pydantic.BaseModel]] = ClmOptions

    def __init__(self, encoder_config: Any, labels: Labels | None = None, **options: Any) -> None:
        super().__init__(encoder_config, labels, **options)
        if not encoder_config.causal:
            raise ValueError(
                "objective clm: expected a causal encoder such as gpt2, got "
                f"{encoder_config.model_type.removeprefix('unitrans-')}, which would see what it predicts"
            )

    def corrupt(self, sample: dict[str, Any], rng: np.random.Generator) -> dict[str, Any]:
        """Nothing is hidden. `labels` int64 [n] is in every row the token that follows, -100 in the last."""
        ids = sample["input_ids"]
        return sample | {"labels": np.append(ids[1:], IGNORED)}

    def build_head(self) -> nn.Module:
        """A head without parameters: the last layer is the encoder's table of tokens."""
        return ClmHead()


class ClmHead(nn.Module):
    """Scores of the next token by the encoder's table of tokens."""

    def forward(
        self,
        encoder: Any,
        input_ids: Tensor,
        plans: Any,
        labels: Tensor | None = None,
        predicted: Tensor | None = None,
    ) -> SignalOutput:
        """As `MlmHead.forward`; labels int64 [T] are the tokens that follow (not shifted here)."""
        rows = encoder.encode(self.enter(encoder, input_ids, plans), plans)
        return self.leave(encoder, rows, input_ids, plans, labels, predicted)

    def enter(self, encoder: Any, input_ids: Tensor, plans: Any) -> Tensor:
        """Rows [T, C] for the encoder."""
        return encoder.embed_kept(input_ids, plans)

    @staticmethod
    def count(labels: Tensor | None = None, predicted: Tensor | None = None) -> int:
        """num_targets of a batch, before anything is computed."""
        return label_count(labels, predicted)

    def leave(
        self,
        encoder: Any,
        rows: Tensor,
        input_ids: Tensor,
        plans: Any,
        labels: Tensor | None = None,
        predicted: Tensor | None = None,
    ) -> SignalOutput:
        """What is predicted from the encoder's last rows [T, C], and the loss."""
        predicted = predicted_rows(input_ids, labels) if predicted is None else predicted
        logits = F.linear(rows.index_select(0, predicted), encoder.embeddings.word_embeddings.weight)
        targets = None if labels is None else labels.index_select(0, predicted)
        return token_output(logits, targets, predicted, len(input_ids), with_candidates=not self.training)
