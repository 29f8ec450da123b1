"""The configuration of a run: four sections, from defaults, a file and ``key=value`` settings, in rising order."""

from __future__ import annotations

import errno
import textwrap
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from unitrans.domains.base import (
    Domain,
    domain_names,
    get_domain,
    several_domains,
)
from unitrans.errors import ConfigError, nearest_name, user_errors
from unitrans.training.arguments import TrainConfig
from unitrans.training.config_joint import SECTIONS, of_domains, parts_of, take_own
from unitrans.training.parameters import nested, unknown_key, validate
from unitrans.training.sections import model_class, objective_class, section_classes
from unitrans.training.yaml12 import dump_value, load

_ABOUT = {
    "data": "What is read, and how it becomes samples.",
    "model": "The encoder.",
    "objective": "What is hidden, and what is predicted.",
    "train": "The run. Names, types and help of transformers.TrainingArguments, and a few of ours.",
}

# A model parameter that is a property of the data follows it unless it is given.
_FOLLOWS = {"in_chans": "channels", "image_size": "image_size"}


@dataclass(frozen=True)
class RunConfig:
    """A complete, checked configuration; every section holds all its keys as plain YAML values."""

    domain: str
    data: dict[str, Any]
    model: dict[str, Any]
    objective: dict[str, Any]
    train: dict[str, Any]

    def get_domain(self) -> Domain:
        """The domain named by the configuration."""
        return get_domain(self.domain)

    def data_config(self) -> Any:
        """The domain's own DataConfig."""
        return self.get_domain().DataConfig(**self.data)

    def model_config(self) -> Any:
        """The model's own configuration object. ValueError where its values do not go together."""
        fields = _without_name(self.model)
        if several_domains(self.domain):
            for name in domain_names(self.domain):
                part = _without_name(fields[name])
                fields[name] = part | {"model_type": "unitrans-" + self.model[name]["name"]}
        return model_class(self.model["name"])(**fields)

    def objective_class(self) -> Any:
        """The class of the objective."""
        return objective_class(self.objective["name"], self.domain)

    @property
    def data_name(self) -> str:
        """What is read, in words."""
        if several_domains(self.domain):
            return ", ".join(f"{name} {self.data[name]['path']}" for name in domain_names(self.domain))
        return str(self.data["path"])

    def make_objective(self, model_config: Any, labels: Any = None) -> Any:
        """The objective for this encoder and these labels. ValueError where they do not fit."""
        from unitrans.objectives import make_objective

        return make_objective(self.objective["name"], model_config, _without_name(self.objective), labels)

    def to_dict(self) -> dict[str, Any]:
        """Plain YAML values."""
        return {"domain": self.domain} | {section: dict(getattr(self, section)) for section in SECTIONS}

    def to_yaml(self) -> str:
        """The whole configuration as YAML, every key explained; ``--config`` takes it back."""
        lines = [*_comment("Which domain reads the data."), f"domain: {dump_value(self.domain)}"]
        classes = section_classes(self.domain, self.to_dict())
        for section in SECTIONS:
            lines += ["", *_comment(_ABOUT[section]), f"{section}:"]
            lines += _explained(classes[section], getattr(self, section), "  ")
        return "\n".join(lines) + "\n"


def _explained(cls: type[BaseModel], values: dict[str, Any], indent: str) -> list[str]:
    """Lines of YAML, every key with its description in front."""
    lines = []
    for key, value in values.items():
        field = cls.model_fields[key]
        lines += _comment(field.description or "(not described)", indent)
        inner = nested(field)
        if inner is None:
            lines.append(f"{indent}{key}: {dump_value(value)}")
        else:
            lines += [f"{indent}{key}:", *_explained(inner, value, indent + "  ")]
    return lines


def _comment(text: str, indent: str = "") -> list[str]:
    return textwrap.wrap(
        " ".join(text.split()), 100, initial_indent=f"{indent}# ", subsequent_indent=f"{indent}# "
    )


def _without_name(section: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in section.items() if key != "name"}


def configs_folder() -> Path:
    """Where the shipped configurations are: in the package, or beside it in a source tree."""
    package = Path(__file__).resolve().parents[1]
    for folder in (package / "configs", package.parent / "configs"):
        if folder.is_dir():
            return folder
    raise FileNotFoundError(f"the shipped configurations are missing from {package}: install unitrans again")


def shipped_configurations() -> dict[str, Path]:
    """Name -> file; a recipe is named with its folder, as in recipes/simmim-swin-base-100ep."""
    folder = configs_folder()
    return {str(file.relative_to(folder).with_suffix("")): file for file in sorted(folder.rglob("*.yaml"))}


