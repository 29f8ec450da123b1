"""YAML as people expect it: 1e-3 is a number, "no" and "on" are words, a key given twice is an error.

PyYAML reads YAML 1.1; only the scalar rules of the YAML 1.2 core schema are put in their place here. Depth and size are
bounded, aliases counted as often as they stand, so that a short file cannot keep the reader busy for long.
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


#: Levels of nesting, values in all (a configuration has some hundreds of them), digits of a whole number.
MAX_DEPTH, MAX_VALUES, MAX_DIGITS = 50, 20_000, 100


class _Loader(yaml.SafeLoader):
    yaml_implicit_resolvers = {}

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self._depth = 0
        self._sizes: dict[int, int] = {}  # id of a node -> values in it

    def compose_node(self, parent: Any, index: Any) -> Any:
        event = self.peek_event()
        line = event.start_mark.line + 1
        self._depth += 1
        if self._depth > MAX_DEPTH:
            raise ValueError(f"line {line}: values are nested more than {MAX_DEPTH} levels deep")
        node: Any = super().compose_node(parent, index)
        self._depth -= 1
        if not isinstance(event, yaml.AliasEvent):
            self._sizes[id(node)] = self._size(node, line)
        elif id(node) not in self._sizes:
            raise ValueError(f"line {line}: a value contains itself by its alias")
        if self._sizes[id(node)] > MAX_VALUES:
            raise ValueError(
                f"line {line}: more than {MAX_VALUES:,} values, counting aliases as often as they stand"
            )
        return node

    def _size(self, node: Any, line: int) -> int:
        """Values in a node whose parts have been counted."""
        if isinstance(node, yaml.ScalarNode):
            if node.tag.endswith(":int") and len(node.value) > MAX_DIGITS:
                raise ValueError(f"line {line}: a whole number of {len(node.value):,} digits")
            return 1
        parts = node.value
        if isinstance(node, yaml.MappingNode):
            parts = [part for pair in node.value for part in pair]
        return 1 + sum(self._sizes[id(part)] for part in parts)

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


class _Dumper(yaml.SafeDumper):
    yaml_implicit_resolvers = {}


for _tag, _pattern, _first in _RULES:
    for _class in (_Loader, _Dumper):
        _chars = list(_first) + ([""] if _tag == "null" else [])
        _class.add_implicit_resolver(f"tag:yaml.org,2002:{_tag}", re.compile(_pattern), _chars)


def load(text: str) -> Any:
    """The value of a YAML text. ValueError with line and column for one that cannot be read."""
    try:
        return yaml.load(text, Loader=_Loader)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f"line {mark.line + 1}, column {mark.column + 1}: " if mark else ""
        raise ValueError(f"{where}{getattr(error, 'problem', None) or error}") from None


def dump_value(value: Any) -> str:
    """One value on one line, readable back by :func:`load`."""
    if isinstance(value, str) and "\n" in value:
        return json.dumps(value)  # a JSON string is a YAML string
    text: str = yaml.dump(
        value, Dumper=_Dumper, default_flow_style=True, width=float("inf"), allow_unicode=True
    )
    return text.removesuffix("\n").removesuffix("\n...")
