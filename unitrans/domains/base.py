"""The base classes of domains and their sources, and the table of domains.

A domain turns files into samples and samples into packed batches, and shows a person what was hidden and
predicted. It knows nothing about objectives, losses or optimisation: the trainer asks it for data, and
hands it predictions to judge and to draw.

A sample is a dict with at least ``"id"``, and ``"label"`` where labels were asked for: an int (class) or a float
array (yes or no for each of several targets, or values; NaN: missing). A batch is a dict with at least ``"plans"`` and
``"sample_ids"``, and ``"labels"`` (see ``stack_labels``).
"""

from __future__ import annotations

import importlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, cast

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict, Field

from unitrans.data.table import Kind, Table
from unitrans.domains.kept import Kept
from unitrans.errors import nearest_name
from unitrans.objectives.base import LabelKind, Labels

Sample = dict[str, Any]
Batch = dict[str, Any]
Corrupt = Callable[[Sample, np.random.Generator], Sample]

#: The class of every domain, or where it is: its module is imported when it is asked for.
_DOMAINS: dict[str, str | type] = {
    "vision": "unitrans.domains.vision:VisionDomain",
    "text": "unitrans.domains.text:TextDomain",
    "graph": "unitrans.domains.graph:GraphDomain",
}


@dataclass(frozen=True)
class Baseline:
    """A simple predictor, judged on the same samples, masks and labels as the model.

    name: what it is, in words a person can read. value: its figure, of the kind the objective's headline is, or None
    when it was not computed. note: why not, or what it was fitted on.
    """

    name: str
    value: float | None
    note: str = ""


class Source(ABC):
    """A data set whose samples are read by index. What it must have is ``load``.

    Attributes:
        ids: one stable name per sample, in a fixed order; masks, augmentation and the held-out part follow from it.
            Empty for a stream.
        in_order: False, or True for a stream: index is then the place in one endless sequence, epoch after epoch, which
            must be read in rising order (going back means reading again from the front); its length is how many samples
            an epoch has, as far as is known before it is read; and its samples have "epoch", the one they belong to.
        num_tokens: tokens of every sample, None where all have the same number.
        labels: what the labels mean, None without any; held-out samples have the meaning of the training samples.
        notes: sentences a person should see once (files ignored, limits applied).
        reading: what a checkpoint must know to read other samples as these; None: it cannot.
        test: the samples that judge the chosen weights once, at the end; None: there are none.
    """

    in_order: bool = False
    num_tokens: Any = None
    labels: Any = None
    reading: Any = None
    test: Any = None
    ids: list[str]
    notes: list[str]

    def __init__(self, ids: Sequence[str] = ()) -> None:
        self.ids, self.notes = list(ids), []
        self._skipped: dict[str, str] = {}

    @abstractmethod
    def load(self, index: int) -> Sample | None:
        """The sample as stored, or None if it cannot be read (its id and the reason go to ``skipped``)."""

    def __getitem__(self, index: int) -> Sample | None:
        return self.load(index)

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def skipped(self) -> list[tuple[str, str]]:
        """(id, reason) of every sample that was found to be unreadable so far in this process, in that order."""
        return list(self._skipped.items())

    def skip(self, name: str, reason: str) -> None:
        """Records that ``name`` is left out."""
        self._skipped.setdefault(name, reason)

    def class_numbers(self) -> Sequence[int]:
        """The number of the class of every sample, where ``labels`` are classes and this is no stream."""
        raise NotImplementedError

    def file(self, index: int) -> Path | None:
        """The file that a sample is read from alone, None where there is none; by it a change is seen cheaply."""
        return None

    def name(self, index: int) -> str:
        """The id of the sample, readable or not; of a stream only of the sample loaded last."""
        return self.ids[index]

    def augment(self, sample: Sample, rng: np.random.Generator, training: bool) -> Sample:
        """The sample as the model sees it; random choices, only in training, are drawn from ``rng``."""
        return sample

    def mix(self, samples: list[Sample], rng: np.random.Generator) -> list[Sample]:
        """The samples of a training batch, corrupted and readable, blended with each other."""
        return samples

    def close(self) -> None:
        """Closes what is open."""
        return


