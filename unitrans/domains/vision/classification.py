"""Classes of images beside simple classifiers, and as a picture."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from unitrans.domains.base import Baseline, Sample
from unitrans.domains.sheet import draw_tiles
from unitrans.domains.vision.pictures import rgb_picture
from unitrans.domains.vision.source import VisionSource
from unitrans.domains.vision.transforms import resize
from unitrans.objectives.answers import answers, choose
from unitrans.objectives.base import Labels

MAX_TRAIN_IMAGES = 4000  # a support vector machine takes about a minute for them
SIDE = 16  # pixels per side that the classifiers see


def baselines(train: VisionSource, held_out: VisionSource) -> list[Baseline]:
    """Accuracy of the most frequent class, of logistic regression and of a support vector machine (RBF kernel) on
    pixels at 16 x 16, both on standardised values with scikit-learn's settings."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler
    from sklearn.svm import SVC

    pixels, classes = _pixels(train, MAX_TRAIN_IMAGES)
    unseen, truth = _pixels(held_out, None)
    if not len(truth):
        return []
    names, counts = np.unique(classes, return_counts=True)
    found = [Baseline("most frequent class", float((truth == names[counts.argmax()]).mean()))]
    note = f"{len(classes):,} training images of at most {SIDE} x {SIDE} px"
    models = {
        "logistic regression on pixels": LogisticRegression(max_iter=300),
        "support vector machine on pixels": SVC(C=10.0),
    }
    for name, model in models.items():
        if len(names) < 2:
            found.append(Baseline(name, None, "skipped: the training images are of one class"))
            continue
        fitted = make_pipeline(StandardScaler(), model).fit(pixels, classes)
        found.append(Baseline(name, float((fitted.predict(unseen) == truth).mean()), note))
    return found


def answer_baselines(train: VisionSource, held_out: VisionSource) -> list[Baseline]:
    """Area under the ROC curve, the mean over the labels, of chance and of logistic regression on pixels at 16 x 16."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.metrics import roc_auc_score
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    pixels, answers = _pixels(train, MAX_TRAIN_IMAGES)
    unseen, truth = _pixels(held_out, None)
    areas = []
    for known, true in zip(answers.T, truth.T, strict=True) if len(truth) else ():
        rows, judged = np.isfinite(known), np.isfinite(true)
        if len(np.unique(true[judged])) < 2:
            continue
        if len(np.unique(known[rows])) < 2:
            areas.append(0.5)  # the training images have one answer only
            continue
        model = make_pipeline(StandardScaler(), LogisticRegression(max_iter=300))
        score = model.fit(pixels[rows], known[rows]).decision_function(unseen[judged])
        areas.append(roc_auc_score(true[judged], score))
    note = f"{len(answers):,} training images of at most {SIDE} x {SIDE} px"
    area = float(np.mean(areas)) if areas else None
    return [Baseline("chance", 0.5), Baseline("logistic regression on pixels", area, note)]


def _pixels(source: VisionSource, limit: int | None) -> tuple[np.ndarray, np.ndarray]:
    """Values [n, C*16*16] and classes [n] or answers [n, K] of readable samples, at most ``limit`` evenly spaced
    ones."""
    values, classes = [], []
    for sample in source.readable(limit):
        image = source.unit_image(sample)
        size = (min(SIDE, image.shape[-2]), min(SIDE, image.shape[-1]))
        values.append(resize(image, size).flatten().numpy())
        classes.append(sample["label"])
    return np.array(values), np.array(classes)


def draw_predictions(
    path: Path,
    samples: Sequence[Sample],
    predictions: Sequence[torch.Tensor],
    labels: Labels,
    mean: Sequence[float],
    std: Sequence[float],
) -> None:
    """Writes a PNG of held-out images with what they were taken for, and what they are where that was wrong.

    samples: ``image`` normalised float [C, H, W], ``label``; predictions: logits [1, K] of each.
    """
    caption = _answers_caption if labels.kind == "multi" else _class_caption
    shift, scale = (torch.tensor(list(values)).view(-1, 1, 1) for values in (mean, std))
    pictures = [rgb_picture(sample["image"].float().cpu() * scale + shift) for sample in samples]
    told = [
        caption(answers(labels, logits[0]), sample["label"], labels)
        for sample, logits in zip(samples, predictions, strict=True)
    ]
    colours = ["black" if right else "firebrick" for _, right in told]
    captions = [text for text, _ in told]
    draw_tiles(path, pictures, captions, columns=8, box=(1.42, 1.42), size=7, dpi=150, colours=colours)


def _class_caption(chances: np.ndarray, label: Any, labels: Labels) -> tuple[str, bool]:
    """The class an image was taken for, and the true one where it is another; whether it was right."""
    best = choose(labels, chances)
    text, right = f"{best.name[:24]} ({best.probability:.0%})", best.number == int(label)
    return (text if right else f"{text}\nis {labels.names[int(label)][:24]}"), right


def _answers_caption(chances: np.ndarray, label: Any, labels: Labels) -> tuple[str, bool]:
    """The labels an image was given, and the true ones where these are others; whether all that are known are right."""

    def shown(chosen: np.ndarray) -> str:
        found = [labels.names[number][:16] for number in np.flatnonzero(chosen).tolist()]
        return ", ".join(found[:2]) + (f" and {len(found) - 2} more" if len(found) > 2 else "") or "none"

    said, true = chances > 0.5, np.asarray(label)
    wrong = np.isfinite(true) & (said != (true > 0.5))
    return (f"{shown(said)}\nis {shown(true == 1)}" if wrong.any() else shown(said)), not wrong.any()
