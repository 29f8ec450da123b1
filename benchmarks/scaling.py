"""How the time of the op grows with batch, length, window and threads, and how near it is to the machine's limits."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from benchmarks.attention import operations
from benchmarks.cases import CASES, Case, Lengths, Windows, quick_cases
from benchmarks.compare import SGEMM, Effort, Run, sgemm
from benchmarks.goals import BOTH, FORWARD
from benchmarks.peers import ours, peers_of
from benchmarks.rows import Roofline, Series
from benchmarks.timing import interleave
from unitrans.nn.linear import Linear
from unitrans.training.environment import usable_cpus

_COPY = 1 << 26  # numbers of 4 bytes: far beyond every cache


def fit(x: Sequence[float], seconds: Sequence[float]) -> tuple[float, float]:
    """Exponent and its standard error: least squares of log seconds on log x. The error of two points is 0."""
    a, b = np.log(np.array(x, float)), np.log(np.array(seconds, float))
    a = a - a.mean()
    slope = float((a * b).sum() / (a * a).sum())
    rest = b - b.mean() - slope * a
    free = len(a) - 2
    return slope, float(np.sqrt((rest**2).sum() / free / (a * a).sum())) if free > 0 else 0.0


def _series(
    name: str, quantity: str, fixed: str, sizes: dict[float, dict[str, Run]], effort: Effort
) -> Series:
    """Of every size all sides in turns."""
    seconds: dict[str, list[float]] = {}
    for runs in sizes.values():
        for run in runs.values():
            run()
        times = interleave(runs, seconds=effort.seconds, rounds=effort.rounds)
        for side, found in times.items():
            seconds.setdefault(side, []).append(float(np.median(found)))
    x = list(sizes)
    fits = {side: fit(x, values) for side, values in seconds.items()}
    return Series(
        name, quantity, fixed, x, seconds, {s: f[0] for s, f in fits.items()}, {s: f[1] for s, f in fits.items()}
    )  # fmt: skip


def _both(case: Case) -> dict[str, Run]:
    t, known = case.tensors(), {peer.name: peer for peer in peers_of(case, torch.float32, compiled=False)}
    name = "sdpa partitioned" if isinstance(case.cut, Windows) else "padded sdpa"
    mine, theirs = ours(case, t, torch.float32, layer=False), known[name].prepare(case, t, torch.float32)
    return {"unitrans": mine.with_gradients, "sdpa": theirs.with_gradients}


def _threads(effort: Effort) -> Series:
    """Wall time; the threads of torch are set for every point."""
    case, before = Case("", Windows((56, 56), (7, 7), 3, 8), 3), torch.get_num_threads()
    runs = _both(case)

    def with_threads(run: Run, count: int) -> Run:
        def timed() -> object:
            torch.set_num_threads(count)
            return run()

        return timed

    counts = sorted({1, usable_cpus(), *(2**k for k in range(10) if 2**k < usable_cpus())})
    torch.set_num_threads(counts[-1])  # more than one: times are those of the wall clock
    try:
        sizes = {float(n): {side: with_threads(run, n) for side, run in runs.items()} for n in counts}
        return _series("threads", "threads", "7x7 windows of a 56x56 map, batch 8, wall time", sizes, effort)
    finally:
        torch.set_num_threads(before)


def scaling(quick: bool, effort: Effort) -> list[Series]:
    """All series, forward and backward, fp32, beside scaled_dot_product_attention."""
    batches = (1, 2, 4) if quick else (1, 2, 4, 8, 16)
    lengths = (64, 128, 256) if quick else (64, 128, 256, 512, 1024, 2048)
    windows = (4, 7, 14) if quick else (4, 7, 8, 14, 28)
    batch = {float(n): _both(Case("", Windows((56, 56), (7, 7), 3, n), 3)) for n in batches}
    length = {float(n): _both(Case("", Lengths((n,)), 12, 64)) for n in lengths}
    window = {float(w): _both(Case("", Windows((56, 56), (w, w), w // 2, 2), 3)) for w in windows}
    found = [
        _series("batch", "images", "7x7 windows of 56x56 maps, 3 heads of 32", batch, effort),
        _series("length", "tokens", "one text, 12 heads of 64", length, effort),
        _series("window", "side of a window", "56x56 maps, batch 2, 3 heads of 32", window, effort),
    ]
    if usable_cpus() > 1:
        found.append(_threads(effort))
    return found


def moved_bytes(case: Case, what: str) -> float:
    """Bytes that have to move in fp32 at least: q, k, v read and the result written; backward those and the gradient
    of the result read, three gradients written; bias planes and their gradient."""
    plan = case.cut.plan()
    rows = plan.num_tokens * case.heads * case.head_dim
    planes = 0
    if isinstance(case.cut, Windows):
        planes = case.heads * int(np.prod(case.cut.window)) ** 2
    elif case.cut.ragged:
        planes = case.heads * plan.bias_size
    return 4.0 * (4 * rows + planes if what == FORWARD else 11 * rows + 3 * planes)


def roofline(quick: bool, effort: Effort) -> Roofline:
    """The roof, measured, and a point for every case of the op."""
    source, target = torch.zeros(_COPY // (8 if quick else 1)), torch.empty(_COPY // (8 if quick else 1))
    layer, square = Linear(SGEMM, SGEMM, bias=False).requires_grad_(False), torch.randn(SGEMM, SGEMM)
    roof: dict[str, Run] = {
        "sgemm": sgemm(),
        "oneDNN": lambda: layer(square),
        "copy": lambda: target.copy_(source),
    }
    for run in roof.values():
        run()
    times = interleave(roof, seconds=effort.seconds, rounds=effort.rounds)
    best = {name: min(found) for name, found in times.items()}
    peak, copy = (
        2 * SGEMM**3 / min(best["sgemm"], best["oneDNN"]) / 1e9,
        2 * source.nbytes / best["copy"] / 1e9,
    )
    points = []
    for case in quick_cases() if quick else CASES:
        prepared = ours(case, case.tensors(), torch.float32, layer=False)
        for what in (FORWARD, BOTH):
            run = prepared.without_gradients if what == FORWARD else prepared.with_gradients
            run()
            once = float(np.median(interleave({"": run}, seconds=effort.seconds / 4, rounds=3)[""]))
            flops = operations(case, what)
            points.append((case.name, what, flops / moved_bytes(case, what), flops / once / 1e9))
    return Roofline(peak, copy, points)
