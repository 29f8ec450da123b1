"""What an objective is: corruption, target, head and loss on packed tokens (layer 6).

An objective has two halves. The data half runs in loader workers: `corrupt` decides what is hidden in one
sample, as a pure function of the generator it is given. The model half is an nn.Module that is trained with
the encoder: it hides, runs the encoder and sums the loss. Neither reads files.
"""

import warnings
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, ClassVar, Literal

import numpy as np
import pydantic
from torch import Tensor, nn
from transformers.utils import ModelOutput

LabelKind = Literal["class", "multi", "value", "token"]

#: What an objective predicts. By this a domain chooses pictures and simple predictors: hidden pixels; tokens that stand
#: for patches; hidden tokens of text, or the next ones; nodes of graphs; features of a teacher; one of several classes,
#: yes or no for each of several, or numbers for a sample; a class for every word; or something else.
Predicts = Literal[
    "pixels",
    "patch_tokens",
    "tokens",
    "next_tokens",
    "nodes",
    "features",
    "classes",
    "answers",
    "values",
    "word_classes",
    "other",
]


@dataclass(frozen=True)
class Measure:
    """What a figure is.

    unit: what it is measured in. title: what a report calls it; "": its name. smaller_is_better: than a greater one.
    """

    unit: str
    title: str = ""
    smaller_is_better: bool = False


ACCURACY = Measure("share that is right", "Accuracy")
MACRO_F1 = Measure("mean F1 of the classes")
PERPLEXITY = Measure("e to the loss", smaller_is_better=True)


@dataclass
class SignalOutput(ModelOutput):
    """What every objective returns.

    Attributes:
        loss_sum: scalar, summed over targets; the loss of an update is sum(loss_sum) / sum(num_targets) over
            all its micro-batches and ranks.
        num_targets: int64 scalar, how many values were predicted.
        prediction: detached prediction for every row of the input, or for every sample (as the objective says).
    """

    loss_sum: Tensor | None = None
    num_targets: Tensor | None = None
    prediction: Tensor | None = None


@dataclass(frozen=True)
class Labels:
    """What the labels of a data set mean.

    Attributes:
        kind: class, one of names; multi, yes or no for each of names; value, a number for each of names (of these
            two some may be missing, NaN); token, one of names for each of some tokens.
        names: the classes or the targets, in the order of their numbers.
        counts: of class and token, training samples (tokens) of each; of multi, training samples that say yes to each.
        known: of multi, training samples that say yes or no to each.
        mean, std: of value, over the training samples; models predict (value - mean) / std.
    """

    kind: LabelKind
    names: tuple[str, ...]
    counts: tuple[int, ...] = ()
    known: tuple[int, ...] = ()
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()

    @classmethod
    def from_dict(cls, fields: Mapping[str, Any]) -> "Labels":
        """From what `dataclasses.asdict` gave, lists in the place of tuples as in JSON."""
        lists = {name: tuple(value) for name, value in fields.items() if name != "kind"}
        return cls(kind=fields["kind"], **lists)


class CollapseError(RuntimeError):
    """What is predicted has become the same everywhere, so that nothing can be learnt; the message is one sentence."""


def check_one_row_per_patch(objective: str, encoder_config: Any) -> None:
    """ValueError for an image encoder with windows or merges, whose last rows stand for several patches."""
    if encoder_config.total_stride != encoder_config.patch_size:
        raise ValueError(
            f"objective {objective}: expected an encoder with one row per patch, got "
            f"{encoder_config.model_type.removeprefix('unitrans-')}; for it use objective mim with "
            "encoder_tokens=visible"
        )


