"""unitrans: one Transformer framework for images, language and graphs on one masked attention core.

Importing this package is as light as importing torch: models, domains and the trainer live in
submodules that are imported when they are used. torch itself is imported with the first of the names
below, so that `unitrans --help` answers at once.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from unitrans.models.registry import create as create
    from unitrans.models.registry import list_models as list_models
    from unitrans.ops.attention import attention as attention
    from unitrans.ops.attention import attention_qkvpacked as attention_qkvpacked
    from unitrans.ops.maps import AttentionMap as AttentionMap
    from unitrans.ops.maps import attention_maps as attention_maps
    from unitrans.ops.plan import Plan as Plan
    from unitrans.training.loading import load as load

__version__ = "0.1.0"
_OPS = ("AttentionMap", "Plan", "attention", "attention_maps", "attention_qkvpacked")
_MODELS = ("create", "list_models")
__all__ = [*_OPS, *_MODELS, "load", "__version__"]


def __getattr__(name: str) -> Any:
    """The op, `Plan`, models by name and `load`, imported when they are used first."""
    if name == "load":
        from unitrans.training.loading import load

        return load
    if name in _MODELS:
        from unitrans.models import registry

        return getattr(registry, name)
    if name in _OPS:
        from unitrans import ops

        value = getattr(ops, name)
        globals()[name] = value
        return value
    raise AttributeError(f"module 'unitrans' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
