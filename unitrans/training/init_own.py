"""Models of this program that save_pretrained wrote, as ``unitrans convert`` does: folders that are no runs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from unitrans.models import registry
from unitrans.models._weights import resize_rule
from unitrans.training.parameters import parameters_of


def own_encoder(stored: Any) -> dict[str, Any] | None:
    """The settings of the encoder by the config.json of such a folder; None for any other config.json."""
    family = registry.family_of(stored) if isinstance(stored, dict) else None
    if family is None or stored["model_type"] != family.config_class.model_type:
        return None
    fields = parameters_of(family.config_class).model_fields
    kept = {key: value for key, value in stored.items() if key in fields}
    return kept | {"model_type": stored["model_type"]}


def as_checkpoint(
    stored: Mapping[str, Any], weights: Mapping[str, Tensor]
) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """The config.json and the weights of such a folder as a checkpoint of a run has them: encoder.* and head.*.

    ValueError where they do not say what they are.
    """
    name = str((stored.get("architectures") or [""])[0])
    cls = registry.find_class(name)
    family = registry.family_of(stored)
    if cls is None or family is None:
        raise ValueError("its config.json names no architecture of this program")
    prefixes = ("encoder.", f"{cls.base_model_prefix}.")  # of the encoder in a model with a head
    bare = cls is family.model_class
    found: dict[str, Tensor] = {}
    for key, tensor in weights.items():
        prefix = "" if bare else next((p for p in prefixes if key.startswith(p)), None)
        found[f"head.{key}" if prefix is None else f"encoder.{key.removeprefix(prefix)}"] = tensor
    rule = resize_rule(family.config_class)
    return {"encoder": own_encoder(stored), "objective": name, "resize": rule}, found
