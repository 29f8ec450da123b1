"""The one format of results: rows of measurements, what else a suite gives, and their JSON and Markdown."""

from __future__ import annotations

import argparse
import json
import os
import platform
import re
import shlex
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, field
from datetime import date
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

from benchmarks.timing import Ratio

RESULTS = Path(__file__).parent / "results"
_VERSIONS = ("torch", "transformers", "timm", "numpy", "scikit-learn", "rdkit")


@dataclass
class Row:
    """Ours against one peer. `ratio`: time of the peer / time of ours, above 1 ours is faster.

    Attributes:
        what: "forward", "forward + backward", "inference", "training step", ...
        ours: which of ours: the op, the layer that also makes the bias planes, the model.
        seconds, peer_seconds: medians per call.
        memory, peer_memory: MiB at the peak of a call above what was held before it; 0: not measured.
        share: useful GFLOP/s of ours over those of torch.mm (fp32, square) in the same rounds; 0: does not apply.
        items, unit: what one call works off: 8 "images", 4,000 "tokens"; 0 where it does not apply.
        score, peer_score, metric: quality (suite quality), whose name says which direction is better.
        reason: why the peer could not be measured; there is no figure then.
    """

    case: str
    shape: str
    dtype: str
    threads: int
    what: str
    ours: str
    peer: str
    tags: list[str] = field(default_factory=list)
    suite: str = ""
    ratio: Ratio | None = None
    seconds: float = 0.0
    peer_seconds: float = 0.0
    memory: float = 0.0
    peer_memory: float = 0.0
    share: float = 0.0
    items: float = 0.0
    unit: str = ""
    score: float | None = None
    peer_score: float | None = None
    metric: str = ""
    reason: str = ""

    @property
    def key(self) -> tuple[object, ...]:
        """Rows of the same key replace each other."""
        return (self.case, self.dtype, self.threads, self.what, self.peer)

    @property
    def cell(self) -> tuple[object, ...]:
        """Rows of the same cell differ in the peer alone."""
        return (self.suite, self.case, self.dtype, self.threads, self.what)

    @property
    def is_peer(self) -> bool:
        """Whether it is somebody else's way to compute the same, and not another way of ours."""
        return not self.peer.startswith("unitrans") and "ceiling" not in self.tags


@dataclass
class Goal:
    """A line of the summary: a figure beside what was aimed at."""

    text: str
    target: float
    figure: float | None
    detail: str = ""

    @property
    def verdict(self) -> str:
        if self.figure is None:
            return "not measured"
        return "met" if self.figure >= self.target else "missed"


@dataclass
class Series:
    """Time over one quantity that grows, with the exponent fitted to it: seconds ~ x ** exponent.

    Attributes:
        name, quantity, fixed: what was computed, what grew, and what stayed.
        seconds: medians by side, one for each x.
        exponent, error: by side; slope of the least squares line through the logarithms and its standard error.
    """

    name: str
    quantity: str
    fixed: str
    x: list[float]
    seconds: dict[str, list[float]]
    exponent: dict[str, float]
    error: dict[str, float]


@dataclass
class Roofline:
    """What the machine can do, measured, and where the op stands.

    Attributes:
        sgemm: GFLOP/s of an fp32 product of square matrices, by the faster of MKL and oneDNN.
        copy: GB/s read and written by a large copy.
        points: [case, what, useful operations per byte that has to move, GFLOP/s].
    """

    sgemm: float
    copy: float
    points: list[tuple[str, str, float, float]]


@dataclass
class Curve:
    """Held-out quality over training time: arm -> seeds -> (processor seconds so far, score)."""

    name: str
    metric: str
    arms: dict[str, list[list[tuple[float, float]]]]
    baseline: tuple[str, float] | None = None


@dataclass
class Results:
    """What a run of suites found."""

    head: dict[str, Any]
    rows: list[Row] = field(default_factory=list)
    series: list[Series] = field(default_factory=list)
    roofline: Roofline | None = None
    curves: list[Curve] = field(default_factory=list)

    def updated(self, new: Results) -> Results:
        """These results with everything that was measured again replaced; the head is the new one with all commands."""
        done, fresh = {row.key for row in new.rows}, {s.name for s in new.series}
        drawn = {curve.name for curve in new.curves}
        commands = [*self.head.get("commands", []), *new.head["commands"]]
        head = {**new.head, "commands": list(dict.fromkeys(commands))}
        return Results(
            head,
            [r for r in self.rows if r.key not in done] + new.rows,
            [s for s in self.series if s.name not in fresh] + new.series,
            new.roofline or self.roofline,
            [c for c in self.curves if c.name not in drawn] + new.curves,
        )

    def to_json(self) -> str:
        rest = {"series": self.series, "curves": self.curves}
        data: dict[str, Any] = {**self.head, "rows": [asdict(row) for row in self.rows]}
        data |= {name: [asdict(item) for item in items] for name, items in rest.items()}
        data["roofline"] = None if self.roofline is None else asdict(self.roofline)
        return json.dumps(data, indent=1) + "\n"

    @staticmethod
    def read(path: Path) -> Results:
        """Of a file that `to_json` made, or `benchmarks.attention` and `benchmarks.models` with --write."""
        data = json.loads(path.read_text(encoding="utf-8"))
        rows = []
        for entry in data.pop("rows"):
            ratio = entry.pop("ratio")
            rows.append(Row(**entry, ratio=None if ratio is None else Ratio(**ratio)))
        series = [Series(**entry) for entry in data.pop("series", [])]
        curves = [Curve(**entry) for entry in data.pop("curves", [])]
        roofline = data.pop("roofline", None)
        return Results(data, rows, series, None if roofline is None else Roofline(**roofline), curves)


