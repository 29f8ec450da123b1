"""The self-check of the CUDA kernels: small calls of every kind, forward and backward, against the `torch` backend.

    python -m unitrans.ops.self_check DEVICE [MODULE:KERNELS]

A program of its own, run by `unitrans.ops.verdict`: it may die of a wrong kernel. It prints a line of JSON before every
case ({"case": ...}) and the verdict at the end ({"state": ..., "figures": ...}). KERNELS names an object of the class
`Kernels` that is checked in place of our own, on any device.

What is right is the `torch` backend in fp64 on the same device, which hands dropout and log-sum-exp to the reference.
Allowed is twice the error that it makes itself in the dtype of the case, and a share of the largest entry (`_FLOORS`).
The kernels run twice, and both runs must be bit-equal.
"""

import importlib
import json
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from unitrans.ops.compiled import attention_compiled, attention_compiled_qkv
from unitrans.ops.graphs import GraphPairs
from unitrans.ops.libraries import LOAD_ERROR
from unitrans.ops.pair_bias import pair_bias_reference
from unitrans.ops.plan import Plan
from unitrans.ops.sdpa import attention_torch, attention_torch_qkv

Results = dict[str, Tensor]


@dataclass(frozen=True)
class Kernels:
    """What is checked.

    Attributes:
        attention, attention_qkv: as `run` and `run_qkv` of a `unitrans.ops.backends.Backend`.
        pair_bias: as the operator `pair_bias_forward`.
    """

    attention: Callable[..., tuple[Tensor, Tensor]]
    attention_qkv: Callable[..., tuple[Tensor, Tensor]]
    pair_bias: Callable[..., Tensor]


def compiled_kernels() -> Kernels:
    """Ours, which serve the device that the tensors are on."""
    if LOAD_ERROR is not None:
        raise RuntimeError(LOAD_ERROR)
    return Kernels(attention_compiled, attention_compiled_qkv, torch.ops.unitrans.pair_bias_forward)


def _pair_bias_torch(*arguments: Any) -> Tensor:
    *tables_and_lists, _num_nodes, max_divisor, max_distance = arguments
    inputs: tuple[Any, ...] = (*tables_and_lists, max_divisor, max_distance)
    return pair_bias_reference(*inputs)


TORCH = Kernels(attention_torch, attention_torch_qkv, _pair_bias_torch)


#: Share of the largest entry (1 at least) that rounding may take in each dtype: no less than what the emulation of the
#: kernels on the host is held to (cuda/tests).
_FLOORS = {
    torch.float64: 1e-12,
    torch.float32: 1e-4,
    torch.bfloat16: 4 * torch.finfo(torch.bfloat16).eps,
    torch.float16: 4 * torch.finfo(torch.float16).eps,
}
_HEADS = 3
_SEED = 1 << 40 | 77  # of dropout; both halves of the key count


@dataclass(frozen=True)
class Kind:
    """Calls of one kind; planes are used where the plan has them.

    Attributes:
        head_dims: one of each class of the kernels: up to 32, 64 and 128.
        packed: q, k and v in one tensor.
        learned: the scale has a gradient.
        lse: the log-sum-exp is returned, and has a gradient.
        excluded: share of plane entries that are -inf.
    """

    name: str
    plan: Plan
    head_dims: tuple[int, int, int]
    packed: bool = False
    learned: bool = False
    lse: bool = False
    qk_norm: bool = False
    dropout_p: float = 0.0
    excluded: float = 0.0


