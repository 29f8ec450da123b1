"""How much the vectors of texts say about their labels, without training the model."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from unitrans.domains.intervals import bootstrap
from unitrans.domains.text.predict import TextPredictor
from unitrans.objectives.supervised import class_figures


def probe(
    predictor: TextPredictor,
    texts: Sequence[str],
    labels: Sequence[Any],
    unseen: Sequence[str],
    truth: Sequence[Any],
) -> dict[str, Any]:
    """Logistic regression from `TextPredictor.embed` to classes, judged on texts it has not seen.

    Args:
        predictor: of any text model.
        texts, labels: what it is fitted to, one class per text.
        unseen, truth: what it is judged on.

    Returns:
        {"accuracy", "macro_f1", "intervals": {name: (low, high)}}: 95 % bootstrap intervals over the unseen texts.

    Raises:
        ValueError: numbers of texts and labels that differ, fewer than two classes, or a class to be judged that
            labels do not have.
    """
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    for name, given, answers in (("labels", texts, labels), ("truth", unseen, truth)):
        if len(given) != len(answers):
            raise ValueError(f"{name}: expected one for each of {len(given)} texts, got {len(answers)}")
    names = sorted({str(label) for label in labels})
    if len(names) < 2:
        raise ValueError(f"labels: expected at least two classes, got {names}")
    unknown = sorted({str(label) for label in truth} - set(names))
    if unknown:
        raise ValueError(f"truth: expected the classes {', '.join(names)}, got {unknown[0]!r}")
    place = {name: number for number, name in enumerate(names)}
    numbers = [[place[str(label)] for label in part] for part in (labels, truth)]
    model = make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000))
    model.fit(predictor.embed(texts).numpy(), numbers[0])
    guess = torch.as_tensor(model.predict(predictor.embed(unseen).numpy()))
    collected = {"predicted": guess, "label": torch.tensor(numbers[1])}
    return class_figures(collected) | {"intervals": bootstrap(class_figures, collected)}
