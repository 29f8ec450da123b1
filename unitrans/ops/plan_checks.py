"""Checks of plans from outside (made by hand, read from a file): every mistake is a ValueError that names the list."""

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from unitrans.ops.planners import planners

if TYPE_CHECKING:
    from unitrans.ops.plan import Plan


def check_fields(plan: "Plan") -> None:
    """Types, shapes, devices and which fields come together; reads no values."""
    for name in ("num_tokens", "max_group_size", "bias_size", "num_keys", "max_key_group_size"):
        value = getattr(plan, name)
        is_optional = name in ("num_keys", "max_key_group_size")
        if not (isinstance(value, (int, torch.SymInt)) or (value is None and is_optional)) or isinstance(
            value, bool
        ):
            raise ValueError(f"{name}: expected an integer, got {value!r}")
    if not isinstance(plan.cu_seqlens, Tensor) or plan.cu_seqlens.dim() != 1 or plan.cu_seqlens.shape[0] < 1:
        raise ValueError(f"cu_seqlens: expected an int32 tensor [G + 1], got {_describe(plan.cu_seqlens)}")
    _check_companions(plan)
    num_groups = plan.num_groups
    num_listed, num_keys_listed = plan._queries().num_listed, plan._keys().num_listed
    shapes: dict[str, tuple[int, ...]] = {
        "cu_seqlens": (num_groups + 1,),
        "token_index": (num_listed,),
        "position": (num_listed,),
        "bias_offset": (num_groups,),
        "bias_row_stride": (num_groups,),
        "reach": (num_groups, 2),
        "key_cu_seqlens": (num_groups + 1,),
        "key_token_index": (num_keys_listed,),
        "key_position": (num_keys_listed,),
    }
    for name, shape in shapes.items():
        value = getattr(plan, name)
        if value is None:
            continue
        dtype = torch.int64 if name == "bias_offset" else torch.int32
        if not isinstance(value, Tensor) or value.dtype != dtype or value.shape != shape:
            raise ValueError(f"{name}: expected {dtype} {list(shape)}, got {_describe(value)}")
        if value.device != plan.cu_seqlens.device:
            raise ValueError(
                f"{name}: expected on {plan.cu_seqlens.device} like cu_seqlens, got {value.device}"
            )


def check_values(plan: "Plan") -> int:
    """What the lists say. Returns the number of entries that a bias must have."""
    queries, keys = plan._queries(), plan._keys()
    num_entries = planners.check(
        queries.num_rows,
        _host(plan.cu_seqlens),
        _host(plan.token_index),
        _host(plan.position),
        keys.num_rows,
        _host(plan.key_cu_seqlens),
        _host(plan.key_token_index),
        _host(plan.key_position),
        _host(plan.bias_offset),
        _host(plan.bias_row_stride),
        plan.bias_size or None,
    )
    for name, side in (("max_group_size", queries), ("max_key_group_size", keys)):
        largest = int(side.cu_seqlens.diff().max()) if plan.num_groups else 0
        if side.max_group_size < largest:
            raise ValueError(
                f"{name}: expected at least {largest}, the largest group, got {side.max_group_size}"
            )
    if plan.reach is not None and plan.num_groups and int(plan.reach.min()) < -1:
        raise ValueError(f"reach: expected -1 (unlimited) or more, got {int(plan.reach.min())}")
    return num_entries


def _check_companions(plan: "Plan") -> None:
    is_cross = plan.key_cu_seqlens is not None
    for name in ("num_keys", "max_key_group_size", "key_token_index", "key_position"):
        is_given = getattr(plan, name) is not None
        if is_given and not is_cross:
            raise ValueError(f"{name}: expected None without key_cu_seqlens (the keys are the queries)")
        if is_cross and not is_given and name in ("num_keys", "max_key_group_size"):
            raise ValueError(f"{name}: expected an integer with key_cu_seqlens, got None")
    if (plan.bias_offset is None) != (plan.bias_row_stride is None):
        raise ValueError("bias_offset and bias_row_stride: expected both or neither")
    if plan.bias_offset is None and plan.bias_size != 0:
        raise ValueError(f"bias_size: expected 0 without bias_offset, got {plan.bias_size}")


def _describe(value: Any) -> str:
    return f"{value.dtype} {list(value.shape)}" if isinstance(value, Tensor) else repr(value)


def _host(value: Tensor | None) -> Any:
    return None if value is None else value.cpu().numpy()
