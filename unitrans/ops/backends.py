"""Which backend serves a call, and why not the others: one function answers both."""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from unitrans.ops.compiled import (
    CUDA_LOAD_ERROR,
    ISA_NAMES,
    LOAD_ERROR,
    attention_compiled,
    attention_compiled_qkv,
    best_isa,
    is_eager,
)
from unitrans.ops.movable import before_move
from unitrans.ops.plan import Plan
from unitrans.ops.reference import attention_reference
from unitrans.ops.sdpa import NOTE, attention_torch, attention_torch_qkv
from unitrans.ops.self_check import check_before_use, distrust


@dataclass(frozen=True)
class Backend:
    """A way to compute the op.

    Attributes:
        name: what `backend=` takes.
        why_not: device type -> None where the backend serves it, else the reason in words.
        run: (q, k, v, plan, bias, scale, qk_norm, dropout_p, dropout_seed, need_lse) -> (out, lse); lse
            may be anything where it is not needed.
        run_qkv: the same with q, k, v in one tensor [T, 3, N, D].
        note: how it serves, in words, and which calls it hands on.
    """

    name: str
    why_not: Callable[[str], str | None]
    run: Callable[..., tuple[Tensor, Tensor]]
    run_qkv: Callable[..., tuple[Tensor, Tensor]]
    note: str = ""


#: The best instruction set of this processor, found once, at import, so that tracing sees a constant.
_BEST_ISA = best_isa() if LOAD_ERROR is None else ISA_NAMES[0]


def _cpu_why_not(isa: str, device: str) -> str | None:
    if device not in ("cpu", "meta"):
        return f"it computes on the CPU, the tensors are on {device}"
    if ISA_NAMES.index(isa) > ISA_NAMES.index(_BEST_ISA):
        return f"this processor (or build) has no {isa}; its best is {_BEST_ISA}"
    return LOAD_ERROR


before_move.append(check_before_use)

#: What the CUDA kernels hand to the `torch` backend, in words.
_CUDA_NOTE = "fp32, bf16 and fp16 with head_dim up to 128; other calls go to the torch backend"
_CUDA_MAX_HEAD_DIM = 128


def _cuda_why_not(device: str) -> str | None:
    if device != "cuda":
        return f"it computes on NVIDIA GPUs, the tensors are on {device}"
    return CUDA_LOAD_ERROR


def _cuda_serves(x: Tensor) -> bool:
    return x.dtype != torch.float64 and x.shape[-1] <= _CUDA_MAX_HEAD_DIM


def _cuda(q: Tensor, *arguments: Any) -> tuple[Tensor, Tensor]:
    return (attention_compiled if _cuda_serves(q) else attention_torch)(q, *arguments)


def _cuda_qkv(qkv: Tensor, *arguments: Any) -> tuple[Tensor, Tensor]:
    return (attention_compiled_qkv if _cuda_serves(qkv) else attention_torch_qkv)(qkv, *arguments)


def _torch_why_not(device: str) -> str | None:
    return "it reads the sizes of groups, and meta tensors have none" if device == "meta" else None


def _check_on_host(x: Tensor, plan: Plan) -> None:
    """torch's indexing would take a negative row of a plan that somebody wrote into as one from the end."""
    if x.device.type == "cpu" and is_eager(x):
        plan.check()


def _torch(q: Tensor, k: Tensor, v: Tensor, plan: Plan, *arguments: Any) -> tuple[Tensor, Tensor]:
    _check_on_host(q, plan)
    return attention_torch(q, k, v, plan, *arguments)


def _torch_qkv(qkv: Tensor, plan: Plan, *arguments: Any) -> tuple[Tensor, Tensor]:
    _check_on_host(qkv, plan)
    return attention_torch_qkv(qkv, plan, *arguments)


