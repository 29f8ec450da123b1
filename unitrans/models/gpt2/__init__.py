"""GPT-2 for texts, read from left to right."""

from unitrans.models.gpt2.sizes import SIZES
from unitrans.models.registry import lazy_names, register_model

_HERE = __name__
__all__ = ["Gpt2Config", "Gpt2LMHeadModel", "Gpt2Model"]
__getattr__ = lazy_names(__name__, "config", "model")

register_model(
    "gpt2",
    config=f"{_HERE}.config:Gpt2Config",
    model=f"{_HERE}.model:Gpt2Model",
    formats=f"{_HERE}.weights:FORMATS",
    layouts=("hf4", "hf5"),
    sizes=SIZES,
    shared_in="text",
)
