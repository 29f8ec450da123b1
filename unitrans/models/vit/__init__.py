"""Vision Transformer for images, with the options of BEiT and MAE."""

from unitrans.models.registry import lazy_names, register_model
from unitrans.models.vit.sizes import SIZES

_HERE = __name__
__all__ = ["VitConfig", "VitForImageClassification", "VitModel"]
__getattr__ = lazy_names(__name__, "config", "model", "plans")

register_model(
    "vit",
    config=f"{_HERE}.config:VitConfig",
    model=f"{_HERE}.model:VitModel",
    auto={"AutoModelForImageClassification": f"{_HERE}.model:VitForImageClassification"},
    formats=f"{_HERE}.weights:FORMATS",
    layouts=("official", "mae", "timm", "hf4", "hf5"),
    sizes=SIZES,
    shared_in="vision",
)
