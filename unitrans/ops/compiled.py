"""The compiled op as torch sees it: shapes for tracing, and its gradient - each once.

The schema is defined in C++ (cpp/bindings/torch_ops.cpp) through torch's stable ABI, so one binary serves
every torch from 2.10 on. What is registered here holds for every compiled backend.
"""

from typing import Any

import torch
from torch import Tensor

from unitrans.ops.libraries import LOAD_ERROR
from unitrans.ops.plan import Plan

Arguments = tuple[Any, ...]


def plan_arguments(plan: Plan) -> Arguments:
    """The fields of a plan in the order of the op schema."""
    return (
        plan.cu_seqlens,
        plan.token_index,
        plan.position,
        plan.key_cu_seqlens,
        plan.key_token_index,
        plan.key_position,
        plan.bias_offset,
        plan.bias_row_stride,
        plan.reach,
        plan.max_group_size,
        plan.max_key_group_size if plan.max_key_group_size is not None else plan.max_group_size,
    )


def _tangents_refused(*inputs: Tensor | None) -> None:
    if torch.autograd.forward_ad._current_level < 0:  # not inside a dual level: nearly always
        return
    for x in inputs:
        if x is not None and torch.autograd.forward_ad.unpack_dual(x).tangent is not None:
            raise RuntimeError(
                "unitrans.attention: the compiled backends have no forward-mode derivative; use "
                "backend='reference' where it is needed"
            )


def attention_compiled(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    plan: Plan,
    bias: Tensor | None,
    scale: Tensor,
    qk_norm: bool,
    dropout_p: float,
    dropout_seed: Tensor | None,
    need_lse: bool = True,
    isa: int = -1,
) -> tuple[Tensor, Tensor]:
    """Same arguments and results as `attention_reference`, computed by the library.

    `isa` is a place in `ISA_NAMES`, -1 the best that this processor runs.

    Raises:
        RuntimeError: an input carries a forward-mode tangent, which would be lost without a word.
    """
    _tangents_refused(q, k, v, bias, scale)
    if is_eager(q, k, v, bias, scale):
        options = (qk_norm, dropout_p, dropout_seed, isa)
        return _run_eager(q, k, v, bias, scale, plan_arguments(plan), options, need_lse)
    return torch.ops.unitrans.attention_forward(
        q, k, v, *plan_arguments(plan), bias, scale, qk_norm, dropout_p, dropout_seed, isa
    )


def attention_compiled_qkv(
    qkv: Tensor,
    plan: Plan,
    bias: Tensor | None,
    scale: Tensor,
    qk_norm: bool,
    dropout_p: float,
    dropout_seed: Tensor | None,
    need_lse: bool = True,
    isa: int = -1,
) -> tuple[Tensor, Tensor]:
    """`attention_compiled` on q, k, v in one tensor [T, 3, N, D], whose gradient is one tensor too.

    With separate views autograd would copy three gradients into one, which costs up to a third of a step.
    """
    _tangents_refused(qkv, bias, scale)
    if is_eager(qkv, bias, scale):
        options = (qk_norm, dropout_p, dropout_seed, isa)
        return _run_eager(qkv, None, None, bias, scale, plan_arguments(plan), options, need_lse)
    q, k, v = qkv.unbind(1)
    return attention_compiled(q, k, v, plan, bias, scale, qk_norm, dropout_p, dropout_seed, need_lse, isa)


#: Instruction sets of the CPU kernels, ascending, as in cpp/include/unitrans/attention.hpp.
ISA_NAMES = ("portable", "avx2", "avx512", "avx512-bf16")


def best_isa() -> str:
    """The instruction set that the CPU kernels use on this machine. Needs the library (`LOAD_ERROR` is None)."""
    return ISA_NAMES[torch.ops.unitrans.cpu_isa()]


# Positions in the schema of attention_forward: q, k, v, the plan, bias, scale, qk_norm, dropout_p, dropout_seed, isa.
_NUM_PLAN = 11
_BIAS = 3 + _NUM_PLAN
_NUM_ARGUMENTS = _BIAS + 6


def _accumulate_dtype(x: Tensor) -> torch.dtype:
    return torch.float64 if x.dtype == torch.float64 else torch.float32


def _forward_shapes(q: Tensor, k: Tensor, v: Tensor, *rest: Any) -> tuple[Tensor, Tensor]:
    out = q.new_empty((q.shape[0], q.shape[1], v.shape[2]))
    return out, q.new_empty((q.shape[0], q.shape[1]), dtype=_accumulate_dtype(q))