def kinds() -> list[Kind]:
    """All kinds of calls, on the CPU. Groups end at, before and behind the tiles of the kernels (16, 32 and 64)."""
    windows = Plan.windows((9, 11), 7, 3).repeat(2)
    visible = Plan.visible_windows((np.arange(2 * 8 * 9).reshape(2, 8, 9) * 7 % 10) < 4, 4, (2, 1))
    graphs = Plan.from_lengths([5, 0, 1, 17, 34], bias="ragged")
    text = Plan.from_lengths([33, 70, 3, 64], reach=(-1, 0))
    segments = Plan.from_segment_ids([3, 3, -1, 5, 3, 5, 5, -1] * 9, reach=(4, 2), bias="ragged")
    cross = Plan.cross(Plan.from_lengths([4, 0, 19, 2]), Plan.from_lengths([31, 5, 66, 0]), bias="ragged")
    mixed = Plan.cat([Plan.windows((6, 6), 4, 2), text, graphs], planes="concatenated")
    return [
        Kind("windows", windows, (32, 64, 128)),
        Kind("windows in one tensor", windows, (24, 48, 96), packed=True, learned=True),
        Kind("windows with cosine scores", windows, (16, 40, 80), packed=True, learned=True, qk_norm=True),
        Kind("windows with dropout", windows, (32, 64, 128), dropout_p=0.3),
        Kind("visible windows", visible, (7, 33, 65), lse=True),
        Kind("ragged planes", graphs, (8, 64, 127), learned=True, excluded=0.3),
        Kind("causal text", text, (1, 64, 128), packed=True),
        Kind("causal text with dropout", text, (31, 63, 111), packed=True, dropout_p=0.2, lse=True),
        Kind("a reach of (4, 2) and rows without a group", segments, (2, 50, 72), learned=True),
        Kind("queries and keys of two streams", cross, (10, 36, 100), learned=True, lse=True),
        Kind("keys in several groups", _repeated_keys(), (32, 64, 128), lse=True),
        Kind("keys in several groups with cosine scores", _repeated_keys(), (9, 64, 112), qk_norm=True),
        Kind("one long group", Plan.from_lengths([200], bias="ragged"), (32, 64, 128), packed=True),
        Kind("windows, text and graphs in one call", mixed, (32, 64, 128), packed=True, learned=True),
        Kind("empty groups only", Plan.from_lengths([0, 0], bias="ragged"), (32, 64, 128), learned=True),
    ]


def _repeated_keys() -> Plan:
    queries, keys = [7, 40, 0, 3], [9, 35, 4, 0]
    listed = [
        start + step * np.arange(size)
        for start, step, size in zip((2, 0, 3, 0), (3, 1, 2, 1), keys, strict=True)
    ]
    cumulative = [torch.tensor([0, *sizes]).cumsum(0).int() for sizes in (queries, keys)]
    return Plan(
        cumulative[0],
        num_tokens=sum(queries),
        max_group_size=max(queries),
        key_cu_seqlens=cumulative[1],
        key_token_index=torch.from_numpy(np.concatenate(listed)).int(),
        num_keys=37,
        max_key_group_size=max(keys),
    )


@dataclass(frozen=True)
class Case:
    """One comparison.

    Attributes:
        name: for people.
        dtype: of the call that is checked.
        run: (kernels, dtype) -> outputs and gradients, by name.
    """

    name: str
    dtype: torch.dtype
    run: Callable[[Kernels, torch.dtype], Results]


def cases(device: torch.device) -> Iterator[Case]:
    """Every kind in every dtype and class of head_dim, and the planes of graphs."""
    for number, kind in enumerate(kinds()):
        plan = kind.plan.to(device)
        for head_dim in kind.head_dims:
            call = _AttentionCall(kind, plan, head_dim, number)
            for dtype in (torch.float32, torch.bfloat16, torch.float16):
                yield Case(f"{kind.name}, head_dim {head_dim}, {_name(dtype)}", dtype, call.run)
    pairs = _graph_pairs().to(device)
    for heads, max_divisor, max_distance in ((1, 1, 1 << 15), (3, 3, 4), (8, 20, 1 << 15)):
        planes = _PairBiasCall(pairs, heads, max_divisor, max_distance)
        for dtype in (torch.float32, torch.float64):
            yield Case(f"planes of graphs, {heads} heads, {_name(dtype)}", dtype, planes.run)


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _numbers(generator: torch.Generator, *shape: int) -> Tensor:
    """fp64 on the CPU; multiples of 1/16 below 4, which every dtype holds exactly, so that all are given the same."""
    return (torch.randn(shape, generator=generator, dtype=torch.float64) * 16).round().clamp(-63, 63) / 16


