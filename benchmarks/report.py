"""Rows of measurements as JSON, Markdown and a printed table, with the machine and the command."""

from __future__ import annotations

import argparse
import json
import platform
import re
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from datetime import date
from pathlib import Path
from typing import Any

import torch

from benchmarks.timing import Ratio

RESULTS = Path(__file__).parent / "results"


@dataclass
class Row:
    """Ours against one peer. `ratio`: time of the peer / time of ours, above 1 ours is faster.

    Attributes:
        what: "forward" or "forward + backward".
        ours: which of ours: the op, or the layer that also makes the bias planes.
        seconds, peer_seconds: medians per call.
        share: useful GFLOP/s of ours over those of sgemm in the same rounds; 0 where it does not apply.
        reason: why the peer could not be measured; there is no figure then.
    """

    case: str
    shape: str
    dtype: str
    threads: int
    what: str
    ours: str
    peer: str
    tags: list[str]
    ratio: Ratio | None = None
    seconds: float = 0.0
    peer_seconds: float = 0.0
    share: float = 0.0
    reason: str = ""


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


def cpu_model() -> str:
    """The processor as the operating system names it."""
    try:
        names = re.findall(r"^model name\s*:\s*(.+)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    except OSError:
        names = []
    return names[0] if names else platform.processor() or platform.machine()


def hardware() -> str:
    """The processor, and the GPU where torch sees one: what a figure was measured on."""
    return torch.cuda.get_device_name() if torch.cuda.is_available() else cpu_model()


def environment() -> dict[str, Any]:
    """Machine and versions, for the head of a report."""
    versions = {"torch": torch.__version__, "python": platform.python_version()}
    for name in ("unitrans", "timm", "transformers"):
        module = sys.modules.get(name)
        if module is not None:
            versions[name] = str(getattr(module, "__version__", "?"))
    from unitrans.ops.compiled import best_isa

    return {
        "cpu": hardware(),
        "instruction set": best_isa(),
        "versions": versions,
        "command": " ".join(
            ["python -m", sys.argv[0].rsplit("/", 2)[-2] + "." + Path(sys.argv[0]).stem, *sys.argv[1:]]
        ),
        "date": date.today().isoformat(),
    }


def _cell(row: Row) -> str:
    return (
        row.reason
        if row.ratio is None
        else f"{row.ratio.median:.2f} ({row.ratio.low:.2f}-{row.ratio.high:.2f})"
    )


def markdown(title: str, env: dict[str, Any], goals: Sequence[Goal], rows: Sequence[Row]) -> str:
    """The report. Ratios are medians with quartiles; above 1 ours is faster."""
    versions = ", ".join(f"{name} {version}" for name, version in env["versions"].items())
    lines = [
        f"# {title}",
        "",
        f"{env['cpu']}, {env['instruction set']}, {versions}, {env['date']}.",
        "",
        f"    {env['command']}",
        "",
        "Ratios are time of the peer / time of ours in the same round: median (quartiles), above 1 ours is faster.",
    ]
    if goals:
        lines += ["", "| goal | aimed at | measured | |", "|---|---|---|---|"]
        for goal in goals:
            figure = "" if goal.figure is None else f"{goal.figure:.2f}"
            lines.append(f"| {goal.text} | {goal.target:.2f} | {figure} | {goal.verdict}{goal.detail} |")
    lines += [
        "",
        "| case | dtype | threads | what | ours | ms | % of sgemm | peer | peer ms | ratio |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        ms = f"{row.seconds * 1e3:.3f}" if row.seconds else ""
        peer_ms = f"{row.peer_seconds * 1e3:.3f}" if row.peer_seconds else ""
        share = f"{row.share:.0%}" if row.share else ""
        lines.append(
            f"| {row.case} | {row.dtype} | {row.threads} | {row.what} | {row.ours} | {ms} | {share} "
            f"| {row.peer} | {peer_ms} | {_cell(row)} |"
        )
    return "\n".join(lines) + "\n"


def line(row: Row) -> str:
    """A row as printed while measuring."""
    head = f"{row.case:22} {row.dtype:8} {row.threads}T {row.what:18} {row.ours:5} {row.share:5.0%}"
    return f"{head} {row.seconds * 1e3:9.3f} ms  {row.peer:26} {_cell(row)}"


def write(stem: str, title: str, env: dict[str, Any], goals: Sequence[Goal], rows: Sequence[Row]) -> Path:
    """results/STEM.json and .md; the path of the latter."""
    RESULTS.mkdir(exist_ok=True)
    data = {"title": title, **env, "goals": [{**asdict(g), "verdict": g.verdict} for g in goals]}
    data["rows"] = [asdict(row) for row in rows]
    (RESULTS / f"{stem}.json").write_text(json.dumps(data, indent=1) + "\n")
    path = RESULTS / f"{stem}.md"
    path.write_text(markdown(title, env, goals, rows))
    return path


def read(path: Path) -> list[Row]:
    """Rows of a JSON file that `write` made."""
    rows = []
    for entry in json.loads(path.read_text())["rows"]:
        ratio = entry.pop("ratio")
        rows.append(Row(**entry, ratio=None if ratio is None else Ratio(**ratio)))
    return rows


def file_stem(model: str) -> str:
    """model_hardware_date."""
    name = re.sub(r"[^a-z0-9]+", "-", hardware().lower()).strip("-")
    return f"{model}_{name}_{date.today().isoformat()}"


def merged(path: Path, rows: list[Row]) -> list[Row]:
    """The rows of a file that were not measured again, and the new ones."""
    done = {(r.case, r.dtype, r.threads, r.what, r.peer) for r in rows}
    kept = read(path) if path.exists() else []
    return [r for r in kept if (r.case, r.dtype, r.threads, r.what, r.peer) not in done] + rows


def finish(
    name: str,
    title: str,
    rows: list[Row],
    goals: Callable[[list[Row]], list[Goal]],
    arguments: argparse.Namespace,
) -> int:
    """Print the goals; write the report where --write or --add-to ask for it. The exit status."""
    if arguments.add_to is not None:
        rows = merged(arguments.add_to, rows)
    summary = goals(rows)
    for goal in summary:
        figure = "-" if goal.figure is None else f"{goal.figure:.2f}"
        print(f"{goal.text:60} aimed at {goal.target:.2f}  measured {figure:>5}  {goal.verdict}{goal.detail}")
    if arguments.write or arguments.add_to is not None:
        stem = arguments.add_to.stem if arguments.add_to is not None else file_stem(name)
        env = environment()
        if arguments.add_to is not None:
            env["command"] += "    # the last of several runs: rows were added with --add-to"
        print(write(stem, title, env, summary, rows))
    return 0
