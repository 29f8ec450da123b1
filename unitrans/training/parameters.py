"""What a class can be configured with: names, types, defaults and help, as a pydantic model."""

from __future__ import annotations

import dataclasses
import inspect
import re
from functools import lru_cache
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError, create_model
from pydantic.fields import FieldInfo

from unitrans.errors import ConfigError, nearest_name
from unitrans.training.yaml12 import dump_value, shown


def docstring_help(text: str | None, names: set[str]) -> dict[str, str]:
    """name -> help from the entries "name: text" and "name, name: text" of a docstring's lists."""
    found: dict[str, str] = {}
    current: list[str] = []
    for line in inspect.cleandoc(text or "").splitlines():
        match = re.match(r"\s*(\w+(?:, \w+)*)(?: \([^)]*\))?: (.*)", line)
        if match and set(match.group(1).split(", ")) <= names:
            current = match.group(1).split(", ")
            line = match.group(2)
        elif not line.strip():
            current = []
        for name in current:
            found[name] = f"{found.get(name, '')} {line.strip()}".strip()
    return found


def _declared(cls: type) -> dict[str, tuple[Any, Any]]:
    """name -> (type, default) of what a configuration dataclass declares itself; transformers' base has many more."""
    assert dataclasses.is_dataclass(cls), f"{cls} is neither a dataclass nor a pydantic model"
    hints: dict[str, Any] = {}
    for base in reversed(cls.__mro__):
        if not base.__module__.startswith("transformers."):
            hints |= inspect.get_annotations(base, eval_str=True)
    fields = [
        field for field in dataclasses.fields(cls) if field.name in hints and not field.name.startswith("_")
    ]
    return {field.name: (hints[field.name], _default(field)) for field in fields}


def _default(field: dataclasses.Field[Any]) -> Any:
    if field.default is not dataclasses.MISSING:
        return field.default
    return ... if field.default_factory is dataclasses.MISSING else field.default_factory()


@lru_cache(maxsize=32)
def parameters_of(cls: type) -> type[BaseModel]:
    """The pydantic model of what ``cls`` takes: itself if it is one, else made from a dataclass and its docstring."""
    if issubclass(cls, BaseModel):
        return cls
    declared = _declared(cls)
    help_text: dict[str, str] = {}
    for base in reversed(cls.__mro__):  # a variant describes only what it adds
        help_text |= docstring_help(base.__doc__, set(declared))
    fields: dict[str, Any] = {
        name: (kind, Field(default, description=help_text.get(name)))
        for name, (kind, default) in declared.items()
    }
    config = ConfigDict(extra="forbid", arbitrary_types_allowed=True, protected_namespaces=())
    return create_model(cls.__name__, __config__=config, **fields)


def validate(cls: type, values: dict[str, Any], section: str) -> dict[str, Any]:
    """The complete arguments of ``cls`` (plain YAML values, tuples as lists), defaults filled in.

    ConfigError in one sentence: name, what was expected, what came, a value that would do.
    """
    model = parameters_of(cls)
    values = dict(values)
    for name, field in model.model_fields.items():
        inner, given = nested(field), values.get(name)
        if inner is not None and (given is None or isinstance(given, dict)):
            values[name] = validate(inner, given or {}, f"{section}.{name}")
    try:
        return _plain(model.model_validate(values).model_dump())
    except ValidationError as error:
        raise ConfigError(_sentence(error, model, section, values)) from None


def nested(field: FieldInfo) -> type[BaseModel] | None:
    """The pydantic model of a section inside a section; None for any other field."""
    kind = field.annotation
    return kind if isinstance(kind, type) and issubclass(kind, BaseModel) else None


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        first = {"name": value["name"]} if "name" in value else {}
        return {key: _plain(item) for key, item in (first | value).items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    return value


def unknown_key(section: str, key: str, valid: list[str]) -> str:
    """The sentence for a key that a section does not have."""
    if section == "train":
        from unitrans.training.arguments import refusal

        reason = refusal(key)
        if reason is not None:
            return f"train.{key} of TrainingArguments is not taken: {reason}"
    prefixed = [f"{section}.{name}" for name in valid]
    return (
        f"unknown key {section}.{key}{nearest_name(f'{section}.{key}', prefixed)} (all keys: --print-config)"
    )


_EXPECTED = {
    "int": "a whole number",
    "float": "a number",
    "bool": "true or false",
    "string": "a word or text",
    "list": "a list",
    "tuple": "a list",
    "dict": "a mapping",
    "none": "null",
}


def _expected(detail: Any) -> str:
    kind = detail["type"]
    context = detail.get("ctx", {})
    if kind == "literal_error":
        return f"one of {context['expected']}".replace("'", "").replace(" or ", ", ")
    if kind == "finite_number":
        return "a finite number"
    if kind == "int_parsing_size":
        return "a smaller whole number"
    if kind == "string_too_short":
        return "a word or text"
    if kind in ("too_long", "too_short", "missing"):  # "missing" inside a value: a list with too few numbers
        return "a list of another length"
    for prefix, text in _EXPECTED.items():
        if kind in (f"{prefix}_type", f"{prefix}_parsing", f"{prefix}_from_float", f"{prefix}_required"):
            return text
    message = detail["msg"].removeprefix("Value error, ")
    return str(message.replace("Input should be", "a value").removeprefix("expected "))


def _sentence(error: ValidationError, model: type[BaseModel], section: str, values: dict[str, Any]) -> str:
    """One sentence for the first key that is wrong; the branches of a union are joined."""
    details = error.errors()
    if not details[0]["loc"]:  # a rule across keys
        rule = _expected(details[0])
        return rule if rule.startswith(f"{section}.") else f"{section}: {rule}"
    unknown = [detail for detail in details if detail["type"] == "extra_forbidden"]
    if unknown:
        return unknown_key(section, str(unknown[0]["loc"][0]), list(model.model_fields))
    name = str(details[0]["loc"][0])
    same = [detail for detail in details if detail["loc"][0] == name]
    if same[0]["type"] == "missing":
        return f"{section}.{name} is missing: give it a value"
    # In a list the branch that got furthest says most; otherwise every branch is one thing that was expected.
    expected = " or ".join(
        dict.fromkeys(_expected(detail) for detail in same if detail["type"] != "none_required")
    )
    got = values[name]
    default = model.model_fields[name].default
    example = (
        "" if default in (..., None, -1) else f"; for example {section}.{name}={dump_value(_plain(default))}"
    )
    suggestion = ""
    if same[0]["type"] == "literal_error" and isinstance(got, str):
        suggestion = nearest_name(
            got, [part.strip(" '") for part in expected.removeprefix("one of ").split(",")]
        )
        example = "" if suggestion else example
    came = "" if ", got " in expected else f", got {shown(got)}"
    return f"{section}.{name}: expected {expected}{came}{suggestion}{example}"
