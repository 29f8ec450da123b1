"""Linear layers whose large fp32 products on a CPU are oneDNN's."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from unitrans.ops.compiled import is_eager

#: Multiplications below which a call of oneDNN (some 12 us) costs more than it saves.
SMALLEST = 1 << 24

#: oneDNN's product with bias and non-linearity in its last step. Made for torch.compile, so a torch without it is
#: thinkable.
_pointwise: Any = (
    getattr(torch.ops.mkldnn, "_linear_pointwise", None) if torch.backends.mkldnn.is_available() else None
)


class Linear(nn.Linear):
    """`torch.nn.Linear`, about a tenth faster in fp32 on a CPU, and with a GELU behind it in bf16 too.

    torch writes the bias into the result first and adds the product to it; oneDNN adds the bias in its last step. The
    gradient of the weight is torch's, but on processors where oneDNN's is faster (`_weights_too`). Sums are in another
    order, so the last bits differ from those of `torch.nn.Linear`; `torch.backends.mkldnn.flags(enabled=False)` gives
    these.
    """

    def forward(self, x: Tensor) -> Tensor:
        """x [T, in_features] -> [T, out_features]."""
        if x.dtype != torch.float32 or not self._large(x):  # in bf16 torch's own product is as fast
            return super().forward(x)
        if self._learns(x):
            return _Product.apply(x, self.weight, self.bias)
        return _product(x, self.weight, self.bias)

    def then_gelu(self, x: Tensor, act: nn.Module) -> Tensor:
        """act(self(x)); for a `torch.nn.GELU` in one pass where nobody needs or watches what is between."""
        if not isinstance(act, nn.GELU) or not self._large(x) or self._learns(x):
            return act(self(x))
        if is_watched(self) or is_watched(act):
            return act(self(x))
        return _pointwise(x.contiguous(), self.weight, self.bias, "gelu", [], act.approximate)

    def _learns(self, x: Tensor) -> bool:
        """Whether a gradient will be asked for."""
        tensors = (x, self.weight, self.bias)
        return torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in tensors)

    def _large(self, x: Tensor) -> bool:
        """Whether it is worth a call of oneDNN, and a plain one: nobody traces, casts or transforms it."""
        return (
            _pointwise is not None
            and is_eager(x, self.weight, self.bias)
            and x.dtype == self.weight.dtype
            and (x.dtype == torch.float32 or (x.dtype == torch.bfloat16 and serves_bf16()))
            and x.device.type == "cpu"
            and x.dim() == 2
            and x.shape[0] * self.weight.numel() >= SMALLEST
            and bool(torch.backends.mkldnn.enabled)
            and not torch.is_autocast_enabled("cpu")
            and torch.autograd.forward_ad._current_level < 0
        )


@functools.cache
def serves_bf16() -> bool:
    """Whether oneDNN multiplies bf16 on this processor: not with AVX2 alone, where it raises an error."""
    return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())


def is_watched(module: nn.Module) -> bool:
    """Whether somebody has put a hook on it, which only a call of the module runs."""
    return bool(module._forward_hooks or module._forward_pre_hooks)


def _product(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    result: Tensor = _pointwise(x.contiguous(), weight, bias, "none", [], "")
    return result


class _Product(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(x, weight)
        return _product(x, weight, bias)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        needs_x, needs_weight, needs_bias = ctx.needs_input_grad
        again = torch.is_grad_enabled()  # create_graph=True: operations that can be differentiated again
        dx = dweight = None
        if needs_x:
            dx = grad @ weight if again else _product(grad, weight.t(), None)
        if needs_weight:
            # oneDNN has no fast way to read rows that lie apart, as those of a view
            by_onednn = _weights_too() and not again
            dweight = _product(grad.t(), x.contiguous().t(), None) if by_onednn else grad.t() @ x
        return dx, dweight, grad.sum(0) if needs_bias else None


@functools.cache
def _weights_too() -> bool:
    """Whether oneDNN is faster for gradients of weights too: on AMD's processors from family 26 (Zen 5) on, whose wide
    AVX-512 units torch's MKL leaves alone. On an older EPYC it was a fifth slower, as both arguments are transposed."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").split("\n\n")[0].splitlines()
    except OSError:
        return False
    about = {key.strip(): value.strip() for key, _, value in (line.partition(":") for line in lines)}
    family = about.get("cpu family", "")
    wide = family.isdecimal() and int(family) >= 26 and "avx512f" in about.get("flags", "").split()
    return wide and about.get("vendor_id") == "AuthenticAMD"