def cpu_model() -> str:
    """The processor as the operating system names it."""
    from unitrans.training.environment import processor_name

    return processor_name()


def hardware() -> str:
    """The processor, and the GPU where torch sees one: what a figure was measured on."""
    return torch.cuda.get_device_name() if torch.cuda.is_available() else cpu_model()


def environment() -> dict[str, Any]:
    """Machine, versions and the command, for the head of a report."""
    import unitrans
    from unitrans.ops.compiled import best_isa
    from unitrans.training.environment import usable_cpus

    versions = {"unitrans": unitrans.__version__, "python": platform.python_version()}
    for name in _VERSIONS:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return {
        "cpu": hardware(),
        "cores": usable_cpus(),
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
        "instruction set": best_isa(),
        "versions": versions,
        "commands": [_command()],
        "date": date.today().isoformat(),
    }


def _command() -> str:
    program = Path(sys.argv[0])
    module = f"python -m {program.parent.name}.{program.stem}"
    name = module if program.suffix == ".py" else program.name
    return shlex.join([*name.split(), *sys.argv[1:]])


def cell_text(row: Row) -> str:
    """The ratio with its quartiles, or why there is none."""
    if row.ratio is None:
        return row.reason
    return f"{row.ratio.median:.2f} ({row.ratio.low:.2f}-{row.ratio.high:.2f})"


def exponent_text(series: Series, side: str) -> str:
    """The exponent, and its standard error where more than two points tell one."""
    error = f" ± {series.error[side]:.2f}" if len(series.x) > 2 else ""
    return f"{series.exponent[side]:.2f}{error}"


def best_of(rows: Iterable[Row]) -> dict[tuple[object, ...], Row]:
    """Of every cell the row of the fastest peer that was measured."""
    best: dict[tuple[object, ...], Row] = {}
    for row in rows:
        if row.ratio is not None and row.is_peer:
            kept = best.get(row.cell)
            if kept is None or kept.ratio is None or row.ratio.median < kept.ratio.median:
                best[row.cell] = row
    return best


def head_line(head: dict[str, Any]) -> str:
    """Machine, versions and date in one line."""
    versions = ", ".join(f"{name} {version}" for name, version in head["versions"].items())
    cores = f", {head['cores']} cores" if "cores" in head else ""
    return f"{head['cpu']}{cores}, {head['instruction set']}, {versions}, {head['date']}"


def _table(names: Sequence[str], lines: Iterable[Sequence[str]]) -> list[str]:
    head = ["| " + " | ".join(names) + " |", "|" + "---|" * len(names)]
    return ["", *head, *("| " + " | ".join(line) + " |" for line in lines)]


def _ms(seconds: float) -> str:
    return f"{seconds * 1e3:.3f}" if seconds else ""


def _mib(ours: float, theirs: float) -> str:
    return f"{ours:.1f} / {theirs:.1f}" if ours or theirs else ""


def _rate(row: Row) -> str:
    return f"{row.items / row.seconds:,.0f} {row.unit}/s" if row.items and row.seconds else ""


def row_table(rows: Sequence[Row]) -> tuple[list[str], list[list[str]]]:
    """Names of columns and lines of the rows with times."""
    names = (
        "case, shape, dtype, threads, what, ours, ms, rate, % of torch.mm, peer, peer ms, MiB, ratio".split(
            ", "
        )
    )
    lines = [
        [
            *(row.case, row.shape, row.dtype, str(row.threads), row.what, row.ours, _ms(row.seconds)),
            *(_rate(row), f"{row.share:.0%}" if row.share else "", row.peer, _ms(row.peer_seconds)),
            *(_mib(row.memory, row.peer_memory), cell_text(row)),
        ]
        for row in rows
    ]
    return names, lines


