"""docs/reliability.md, made from the results files."""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from benchmarks.reliability import shared
from benchmarks.reliability.kinds import KINDS
from benchmarks.reliability.shared import FAULT, OTHER, REFUSED, RIGHT, SLOW, Tally

_TOP = """# Reliability

What happens when runs are killed, settings are drawn at random, files are damaged or hostile, and disks are
full. This page is written by

    python -m benchmarks.reliability --minutes 30

which is no part of the tests (a few trials of each kind are, in `tests/benchmarks/test_reliability.py`). A
seed goes on where it stopped, so that the counts of several calls add up; `--seed N` begins another one.

A trial is **right** where the result is the one asked for, equal to what it must be equal to; **refused**
where it ends with an exit code and one sentence, or what is lost is named and counted; **other content**
where a damaged file is a whole file of its format, which has no checksum over that part, so that nobody can
know; **out of time** where a limit of the campaign ended it. Anything else (a crash, a traceback, a
difference that nobody is told) is a **fault**.
"""


def machine() -> dict[str, Any]:
    """What the campaign runs on."""
    name = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.exists():
        named = [line for line in info.read_text().splitlines() if line.startswith("model name")]
        name = named[0].partition(":")[2].strip() if named else name
    return {
        "processor": name,
        "cores": os.cpu_count(),
        "torch": torch.__version__,
        "system": platform.system(),
    }


def table(tallies: Mapping[str, Tally]) -> str:
    """Counts by kind, as Markdown."""
    lines = [
        "| kind | tried | goal | right | refused | other content | out of time | faults |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for name, tally in tallies.items():
        counts = [f"{tally.counts[verdict]:,}" for verdict in (RIGHT, REFUSED, OTHER, SLOW, FAULT)]
        goal = f"{KINDS[name].goal:,}" if name in KINDS else ""
        lines.append("| " + " | ".join([name, f"{tally.tried:,}", goal, *counts]) + " |")
    return "\n".join(lines)


def write(path: Path, results: Path) -> None:
    """The page from all results files of a folder."""
    files = sorted(results.glob("seed-*.json"))
    heads = [json.loads(file.read_text(encoding="utf-8")) for file in files]
    total = shared.add_up(shared.read(file) for file in files)
    about = dict.fromkeys(
        f"{head['date']}, {head['processor']} ({head['cores']} cores, one used), torch {head['torch']}"
        for head in heads
    )
    hours = sum(tally.seconds for tally in total.values()) / 3600
    lines = [_TOP, "## Counts", "", *(f"{line}." for line in about), ""]
    lines += [
        f"Seeds {', '.join(str(head['seed']) for head in heads)}; {hours:.1f} hours in all.",
        "",
        table(total),
        "",
    ]
    short = [
        f"{name} ({tally.tried:,} of {KINDS[name].goal:,})"
        for name, tally in total.items()
        if name in KINDS and tally.tried < KINDS[name].goal
    ]
    if short:
        lines += [f"The goal is not reached yet by: {', '.join(short)}.", ""]
    lines += ["## Kinds", ""]
    lines += [f"- **{name}**: {KINDS[name].what}." for name in total if name in KINDS]
    lines += ["", "## Faults", ""]
    faults = [f"- {name}: {_plain(words)}" for name, tally in total.items() for words in tally.faults]
    lines += faults or ["None in these counts."]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


def _plain(words: str) -> str:
    """Words of a library as text, not as marks."""
    return "".join(f"\\{sign}" if sign in "<>[]`*_|\\" else sign for sign in words)
