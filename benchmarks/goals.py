"""What was aimed at, computed from the rows of `benchmarks.attention`. All figures: higher is better."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable

from benchmarks.rows import Goal, Row

FORWARD, BOTH = "forward", "forward + backward"


def _geomean(values: Iterable[float]) -> float | None:
    logs = [math.log(v) for v in values]
    return math.exp(sum(logs) / len(logs)) if logs else None


def _best_peer(rows: Iterable[Row]) -> dict[tuple[str, int, str], float]:
    """Of every cell (case, threads, dtype) the ratio of the best of these peers."""
    best: dict[tuple[str, int, str], float] = {}
    for row in rows:
        if row.ratio is not None:
            key = (row.case, row.threads, row.dtype)
            best[key] = min(best.get(key, math.inf), row.ratio.median)
    return best


def _against(
    rows: list[Row], text: str, targets: tuple[float, float], keep: Callable[[Row], bool]
) -> list[Goal]:
    """Geometric mean over cells, forward and forward + backward, worst cell named."""
    goals = []
    for what, target in zip((FORWARD, BOTH), targets, strict=True):
        best = _best_peer(r for r in rows if r.what == what and keep(r))
        detail = ""
        if best:
            cell = min(best, key=lambda key: best[key])
            detail = f"; worst cell {best[cell]:.2f} ({cell[0]}, {cell[1]} threads)"
        goals.append(Goal(f"{text}: {what}", target, _geomean(best.values()), detail))
    return goals


def _shares(rows: list[Row]) -> list[Goal]:
    wanted = {
        "share w7 in L2": (0.60, 0.65),
        "share w7 stage 1": (0.50, 0.50),
        "share w16": (0.80, 0.85),
        "share packed": (1.05, 0.95),
        "graphs": (0.0, 0.30),
    }
    goals = []
    for tag, targets in wanted.items():
        for what, target in zip((FORWARD, BOTH), targets, strict=True):
            if target == 0.0:
                continue
            fits = [
                r for r in rows
                if tag in r.tags and r.what == what and r.share and r.ours == "op" and r.dtype == "float32"
            ]  # fmt: skip
            one = {(r.threads, r.case): r.share for r in fits}
            goals.append(
                Goal(f"{tag.removeprefix('share ')} over sgemm: {what}", target, _geomean(one.values()))
            )
    return goals


def goals(rows: list[Row]) -> list[Goal]:
    """The summary of a run; parts that were not measured say so."""
    fp32 = [r for r in rows if r.dtype == "float32"]
    bf16 = [r for r in rows if r.dtype == "bfloat16"]

    def timm(r: Row, compiled: bool = False) -> bool:
        return r.peer.startswith("timm") and (compiled or "compiled" not in r.peer)

    compiled = {(r.case, r.threads) for r in fp32 if "compiled" in r.peer and r.ratio is not None}
    found = [
        *_against(fp32, "7x7 windows / best timm", (2.3, 2.5), lambda r: "w7" in r.tags and timm(r)),
        *_against(
            [r for r in fp32 if (r.case, r.threads) in compiled], "the same where compiled timm was measured too",
            (2.3, 2.5), lambda r: "w7" in r.tags and timm(r, True),
        ),
        *_against(fp32, "8x8 and 16x16 cosine / best timm", (2.0, 2.2), lambda r: "v2" in r.tags and timm(r)),
        *_against(fp32, "windows / bare sdpa", (1.25, 1.4), lambda r: r.peer == "sdpa partitioned"),
        *_shares(fp32),
        *_against(
            fp32, "packed without padding / sdpa", (1.3, 1.3),
            lambda r: "full" in r.tags and r.peer == "padded sdpa",
        ),
        *_against(
            fp32, "ragged graphs / best padded", (3.5, 3.0),
            lambda r: "graphs" in r.tags and r.peer.startswith("padded"),
        ),
        *_against(
            fp32, "visible-only windows / full ones (at least 0.8)", (0.8, 0.8),
            lambda r: "visible" in r.tags and "full" in r.peer,
        ),
    ]  # fmt: skip
    avx2 = _best_peer(r for r in fp32 if r.what == FORWARD and r.peer == "unitrans avx2")
    both = _best_peer(r for r in fp32 if r.what == BOTH and r.peer == "unitrans avx2")
    for what, cells, target in ((FORWARD, avx2, 0.8), (BOTH, both, 0.75)):
        mean = _geomean(cells.values())
        detail = f"; worst cell {1 / max(cells.values()):.2f}" if cells else ""
        found.append(Goal(f"AVX2 / AVX-512: {what}", target, None if mean is None else 1 / mean, detail))
    return found + _bf16_goals(bf16)


def gpu_goals(rows: list[Row]) -> list[Goal]:
    """The summary of a run on a GPU. None of these has been measured yet."""
    rows = [r for r in rows if r.dtype == "bfloat16"]
    return [
        *_against(rows, "windows / sdpa with dense bias", (3.0, 3.0), lambda r: r.peer == "sdpa partitioned"),
        *_against(rows, "windows / flex_attention", (2.0, 2.0), lambda r: r.peer.startswith("flex")),
        *_against(rows, "windows / best timm", (1.0, 1.0), lambda r: r.peer.startswith("timm")),
        *_against(
            rows, "packed without padding / sdpa", (0.8, 0.8),
            lambda r: "full" in r.tags and r.peer == "padded sdpa",
        ),
        *_against(
            rows, "packed without bias / flash varlen", (0.8, 0.8), lambda r: r.peer == "flash varlen"
        ),
    ]  # fmt: skip


def _bf16_goals(rows: list[Row]) -> list[Goal]:
    def own(tag: str) -> Callable[[Row], bool]:
        return lambda r: r.peer == "unitrans fp32" and (tag in r.tags or tag in r.case)

    return [
        *_against(rows, "bf16, 7x7 windows / own fp32", (1.4, 1.3), own("w7")),
        *_against(rows, "bf16, 16x16 windows / own fp32", (1.6, 1.4), own("w16")),
        *_against(rows, "bf16, packed / own fp32", (1.6, 1.4), own("packed")),
        *_against(rows, "bf16, any peer path", (1.0, 1.0), lambda r: not r.peer.startswith("unitrans")),
    ]
