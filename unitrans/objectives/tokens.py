"""Classes of words: one row per token, a linear layer, cross-entropy on the first token of every word."""

from collections.abc import Mapping
from typing import Any, ClassVar

import pydantic
import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from unitrans.models._encoder import Encoder
from unitrans.models.text import draw_head
from unitrans.models.text_heads import IGNORED
from unitrans.objectives.base import ACCURACY, MACRO_F1, LabelKind, Labels, Measure, Objective, SignalOutput


class TokenClassificationOptions(pydantic.BaseModel):
    """The `objective` section of a run with token_classification."""

    model_config = pydantic.ConfigDict(extra="forbid")

    head_dropout: float = Field(0.1, ge=0, lt=1, description="Dropout in front of the classifier.")


class TokenClassification(Objective):
    """Which class a word is of (parts of speech, names).

    Raises:
        ValueError: fewer than two classes.
    """

    name = "token_classification"
    domains = ("text",)
    label_kinds: ClassVar[tuple[LabelKind, ...]] = ("token",)
    Options = TokenClassificationOptions
    headline = "accuracy"
    greater_is_better = True
    best = "accuracy"
    predicts = "word_classes"
    loss_unit = "nats a word"
    measures: ClassVar[Mapping[str, Measure]] = {"accuracy": ACCURACY, "macro_f1": MACRO_F1}

    def __init__(self, encoder_config: Any, labels: Labels | None = None, **options: Any) -> None:
        super().__init__(encoder_config, labels, **options)
        assert labels is not None
        if len(labels.names) < 2:
            raise ValueError(
                f"objective token_classification: expected at least two classes, got {list(labels.names)}"
            )

    def build_head(self) -> nn.Module:
        """A linear classifier on every row."""
        assert self.labels is not None
        return TokenHead(self.encoder_config.num_features, len(self.labels.names), self.options.head_dropout)

    def collect(self, batch: dict[str, Any], output: SignalOutput) -> dict[str, Tensor]:
        """How often each class was taken for each, by document: int16 [B, K, K], rows are the true classes."""
        assert output.prediction is not None and self.labels is not None
        asked, k, plans = batch["labels"] != IGNORED, len(self.labels.names), batch["plans"]
        pairs = batch["labels"][asked] * k + output.prediction[asked]
        documents = len(plans.token_counts)
        table = torch.bincount(plans.sample_index[asked] * k * k + pairs, minlength=documents * k * k)
        return {"confusion": table.view(documents, k, k).to(torch.int16)}

    def figures(self, collected: dict[str, Tensor]) -> dict[str, float]:
        """accuracy of words, and macro_f1 over the classes that occur."""
        table = collected["confusion"].sum(0).double()
        right, true, taken = table.diagonal(), table.sum(1), table.sum(0)
        occurs = true + taken > 0
        return {
            "accuracy": float(right.sum() / table.sum().clamp(min=1)),
            "macro_f1": float((2 * right / (true + taken).clamp(min=1))[occurs].mean()),
        }


class TokenHead(nn.Module):
    """A linear layer on every row.

    Args:
        num_features: C. num_classes: K. dropout: probability of dropping an input of the layer.
    """

    def __init__(self, num_features: int, num_classes: int, dropout: float) -> None:
        super().__init__()
        self.dropout = nn.Dropout(dropout)
        self.linear = nn.Linear(num_features, num_classes)
        draw_head(self)

    def forward(self, encoder: Encoder, labels: Tensor | None = None, **inputs: Any) -> SignalOutput:
        """Predict.

        Args:
            encoder: of any domain.
            labels: int64 [T], -100 where nothing is asked; None sums nothing.
            inputs: what the encoder takes.

        Returns:
            loss_sum and num_targets over the labelled rows; prediction: int64 [T], the likeliest class of every row.
        """
        logits = self.linear(self.dropout(encoder.features(**inputs))).float()
        if labels is None:
            return SignalOutput(
                logits.sum() * 0.0, logits.new_zeros((), dtype=torch.int64), logits.detach().argmax(1)
            )
        loss = F.cross_entropy(logits, labels, ignore_index=IGNORED, reduction="sum")
        return SignalOutput(loss, (labels != IGNORED).sum(), logits.detach().argmax(1))