def read_file(path: str) -> dict[str, Any]:
    """A configuration file, or a shipped one by name. ``base: NAME`` in it takes another one as its defaults.

    ConfigError for one that cannot be used."""
    shipped = shipped_configurations()
    file = Path(path).expanduser()
    if not file.exists() and path in shipped:
        file = shipped[path]
    if file.is_dir():
        raise ConfigError(f"--config {path} is a folder, expected a YAML file such as {file / 'config.yaml'}")
    if not file.is_file():
        names = ", ".join(sorted(shipped))
        hint = nearest_name(path, shipped)
        raise ConfigError(
            f"--config {path}: there is no such file, and no shipped configuration of that name ({names}){hint}"
        )
    try:
        content = load(file.read_text(encoding="utf-8"))
    except (ValueError, OSError) as error:
        reason = (
            "it is not text in UTF-8" if isinstance(error, UnicodeError) else " ".join(str(error).split())
        )
        raise ConfigError(f"--config {path} cannot be read as YAML: {reason}") from None
    base = content.pop("base", None) if isinstance(content, dict) else None
    layer = _checked_layer({} if content is None else content, f"--config {path}")
    return layer if base is None else _merge(_base_of(base, file, path), layer)


def _base_of(base: Any, file: Path, path: str) -> dict[str, Any]:
    """The configuration that a file builds on: a shipped one, or a file beside it."""
    if not isinstance(base, str):
        raise ConfigError(
            f"--config {path}: base: expected the name of a configuration, got {dump_value(base)}"
        )
    beside = file.parent / base
    name = str(beside) if beside.is_file() else base
    if beside.is_file() and beside.samefile(file):
        raise ConfigError(f"--config {path}: base: {base} is the file itself")
    try:
        return read_file(name)
    except RecursionError:
        raise ConfigError(f"--config {path}: base: the files build on each other in a circle") from None


def _checked_layer(content: Any, where: str) -> dict[str, Any]:
    """A layer has the sections and nothing else; ``objective: mim`` is short for ``objective: {name: mim}``."""
    if not isinstance(content, dict):
        raise ConfigError(f"{where}: expected sections ({', '.join(SECTIONS)}), got {dump_value(content)}")
    layer: dict[str, Any] = {}
    for key, value in content.items():
        if key == "domain":
            if not isinstance(value, str):
                raise ConfigError(f"{where}: domain: expected a name, got {dump_value(value)}")
            layer[key] = value
        elif key not in SECTIONS:
            hint = nearest_name(key, [*SECTIONS, "domain"])
            raise ConfigError(
                f"{where}: unknown section {key!r}: expected {', '.join(SECTIONS)} or domain{hint}"
            )
        elif isinstance(value, str) and key in ("model", "objective"):
            layer[key] = {"name": value}
        elif isinstance(value, dict):
            layer[key] = value
        elif value is not None:
            raise ConfigError(f"{where}: {key}: expected keys and values, got {dump_value(value)}")
    return layer


def read_settings(settings: Sequence[str]) -> dict[str, Any]:
    """``key.sub=value`` settings as a layer; values are YAML."""
    layer: dict[str, Any] = {}
    for setting in settings:
        name, equals, text = setting.partition("=")
        if not equals or not name:
            raise ConfigError(f"expected key=value such as train.max_steps=100, got {setting!r}")
        try:
            value = load(text)
        except ValueError as error:
            raise ConfigError(
                f"{name[:200]}: the value {text[:200]!r} cannot be read as YAML ({error}); put text in quotes, as in "
                f"""'{name}="..."'"""
            ) from None
        if isinstance(value, str) and text.strip()[:1] not in "\"'|>":
            value = text.strip()  # as typed: " #2" at the end of a folder's name is no comment
        *path, last = name.split(".")
        if not path and last in SECTIONS and not (last in ("model", "objective") and isinstance(value, str)):
            raise ConfigError(f"{name} is a section: set its keys, as in {last}.KEY=VALUE")
        if (path[0] if path else last) not in (*SECTIONS, "domain"):
            raise ConfigError(f"unknown key {name}{_full_name(name)} (all keys: --print-config)")
        target = layer
        for part in path:
            target = target.setdefault(part, {})
            if not isinstance(target, dict):
                raise ConfigError(f"{name}: {part} is given a value and keys at once")
        if last in target:
            raise ConfigError(f"{name} is given twice")
        target[last] = value
    return _checked_layer(layer, "command line")


