"""Random calls of the op: one object that every test of a backend uses."""

from dataclasses import dataclass, replace

import numpy as np
import torch
from hypothesis import strategies as st
from torch import Tensor

from unitrans import Plan, attention


@dataclass
class Call:
    """Arguments of one call; tensors in fp64 where they are inputs of the formula."""

    q: Tensor
    k: Tensor
    v: Tensor
    plan: Plan
    bias: Tensor | None
    scale: Tensor
    qk_norm: bool = False
    dropout_p: float = 0.0
    dropout_seed: int = 0

    def run(
        self,
        backend: str,
        dtype: torch.dtype,
        *,
        strided: bool = False,
        grad_lse: bool = True,
        lse: bool = True,
        device: str = "cpu",
    ) -> dict[str, Tensor]:
        """Outputs, and gradients of a fixed random functional of them, by this backend in this dtype.

        Without `lse` it is neither asked for nor part of the functional. What comes back is on the CPU."""
        accumulate = torch.float64 if dtype == torch.float64 else torch.float32
        tensors = {name: getattr(self, name).to(dtype) for name in "qkv"}
        if strided:  # views of one fused projection, with an odd row length
            tensors = {name: as_view(x) for name, x in tensors.items()}
        tensors["scale"] = self.scale.to(accumulate)
        if self.bias is not None:
            tensors["bias"] = self.bias.to(accumulate)
        if device != "cpu":
            tensors = {name: to_device(x, device) for name, x in tensors.items()}
        leaves = {name: x.detach().requires_grad_() for name, x in tensors.items()}
        returned = attention(
            leaves["q"],
            leaves["k"],
            leaves["v"],
            self.plan.to(device),
            bias=leaves.get("bias"),
            scale=leaves["scale"],
            qk_norm=self.qk_norm,
            dropout_p=self.dropout_p,
            dropout_seed=self.dropout_seed,
            return_lse=lse,
            backend=backend,
        )
        out, log_sum = returned if isinstance(returned, tuple) else (returned, None)
        generator = torch.Generator().manual_seed(3)
        weight = torch.randn(out.shape, generator=generator, dtype=torch.float64)
        value = (out.to(accumulate) * weight.to(device, accumulate)).sum()
        if log_sum is not None:
            weight_lse = torch.randn(log_sum.shape, generator=generator, dtype=torch.float64) * grad_lse
            finite = torch.isfinite(log_sum)
            value = value + (log_sum.masked_fill(~finite, 0.0) * weight_lse.to(device, accumulate)).sum()
        grads = torch.autograd.grad(value, list(leaves.values()), allow_unused=True)
        result = {"out": out.detach()} | ({} if log_sum is None else {"lse": log_sum.detach()})
        for (name, leaf), grad in zip(leaves.items(), grads, strict=True):
            result["d" + name] = torch.zeros_like(leaf) if grad is None else grad
        return {name: x.cpu() for name, x in result.items()}

    def with_(self, **changes: object) -> "Call":
        return replace(self, **changes)  # type: ignore[arg-type]


def to_device(x: Tensor, device: str) -> Tensor:
    """A copy with the same strides, so that views stay views."""
    if x.is_contiguous():
        return x.to(device)
    return torch.empty_strided(x.shape, x.stride(), dtype=x.dtype, device=device).copy_(x)


def as_view(x: Tensor) -> Tensor:
    """The same values as a view with padded rows and heads."""
    storage = torch.full((x.shape[0], x.shape[1] + 1, x.shape[2] + 3), torch.nan, dtype=x.dtype)
    storage[:, : x.shape[1], 1 : x.shape[2] + 1] = x
    return storage[:, : x.shape[1], 1 : x.shape[2] + 1]


