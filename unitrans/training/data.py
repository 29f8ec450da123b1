"""From a domain's source to batches: the life of a batch between files and the model."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils import _pytree as pytree
from torch.utils.data import DataLoader, Dataset, Sampler

from unitrans.domains.base import Batch, Domain, Sample, Source
from unitrans.training.random import derived_seed, sample_rng
from unitrans.training.sampler import Key

VALIDATION = -1  # the epoch of keys whose randomness must not depend on an epoch


@dataclass(frozen=True)
class Skipped:
    """A sample that could not be read, on its way from a loader worker to the loop."""

    sample_id: str
    reason: str


class CorruptedSamples(Dataset[Sample | Skipped]):
    """Samples as the model sees them: read, augmented, corrupted. Indexed by (turn, index).

    All randomness comes from (seed, turn, sample id), a turn being the epoch (see ``sampler.Key``); with turn
    VALIDATION from (seed, sample id), and without augmentation. The samples of a stream say themselves which epoch they
    belong to.
    """

    def __init__(self, source: Source, objective: Any, seed: int) -> None:
        self.source, self.objective, self.seed = source, objective, seed

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, key: Key) -> Sample | Skipped:
        epoch, index = key
        sample = self.source.load(index)
        if sample is None:
            name = self.source.name(index)
            return Skipped(name, dict(self.source.skipped).get(name, "it cannot be read"))
        training = epoch != VALIDATION
        turn = sample.get("epoch", epoch) if training else None
        sample = self.source.augment(sample, sample_rng(self.seed, turn, sample["id"], "augment"), training)
        sample = self.objective.corrupt(sample, sample_rng(self.seed, turn, sample["id"], "mask"))
        return {**sample, "epoch": turn}


@dataclass(frozen=True)
class Collate:
    """Packs samples into a batch, or only the list of skipped ones when none is left.

    mix: ``Source.mix`` of the training data, drawing from (seed, epoch and id of the first sample); None: no mixing.
    """

    domain: Domain
    model_config: Any
    seed: int = 0
    mix: Callable[[list[Sample], np.random.Generator], list[Sample]] | None = None

    def __call__(self, samples: Sequence[Sample | Skipped]) -> Batch:
        skipped = [sample for sample in samples if isinstance(sample, Skipped)]
        good = [sample for sample in samples if not isinstance(sample, Skipped)]
        if self.mix is not None and good:
            good = self.mix(good, sample_rng(self.seed, good[0]["epoch"], good[0]["id"], "mix"))
        packed = self.domain.collate([*good, *[None] * len(skipped)], self.model_config)
        batch: Batch = {} if packed is None else packed
        batch["skipped"] = skipped
        return batch

    def for_validation(self) -> Collate:
        """The same without mixing."""
        return replace(self, mix=None)


class _Chunks(Sampler[list[Key]]):
    """The held-out samples of one rank in order, in batches."""

    def __init__(self, num_samples: int, batch_size: int, rank: int, world_size: int) -> None:
        self.keys = [(VALIDATION, index) for index in range(rank, num_samples, world_size)]
        self.batch_size = batch_size

    def __iter__(self) -> Iterator[list[Key]]:
        for start in range(0, len(self.keys), self.batch_size):
            yield self.keys[start : start + self.batch_size]

    def __len__(self) -> int:
        return -(-len(self.keys) // self.batch_size)


def validation_batches(
    num_samples: int, batch_size: int, rank: int = 0, world_size: int = 1
) -> Sampler[list[Key]]:
    """The batch sampler of an evaluation: every held-out sample once over all ranks."""
    return _Chunks(num_samples, batch_size, rank, world_size)


def _quiet_worker(_: int) -> None:
    """Ctrl-C and SIGTERM reach the whole process group; only the trainer acts on them, and it ends the workers."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    torch.set_num_threads(1)


def make_loader(
    dataset: Dataset[Sample | Skipped],
    batches: Sampler[list[Key]],
    collate: Collate,
    *,
    seed: int,
    num_workers: int,
    prefetch_factor: int | None = None,
) -> DataLoader[Any]:
    """A DataLoader that leaves the global generators alone, so that a resumed run draws what the first would have."""
    generator = torch.Generator()
    generator.manual_seed(derived_seed(seed, "loader"))
    return DataLoader(
        dataset,
        batch_sampler=batches,
        collate_fn=collate,
        num_workers=num_workers,
        prefetch_factor=prefetch_factor if num_workers else None,
        worker_init_fn=_quiet_worker,
        generator=generator,
        pin_memory=torch.cuda.is_available(),
    )


def move_batch(batch: Batch, device: torch.device) -> Batch:
    """A batch with all its tensors, also those inside of plans, on a device."""
    moved: Batch = pytree.tree_map_only(Tensor, lambda x: x.to(device, non_blocking=True), batch)
    return moved
