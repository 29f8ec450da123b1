"""Swin Transformer, versions 1 and 2, for images."""

from unitrans.models.registry import lazy_names, register_model
from unitrans.models.swin.sizes import SIZES, SIZES_V2

_HERE = __name__
__all__ = [
    "SwinBackbone",
    "SwinConfig",
    "SwinForImageClassification",
    "SwinModel",
    "Swinv2Backbone",
    "Swinv2Config",
    "Swinv2ForImageClassification",
    "Swinv2Model",
]
__getattr__ = lazy_names(__name__, "config", "model", "plans")

register_model(
    "swin",
    config=f"{_HERE}.config:SwinConfig",
    model=f"{_HERE}.model:SwinModel",
    auto={"AutoModelForImageClassification": f"{_HERE}.model:SwinForImageClassification"},
    formats=f"{_HERE}.weights:SWIN",
    layouts=("official", "timm", "torchvision", "hf4", "hf5"),
    sizes=SIZES,
)
register_model(
    "swinv2",
    config=f"{_HERE}.config:Swinv2Config",
    model=f"{_HERE}.model:Swinv2Model",
    auto={"AutoModelForImageClassification": f"{_HERE}.model:Swinv2ForImageClassification"},
    formats=f"{_HERE}.weights:SWINV2",
    layouts=("official", "timm", "torchvision", "hf4", "hf5"),
    sizes=SIZES_V2,
)
