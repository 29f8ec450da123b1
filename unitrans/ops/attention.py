"""The public attention function: checks what a user gave, chooses a backend, calls it."""

import functools
import math

import torch
from torch import Tensor

from unitrans.ops.backends import choose_backend
from unitrans.ops.compiled import is_eager
from unitrans.ops.plan import Plan

_DTYPES = (torch.float32, torch.bfloat16, torch.float16, torch.float64)


def attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    plan: Plan,
    *,
    bias: Tensor | None = None,
    scale: float | Tensor | None = None,
    qk_norm: bool = False,
    dropout_p: float = 0.0,
    dropout_seed: int | Tensor | None = None,
    return_lse: bool = False,
    backend: str | None = None,
) -> Tensor | tuple[Tensor, Tensor]:
    """Softmax attention inside the groups of a plan, on one packed stream of tokens.

    For a query i and the keys j of its group (those within its reach), and head h:

        out_i = sum_j softmax_j(scale_h * q_i . k_j + bias[h, plane entry of (i, j)]) * v_j

    Nothing is padded: rows are read through the plan and written back in place. Softmax and sums are in fp32
    (fp64 for fp64). The result is bit-equal from run to run and for any number of threads.

    Args:
        q: [Tq, N, D]; fp32, bf16, fp16 or fp64. Unit stride in D, any other strides (a view of the qkv
            projection is read without a copy).
        k, v: [Tk, N, D], dtype and device of q. Tk == Tq unless the plan is a cross plan.
        plan: the groups (`unitrans.Plan`), on the device of q.
        bias: fp32 [N, P] (fp64 for fp64 inputs), flat bias planes addressed by the plan; differentiable.
            -inf excludes a pair (gradient 0).
        scale: one number or an fp32 tensor [N], differentiable; default D ** -0.5.
        qk_norm: l2-normalise the rows of q and k (eps 1e-12) before the product, as in Swin V2.
        dropout_p: probability in [0, 1) of dropping an attention weight.
        dropout_seed: int or one-element int64 tensor; the same seed gives the same mask on every backend.
            None draws one from torch's default generator.
        return_lse: also return the log-sum-exp of the scores (natural logarithm), differentiable.
        backend: None (the table chooses) or a name of `unitrans.ops.backends.BACKENDS`: "cpu" (the best
            instruction set), "cpu-portable", "cpu-avx2", "cpu-avx512", "cpu-avx512-bf16" (as "cpu-avx512", and bf16
            inputs meet in bf16 dot products with fp32 sums), "cuda", "torch" (scaled_dot_product_attention on the
            groups), "reference".

    Returns:
        out [Tq, N, D], contiguous, dtype of q; with return_lse also lse [Tq, N] in fp32 (fp64 for fp64).
        A query that is listed nowhere, or has nothing to attend to, has out 0, lse -inf and gradient 0.

    Raises:
        ValueError: shapes, dtypes or devices that do not fit together, or a backend that cannot serve them.
    """
    _check_streams(q, k, v, plan)
    accumulate = torch.float64 if q.dtype == torch.float64 else torch.float32
    if bias is not None:
        _check_bias(bias, q, plan, accumulate)
    scale = _scale_per_head(scale, q, accumulate)
    seed = _dropout_seed(dropout_p, dropout_seed, q.device)
    chosen = choose_backend(backend, q.device)
    out, lse = chosen.run(q, k, v, plan, bias, scale, qk_norm, float(dropout_p), seed, return_lse)
    return (out, lse) if return_lse else out


def attention_qkvpacked(
    qkv: Tensor,
    plan: Plan,
    *,
    bias: Tensor | None = None,
    scale: float | Tensor | None = None,
    qk_norm: bool = False,
    dropout_p: float = 0.0,
    dropout_seed: int | Tensor | None = None,
    return_lse: bool = False,
    backend: str | None = None,
) -> Tensor | tuple[Tensor, Tensor]:
    """`attention(*qkv.unbind(1), plan, ...)` whose gradient is written into one tensor.

    Unbound views have three gradients, which autograd then copies into one: up to a third of a training step
    of the attention. The numbers are the same.

    Args:
        qkv: [T, 3, N, D], the output of a qkv projection.
        plan: a plan of one stream (not a cross plan).

    The others are those of `attention`.

    Returns:
        As `attention`.

    Raises:
        ValueError: as `attention`.
    """
    if qkv.dim() != 4 or qkv.shape[1] != 3:
        raise ValueError(f"qkv: expected [tokens, 3, num_heads, head_dim], got shape {tuple(qkv.shape)}")
    if plan.key_cu_seqlens is not None:
        raise ValueError(
            "plan: expected a plan of one stream, got a cross plan; use attention(q, k, v, plan)"
        )
    _check_stream("qkv", qkv)
    _check_plan(qkv, qkv, plan)
    accumulate = torch.float64 if qkv.dtype == torch.float64 else torch.float32
    if bias is not None:
        _check_bias(bias, qkv, plan, accumulate)
    scale = _scale_per_head(scale, qkv, accumulate)
    seed = _dropout_seed(dropout_p, dropout_seed, qkv.device)
    chosen = choose_backend(backend, qkv.device)
    out, lse = chosen.run_qkv(qkv, plan, bias, scale, qk_norm, float(dropout_p), seed, return_lse)
    return (out, lse) if return_lse else out


