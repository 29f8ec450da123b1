"""Learning from labels: one row per sample, a linear layer, cross-entropy or a distance. The same for every domain."""

from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, ClassVar, Literal

import numpy as np
import pydantic
import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from unitrans.models._encoder import Encoder
from unitrans.objectives.base import ACCURACY, MACRO_F1, LabelKind, Labels, Measure, Objective, SignalOutput
from unitrans.objectives.flag import FlagOptions


class ClassificationOptions(FlagOptions):
    """The `objective` section of a run with classification."""

    model_config = pydantic.ConfigDict(extra="forbid")

    label_smoothing: float = Field(
        0.0, ge=0, lt=1, description="This part of the target is spread evenly over all classes, in training."
    )
    class_weights: Literal["none", "balanced"] = Field(
        "none",
        description="balanced: every class counts the same in training, however many samples it has; with yes-no "
        "targets, yes and no of each count the same.",
    )
    head_dropout: float = Field(0.0, ge=0, lt=1, description="Dropout in front of the classifier.")


class RegressionOptions(FlagOptions):
    """The `objective` section of a run with regression."""

    model_config = pydantic.ConfigDict(extra="forbid")

    loss: Literal["l1", "l2", "huber"] = Field(
        "l1", description="Distance to the target in units of its standard deviation; huber turns at 1."
    )
    head_dropout: float = Field(0.0, ge=0, lt=1, description="Dropout in front of the last layer.")


class LabelHead(nn.Module):
    """A linear layer on the pooled row of every sample. Subclasses add the loss.

    Args:
        num_features: C, width of the pooled rows.
        num_outputs: K.
        dropout: probability of dropping an input of the layer.
    """

    def __init__(self, num_features: int, num_outputs: int, dropout: float) -> None:
        super().__init__()
        self.dropout = nn.Dropout(dropout)
        self.linear = nn.Linear(num_features, num_outputs)
        nn.init.trunc_normal_(self.linear.weight, std=0.02)
        nn.init.zeros_(self.linear.bias)

    def predict(self, encoder: Encoder, inputs: dict[str, Any]) -> Tensor:
        """[B, K] for the samples of a batch; inputs are `encoder.input_names`."""
        pooled = encoder.pool(encoder.features(**inputs), inputs["plans"])
        return self.linear(self.dropout(pooled)).float()


