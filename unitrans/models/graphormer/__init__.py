"""Graphormer, versions 1 and 2, for graphs."""

from unitrans.models.graphormer.sizes import SIZES
from unitrans.models.registry import lazy_names, register_model

_HERE = __name__
__all__ = ["Graphormer", "GraphormerConfig", "GraphormerModel"]
__getattr__ = lazy_names(__name__, "config", "model", "plans")

register_model(
    "graphormer",
    config=f"{_HERE}.config:GraphormerConfig",
    model=f"{_HERE}.model:GraphormerModel",
    formats=f"{_HERE}.weights:FORMATS",
    layouts=("v2", "hf4", "v1", "v1-downstream"),
    sizes=SIZES,
    shared_in="graph",
)
