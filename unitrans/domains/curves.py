"""curves.png: how losses and learning rate went, drawn from the rows of metrics.jsonl."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

Points = tuple[list[float], list[float]]


def points(rows: Sequence[Mapping[str, Any]], key: str) -> Points:
    """(steps, values) of the rows that have a finite number under ``key``, in order of step."""
    found = {}
    for row in rows:
        value = row.get(key)
        if isinstance(value, int | float) and math.isfinite(value) and "step" in row:
            found[float(row["step"])] = float(value)  # of a step written twice the last counts
    steps = sorted(found)
    return steps, [found[step] for step in steps]


def draw_curves(path: Path, rows: Sequence[Mapping[str, Any]], loss_name: str = "loss") -> None:
    """Writes a PNG with the training loss (faint, and its running mean), the validation loss and the
    learning rate over steps. Rows are dicts with "step" and any of "loss", "eval_loss", "learning_rate"."""
    figure = Figure(figsize=(8, 6), dpi=120, layout="constrained")
    FigureCanvasAgg(figure)
    top, bottom = figure.subplots(2, 1, sharex=True, height_ratios=[3, 1])
    _draw_losses(top, points(rows, "loss"), points(rows, "eval_loss"))
    top.set_ylabel(loss_name)
    steps, rates = points(rows, "learning_rate")
    bottom.plot(steps, rates, color="tab:green", marker="o" if len(steps) == 1 else None)
    bottom.set_ylabel("learning rate")
    bottom.set_ylim(bottom=0)
    bottom.ticklabel_format(axis="y", style="sci", scilimits=(-2, 3))
    bottom.set_xlabel("step")
    bottom.xaxis.set_major_locator(MaxNLocator(integer=True))
    for axis in (top, bottom):
        axis.grid(alpha=0.3)
        axis.spines[["top", "right"]].set_visible(False)
    figure.savefig(path)


def _draw_losses(axis: Axes, train: Points, validation: Points) -> None:
    steps, losses = train
    width = max(1, len(losses) // 25)
    few = len(losses) < 10
    if steps:
        axis.plot(
            steps,
            losses,
            color="tab:blue",
            alpha=1 if width == 1 else 0.3,
            linewidth=1,
            marker="o" if few else None,
            label="training" if width == 1 else None,
        )
    if width > 1:
        mean = np.convolve(losses, np.ones(width) / width, mode="valid")
        axis.plot(
            steps[width // 2 :][: len(mean)],
            mean,
            color="tab:blue",
            label=f"training (mean of {width} points)",
        )
    if validation[0]:
        axis.plot(*validation, color="tab:orange", marker="o", markersize=4, label="validation")
        axis.annotate(
            f"{validation[1][-1]:.4g}",
            (validation[0][-1], validation[1][-1]),
            textcoords="offset points",
            xytext=(0, 8),
            ha="right",
            color="tab:orange",
        )
    values = losses + validation[1]
    if len(values) > 20:  # a first loss far above the rest must not flatten everything after it
        low, high = min(values), float(np.quantile(values, 0.98))
        margin = 0.08 * (high - low or abs(high) or 1.0)
        axis.set_ylim(low - margin, high + 2 * margin)
    if steps or validation[0]:
        axis.legend(frameon=False)