def _full_name(name: str) -> str:
    """The full name that a key without (or with a mistaken) section most likely stands for."""
    names = [f"train.{key}" for key in TrainConfig.model_fields]
    names += [f"data.{key}" for key in get_domain("vision").DataConfig.model_fields]
    exact = [full for full in names if full.split(".")[1] == name.split(".")[-1]]
    return f"; did you mean {exact[0]!r}?" if exact else nearest_name(name, names)


def _merge(low: dict[str, Any], high: dict[str, Any]) -> dict[str, Any]:
    """``high`` over ``low``, section by section; another model or objective does not inherit the keys of the first."""
    merged = dict(low)
    for key, value in high.items():
        below = merged.get(key)
        if isinstance(value, dict) and isinstance(below, dict):
            same = value.get("name", below.get("name")) == below.get("name", value.get("name"))
            merged[key] = _merge(below, value) if same else value
        else:
            merged[key] = value
    return merged


def resolve(
    *,
    domain: str | None = None,
    objective: str | None = None,
    data: str | None = None,
    config: str | None = None,
    init: str | None = None,
    target: str | None = None,
    tokenizer: str | None = None,
    settings: Sequence[str] = (),
) -> RunConfig:
    """The complete configuration of a run. ``settings`` and flags beat the file, the file beats the defaults.

    The defaults are configs/DOMAIN-OBJECTIVE-DATA.yaml if there is one for this (embedded) data set, otherwise
    configs/DOMAIN-OBJECTIVE.yaml. ConfigError says in one sentence what is wrong.
    """
    flags: dict[str, Any] = {} if domain is None else {"domain": domain}
    flags |= {} if objective is None else {"objective": {"name": objective}}
    if data is not None and several_domains(domain):
        raise ConfigError(
            "--data: name the data of every domain, as in --data.text FILE --data.vision FOLDER"
        )
    flags |= {} if data is None else {"data": {"path": data}}
    if tokenizer is not None:
        flags["data"] = flags.get("data", {}) | {"tokenizer": tokenizer}
    flags |= {} if init is None else {"train": {"init": init}}
    given = read_settings(settings)
    given_twice = (
        ("--data", "data", "path"),
        ("--objective", "objective", "name"),
        ("--tokenizer", "data", "tokenizer"),
        ("--init", "train", "init"),
    )
    for flag, section, key in given_twice:
        if key in flags.get(section, {}) and key in given.get(section, {}):
            raise ConfigError(f"{flag} and {section}.{key}= are both given: leave one out")
    file = read_file(config) if config is not None else {}
    if several_domains(file.get("domain")) and several_domains(domain):
        with user_errors():
            file = of_domains(file, domain_names(str(domain)))
    layers = _merge(file, _merge(flags, given))
    layers.setdefault("domain", "vision")
    name = layers["domain"]
    with user_errors():
        chosen = get_domain(name)
    if several_domains(name):
        layers |= {
            section: parts_of(section, layers[section]) for section in SECTIONS[:3] if section in layers
        }
    if target is not None:
        key = "target" if "target" in chosen.DataConfig.model_fields else "label_column"
        if key in given.get("data", {}):
            raise ConfigError(f"--target and data.{key}= are both given: leave one out")
        layers = _merge(layers, {"data": {key: target}})
    objective_name = layers.get("objective", {}).get("name", chosen.default_objective)
    objective_class(objective_name, name)
    layers["domain"] = name = chosen.name
    defaults = _defaults(name, objective_name, layers)
    start = layers.get("train", {}).get("init")
    if isinstance(start, str):
        from unitrans.training.init import model_settings

        data_section = _merge(defaults, layers).get("data", {})
        field = chosen.DataConfig.model_fields.get("image_size")
        size = data_section.get("image_size", None if field is None else field.default)
        defaults = _merge(defaults, {"model": model_settings(start, layers.get("model", {}), name, size)})
    if hasattr(chosen, "settings"):
        with user_errors():
            defaults = _merge(defaults, chosen.settings(_merge(defaults, layers)))
    layers = _merge(defaults, layers)
    layers = _merge({"objective": {"name": objective_name}}, layers)
    return _complete(name, chosen, layers)


