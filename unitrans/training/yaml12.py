"""YAML as people expect it: 1e-3 is a number, "no" and "on" are words, a key given twice is an error.

PyYAML reads YAML 1.1; only the scalar rules of the YAML 1.2 core schema are put in their place here.
"""

from __future__ import annotations

import json
import re
from typing import Any

import yaml

_RULES: list[tuple[str, str, str]] = [
    ("bool", r"^(?:true|True|TRUE|false|False|FALSE)$", "tTfF"),
    ("null", r"^(?:~|null|Null|NULL|)$", "~nN"),
    ("int", r"^[-+]?(?:0|[1-9][0-9]*)$", "-+0123456789"),
    (
        "float",
        r"^(?:[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN))$",
        "-+.0123456789",
    ),
]

#: What may be written in front of a value, with two exclamation marks; one alone says nothing.
_TAGS = {"!", "str", "int", "float", "bool", "null", "seq", "map"}
_MAX_DEPTH, _MAX_DIGITS = 50, 1000
#: Values that aliases may make of fewer.
_MAX_REPEATED = 10_000


class _Loader(yaml.SafeLoader):
    yaml_implicit_resolvers = {}

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            if not isinstance(key, str):
                raise ValueError(f"line {key_node.start_mark.line + 1}: a key must be a word, got {key!r}")
            if key in seen:
                raise ValueError(f"line {key_node.start_mark.line + 1}: the key {key!r} is given twice")
            seen.add(key)
        return super().construct_mapping(node, deep)

    def construct_plain(self, node: yaml.ScalarNode) -> Any:
        """A number or a truth value. ValueError for one that its tag does not fit, or with endless digits."""
        line, kind = node.start_mark.line + 1, node.tag.rpartition(":")[2]
        if kind == "int" and len(node.value) > _MAX_DIGITS:
            raise ValueError(f"line {line}: expected at most {_MAX_DIGITS} digits, got {len(node.value):,}")
        try:
            return yaml.SafeLoader.yaml_constructors[node.tag](self, node)
        except (KeyError, IndexError, ValueError):
            raise ValueError(f"line {line}: expected {kind}, got {node.value[:50]!r}") from None


for _tag in ("int", "float", "bool"):
    _Loader.add_constructor(f"tag:yaml.org,2002:{_tag}", _Loader.construct_plain)


class _Dumper(yaml.SafeDumper):
    yaml_implicit_resolvers = {}


for _tag, _pattern, _first in _RULES:
    for _class in (_Loader, _Dumper):
        _chars = list(_first) + ([""] if _tag == "null" else [])
        _class.add_implicit_resolver(f"tag:yaml.org,2002:{_tag}", re.compile(_pattern), _chars)


def load(text: str) -> Any:
    """The value of a YAML text. ValueError with line and column for one that cannot be read, nests deeper than any
    configuration, or grows by aliases."""
    try:
        _check_size(text)
        return yaml.load(text, Loader=_Loader)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f"line {mark.line + 1}, column {mark.column + 1}: " if mark else ""
        raise ValueError(f"{where}{getattr(error, 'problem', None) or error}") from None


def _check_size(text: str) -> None:
    """ValueError for what would take a reader long or too deep. Events come without recursion, aliases as they are."""
    written, size = 0, 0  # values so far, without and with what aliases repeat
    sizes: dict[str, int] = {}  # of what has an anchor
    opened: list[tuple[str | None, int]] = []  # anchors of lists and mappings, and the size before each
    for event in yaml.parse(text, Loader=_Loader):
        line = event.start_mark.line + 1 if event.start_mark else 0
        tag = getattr(event, "tag", None)
        if tag is not None and tag.removeprefix("tag:yaml.org,2002:") not in _TAGS:
            raise ValueError(f"line {line}: the tag {tag!r} has no use here: write the value alone")
        if isinstance(event, yaml.CollectionEndEvent):
            anchor, before = opened.pop()
            if anchor is not None:
                sizes[anchor] = size - before
        elif isinstance(event, yaml.AliasEvent):
            if event.anchor not in sizes and any(anchor == event.anchor for anchor, _ in opened):
                raise ValueError(f"line {line}: *{event.anchor} stands inside of what it names")
            size += sizes.get(str(event.anchor), 1)  # composing names an alias without an anchor
        elif isinstance(event, yaml.NodeEvent):
            if isinstance(event, yaml.CollectionStartEvent):
                opened.append((event.anchor, size))
            elif event.anchor is not None:
                sizes[event.anchor] = 1
            written, size = written + 1, size + 1
        if len(opened) > _MAX_DEPTH:
            raise ValueError(f"line {line}: lists and mappings nest deeper than {_MAX_DEPTH} levels")
        if size > max(written, _MAX_REPEATED):
            raise ValueError(f"line {line}: aliases make more than {_MAX_REPEATED:,} values of {written:,}")


def dump_value(value: Any) -> str:
    """One value on one line, readable back by :func:`load`."""
    if isinstance(value, str) and "\n" in value:
        return json.dumps(value)  # a JSON string is a YAML string
    text: str = yaml.dump(
        value, Dumper=_Dumper, default_flow_style=True, width=float("inf"), allow_unicode=True
    )
    return text.removesuffix("\n").removesuffix("\n...")


def shown(value: Any) -> str:
    """A value for a message: its beginning, if it is long."""
    text = dump_value(value)
    return text if len(text) <= 200 else f"{text[:200]}..."
