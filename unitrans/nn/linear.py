"""Linear layers whose large fp32 products on a CPU are oneDNN's."""

from __future__ import annotations

import functools
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from unitrans.nn.products import Products, in_use
from unitrans.ops.compiled import is_eager

#: Multiplications below which a call of oneDNN (some 12 us) costs more than it saves.
SMALLEST = 1 << 24

#: oneDNN's product with bias and non-linearity in its last step. Made for torch.compile, so a torch without it is
#: thinkable.
_pointwise: Any = (
    getattr(torch.ops.mkldnn, "_linear_pointwise", None) if torch.backends.mkldnn.is_available() else None
)


class Linear(nn.Linear):
    """`torch.nn.Linear`, in fp32 on a CPU by the library that is faster there, and with a GELU behind it in bf16 too.

    torch writes the bias into the result first and adds the product to it; oneDNN adds the bias in its last step. Which
    of the two makes which product is a table by processor family (`products.py`). Sums are in another order, so the
    last bits differ from those of `torch.nn.Linear`; `torch.backends.mkldnn.flags(enabled=False)` gives these.
    """

    def forward(self, x: Tensor) -> Tensor:
        """x [T, in_features] -> [T, out_features]."""
        if x.dtype != torch.float32 or not self._large(x):  # in bf16 torch's own product is as fast
            return super().forward(x)
        line = in_use()
        if self._learns(x) and (line.grad_input or line.grad_weight or line.forward(self.in_features)):
            return _Product.apply(x, self.weight, self.bias, line)
        return product(x, self.weight, self.bias) if line.forward(self.in_features) else super().forward(x)

    def then_gelu(self, x: Tensor, act: nn.Module) -> Tensor:
        """act(self(x)); for a `torch.nn.GELU` in one pass where nobody needs or watches what is between."""
        if not isinstance(act, nn.GELU) or not self._large(x) or self._learns(x):
            return act(self(x))
        if is_watched(self) or is_watched(act):
            return act(self(x))
        if x.dtype == torch.float32 and not in_use().forward(self.in_features):
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


def product(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    result: Tensor = _pointwise(x.contiguous(), weight, bias, "none", [], "")
    return result


class _Product(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, line: Products) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.line = line
        return product(x, weight, bias) if line.forward(weight.shape[1]) else F.linear(x, weight, bias)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        needs_x, needs_weight, needs_bias, _ = ctx.needs_input_grad
        again = torch.is_grad_enabled()  # create_graph=True: operations that can be differentiated again
        dx = dweight = None
        if needs_x:
            by_onednn = ctx.line.grad_input and not again
            dx = product(grad, weight.t(), None) if by_onednn else grad @ weight
        if needs_weight:
            # oneDNN has no fast way to read rows that lie apart, as those of a view
            by_onednn = ctx.line.grad_weight and not again
            dweight = product(grad.t(), x.contiguous().t(), None) if by_onednn else grad.t() @ x
        return dx, dweight, grad.sum(0) if needs_bias else None, None
