"""The bias of a linear layer and the exact GELU behind it, in one pass over memory each way."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from unitrans.ops.compiled import LOAD_ERROR, is_eager

_DTYPES = (torch.float32, torch.float64)
#: Below this many values a call costs more than it saves.
_MIN_VALUES = 1 << 18


def bias_gelu(x: Tensor, bias: Tensor, *, overwrite: bool = False) -> Tensor:
    """gelu(x + bias), exact (Hendrycks and Gimpel 2016, section 2): u Phi(u) with u = x + bias.

    The error in fp32 is below 1e-6. Results and gradients are bit-equal for any number of threads.

    Args:
        x: [T, C], fp32 or fp64, on the CPU; differentiable.
        bias: [C], dtype of x; differentiable.
        overwrite: put the result into x, which must be contiguous and have no gradient.

    Returns:
        [T, C]; x itself with overwrite.

    Raises:
        ValueError: shapes, dtypes or devices that do not fit, or no compiled library.
    """
    if x.dtype not in _DTYPES or x.dim() != 2 or x.device.type != "cpu":
        raise ValueError(
            f"x: expected float32 or float64 [T, C] on the CPU, got {x.dtype} {list(x.shape)} on {x.device}"
        )
    if bias.shape != x.shape[1:] or bias.dtype != x.dtype or bias.device != x.device:
        raise ValueError(
            f"bias: expected {x.dtype} [{x.shape[1]}] on {x.device}, "
            f"got {bias.dtype} {list(bias.shape)} on {bias.device}"
        )
    if LOAD_ERROR is not None:
        raise ValueError(f"bias_gelu cannot be computed: {LOAD_ERROR}")
    if not overwrite:
        out: Tensor = torch.ops.unitrans.bias_gelu(x, bias)
        return out
    if torch.is_grad_enabled() and (x.requires_grad or bias.requires_grad):
        raise ValueError("overwrite: expected False where gradients are wanted; they need x")
    if not x.is_contiguous():
        raise ValueError(f"overwrite: expected a contiguous x, got strides {x.stride()}")
    torch.ops.unitrans.bias_gelu_(x, bias)
    return x


def linear_gelu(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor | None:
    """gelu(x @ weight.T + bias), x [T, C], where one pass for bias and GELU pays; None where it does not.

    It pays for large fp32 results of plain calls: PyTorch writes the bias into the result before the product, and makes
    another tensor for the GELU. In bf16 the product brings the bias along, torch.compile joins both by itself; where
    gradients are wanted, the product has to be kept and no gain was found.
    """
    pays = (
        is_eager(x, weight, bias)  # first: what is traced must not depend on the number of rows
        and LOAD_ERROR is None
        and x.dtype == weight.dtype == bias.dtype == torch.float32
        and x.dim() == 2
        and x.device.type == "cpu"
        and x.shape[0] * weight.shape[0] >= _MIN_VALUES
        and not torch.is_autocast_enabled("cpu")
        and torch.autograd.forward_ad._current_level < 0
        and not (torch.is_grad_enabled() and any(t.requires_grad for t in (x, weight, bias)))
    )
    if not pays:
        return None
    return bias_gelu(F.linear(x, weight), bias, overwrite=True)


def _setup_context(ctx: Any, inputs: tuple[Tensor, Tensor], output: Tensor) -> None:
    ctx.save_for_backward(*inputs)


def _backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None]:
    dx, dbias = torch.ops.unitrans.bias_gelu_backward(grad, *ctx.saved_tensors)
    return dx, dbias


def _no_double_backward(ctx: Any, *grads: Any) -> tuple[None, None, None]:
    raise RuntimeError(
        "unitrans.ops.bias_gelu: there is no double backward; use torch.nn.functional.gelu where gradients of "
        "gradients are needed"
    )


if LOAD_ERROR is None:
    torch.library.register_fake("unitrans::bias_gelu", lambda x, bias: x.new_empty(x.shape))
    torch.library.register_fake("unitrans::bias_gelu_", lambda x, bias: None)
    torch.library.register_fake(
        "unitrans::bias_gelu_backward",
        lambda grad, x, bias: (x.new_empty(x.shape), bias.new_empty(bias.shape)),
    )
    torch.library.register_autograd("unitrans::bias_gelu", _backward, setup_context=_setup_context)
    torch.library.register_autograd("unitrans::bias_gelu_backward", _no_double_backward)
