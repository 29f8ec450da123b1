"""Which samples are held out: a stable hash of the sample's id, or of the group it belongs to.

The choice depends on the names alone, not on the seed or on the other samples, so that adding files never
moves a sample from one side to the other. Copies of one content are one unit, which goes by its content.
"""

from __future__ import annotations

import hashlib
import posixpath
import re
from collections.abc import Mapping, Sequence
from types import MappingProxyType


def hash_fraction(unit: str) -> float:
    """A number in [0, 1) that depends on the string only (64 bits of blake2b)."""
    digest = hashlib.blake2b(unit.encode("utf-8", "surrogateescape"), digest_size=8, person=b"unitrans-split")
    return int.from_bytes(digest.digest(), "big") / 2.0**64


def units_of(ids: Sequence[str], group: str | None) -> list[str]:
    """The unit each id belongs to: itself (None), its parent folder ("parent"), or the first group of the
    regular expression ``group`` searched in the id. ValueError for an expression that does not name a unit
    of every id.
    """
    if group is None:
        return list(ids)
    if group == "parent":
        return [posixpath.dirname(name) for name in ids]
    try:
        pattern = re.compile(group)
    except re.error as error:
        raise ValueError(
            f'data.group is neither "parent" nor a regular expression: {group!r} ({error})'
        ) from None
    if pattern.groups < 1:
        raise ValueError(
            f"data.group={group!r} has no group: put the part of the id that names the unit in parentheses, "
            "for example '(patient[0-9]+)'"
        )
    units = []
    for name in ids:
        match = pattern.search(name)
        if match is None or match.group(1) is None:
            raise ValueError(
                f"data.group={group!r} does not match the id {name!r}: every id must name its unit; "
                "widen the expression"
            )
        units.append(match.group(1))
    return units


def with_copies(units: Sequence[str], copies: Mapping[int, str]) -> list[str]:
    """The units when those that share a content are one, which is called by the smallest content they share.

    copies: index -> content, of the samples whose content another one has too. Those within a unit change nothing.
    """
    places: dict[str, set[str]] = {}
    for index, content in copies.items():
        places.setdefault(content, set()).add(units[index])
    joined: dict[str, str] = {}  # to another unit, or to a content

    def last(name: str) -> str:
        while joined.get(name, name) != name:
            name = joined[name]
        return name

    for content in sorted(places):
        for unit in places[content] if len(places[content]) > 1 else ():
            a, b = last(f"unit {unit}"), last(f"content {content}")
            if a != b:  # the smallest content stays in front of all
                front, behind = sorted((a, b))
                joined[behind] = front
    return [last(f"unit {unit}").removeprefix("unit ") for unit in units]


def split(
    ids: Sequence[str],
    fraction: float,
    group: str | None = None,
    copies: Mapping[int, str] = MappingProxyType({}),
) -> tuple[list[int], list[int]]:
    """Indices of the training and of the held-out samples, each in the order of ``ids``.

    A unit is held out when its hash is below ``fraction``, so about that fraction of the units is. Neither
    side is ever empty: if no hash is below, the unit with the smallest hash is held out; if all are, the
    unit with the largest hash is trained on. These two are the only cases in which other samples matter, beside
    copies (see ``with_copies``).
    ValueError when there is only one unit.
    """
    assert 0 < fraction < 1
    units = with_copies(units_of(ids, group), copies)
    hashes = {unit: (hash_fraction(unit), unit) for unit in units}
    if len(hashes) < 2:
        what = "sample" if group is None else f"unit under data.group={group!r} ({len(ids)} samples)"
        fix = "add samples" if group is None else "change data.group"
        raise ValueError(
            f"data.validation={fraction:g} cannot hold anything out: there is only one {what}; "
            f"set data.validation=none, name a folder, or {fix}"
        )
    held_out = {unit for unit, (value, _) in hashes.items() if value < fraction}
    held_out = held_out or {min(hashes, key=lambda unit: hashes[unit])}
    if len(held_out) == len(hashes):
        held_out.remove(max(hashes, key=lambda unit: hashes[unit]))
    train = [index for index, unit in enumerate(units) if unit not in held_out]
    return train, [index for index, unit in enumerate(units) if unit in held_out]
