"""Kernels that the self-check is tried with: the compiled ones of the CPU, right and made wrong.

Named as `stand_ins:NAME` on the command line of the check, which imports this in its own process.
"""

import os
import signal
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from torch import Tensor

from unitrans.ops.self_check import Kernels, compiled_kernels
from unitrans.ops.verdict import SWITCH

assert os.environ.get(SWITCH) == "0", "the child would check itself, and so on"

right = compiled_kernels()


def _instead(act: Callable[[], Any]) -> Kernels:
    def attention(*arguments: Any) -> tuple[Tensor, Tensor]:
        act()
        raise AssertionError("not reached")

    return replace(right, attention=attention)


def _without_dropout(*arguments: Any) -> tuple[Tensor, Tensor]:
    *call, _dropout_p, seed, need_lse = arguments
    return right.attention_qkv(*call, 0.0, seed, need_lse)


def _raise() -> None:
    raise RuntimeError("CUDA error: an illegal memory access was encountered\n(and what torch adds)")


wrong = replace(right, attention_qkv=_without_dropout)
raises = _instead(_raise)
segfault = _instead(lambda: os.kill(os.getpid(), signal.SIGSEGV))
exits = _instead(lambda: os._exit(3))
hangs = _instead(lambda: time.sleep(600))
