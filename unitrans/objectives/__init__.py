"""Objectives: what is hidden, what is predicted, the loss; and the one model that is trained (layer 6)."""

from unitrans.objectives.base import Objective, SignalOutput
from unitrans.objectives.model import MaskedSignalConfig, MaskedSignalModel
from unitrans.objectives.registry import get_objective

__all__ = ["MaskedSignalConfig", "MaskedSignalModel", "Objective", "SignalOutput", "get_objective"]
