"""Kernels for the self-check that are wrong in one way each, made of the compiled CPU op."""

import os
import signal
import time
from dataclasses import replace
from typing import Any

import torch

from unitrans.ops.self_check_cases import Kernels, by_backend

good: Kernels = by_backend("cpu", "cpu")


class _WrongGradient(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: torch.Tensor) -> torch.Tensor:
        return x.clone()

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> torch.Tensor:
        return grad * 1.05


def _first(out: Any, change: Any) -> Any:
    return (change(out[0]), *out[1:]) if isinstance(out, tuple) else change(out)


def _raise(*args: Any, **options: Any) -> Any:
    raise RuntimeError("CUDA error: an illegal memory access was encountered")


def _end(*args: Any, **options: Any) -> Any:
    os.kill(os.getpid(), signal.SIGSEGV)


def _wait(*args: Any, **options: Any) -> Any:
    time.sleep(600)


def _zeros_of_groups(*args: Any, **options: Any) -> Any:
    """Right but for rows that no group lists, which are not cleared."""
    return _first(good.attention(*args, **options), lambda out: out + (out == 0).to(out.dtype))


wrong_values = replace(
    good,
    attention_qkvpacked=lambda *a, **o: _first(good.attention_qkvpacked(*a, **o), lambda x: x * 1.01),
)
wrong_gradients = replace(
    good, attention=lambda *a, **o: _first(good.attention(*a, **o), _WrongGradient.apply)
)
wrong_planes = replace(good, pair_bias=lambda *a, **o: good.pair_bias(*a, **o) + 1e-3)
rows_left_alone = replace(good, attention=_zeros_of_groups)
raises = replace(good, pair_bias=_raise)
ends = replace(good, pair_bias=_end)
waits = replace(good, pair_bias=_wait)
