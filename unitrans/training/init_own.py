"""Models of this program that save_pretrained wrote, as ``unitrans convert`` does: folders that are no runs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from unitrans import models
from unitrans.models import MODELS
from unitrans.training.parameters import parameters_of

_PREFIXES = ("encoder.", "swin.", "vit.")  # of the encoder in a model with a head


def own_encoder(stored: Any) -> dict[str, Any] | None:
    """The settings of the encoder by the config.json of such a folder; None for any other config.json."""
    name = str(stored.get("model_type")).removeprefix("unitrans-") if isinstance(stored, dict) else ""
    if name not in MODELS or not str(stored["model_type"]).startswith("unitrans-"):
        return None
    fields = parameters_of(MODELS[name][0]).model_fields
    kept = {key: value for key, value in stored.items() if key in fields}
    return kept | {"model_type": stored["model_type"]}


def as_checkpoint(
    stored: Mapping[str, Any], weights: Mapping[str, Tensor]
) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """The config.json and the weights of such a folder as a checkpoint of a run has them: encoder.* and head.*.

    ValueError where they do not say what they are.
    """
    name = str((stored.get("architectures") or [""])[0])
    if getattr(models, name, None) is None:
        raise ValueError("its config.json names no architecture of this program")
    bare = any(cls.__name__ == name for _, cls in MODELS.values())
    found: dict[str, Tensor] = {}
    for key, tensor in weights.items():
        prefix = "" if bare else next((p for p in _PREFIXES if key.startswith(p)), None)
        found[f"head.{key}" if prefix is None else f"encoder.{key.removeprefix(prefix)}"] = tensor
    # A ViT with tables of relative positions is one of BEiT or SimMIM; others are resized as Swin does.
    rule = "geometric" if stored["model_type"] == "unitrans-vit" else "bicubic"
    return {"encoder": own_encoder(stored), "objective": name, "resize": rule}, found
