"""Templates of names: how a table of renames is read in both directions. The tables are in the folders of the families.

A template holds fields: `{s}` stands for a number, `{s+1}` for that number plus one, `{2s+1}` for twice that
number plus one, `{rest}` for anything. A rename is a pair of templates, theirs and ours; where theirs are several,
their rows one after the other are ours (separate projections of queries, keys and values).
"""

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

Rename = tuple[str | tuple[str, ...], str]


class Target(NamedTuple):
    """Where a tensor of theirs goes: rows `part` of `parts` of our parameter."""

    name: str
    part: int = 0
    parts: int = 1


@dataclass(frozen=True)
class Layout:
    """How one code base names the parameters of one family of models.

    Attributes:
        renames: (theirs, ours) for the bare encoder, the most specific first; other names are the same.
        heads: (theirs, ours) for what models add to it, full names.
        prefix: in front of the encoder's names in their models with a head.
        masked_prefix: the same in their models for masked images, where that differs.
        backbone_prefix: the same in their backbones, where that differs.
        derived: regular expressions of their buffers that we compute ourselves.
        unused: of their parameters that no computation uses: left where our model has no place for them.
        sides: (regular expression of their names, sides): their shape in terms of ours, None is a side of 1.
        tied: their parameter that is another of theirs by construction -> that other one, full names.
        synonyms: (ending of an older name, ending of the name that is meant).
        transposed: regular expressions of their matrices that are ours transposed.
        fused_bias: their one bias of queries, keys and values is our two, as that of the keys is always zero.
    """

    renames: Sequence[Rename]
    heads: Sequence[Rename] = ()
    prefix: str = ""
    masked_prefix: str | None = None
    backbone_prefix: str | None = None
    derived: Sequence[str] = ()
    unused: Sequence[str] = ()
    sides: Sequence[tuple[str, tuple[int | None, ...]]] = ()
    tied: Mapping[str, str] = field(default_factory=dict)
    synonyms: Sequence[tuple[str, str]] = ()
    transposed: Sequence[str] = ()
    fused_bias: bool = False

    def ours(self, name: str, own: Collection[str] = ()) -> Target:
        """Where their parameter goes; names of the encoder are those of the bare one.

        own: names of our model; of several places that a parameter of a head can go to, the one that is there counts.
        """
        for older, meant in self.synonyms:
            if name.endswith(older):
                name = name.removesuffix(older) + meant
        found = _to_ours(name, self.heads, own)
        if found is not None:
            return found
        for prefix in filter(None, (self.prefix, self.masked_prefix)):
            name = name.removeprefix(prefix)
        return _to_ours(name, self.renames) or Target(name)

    def theirs(
        self, name: str, our_prefix: str = "", *, backbone: bool = False, tokens: bool = False
    ) -> tuple[str, ...]:
        """Their name, or names, of our parameter; `our_prefix` is where the encoder sits in our model.

        tokens: our model predicts tokens of patches, where the heads name some parameters of our encoder.
        """
        if our_prefix and (tokens or not name.startswith(our_prefix)):
            found = _to_theirs(name, self.heads)
            if found != (name,) or not name.startswith(our_prefix):
                return found
        special = (
            self.backbone_prefix if backbone else self.masked_prefix if our_prefix == "encoder." else None
        )
        prefix = self.prefix if special is None else special
        names = _to_theirs(name.removeprefix(our_prefix), self.renames)
        return tuple(prefix + name for name in names) if our_prefix else names

    def is_unused(self, name: str) -> bool:
        """Whether this is a parameter of theirs that changes nothing."""
        return any(re.search(pattern, name) for pattern in self.unused)

    def is_derived(self, name: str) -> bool:
        """Whether this is a buffer of theirs that carries no information."""
        return any(re.search(pattern, name) for pattern in self.derived)

    def is_transposed(self, name: str) -> bool:
        """Whether this matrix of theirs is ours transposed."""
        return any(re.search(pattern, name) for pattern in self.transposed)


_FIELD = re.compile(r"\{(\d*)([a-z]+)([+-]\d+)?\}")


def _match(template: str, name: str) -> dict[str, str] | None:
    """The values of the fields of a template in a name; None where it does not fit."""
    pattern, rules, end = "", {}, 0
    for found in _FIELD.finditer(template):
        factor, key, offset = found.groups()
        pattern += re.escape(template[end : found.start()])
        pattern += f"(?P<{key}>.*)" if key == "rest" else f"(?P<{key}>\\d+)"
        rules[key], end = (int(factor or 1), int(offset or 0)), found.end()
    match = re.fullmatch(pattern + re.escape(template[end:]), name)
    if match is None:
        return None
    values = match.groupdict()
    for key in values.keys() - {"rest"}:
        factor, offset = rules[key]
        number, remainder = divmod(int(values[key]) - offset, factor)
        if remainder or number < 0:
            return None
        values[key] = str(number)
    return values


def _fill(template: str, values: dict[str, str]) -> str:
    def value(found: re.Match[str]) -> str:
        factor, key, offset = found.groups()
        return values[key] if key == "rest" else str(int(factor or 1) * int(values[key]) + int(offset or 0))

    return _FIELD.sub(value, template)


def _to_ours(name: str, renames: Sequence[Rename], own: Collection[str] = ()) -> Target | None:
    first: Target | None = None
    for theirs, ours in renames:
        templates = (theirs,) if isinstance(theirs, str) else theirs
        for part, template in enumerate(templates):
            values = _match(template, name)
            if values is not None:
                target = Target(_fill(ours, values), part, len(templates))
                if not own or target.name in own:
                    return target
                first = first or target
    return first


def _to_theirs(name: str, renames: Sequence[Rename]) -> tuple[str, ...]:
    for theirs, ours in renames:
        values = _match(ours, name)
        if values is not None:
            templates = (theirs,) if isinstance(theirs, str) else theirs
            return tuple(_fill(template, values) for template in templates)
    return (name,)


def under(theirs: str, ours: str, renames: Sequence[Rename]) -> tuple[Rename, ...]:
    """The renames of a part of a model, where that part sits."""
    return tuple(
        (theirs + their if isinstance(their, str) else tuple(theirs + name for name in their), ours + our)
        for their, our in renames
    )


def qkv(names: tuple[str, str, str], kind: str) -> Rename:
    """Three projections that are one here; kind: weight or bias."""
    return tuple(f"{name}.{kind}" for name in names), f"attn.qkv.{kind}"


#: Names of a block in files of transformers 4.
HF4_MLP: tuple[Rename, ...] = (
    ("attention.output.dense.{rest}", "attn.proj.{rest}"),
    ("intermediate.dense.{rest}", "mlp.fc1.{rest}"),
    ("output.dense.{rest}", "mlp.fc2.{rest}"),
)
HF4_NAMES = ("attention.self.query", "attention.self.key", "attention.self.value")
