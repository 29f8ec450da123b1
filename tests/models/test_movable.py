"""Plans move between devices with everything in them."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
import torch.utils._pytree as pytree
from torch import Tensor

from unitrans.models.graphormer import GraphormerConfig
from unitrans.models.swin import SwinConfig
from unitrans.models.text_plans import TextPlans
from unitrans.models.vit import VitConfig

KEEP = torch.tensor([[True, False, True, False]] * 4)


def swin_plans() -> Any:
    config = SwinConfig(image_size=32, patch_size=4, depths=(2, 2), num_heads=(1, 2), window_size=3)
    return config.plans([(8, 8)] * 2, [KEEP.repeat_interleave(2, 0).repeat_interleave(2, 1)] * 2)


MAKERS: dict[str, Callable[[], Any]] = {
    "swin": swin_plans,
    "vit": lambda: VitConfig(image_size=32, patch_size=8).plans([(4, 4)] * 2, [KEEP] * 2),
    "text": lambda: TextPlans.from_lengths([3, 5], causal=True),
    "text, some hidden": lambda: TextPlans.from_lengths([3, 5], causal=False).keeping(
        torch.arange(8) % 3 > 0
    ),
    "cross": lambda: TextPlans.next_token(4),
    "graphormer": lambda: GraphormerConfig().plans([2], [2], [[0, 1], [1, 0]], np.zeros((2, 3), dtype=int)),
    "graphormer, some hidden": lambda: MAKERS["graphormer"]().keeping(torch.tensor([True, True, False])),
}


@pytest.mark.parametrize("name", MAKERS)
def test_every_tensor_moves_and_nothing_else_changes(name: str) -> None:
    plans = MAKERS[name]()
    leaves, shape = pytree.tree_flatten(plans)
    moved, same = pytree.tree_flatten(plans.to("meta"))
    assert sum(isinstance(leaf, Tensor) for leaf in leaves) >= 5 and same == shape
    for before, after in zip(leaves, moved, strict=True):
        if isinstance(before, Tensor):
            assert (after.device.type, after.shape, after.dtype) == ("meta", before.shape, before.dtype)
        else:
            assert after == before
