"""Sliding windows as groups: tiles of queries that share the keys around them, and one plane that says who sees whom.

A group for every token would read each key for one query, by products of a matrix and a vector. A tile of 4 x 4
queries with windows of 7 x 7 reads 10 x 10 keys once for 16 queries; the plane hides those that a query does not see.
"""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from unitrans.ops.plan_inputs import check_num_rows, per_axis

Edges = Literal["cut", "inward"]
Ints = NDArray[np.int64]


@dataclass(frozen=True)
class AxisTile:
    """A tile along one axis: its queries and keys as places of the grid, the keys' places in the tile's block, and
    which of the patterns of the axis says who sees whom."""

    queries: Ints
    keys: Ints
    places: Ints
    pattern: int


@dataclass(frozen=True)
class Axis:
    """All tiles along an axis. patterns int64 [n, tile, block]: the offset query - key + size - 1 of each pair that
    is seen, -1 of others; block: places of keys."""

    tiles: tuple[AxisTile, ...]
    patterns: Ints
    block: int


def _axis(length: int, size: int, dilation: int, edges: Edges, tile: int) -> Axis:
    half = size // 2
    margin = half if edges == "cut" else size - 1  # the farthest that a query of the tile sees
    block = tile + 2 * margin
    tiles: list[AxisTile] = []
    patterns: dict[bytes, tuple[int, Ints]] = {}
    for rest in range(dilation):  # tokens of one remainder see each other alone
        line = np.arange(rest, length, dilation)
        for start in range(0, len(line), tile):
            queries = np.arange(start, min(start + tile, len(line)))
            if edges == "cut":
                first, last = queries - half, queries + half
            else:
                first = np.clip(queries - half, 0, len(line) - size)
                last = first + size - 1
            places = np.arange(block)
            keys = start - margin + places
            offsets = queries[:, None] - keys + size - 1
            seen = (keys >= first[:, None]) & (keys <= last[:, None])
            pattern = np.full((tile, block), -1)
            pattern[: len(queries)] = np.where(seen, offsets, -1)
            if edges == "cut":  # all tiles are alike: what lies outside of the grid is not listed
                pattern = _cut(size, tile)
            number = patterns.setdefault(pattern.tobytes(), (len(patterns), pattern))[0]
            listed = seen.any(0) & (keys >= 0) & (keys < len(line))
            tiles.append(AxisTile(line[queries], line[keys[listed]], places[listed], number))
    return Axis(tuple(tiles), np.stack([pattern for _, pattern in patterns.values()]), block)