def score_table(rows: Sequence[Row]) -> tuple[list[str], list[list[str]]]:
    """Names of columns and lines of the rows with quality."""
    names = ["case", "time", "metric", "ours", "figure", "beside", "figure "]

    def figure(value: float | None) -> str:
        return "" if value is None else f"{value:.4f}"

    lines = [
        [row.case, row.what, row.metric, row.ours, figure(row.score), row.peer, row.reason or figure(row.peer_score)]
        for row in rows
    ]  # fmt: skip
    return names, lines


def markdown(title: str, results: Results, goals: Sequence[Goal] = ()) -> str:
    """The report. Ratios are medians with quartiles; above 1 ours is faster."""
    lines = [f"# {title}", "", f"{head_line(results.head)}.", ""]
    lines += [*(f"    {command}" for command in results.head["commands"]), ""]
    lines.append(
        "Ratios are time of the peer / time of ours in the same round: median (quartiles), above 1 ours is faster. "
        "MiB: ours / peer, peak of a call above what was held before it."
    )
    if goals:
        found = [
            (g.text, f"{g.target:.2f}", "" if g.figure is None else f"{g.figure:.2f}", g.verdict + g.detail)
            for g in goals
        ]
        lines += _table(("goal", "aimed at", "measured", ""), found)
    for suite in dict.fromkeys(row.suite for row in results.rows):
        rows = [row for row in results.rows if row.suite == suite]
        lines += ["", f"## {suite}"] if suite else []
        timed, scored = [r for r in rows if not r.metric], [r for r in rows if r.metric]
        lines += _table(*row_table(timed)) if timed else []
        lines += _table(*score_table(scored)) if scored else []
    lines += _rest(results)
    return "\n".join(lines) + "\n"


def _rest(results: Results) -> list[str]:
    lines: list[str] = []
    if results.series:
        lines += ["", "## scaling", "", "seconds ~ x ** exponent, fitted through the logarithms."]
        found = [
            (
                *(s.name, s.quantity, s.fixed, side, ", ".join(f"{x:g}" for x in s.x)),
                ", ".join(f"{v * 1e3:.2f}" for v in s.seconds[side]),
                exponent_text(s, side),
            )
            for s in results.series
            for side in s.seconds
        ]
        lines += _table(("what", "x", "fixed", "side", "values of x", "ms", "exponent"), found)
    if results.roofline is not None:
        line = results.roofline
        lines += ["", "## roofline", ""]
        lines.append(f"Measured: sgemm {line.sgemm:.0f} GFLOP/s, copy {line.copy:.1f} GB/s (read + written).")
        points = [
            (c, w, f"{i:.1f}", f"{g:.1f}", f"{g / min(line.sgemm, i * line.copy):.0%}")
            for c, w, i, g in line.points
        ]
        lines += _table(("case", "what", "operations / byte", "GFLOP/s", "of the roof"), points)
    return lines


def line(row: Row) -> str:
    """A row as printed while measuring."""
    if row.metric:
        ours, theirs = (("-" if v is None else f"{v:.4f}") for v in (row.score, row.peer_score))
        return (
            f"{row.case:24} {row.what:22} {row.metric}: {row.ours} {ours}  {row.peer} {row.reason or theirs}"
        )
    head = f"{row.case:24} {row.dtype:8} {row.threads}T {row.what:18} {row.ours:5} {row.share:5.0%}"
    return f"{head} {row.seconds * 1e3:9.3f} ms  {row.peer:26} {cell_text(row)}"


def file_stem(name: str) -> str:
    """name_hardware_date."""
    processor = re.sub(r"[^a-z0-9]+", "-", hardware().lower()).strip("-")
    return f"{name}_{processor}_{date.today().isoformat()}"


def finish(
    name: str,
    title: str,
    rows: list[Row],
    goals: Callable[[list[Row]], list[Goal]],
    arguments: argparse.Namespace,
) -> int:
    """Print the goals; write the report where --write or --add-to ask for it. The exit status."""
    head = {"title": title, **environment()}
    results = Results(head, rows)
    if arguments.add_to is not None and arguments.add_to.exists():
        results = Results.read(arguments.add_to).updated(results)
    head, summary = results.head, goals(results.rows)
    for goal in summary:
        figure = "-" if goal.figure is None else f"{goal.figure:.2f}"
        print(f"{goal.text:60} aimed at {goal.target:.2f}  measured {figure:>5}  {goal.verdict}{goal.detail}")
    if arguments.write or arguments.add_to is not None:
        stem = arguments.add_to.stem if arguments.add_to is not None else file_stem(name)
        RESULTS.mkdir(exist_ok=True)
        head["goals"] = [{**asdict(g), "verdict": g.verdict} for g in summary]
        (RESULTS / f"{stem}.json").write_text(results.to_json(), encoding="utf-8")
        path = RESULTS / f"{stem}.md"
        path.write_text(markdown(title, results, summary), encoding="utf-8")
        print(path)
    return 0
