"""Simple classifiers on frozen features: what a pretrained encoder is worth before any fine-tuning."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from unitrans.errors import ConfigError, user_errors
from unitrans.objectives.base import Labels
from unitrans.training.runs import write_json, write_text
from unitrans.use.evaluate import check_output, figure_lines, labelled_rows, ranked_figures, write_classes
from unitrans.use.predict import Trained
from unitrans.use.whole import writing

PROBES = ("linear", "knn")
NEIGHBOURS = 20
FOLDS = 3


def probe(
    checkpoint: str,
    method: str,
    fit: str,
    data: str,
    output: Path,
    *,
    batch_size: int,
    column: str | None,
    target: str | None,
    say: Callable[[str], None],
    files: str | None = None,
    image_size: int | None = None,
) -> int:
    """Fits a classifier on the encoder's vectors of labelled samples, judges it on others; writes as `evaluate` does.

    Args:
        checkpoint: a run or checkpoint of any objective.
        method: "linear" (scikit-learn's logistic regression on standardised vectors, its strength chosen by 3-fold
            cross-validation on the samples of `fit`) or "knn" (20 neighbours by cosine, weighted by closeness).
        fit, data: labelled samples as in `evaluate`, to fit on and to judge on.
        output, batch_size, column, target, files, image_size: as in `evaluate`.

    Returns:
        How many samples could not be used.

    Raises:
        ConfigError: no such checkpoint, method or data, or classes that differ.
    """
    if method not in PROBES:
        raise ConfigError(f"--probe {method}: expected one of {', '.join(PROBES)}")
    check_output(output)
    trained = Trained(checkpoint, files=files, image_size=image_size)
    for note in trained.notes:
        say(note)
    with user_errors():
        x, y, names, skipped = _features(trained, fit, None, batch_size, column, target)
        unseen, truth, _, more = _features(trained, data, names, batch_size, column, target)
    counts = np.bincount(y, minlength=len(names))
    if len(names) < 2:
        raise ConfigError(f"--fit {fit}: expected samples of at least two classes, got {len(names)}")
    if method == "linear" and counts.min() < FOLDS:
        rare = names[int(counts.argmin())]
        raise ConfigError(
            f"--fit {fit}: expected at least {FOLDS} samples of every class for --probe linear, got {counts.min()} of "
            f"{rare!r}; take --probe knn"
        )
    model = _classifier(method, len(x))
    model.fit(x, y)
    chances = np.full((len(unseen), len(names)), 1e-12)
    chances[:, model.classes_] = np.maximum(model.predict_proba(unseen), 1e-12)
    figures, intervals = ranked_figures(np.log(chances), truth)
    result: dict[str, Any] = {
        "checkpoint": str(trained.reading["folder"]),
        "probe": method,
        "fit": fit,
        "fitted_samples": len(x),
        "data": data,
        "samples": len(truth),
        "skipped": len(skipped) + len(more),
        "figures": figures,
        "intervals": {name: list(ends) for name, ends in intervals.items()},
    }
    with writing(output):
        output.mkdir(parents=True, exist_ok=True)
        result["classes"] = write_classes(output, names, np.log(chances), truth)
        write_json(output / "eval.json", result)
        head = f"{method} probe, fitted on {len(x):,} samples of {fit}, judged on {len(truth):,} of {data}"
        summary = "\n".join([head, *figure_lines(figures, intervals)])
        write_text(output / "summary.txt", summary + "\n")
        if skipped or more:
            write_text(output / "skipped.txt", "".join(f"{reason}\n" for reason in [*skipped, *more]))
    say(summary)
    return len(skipped) + len(more)


def _classifier(method: str, samples: int) -> Any:
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import GridSearchCV
    from sklearn.neighbors import KNeighborsClassifier
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    if method == "knn":
        return KNeighborsClassifier(min(NEIGHBOURS, samples), metric="cosine", weights="distance")
    grid = {"logisticregression__C": [1e-4, 1e-3, 1e-2, 1e-1, 1.0]}
    return GridSearchCV(make_pipeline(StandardScaler(), LogisticRegression(max_iter=500)), grid, cv=FOLDS)


def _features(
    trained: Trained,
    data: str,
    names: tuple[str, ...] | None,
    batch_size: int,
    column: str | None,
    target: str | None,
) -> tuple[np.ndarray, np.ndarray, tuple[str, ...], list[str]]:
    """Vectors [n, C], numbers of classes [n], the names of the classes, and why samples are left out."""
    labels = None if names is None else Labels("class", names, (0,) * len(names))
    vectors: list[np.ndarray] = []
    values: list[Any] = []
    skipped: list[str] = []
    rows = labelled_rows(trained, data, labels, column, target)
    while chunk := list(itertools.islice(rows, batch_size)):
        good = [(sample, truth) for sample, truth in chunk if not isinstance(sample, str)]
        skipped += [sample for sample, _ in chunk if isinstance(sample, str)]
        if good:
            vectors.append(trained.embeddings([sample for sample, _ in good]))
            values += [truth for _, truth in good]
    if not vectors:
        raise ConfigError(
            f"{data}: none of the samples can be used ({skipped[0] if skipped else 'there are none'})"
        )
    if names is None:
        names = tuple(sorted(set(values)))
        place = {name: number for number, name in enumerate(names)}
        values = [place[value] for value in values]
    return np.concatenate(vectors), np.asarray(values), names, skipped
