"""What may watch a run, and the clock of the loop."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


class Observer:
    """Is told what a run does; a subclass overrides what it needs.

    ``trainer`` is the :class:`unitrans.training.loop.Trainer`; to end the loop after an update, set its ``stopping``.
    """

    def on_begin(self, trainer: Any) -> None:
        """The state of the run is known, its first update is next."""

    def on_update(self, trainer: Any) -> None:
        """An update is done and counted."""

    def on_row(self, trainer: Any, row: dict[str, float]) -> None:
        """A row of the log: of updates (``loss``) or of an evaluation (``eval_loss``)."""

    def on_evaluation(self, trainer: Any, metrics: dict[str, float], best: bool) -> None:
        """Held-out samples are judged; best: better than ever in this run."""

    def on_end(self, trainer: Any) -> None:
        """The loop is left, whether it is complete or stopped."""


class Clock:
    """Seconds spent training: evaluation and writing checkpoints are taken out."""

    def __init__(self) -> None:
        self._start = time.perf_counter()
        self._paused = 0.0

    def seconds(self) -> float:
        """Since the clock was made, without the pauses."""
        return time.perf_counter() - self._start - self._paused

    @contextmanager
    def pause(self) -> Iterator[None]:
        """What happens inside does not count."""
        start = time.perf_counter()
        try:
            yield
        finally:
            self._paused += time.perf_counter() - start