class Objective:
    """The data half of an objective, and the way to its model half. Made for subclasses.

    Attributes:
        name: as on the command line.
        domains: names of the domains it is made for.
        joint: whether it is for several of them in one batch; False: for one at a time.
        label_kinds: the kinds of labels it learns from, () for none.
        predicts: see `Predicts`.
        loss_unit: what the loss is measured in.
        measures: what its other figures are.
        Options: its section of the configuration; every field has a description.
        decays_tokens: whether weight decay takes learned tokens and positions too (MAE); False: the encoder decides.
        needs_fit: whether `fit` must be called when a run begins.
        beside: figures that are those of simple predictors, and what these are in words.
        metric_names: what `metrics` adds up.
        headline: the figure that reports compare with simple predictors, a key of `metrics` or `figures`.
        greater_is_better: whether a greater headline is better.
        best: the figure by which the best checkpoint is chosen: loss (the smaller the better) or the headline.
        options: the options it was made with.
    """

    name: ClassVar[str]
    domains: ClassVar[tuple[str, ...]]
    joint: ClassVar[bool] = False
    label_kinds: ClassVar[tuple[LabelKind, ...]] = ()
    predicts: Predicts = "other"
    loss_unit: ClassVar[str] = "loss"
    measures: ClassVar[Mapping[str, Measure]] = {}
    decays_tokens: ClassVar[bool] = False
    needs_fit: ClassVar[bool] = False
    beside: ClassVar[Mapping[str, str]] = {}
    Options: ClassVar[type[pydantic.BaseModel]]
    metric_names: tuple[str, ...] = ()
    headline: str = "loss"
    greater_is_better: bool = False
    best: str = "loss"
    options: Any

    def __init__(self, encoder_config: Any, labels: Labels | None = None, **options: Any) -> None:
        """Raises ValueError where the options do not fit the encoder or the labels."""
        self.encoder_config, self.labels = encoder_config, labels
        self.options = self.Options(**options)
        if getattr(self.options, "flag_steps", 0) and not getattr(encoder_config, "perturbable", False):
            raise ValueError(
                "objective.flag_steps: expected 0 for a model whose features take no perturbation, got "
                f"{self.options.flag_steps}"
            )

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if "shows" in cls.__dict__:
            warnings.warn(f"{cls.__name__}.shows is now called predicts", DeprecationWarning, stacklevel=2)
            cls.predicts = cls.__dict__["shows"]

    @classmethod
    def measure(cls, figure: str, options: Mapping[str, Any] = MappingProxyType({})) -> Measure:
        """What a figure is, of a run with these options (its section of the configuration)."""
        if figure == "loss":
            return Measure(cls.loss_unit, "Loss", smaller_is_better=True)
        smaller = figure in cls.beside or (figure == cls.headline and not cls.greater_is_better)
        return cls.measures.get(figure) or Measure(figure, figure, smaller)

    def title(self, figure: str) -> str:
        """What a report calls a figure."""
        return self.measure(figure).title or figure

    def smaller_is_better(self, figure: str) -> bool:
        """Whether a smaller value of a figure is better."""
        return self.measure(figure).smaller_is_better

    @property
    def note(self) -> str | None:
        """What has to be said beside pictures and figures; None: nothing."""
        return None

    def corrupt(self, sample: dict[str, Any], rng: np.random.Generator) -> dict[str, Any]:
        """The sample with what is hidden in it; all randomness comes from `rng`."""
        return sample

    def build_head(self) -> nn.Module:
        """The model half: called as head(encoder, **batch) -> SignalOutput."""
        raise NotImplementedError

    def fit(self, head: nn.Module, batches: Iterable[dict[str, Any]], seed: int) -> list[str]:
        """Learns what has to be known before training (`needs_fit`), into buffers of the head, which checkpoints hold.

        Args:
            head: of the model that will be trained; it may have been filled already.
            batches: training samples as held-out ones are prepared, in an order that is always the same.
            seed: of the run.

        Returns:
            Sentences that a person should see.
        """
        return []

    def metrics(self, batch: dict[str, Any], output: SignalOutput, scale: Tensor | None) -> dict[str, Tensor]:
        """For each of metric_names what evaluation adds up: [sum, count] of a batch.

        batch: what the head was given. scale: see `Domain.data_unit_scale`.
        """
        return {}

    def collect(self, batch: dict[str, Any], output: SignalOutput) -> dict[str, Tensor]:
        """What `figures` needs of a batch: a few numbers per sample [B, ...], never logits of a vocabulary."""
        return {}

    def figures(self, collected: dict[str, Tensor]) -> dict[str, float]:
        """Figures of all held-out samples together, which are no sums (a rank correlation, an area)."""
        return {}
