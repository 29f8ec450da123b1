from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

_Int32 = NDArray[np.int32]
_Groups = tuple[_Int32, _Int32, _Int32]

def windows(grid: Sequence[int], window: Sequence[int], shift: Sequence[int]) -> _Groups: ...
def visible_windows(visible: NDArray[np.bool_], window: Sequence[int], shift: Sequence[int]) -> _Groups: ...
def segments(ids: NDArray[np.int64]) -> _Groups: ...
def unpadded(padding: NDArray[np.bool_]) -> _Groups: ...
def cumulative(lengths: NDArray[np.int64]) -> _Int32: ...
def check(
    num_tokens: int,
    cu_seqlens: _Int32,
    token_index: _Int32 | None,
    position: _Int32 | None,
    num_keys: int,
    key_cu_seqlens: _Int32 | None,
    key_token_index: _Int32 | None,
    key_position: _Int32 | None,
    bias_offset: NDArray[np.int64] | None,
    bias_row_stride: _Int32 | None,
    bias_size: int | None,
) -> int: ...
