"""Philox4x32-10 in tensor arithmetic: the dropout mask of the reference backend.

Source: Salmon et al., "Parallel Random Numbers: As Easy as 1, 2, 3" (SC 2011). The compiled backends run the
same generator on the same counters, so a mask depends on (seed, query row, key row, head) and nothing else.
"""

import torch
from torch import Tensor

_MASK32 = 0xFFFFFFFF
_MULTIPLIERS = (0xD2511F53, 0xCD9E8D57)
_WEYL = (0x9E3779B9, 0xBB67AE85)


def _multiply(constant: int, x: Tensor) -> tuple[Tensor, Tensor]:
    """High and low 32 bits of constant * x, for x int64 holding an unsigned 32-bit number.

    The product may wrap around int64; its 64 bits are right all the same, and the mask removes the sign that
    the arithmetic shift brings in.
    """
    product = x * constant
    return (product >> 32) & _MASK32, product & _MASK32


def philox4x32(seed: Tensor, counter: tuple[Tensor, Tensor, Tensor, Tensor]) -> Tensor:
    """Four random 32-bit words per counter.

    Args:
        seed: int64, one element; its low and high 32 bits are the key.
        counter: four int64 tensors that broadcast together, values in [0, 2**32).

    Returns:
        int64 [..., 4], values in [0, 2**32).
    """
    c0, c1, c2, c3 = torch.broadcast_tensors(*counter)
    key0, key1 = seed & _MASK32, (seed >> 32) & _MASK32
    for _ in range(10):
        high0, low0 = _multiply(_MULTIPLIERS[0], c0)
        high1, low1 = _multiply(_MULTIPLIERS[1], c2)
        c0, c1, c2, c3 = high1 ^ c1 ^ key0, low1, high0 ^ c3 ^ key1, low0
        key0, key1 = (key0 + _WEYL[0]) & _MASK32, (key1 + _WEYL[1]) & _MASK32
    return torch.stack((c0, c1, c2, c3), dim=-1)


def dropout_keep(seed: Tensor, p: float, query_row: Tensor, key_row: Tensor, num_heads: int) -> Tensor:
    """Which attention weights survive dropout.

    Args:
        seed: int64, one element.
        p: probability of dropping a weight, in [0, 1).
        query_row: int64 [G, Lq], rows of q in the stream.
        key_row: int64 [G, Lk], rows of k in the stream.
        num_heads: N.

    Returns:
        bool [G, N, Lq, Lk], True = kept.
    """
    head = torch.arange(num_heads, device=query_row.device)[None, :, None, None]
    query, key = query_row[:, None, :, None], key_row[:, None, None, :]
    words = philox4x32(seed.reshape(()), (query, key // 4, head, torch.zeros_like(head)))
    word = (key % 4).expand(words.shape[:-1])
    return words.gather(-1, word[..., None])[..., 0] >= int(p * 2.0**32)
