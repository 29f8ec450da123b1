"""The one list of model families: commands, `create`, `list_models` and transformers' Auto classes follow it.

A family is a folder that calls `register_model` when it is imported. What is said there is plain data: classes and
tables are named as "module:Name" and imported when they are used, so that listing models imports no torch.
"""

from __future__ import annotations

import difflib
import fnmatch
import importlib
import pkgutil
from collections.abc import Callable, Iterator, Mapping, MutableMapping
from dataclasses import dataclass, field
from typing import Any

PREFIX = "unitrans-"  # of the model_type of our configurations
Reference = Any  # a class, or "module:Name" of one


@dataclass(frozen=True)
class Family:
    """A family of models; see `register_model`."""

    name: str
    config: Reference
    model: Reference
    auto: Mapping[str, Reference] = field(default_factory=dict)
    formats: Reference | None = None
    layouts: tuple[str, ...] = ()
    sizes: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    shared_in: str | None = None

    @property
    def config_class(self) -> Any:
        """The configuration class of the encoder."""
        return resolve(self.config)

    @property
    def model_class(self) -> Any:
        """The class of the encoder."""
        return resolve(self.model)

    def classifier(self) -> Any | None:
        """The class of the model with a classifier of whole samples; None: it has none of its own."""
        heads = (self.auto[name] for name in _CLASSIFIERS if name in self.auto)
        return next((resolve(head) for head in heads), None)


_CLASSIFIERS = ("AutoModelForImageClassification", "AutoModelForSequenceClassification")
_FAMILIES: dict[str, Family] = {}
_announced: dict[str, Family] = {}
_complete = False


def register_model(
    name: str,
    *,
    config: Reference,
    model: Reference,
    auto: Mapping[str, Reference] | None = None,
    formats: Reference | None = None,
    layouts: tuple[str, ...] = (),
    sizes: Mapping[str, Mapping[str, Any]] | None = None,
    shared_in: str | None = None,
) -> Family:
    """Makes a family known by name.

    Args:
        name: what `model.name` of a run can be; the configuration's model_type is "unitrans-NAME", or any where it is
            given as a class.
        config, model: configuration and encoder, as classes or "module:Name". The encoder follows
            `unitrans.models._encoder.Encoder`.
        auto: classes with a head, by the Auto class of transformers that makes them.
        formats: the `unitrans.models._weights.Format`s of published weights, a tuple or "module:NAME".
        layouts: names of the layouts in these formats, for the commands.
        sizes: name of a published size -> its fields of the configuration.
        shared_in: the domain whose part of a joint model it can be.

    Raises:
        ValueError: another family has this name, or one of the sizes'.
    """
    sizes = dict(sizes or {})
    taken = {size: other.name for other in _FAMILIES.values() for size in (other.name, *other.sizes)}
    for each in (name, *sizes):
        if each in taken:
            raise ValueError(f"model {name}: the name {each!r} is taken by the family {taken[each]}")
    family = Family(name, config, model, dict(auto or {}), formats, tuple(layouts), sizes, shared_in)
    _FAMILIES[name] = family
    return family


def unregister_model(name: str) -> None:
    """Forgets a family."""
    _FAMILIES.pop(name)
    _announced.pop(name, None)


def families() -> dict[str, Family]:
    """All families by name: the folders of this package, then others in the order of their registration."""
    global _complete
    if not _complete:
        _complete = True
        others = list(_FAMILIES)
        folders()
        for name in others:  # behind ours
            _FAMILIES[name] = _FAMILIES.pop(name)
    return _FAMILIES


def folders() -> list[Any]:
    """The folders of this package, each a module; importing them registers their families."""
    package = importlib.import_module(__package__)
    found = [module.name for module in pkgutil.iter_modules(package.__path__) if module.ispkg]
    return [importlib.import_module(f"{package.__name__}.{name}") for name in found]


def get_family(name: object) -> Family:
    """A family by name. ValueError names the known ones and the nearest."""
    known = families()
    if isinstance(name, str) and name in known:
        return known[name]
    raise ValueError(
        f"unknown model {name!r}: expected one of {', '.join(sorted(known))}{_nearest(name, known)}"
    )


def family_of(config: Any) -> Family | None:
    """The family of a configuration, or of a stored one (a mapping with its model_type); None for others."""
    kind = config.get("model_type") if isinstance(config, Mapping) else getattr(config, "model_type", None)
    known = families()
    name = str(kind)
    if name.startswith(PREFIX) and name.removeprefix(PREFIX) in known:
        return known[name.removeprefix(PREFIX)]
    others = (family for family in known.values() if not isinstance(family.config, str))
    return next((family for family in others if getattr(family.config, "model_type", None) == kind), None)


def sizes() -> dict[str, Family]:
    """Every named size and the family that it belongs to."""
    return {size: family for family in families().values() for size in family.sizes}


def list_models(pattern: str = "*") -> list[str]:
    """Names of published sizes that `create` takes, sorted; pattern: with * and ? (``"swin*"``)."""
    return sorted(name for name in sizes() if fnmatch.fnmatchcase(name, pattern))


