"""One comparison: everything that computes a case takes turns; a row for every peer, measured or not."""

from __future__ import annotations

import ctypes
import gc
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch

from benchmarks.rows import Row
from benchmarks.timing import Ratio, interleave
from benchmarks.timm_import import Unavailable

SGEMM = 1024
Run = Callable[[], object]
Make = Callable[[], Run]


@dataclass
class Sides:
    """What takes turns in a case. Makers give the function that is timed, or raise `Unavailable`.

    Attributes:
        shape: the size, in words.
        ours: which of ours -> maker; the first one's time counts for items.
        peers: name -> (which of ours it is measured against, maker).
        items, unit: what a call works off.
        flops: useful operations of a call of the first of ours; with them its share of torch.mm is measured.
        tags: name of a peer -> tags of its row; "" -> tags of all rows.
    """

    shape: str
    ours: dict[str, Make]
    peers: dict[str, tuple[str, Make]]
    items: float = 0.0
    unit: str = ""
    flops: float = 0.0
    tags: dict[str, list[str]] = field(default_factory=dict)


@dataclass(frozen=True)
class Effort:
    """How long a comparison may take: wall seconds after warming up, least rounds, least seconds of a figure."""

    seconds: float
    rounds: int = 5
    sample: float = 0.008


def compare(
    name: tuple[str, str, str], sides: Sides, effort: Effort, *, dtype: str = "float32", device: str = "cpu"
) -> list[Row]:
    """The rows of a case.

    Args:
        name: suite, case, and what is computed.
        device: "cuda": times are those of the GPU.
    """
    suite, case, what = name
    # What earlier cases compiled would make sizes symbolic, and counts towards the limit past which torch runs eagerly.
    torch.compiler.reset()
    runs: dict[str, Run] = {f"ours {own}": make() for own, make in sides.ours.items()}
    for run in runs.values():
        run()
    reasons: dict[str, str] = {}
    for peer, (_, make) in sides.peers.items():
        try:
            made = make()
            made()
            runs[peer] = made
        except Unavailable as error:
            reasons[peer] = str(error)
        except Exception as error:
            reasons[peer] = in_words(error)
    if sides.flops and device == "cpu":
        runs["sgemm"] = sgemm()
        runs["sgemm"]()
    times = interleave(
        runs, seconds=effort.seconds, sample=effort.sample, rounds=effort.rounds, device=device
    )
    peaks = {side: peak(run, device) for side, run in runs.items() if side != "sgemm"}
    share = 0.0
    if "sgemm" in times:
        first = next(iter(sides.ours))
        share = Ratio.of(times["sgemm"], times[f"ours {first}"]).median * sides.flops / (2 * SGEMM**3)
    rows = []
    for peer, (own, _) in sides.peers.items():
        mine = times[f"ours {own}"]
        row = Row(
            case, sides.shape, dtype, torch.get_num_threads(), what, own, peer,
            sides.tags.get("", []) + sides.tags.get(peer, []), suite, reason=reasons.get(peer, ""), share=share,
            seconds=float(np.median(mine)), memory=peaks[f"ours {own}"], items=sides.items, unit=sides.unit,
        )  # fmt: skip
        if peer in times:
            row.ratio = Ratio.of(times[peer], mine)
            row.peer_seconds, row.peer_memory = float(np.median(times[peer])), peaks[peer]
        rows.append(row)
    return rows


def in_words(error: Exception) -> str:
    """Kind and first line of an error."""
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0][:120] if lines else ''}"


def sgemm() -> Run:
    """An fp32 product of two square matrices by torch.mm: MKL's, on some processors half as fast as oneDNN's."""
    a, b = torch.randn(SGEMM, SGEMM), torch.randn(SGEMM, SGEMM)
    out = torch.empty(SGEMM, SGEMM)
    return lambda: torch.mm(a, b, out=out)


def peak(run: Run, device: str = "cpu") -> float:
    """MiB at the peak of a call above what is held before it; 0 where the system does not tell."""
    gc.collect()
    if device == "cuda":
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        run()
        torch.cuda.synchronize()
        return float(torch.cuda.max_memory_allocated() - before) / 2**20
    try:
        ctypes.CDLL("libc.so.6").malloc_trim(0)  # freed memory goes back, so that taking it again counts
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # the peak counts from here
        before = _resident("VmRSS")
        run()
        return max(0.0, (_resident("VmHWM") - before) / 1024)
    except OSError:  # not Linux, or /proc is not to be written
        return 0.0


def _resident(which: str) -> int:
    status = Path("/proc/self/status").read_text(encoding="ascii")
    return int(next(row for row in status.splitlines() if row.startswith(which)).split()[1])