def _backward_shapes(
    grad_out: Tensor, grad_lse: Tensor | None, q: Tensor, k: Tensor, v: Tensor, *rest: Any
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    bias, scale, need_bias, need_scale = rest[_NUM_PLAN], rest[_NUM_PLAN + 1], rest[-2], rest[-1]
    grad_bias = bias.new_empty(bias.shape) if need_bias else scale.new_empty((0,))
    grad_scale = scale.new_empty(scale.shape) if need_scale else scale.new_empty((0,))
    return q.new_empty(q.shape), k.new_empty(k.shape), v.new_empty(v.shape), grad_bias, grad_scale


def _setup_context(ctx: Any, inputs: Arguments, output: tuple[Tensor, Tensor]) -> None:
    ctx.tensor_places = [i for i, x in enumerate(inputs) if isinstance(x, Tensor)]
    ctx.constants = [None if isinstance(x, Tensor) else x for x in inputs]
    ctx.save_for_backward(*(inputs[i] for i in ctx.tensor_places))
    ctx.set_materialize_grads(False)


def _backward(ctx: Any, grad_out: Tensor | None, grad_lse: Tensor | None) -> Arguments:
    none = (None,) * _NUM_ARGUMENTS
    if grad_out is None and grad_lse is None:
        return none
    inputs = list(ctx.constants)
    for place, tensor in zip(ctx.tensor_places, ctx.saved_tensors, strict=True):
        inputs[place] = tensor
    q, v = inputs[0], inputs[2]
    if grad_out is None:
        grad_out = q.new_zeros((q.shape[0], q.shape[1], v.shape[2]))
    needs = ctx.needs_input_grad
    need_bias, need_scale = bool(needs[_BIAS]), bool(needs[_BIAS + 1])
    dq, dk, dv, dbias, dscale = torch.ops.unitrans.attention_backward(
        grad_out, grad_lse, *inputs, need_bias, need_scale
    )
    grads: list[Any] = list(none)
    grads[0], grads[1], grads[2] = dq, dk, dv
    grads[_BIAS], grads[_BIAS + 1] = (dbias if need_bias else None), (dscale if need_scale else None)
    return tuple(grads)


def is_eager(*inputs: Tensor | None) -> bool:
    """Whether this is a plain call: nobody traces, transforms or intercepts it.

    Then the gradient formula runs without the general machinery of registered operators, which costs about
    ten times a small call.
    """
    return (
        not torch.compiler.is_compiling()
        and torch._C._len_torch_dispatch_stack() == 0
        and torch._C._functorch.peek_interpreter_stack() is None
        and all(x is None or type(x) is Tensor or type(x) is torch.nn.Parameter for x in inputs)
    )


def _run_eager(
    q: Tensor,
    k: Tensor | None,
    v: Tensor | None,
    bias: Tensor | None,
    scale: Tensor,
    plan: Arguments,
    options: Arguments,
    need_lse: bool,
) -> tuple[Tensor, Any]:
    """q, k, v, or all of them in q [T, 3, N, D]; options: qk_norm, dropout_p, dropout_seed, isa. lse None or empty
    where it is not needed."""
    if torch.is_grad_enabled() and any(x is not None and x.requires_grad for x in (q, k, v, bias, scale)):
        found = _EagerAttention.apply(q, k, v, bias, scale, plan, options, need_lse)
        return found if need_lse else (found, None)
    return torch.ops.unitrans.attention_forward_eager(q, k, v, *plan, bias, scale, *options, need_lse)


class _EagerAttention(torch.autograd.Function):
    """The formula of `_backward` for plain calls; gives (out, lse), or out alone."""

    @staticmethod
    def forward(
        ctx: Any,
        q: Tensor,
        k: Tensor | None,
        v: Tensor | None,
        bias: Tensor | None,
        scale: Tensor,
        plan: Arguments,
        options: Arguments,
        need_lse: bool,
    ) -> Tensor | tuple[Tensor, Tensor]:
        out, lse = torch.ops.unitrans.attention_forward_eager(q, k, v, *plan, bias, scale, *options, need_lse)
        ctx.save_for_backward(q, k, v, bias, scale)
        ctx.plan, ctx.options = plan, options
        ctx.set_materialize_grads(False)
        return (out, lse) if need_lse else out

    @staticmethod
    def backward(ctx: Any, grad_out: Tensor | None, grad_lse: Tensor | None = None) -> Arguments:
        if grad_out is None and grad_lse is None:
            return (None,) * 8
        q, k, v, bias, scale = ctx.saved_tensors
        need_bias, need_scale = ctx.needs_input_grad[3:5]
        if grad_out is None:
            grad_out = torch.zeros_like(q if k is not None else q[:, 0])
        rest = (*ctx.plan, bias, scale, *ctx.options)
        if torch.is_grad_enabled():  # create_graph=True: its own gradient is refused in words
            streams = q.unbind(1) if k is None else (q, k, v)
            *d, dbias, dscale = torch.ops.unitrans.attention_backward(
                grad_out, grad_lse, *streams, *rest, need_bias, need_scale
            )
            d = [torch.stack(d, 1), None, None] if k is None else d
        else:
            d = [
                None if x is None else torch.empty_like(x, memory_format=torch.contiguous_format)
                for x in (q, k, v)
            ]
            dbias, dscale = torch.ops.unitrans.attention_backward_into(
                grad_out, grad_lse, q, k, v, *rest, *d, need_bias, need_scale
            )
        return (*d, dbias if need_bias else None, dscale if need_scale else None, None, None, None)


def _no_double_backward(ctx: Any, *grads: Any) -> Arguments:
    raise RuntimeError(
        "unitrans.attention: the compiled backends have no double backward; "
        "use backend='reference' where gradients of gradients are needed"
    )


def _register() -> None:
    torch.library.register_fake("unitrans::attention_forward", _forward_shapes)
    torch.library.register_fake("unitrans::attention_backward", _backward_shapes)
    torch.library.register_autograd("unitrans::attention_forward", _backward, setup_context=_setup_context)
    torch.library.register_autograd("unitrans::attention_backward", _no_double_backward)


if LOAD_ERROR is None:
    _register()
