import numpy as np
from numpy.typing import NDArray

UNREACHABLE: int

def pair_features(
    cu_nodes: NDArray[np.int32],
    cu_edges: NDArray[np.int32],
    source: NDArray[np.int32],
    target: NDArray[np.int32],
    edge_code: NDArray[np.int32],
    hops: int,
    paths: str,
    hops_are_edges: bool,
) -> tuple[NDArray[np.int32], NDArray[np.int16], NDArray[np.int32]]: ...
def unique_rows(values: NDArray[np.int64]) -> tuple[NDArray[np.int32], NDArray[np.int64]]: ...