def _check_streams(q: Tensor, k: Tensor, v: Tensor, plan: Plan) -> None:
    shape, dtype, device = q.shape, q.dtype, q.device
    if (  # the usual call: named checks would cost a quarter of a small one
        shape == k.shape == v.shape
        and len(shape) == 3
        and plan.key_cu_seqlens is None
        and plan.num_tokens == shape[0]
        and dtype in _DTYPES
        and dtype == k.dtype == v.dtype
        and q.stride(2) == k.stride(2) == v.stride(2) == 1
        and device == k.device == v.device == plan.cu_seqlens.device
    ):
        return
    for name, x in (("q", q), ("k", k), ("v", v)):
        if x.dim() != 3:
            raise ValueError(f"{name}: expected [tokens, num_heads, head_dim], got shape {tuple(x.shape)}")
        _check_stream(name, x)
        if x.dtype != q.dtype or x.device != q.device:
            raise ValueError(
                f"{name}: expected the dtype and device of q ({q.dtype}, {q.device}), got {x.dtype}, {x.device}"
            )
    if k.shape[1:] != q.shape[1:] or v.shape != k.shape:
        raise ValueError(
            "k and v: expected [Tk, N, D] with the heads and head_dim of q "
            f"{tuple(q.shape)} (grouped query heads are not supported), got {tuple(k.shape)} and {tuple(v.shape)}"
        )
    _check_plan(q, k, plan)


def _check_stream(name: str, x: Tensor) -> None:
    if x.dtype not in _DTYPES:
        raise ValueError(f"{name}: expected float32, bfloat16, float16 or float64, got {x.dtype}")
    if x.stride(-1) != 1 and x.shape[-1] > 1:
        raise ValueError(
            f"{name}: expected unit stride in head_dim, got strides {x.stride()}; call .contiguous() first"
        )


def _check_plan(q: Tensor, k: Tensor, plan: Plan) -> None:
    num_keys = plan.num_tokens if plan.num_keys is None else plan.num_keys
    if q.shape[0] != plan.num_tokens or k.shape[0] != num_keys:
        raise ValueError(
            f"plan: made for {plan.num_tokens} query and {num_keys} key tokens, "
            f"got q with {q.shape[0]} and k with {k.shape[0]} rows"
        )
    if plan.cu_seqlens.device != q.device:
        raise ValueError(
            f"plan: expected on {q.device} like q, got {plan.cu_seqlens.device}; use plan.to({str(q.device)!r})"
        )


def _check_bias(bias: Tensor, q: Tensor, plan: Plan, dtype: torch.dtype) -> None:
    if bias.dim() != 2 or bias.shape[0] != q.shape[-2] or bias.dtype != dtype or bias.device != q.device:
        raise ValueError(
            f"bias: expected {dtype} [{q.shape[-2]} heads, entries] on {q.device}, "
            f"got {bias.dtype} {list(bias.shape)} on {bias.device}"
        )
    if plan.bias_offset is None:
        raise ValueError(
            "bias: this plan has no bias planes; make it with bias='ragged' or bias=L, or leave the bias out"
        )
    if bias.shape[1] < plan.bias_size:
        raise ValueError(
            f"bias: the plan addresses {plan.bias_size} entries per head, got {bias.shape[1]} "
            f"(shape {list(bias.shape)})"
        )


def _scale_per_head(scale: float | Tensor | None, q: Tensor, dtype: torch.dtype) -> Tensor:
    num_heads = q.shape[-2]
    if not isinstance(scale, Tensor):
        value = max(q.shape[-1], 1) ** -0.5 if scale is None else float(scale)
        if not math.isfinite(value):
            raise ValueError(f"scale: expected a finite number, got {value}")
        if q.device.type == "cpu" and is_eager(q):
            return _constant_scale(value, num_heads, dtype)
        return torch.full((num_heads,), value, dtype=dtype, device=q.device)
    if scale.shape != (num_heads,) or scale.dtype != dtype or scale.device != q.device:
        raise ValueError(
            f"scale: expected a number or {dtype} [{num_heads}] on {q.device}, "
            f"got {scale.dtype} {list(scale.shape)} on {scale.device}"
        )
    return scale


@functools.lru_cache(maxsize=256)
def _constant_scale(value: float, num_heads: int, dtype: torch.dtype) -> Tensor:
    with torch.inference_mode(False):  # what is saved for a backward pass may not be an inference tensor
        return torch.full((num_heads,), value, dtype=dtype)


def _dropout_seed(dropout_p: float, seed: int | Tensor | None, device: torch.device) -> Tensor | None:
    if not 0.0 <= dropout_p < 1.0:
        raise ValueError(f"dropout_p: expected a number in [0, 1), got {dropout_p}")
    return _seed_tensor(seed, device) if dropout_p > 0.0 else None


def _seed_tensor(seed: int | Tensor | None, device: torch.device) -> Tensor:
    if seed is None:
        return torch.randint(0, 2**62, (1,), device=device)
    if isinstance(seed, Tensor):
        if seed.numel() != 1 or seed.dtype != torch.int64:
            raise ValueError(f"dropout_seed: expected one int64 value, got {seed.dtype} {list(seed.shape)}")
        return seed.to(device)
    return torch.full((1,), seed, dtype=torch.int64, device=device)