@st.composite
def self_plans(draw: st.DrawFn) -> Plan:
    """Plans whose keys are the queries: packed, segments with unlisted tokens, windows, visible windows."""
    kind = draw(st.sampled_from(["lengths", "segments", "windows", "visible", "mixed"]))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    reach = draw(st.sampled_from([None, (-1, 0), (2, 0), (0, 3), (1, 1)]))
    if kind == "lengths":
        lengths = draw(st.lists(st.sampled_from([0, 1, 2, 3, 7, 8, 9, 16, 17, 33, 49, 65]), max_size=6))
        bias = draw(st.sampled_from([None, "ragged", 70]))
        return Plan.from_lengths(lengths, reach=reach, bias=bias)
    if kind == "segments":
        ids = rng.integers(-1, 4, size=draw(st.integers(0, 60)))
        return Plan.from_segment_ids(ids, reach=reach, bias=draw(st.sampled_from([None, "ragged", 64])))
    window = (draw(st.integers(1, 8)), draw(st.integers(1, 8)))
    shift = tuple(int(rng.integers(0, side)) for side in window)
    grid = (draw(st.integers(1, 14)), draw(st.integers(1, 14)))
    batch = draw(st.integers(1, 2))
    if kind == "windows":
        return Plan.windows(grid, window, shift).repeat(batch)
    visible = Plan.visible_windows(rng.random((batch, *grid)) < 0.4, window, shift)
    if kind == "visible":
        return visible
    ragged = Plan.from_lengths([3, 0, 5], bias="ragged", reach=reach)
    return Plan.cat([visible, ragged], planes="concatenated")


@st.composite
def cross_plans(draw: st.DrawFn) -> Plan:
    """Query groups paired with key groups; keys may be listed in several groups."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    sizes = draw(
        st.lists(
            st.tuples(st.sampled_from([0, 1, 5, 8, 17]), st.sampled_from([0, 1, 3, 8, 30])),
            min_size=1,
            max_size=4,
        )
    )
    queries = Plan.from_lengths([a for a, _ in sizes])
    reach = draw(st.sampled_from([None, (-1, 0), (1, 2)]))
    bias = draw(st.sampled_from([None, "ragged", 40]))
    if draw(st.booleans()):
        return Plan.cross(queries, Plan.from_lengths([b for _, b in sizes]), bias=bias, reach=reach)
    num_keys = 31
    lists = [np.sort(rng.choice(num_keys, size=b, replace=False)) for _, b in sizes]
    cu = np.concatenate([[0], np.cumsum([b for _, b in sizes])]).astype(np.int32)
    return Plan(
        cu_seqlens=queries.cu_seqlens,
        num_tokens=queries.num_tokens,
        max_group_size=queries.max_group_size,
        key_cu_seqlens=torch.from_numpy(cu),
        key_token_index=torch.from_numpy(np.concatenate(lists).astype(np.int32)),
        num_keys=num_keys,
        max_key_group_size=max(b for _, b in sizes),
    )


@st.composite
def calls(draw: st.DrawFn, *, dropout: bool = True) -> Call:
    """A call of any kind, with inputs of moderate size."""
    plan = draw(st.one_of(self_plans(), cross_plans()))
    num_heads = draw(st.integers(1, 3))
    head_dim = draw(st.sampled_from([1, 2, 7, 8, 10, 16, 24, 32, 33, 48, 64, 80, 128, 256]))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**31 - 1)))

    def randn(*shape: int) -> Tensor:
        # Exactly representable in bf16, so that every dtype and backend is given the same numbers.
        return torch.randn(shape, generator=generator).bfloat16().double()

    bias = None
    if plan.bias_offset is not None and draw(st.booleans()):
        bias = randn(num_heads, plan.bias_size + draw(st.sampled_from([0, 5])))
        share = draw(st.sampled_from([0.0, 0.0, 0.3, 0.95]))
        bias[torch.rand(bias.shape, generator=generator) < share] = -torch.inf
    num_keys = plan.num_tokens if plan.num_keys is None else plan.num_keys
    return Call(
        q=randn(plan.num_tokens, num_heads, head_dim),
        k=randn(num_keys, num_heads, head_dim),
        v=randn(num_keys, num_heads, head_dim),
        plan=plan,
        bias=bias,
        scale=randn(num_heads).abs() * head_dim**-0.5,
        qk_norm=draw(st.booleans()),
        dropout_p=draw(st.sampled_from([0.0, 0.0, 0.3])) if dropout else 0.0,
        dropout_seed=draw(st.integers(-(2**63), 2**63 - 1)),
    )
