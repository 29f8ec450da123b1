"""What a call costs from Python to the kernel and back, on an input too small to matter. `python -m benchmarks.calls`

Goals: 15 us in inference mode, 25 us with autograd (forward). A bare allocation is timed beside it: it tells how busy
the machine is (about 0.9 us where nothing else runs).
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable

import torch

from unitrans import Plan, attention, attention_qkvpacked


def microseconds(call: Callable[[], object], calls: int = 2000, rounds: int = 9) -> float:
    """Best of several rounds: other programs only ever add time."""
    best = float("inf")
    for _ in range(rounds):
        begin = time.perf_counter()
        for _ in range(calls):
            call()
        best = min(best, (time.perf_counter() - begin) / calls)
    return best * 1e6


def main() -> int:
    torch.set_num_threads(1)
    plan = Plan.from_lengths([4])
    qkv, grad = torch.randn(4, 3, 1, 8), torch.randn(4, 1, 8)
    q, k, v = (x.contiguous() for x in qkv.unbind(1))
    leaf = qkv.clone().requires_grad_()
    with torch.inference_mode():
        print(f"allocation                      {microseconds(lambda: torch.empty(4, 1, 8)):6.1f} us")
        print(f"attention, inference            {microseconds(lambda: attention(q, k, v, plan)):6.1f} us")
        packed = microseconds(lambda: attention_qkvpacked(qkv, plan))
        print(f"attention_qkvpacked, inference  {packed:6.1f} us")
    forward = microseconds(lambda: attention_qkvpacked(leaf, plan))
    print(f"attention_qkvpacked, autograd   {forward:6.1f} us")
    both = microseconds(lambda: torch.autograd.grad(attention_qkvpacked(leaf, plan), leaf, grad))
    print(f"  and its backward              {both:6.1f} us")
    return 0


if __name__ == "__main__":
    sys.exit(main())