class _AttentionCall:
    """Inputs of a call, and a fixed functional of its outputs that is differentiated."""

    def __init__(self, kind: Kind, plan: Plan, head_dim: int, seed: int) -> None:
        self.kind, self.plan, self.device = kind, plan, plan.cu_seqlens.device
        generator = torch.Generator().manual_seed(1000 * seed + head_dim)
        num_keys = plan.num_tokens if plan.num_keys is None else plan.num_keys
        q = _numbers(generator, plan.num_tokens, _HEADS, head_dim)
        k, v = (_numbers(generator, num_keys, _HEADS, head_dim) for _ in range(2))
        self.streams = {"qkv": torch.stack((q, k, v), 1)} if kind.packed else {"q": q, "k": k, "v": v}
        self.scale = (_numbers(generator, _HEADS).abs() + 0.5) * (4.0 if kind.qk_norm else head_dim**-0.5)
        self.bias = None
        if plan.bias_offset is not None:
            self.bias = _numbers(generator, _HEADS, plan.bias_size)
            excluded = torch.rand(self.bias.shape, generator=generator) < kind.excluded
            self.bias = self.bias.masked_fill(excluded, -torch.inf)
        self.weight, self.weight_lse = _numbers(generator, *q.shape), _numbers(generator, *q.shape[:2])

    def run(self, kernels: Kernels, dtype: torch.dtype) -> Results:
        kind = self.kind
        accumulate = torch.float64 if dtype == torch.float64 else torch.float32
        inputs = {name: x.to(self.device, dtype) for name, x in self.streams.items()}
        inputs["scale"] = self.scale.to(self.device, accumulate)
        if self.bias is not None:
            inputs["bias"] = self.bias.to(self.device, accumulate)
        leaves = {name: x for name, x in inputs.items() if name != "scale" or kind.learned}
        for x in leaves.values():
            x.requires_grad_()
        function = kernels.attention_qkv if kind.packed else kernels.attention
        seed = torch.full((1,), _SEED, dtype=torch.int64, device=self.device) if kind.dropout_p else None
        out, lse = function(
            *(inputs[name] for name in self.streams),
            *(self.plan, inputs.get("bias"), inputs["scale"], kind.qk_norm, kind.dropout_p, seed, kind.lse),
        )
        value = (out.to(accumulate) * self.weight.to(self.device, accumulate)).sum()
        results = {"out": out}
        if kind.lse:
            results["lse"] = lse
            finite = lse.masked_fill(lse.isinf(), 0.0)
            value = value + (finite * self.weight_lse.to(self.device, accumulate)).sum()
        return _with_gradients(results, value, leaves)


class _PairBiasCall:
    """The same for the planes of a batch of graphs."""

    def __init__(self, pairs: GraphPairs, heads: int, max_divisor: int, max_distance: int) -> None:
        self.pairs, self.numbers = pairs, (max_divisor, max_distance)
        generator = torch.Generator().manual_seed(heads)
        hops, codes = pairs.hops.shape[1], pairs.edges.shape[0] + 1
        shapes = {"spatial": (512, heads), "hop": (hops, codes, heads), "token": (heads,)}
        self.tables = {name: _numbers(generator, *shape) for name, shape in shapes.items()}
        entries = pairs.distance.shape[0] + 2 * pairs.num_nodes + pairs.num_graphs
        self.weight = _numbers(generator, heads, entries)

    def run(self, kernels: Kernels, dtype: torch.dtype) -> Results:
        pairs = self.pairs
        device = pairs.distance.device
        leaves = {name: x.to(device, dtype).requires_grad_() for name, x in self.tables.items()}
        lists = (pairs.cu_nodes, pairs.distance, pairs.hops, pairs.num_nodes)
        planes = kernels.pair_bias(*leaves.values(), *lists, *self.numbers)
        value = (planes.masked_fill(planes.isinf(), 0.0) * self.weight.to(device, dtype)).sum()
        return _with_gradients({"planes": planes}, value, leaves)


def _graph_pairs() -> GraphPairs:
    """Paths, rings and a node without edges: also pairs that do not reach each other, and an empty graph."""
    sizes, edges = [5, 0, 1, 9, 4, 20], []
    for n in sizes:
        ring = [(i, (i + 1) % n) for i in range(n if n > 4 else 0)] + [(0, 1)] * (n == 4)
        edges.append([*ring, *((j, i) for i, j in ring)])
    index = np.array([edge for listed in edges for edge in listed]).T
    features = np.arange(index.shape[1])[:, None] % 3
    return GraphPairs.from_edges(sizes, [len(listed) for listed in edges], index, features, hops=3)


