"""Weights that join a run on several domains, or leave one: the same tensors under other names."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from unitrans.errors import ConfigError
from unitrans.models.joint.config import FIXED, PARTS, TRUNK, domain_of, part_of
from unitrans.objectives.model import MaskedSignalConfig


def is_joint(encoder: Mapping[str, Any]) -> bool:
    """Whether this is the stored configuration of a model of several domains."""
    return encoder.get("model_type") == "unitrans-joint"


def leave_settings(encoder: dict[str, Any], domain: str, where: str) -> dict[str, Any]:
    """The stored configuration of one domain's encoder. ConfigError where a joint model has no such domain."""
    part = part_of(encoder, domain)
    if part is None:
        held = ", ".join(name for name in PARTS if encoder.get(name) is not None)
        raise ConfigError(f"{where}: it is a model of {held} and has no part for {domain}")
    return part


def join_settings(encoder: dict[str, Any], names: tuple[str, ...], where: str) -> dict[str, Any]:
    """The ``model`` section of a joint run that starts with this stored encoder, of one domain or of several.

    ConfigError for one whose Blocks cannot be shared, or of a domain that the run does not have.
    """
    if is_joint(encoder):
        found = {name: part for name in names if (part := part_of(encoder, name)) is not None}
    else:
        domain = domain_of(encoder)
        if domain not in names:
            raise ConfigError(
                f"{where}: it is a {_kind(encoder)}, which is no part of a run on {', '.join(names)}"
            )
        found = {domain: encoder}
        for key, value in FIXED.items():
            if encoder.get(key, value) != value:
                raise ConfigError(
                    f"{where}: model.{key} is {encoder[key]} there, and the blocks of a joint model need {value}"
                )
    section: dict[str, Any] = {"name": "joint"} | {key: encoder[key] for key in TRUNK if key in encoder}
    for name, part in found.items():
        section[name] = {"name": _kind(part)} | {k: v for k, v in part.items() if k not in (*TRUNK, *FIXED)}
    return section


def _kind(encoder: Mapping[str, Any]) -> str:
    return str(encoder.get("model_type")).removeprefix("unitrans-")


def left(
    stored: dict[str, Any], weights: Mapping[str, Tensor], here: Mapping[str, Any], where: str
) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """The configuration and the weights that a domain's own model would have, of a joint checkpoint.

    here: the encoder of the model that is filled.
    """
    domain = domain_of(here)
    if domain is None:
        raise ConfigError(f"{where}: it is a joint model, whose blocks do not fit a {_kind(here)}")
    part = leave_settings(stored["encoder"], domain, where)
    options = (stored.get("objective_options") or {}).get(domain) or {}
    alone = stored | {"encoder": part, "objective": options.get("name"), "labels": None}
    names = {f"encoder.parts.{domain}.": "encoder.", "encoder.blocks.": "encoder.blocks."}
    names |= {f"head.heads.{domain}.": "head."}
    return alone, _renamed(weights, names)


class JointPart:
    """A domain of a joint model, looking like a model of that domain alone: the same tensors under its names."""

    def __init__(self, model: Any, there: Mapping[str, Any], where: str) -> None:
        domain = domain_of(there)
        if domain not in model.encoder.parts:
            held = ", ".join(model.encoder.parts)
            raise ConfigError(f"{where}: it is a {_kind(there)}, which is no part of a model of {held}")
        objective = model.objective.parts[domain]
        self.model, self.domain, self.head = model, domain, model.head.heads[domain]
        self.config = MaskedSignalConfig(
            encoder=model.config.encoder_config.parts[domain].to_dict(), objective=objective.name
        )

    def state_dict(self) -> dict[str, Tensor]:
        """Its tensors by their names in a model of this domain alone."""
        names = {"encoder.blocks.": "encoder.blocks.", f"encoder.parts.{self.domain}.": "encoder."}
        return _renamed(self.model.state_dict(), names | {f"head.heads.{self.domain}.": "head."})


def _renamed(weights: Mapping[str, Tensor], names: Mapping[str, str]) -> dict[str, Tensor]:
    """Those tensors whose names begin with one of the keys, which the values replace."""
    return {
        new + key.removeprefix(old): tensor
        for key, tensor in weights.items()
        for old, new in names.items()
        if key.startswith(old)
    }
