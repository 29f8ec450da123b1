"""Causal language modelling: every token is predicted from those before it in its document (GPT)."""

from typing import Any, ClassVar

import numpy as np
import pydantic
import torch.nn.functional as F
from torch import Tensor, nn

from unitrans.models.text import TextEncoder
from unitrans.models.text_heads import IGNORED
from unitrans.objectives.base import Labels, Predicts, SignalOutput
from unitrans.objectives.mlm import PredictsTokens, TokenObjective


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
    predicts: Predicts = "next_tokens"
    loss_unit = "nats a token"
    Options: ClassVar[type[pydantic.BaseModel]] = ClmOptions

    def __init__(self, encoder_config: Any, labels: Labels | None = None, **options: Any) -> None:
        super().__init__(encoder_config, labels, **options)
        if not encoder_config.causal:
            raise ValueError(
                "objective clm: expected a causal encoder, got "
                f"{encoder_config.model_type.removeprefix('unitrans-')}, which would see what it predicts"
            )

    def corrupt(self, sample: dict[str, Any], rng: np.random.Generator) -> dict[str, Any]:
        """Nothing is hidden. `labels` int64 [n] is in every row the token that follows, -100 in the last."""
        ids = sample["input_ids"]
        return sample | {"labels": np.append(ids[1:], IGNORED)}

    def build_head(self) -> nn.Module:
        """A head without parameters: the last layer is the encoder's table of tokens."""
        return ClmHead()


class ClmHead(nn.Module, PredictsTokens):
    """Scores of the next token by the encoder's table of tokens."""

    def forward(
        self,
        encoder: TextEncoder,
        input_ids: Tensor,
        plans: Any,
        labels: Tensor | None = None,
        predicted: Tensor | None = None,
    ) -> SignalOutput:
        """As `MlmHead.forward`; labels int64 [T] are the tokens that follow (not shifted here)."""
        rows = encoder.encode(self.enter(encoder, input_ids, plans), plans)
        return self.leave(encoder, rows, input_ids, plans, labels, predicted)

    def enter(self, encoder: TextEncoder, input_ids: Tensor, plans: Any) -> Tensor:
        """Rows [T, C] for the encoder."""
        return encoder.embed_kept(input_ids, plans, tied=True)

    @staticmethod
    def scores(rows: Tensor, table: Tensor) -> Tensor:
        """Rows [P, C] and the table of tokens [V, C] -> logits [P, V]."""
        return F.linear(rows, table)

    def leave(
        self,
        encoder: TextEncoder,
        rows: Tensor,
        input_ids: Tensor,
        plans: Any,
        labels: Tensor | None = None,
        predicted: Tensor | None = None,
    ) -> SignalOutput:
        """What is predicted from the encoder's last rows [T, C], and the loss."""
        return self.predict(encoder, rows, labels, predicted)
