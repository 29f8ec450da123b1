"""Interleaved timing: A B C A B C ..., so that whatever else the machine does meets all of them alike."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import torch


@dataclass(frozen=True)
class Ratio:
    """Median and quartiles of the ratios of the rounds."""

    median: float
    low: float
    high: float

    @staticmethod
    def of(numerator: list[float], denominator: list[float]) -> Ratio:
        ratios = np.array(numerator) / np.array(denominator)
        low, median, high = np.quantile(ratios, [0.25, 0.5, 0.75])
        return Ratio(float(median), float(low), float(high))


def clock() -> Callable[[], float]:
    """Processor time for one thread, which other programs do not add to; wall time for several, and with a GPU."""
    alone = torch.get_num_threads() == 1 and not torch.cuda.is_available()
    return time.process_time if alone else time.perf_counter


def _time(run: Callable[[], object], calls: int, now: Callable[[], float]) -> float:
    begin = now()
    for _ in range(calls):
        run()
    return (now() - begin) / calls


def _time_cuda(run: Callable[[], object], calls: int) -> float:
    """By events on the current stream: what the GPU took, waiting for the host included."""
    begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    begin.record()
    for _ in range(calls):
        run()
    end.record()
    end.synchronize()
    return begin.elapsed_time(end) * 1e-3 / calls


def interleave(
    runs: Mapping[str, Callable[[], object]],
    *,
    seconds: float,
    sample: float = 0.008,
    rounds: int = 5,
    device: str = "cpu",
) -> dict[str, list[float]]:
    """Seconds per call of every run, one figure per round.

    Args:
        runs: what to time, in order; each has run before, so that it is warm.
        seconds: wall time to spend on all, after warming up.
        sample: least seconds of one figure; fast runs are called several times for it.
        rounds: least number of rounds, whatever they take.
        device: "cuda": times are those of the GPU, by events.
    """
    now = clock()

    def timed(run: Callable[[], object], count: int, now: Callable[[], float]) -> float:
        return _time_cuda(run, count) if device == "cuda" else _time(run, count, now)

    calls = {}
    for name, run in runs.items():
        once = timed(run, 1, time.perf_counter) if sample else 1.0
        if once < sample:
            once = min(once, timed(run, 1, time.perf_counter))
        calls[name] = max(1, round(sample / max(once, 1e-7)))
    times: dict[str, list[float]] = {name: [] for name in runs}
    end = time.perf_counter() + seconds
    while len(next(iter(times.values()))) < rounds or time.perf_counter() < end:
        for name, run in runs.items():
            times[name].append(timed(run, calls[name], now))
    return times
