"""Plans: which tokens of a packed stream attend to each other, as lists of groups.

A mask says *these tokens may look at each other*; a plan lists them. It is made once per batch on the host
(C++ planners behind `unitrans._planning`) and used by every layer. Shape letters: G groups, M listed tokens,
T rows of the stream, P entries of a bias plane.
"""

import dataclasses
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor
from torch.utils import _pytree as pytree

from unitrans.ops.movable import Movable
from unitrans.ops.neighbourhoods import Edges, checked, planned
from unitrans.ops.plan_checks import check_fields, check_values
from unitrans.ops.plan_inputs import (
    MAX_ROWS,
    Bias,
    Booleans,
    Integers,
    Reach,
    check_num_rows,
    host_booleans,
    host_integers,
    per_axis,
)
from unitrans.ops.plan_lists import (
    Planes,
    Side,
    join,
    join_planes,
    ragged_planes,
    shared_plane,
    tile,
)
from unitrans.ops.planners import planners


@dataclass(frozen=True, eq=False, repr=False)
class Plan(Movable):
    """Groups of tokens that attend among themselves, and where each finds its bias.

    Make one with `from_lengths`, `from_segment_ids`, `from_padding_mask`, `windows`, `visible_windows` or
    `cross`; lists made by hand go through the constructor, which checks them. A plan is immutable (do not
    write into its tensors), a pytree, and lives on one device.

    Attributes:
        cu_seqlens: int32 [G + 1]; group g lists the entries cu_seqlens[g] : cu_seqlens[g + 1].
        num_tokens: rows of q that the plan was made for.
        max_group_size: at least the size of the largest group.
        token_index: int32 [M], row of each listed token; None: the whole stream in order (M = num_tokens).
            A token is listed at most once; one listed nowhere gets output 0.
        position: int32 [M], place inside the group, strictly ascending in it; None: 0, 1, 2, ...
        bias_offset: int64 [G], start of the group's bias plane; -1: a group without bias.
        bias_row_stride: int32 [G]; the pair (i, j) of group g reads the entry
            bias_offset[g] + position[i] * bias_row_stride[g] + position[j].
        reach: int32 [G, 2], (left, right) in list order, query i aligned with key i; -1 is unlimited, causal
            is (-1, 0).
        bias_size: smallest P a bias may have; 0 with a bias_offset: it is computed.
        key_cu_seqlens, key_token_index, key_position: the same lists for the keys; None: the keys are the
            queries. A key may be listed in several groups.
        num_keys: rows of k and v; None: the keys are the queries.
        max_key_group_size: at least the size of the largest key group.

    Raises:
        ValueError: lists that do not fit together; the message names the list and the entry.

    Example:
        >>> Plan(torch.tensor([0, 2, 3], dtype=torch.int32), num_tokens=3, max_group_size=2)
        Plan(2 groups of at most 2, listing 3 of 3 tokens)
    """

    cu_seqlens: Tensor
    num_tokens: int
    max_group_size: int
    token_index: Tensor | None = None
    position: Tensor | None = None
    bias_offset: Tensor | None = None
    bias_row_stride: Tensor | None = None
    reach: Tensor | None = None
    bias_size: int = 0
    key_cu_seqlens: Tensor | None = None
    key_token_index: Tensor | None = None
    key_position: Tensor | None = None
    num_keys: int | None = None
    max_key_group_size: int | None = None

    def __post_init__(self) -> None:
        check_fields(self)
        for name, value in self._tensors():
            object.__setattr__(self, name, value.contiguous())
        if torch.compiler.is_compiling() or isinstance(self.cu_seqlens, FakeTensor):
            return  # a plan made while tracing has no values to read
        num_entries = check_values(self)
        if self.bias_offset is not None and not self.bias_size:
            object.__setattr__(self, "bias_size", num_entries)

    def check(self) -> None:
        """Reads all lists again, as the constructor does; on a GPU this waits for the device.

        Raises:
            ValueError: lists that do not fit together, since somebody wrote into them.
        """
        check_fields(self)
        check_values(self)

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Of a plan in a pickle, a copy, or a file that `torch.load` reads: checked as a new one."""
        unknown = state.keys() - _DEFAULTS.keys()
        if unknown:
            raise ValueError(f"Plan: expected fields of a plan only, got {', '.join(map(str, unknown))}")
        for name, default in _DEFAULTS.items():
            object.__setattr__(self, name, state.get(name, default))
        self.__post_init__()

    @classmethod
    def _trusted(cls, **fields: Any) -> "Plan":
        """A plan from lists that are right by construction: no check, so that it can be traced."""
        plan = object.__new__(cls)
        for name, default in _DEFAULTS.items():
            object.__setattr__(plan, name, fields.get(name, default))
        return plan

    def _replace(self, **changes: Any) -> "Plan":
        return Plan._trusted(**{name: getattr(self, name) for name in _DEFAULTS} | changes)

    # -- constructors

    @classmethod
    def from_lengths(cls, lengths: Integers, *, reach: Reach = None, bias: Bias = None) -> "Plan":
        """Groups of consecutive tokens: packed sentences, a batch of graphs.

        Args:
            lengths: integers [G], tokens of each group, 0 allowed.
            reach: (left, right) for every group or integers [G, 2]; see the class.
            bias: None; "ragged": each group has its own plane [n, n], one after the other; an integer L: all
                groups share one plane [L, L], addressed by the places 0, 1, 2, ... of their tokens.

        Example:
            >>> Plan.from_lengths([5, 3], reach=(-1, 0))  # two causal sentences in one stream of 8 tokens
            Plan(2 groups of at most 5, listing 8 of 8 tokens, reach)
        """
        sizes = host_integers("lengths", lengths, (1,))
        cu_seqlens = planners.cumulative(sizes)
        plan = _from_groups(int(cu_seqlens[-1]), cu_seqlens, bias=bias, reach=reach)
        return _like_input(plan, lengths)

    @classmethod
    def from_segment_ids(cls, segment_ids: Integers, *, reach: Reach = None, bias: Bias = None) -> "Plan":
        """Tokens of one row attend iff their ids are equal; a negative id is listed in no group.

        Args:
            segment_ids: integers [T] or [B, S] (a stream of B * S rows; different rows never mix).
            reach, bias: as in `from_lengths`, in the order of the stream.

        Groups come in order of first appearance.

        Example:
            >>> Plan.from_segment_ids([7, 7, -1, 9, 7])
            Plan(2 groups of at most 3, listing 4 of 5 tokens)
        """
        ids = host_integers("segment_ids", segment_ids, (1, 2))
        cu_seqlens, token_index, _ = planners.segments(np.atleast_2d(ids))
        plan = _from_groups(ids.size, cu_seqlens, token_index, bias=bias, reach=reach)
        return _like_input(plan, segment_ids)

    @classmethod
    def from_padding_mask(
        cls, key_padding_mask: Booleans, *, reach: Reach = None, bias: Bias = None
    ) -> "Plan":
        """One group per row of a padded batch: its real tokens. The stream is the batch, B * S rows.

        Args:
            key_padding_mask: bool [B, S], True = padding, as in torch.nn.MultiheadAttention (the opposite of
                an `attention_mask`). A row of padding only is an empty group.
            reach, bias: as in `from_lengths`; real tokens count 0, 1, 2, ... whatever column they stand in.

        Example:
            >>> Plan.from_padding_mask([[False, False, True], [False, True, True]])
            Plan(2 groups of at most 2, listing 3 of 6 tokens)
        """
        padding = host_booleans("key_padding_mask", key_padding_mask, "True = padding")
        if padding.ndim != 2:
            raise ValueError(f"key_padding_mask: expected [B, S], got shape {padding.shape}")
        cu_seqlens, token_index, _ = planners.unpadded(padding)
        plan = _from_groups(padding.size, cu_seqlens, token_index, bias=bias, reach=reach)
        return _like_input(plan, key_padding_mask)

    @classmethod
    def windows(
        cls, grid: Sequence[int], window_size: int | Sequence[int], shift_size: int | Sequence[int] = 0
    ) -> "Plan":
        """Windows of one row-major grid (rows x columns, or any number of axes): no padding, no roll.

        Along an axis with shift s > 0 the windows are [0, s), [s, s + W), ... and what is left; with s = 0
        they are [0, W), [W, 2W), ... On a grid that W divides these groups are the regions of the cyclic
        shift with a mask of Swin (Liu et al. 2021, section 3.2). The bias is one plane [L, L] with
        L = prod(window_size), shared by all windows; a part of a window reads its own rows and columns of it.

        Args:
            grid: tokens along each axis.
            window_size, shift_size: one integer for all axes, or one each; 0 <= shift_size < window_size.
                A window larger than the grid is legal.

        Example:
            >>> Plan.windows((8, 12), window_size=4, shift_size=2)
            Plan(12 groups of at most 16, listing 96 of 96 tokens, bias_size=256)
        """
        grid = per_axis("grid", grid, len(grid))
        window = per_axis("window_size", window_size, len(grid))
        shift = per_axis("shift_size", shift_size, len(grid))
        lists = planners.windows(grid, window, shift)
        places = int(np.prod(window))  # a bound that does not change with the grid spares recompilations
        return _from_groups(int(np.prod(grid)), *lists, bias=places, longest=places)

    @classmethod
    def visible_windows(
        cls, visible: Booleans, window_size: int | Sequence[int], shift_size: int | Sequence[int] = 0
    ) -> "Plan":
        """The windows of a batch of equal grids, restricted to the visible tokens.

        Args:
            visible: bool [B, *grid], True = visible. The stream holds the visible tokens only, image by
                image, row-major (`x[visible]`).
            window_size, shift_size: as in `windows`; places and bias plane are those of the full window.
                Windows without a visible token are left out.

        Example:
            >>> Plan.visible_windows([[[True, False], [True, True]]], window_size=2)
            Plan(1 groups of at most 4, listing 3 of 3 tokens, bias_size=16)
        """
        seen = host_booleans("visible", visible, "True = visible")
        if seen.ndim < 2:
            raise ValueError(f"visible: expected [B, *grid], got shape {seen.shape}")
        rank = seen.ndim - 1
        window, shift = per_axis("window_size", window_size, rank), per_axis("shift_size", shift_size, rank)
        lists = planners.visible_windows(seen, window, shift)
        places = int(np.prod(window))
        plan = _from_groups(int(seen.sum()), *lists, bias=places, longest=places)
        return _like_input(plan, visible)

    @classmethod
    def neighbourhoods(
        cls,
        grid: Sequence[int],
        kernel_size: int | Sequence[int],
        *,
        dilation: int | Sequence[int] = 1,
        edges: Edges = "cut",
        tile: int | Sequence[int] = 4,
    ) -> "Plan":
        """Sliding windows: every token of a row-major grid sees the square around it.

        Groups are tiles of queries with all keys that any of them sees. Which it does is in the bias, which this plan
        needs: `unitrans.nn.neighbourhood_bias` makes planes with -inf where a pair does not see each other.

        Args:
            grid: tokens along each axis, any number of axes.
            kernel_size: odd sides of the window, one for all axes or one each.
            dilation: distance of neighbours in it.
            edges: what a window does at the border of the grid: "cut": it has fewer tokens there (LR-Net, Hu et al.
                2019); "inward": it moves inward and keeps its size (NATTEN, Hassani et al. 2023).
            tile: sides of the tiles of queries; larger ones load keys less often and hide more of them.

        Raises:
            ValueError: an even side; "inward" on a grid smaller than kernel_size * dilation.

        Example:
            >>> Plan.neighbourhoods((8, 8), kernel_size=3)
            Plan(4 groups of at most 16, listing 64 of 64 tokens, keys: groups of at most 36, listing 100 of 64, \
bias_size=576)
        """
        return Plan._trusted(**planned(checked(grid, kernel_size, dilation, edges, tile)))

    @classmethod
    def cross(cls, queries: "Plan", keys: "Plan", *, bias: Bias = None, reach: Reach = None) -> "Plan":
        """Cross attention: group g of the queries attends to group g of the keys.

        Args:
            queries, keys: plans with the same number of groups, made for the streams of q and of k, v; only
                their lists and positions are used.
            bias: None; "ragged": each group has its own plane [n_queries, n_keys] in list order; an integer
                L: one shared plane with rows of length L, addressed by the positions of both sides.
            reach: as in `from_lengths`, query i aligned with key i.

        Keys that belong to several groups need lists made by hand: `Plan(..., key_token_index=...)`.

        Example:
            >>> Plan.cross(Plan.from_lengths([2, 1]), Plan.from_lengths([5, 3]))
            Plan(2 groups of at most 2, listing 3 of 3 tokens, keys: groups of at most 5, listing 8 of 8)
        """
        for name, side in (("queries", queries), ("keys", keys)):
            if side.key_cu_seqlens is not None:
                raise ValueError(f"{name}: expected a plan of one stream, got a cross plan")
        if queries.num_groups != keys.num_groups:
            raise ValueError(
                "queries and keys: expected the same number of groups, "
                f"got {queries.num_groups} and {keys.num_groups}; an empty group is legal"
            )
        by_place = bias != "ragged"
        plan = Plan._trusted(
            **_query_fields(queries._queries()._replace(position=queries.position if by_place else None)),
            **_key_fields(keys._queries()._replace(position=keys.position if by_place else None)),
        )
        return plan._with_bias(bias)._with_reach(reach)

    # -- transforms

    @property
    def num_groups(self) -> int:
        return self.cu_seqlens.shape[0] - 1

    def with_reach(self, left: int, right: int) -> "Plan":
        """The same groups with a reach of `left` and `right` (-1: unlimited) for every group.

        Example:
            >>> Plan.from_lengths([4]).with_reach(-1, 0)  # causal
            Plan(1 groups of at most 4, listing 4 of 4 tokens, reach)
        """
        return self._with_reach((left, right))

    def repeat(self, n: int) -> "Plan":
        """The plan of a batch of n equal geometries, one after the other; all share the bias planes.

        Example:
            >>> Plan.windows((8, 8), window_size=4).repeat(16)
            Plan(64 groups of at most 16, listing 1024 of 1024 tokens, bias_size=256)
        """
        if n < 1:
            raise ValueError(f"n: expected at least 1, got {n}")
        check_num_rows(self.num_tokens * n, (self.num_keys or 0) * n)
        is_cross = self.key_cu_seqlens is not None
        return self._replace(
            **_query_fields(tile(self._queries(), n)),
            **(_key_fields(tile(self._keys(), n)) if is_cross else {}),
            bias_offset=None if self.bias_offset is None else self.bias_offset.repeat(n),
            bias_row_stride=None if self.bias_row_stride is None else self.bias_row_stride.repeat(n),
            reach=None if self.reach is None else self.reach.repeat(n, 1),
        )

    @staticmethod
    def cat(plans: "Sequence[Plan]", *, planes: Literal["shared", "concatenated"] = "shared") -> "Plan":
        """One plan for the streams of several plans, one after the other. Kinds may be mixed.

        Args:
            plans: at least one, all on one device.
            planes: "shared": all read the same bias (they must have been made for equal bias sizes, as
                windows of one size are); "concatenated": plan i reads its own piece of the biases
                concatenated along P.

        Example:
            >>> image, graphs = Plan.windows((8, 8), 4), Plan.from_lengths([5, 3], bias="ragged")
            >>> Plan.cat([image, graphs], planes="concatenated")
            Plan(6 groups of at most 16, listing 72 of 72 tokens, bias_size=290)
        """
        if not plans:
            raise ValueError("plans: expected at least one plan, got none")
        if planes not in ("shared", "concatenated"):
            raise ValueError(f"planes: expected 'shared' or 'concatenated', got {planes!r}")
        queries, keys = [plan._queries() for plan in plans], [plan._keys() for plan in plans]
        check_num_rows(sum(side.num_rows for side in queries), sum(side.num_rows for side in keys))
        is_cross = any(plan.key_cu_seqlens is not None for plan in plans)
        has_bias = any(plan.bias_offset is not None for plan in plans)
        has_reach = any(plan.reach is not None for plan in plans)
        joined = join_planes([plan._planes() for plan in plans], concatenated=planes == "concatenated")
        return Plan._trusted(
            **_query_fields(join(queries)),
            **(_key_fields(join(keys)) if is_cross else {}),
            **(joined._asdict() if has_bias else {}),
            reach=torch.cat([plan._explicit_reach() for plan in plans]) if has_reach else None,
        )

    def _queries(self) -> Side:
        return Side(self.cu_seqlens, self.token_index, self.position, self.num_tokens, self.max_group_size)

    def _keys(self) -> Side:
        """The key side; of a plan of one stream, the queries."""
        if self.key_cu_seqlens is None:
            return self._queries()
        assert self.num_keys is not None and self.max_key_group_size is not None
        return Side(
            self.key_cu_seqlens,
            self.key_token_index,
            self.key_position,
            self.num_keys,
            self.max_key_group_size,
        )

    def _tensors(self) -> Iterator[tuple[str, Tensor]]:
        for name in _DEFAULTS:
            value = getattr(self, name)
            if isinstance(value, Tensor):
                yield name, value

    def _planes(self) -> Planes:
        """The planes, also where there is no bias."""
        if self.bias_offset is not None and self.bias_row_stride is not None:
            return Planes(self.bias_offset, self.bias_row_stride, self.bias_size)
        none = torch.zeros_like(self.cu_seqlens[1:])
        return Planes(none.long() - 1, none, 0)

    def _explicit_reach(self) -> Tensor:
        if self.reach is not None:
            return self.reach
        return self.cu_seqlens.new_full((self.num_groups, 2), -1)

    def _with_bias(self, bias: Bias) -> "Plan":
        """The same groups, addressing ragged planes, one shared plane with rows of length `bias`, or none."""
        if bias is None:
            return self
        queries, keys = self._queries(), self._keys()
        if bias == "ragged":
            return self._replace(**ragged_planes(queries, keys)._asdict())
        if isinstance(bias, bool) or not isinstance(bias, int) or bias < 1:
            raise ValueError(
                f"bias: expected None, 'ragged' or the row length of a shared plane, got {bias!r}"
            )
        is_cross = self.key_cu_seqlens is not None
        return self._replace(**shared_plane(queries, keys, bias, is_square=not is_cross)._asdict())

    def _with_reach(self, reach: Reach) -> "Plan":
        if reach is None:
            return self._replace(reach=None)
        rows = host_integers("reach", reach, (1, 2))
        if rows.shape not in ((2,), (self.num_groups, 2)):
            raise ValueError(
                f"reach: expected (left, right) or [{self.num_groups}, 2], got shape {rows.shape}"
            )
        if rows.min(initial=0) < -1 or rows.max(initial=0) > MAX_ROWS:
            raise ValueError(f"reach: expected -1 (unlimited) or more on each side, got {rows.tolist()}")
        tensor = torch.from_numpy(np.broadcast_to(rows, (self.num_groups, 2)).astype(np.int32, order="C"))
        return self._replace(reach=tensor.to(self.cu_seqlens.device))

    def __repr__(self) -> str:
        queries, keys = self._queries(), self._keys()
        parts = [
            f"{self.num_groups} groups of at most {queries.max_group_size}",
            f"listing {queries.num_listed} of {queries.num_rows} tokens",
        ]
        if self.key_cu_seqlens is not None:
            parts.append(f"keys: groups of at most {keys.max_group_size}")
            parts.append(f"listing {keys.num_listed} of {keys.num_rows}")
        if self.bias_offset is not None:
            parts.append(f"bias_size={self.bias_size}")
        if self.reach is not None:
            parts.append("reach")
        if self.cu_seqlens.device.type != "cpu":
            parts.append(str(self.cu_seqlens.device))
        return f"Plan({', '.join(parts)})"


_DEFAULTS: dict[str, Any] = {
    field.name: None if field.default is dataclasses.MISSING else field.default
    for field in dataclasses.fields(Plan)
}


def _query_fields(side: Side) -> dict[str, Any]:
    return {
        "cu_seqlens": side.cu_seqlens,
        "token_index": side.token_index,
        "position": side.position,
        "num_tokens": side.num_rows,
        "max_group_size": side.max_group_size,
    }


def _key_fields(side: Side) -> dict[str, Any]:
    return {
        "key_cu_seqlens": side.cu_seqlens,
        "key_token_index": side.token_index,
        "key_position": side.position,
        "num_keys": side.num_rows,
        "max_key_group_size": side.max_group_size,
    }


def _from_groups(
    num_tokens: int,
    cu_seqlens: NDArray[np.int32],
    token_index: NDArray[np.int32] | None = None,
    position: NDArray[np.int32] | None = None,
    *,
    bias: Bias = None,
    reach: Reach = None,
    longest: int | None = None,
) -> Plan:
    """The plan of lists made by a planner; `longest` bounds the group size where it need not be measured."""
    plan = Plan._trusted(
        cu_seqlens=torch.from_numpy(cu_seqlens),
        num_tokens=num_tokens,
        max_group_size=int(np.diff(cu_seqlens).max(initial=0)) if longest is None else longest,
        token_index=None if token_index is None else torch.from_numpy(token_index),
        position=None if position is None else torch.from_numpy(position),
    )
    return plan._with_bias(bias)._with_reach(reach)


def _like_input(plan: Plan, value: Integers | Booleans) -> Plan:
    return plan.to(value.device) if isinstance(value, Tensor) else plan


# Pytree: every field that is there is a leaf.
# Integers are leaves too: torch.compile and torch.export then see them as symbols, not as constants.

_Context = tuple[str, ...]


def _present(plan: Plan) -> _Context:
    return tuple(name for name in _DEFAULTS if getattr(plan, name) is not None)


def _flatten(plan: Plan) -> tuple[list[Any], _Context]:
    names = _present(plan)
    return [getattr(plan, name) for name in names], names


def _flatten_with_keys(plan: Plan) -> tuple[list[tuple[pytree.KeyEntry, Any]], _Context]:
    names = _present(plan)
    return [(pytree.GetAttrKey(name), getattr(plan, name)) for name in names], names


def _unflatten(leaves: Iterable[Any], names: _Context) -> Plan:
    return Plan._trusted(**dict(zip(names, leaves, strict=True)))


pytree.register_pytree_node(
    Plan,
    _flatten,
    _unflatten,
    serialized_type_name="unitrans.ops.plan.Plan",
    to_dumpable_context=list,
    from_dumpable_context=tuple,
    flatten_with_keys_fn=_flatten_with_keys,
)
torch.serialization.add_safe_globals([Plan])  # the sample inputs of an exported program hold one
