"""Objectives: what is hidden, what is predicted, the loss; and the one model that is trained (layer 6)."""

from unitrans.objectives.base import LabelKind, Labels, Objective, SignalOutput
from unitrans.objectives.beit import register_tokenizer
from unitrans.objectives.model import MaskedSignalConfig, MaskedSignalModel
from unitrans.objectives.registry import get_objective, make_objective, register_objective

__all__ = [
    "LabelKind",
    "Labels",
    "MaskedSignalConfig",
    "MaskedSignalModel",
    "Objective",
    "SignalOutput",
    "get_objective",
    "make_objective",
    "register_objective",
    "register_tokenizer",
]
