"""Training samples that come in an order of their own: read from front to back, never held all at once.

The order of epoch e is a pure function of (seed, e): the files in a random order, and a buffer of
``data.shuffle_buffer`` rows of which a random one is taken while the next comes in. Every process and every loader
worker reads the whole stream and finishes only the samples it is asked for, so the order does not depend on their
number, and a resumed run skips to its place by reading.
"""

from __future__ import annotations

import math
import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Generator, Iterator
from itertools import islice
from typing import Any, Generic, TypeVar

import numpy as np

T = TypeVar("T")
VALIDATION_FILES = 16  # that held-out rows are taken from


class Endless(ABC, Generic[T]):
    """The training rows of epoch 0, of epoch 1 and so on, one after the other.

    Going forward reads on; going back means reading again from the front. Every process opens its own stream: what its
    parent has opened is not shared.

    Args:
        path: the data set in messages. files: how many it has. seed: of the order. buffer: rows that are shuffled.
    """

    _rows: Generator[T, None, None] | None
    _current: T | None

    def __init__(self, path: str, files: int, seed: int, buffer: int) -> None:
        self._path, self._files, self._seed, self._buffer = path, files, seed, buffer
        self._epoch_size: int | None = None  # known when an epoch has been read to its end
        self._forget()

    @abstractmethod
    def training_rows(self, file: int) -> Iterator[T]:
        """The rows of one file that are trained on."""

    def epoch(self, epoch: int) -> Generator[T, None, None]:
        """The training rows of an epoch in their order."""
        rng = np.random.Generator(np.random.Philox(np.random.SeedSequence([self._seed, epoch])))
        buffer: list[T] = []
        for file in rng.permutation(self._files):
            for row in self.training_rows(int(file)):
                if len(buffer) < self._buffer:
                    buffer.append(row)
                    continue
                place = int(rng.integers(len(buffer)))
                buffer[place], row = row, buffer[place]
                yield row
        for place in rng.permutation(len(buffer)):
            yield buffer[place]

    def seek(self, index: int) -> tuple[int, T]:
        """The epoch and the row at a place. ValueError where an epoch is empty or has changed."""
        if self._process != os.getpid() or index < self._next - 1:
            self._forget()
        while self._next <= index:
            if self._rows is None:
                self._start(index)
            assert self._rows is not None
            row = next(self._rows, None)
            if row is None:
                self._end_of_epoch()
            else:
                self._current = row
                self._next += 1
        assert self._current is not None
        return self._epoch, self._current

    def close(self) -> None:
        """Ends the reading: threads that read ahead must not outlive the interpreter."""
        if self._rows is not None and self._process == os.getpid():
            self._rows.close()
        self._forget()

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_rows": None, "_process": None}

    def _forget(self) -> None:
        self._rows, self._current = None, None
        self._process: int | None = os.getpid()
        self._epoch, self._next, self._epoch_start = 0, 0, 0

    def _start(self, index: int) -> None:
        """Begins an epoch: the one that ``index`` is in if the size of an epoch is known, else the next one."""
        if self._epoch_size is not None:
            self._epoch = index // self._epoch_size
            self._epoch_start = self._next = self._epoch * self._epoch_size
        self._rows = self.epoch(self._epoch)

    def _end_of_epoch(self) -> None:
        size = self._next - self._epoch_start
        if not size:
            raise ValueError(f"data.path: nothing in {self._path!r} is left to train on")
        if self._epoch_size not in (None, size):
            raise ValueError(
                f"data.path: {self._path!r} has changed while it was read: {self._epoch_size:,} training samples in "
                f"one epoch, {size:,} in another"
            )
        self._epoch_size, self._rows = size, None
        self._epoch_start = self._next


def from_some_files(files: int, limit: int, rows_of: Callable[[int], Iterator[T]]) -> list[T]:
    """The first rows of some files, evenly spaced, ``limit`` in all where there are as many."""
    chosen = np.unique(np.linspace(0, files - 1, min(files, VALIDATION_FILES)).round().astype(int))
    kept: list[T] = []
    for number, file in enumerate(chosen.tolist()):
        quota = math.ceil((limit - len(kept)) / (len(chosen) - number))
        if quota:
            kept += islice(rows_of(file), quota)
    return kept