def create(name: str, *, num_labels: int | None = None, **fields: Any) -> Any:
    """A fresh model of a published size.

    Args:
        name: a size (`list_models`), or a family, which has its defaults.
        num_labels: classes of a classifier; None or 0: the encoder alone.
        fields: of the configuration, in place of those of the size.

    Returns:
        The encoder, or with num_labels the model with a classifier, with fresh weights, in training mode.

    Raises:
        ValueError: an unknown name (the nearest is named), an unknown field, or a family without a classifier.

    Example:
        >>> unitrans.create("swin_tiny_patch4_window7_224", num_labels=10)
    """
    named = sizes()
    if name not in named and name not in families():
        known = [*named, *families()]
        raise ValueError(
            f"model {name!r}: expected a name of unitrans.list_models() or one of {', '.join(families())}"
            f"{_nearest(name, known)}"
        )
    family = named.get(name) or families()[name]
    values = {**family.sizes.get(name, {}), **fields}
    unknown = sorted(fields.keys() - family.config_class().to_dict().keys())
    if unknown:
        raise ValueError(f"{unknown[0]}: expected a setting of {family.name}, got an unknown one")
    announce()
    if not num_labels:
        return family.model_class(family.config_class(**values))
    classifier = family.classifier()
    if classifier is None:
        raise ValueError(
            f"num_labels: {family.name} has no classifier of its own, expected none; train one with unitrans train "
            f"--objective classification"
        )
    return classifier(family.config_class(**values, num_labels=num_labels))


def _nearest(name: object, known: Any) -> str:
    close = difflib.get_close_matches(str(name), [str(each) for each in known], n=1, cutoff=0.5)
    return f"; did you mean {close[0]!r}?" if close else ""


def resolve(reference: Reference) -> Any:
    """What "module:Name" names; anything else is what is meant already."""
    if not isinstance(reference, str):
        return reference
    module, _, name = reference.partition(":")
    return getattr(importlib.import_module(module), name)


def announce() -> None:
    """Lets transformers' Auto classes know all families (once each)."""
    pending = [family for name, family in families().items() if name not in _announced]
    if not pending:
        return
    import transformers

    for family in pending:
        _announced[family.name] = family
        config = family.config_class
        if not hasattr(config, "model_type"):
            continue
        transformers.AutoConfig.register(config.model_type, config, exist_ok=True)
        transformers.AutoModel.register(config, family.model_class, exist_ok=True)
        for auto, head in family.auto.items():
            getattr(transformers, auto).register(config, resolve(head), exist_ok=True)


def find_class(name: str) -> Any | None:
    """The class with this name: one of this package, or an encoder or head of a registered family."""
    folder = next((folder for folder in folders() if name in folder.__all__), None)
    if folder is not None:
        return getattr(folder, name)
    references = (each for family in families().values() for each in (family.model, *family.auto.values()))
    return next((cls for cls in map(resolve, references) if cls.__name__ == name), None)


def make_config(model_type: str, **fields: Any) -> Any:
    """The configuration of this model_type.

    Raises:
        ValueError: no family of ours has it. transformers' own are not taken: with `auto_map` beside the weights it
            would offer to run code.
    """
    announce()
    from transformers import CONFIG_MAPPING, AutoConfig, PreTrainedConfig

    fields.pop("auto_map", None)
    config = (
        AutoConfig.for_model(model_type, **fields) if model_type in CONFIG_MAPPING else PreTrainedConfig()
    )
    if type(config).__module__.startswith("transformers."):
        raise ValueError(
            f"config.json: expected an encoder of this program, got the model_type {model_type!r}"
        )
    return config


def make_encoder(config: Any) -> Any:
    """The encoder of a configuration, with fresh weights."""
    announce()
    from transformers import AutoModel

    return AutoModel.from_config(config)


def lazy_names(package: str, *modules: str) -> Callable[[str], Any]:
    """A module-level ``__getattr__`` that finds public names in these modules of a package."""

    def find(name: str) -> Any:
        if not name.startswith("_"):
            for module in modules:
                found = importlib.import_module(f"{package}.{module}")
                if hasattr(found, name):
                    return getattr(found, name)
        raise AttributeError(f"module {package!r} has no attribute {name!r}")

    return find


class OldTable(MutableMapping[str, tuple[Any, Any]]):
    """`unitrans.models.MODELS` of earlier versions: name -> (configuration, encoder)."""

    def __getitem__(self, name: str) -> tuple[Any, Any]:
        family = families()[name]
        return family.config_class, family.model_class

    def __setitem__(self, name: str, classes: tuple[Any, Any]) -> None:
        if name in families():
            unregister_model(name)
        register_model(name, config=classes[0], model=classes[1])

    def __delitem__(self, name: str) -> None:
        families()
        unregister_model(name)

    def __iter__(self) -> Iterator[str]:
        return iter(list(families()))

    def __len__(self) -> int:
        return len(families())
