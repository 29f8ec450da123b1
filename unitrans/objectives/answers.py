"""From outputs to answers: classes with their probabilities, yes and no, numbers in the units of the data.

Everything that says what a model means (predict, eval, pages, pictures) asks here. Outputs are what the heads of
``unitrans.objectives.supervised`` give: logits of classes, logits of yes, standardised numbers.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from unitrans.objectives.base import Labels


def as_array(outputs: Any) -> np.ndarray:
    """Outputs as float64, on the CPU."""
    if isinstance(outputs, torch.Tensor):
        outputs = outputs.detach().double().cpu().numpy()
    return np.asarray(outputs, dtype=np.float64)


def softmax(logits: np.ndarray) -> np.ndarray:
    """Probabilities along the last axis."""
    shifted = np.exp(logits - logits.max(-1, keepdims=True))
    return np.asarray(shifted / shifted.sum(-1, keepdims=True))


def sigmoid(logits: np.ndarray) -> np.ndarray:
    """Probabilities of yes, exact on both sides."""
    small = np.exp(-np.abs(logits))
    return np.asarray(np.where(logits >= 0, 1.0, small) / (1.0 + small))


def answers(labels: Labels, outputs: Any) -> np.ndarray:
    """float64 [..., K]: probabilities of the classes, probabilities of yes, or values in the units of the data."""
    values = as_array(outputs)
    if labels.kind == "multi":
        return sigmoid(values)
    if labels.kind == "value":
        return in_units(labels, values)
    return softmax(values)


def in_units(labels: Labels, values: Any) -> np.ndarray:
    """Standardised numbers, predicted or true, in the units of the data."""
    return np.asarray(as_array(values) * np.array(labels.std) + np.array(labels.mean))


def standardised(labels: Labels, values: Any) -> np.ndarray:
    """The way back: numbers in the units of the data as heads predict them."""
    return np.asarray((as_array(values) - np.array(labels.mean)) / np.array(labels.std))


def joined(labels: Labels, outputs: np.ndarray) -> np.ndarray:
    """One output of all members, from [members, n, K] to [n, K]: the logarithm of the mean probability of classes, the
    logit of that of yes, the mean of numbers."""
    if labels.kind == "value" or len(outputs) == 1:
        return np.asarray(outputs.mean(0))
    if labels.kind == "multi":
        chance = sigmoid(outputs).mean(0)
        return np.asarray(np.log(chance) - np.log1p(-chance))
    logs = outputs - outputs.max(-1, keepdims=True)
    logs = logs - np.log(np.exp(logs).sum(-1, keepdims=True))
    return np.asarray(np.log(np.exp(logs).mean(0)))


@dataclass(frozen=True)
class Choice:
    """The class that is taken: its number, name and probability."""

    number: int
    name: str
    probability: float


def choose(labels: Labels, chances: np.ndarray) -> Choice:
    """The likeliest class of probabilities [K]; of equal ones the first."""
    number = int(np.ravel(chances).argmax())
    return Choice(number, labels.names[number], float(np.ravel(chances)[number]))


def says_yes(labels: Labels, chances: np.ndarray) -> list[tuple[str, float]]:
    """The names, and probabilities, of what more likely holds than not, of probabilities of yes [K]."""
    pairs = zip(labels.names, np.ravel(chances).tolist(), strict=True)
    return [(name, chance) for name, chance in pairs if chance > 0.5]
