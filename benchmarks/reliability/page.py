"""docs/reliability.md, made from the results files."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

import unitrans
from benchmarks.reliability import shared
from benchmarks.reliability.kinds import KINDS
from unitrans.training.environment import processor_name, usable_cpus

_HEAD = """# Reliability

What was tried to break runs and commands, and what came of it. Written by

    python -m benchmarks.reliability --minutes 30

which goes on where its seed stopped; counts add up over seeds.
{date}, unitrans {unitrans}, torch {torch}, {processor}, {cpus} processors.

{table}

**right**: what was asked for, equal to what it must be equal to. **refused**: an exit code and one sentence, or losses
that are named and counted. **other**: a damaged file that is a whole one of its format, with other content. **slow**:
ended by the limit of time. **fault**: a crash, a traceback, or a difference that nobody was told.

{kinds}

## Faults

{faults}
"""


def table(tallies: Mapping[str, shared.Tally]) -> str:
    """Markdown: counts by kind and verdict."""
    columns = ["kind", "tried", *shared.VERDICTS, "goal", "minutes"]
    lines = [f"| {' | '.join(columns)} |", f"|{'---|' * len(columns)}"]
    for name, tally in tallies.items():
        counts = [f"{tally.counts[verdict]:,}" for verdict in shared.VERDICTS]
        cells = [name, f"{tally.tried:,}", *counts, f"{KINDS[name].goal:,}", f"{tally.seconds / 60:.0f}"]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def machine() -> dict[str, Any]:
    """What the trials ran on."""
    return {
        "unitrans": unitrans.__version__,
        "torch": torch.__version__,
        "processor": processor_name(),
        "cpus": usable_cpus(),
    }


def write(path: Path, results: Path) -> None:
    """The page of all results files of a folder."""
    files = sorted(results.glob("seed-*.json"))
    tallies = shared.add_up(shared.read(file) for file in files)
    head = json.loads(files[-1].read_text(encoding="utf-8")) | {"table": table(tallies)}
    head["kinds"] = "\n".join(f"- **{name}**: {KINDS[name].what}." for name in tallies)
    faults = [f"- {name}: {words}" for name, tally in tallies.items() for words in tally.faults]
    head["faults"] = "\n".join(faults) or "None."
    path.write_text(_HEAD.format(**head), encoding="utf-8")