class DataConfig(BaseModel):
    """The section ``data`` of a domain that has no other settings."""

    model_config = ConfigDict(extra="forbid")

    path: str = Field("", description="Where the data are.")
    validation: float = Field(
        0.1,
        ge=0,
        lt=1,
        description="The part of the samples that is held out, by a hash of their names. 0: none.",
    )


class Domain(ABC):
    """One kind of data. Instances hold no state, so they can be sent to loader workers.

    A domain has a name, ``open`` and ``collate``; all other members have defaults.

    Attributes:
        name: as on the command line.
        embedded: names that ``data.path`` may have beside folders.
        DataConfig: the section ``data``.
        default_objective: what is learnt where nobody says; None: it must be said.
        judges: what it has pictures and simple predictors for, of what objectives predict
            (``unitrans.objectives.base.Predicts``); draws: what it has pictures of alone.
        warns: whether samples of ``record_reader`` have a "warning", what makes a prediction for them doubtful or "".
        questions: questions about one sample (flags of ``unitrans predict``) -> lines of the answer to (model, folder
            of the checkpoint, text, options).
    """

    name: str
    embedded: Collection[str] = ()
    DataConfig: Any = DataConfig
    default_objective: str | None = None
    judges: frozenset[str] = frozenset()
    draws: frozenset[str] = frozenset()
    warns: bool = False
    questions: Mapping[str, Callable[[Any, Path, str, Mapping[str, Any]], Iterator[str]]] = MappingProxyType(
        {}
    )

    # ---- reading ----------------------------------------------------------------------------------------------

    @abstractmethod
    def open(
        self, data: Any, model_config: Any, seed: int, label_kinds: Sequence[LabelKind] = ()
    ) -> tuple[Any, Any]:
        """The training source and the held-out one (None when none is wanted).

        ``data`` is a ``DataConfig``. label_kinds: the kinds of labels the objective learns from; (): none.
        ValueError says in one sentence what cannot be used and how to mend it.
        """

    @abstractmethod
    def collate(self, samples: Sequence[Sample | None], model_config: Any) -> Batch | None:
        """Packs samples into one token stream; None (unreadable) samples are left out and counted in
        ``batch["num_skipped"]``. Returns None when no sample is left."""

    def reopen(
        self, data: Any, model_config: Any, seed: int, label_kinds: Sequence[LabelKind], kept: Kept | None
    ) -> tuple[Any, Any]:
        """``open`` for a run that goes on: what it derived from its data when it began (``kept``) is not derived anew,
        whatever the data are now. None: it kept nothing."""
        return self.open(data, model_config, seed, label_kinds)

    def extremes(self, source: Any, model_config: Any) -> Sequence[int]:
        """Samples that would be the first not to fit a model or an objective: tried when the data are opened."""
        return ()

    # ---- what a run owns beside a configuration (a tokenizer) ---------------------------------------------------

    def settings(self, layers: Mapping[str, Any]) -> dict[str, Any]:
        """Sections of settings that follow from those given so far (defaults included); they beat the defaults."""
        return {}

    def keep(self, run: Path, source: Any) -> None:
        """Writes into the folder of a new run what ``resumed`` needs."""
        return

    def resumed(
        self, data: Mapping[str, Any], model: Mapping[str, Any], run: Path
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        """The sections ``data`` and ``model`` with which a run goes on."""
        return dict(data), dict(model)

    # ---- results ----------------------------------------------------------------------------------------------

    def data_unit_scale(self, source: Any, model_config: Any) -> Any:
        """float32 [token width]: |prediction - target| times this is an error in the units of the data. None where
        predictions are no such values."""
        return None

    def baselines(
        self,
        train_source: Any,
        validation_source: Any,
        objective: Any,
        model_config: Any,
        rng_for: Callable[[str], np.random.Generator],
    ) -> list[Baseline]:
        """Simple predictors on every held-out sample, with the masks ``objective.corrupt(sample,
        rng_for(sample id))``; their figure is ``objective.headline``. Called for what it ``judges``, as are the
        next two."""
        return []

    def report(
        self,
        directory: Path,
        source: Any,
        samples: Sequence[Sample],
        predictions: Sequence[torch.Tensor],
        objective: Any,
        model_config: Any,
    ) -> list[Path]:
        """Draws what was hidden and predicted for corrupted samples; ``predictions`` has one tensor per sample: the
        objective's prediction for it alone. Returns the files written."""
        return []

    def details(
        self, directory: Path, part: str, collected: Mapping[str, torch.Tensor], objective: Any
    ) -> tuple[list[Path], dict[str, Any]]:
        """Of all predictions for a held-out part: files, and what summary.json says beside the figures.

        Args:
            part: "validation" or "test".
            collected: what ``objective.collect`` gave, all samples together.
        """
        return [], {}

    def summary(self, metrics: Mapping[str, float], baselines: Sequence[Baseline], objective: Any) -> str:
        """A few plain sentences: the model's figures (of ``objective.metrics`` and ``figures``) beside the
        baselines."""
        return summarise(metrics, baselines, objective, "samples")

    # ---- rows of other tables ---------------------------------------------------------------------------------

    def record_reader(
        self, names: Sequence[str], reading: Mapping[str, Any], column: str | None
    ) -> Callable[[Mapping[str, Any]], Sample]:
        """A function from a row to a sample without id; it raises ValueError with the reason for a row that cannot be
        read.

        Args:
            names: columns of the table.
            reading: what the source of the training data said, and "files", the folder in which files start that rows
                name.
            column: with the samples, where it is named.
        """
        raise ValueError(f"the domain {self.name} cannot read rows of a table yet")

    def check_sample(self, sample: Sample, model_config: Any) -> None:
        """ValueError with the reason for a sample that is read as it should be but that this model cannot take."""
        return

    def opened(
        self, path: Path, reading: Mapping[str, Any]
    ) -> tuple[Table, Callable[[Mapping[str, Any]], Sample]] | None:
        """The rows of a file of a kind that only this domain reads, and what makes a sample of one, as
        ``record_reader``; None for any other file."""
        return None

    def known_columns(self, reading: Mapping[str, Any]) -> Sequence[str | None]:
        """Names by which the header of a table is told that is read as the training data were."""
        return ()

    def line_kind(self, first: str) -> Kind:
        """What a stream without a name is whose first line this is."""
        return "csv"

    def listed(self, inputs: Sequence[str]) -> list[Mapping[str, Any]] | None:
        """The rows that files and folders stand for which are no tables; None where they are tables."""
        return None

    def labelled(
        self,
        path: str,
        reading: Mapping[str, Any],
        labels: Labels | None,
        column: str | None,
        target: str | None,
    ) -> Iterator[tuple[Sample | str, Any]] | None:
        """Samples to judge a model on with their labels, or why there is none; names of classes without `labels`. None
        where ``record_reader`` reads them from the rows of a table.

        Args:
            column, target: columns of a table with the samples and with the labels (a,b), where they are named.
        """
        return None


def stack_labels(samples: Sequence[Sample]) -> Batch:
    """{"labels": int64 [B], or float32 [B, K]} of samples with labels, {} of samples without."""
    labels = [sample["label"] for sample in samples if "label" in sample]
    assert len(labels) in (0, len(samples)), "either every sample of a batch has a label or none has"
    if not labels:
        return {}
    stacked = torch.as_tensor(np.stack([np.asarray(label) for label in labels]))
    return {"labels": stacked.float() if stacked.is_floating_point() else stacked.long()}


def compare(
    title: str, value: float, baselines: Sequence[Baseline], *, greater_is_better: bool = False
) -> str:
    """A figure of the model beside those of simple predictors: a small table and one sentence."""
    rows = [("this model", value, ""), *((b.name, b.value, b.note) for b in baselines)]
    width = max(len(name) for name, _, _ in rows)
    lines = [f"{title}:"]
    for name, figure, note in rows:
        text = "-" if figure is None else f"{figure:.4f}"
        lines.append(f"  {name:<{width}}  {text:^6}" + (f"  ({note})" if note else ""))
    sign = -1.0 if greater_is_better else 1.0
    known = sorted((sign * b.value, b.name) for b in baselines if b.value is not None)
    if known:
        ahead = [f"{name} ({sign * key:.4f})" for key, name in known if key <= sign * value]
        lines.append(
            f"The model ({value:.4f}) beats {len(known) - len(ahead)} of {len(known)} simple predictors"
            + (f"; not yet {', '.join(ahead)}." if ahead else ".")
        )
    return "\n".join(line.rstrip() for line in lines)


def summarise(metrics: Mapping[str, float], baselines: Sequence[Baseline], objective: Any, what: str) -> str:
    """The headline of an objective beside the simple predictors, and its other figures, as a table and one sentence.

    Held-out samples that give one answer only have no headline: then the loss has to do.
    """
    shown = objective.headline if objective.headline in metrics else "loss"
    left_out = {"samples", "seconds", shown, *objective.beside}
    others = ", ".join(f"{name} {value:.4g}" for name, value in metrics.items() if name not in left_out)
    title = f"{objective.title(shown)} on {metrics['samples']:,.0f} held-out {what}"
    return compare(
        title + (f" ({others})" if others else ""),
        metrics[shown],
        baselines if shown == objective.headline else [],
        greater_is_better=not objective.smaller_is_better(shown),
    )


def register_domain(domain: type[Domain]) -> type[Domain]:
    """Makes a domain known by its name, to configurations; usable as a decorator.

    It must be registered before a run that names it begins, and wherever its runs are gone on with.

    Raises:
        ValueError: the name is taken, or something that a domain needs is missing.
    """
    for attribute in ("name", "open", "collate"):
        if getattr(domain, attribute, None) in (None, getattr(Domain, attribute, None)):
            raise ValueError(f"domain {domain.__name__}: expected the attribute {attribute!r}")
    name: str = domain.name
    if _DOMAINS.get(name, domain) is not domain:
        raise ValueError(f"domain: the name {name!r} is taken, choose another one")
    _DOMAINS[name] = domain
    return domain


def several_domains(name: Any) -> bool:
    """Whether this names several domains."""
    return "," in str(name or "")


def get_domain_names() -> tuple[str, ...]:
    """The names of all domains, in the order that batches of several have them."""
    return tuple(_DOMAINS)


def split_names(name: str) -> list[str]:
    """The names in ``vision,text`` as they stand there."""
    return [one.strip() for one in name.split(",")]


def joined_name(names: Iterable[str]) -> str:
    """What several domains are called together."""
    return ",".join(names)


def domain_names(name: str) -> tuple[str, ...]:
    """The names in ``vision,text`` in the order that batches have them. ValueError for a name that occurs twice."""
    names = split_names(name)
    if len(set(names)) < len(names):
        raise ValueError(f"domain: expected different names with commas between, got {name!r}")
    known = list(_DOMAINS)
    return tuple(sorted(names, key=lambda one: known.index(one) if one in known else len(known)))


def get_domain(name: str) -> Domain:
    """The domain called ``name``, or several with commas between; ValueError names the valid ones. Imports only the
    libraries of these."""
    if several_domains(name):
        from unitrans.domains.joint import JointDomain

        names = domain_names(name)
        return cast(Domain, JointDomain({one: get_domain(one) for one in names}))
    if name not in _DOMAINS:
        valid = ", ".join(sorted(_DOMAINS))
        raise ValueError(f"unknown domain {name!r}: expected one of {valid}{nearest_name(name, _DOMAINS)}")
    found = _DOMAINS[name]
    if isinstance(found, str):
        module, attribute = found.split(":")
        found = getattr(importlib.import_module(module), attribute)
    return cast(Domain, found())
