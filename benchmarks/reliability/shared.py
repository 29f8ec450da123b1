"""Verdicts on what was tried, and how they are added up."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

RIGHT = "right"  # what was asked for, equal to what it must be equal to
REFUSED = "refused"  # in words: an exit code and one sentence, or named and counted losses
OTHER = "other"  # a damaged file that is a whole one of its format, with other content
SLOW = "slow"  # ended by the limit of time
FAULT = "fault"  # a crash, a traceback, or a difference that nobody was told
ROOT = Path(__file__).resolve().parents[2]
VERDICTS = (RIGHT, REFUSED, OTHER, SLOW, FAULT)
MAX_SENTENCE = 2000  # characters


@dataclass
class Tally:
    """Counts by verdict, and every fault in words with the trial that shows it."""

    counts: Counter[str] = field(default_factory=Counter)
    faults: list[str] = field(default_factory=list)
    next_number: int = 0
    seconds: float = 0.0

    def add(self, verdict: str, words: str = "", times: int = 1) -> None:
        """Counts something; words say what is wrong with a fault."""
        assert verdict in VERDICTS
        self.counts[verdict] += times
        if verdict == FAULT:
            self.faults.append(words)

    @property
    def tried(self) -> int:
        return self.counts.total()


class Kind(Protocol):
    """One kind of trials.

    Attributes:
        name: of the kind.
        share: of the time.
        goal: how many are to be tried.
        what: what is tried and when it is right, a sentence for the page.
    """

    name: str
    share: float
    goal: int
    what: str

    def __init__(self, seed: int, work: Path) -> None: ...

    def trial(self, number: int, tally: Tally) -> None:
        """Does the trial of this number and counts what came out."""


def read(path: Path) -> dict[str, Tally]:
    """The tallies of a results file; none where there is no file."""
    if not path.exists():
        return {}
    stored: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))["kinds"]
    return {name: Tally(**(x | {"counts": Counter(x["counts"])})) for name, x in stored.items()}


def write(path: Path, head: dict[str, Any], tallies: dict[str, Tally]) -> None:
    """The results file of a seed, whole or as it was."""
    path.parent.mkdir(parents=True, exist_ok=True)
    kinds = {name: vars(tally) | {"counts": dict(tally.counts)} for name, tally in tallies.items()}
    whole = head | {"kinds": kinds}
    temporary = path.with_suffix(".tmp")
    temporary.write_text(json.dumps(whole, indent=2) + "\n", encoding="utf-8")
    temporary.replace(path)


def add_up(results: Iterable[dict[str, Tally]]) -> dict[str, Tally]:
    """All results files together."""
    total: dict[str, Tally] = {}
    for tallies in results:
        for name, tally in tallies.items():
            sum_ = total.setdefault(name, Tally())
            sum_.counts += tally.counts
            sum_.faults += tally.faults
            sum_.seconds += tally.seconds
    return total
