"""The child of `unitrans.ops.self_check`: small calls of all kinds, by the kernels and by torch, forward and backward.

`python -m unitrans.ops.self_check_cases DEVICE [MODULE:NAME]` prints the verdict. NAME is a `Kernels`; without it the
compiled kernels of the device.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from unitrans.ops.attention import attention, attention_qkvpacked
from unitrans.ops.graphs import GraphPairs
from unitrans.ops.pair_bias import pair_bias
from unitrans.ops.plan import Plan
from unitrans.ops.self_check import Verdict, answer

Values = dict[str, Tensor]

#: Errors may be this much larger than those of the torch backend in the same type, and this many roundings of it.
_TIMES, _ROUNDINGS = 3.0, 32.0


@dataclass(frozen=True)
class Kernels:
    """The three calls that are checked; each takes the arguments of the function it is named like."""

    attention: Callable[..., Any]
    attention_qkvpacked: Callable[..., Any]
    pair_bias: Callable[..., Tensor]


def by_backend(name: str, pairs: str) -> Kernels:
    """The calls with `backend=name`, and `backend=pairs` for the pair bias."""

    def named(function: Callable[..., Any], backend: str) -> Callable[..., Any]:
        return lambda *args, **options: function(*args, backend=backend, **options)

    return Kernels(named(attention, name), named(attention_qkvpacked, name), named(pair_bias, pairs))


@dataclass(frozen=True)
class Case:
    """One kind of call.

    Attributes:
        options: keywords of `attention`; with_bias and with_lse: whether there is a bias, and a gradient of lse.
        packed: q, k, v in one tensor.
    """

    name: str
    plan: Plan
    heads: int = 2
    head_dim: int = 32
    with_bias: bool = False
    with_lse: bool = False
    packed: bool = False
    options: dict[str, Any] = field(default_factory=dict)


def cases() -> list[Case]:
    """All kinds of groups, planes, reaches and options that the kernels serve."""
    ragged = [5, 0, 1, 17, 33, 16, 49, 64, 7]
    queries, keys = Plan.from_lengths([5, 17, 0, 33]), Plan.from_lengths([3, 40, 8, 0])
    repeated = Plan(
        torch.tensor([0, 3, 8], dtype=torch.int32),
        num_tokens=8,
        max_group_size=5,
        key_cu_seqlens=torch.tensor([0, 4, 10], dtype=torch.int32),
        key_token_index=torch.tensor([0, 1, 2, 5, 1, 2, 3, 4, 5, 6], dtype=torch.int32),
        num_keys=9,
        max_key_group_size=6,
    )
    visible = torch.arange(2 * 7 * 9).view(2, 7, 9) % 3 != 0
    return [
        Case("packed texts", Plan.from_lengths(ragged), head_dim=64, packed=True),
        Case("windows", Plan.windows((10, 9), 7, 3).repeat(2), heads=3, with_bias=True, packed=True),
        Case("visible windows", Plan.visible_windows(visible, 4, 2), head_dim=24, with_bias=True),
        Case("graphs", Plan.from_lengths(ragged, bias="ragged"), head_dim=10, with_bias=True, with_lse=True),
        Case("causal", Plan.from_lengths([70, 130], reach=(-1, 0)), head_dim=128, heads=1),
        Case(
            "local, dropout",
            Plan.from_lengths([90, 7], reach=(3, 5)),
            options={"dropout_p": 0.2, "dropout_seed": 7},
        ),
        Case("cosine scores", Plan.windows((8, 8), 4, 2), with_bias=True, options={"qk_norm": True}),
        Case(
            "unlisted tokens",
            Plan.from_segment_ids([0, -1, 1, 0, 0, -1, 1, 2] * 5, bias="ragged"),
            with_bias=True,
        ),
        Case("cross", Plan.cross(queries, keys, bias="ragged"), head_dim=48, with_bias=True, with_lse=True),
        Case("keys of several groups", repeated, head_dim=16, options={"qk_norm": True}),
        Case("a long group", Plan.from_lengths([513, 3]), heads=1, head_dim=100),
    ]


def inputs_of(case: Case, generator: torch.Generator) -> Values:
    """Leaves in fp64, exactly representable in every type that is checked."""

    def randn(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator).bfloat16().half().double()

    plan, rest = case.plan, (case.heads, case.head_dim)
    num_keys = plan.num_tokens if plan.num_keys is None else plan.num_keys
    values = {"scale": randn(case.heads).abs() * case.head_dim**-0.5}
    if case.packed:
        values["qkv"] = randn(plan.num_tokens, 3, *rest)
    else:
        values |= {
            "q": randn(plan.num_tokens, *rest),
            "k": randn(num_keys, *rest),
            "v": randn(num_keys, *rest),
        }
    if case.with_bias:
        values["bias"] = randn(case.heads, plan.bias_size)
    return values


def run(case: Case, kernels: Kernels, values: Values, dtype: torch.dtype, device: torch.device) -> Values:
    """Outputs, and gradients of a fixed functional of them, on the CPU in fp64."""
    wide = torch.float64 if dtype == torch.float64 else torch.float32
    leaves = {
        name: x.to(device, wide if name in ("scale", "bias") else dtype).requires_grad_()
        for name, x in values.items()
    }
    streams = [leaves[name] for name in ("qkv", "q", "k", "v") if name in leaves]
    call = kernels.attention_qkvpacked if case.packed else kernels.attention
    out = call(
        *streams,
        case.plan.to(device),
        scale=leaves["scale"],
        bias=leaves.get("bias"),
        return_lse=case.with_lse,
        **case.options,
    )
    outputs = {"out": out} if not case.with_lse else {"out": out[0], "lse": out[1]}
    return _with_gradients(outputs, leaves, wide)


def run_pair_bias(kernels: Kernels, dtype: torch.dtype, device: torch.device) -> Values:
    """The same for the bias planes of three graphs, one of which has two parts."""
    generator = torch.Generator().manual_seed(2)
    sizes, edges = [4, 1, 7], torch.tensor([[0, 1, 1, 2, 0, 3, 3, 4], [1, 0, 2, 1, 3, 0, 4, 3]])
    features = (torch.arange(8) % 3).view(-1, 1)
    pairs = GraphPairs.from_edges(sizes, [4, 0, 4], edges, features, hops=3)
    shapes = {"spatial": (9, 5), "hop": (3, len(pairs.edges) + 1, 5), "token": (5,)}
    leaves = {
        name: torch.randn(shape, generator=generator, dtype=torch.float64).to(device, dtype).requires_grad_()
        for name, shape in shapes.items()
    }
    planes = kernels.pair_bias(*leaves.values(), pairs.to(device), max_divisor=3, max_distance=600)
    return _with_gradients({"planes": planes}, leaves, dtype)


def _with_gradients(outputs: Values, leaves: Values, dtype: torch.dtype) -> Values:
    generator = torch.Generator().manual_seed(3)
    value = torch.zeros((), dtype=dtype, device=next(iter(leaves.values())).device)
    for x in outputs.values():
        weight = torch.randn(x.shape, generator=generator, dtype=torch.float64).to(value.device, dtype)
        value = value + (x.to(dtype).masked_fill(~torch.isfinite(x), 0.0) * weight).sum()
    gradients = torch.autograd.grad(value, list(leaves.values()))
    named = outputs | {f"d{name}": x for name, x in zip(leaves, gradients, strict=True)}
    return {name: x.detach().double().cpu() for name, x in named.items()}


def differences(got: Values, torchs: Values, want: Values, dtype: torch.dtype) -> Iterator[tuple[float, str]]:
    """(how many times the bound, in words) of every tensor; want: the formula in fp64."""
    for name, w in want.items():
        finite = torch.isfinite(w)
        if not torch.equal(torch.isfinite(got[name]), finite):
            yield float("inf"), f"{name} is not finite where it has to be, or the other way round"
            continue
        if not bool(finite.any()):
            continue
        error, usual = (float((x - w)[finite].abs().max()) for x in (got[name], torchs[name]))
        largest = max(float(w[finite].abs().max()), 1.0)
        bound = _TIMES * usual + _ROUNDINGS * torch.finfo(dtype).eps * largest
        yield (
            error / bound,
            f"{name} is off by {error:.2e} (torch by {usual:.2e}; at most {bound:.2e} expected)",
        )


def compare(kernels: Kernels, device: torch.device) -> Verdict:
    """Runs everything and names the worst figure."""
    generator = torch.Generator().manual_seed(1)
    torchs, formula = by_backend("torch", "reference"), by_backend("reference", "reference")
    cpu, double = torch.device("cpu"), torch.float64
    worst, calls = (0.0, "no figure"), 0
    for case in cases():
        values = inputs_of(case, generator)
        want = run(case, formula, values, double, cpu)
        for dtype in (torch.float32, torch.bfloat16, torch.float16):
            calls += 1
            found = differences(
                run(case, kernels, values, dtype, device),
                run(case, torchs, values, dtype, device),
                want,
                dtype,
            )
            worst = max(worst, *((times, f"{case.name}, {dtype}: {words}") for times, words in found))
    for dtype in (torch.float32, torch.float64):
        calls += 1
        want = run_pair_bias(formula, double, cpu)
        found = differences(
            run_pair_bias(kernels, dtype, device), run_pair_bias(torchs, dtype, device), want, dtype
        )
        worst = max(worst, *((times, f"pair bias, {dtype}: {words}") for times, words in found))
    passed = worst[0] <= 1
    return Verdict(
        passed, f"{calls} small calls, {'closest to its bound' if passed else 'worst'}: {worst[1]}"
    )


def main(device_name: str, kernels_name: str = "") -> int:
    """Prints the verdict; whatever goes wrong in the kernels is one too."""
    device = torch.device(device_name)
    try:
        torch.ones(1, device=device).sum().item()
    except Exception as error:  # the kernels have nothing to do with it: the next process asks again
        print(
            answer(Verdict(False, f"torch cannot use {device}: {_sentence(error)}", lasting=False)),
            flush=True,
        )
        return 1
    try:
        module, _, name = kernels_name.partition(":")
        kernels = (
            getattr(importlib.import_module(module), name) if name else by_backend(device.type, device.type)
        )
        verdict = compare(kernels, device)
    except Exception as error:
        verdict = Verdict(False, f"the kernels raised {type(error).__name__}: {_sentence(error)}")
    print(answer(verdict), flush=True)
    return 0


def _sentence(error: Exception) -> str:
    return " ".join(str(error).split())[:300]


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:3]))
