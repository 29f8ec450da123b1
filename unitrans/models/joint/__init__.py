"""One trunk for several domains."""

from unitrans.models.registry import lazy_names, register_model

_HERE = __name__
__all__ = ["JointConfig", "JointModel"]
__getattr__ = lazy_names(__name__, "config", "model")

register_model("joint", config=f"{_HERE}.config:JointConfig", model=f"{_HERE}.model:JointModel")
