"""Several domains in one run: a source of all their samples, and batches with a part for every domain."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict, Field, create_model

from unitrans.domains.base import Batch, Domain, Sample, Source, joined_name
from unitrans.domains.kept import Kept
from unitrans.models.joint.config import FIXED, TRUNK
from unitrans.objectives.base import LabelKind


class JointSource(Source):
    """The samples of several sources, one source after the other; see ``unitrans.domains.base.Source``.

    Samples keep the ids they have in their own source, so that what is drawn from them (masks, crops) is what a run on
    that domain alone would draw; where ids are shown, the domain is in front.

    Args:
        sources: by domain.
        mixing: parts of every domain in a batch.
        tokens: of every sample of a domain whose samples have all the same number.
    """

    def __init__(
        self,
        sources: Mapping[str, Source],
        mixing: Mapping[str, float] | None = None,
        tokens: Mapping[str, int] | None = None,
    ) -> None:
        self.sources = dict(sources)
        self.mixing = {name: float((mixing or {}).get(name, 1.0)) for name in self.sources}
        self.sizes = {name: len(source) for name, source in self.sources.items()}
        super().__init__([f"{name}/{key}" for name, source in self.sources.items() for key in source.ids])
        self.notes = [f"{name}: {note}" for name, source in self.sources.items() for note in source.notes]
        self.num_tokens: list[int] | None = None
        if tokens is not None:
            self.num_tokens = []
            for name, source in self.sources.items():
                same = [tokens.get(name, 1)] * len(source)
                self.num_tokens += same if source.num_tokens is None else list(source.num_tokens)

    def __len__(self) -> int:
        return sum(self.sizes.values())

    @property
    def skipped(self) -> list[tuple[str, str]]:
        """(id, reason) of every sample that was found to be unreadable so far in this process."""
        return [
            (f"{name}/{key}", why) for name, source in self.sources.items() for key, why in source.skipped
        ]

    @property
    def reading(self) -> dict[str, Any]:
        """What every domain has to know to read other samples as these."""
        return {name: source.reading for name, source in self.sources.items()}

    @property
    def test(self) -> JointSource | None:
        """What the domains keep to judge the chosen weights with."""
        kept = {name: source.test for name, source in self.sources.items() if source.test is not None}
        return JointSource(kept) if kept else None

    def place(self, index: int) -> tuple[str, int]:
        """The domain of a sample, and its index there."""
        for name, size in self.sizes.items():
            if index < size:
                return name, index
            index -= size
        raise IndexError(index)

    def load(self, index: int) -> Sample | None:
        """The sample as stored, with its domain; None if it cannot be read."""
        name, own = self.place(index)
        sample = self.sources[name].load(own)
        return None if sample is None else {**sample, "domain": name}

    def file(self, index: int) -> Path | None:
        """The file that a sample is read from alone."""
        name, own = self.place(index)
        return self.sources[name].file(own)

    def name(self, index: int) -> str:
        """The id of the sample, its domain in front."""
        name, own = self.place(index)
        return f"{name}/{self.sources[name].name(own)}"

    def augment(self, sample: Sample, rng: np.random.Generator, training: bool) -> Sample:
        """The sample as the model sees it."""
        return self.sources[sample["domain"]].augment(sample, rng, training)

    def close(self) -> None:
        """Closes what is open."""
        for source in self.sources.values():
            source.close()


class JointDomain(Domain):
    """Several domains at once; see ``unitrans.domains.base.Domain``.

    Args:
        domains: by name, in the order of the stream.
    """

    default_objective = "msm"

    def __init__(self, domains: Mapping[str, Domain]) -> None:
        self.domains = dict(domains)
        self.name = joined_name(self.domains)

    @property
    def DataConfig(self) -> type[BaseModel]:  # noqa: N802 - as in the protocol
        """A section for every domain, and how they are mixed."""
        mixing = Field(
            dict.fromkeys(self.domains, 1.0),
            description="Parts of a batch that each domain has: with {vision: 2, text: 1} two of three samples are "
            "images. 1 where none is given.",
        )
        fields: dict[str, Any] = {
            name: (domain.DataConfig, Field(domain.DataConfig(), description=f"The data of {name}."))
            for name, domain in self.domains.items()
        }
        config = ConfigDict(extra="forbid")
        return create_model("DataConfig", __config__=config, mixing=(dict[str, float], mixing), **fields)

    def open(
        self, data: Any, model_config: Any, seed: int, label_kinds: Sequence[LabelKind] = ()
    ) -> tuple[JointSource, JointSource | None]:
        """The training samples of all domains, and the held-out ones of those that hold some out.

        ValueError in one sentence, with the domain in front, for whatever cannot be used.
        """
        return self.reopen(data, model_config, seed, label_kinds, None)

    def reopen(
        self, data: Any, model_config: Any, seed: int, label_kinds: Sequence[LabelKind], kept: Kept | None
    ) -> tuple[JointSource, JointSource | None]:
        """See ``unitrans.domains.base.Domain``."""
        unknown = sorted(data.mixing.keys() - self.domains.keys())
        if unknown or not all(0 < part < float("inf") for part in data.mixing.values()):
            raise ValueError(
                f"data.mixing: expected numbers above 0 for {', '.join(self.domains)}, got {data.mixing}"
            )
        train: dict[str, Source] = {}
        held_out: dict[str, Source] = {}
        for name, domain in self.domains.items():
            own = getattr(data, name)
            if getattr(own, "streaming", False):
                raise ValueError(
                    f"data.{name}.streaming: expected false in a run on several domains, got true"
                )
            try:
                part = None if kept is None else kept.of(name)
                source, validation = domain.reopen(own, model_config.parts[name], seed, label_kinds, part)
            except ValueError as error:
                raise ValueError(f"{name}: {error}") from error
            train[name] = source
            if validation is not None:
                held_out[name] = validation
        tokens = {
            name: math.prod(model_config.parts[name].grid)
            for name, source in train.items()
            if source.num_tokens is None
        }
        return JointSource(train, data.mixing, tokens), JointSource(held_out) if held_out else None

    def collate(self, samples: Sequence[Sample | None], model_config: Any) -> Batch | None:
        """Packs the samples of every domain as it does itself: {domain: batch} of those that there are, "sample_ids"
        and "num_skipped"; None when no sample is left."""
        good = [sample for sample in samples if sample is not None]
        batch: Batch = {"sample_ids": [], "num_skipped": len(samples) - len(good)}
        for name, domain in self.domains.items():
            own = [sample for sample in good if sample["domain"] == name]
            packed = domain.collate(own, model_config.parts[name])
            if packed is not None:
                batch[name] = packed
                batch["sample_ids"] += [f"{name}/{key}" for key in packed["sample_ids"]]
        return batch if good else None

    def data_unit_scale(self, source: JointSource, model_config: Any) -> dict[str, torch.Tensor | None]:
        """That of every domain."""
        return {
            name: domain.data_unit_scale(source.sources[name], model_config.parts[name])
            for name, domain in self.domains.items()
        }

    def settings(self, layers: Mapping[str, Any]) -> dict[str, Any]:
        """What the settings of every domain, and the weights to start with, say about others of its own."""
        found: dict[str, Any] = {}
        start = {"train": {"init": layers.get("train", {}).get("init")}}
        for name, domain in self.domains.items():
            own = {
                section: layers.get(section, {}).get(name) or {} for section in ("data", "model", "objective")
            }
            for section, values in domain.settings(own | start).items():
                kept = {key: value for key, value in values.items() if key not in (*TRUNK, *FIXED)}
                found.setdefault(section, {})[name] = kept
        return found

    def keep(self, run: Path, source: JointSource) -> None:
        """Writes into the folder of a new run what ``resumed`` needs."""
        for name, domain in self.domains.items():
            domain.keep(run, source.sources[name])

    def resumed(
        self, data: Mapping[str, Any], model: Mapping[str, Any], run: Path
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        """The sections ``data`` and ``model`` with which a run goes on."""
        data, model = dict(data), dict(model)
        for name, domain in self.domains.items():
            data[name], model[name] = domain.resumed(data[name], model[name], run)
        return data, model
