"""Tensors whose memory ends (or begins) at a page that nobody may touch: a read or write outside kills the process."""

import ctypes
import mmap

import torch
from torch import Tensor

PAGE = mmap.PAGESIZE
_LIBC = ctypes.CDLL(None, use_errno=True)
_LIBC.mmap.restype = ctypes.c_void_p
_LIBC.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, *[ctypes.c_int] * 3, ctypes.c_long]
_LIBC.mprotect.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
_LIBC.munmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t]
_LENT: list[tuple[int, int]] = []
_NO_ACCESS, _PRIVATE_ANONYMOUS, _FAILED = 0, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS, 2**64 - 1


def guarded(x: Tensor, *, at_end: bool = True) -> Tensor:
    """A contiguous copy of x between two pages without access, its last byte (or its first) next to one.

    The memory stays until `release`.
    """
    size = x.numel() * x.element_size()
    inner = -(-max(size, 1) // PAGE) * PAGE
    base = _LIBC.mmap(None, inner + 2 * PAGE, mmap.PROT_READ | mmap.PROT_WRITE, _PRIVATE_ANONYMOUS, -1, 0)
    assert base != _FAILED, ctypes.get_errno()
    _LENT.append((base, inner + 2 * PAGE))
    for guard in (base, base + PAGE + inner):
        assert _LIBC.mprotect(guard, PAGE, _NO_ACCESS) == 0, ctypes.get_errno()
    if size == 0:
        return x.clone()
    start = base + PAGE + (inner - size if at_end else 0)
    memory = (ctypes.c_char * size).from_address(start)
    copy = torch.frombuffer(memory, dtype=x.dtype, count=x.numel()).view(x.shape)
    return copy.copy_(x)


def release() -> None:
    """Gives back the memory of all tensors of `guarded`, which nobody may use any more."""
    while _LENT:
        _LIBC.munmap(*_LENT.pop())
