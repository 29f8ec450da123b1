"""What ``unitrans eval`` does: a model on labelled samples it was not trained on, as figures, tables and a picture."""

from __future__ import annotations

import csv
import itertools
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from unitrans.data.columns import Column, columns_of
from unitrans.data.intervals import bootstrap
from unitrans.data.labels import (
    USUAL,
    answers_of,
    cell_classes,
    class_number,
    label_columns,
    target_columns,
)
from unitrans.domains.base import Sample
from unitrans.errors import ConfigError, nearest_name, user_errors
from unitrans.objectives.answers import joined, softmax, standardised
from unitrans.objectives.base import Labels, SignalOutput
from unitrans.training.runs import write_json, write_text
from unitrans.use.predict import Predictor, Trained
from unitrans.use.rows import opened
from unitrans.use.targets import answer_lines, overall, target_figures, write_answers
from unitrans.use.whole import writing

#: A sample, or why there is none, with its true label.
Labelled = tuple[Sample | str, Any]


def evaluate(
    checkpoint: str,
    data: str,
    output: Path,
    *,
    batch_size: int,
    column: str | None,
    target: str | None,
    say: Callable[[str], None],
    files: str | None = None,
    image_size: int | None = None,
    classes: str | None = None,
) -> int:
    """Judges a model on labelled samples and writes eval.json, summary.txt and, for classes and for several answers,
    classes.csv, for classes confusion.png. The same input gives the same files, but for the time taken.

    Args:
        checkpoint: a run folder, a checkpoint, or the folder of an ensemble.
        data: what data.path can be for images; a table with the columns of the labels otherwise.
        output: a folder, absent or empty.
        batch_size: samples that are computed together.
        column: with the inputs, of a table; see ``unitrans predict``.
        target: columns with the labels, as a,b; None: those of the training data, else one with a usual name.
        files, image_size: see `Trained`. classes: see `Predictor`.

    Returns:
        How many samples could not be judged.

    Raises:
        ConfigError: no such checkpoint or data, or labels that the model does not know.
    """
    predictor = Predictor(checkpoint, files=files, image_size=image_size, classes=classes)
    check_output(output)
    for note in predictor.notes:
        say(note)
    outputs: list[np.ndarray] = []
    truths: list[Any] = []
    skipped: list[str] = []
    seconds = 0.0
    with user_errors():
        labelled = labelled_rows(predictor, data, predictor.labels, column, target)
        while chunk := list(itertools.islice(labelled, batch_size)):
            good = [(sample, truth) for sample, truth in chunk if not isinstance(sample, str)]
            skipped += [sample for sample, _ in chunk if isinstance(sample, str)]
            if good:
                start = time.perf_counter()
                outputs.append(predictor.outputs([sample for sample, _ in good]))
                seconds += time.perf_counter() - start
                truths += [truth for _, truth in good]
    if not outputs:
        raise ConfigError(f"--data {data}: none of the {len(skipped):,} samples can be judged ({skipped[0]})")
    prediction = joined(predictor.labels, np.concatenate(outputs, axis=1))
    truth = np.asarray(truths)
    figures, intervals = _figures(predictor, prediction, truth)
    result: dict[str, Any] = {
        "checkpoint": str(Path(predictor.reading["folder"])),
        "data": data,
        "samples": len(truth),
        "skipped": len(skipped),
        "figures": overall(figures),
        "intervals": {name: list(ends) for name, ends in overall(intervals).items()},
        "seconds": round(seconds, 3),
        "samples_per_second": round(len(truth) / seconds, 1),
    }
    with writing(output):
        output.mkdir(parents=True, exist_ok=True)
        if predictor.labels.kind == "class":
            result["classes"] = write_classes(output, predictor.labels.names, prediction, truth)
        elif predictor.labels.kind == "multi":
            result["classes"] = write_answers(
                output, predictor.labels.names, prediction, truth, figures, intervals
            )
        write_json(output / "eval.json", result)
        summary = _summary(result, predictor)
        write_text(output / "summary.txt", summary + "\n")
        if skipped:
            write_text(output / "skipped.txt", "".join(f"{reason}\n" for reason in skipped))
    say(summary)
    return len(skipped)


def check_output(folder: Path) -> None:
    """ConfigError for a folder that holds something."""
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ConfigError(f"--output {folder} is there already: name a folder that is absent or empty")


