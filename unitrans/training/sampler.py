"""Which sample is seen when: a pure function of (seed, update number, rank).

The samples form one endless stream, epoch after epoch, each epoch a permutation drawn from (seed, epoch). The
global batch of update u is the next ``global_batch_size`` entries, so nothing is dropped or repeated within an
epoch, and an update may span two. The batch is cut by tokens into the same number of micro-batches on every rank.
Nothing is replayed to start at update u, and the order does not depend on the number of processes.

With ``classes`` an epoch is as long, but every class has the same share of it: samples of large classes are left out of
an epoch by chance, those of small ones come back.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from typing import Any

import numpy as np
from torch.utils.data import Sampler

from unitrans.training.random import derived_seed

Key = tuple[
    int, int
]  # (turn, index of the sample); a turn is the epoch, or counts further where samples come back


@lru_cache(maxsize=16)  # two epochs of a few domains
def _permutation(seed: int, epoch: int, num_samples: int) -> np.ndarray:
    return np.random.Generator(np.random.Philox(derived_seed(seed, "order", epoch))).permutation(num_samples)


class BalancedOrder:
    """Epochs in which every class has the same number of places, one more for some where they do not come out even.

    Args:
        classes: of every sample, its number.
        seed: what all choices follow from, with the number of the epoch.
    """

    def __init__(self, classes: Sequence[int], seed: int) -> None:
        numbers = np.asarray(classes)
        self.members = [np.flatnonzero(numbers == number) for number in np.unique(numbers)]
        self.size, self.seed = len(numbers), seed
        #: No sample comes back more often than this in an epoch.
        self.most = -(-(self.size // len(self.members) + 1) // min(map(len, self.members)))
        self._kept: dict[int, tuple[np.ndarray, np.ndarray]] = {}

    def epoch(self, epoch: int) -> tuple[np.ndarray, np.ndarray]:
        """(turn, index) of every place of an epoch. No turn of a sample comes twice, in any epoch: what is drawn from
        it (a crop, a mask) differs."""
        if epoch not in self._kept:
            rng = np.random.Generator(np.random.Philox(derived_seed(self.seed, "balanced", epoch)))
            each, over = divmod(self.size, len(self.members))
            more = set(rng.permutation(len(self.members))[:over].tolist())
            turns, indices = [], []
            for number, members in enumerate(self.members):
                quota = each + (number in more)
                passes = -(-quota // len(members))
                drawn = np.concatenate([members] * (passes - 1) + [rng.permutation(members)])[:quota]
                indices.append(drawn)
                turns.append(np.arange(quota) // len(members) + epoch * self.most)
            shuffled = rng.permutation(self.size)
            # An update may span two epochs: the last one stays.
            self._kept = {key: kept for key, kept in self._kept.items() if key == epoch - 1}
            self._kept[epoch] = (np.concatenate(turns)[shuffled], np.concatenate(indices)[shuffled])
        return self._kept[epoch]


def cut_by_tokens(num_tokens: Sequence[int], parts: int) -> list[list[int]]:
    """Cuts the samples 0..n-1 into ``parts`` lists with nearly equal sums of ``num_tokens``, each in order.

    Equal samples are cut into runs whose lengths differ by at most one. Otherwise the largest sample goes to the
    part with the fewest tokens so far, and so on down (longest-processing-time rule; Graham 1969). No part is
    empty while there are at least as many samples as parts.
    """
    if len(set(num_tokens)) <= 1:
        return [part.tolist() for part in np.array_split(np.arange(len(num_tokens)), parts)]
    loads = [(0, 0, part) for part in range(parts)]  # tokens, samples, part
    chosen: list[list[int]] = [[] for _ in range(parts)]
    for sample in sorted(range(len(num_tokens)), key=lambda sample: -num_tokens[sample]):
        load, count, part = heapq.heappop(loads)
        chosen[part].append(sample)
        heapq.heappush(loads, (load + num_tokens[sample], count + 1, part))
    return [sorted(part) for part in chosen]


class UpdateSampler:
    """The samples of every update, for every rank.

    num_samples: size of the training set. num_tokens: tokens of each sample, None when all are equal. in_order: the
    training set is a stream: its samples are asked for as (0, 0), (0, 1), ... without end, and it shuffles them itself.
    classes: the number of the class of every sample, where every class shall have the same share (``BalancedOrder``).
    """

    def __init__(
        self,
        num_samples: int,
        *,
        per_device_batch_size: int,
        accumulation_steps: int = 1,
        world_size: int = 1,
        seed: int = 0,
        num_tokens: Sequence[int] | None = None,
        in_order: bool = False,
        classes: Sequence[int] | None = None,
    ) -> None:
        if num_samples < 1:
            raise ValueError("the training set is empty: expected at least one sample")
        assert num_tokens is None or len(num_tokens) == num_samples
        assert classes is None or (len(classes) == num_samples and not in_order)
        self.num_samples = num_samples
        self.accumulation_steps = accumulation_steps
        self.world_size = world_size
        self.global_batch_size = per_device_batch_size * accumulation_steps * world_size
        self.seed = seed
        self.num_tokens = num_tokens
        self.in_order = in_order
        self.balanced = None if classes is None else BalancedOrder(classes, seed)

    def global_batch(self, update: int) -> list[Key]:
        """The keys (turn, index) of update ``update`` (from 0), in stream order."""
        first = update * self.global_batch_size
        if self.in_order:
            return [(0, position) for position in range(first, first + self.global_batch_size)]
        keys: list[Key] = []
        for position in range(first, first + self.global_batch_size):
            epoch, offset = divmod(position, self.num_samples)
            if self.balanced is None:
                keys.append((epoch, int(_permutation(self.seed, epoch, self.num_samples)[offset])))
            else:
                turns, indices = self.balanced.epoch(epoch)
                keys.append((int(turns[offset]), int(indices[offset])))
        return keys

    def micro_batches(self, update: int, rank: int) -> list[list[Key]]:
        """``accumulation_steps`` lists of keys: what ``rank`` computes in update ``update``."""
        keys = self.global_batch(update)
        sizes = [1] * len(keys) if self.num_tokens is None else [self.num_tokens[index] for _, index in keys]
        parts = cut_by_tokens(sizes, self.accumulation_steps * self.world_size)
        return [[keys[position] for position in part] for part in parts[rank :: self.world_size]]

    @property
    def tokens_per_sample(self) -> float | None:
        """Mean over the samples; None where it is not known before they are read."""
        return None if self.num_tokens is None else sum(self.num_tokens) / len(self.num_tokens)

    def updates_per_epoch(self) -> float:
        """Updates in which every sample is seen once on average."""
        return self.num_samples / self.global_batch_size

    def epoch_at(self, update: int) -> float:
        """Epochs completed after ``update`` updates."""
        return update * self.global_batch_size / self.num_samples


def apportion(total: int, parts: Mapping[str, float]) -> dict[str, int]:
    """``total`` in whole numbers as the parts say, largest remainders rounded up. ValueError where one gets none."""
    whole = sum(parts.values())
    exact = {name: total * part / whole for name, part in parts.items()}
    counts = {name: int(value) for name, value in exact.items()}
    left = sorted(exact, key=lambda name: counts[name] - exact[name])
    for name in left[: total - sum(counts.values())]:
        counts[name] += 1
    none = [name for name, count in counts.items() if not count]
    if none:
        raise ValueError(
            f"data.mixing: an update of {total} samples has none of {', '.join(none)}: raise its part or "
            "train.per_device_train_batch_size"
        )
    return counts


class JointSampler(UpdateSampler):
    """The same for several domains, whose samples lie one domain after the other: every update has the same number of
    each, in the order in which a run on that domain alone would see them.

    sizes: samples of every domain. mixing: parts of an update. Others as in ``UpdateSampler``.
    """

    def __init__(self, sizes: Mapping[str, int], mixing: Mapping[str, float], **options: Any) -> None:
        super().__init__(sum(sizes.values()), **options)
        self.counts = apportion(self.global_batch_size, {name: mixing[name] for name in sizes})
        self._parts, start = [], 0
        for name, size in sizes.items():
            part = UpdateSampler(size, per_device_batch_size=self.counts[name], seed=self.seed)
            self._parts.append((start, part))
            start += size

    def global_batch(self, update: int) -> list[Key]:
        """The keys of update ``update``, domain by domain."""
        return [
            (epoch, start + index)
            for start, part in self._parts
            for epoch, index in part.global_batch(update)
        ]

    @property
    def tokens_per_sample(self) -> float | None:
        """Mean over an update, not over the data set."""
        if self.num_tokens is None:
            return None
        total = 0.0
        for start, part in self._parts:
            own = self.num_tokens[start : start + part.num_samples]
            total += sum(own) / len(own) * part.global_batch_size
        return total / self.global_batch_size


class MicroBatches(Sampler[list[Key]]):
    """The batch sampler of a DataLoader: the micro-batches of one rank from update ``start`` to ``stop``."""

    def __init__(self, sampler: UpdateSampler, rank: int, start: int, stop: int) -> None:
        self.sampler, self.rank, self.start, self.stop = sampler, rank, start, stop

    def __iter__(self) -> Iterator[list[Key]]:
        for update in range(self.start, self.stop):
            yield from self.sampler.micro_batches(update, self.rank)

    def __len__(self) -> int:
        return max(0, self.stop - self.start) * self.sampler.accumulation_steps