def _reference(q: Tensor, k: Tensor, v: Tensor, plan: Plan, *arguments: Any) -> tuple[Tensor, Tensor]:
    _check_on_host(q, plan)
    *options, _need_lse = arguments
    return attention_reference(q, k, v, plan, *options)


def _reference_qkv(qkv: Tensor, plan: Plan, *arguments: Any) -> tuple[Tensor, Tensor]:
    q, k, v = qkv.unbind(1)
    return _reference(q, k, v, plan, *arguments)


# In order of preference; "torch" and the reference serve every device that torch has. The CPU levels below the best are
# there to be named (tests, comparisons): with None, "cpu" comes first and takes the best level.
BACKENDS = (
    Backend("cpu", partial(_cpu_why_not, _BEST_ISA), attention_compiled, attention_compiled_qkv),
    *(
        Backend(
            f"cpu-{isa}",
            partial(_cpu_why_not, isa),
            partial(attention_compiled, isa=level),
            partial(attention_compiled_qkv, isa=level),
        )
        for level, isa in enumerate(ISA_NAMES)
    ),
    Backend("cuda", _cuda_why_not, _cuda, _cuda_qkv, _CUDA_NOTE),
    Backend("torch", _torch_why_not, _torch, _torch_qkv, NOTE),
    Backend("reference", lambda device: None, _reference, _reference_qkv),
)

_CPU_DEFAULT = next(backend for backend in BACKENDS if backend.why_not("cpu") is None)


#: Environment variable that names the backend of calls that name none.
SWITCH = "UNITRANS_BACKEND"

#: The backend of calls that name none; None: the table chooses. A plain variable, as torch.compile reads no other kind.
_preferred: str | None = os.environ.get(SWITCH) or None


@contextmanager
def preferred_backend(name: str) -> Iterator[None]:
    """Inside, calls of this process that name no backend take this one (`reference` exports without operators of our
    own).

    Raises:
        ValueError: no such backend; a call that it cannot serve says so itself.
    """
    if name not in [backend.name for backend in BACKENDS]:
        raise ValueError(_unknown(name))
    global _preferred
    before, _preferred = _preferred, name
    try:
        yield
    finally:
        _preferred = before


def _unknown(name: str) -> str:
    names = ", ".join(repr(backend.name) for backend in BACKENDS)
    return f"backend: expected None or one of {names}, got {name!r}"


def describe_backends(device: str) -> dict[str, str]:
    """Backend -> "serves" (and how) or why it does not, for people, in order of preference."""
    return {
        backend.name: backend.why_not(device) or f"serves{': ' * bool(backend.note)}{backend.note}"
        for backend in BACKENDS
    }


def explain_backends(device: str) -> list[tuple[str, str | None]]:
    """(backend, None or the reason why it cannot serve this device type), in order of preference."""
    return [(backend.name, backend.why_not(device)) for backend in BACKENDS]


@torch.compiler.assume_constant_result
def _exports_onnx() -> bool:
    return bool(torch.onnx.is_in_onnx_export())


def choose_backend(name: str | None, device: torch.device) -> Backend:
    """The backend of that name, or the first that serves the device. The CUDA kernels serve calls that name no backend
    only where `unitrans.ops.self_check` trusts them, and `torch.onnx.export` gets the reference.

    Raises:
        ValueError: no such backend, or it cannot serve this device; the message says why.
    """
    name = _preferred if name is None else name
    if name is None and torch.compiler.is_exporting() and _exports_onnx():
        name = "reference"  # of standard operators alone
    if name is None:
        if device.type == "cpu":
            return _CPU_DEFAULT
        return next(
            backend
            for backend in BACKENDS
            if backend.why_not(device.type) is None and not (backend.name == "cuda" and distrust(device))
        )
    for backend in BACKENDS:
        if backend.name == name:
            reason = backend.why_not(device.type)
            if reason is None:
                return backend
            raise ValueError(
                f"backend={name!r} cannot serve this call: {reason}. backend=None picks one that can"
            )
    raise ValueError(_unknown(name))
