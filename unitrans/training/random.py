"""Generators that are functions of names, not of history.

Masks, crops and flips are drawn from (seed, epoch, sample id), so they do not depend on the number of loader
workers, on the number of processes or on where a run was interrupted.
"""

from __future__ import annotations

import hashlib
import random

import numpy as np
import torch


def _digest(parts: tuple[object, ...], size: int) -> bytes:
    # repr keeps the parts apart: ("a", "bc") and ("ab", "c") differ.
    return hashlib.blake2b(repr(parts).encode("utf-8", "surrogateescape"), digest_size=size).digest()


def sample_rng(seed: int, epoch: int | None, sample_id: str, purpose: str) -> np.random.Generator:
    """The generator of one sample in one epoch for one purpose ("augment", "mask", ...).

    Philox, keyed by a 128-bit hash of the arguments. ``epoch=None`` is validation: the same numbers each time.
    """
    key = np.frombuffer(_digest((int(seed), epoch, sample_id, purpose), 16), dtype=np.uint64)
    return np.random.Generator(np.random.Philox(key=key))


def derived_seed(seed: int, *names: object) -> int:
    """A seed in [0, 2**63) that is a function of ``seed`` and the names (int, str)."""
    return int.from_bytes(_digest((int(seed), *names), 8), "big") >> 1


def seed_generators(seed: int) -> None:
    """Sets the global generators of Python, NumPy and PyTorch on all devices."""
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)


def seed_dropout(seed: int) -> None:
    """Sets PyTorch's global generators alone, which dropout and drop path draw from."""
    torch.manual_seed(seed)