def _defaults(domain: str, objective: str, layers: dict[str, Any]) -> dict[str, Any]:
    folder = configs_folder()
    if several_domains(domain):
        joint = of_domains(read_file(str(folder / f"joint-{objective}.yaml")), domain_names(domain))
        for one in domain_names(domain):
            take_own(one, joint, layers, _defaults)
        return joint
    path = layers.get("data", {}).get("path", get_domain(domain).DataConfig.model_fields["path"].default)
    shipped = {file.name for file in folder.glob("*.yaml")}  # a path may be what no file can be called
    for name in (f"{domain}-{objective}-{path}.yaml", f"{domain}-{objective}.yaml"):
        if name in shipped:
            return read_file(str(folder / name))
    return {}


def _complete(name: str, domain: Domain, layers: dict[str, Any]) -> RunConfig:
    model, several = dict(layers.get("model", {})), several_domains(name)
    if not several and not isinstance(model.get("name"), str):
        raise ConfigError(f"model.name: expected the name of a model, got {dump_value(model.get('name'))}")
    if not several and model["name"] == "joint":
        raise ConfigError(f"model.name: joint is for several domains, such as vision,text, got {name}")
    classes = section_classes(name, layers)
    data = validate(classes["data"], layers.get("data", {}), "data")
    if several:
        for one in domain_names(name):
            inner = nested(classes["model"].model_fields[one])
            assert inner is not None
            model[one] = _following(inner, dict(model.get(one) or {}), data[one])
            data[one] = absolute_paths(data[one], get_domain(one).embedded, section=f"data.{one}")
    else:
        model = _following(classes["model"], model, data)
        data = absolute_paths(data, domain.embedded)
    sections = {
        "model": validate(classes["model"], model, "model"),
        "objective": validate(classes["objective"], dict(layers.get("objective", {})), "objective"),
        "train": validate(classes["train"], layers.get("train", {}), "train"),
    }
    check_schedule(sections["train"])
    sections["train"] = absolute_paths(sections["train"], (), ("init",), "train")
    return RunConfig(domain=name, data=data, **sections)


def _following(cls: type[BaseModel], model: dict[str, Any], data: dict[str, Any]) -> dict[str, Any]:
    """A ``model`` section with what it takes from the data."""
    followed = {key: data[source] for key, source in _FOLLOWS.items() if source in data}
    missing = {k: v for k, v in followed.items() if k in cls.model_fields and model.get(k) is None}
    return model | missing


def check_schedule(train: dict[str, Any]) -> None:
    """lr_scheduler_kwargs belong to multistep, which needs milestones."""
    kwargs = train["lr_scheduler_kwargs"] or {}
    if train["lr_scheduler_type"] != "multistep":
        if kwargs:
            raise ConfigError(
                "train.lr_scheduler_kwargs is only for train.lr_scheduler_type=multistep; "
                f"{train['lr_scheduler_type']} has none: set it to null"
            )
        return
    for key in kwargs:
        if key not in ("milestones", "gamma"):
            raise ConfigError(unknown_key("train.lr_scheduler_kwargs", key, ["milestones", "gamma"]))
    milestones, gamma = kwargs.get("milestones"), kwargs.get("gamma", 0.1)
    if (
        not isinstance(milestones, list)
        or not all((type(m) is int and m > 0) or (type(m) is float and 0 < m < 1) for m in milestones)
        or not milestones
    ):
        raise ConfigError(
            "train.lr_scheduler_kwargs.milestones: expected the updates at which the rate drops, such as "
            f"[7000, 9000], or parts of the run, such as [0.7, 0.9], got {dump_value(milestones)}"
        )
    if not isinstance(gamma, (int, float)) or isinstance(gamma, bool) or not 0 < gamma <= 1:
        raise ConfigError(
            f"train.lr_scheduler_kwargs.gamma: expected a factor in (0, 1], got {dump_value(gamma)}"
        )


def absolute_paths(
    data: dict[str, Any],
    embedded: Collection[str],
    keys: Sequence[str] = ("path", "validation", "tokenizer"),
    section: str = "data",
) -> dict[str, Any]:
    """Folders that exist are written down absolute, so that the file repeats the run from anywhere."""

    def absolute(key: str, value: Any) -> Any:
        if not isinstance(value, str) or value in (*embedded, "none"):
            return value
        try:
            if "\0" in value:
                raise OSError(errno.EINVAL, "it holds a NUL character")
            path = Path(value).expanduser()
            if not (path.is_file() or path.is_dir()):
                return value  # absent, or a pipe, whose name in /dev/fd is all it has
            return str(path.resolve())
        except OSError as error:
            raise ConfigError(
                f"{section}.{key}: {value[:100]!r} cannot name a file: {error.strerror}"
            ) from None

    return data | {key: absolute(key, data[key]) for key in keys if key in data}