class ClassHead(LabelHead):
    """Cross-entropy over classes, or over yes and no of each target.

    Args:
        num_features, num_outputs, dropout: as in `LabelHead`.
        kind: of the labels.
        label_smoothing: in training.
        weights: [K] of the classes in training (class), or [K] of yes against no (multi); None: all 1.
    """

    def __init__(
        self,
        num_features: int,
        num_outputs: int,
        dropout: float,
        *,
        kind: LabelKind,
        label_smoothing: float,
        weights: Sequence[float] | None,
    ) -> None:
        super().__init__(num_features, num_outputs, dropout)
        self.kind, self.label_smoothing, self.weights = kind, label_smoothing, weights

    def forward(self, encoder: Encoder, labels: Tensor | None = None, **inputs: Any) -> SignalOutput:
        """Predict.

        Args:
            encoder: of any domain.
            labels: int64 [B] of classes, float [B, K] of classes (mixed samples), or float [B, K] of yes (1), no
                (0) and missing (NaN); None sums nothing.
            inputs: what the encoder takes.

        Returns:
            loss_sum over samples (class) or over known targets (multi); prediction: logits fp32 [B, K].
        """
        logits = self.predict(encoder, inputs)
        if labels is None:
            return SignalOutput(logits.sum() * 0.0, logits.new_zeros((), dtype=torch.int64), logits.detach())
        loss, count = self._binary(logits, labels) if self.kind == "multi" else self._classes(logits, labels)
        return SignalOutput(loss, count, logits.detach())

    def _weights(self, logits: Tensor) -> Tensor | None:
        return None if self.weights is None or not self.training else logits.new_tensor(self.weights)

    def _classes(self, logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        smoothing = self.label_smoothing if self.training else 0.0
        weights = self._weights(logits)
        loss = F.cross_entropy(logits, labels, weights, label_smoothing=smoothing, reduction="sum")
        return loss, torch.tensor(labels.shape[0], device=logits.device)

    def _binary(self, logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        known = labels.isfinite()
        target = torch.where(known, labels, 0.5)
        if self.training and self.label_smoothing:
            target = target * (1 - self.label_smoothing) + self.label_smoothing / 2
        weights = self._weights(logits)
        loss = F.binary_cross_entropy_with_logits(logits, target, reduction="none", pos_weight=weights)
        return torch.where(known, loss, 0.0).sum(), known.sum()


class Classification(Objective):
    """Which class a sample is of, or yes or no for each of several targets.

    Raises:
        ValueError: fewer than two classes.
    """

    name = "classification"
    domains = ("vision", "text", "graph")
    label_kinds: ClassVar[tuple[LabelKind, ...]] = ("class", "multi")
    Options = ClassificationOptions
    greater_is_better = True
    loss_unit = "nats a sample"
    measures: ClassVar[Mapping[str, Measure]] = {
        "accuracy": ACCURACY,
        "macro_f1": MACRO_F1,
        "roc_auc": Measure("area under the ROC curve", "Area under the ROC curve"),
        "average_precision": Measure("average precision"),
    }

    def __init__(self, encoder_config: Any, labels: Labels | None = None, **options: Any) -> None:
        super().__init__(encoder_config, labels, **options)
        assert labels is not None
        if labels.kind == "class" and len(labels.names) < 2:
            raise ValueError(
                f"objective classification: expected at least two classes, got {list(labels.names)}"
            )
        self.predicts = "classes" if labels.kind == "class" else "answers"
        # roc_auc does not exist where the held-out samples give one answer only, so it chooses no checkpoint.
        self.headline, self.best = ("accuracy", "accuracy") if labels.kind == "class" else ("roc_auc", "loss")

    def build_head(self) -> ClassHead:
        """A linear classifier on pooled rows."""
        assert self.labels is not None
        options: ClassificationOptions = self.options
        return ClassHead(
            self.encoder_config.num_features,
            len(self.labels.names),
            options.head_dropout,
            kind=self.labels.kind,
            label_smoothing=options.label_smoothing,
            weights=self._weights() if options.class_weights == "balanced" else None,
        )

    def _weights(self) -> list[float]:
        assert self.labels is not None
        counts = np.maximum(np.array(self.labels.counts, dtype=float), 1.0)
        if self.labels.kind == "class":  # their mean over the training samples is 1
            return list(counts.sum() / (len(counts) * counts))
        return list(np.maximum(np.array(self.labels.known) - counts, 1.0) / counts)  # of yes against no

    def collect(self, batch: dict[str, Any], output: SignalOutput) -> dict[str, Tensor]:
        """The predicted and true classes and, of two classes, the score of the second; or logits and labels of
        targets."""
        assert output.prediction is not None and self.labels is not None
        logits, labels = output.prediction, batch["labels"]
        if self.labels.kind == "multi":
            return {"score": logits, "label": labels}
        collected = {"predicted": logits.argmax(1), "label": labels}
        return collected | ({"score": logits[:, 1] - logits[:, 0]} if logits.shape[1] == 2 else {})

    def figures(self, collected: dict[str, Tensor]) -> dict[str, float]:
        """As `class_figures`."""
        return class_figures(collected)


def class_figures(collected: dict[str, Tensor]) -> dict[str, float]:
    """accuracy: right answers among the known ones; macro_f1 of classes, or over the targets (F1 of yes); roc_auc and
    average_precision: means over the targets that have both answers.

    Args:
        collected: as `Classification.collect` gives it.
    """
    from sklearn.metrics import f1_score

    label = collected["label"].numpy()
    if "predicted" in collected:
        guess = collected["predicted"].numpy()
        result = {"accuracy": float((guess == label).mean())}
        result["macro_f1"] = float(f1_score(label, guess, average="macro"))
    else:
        result = answer_figures(collected["score"].numpy() > 0, label)
    if "score" not in collected:
        return result
    label, score = label.reshape(len(label), -1), collected["score"].numpy().reshape(len(label), -1)
    ranked = [found for found in ranking_figures(score, label) if found is not None]
    if ranked:  # none where the held-out samples give one answer only
        areas, precisions = zip(*ranked, strict=True)
        result |= {"roc_auc": float(np.mean(areas)), "average_precision": float(np.mean(precisions))}
    return result


def ranking_figures(score: np.ndarray, label: np.ndarray) -> list[tuple[float, float] | None]:
    """(area under the ROC curve, average precision) of every target; None where there is one answer only.

    Args:
        score: float [n, K], the greater the more likely yes. label: float [n, K], yes (1), no (0) or missing (NaN).
    """
    from sklearn.metrics import average_precision_score, roc_auc_score

    found: list[tuple[float, float] | None] = []
    for target in range(label.shape[1]):
        known = np.isfinite(label[:, target])
        truth, guess = label[known, target] > 0.5, score[known, target]
        both = truth.any() and not truth.all()
        found.append(
            (float(roc_auc_score(truth, guess)), float(average_precision_score(truth, guess)))
            if both
            else None
        )
    return found


def answer_figures(guess: np.ndarray, label: np.ndarray) -> dict[str, float]:
    """accuracy among the known answers, and macro_f1: F1 of yes, the mean over the targets that occur.

    Args:
        guess: bool [n, K]. label: float [n, K], yes (1), no (0) or missing (NaN).
    """
    known, yes = np.isfinite(label), label > 0.5
    right = ((guess == yes) & known).sum()
    hits, said, true = ((x & known).sum(0) for x in (guess & yes, guess, yes))
    occurs = said + true > 0
    f1 = (2 * hits[occurs] / (said + true)[occurs]).mean() if occurs.any() else 0.0
    return {"accuracy": float(right / max(known.sum(), 1)), "macro_f1": float(f1)}


_DISTANCES: dict[str, Callable[..., Tensor]] = {"l1": F.l1_loss, "l2": F.mse_loss, "huber": F.huber_loss}


class ValueHead(LabelHead):
    """Distance to standardised targets, missing ones left out.

    Args:
        num_features, num_outputs, dropout: as in `LabelHead`.
        loss: l1, l2 or huber.
    """

    def __init__(self, num_features: int, num_outputs: int, dropout: float, *, loss: str) -> None:
        super().__init__(num_features, num_outputs, dropout)
        self.loss = loss

    def forward(self, encoder: Encoder, labels: Tensor | None = None, **inputs: Any) -> SignalOutput:
        """Predict.

        Args:
            encoder: of any domain.
            labels: float [B, K], standardised, NaN where missing; None sums nothing.
            inputs: what the encoder takes.

        Returns:
            loss_sum over known targets; prediction: fp32 [B, K], standardised.
        """
        values = self.predict(encoder, inputs)
        if labels is None:
            return SignalOutput(values.sum() * 0.0, values.new_zeros((), dtype=torch.int64), values.detach())
        known = labels.isfinite()
        target = torch.where(known, labels, 0.0)
        error = _DISTANCES[self.loss](values, target, reduction="none")
        return SignalOutput(torch.where(known, error, 0.0).sum(), known.sum(), values.detach())


class Regression(Objective):
    """One or several numbers for every sample, predicted in units of their standard deviation."""

    name = "regression"
    domains = ("text", "graph")
    label_kinds: ClassVar[tuple[LabelKind, ...]] = ("value",)
    Options = RegressionOptions
    predicts = "values"
    headline = "mae"
    best = "mae"
    measures: ClassVar[Mapping[str, Measure]] = {
        "mae": Measure(
            "mean absolute error, in the unit of the target",
            "Mean absolute error, in the units of the target,",
            smaller_is_better=True,
        ),
        "rmse": Measure(
            "root mean squared error, in the unit of the target",
            "Root mean squared error, in the units of the target,",
            smaller_is_better=True,
        ),
        "r2": Measure("explained share of the variance"),
    }

    @classmethod
    def measure(cls, figure: str, options: Mapping[str, Any] = MappingProxyType({})) -> Measure:
        """As of every objective; the unit of the loss follows from objective.loss."""
        if figure != "loss":
            return super().measure(figure, options)
        distance = {"l1": "L1", "l2": "squared error", "huber": "Huber"}.get(
            str(options.get("loss")), "distance"
        )
        return Measure(f"{distance}, in standard deviations of the target", "Loss", smaller_is_better=True)

    def corrupt(self, sample: dict[str, Any], rng: np.random.Generator) -> dict[str, Any]:
        """Nothing is hidden; the label, float [K] in the units of the data, is standardised."""
        assert self.labels is not None
        mean, std = np.array(self.labels.mean), np.array(self.labels.std)
        return sample | {"label": (np.asarray(sample["label"], dtype=np.float64) - mean) / std}

    def build_head(self) -> ValueHead:
        """A linear layer on pooled rows."""
        assert self.labels is not None
        options: RegressionOptions = self.options
        return ValueHead(
            self.encoder_config.num_features, len(self.labels.names), options.head_dropout, loss=options.loss
        )

    def collect(self, batch: dict[str, Any], output: SignalOutput) -> dict[str, Tensor]:
        """Predicted and true values, standardised."""
        assert output.prediction is not None
        return {"predicted": output.prediction, "label": batch["labels"]}

    def figures(self, collected: dict[str, Tensor]) -> dict[str, float]:
        """mae, rmse (in the units of the data) and r2, each the mean over the targets."""
        assert self.labels is not None
        predicted, label = collected["predicted"].double().numpy(), collected["label"].double().numpy()
        maes, rmses, r2s = [], [], []
        for target, std in enumerate(self.labels.std):
            known = np.isfinite(label[:, target])
            if not known.any():
                continue
            truth, error = label[known, target], predicted[known, target] - label[known, target]
            maes.append(np.abs(error).mean() * std)
            rmses.append(np.sqrt(np.square(error).mean()) * std)
            spread = np.square(truth - truth.mean()).mean()
            if spread > 0:
                r2s.append(1 - np.square(error).mean() / spread)
        result = {"mae": float(np.mean(maes)), "rmse": float(np.mean(rmses))} if maes else {}
        return result | ({"r2": float(np.mean(r2s))} if r2s else {})
