"""What figures are measured in, as the objectives say it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from unitrans.cli.pages.runs import Run
from unitrans.objectives import get_objective
from unitrans.objectives.base import Measure


def measure(name: str, run: Run) -> Measure:
    """What a held-out figure of a run (without ``eval_``, with a domain in front in a run of several) is."""
    options = run.config.get("objective")
    given: Mapping[str, Any] = options if isinstance(options, dict) else {}
    try:
        return get_objective(run.objective).measure(name, given)
    except ValueError:  # an objective that is not registered here
        return Measure("loss" if name == "loss" else name, name, name == "loss")


def loss_unit(run: Run) -> str:
    """What the loss of a run counts, "loss" where that is not known."""
    return measure("loss", run).unit


def figure_unit(name: str, runs: list[Run]) -> str:
    """What a figure of runs is measured in; its name where that differs."""
    units = {measure(name, run).unit for run in runs}
    return units.pop() if len(units) == 1 else name


def smaller_is_better(name: str, run: Run) -> bool:
    """Whether a smaller value of a figure is better."""
    return measure(name, run).smaller_is_better
