"""What the sections of a configuration take: one pydantic model each, with a model inside for every domain where a run
has several."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, create_model

from unitrans.domains.base import domain_names, get_domain, several_domains
from unitrans.errors import ConfigError, user_errors
from unitrans.training.arguments import TrainConfig
from unitrans.training.parameters import parameters_of
from unitrans.training.yaml12 import dump_value


def section_classes(domain: str, layers: Mapping[str, Any]) -> dict[str, type[BaseModel]]:
    """The classes of data, model, objective and train for the model and objective that these layers name."""
    if several_domains(domain):
        return _joint_classes(domain, layers)
    return {
        "data": get_domain(domain).DataConfig,
        "model": _named(model_class(layers["model"]["name"]), layers["model"]["name"], "model"),
        "objective": _named(
            objective_class(layers["objective"]["name"], domain).Options,
            layers["objective"]["name"],
            "objective",
        ),
        "train": TrainConfig,
    }


def _named(cls: type, name: str, section: str, without: tuple[str, ...] = ()) -> type[BaseModel]:
    """What a class takes and its name; without some of it."""
    text = f"Which {section}; the other keys of this section belong to it."
    own = parameters_of(cls)
    named: dict[str, Any] = {"name": (str, Field(name, description=text))}
    if without:
        fields: dict[str, Any] = {
            key: (field.annotation, field) for key, field in own.model_fields.items() if key not in without
        }
        config = ConfigDict(extra="forbid", arbitrary_types_allowed=True, protected_namespaces=())
        return create_model(own.__name__, __config__=config, **named, **fields)
    return create_model(own.__name__, __base__=own, **named)


def _joint_classes(domain: str, layers: Mapping[str, Any]) -> dict[str, type[BaseModel]]:
    """The same for a run on several domains."""
    from unitrans.models.joint.config import FIXED, PARTS, TRUNK
    from unitrans.objectives.msm import TRAVELLERS, check_traveller

    names = domain_names(domain)
    model, objective = layers.get("model", {}), layers.get("objective", {})
    if model.get("name", "joint") != "joint":
        raise ConfigError(
            f"model.name: for several domains expected joint, got {dump_value(model.get('name'))}; the models of the "
            f"domains are model.{names[0]}.name and so on"
        )
    parts: dict[str, dict[str, Any]] = {"model": {}, "objective": {}}
    for name in names:
        kind = (model.get(name) or {}).get("name", PARTS[name][0])
        if kind not in PARTS[name]:
            raise ConfigError(
                f"model.{name}.name: expected {' or '.join(PARTS[name])}, whose blocks can be shared, got "
                f"{dump_value(kind)}"
            )
        parts["model"][name] = _named(model_class(kind), kind, "model", (*TRUNK, *FIXED))
        kind = (objective.get(name) or {}).get("name", TRAVELLERS[name][0])
        with user_errors():
            check_traveller(name, kind, objective.get(name) or {})
        parts["objective"][name] = _named(objective_class(kind, name).Options, kind, "objective")
    made = {}
    for section, cls in (
        ("model", model_class("joint")),
        ("objective", objective_class("msm", domain).Options),
    ):
        about = {"model": "The way in and out of", "objective": "What is hidden in"}[section]
        trunk = _named(cls, {"model": "joint", "objective": "msm"}[section], section, tuple(PARTS))
        fields: dict[str, Any] = {
            name: (part, Field(default_factory=part, description=f"{about} {name}."))
            for name, part in parts[section].items()
        }
        made[section] = create_model(trunk.__name__, __base__=trunk, **fields)
    return made | {"data": get_domain(domain).DataConfig, "train": TrainConfig}


def model_class(name: Any) -> Any:
    """The configuration class of a model. ConfigError names the known ones."""
    from unitrans.models.registry import get_family

    with user_errors():
        return get_family(name).config_class


def objective_class(name: Any, domain: str) -> Any:
    """The class of an objective. ConfigError where it is not for this domain, or these."""
    from unitrans.objectives import get_objective

    if not isinstance(name, str):
        raise ConfigError(f"objective.name: expected a name, got {dump_value(name)}")
    with user_errors():
        cls = get_objective(name)
        names = domain_names(domain)
    if cls.joint != (len(names) > 1):
        several = "several domains, such as vision,text" if cls.joint else "one domain at a time"
        raise ConfigError(f"objective {name} is for {several}, got {domain}")
    if not set(names) <= set(cls.domains):
        raise ConfigError(
            f"objective {name} is not for the domain {domain}: it is for {', '.join(cls.domains)}"
        )
    return cls
