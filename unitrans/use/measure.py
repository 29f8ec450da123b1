"""What `unitrans doctor --measure` times: whether the tables of this package choose what is fastest on this machine."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor
from torch.nn import functional as F

from unitrans.nn import products
from unitrans.nn.linear import product
from unitrans.ops import Plan, attention_qkvpacked
from unitrans.ops.backends import BACKENDS
from unitrans.ops.compiled import best_isa

#: A choice is called wrong from this much on: smaller differences come and go with the load of a machine.
CLEAR = 1.15

PAIRS = 5
ROWS = 512
WIDTHS = ((192, 768), (768, 768), (768, 3072), (3072, 768))
#: Name, samples, tokens of each, heads, channels of a head.
GROUPS = (("windows of 49", 128, 49, 3, 32), ("rows of 512", 2, 512, 12, 64))


@dataclass(frozen=True)
class Timing:
    """One choice of a table, beside the best other one.

    Attributes:
        what: the case.
        chosen, other: names.
        ratio: time of the other over that of the chosen.
    """

    what: str
    chosen: str
    other: str
    ratio: float

    @property
    def is_wrong(self) -> bool:
        """Whether the other is clearly faster."""
        return self.ratio < 1 / CLEAR

    def __str__(self) -> str:
        return f"{self.what}: {self.chosen}; {self.other} takes {self.ratio:.2f} of its time"


def in_turns(first: Callable[[], object], second: Callable[[], object], pairs: int = PAIRS) -> float:
    """The median of time(second) / time(first) over neighbouring calls: processor time of one thread, so that other
    programs do not count."""
    threads, ratios = torch.get_num_threads(), []
    torch.set_num_threads(1)
    try:
        first()
        second()
        for _ in range(pairs):
            begin = time.process_time()
            first()
            between = time.process_time()
            second()
            ratios.append((time.process_time() - between) / max(between - begin, 1e-9))
    finally:
        torch.set_num_threads(threads)
    return statistics.median(ratios)


def time_products(rows: int = ROWS) -> Iterator[Timing]:
    """fp32 products of linear layers: the library of the table against the other one."""
    line = products.in_use()
    for inner, outer in WIDTHS:
        x, weight, bias, grad = (
            torch.randn(*size) for size in ((rows, inner), (outer, inner), (outer,), (rows, outer))
        )
        cases = (
            (
                "forward",
                line.forward(inner),
                partial(product, x, weight, bias),
                partial(F.linear, x, weight, bias),
            ),
            (
                "gradient of the input",
                line.grad_input,
                partial(product, grad, weight.t(), None),
                partial(torch.mm, grad, weight),
            ),
            (
                "gradient of the weight",
                line.grad_weight,
                partial(product, grad.t(), x.t(), None),
                partial(torch.mm, grad.t(), x),
            ),
        )
        for name, by_onednn, onednn, own in cases:
            what = f"fp32 product {rows} x {inner} -> {outer}, {name}"
            if by_onednn:
                yield Timing(what, "oneDNN", "torch", in_turns(onednn, own))
            else:
                yield Timing(what, "torch", "oneDNN", in_turns(own, onednn))


def time_levels() -> Iterator[Timing]:
    """Attention, forward and backward: the level that calls get against the best other one of this processor."""
    own = f"cpu-{best_isa()}"
    served = [b.name for b in BACKENDS if b.name.startswith("cpu-") and b.why_not("cpu") is None]
    levels = [name for name in served if name != own]
    for name, samples, tokens, heads, channels in GROUPS:
        plan = Plan.from_lengths([tokens] * samples)
        for dtype in (torch.float32, torch.bfloat16):
            qkv = torch.randn(samples * tokens, 3, heads, channels).to(dtype).requires_grad_()
            chosen = partial(_step, qkv, plan, own)
            ratios = {level: in_turns(chosen, partial(_step, qkv, plan, level)) for level in levels}
            best = min(ratios, key=lambda level: ratios[level])
            yield Timing(f"attention on {name}, {str(dtype).removeprefix('torch.')}", own, best, ratios[best])


def _step(qkv: Tensor, plan: Plan, backend: str) -> None:
    qkv.grad = None
    out = attention_qkvpacked(qkv, plan, backend=backend)
    assert isinstance(out, Tensor)
    out.sum().backward()


def time_bf16(rows: int = ROWS, inner: int = 768, outer: int = 3072) -> float:
    """How many times as fast as in fp32 torch's linear layer is in bf16."""
    x, weight = torch.randn(rows, inner), torch.randn(outer, inner)
    in_bf16 = partial(F.linear, x.bfloat16(), weight.bfloat16())
    return in_turns(in_bf16, partial(F.linear, x, weight), pairs=3)
