"""Weights and configurations of other code bases: the public functions of this package's one engine."""

from unitrans.models._weights import (
    LoadReport,
    config_from,
    config_to_hf,
    export_tensors,
    export_weights,
    load_weights,
)

__all__ = ["LoadReport", "config_from", "config_to_hf", "export_tensors", "export_weights", "load_weights"]
