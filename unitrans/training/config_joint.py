"""Sections of a run on several domains before they are checked: what they are short for, and what is their default."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from unitrans.domains.base import get_domain_names, joined_name
from unitrans.errors import ConfigError
from unitrans.training.yaml12 import dump_value

SECTIONS = ("data", "model", "objective", "train")


def parts_of(section: str, content: Mapping[str, Any]) -> dict[str, Any]:
    """A section of a joint run, in which that of every domain has keys; ``model.vision: vit`` is short for its name.

    ConfigError for a domain that is given a value.
    """
    found = dict(content)
    for name in get_domain_names():
        part = found.get(name, {})
        if isinstance(part, str) and section != "data":
            found[name] = {"name": part}
        elif part is None:
            del found[name]
        elif not isinstance(part, dict):
            key = "path" if section == "data" else "name"
            raise ConfigError(
                f"{section}.{name}: expected keys and values, as in {section}.{name}.{key}=VALUE, got "
                f"{dump_value(part)}"
            )
    return found


def take_own(
    domain: str,
    joint: dict[str, Any],
    layers: Mapping[str, Any],
    defaults: Callable[[str, str, dict[str, Any]], dict[str, Any]],
) -> None:
    """Lets a domain of a joint run whose data are not those that the joint defaults are made for read and hide them as
    a run on that domain alone would by default, and cut them into patches of the model's usual size.

    Args:
        joint: the defaults, which change.
        layers: what is given.
        defaults: of (domain, objective, layers).
    """
    given = {section: layers.get(section, {}).get(domain, {}) for section in ("data", "objective")}
    path = given["data"].get("path", joint["data"][domain]["path"])
    if path == joint["data"][domain]["path"]:
        return
    kind = given["objective"].get("name", joint["objective"][domain]["name"])
    own = defaults(domain, kind, {"data": {"path": path}})
    joint["data"][domain] = own.get("data", {})
    joint["objective"][domain] = {"name": kind} | own.get("objective", {})
    joint["model"][domain].pop("patch_size", None)


def of_domains(layer: dict[str, Any], names: Sequence[str]) -> dict[str, Any]:
    """A configuration for all domains without those that a run does not have."""
    others = {name for name in get_domain_names() if name not in names}

    def kept(value: Any) -> Any:
        return {k: kept(v) for k, v in value.items() if k not in others} if isinstance(value, dict) else value

    return {"domain": joined_name(names)} | {section: kept(layer.get(section, {})) for section in SECTIONS}
