"""Yes-no targets judged one by one: how well each is ranked, with intervals, and their means."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch

from unitrans.data.intervals import bootstrap
from unitrans.objectives.supervised import answer_figures, ranking_figures

FIGURES = ("roc_auc", "average_precision")
SHOWN = 20
T = TypeVar("T")


def target_figures(
    figures: Mapping[str, float], logits: np.ndarray, truth: np.ndarray
) -> tuple[dict[str, float], dict[str, tuple[float, float]]]:
    """The figures of all targets together and, as "roc_auc 0", those of each, with 95 % intervals of the bootstrap.

    Args:
        figures: of all targets together; see `class_figures`.
        logits: float [n, K]. truth: float [n, K], yes (1), no (0) or missing (NaN).
    """

    def drawn(collected: Mapping[str, torch.Tensor]) -> dict[str, float]:
        score, label = collected["score"].numpy(), collected["label"].numpy()
        ranked = ranking_figures(score, label)
        found = answer_figures(score > 0, label)
        for place, figure in enumerate(FIGURES):
            values = {number: pair[place] for number, pair in enumerate(ranked) if pair is not None}
            found |= {f"{figure} {number}": value for number, value in values.items()}
            found |= {figure: float(np.mean(list(values.values())))} if values else {}
        return found

    collected = {"score": torch.from_numpy(logits), "label": torch.from_numpy(truth)}
    return {**figures, **drawn(collected)}, bootstrap(drawn, collected)


def overall(values: Mapping[str, T]) -> dict[str, T]:
    """Without what belongs to one target."""
    return {name: value for name, value in values.items() if " " not in name}


def write_answers(
    output: Path,
    names: Sequence[str],
    logits: np.ndarray,
    truth: np.ndarray,
    figures: Mapping[str, float],
    intervals: Mapping[str, tuple[float, float]],
) -> list[dict[str, Any]]:
    """Writes classes.csv and returns its rows: of every target how many answers are known, how it is told at a
    probability of one half, and how well it is ranked (empty where all known answers are equal).

    Args:
        logits, truth: as for `target_figures`, which gave figures and intervals.
    """
    said, known = logits > 0, np.isfinite(truth)
    rows = []
    for number, name in enumerate(names):
        yes, guess = truth[known[:, number], number] > 0.5, said[known[:, number], number]
        hits = int((yes & guess).sum())
        row: dict[str, Any] = {"class": name, "samples": int(yes.sum()), "known": len(yes)}
        row |= {"precision": hits / max(int(guess.sum()), 1), "recall": hits / max(int(yes.sum()), 1)}
        row["f1"] = 2 * hits / max(int(guess.sum() + yes.sum()), 1)
        for figure in FIGURES:
            key = f"{figure} {number}"
            low, high = intervals[key] if key in figures else (None, None)
            row |= {figure: figures.get(key), f"{figure}_low": low, f"{figure}_high": high}
        rows.append(row)
    with (output / "classes.csv").open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    return rows


def answer_lines(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """A line for each of the first targets that can be ranked."""
    return [
        f"  {row['class']}: roc_auc {row['roc_auc']:.4f} ({row['roc_auc_low']:.4f} to {row['roc_auc_high']:.4f}), "
        f"average_precision {row['average_precision']:.4f}, {row['samples']:,} yes of {row['known']:,}"
        for row in rows[:SHOWN]
        if row["roc_auc"] is not None
    ]
