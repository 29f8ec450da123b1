"""The cases: one object gives the shapes, the tensors, the plan - for correctness, gradients and time alike."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from unitrans import Plan, attention_qkvpacked
from unitrans.nn.bias import LogSpacedPositionBias, RelativePositionBias

Grid = tuple[int, int]


@dataclass(frozen=True)
class Windows:
    """Windows of a batch of maps; `visible` tokens of every window where given, else all."""

    grid: Grid
    window: Grid
    shift: int = 0
    batch: int = 8
    visible: int | None = None

    def plan(self) -> Plan:
        if self.visible is None:
            return Plan.windows(self.grid, self.window, self.shift).repeat(self.batch)
        rng = np.random.default_rng(5)
        rows, columns = self.grid[0] // self.window[0], self.grid[1] // self.window[1]
        places = rng.random((self.batch, rows, columns, self.window[0] * self.window[1]))
        seen = places.argsort(-1) < self.visible
        seen = seen.reshape(self.batch, rows, columns, *self.window).transpose(0, 1, 3, 2, 4)
        return Plan.visible_windows(seen.reshape(self.batch, *self.grid), self.window)

    def small(self) -> Windows:
        sides = [min(g, 2 * w) for g, w in zip(self.grid, self.window, strict=True)]
        return replace(self, grid=(sides[0], sides[1]), batch=1 if max(self.window) > 8 else 2)

    def times(self, n: int) -> Windows:
        return replace(self, batch=n * self.batch)

    def __str__(self) -> str:
        seen = f", {self.visible} visible" if self.visible is not None else ""
        return f"{self.grid[0]}x{self.grid[1]}, shift {self.shift}, batch {self.batch}{seen}"


@dataclass(frozen=True)
class Lengths:
    """Sequences or graphs one after the other; `ragged`: each has its own bias plane."""

    lengths: tuple[int, ...]
    ragged: bool = False

    def plan(self) -> Plan:
        return Plan.from_lengths(list(self.lengths), bias="ragged" if self.ragged else None)

    def small(self) -> Lengths:
        return replace(self, lengths=tuple(min(n, 70) for n in self.lengths[:4]))

    def times(self, n: int) -> Lengths:
        return replace(self, lengths=n * self.lengths)

    @property
    def longest(self) -> int:
        return max(self.lengths)

    @property
    def efficiency(self) -> float:
        """Tokens over the tokens of a padded batch."""
        return sum(self.lengths) / (len(self.lengths) * self.longest)

    def __str__(self) -> str:
        mean = sum(self.lengths) / len(self.lengths)
        return (
            f"{len(self.lengths)} x {mean:.0f} on average, at most {self.longest}, {self.efficiency:.2f} full"
        )


@dataclass
class Tensors:
    """One call: qkv [T, 3, N, D] as the projection leaves it, the bias planes [N, P], the gradient of the output."""

    plan: Plan
    qkv: Tensor
    grad_out: Tensor
    scale: Tensor
    bias: Tensor | None
    position_bias: torch.nn.Module | None  # makes the planes of windows from its parameters

    def to(self, dtype: torch.dtype) -> Tensors:
        """The same call with activations in another dtype."""
        return replace(self, qkv=self.qkv.to(dtype), grad_out=self.grad_out.to(dtype))

    def on(self, device: torch.device) -> Tensors:
        """The same call on another device."""
        return Tensors(
            self.plan.to(device),
            self.qkv.to(device),
            self.grad_out.to(device),
            self.scale.to(device),
            None if self.bias is None else self.bias.to(device),
            None if self.position_bias is None else self.position_bias.to(device),
        )

    def run(self, qkv: Tensor, bias: Tensor | None, qk_norm: bool, backend: str | None = None) -> Tensor:
        out = attention_qkvpacked(
            qkv, self.plan, bias=bias, scale=self.scale, qk_norm=qk_norm, backend=backend
        )
        assert isinstance(out, Tensor)
        return out


@dataclass(frozen=True)
class Case:
    """A name, a way to cut tokens into groups, heads, and which goals of the report it counts for."""

    name: str
    cut: Windows | Lengths
    heads: int
    head_dim: int = 32
    cosine: bool = False
    tags: frozenset[str] = frozenset()

    def small(self) -> Case:
        """The same kind of call, small enough for a test."""
        return replace(self, cut=self.cut.small(), heads=min(self.heads, 2))

    def times(self, n: int) -> Case:
        """The same kind of call with n times as many groups."""
        return self if n == 1 else replace(self, cut=self.cut.times(n))

    def tensors(self, seed: int = 0) -> Tensors:
        """Random fp32 arguments."""
        plan = self.cut.plan()
        generator = torch.Generator().manual_seed(seed)
        shape = (plan.num_tokens, 3, self.heads, self.head_dim)
        qkv = torch.randn(shape, generator=generator)
        grad_out = torch.randn((shape[0], *shape[2:]), generator=generator)
        scale = torch.full((self.heads,), 10.0 if self.cosine else self.head_dim**-0.5)
        bias, position_bias = None, None
        if isinstance(self.cut, Windows):
            torch.manual_seed(seed)
            kind = LogSpacedPositionBias if self.cosine else RelativePositionBias
            position_bias = kind(self.cut.window, self.heads)
            bias = position_bias().detach()
        elif self.cut.ragged:
            bias = torch.randn((self.heads, plan.bias_size), generator=generator)
        return Tensors(plan, qkv, grad_out, scale, bias, position_bias)

    def products(self) -> float:
        """Useful multiplications of one of the matrix products: sum of n^2 D over groups and heads."""
        sizes = self.cut.plan().cu_seqlens.diff().double()
        return float((sizes**2).sum()) * self.heads * self.head_dim


def _windows(name: str, side: int, heads: int, window: int, shift: int, batch: int, *tags: str) -> Case:
    cut = Windows((side, side), (window, window), shift, batch)
    cosine = "w7" not in tags
    return Case(f"{name} {side}x{side} h{heads} s{shift}", cut, heads, 32, cosine, frozenset(tags))


def _lengths(count: int, low: int, high: int, seed: int) -> tuple[int, ...]:
    """`count` lengths from low to high with both ends present."""
    drawn = np.random.default_rng(seed).integers(low, high + 1, count)
    drawn[0], drawn[-1] = low, high
    return tuple(int(n) for n in drawn)


def _sentences() -> tuple[int, ...]:
    """Lengths like those of sentences: mean about 135, at most 366."""
    drawn = np.random.default_rng(11).gamma(2.2, 60.0, 32).clip(8, 366).astype(int)
    drawn[0] = 366
    return tuple(int(n) for n in drawn)


CASES = (
    Case("w7 in L2", Windows((14, 28), (7, 7), 0, 1), 3, tags=frozenset({"share w7 in L2"})),
    _windows("w7", 56, 3, 7, 0, 8, "w7", "windows", "share w7 stage 1"),
    _windows("w7", 56, 3, 7, 3, 8, "w7", "windows"),
    _windows("w7", 28, 6, 7, 0, 8, "w7", "windows"),
    _windows("w7", 28, 6, 7, 3, 8, "w7", "windows"),
    _windows("w7", 14, 12, 7, 0, 8, "w7", "windows"),
    _windows("w7", 14, 12, 7, 3, 8, "w7", "windows"),
    _windows("w7", 7, 24, 7, 0, 8, "w7", "windows"),
    _windows("w8", 64, 3, 8, 0, 8, "v2", "windows"),
    _windows("w8", 64, 3, 8, 4, 8, "v2", "windows"),
    _windows("w8", 16, 12, 8, 0, 8, "v2", "windows"),
    _windows("w8", 16, 12, 8, 4, 8, "v2", "windows"),
    _windows("w16", 64, 3, 16, 0, 4, "v2", "windows", "share w16"),
    _windows("w16", 64, 3, 16, 8, 4, "v2", "windows"),
    _windows("w16", 32, 6, 16, 0, 4, "v2", "windows"),
    _windows("w16", 32, 6, 16, 8, 4, "v2", "windows"),
    _windows("w16", 16, 12, 16, 0, 4, "v2", "windows"),
    Case("packed 8x512", Lengths((512,) * 8), 12, 64, tags=frozenset({"full", "share packed"})),
    Case("packed sentences", Lengths(_sentences()), 12, 64, tags=frozenset({"ragged packed"})),
    Case("graphs", Lengths(_lengths(256, 10, 20, 3), ragged=True), 32, 24, tags=frozenset({"graphs"})),
    Case("visible 20 of 49", Windows((56, 56), (7, 7), 0, 8, visible=20), 3, tags=frozenset({"visible"})),
)

_QUICK = ("w7 56x56 h3 s3", "w16 32x32 h6 s8", "packed sentences", "graphs", "visible 20 of 49")


def quick_cases() -> list[Case]:
    """One case of every kind."""
    return [case_named(name) for name in _QUICK]


def case_named(name: str) -> Case:
    """The case of that name.

    Raises:
        ValueError: there is none.
    """
    for case in CASES:
        if case.name == name:
            return case
    raise ValueError(f"case: expected one of {[case.name for case in CASES]}, got {name!r}")