def _with_gradients(results: Results, value: Tensor, leaves: dict[str, Tensor]) -> Results:
    """All of them on the CPU, which waits for the device."""
    gradients = torch.autograd.grad(value, list(leaves.values()), allow_unused=True, materialize_grads=True)
    results = results | {f"d{name}": x for name, x in zip(leaves, gradients, strict=True)}
    return {name: x.detach().cpu() for name, x in results.items()}


def largest_error(
    want: Results, plain: Results, got: Results, again: Results, dtype: torch.dtype
) -> tuple[float, str]:
    """The error that takes the largest share of what is allowed: that share and a description.

    Args:
        want: what is right, in fp64.
        plain: the same by torch in the dtype.
        got, again: what two runs of the kernels gave.
    """
    shares = [(0.0, "nothing to compare")]
    for name, right in want.items():
        mine = got[name].double()
        finite = right.isfinite()
        if mine.shape != right.shape:
            shares.append((torch.inf, f"{name} has shape {list(mine.shape)} instead of {list(right.shape)}"))
        elif not torch.equal(mine.isfinite(), finite) or not torch.equal(mine[~finite], right[~finite]):
            shares.append(
                (torch.inf, f"{name} is not finite where it should be, or finite where it should not")
            )
        elif not torch.equal(got[name], again[name]):
            off = (mine - again[name].double())[finite].abs().max()
            shares.append((torch.inf, f"{name} differs by {off:.1e} between two runs"))
        elif finite.any():
            error, by_torch = ((x[name].double() - right)[finite].abs().max().item() for x in (got, plain))
            # d(scale) sums terms of both signs over all pairs of a head.
            typical = want["out"].numel() ** 0.5 if name == "dscale" else 0.0
            allowed = 2 * by_torch + _FLOORS[dtype] * max(right[finite].abs().max().item(), typical, 1.0)
            shares.append((error / allowed, f"{name} off by {error:.1e}, allowed {allowed:.1e}"))
    return max(shares, key=lambda share: share[0])


def check(
    kernels: Kernels, device: torch.device, begin: Callable[[Case], object] = lambda case: None
) -> tuple[str, str]:
    """Compare the kernels with torch's own on all cases.

    Args:
        kernels: on this device.
        begin: called with every case before its kernels run.

    Returns:
        "passed", "failed" or "unfinished" (a fault that is not the kernels'), and the figures in words. An exception
        ends the check, as it may have ended the GPU context too.
    """
    count, failures, closest = 0, [], (0.0, "")
    for case in cases(device):
        count += 1
        want, plain = case.run(TORCH, torch.float64), case.run(TORCH, case.dtype)
        begin(case)
        try:
            got, again = case.run(kernels, case.dtype), case.run(kernels, case.dtype)
        except torch.OutOfMemoryError as error:
            return "unfinished", _one_line(error)
        except Exception as error:
            failures.append(f"{case.name}: {_one_line(error)}")
            break
        share, description = largest_error(want, plain, got, again, case.dtype)
        closest = max(closest, (share, f"{case.name}: {description}"))
        if not share <= 1:
            failures.append(f"{case.name}: {description}")
    if not failures:
        return (
            "passed",
            f"{count} cases, the largest error takes {closest[0]:.0%} of what is allowed ({closest[1]})",
        )
    more = f"; and {len(failures) - 1} more of {count} cases" if len(failures) > 1 else ""
    return "failed", failures[0] + more


def _one_line(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())}"[:300]


def main(arguments: Sequence[str]) -> int:
    """The program; 0 when it came to a verdict, whatever that is."""

    def say(**message: str) -> None:
        print(json.dumps(message), flush=True)

    try:
        device = torch.device(arguments[0])
        kernels = compiled_kernels()
        if len(arguments) > 1:
            module, _, name = arguments[1].partition(":")
            kernels = getattr(importlib.import_module(module), name)
        state, figures = check(kernels, device, lambda case: say(case=case.name))
    except Exception as error:  # of torch itself: a device that is busy, hidden or full
        state, figures = "unfinished", _one_line(error)
    say(state=state, figures=figures)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
