"""Samples that can only be read from front to back, asked for by their place in one endless sequence of epochs."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any, Generic, TypeVar

T = TypeVar("T")


class Endless(Generic[T]):
    """The samples of epoch 0, of epoch 1 and so on, one after the other.

    A subclass says what an epoch is; it must be a function of its number alone. Going forward reads on; going back
    means reading again from the front. Every process opens its own stream: what its parent has opened is not shared.
    """

    def __init__(self) -> None:
        self._epoch_size: int | None = None  # known when an epoch has been read to its end
        self._forget()

    def epoch(self, epoch: int) -> Iterator[T]:
        """The samples of an epoch in their order."""
        raise NotImplementedError

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_rows": None, "_process": None}

    def _forget(self) -> None:
        self._rows: Iterator[T] | None = None
        self._process: int | None = os.getpid()
        self._epoch, self._next, self._epoch_start = 0, 0, 0
        self._current: T | None = None

    def seek(self, index: int) -> tuple[int, T]:
        """The epoch and the sample at a place. ValueError where an epoch is empty or has changed."""
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

    def _start(self, index: int) -> None:
        """Begins an epoch: the one that ``index`` is in if the size of an epoch is known, else the next one."""
        if self._epoch_size is not None:
            self._epoch = index // self._epoch_size
            self._epoch_start = self._next = self._epoch * self._epoch_size
        self._rows = self.epoch(self._epoch)

    def _end_of_epoch(self) -> None:
        size = self._next - self._epoch_start
        if not size:
            raise ValueError("data.path: nothing in it is left to train on")
        if self._epoch_size not in (None, size):
            raise ValueError(
                f"data.path: it has changed while it was read: {self._epoch_size:,} training samples in one epoch, "
                f"{size:,} in another"
            )
        self._epoch_size, self._rows = size, None
        self._epoch_start = self._next
        if self._epoch_size is not None:
            self._epoch = self._next // self._epoch_size