def labelled_rows(
    trained: Trained, data: str, labels: Labels | None, column: str | None, target: str | None
) -> Iterator[Labelled]:
    """Samples with their labels: numbers of the classes of `labels`, float [K] of other labels; names of classes where
    `labels` is None."""
    domain, reading = trained.domain, trained.reading
    own = domain.labelled(data, reading, labels, column, target)
    if own is not None:
        yield from own
        return
    table, read = opened(domain, reading, [data], column, sys.stdin, trained.model_config)
    names = _targets(reading, labels, table.names, target)
    columns = columns_of(reading, names, labels.names if labels is not None else ())
    rows = table.rows()
    if labels is None:  # what the classes of a probe are called, by the rule for training data
        rows = iter(kept := list(rows))
        cells = [row.get(names[0]) for row in kept if not isinstance(row, str)]
        columns = label_columns(cells, names[0], reading.get("missing"))
    for number, record in enumerate(rows, start=1):
        try:
            if isinstance(record, str):
                raise ValueError(record)
            yield {"id": str(number), **read(record)}, _truth(labels, record, columns, reading)
        except ValueError as error:
            yield f"row {number:,}: {' '.join(str(error).split())}", None


def _targets(
    reading: Mapping[str, Any], labels: Labels | None, names: Sequence[str], asked: str | None
) -> list[str]:
    """The columns with the labels."""
    classes = labels is None or labels.kind == "class"
    trained = reading.get("targets") or [n for n in reading.get("label_columns", ()) if n in names]
    if asked is not None:
        found = target_columns(asked, names)
        wanted = [found] if isinstance(found, str) else list(found or ())
    elif trained:
        wanted = list(trained)
    elif labels is not None and not classes:
        wanted = list(labels.names)
    else:
        wanted = [next((n for n in USUAL if n in names), USUAL[0])]
    for name in wanted:
        if name not in names:
            raise ConfigError(
                f"the table has no column {name!r} with labels: expected one of {', '.join(names)}, named with "
                f"--target{nearest_name(name, names)}"
            )
    expected = 1 if classes or labels is None else len(labels.names)
    lists = labels is not None and labels.kind == "multi" and len(wanted) == 1  # of classes, in one column
    if len(wanted) != expected and not lists:
        raise ConfigError(f"--target: expected {expected} column(s) with labels, got {len(wanted)}")
    return wanted


def _truth(
    labels: Labels | None,
    record: Mapping[str, Any],
    columns: Mapping[str, Column],
    reading: Mapping[str, Any],
) -> Any:
    """The label of a row: the number (or name) of a class, or float [K], NaN where there is none."""
    names = list(columns)
    values = [record.get(name) for name in names]
    if labels is None or labels.kind == "class":
        name = columns[names[0]].text(values[0])
        if name is None:
            raise ValueError("it has no class")
        if labels is None:
            return name
        number = class_number(values[0], labels.names, columns[names[0]])
        if number is None:
            raise ValueError(f"its class {name!r} is none of the model's ({', '.join(labels.names[:8])})")
        return number
    if labels.kind == "multi":
        return _answers(labels, values, columns, reading.get("label_separator"))
    return np.array([columns[name].number(value) for name, value in zip(names, values, strict=True)])


def _answers(
    labels: Labels, values: Sequence[Any], columns: Mapping[str, Column], separator: str | None
) -> np.ndarray:
    """float [K] from a cell for every target, or from one that lists classes."""
    label: Any = values[0]
    if isinstance(label, str) and separator is not None:
        label = cell_classes(label, separator)
    if not isinstance(label, list):
        if label is None and separator is not None:
            raise ValueError("it has no label")
        if len(values) != len(labels.names):
            raise ValueError(f"expected a list of classes, got {label!r}")
        label = dict(zip(labels.names, values, strict=True))
        columns = dict(zip(labels.names, columns.values(), strict=True))
    answers = answers_of(label, labels.names, columns)
    if answers is None:
        raise ValueError(f"one of its classes {label} is none of the model's ({', '.join(labels.names[:8])})")
    return answers.astype(np.float64)


def _figures(
    predictor: Predictor, prediction: np.ndarray, truth: np.ndarray
) -> tuple[dict[str, float], dict[str, tuple[float, float]]]:
    """All figures, and the 95 % intervals of those that are cheap to draw again."""
    labels = predictor.labels
    if labels.kind == "class":
        return ranked_figures(prediction, truth)
    objective: Any = predictor.models[0].objective
    if labels.kind == "value":
        truth = standardised(labels, truth)
    output = SignalOutput(torch.zeros(()), prediction=torch.from_numpy(prediction))
    collected = objective.collect({"labels": torch.from_numpy(truth)}, output)
    if labels.kind == "multi":
        return target_figures(objective.figures(collected), prediction, truth)
    return objective.figures(collected), bootstrap(objective.figures, collected)


