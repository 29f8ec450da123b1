"""The bias planes of a batch of graphs: spatial, edge and graph-token encodings straight into ragged planes.

Graphormer (Ying et al. 2021, arXiv:2106.05234), sections 3.1.2 and 3.1.3. Nothing of the size pairs x hops x features
x heads is ever in memory. Shape letters as in `unitrans.ops.graphs`, and N heads, S rows of the spatial table, P plane
entries: the sum of (n + 1)^2.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from unitrans.ops.graphs import GraphPairs
from unitrans.ops.libraries import CUDA_LOAD_ERROR, LOAD_ERROR
from unitrans.ops.verdict import why_held_back

_DTYPES = (torch.float32, torch.float64)


def pair_bias(
    spatial: Tensor,
    hop: Tensor,
    token: Tensor,
    pairs: GraphPairs,
    *,
    max_divisor: int = 1,
    max_distance: int = 1 << 15,
    backend: str | None = None,
) -> Tensor:
    """Bias planes of graphs whose tokens are a graph token and then the nodes.

    For head h and the nodes i, j at distance d with the codes c_0 ... c_{K-1} on the path between them:

        plane[i + 1, j + 1] = spatial[d + 1, h] + sum_k hop[k, c_k, h] / min(max(d, 1), max_divisor)
        plane[0, *] = plane[i + 1, 0] = token[h]

    and -inf, with gradient 0, where d >= max_distance. Sums of the gradients are in fp64; results are bit-equal for
    any number of threads.

    Args:
        spatial: [S, N], fp32 or fp64; row 0 is never read.
        hop: [K, U + 1, N]; row 0 of each hop stands for no edge.
        token: [N].
        pairs: of the graphs, on the device of the tables.
        max_divisor: largest number that the sum over hops is divided by; 1: it is not divided.
        max_distance: pairs this far apart or farther do not see each other.
        backend: None (the compiled one where it serves the device and is not held back), "cpu", "cuda" or "reference".

    Returns:
        [N, P], the plane of each graph flat, one after the other, as `Plan.from_lengths(n + 1, bias="ragged")`
        addresses them. Differentiable in the three tables.

    Raises:
        ValueError: tables that do not fit the pairs.
    """
    _check(spatial, hop, token, pairs)
    if backend not in (None, "cpu", "cuda", "reference"):
        raise ValueError(f"backend: expected None, 'cpu', 'cuda' or 'reference', got {backend!r}")
    device = spatial.device.type
    why_not = {"cpu": LOAD_ERROR, "cuda": CUDA_LOAD_ERROR}.get(device, "there are no kernels for it")
    if backend in ("cpu", "cuda"):
        reason = why_not if backend == device else f"the tables are on {spatial.device}"
        if reason is not None:
            raise ValueError(f"backend={backend!r} cannot serve this call: {reason}")
    lists = (pairs.cu_nodes, pairs.distance, pairs.hops)
    if backend == "reference" or why_not is not None or (backend is None and why_held_back(spatial.device)):
        return pair_bias_reference(spatial, hop, token, *lists, max_divisor, max_distance)
    planes: Tensor = torch.ops.unitrans.pair_bias_forward(
        spatial, hop, token, *lists, pairs.num_nodes, max_divisor, max_distance
    )
    return planes


def _check(spatial: Tensor, hop: Tensor, token: Tensor, pairs: GraphPairs) -> None:
    for name, table, sides in (("spatial", spatial, 2), ("hop", hop, 3), ("token", token, 1)):
        if table.dim() != sides or table.dtype not in _DTYPES or table.dtype != spatial.dtype:
            raise ValueError(
                f"{name}: expected float32 or float64 (all tables alike) with {sides} dimensions, "
                f"got {table.dtype} {list(table.shape)}"
            )
    heads, codes = spatial.shape[1], pairs.edges.shape[0] + 1
    if token.shape[0] != heads or hop.shape != (pairs.hops.shape[1], codes, heads):
        raise ValueError(
            f"hop and token: expected [{pairs.hops.shape[1]}, {codes}, {heads}] and [{heads}] for these pairs, "
            f"got {list(hop.shape)} and {list(token.shape)}"
        )
    for name, device in (("hop", hop.device), ("token", token.device), ("pairs", pairs.distance.device)):
        if device != spatial.device:
            raise ValueError(
                f"{name}: expected on {spatial.device} as spatial, got {device}; move it with .to()"
            )


def pair_bias_reference(
    spatial: Tensor,
    hop: Tensor,
    token: Tensor,
    cu_nodes: Tensor,
    distance: Tensor,
    hops: Tensor,
    max_divisor: int,
    max_distance: int,
) -> Tensor:
    """The formula in plain PyTorch; the oracle of the compiled op, on every device, with double backward."""
    sizes = cu_nodes.diff().long()
    sides = sizes + 1
    graph = torch.repeat_interleave(torch.arange(len(sizes), device=sizes.device), sizes * sizes)
    first_pair = (sizes * sizes).cumsum(0) - sizes * sizes
    first_entry = (sides * sides).cumsum(0) - sides * sides
    within = torch.arange(distance.shape[0], device=sizes.device) - first_pair[graph]
    row, column = within // sizes[graph].clamp(min=1), within % sizes[graph].clamp(min=1)
    entry = first_entry[graph] + (row + 1) * sides[graph] + column + 1

    steps = distance.long()
    total = sum(F.embedding(hops[:, k].long(), hop[k]) for k in range(hop.shape[0]))
    divisor = steps.clamp(1, max_divisor).to(spatial.dtype)
    bias = F.embedding((steps + 1).clamp(max=spatial.shape[0] - 1), spatial) + total / divisor[:, None]
    bias = bias.masked_fill((steps >= max_distance)[:, None], -torch.inf)
    planes = token.expand(int((sides * sides).sum()), -1)
    return planes.index_put((entry,), bias).t().contiguous()


# Positions in the schema of pair_bias_forward: spatial, hop, token, cu_nodes, distance, hops, three numbers.
_NUM_ARGUMENTS = 9
_Arguments = tuple[Any, ...]


def _forward_shapes(spatial: Tensor, hop: Tensor, token: Tensor, *rest: Any) -> Tensor:
    cu_nodes, distance, _, num_nodes = rest[:4]
    return spatial.new_empty((spatial.shape[1], distance.shape[0] + 2 * num_nodes + cu_nodes.shape[0] - 1))


def _backward_shapes(
    grad: Tensor, spatial: Tensor, hop: Tensor, token: Tensor, *rest: Any
) -> tuple[Tensor, Tensor, Tensor]:
    return spatial.new_empty(spatial.shape), hop.new_empty(hop.shape), token.new_empty(token.shape)


def _setup_context(ctx: Any, inputs: _Arguments, output: Tensor) -> None:
    ctx.save_for_backward(*inputs[:6])
    ctx.numbers = inputs[6:]


def _backward(ctx: Any, grad: Tensor) -> _Arguments:
    grads = torch.ops.unitrans.pair_bias_backward(grad, *ctx.saved_tensors, *ctx.numbers)
    return (*grads, *(None,) * (_NUM_ARGUMENTS - 3))


def _no_double_backward(ctx: Any, *grads: Any) -> _Arguments:
    raise RuntimeError(
        "unitrans.ops.pair_bias: the compiled backend has no double backward; "
        "use backend='reference' where gradients of gradients are needed"
    )


if LOAD_ERROR is None:
    torch.library.register_fake("unitrans::pair_bias_forward", _forward_shapes)
    torch.library.register_fake("unitrans::pair_bias_backward", _backward_shapes)
    torch.library.register_autograd("unitrans::pair_bias_forward", _backward, setup_context=_setup_context)
    torch.library.register_autograd("unitrans::pair_bias_backward", _no_double_backward)
