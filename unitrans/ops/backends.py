"""Which backend serves a call, and why not the others: one function answers both."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from unitrans.ops.compiled import ISA_NAMES, attention_compiled, attention_compiled_qkv, best_isa
from unitrans.ops.libraries import CUDA_LOAD_ERROR, LOAD_ERROR
from unitrans.ops.reference import attention_reference
from unitrans.ops.sdpa import NOTE, attention_torch, attention_torch_qkv
from unitrans.ops.verdict import why_held_back


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
        held_back: device -> None, or the reason in words why only calls that name it are served there, so that a
            person can examine it.
    """

    name: str
    why_not: Callable[[str], str | None]
    run: Callable[..., tuple[Tensor, Tensor]]
    run_qkv: Callable[..., tuple[Tensor, Tensor]]
    note: str = ""
    held_back: Callable[[torch.device], str | None] = lambda device: None


#: The best instruction set of this processor, found once, at import, so that tracing sees a constant.
_BEST_ISA = best_isa() if LOAD_ERROR is None else ISA_NAMES[0]


def _cpu_why_not(isa: str, device: str) -> str | None:
    if device not in ("cpu", "meta"):
        return f"it computes on the CPU, the tensors are on {device}"
    if ISA_NAMES.index(isa) > ISA_NAMES.index(_BEST_ISA):
        return f"this processor (or build) has no {isa}; its best is {_BEST_ISA}"
    return LOAD_ERROR


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


def _reference(*arguments: Any) -> tuple[Tensor, Tensor]:
    *call, _need_lse = arguments
    return attention_reference(*call)


def _reference_qkv(qkv: Tensor, *arguments: Any) -> tuple[Tensor, Tensor]:
    return _reference(*qkv.unbind(1), *arguments)


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
    Backend("cuda", _cuda_why_not, _cuda, _cuda_qkv, _CUDA_NOTE, why_held_back),
    Backend("torch", _torch_why_not, attention_torch, attention_torch_qkv, NOTE),
    Backend("reference", lambda device: None, _reference, _reference_qkv),
)

_CPU_DEFAULT = next(backend for backend in BACKENDS if backend.why_not("cpu") is None)


#: The backend of calls that name none; None: the table chooses. A plain variable, as torch.compile reads no other kind.
_preferred: str | None = None


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
    where = torch.device(device)

    def describe(backend: Backend) -> str:
        reason = backend.why_not(where.type)
        held_back = backend.held_back(where) if reason is None else None
        if held_back is not None:
            return f"serves only calls that name it: {held_back}"
        return reason or f"serves{': ' * bool(backend.note)}{backend.note}"

    return {backend.name: describe(backend) for backend in BACKENDS}


def explain_backends(device: str) -> list[tuple[str, str | None]]:
    """(backend, None or the reason why it cannot serve this device type), in order of preference."""
    return [(backend.name, backend.why_not(device)) for backend in BACKENDS]


def choose_backend(name: str | None, device: torch.device) -> Backend:
    """The backend of that name, or the first that serves the device and is not held back there.

    "cuda" is held back on a GPU where the self-check of the kernels failed or has not run; by its name it serves.

    Raises:
        ValueError: no such backend, or it cannot serve this device; the message says why.
    """
    name = _preferred if name is None else name
    if name is None:
        if device.type == "cpu":
            return _CPU_DEFAULT
        return next(
            backend
            for backend in BACKENDS
            if backend.why_not(device.type) is None and backend.held_back(device) is None
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
