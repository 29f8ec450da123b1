"""What a user hands to the planners, as the host arrays they read. Everything wrong here is a ValueError."""

import operator
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Integers = Sequence[int] | Sequence[Sequence[int]] | NDArray[Any] | Tensor
Booleans = Sequence[Any] | NDArray[np.bool_] | Tensor
Bias = Literal["ragged"] | int | None
Reach = tuple[int, int] | NDArray[Any] | Tensor | None

MAX_ROWS = 2**31 - 1  # rows are addressed by int32


def _host_array(value: Integers | Booleans) -> NDArray[Any]:
    return value.detach().cpu().numpy() if isinstance(value, Tensor) else np.asarray(value)


def host_integers(name: str, value: Integers, ranks: tuple[int, ...]) -> NDArray[np.int64]:
    """`value` as a contiguous int64 array of one of the given ranks; an empty list counts as integers."""
    if isinstance(value, Tensor) and (value.is_floating_point() or value.dtype == torch.bool):
        raise ValueError(f"{name}: expected integers, got {value.dtype}")
    array = _host_array(value)
    if array.size and array.dtype.kind not in "iu":
        raise ValueError(f"{name}: expected integers, got {array.dtype}")
    if array.ndim not in ranks:
        raise ValueError(f"{name}: expected {' or '.join(map(str, ranks))} axes, got shape {array.shape}")
    return np.ascontiguousarray(array, dtype=np.int64)


def host_booleans(name: str, value: Booleans, meaning: str) -> NDArray[np.bool_]:
    """`value` as a contiguous bool array; integers are refused because their sense is not known."""
    array = _host_array(value)
    if array.dtype != np.bool_:
        raise ValueError(
            f"{name}: expected bool ({meaning}), got {array.dtype}; compare it first, e.g. x == 0"
        )
    return np.ascontiguousarray(array)


def per_axis(name: str, value: int | Sequence[int], rank: int) -> list[int]:
    """One integer for each of `rank` axes, or one for all."""
    try:
        sizes = (
            [operator.index(x) for x in value]
            if isinstance(value, Sequence)
            else [operator.index(value)] * rank
        )
    except TypeError:
        raise ValueError(f"{name}: expected an integer or one for each axis, got {value!r}") from None
    if len(sizes) != rank or rank == 0:
        raise ValueError(f"{name}: expected one integer for each of {rank} axes, got {value!r}")
    return sizes


def check_num_rows(*num_rows: int) -> None:
    """Refuse streams that int32 cannot address."""
    if torch.compiler.is_compiling():
        return  # sizes may be symbols then, and a comparison would bind them
    for rows in num_rows:
        if rows > MAX_ROWS:
            raise ValueError(f"a stream holds at most {MAX_ROWS} tokens, got {rows}; use smaller batches")