def _cut(size: int, tile: int) -> Ints:
    offsets = np.arange(tile)[:, None] - np.arange(-(size // 2), tile + size // 2)
    return np.where(abs(offsets) <= size // 2, offsets + size - 1, -1)


@dataclass(frozen=True)
class Neighbourhoods:
    """What was asked for, one integer for each axis; see `Plan.neighbourhoods`."""

    grid: tuple[int, ...]
    size: tuple[int, ...]
    dilation: tuple[int, ...]
    edges: Edges
    tile: tuple[int, ...]


def checked(
    grid: Sequence[int],
    size: int | Sequence[int],
    dilation: int | Sequence[int],
    edges: Edges,
    tile: int | Sequence[int],
) -> Neighbourhoods:
    """The arguments of `Plan.neighbourhoods`. ValueError names the one that is wrong."""
    sides = tuple(per_axis("grid", grid, len(grid)))
    found = []
    for name, value in (("kernel_size", size), ("dilation", dilation), ("tile", tile)):
        found.append(tuple(per_axis(name, value, len(sides))))
        if min(found[-1]) < 1:
            raise ValueError(f"{name}: expected at least 1, got {value!r}")
    if min(sides) < 1:
        raise ValueError(f"grid: expected at least 1 token along each axis, got {list(sides)}")
    if any(k % 2 == 0 for k in found[0]):
        raise ValueError(f"kernel_size: expected odd sizes, with a token in the middle, got {size!r}")
    if edges not in get_args(Edges):
        raise ValueError(f"edges: expected one of {', '.join(map(repr, get_args(Edges)))}, got {edges!r}")
    for n, k, d in zip(sides, found[0], found[1], strict=True):
        if edges == "inward" and n // d < k:
            raise ValueError(
                f"edges='inward': expected a grid of at least kernel_size * dilation = {k * d} tokens along each axis, "
                f"got {n}; edges='cut' takes smaller ones"
            )
    check_num_rows(math.prod(sides))
    return Neighbourhoods(sides, found[0], found[1], edges, found[2])


@functools.lru_cache(maxsize=64)
def _axes(asked: Neighbourhoods) -> tuple[Axis, ...]:
    sides = zip(asked.grid, asked.size, asked.dilation, asked.tile, strict=True)
    return tuple(_axis(n, k, d, asked.edges, t) for n, k, d, t in sides)


def planned(asked: Neighbourhoods) -> dict[str, Any]:
    """The fields of the plan."""
    lines = _axes(asked)
    queries, places, keys, key_places, planes = zip(*_groups(lines, asked.grid), strict=True)
    tokens, tile = math.prod(asked.grid), math.prod(asked.tile)
    block = math.prod(line.block for line in lines)
    return {
        "cu_seqlens": torch.from_numpy(np.cumsum([0, *map(len, queries)])).int(),
        "num_tokens": tokens,
        "max_group_size": tile,
        "token_index": torch.from_numpy(np.concatenate(queries)).int(),
        "position": torch.from_numpy(np.concatenate(places)).int(),
        "bias_offset": torch.tensor(planes, dtype=torch.int64) * (tile * block),
        "bias_row_stride": torch.full((len(planes),), block, dtype=torch.int32),
        "bias_size": tile * block * math.prod(len(line.patterns) for line in lines),
        "key_cu_seqlens": torch.from_numpy(np.cumsum([0, *map(len, keys)])).int(),
        "key_token_index": torch.from_numpy(np.concatenate(keys)).int(),
        "key_position": torch.from_numpy(np.concatenate(key_places)).int(),
        "num_keys": tokens,
        "max_key_group_size": block,
    }


def _groups(lines: Sequence[Axis], grid: Sequence[int]) -> Iterator[tuple[Ints, Ints, Ints, Ints, int]]:
    """Rows of the queries and their places, rows of the keys and their places, the plane, of every group."""
    tiles = [line.patterns.shape[1] for line in lines]
    blocks = [line.block for line in lines]
    for parts in itertools.product(*(line.tiles for line in lines)):
        plane = 0
        for line, part in zip(lines, parts, strict=True):
            plane = plane * len(line.patterns) + part.pattern
        yield (
            _rows([part.queries for part in parts], grid),
            _rows([np.arange(len(part.queries)) for part in parts], tiles),
            _rows([part.keys for part in parts], grid),
            _rows([part.places for part in parts], blocks),
            plane,
        )


def _rows(coordinates: Sequence[Ints], sides: Sequence[int]) -> Ints:
    """Row-major numbers of all combinations of these coordinates."""
    rows = np.zeros(1, dtype=np.int64)
    for values, side in zip(coordinates, sides, strict=True):
        rows = (rows[:, None] * side + values).ravel()
    return rows


@functools.lru_cache(maxsize=64)
def seen_offsets(asked: Neighbourhoods) -> Tensor:
    """int64 [planes * queries * keys]: of every entry of the planes the row of a table of offsets (as that of
    `relative_position_index`), -1 for pairs that do not see each other."""
    index = np.zeros((1, 1, 1), dtype=np.int64)
    hidden = np.zeros((1, 1, 1), dtype=bool)
    for line, k in zip(_axes(asked), asked.size, strict=True):
        new = line.patterns[None, :, None, :, None, :]
        old = index[:, None, :, None, :, None]
        shape = [index.shape[axis] * line.patterns.shape[axis] for axis in range(3)]
        index = (old * (2 * k - 1) + new).reshape(shape)
        hidden = (hidden[:, None, :, None, :, None] | (new < 0)).reshape(shape)
    return torch.from_numpy(np.where(hidden, -1, index).ravel())