def ranked_figures(
    logits: np.ndarray, truth: np.ndarray
) -> tuple[dict[str, float], dict[str, tuple[float, float]]]:
    """Shares of right answers with Wilson's interval, balanced accuracy and F1 with those of the bootstrap, area under
    the ROC curve, log-loss."""
    from scipy.stats import binomtest
    from sklearn.metrics import f1_score, recall_score, roc_auc_score

    size, classes = logits.shape
    chances = softmax(logits)
    # Behind how many others the right class comes; of equal ones the smaller number is first, as argmax has it.
    own = logits[np.arange(size), truth][:, None]
    place = np.arange(classes)[None]
    rank = ((logits > own) | ((logits == own) & (place < truth[:, None]))).sum(1)
    figures: dict[str, float] = {}
    intervals: dict[str, tuple[float, float]] = {}
    for best in [1, 5] if classes > 5 else [1]:
        right = int((rank < best).sum())
        figures[f"top{best}"] = right / size
        ends = binomtest(right, size).proportion_ci(method="wilson")
        intervals[f"top{best}"] = (float(ends.low), float(ends.high))
    predicted = logits.argmax(1)

    def drawn(collected: Mapping[str, torch.Tensor]) -> dict[str, float]:
        true, guess = (collected[key].numpy() for key in ("label", "predicted"))
        recalls = recall_score(true, guess, average=None, zero_division=0, labels=np.unique(true))
        f1 = f1_score(true, guess, average="macro", zero_division=0)
        return {"balanced_accuracy": float(recalls.mean()), "macro_f1": float(f1)}

    collected = {"label": torch.from_numpy(truth), "predicted": torch.from_numpy(predicted)}
    figures |= drawn(collected)
    intervals |= bootstrap(drawn, collected)
    there = np.unique(truth)
    if len(there) > 1:
        areas = [roc_auc_score(truth == c, chances[:, c]) for c in (there if classes > 2 else [1])]
        figures["roc_auc"] = float(np.mean(areas))  # of each class that is there against the rest
    figures["log_loss"] = float(-np.log(np.maximum(chances[np.arange(size), truth], 1e-300)).mean())
    return figures, intervals


def write_classes(
    output: Path, names: Sequence[str], logits: np.ndarray, truth: np.ndarray
) -> list[dict[str, Any]]:
    """Writes classes.csv and confusion.png; returns the rows."""
    from sklearn.metrics import confusion_matrix, precision_recall_fscore_support

    predicted, numbers = logits.argmax(1), np.arange(len(names))
    values = precision_recall_fscore_support(truth, predicted, labels=numbers, zero_division=0)
    rows = [
        {"class": name, "samples": int(n), "precision": float(p), "recall": float(r), "f1": float(f)}
        for name, p, r, f, n in zip(names, *values, strict=True)
    ]
    with (output / "classes.csv").open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    draw_confusion(output / "confusion.png", confusion_matrix(truth, predicted, labels=numbers), names)
    return rows


def draw_confusion(path: Path, counts: np.ndarray, names: Sequence[str]) -> None:
    """Writes a PNG of how often each class was taken for which, as shares of its samples.

    counts: [K, K], rows are the true classes.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    size = len(names)
    shares = counts / np.maximum(counts.sum(1, keepdims=True), 1)
    side = min(12.0, max(4.0, 1.5 + 0.45 * size))
    figure = Figure(figsize=(side + 1, side), dpi=150, layout="constrained")
    FigureCanvasAgg(figure)
    axis = figure.subplots()
    image = axis.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    axis.set_xlabel("predicted")
    axis.set_ylabel("true")
    if size <= 40:
        axis.set_xticks(range(size), [name[:16] for name in names], rotation=60, ha="right", fontsize=7)
        axis.set_yticks(range(size), [name[:16] for name in names], fontsize=7)
    if size <= 20:
        for row, col in np.ndindex(size, size):
            if counts[row, col]:
                dark = shares[row, col] > 0.5
                axis.text(col, row, f"{counts[row, col]:,}", ha="center", va="center", fontsize=6,
                          color="white" if dark else "black")  # fmt: skip
    figure.colorbar(image, ax=axis, fraction=0.046, label="share of the samples of the class")
    figure.savefig(path)


def figure_lines(figures: Mapping[str, float], intervals: Mapping[str, Any]) -> list[str]:
    """A line for every figure, with its interval where there is one."""
    width = max(map(len, figures))
    lines = []
    for name, value in figures.items():
        ends = intervals.get(name)
        between = "" if ends is None else f"   95 %: {ends[0]:.4f} to {ends[1]:.4f}"
        lines.append(f"  {name:<{width}}  {value:.4f}{between}")
    return lines


def _summary(result: Mapping[str, Any], predictor: Predictor) -> str:
    """The figures in a few lines."""
    lines = [f"{result['samples']:,} samples of {result['data']} ({result['skipped']:,} could not be judged)"]
    lines += figure_lines(result["figures"], result["intervals"])
    worst = sorted((row for row in result.get("classes", []) if row["samples"]), key=lambda row: row["f1"])[
        :3
    ]
    if predictor.labels.kind == "multi":
        lines += answer_lines(result["classes"])
    elif len(predictor.labels.names) > 2 and worst:
        shown = ", ".join(f"{row['class']} {row['f1']:.2f} of {row['samples']:,}" for row in worst)
        lines.append(f"  lowest F1 of a class: {shown}")
    lines.append(f"  {result['samples_per_second']:,.0f} samples a second, reading not counted")
    return "\n".join(lines)
