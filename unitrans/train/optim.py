"""AdamW with the parameter groups of the official recipes."""

from __future__ import annotations

import torch
from torch import nn


def is_decayed(name: str, parameter: nn.Parameter, skip: set[str], keywords: set[str]) -> bool:
    """The rule of the official Swin and SimMIM code: no decay for vectors, biases and named parameters."""
    if parameter.ndim <= 1 or name.endswith(".bias") or name in skip:
        return False
    return not any(keyword in name for keyword in keywords)


def parameter_groups(
    model: nn.Module, weight_decay: float, *, decay_bias_tables: bool = False
) -> list[dict[str, object]]:
    """Two optimizer groups (decayed, not decayed) of (name, parameter) pairs; frozen parameters are left out.

    Names come from ``model.no_weight_decay()`` (exact) and ``model.no_weight_decay_keywords()`` (part of a name:
    relative position tables and the like). ``decay_bias_tables`` ignores the keywords, as official SimMIM
    pretraining does in effect.
    """
    skip = set(getattr(model, "no_weight_decay", set)())
    keywords = set() if decay_bias_tables else set(getattr(model, "no_weight_decay_keywords", set)())
    named = [(name, parameter) for name, parameter in model.named_parameters() if parameter.requires_grad]
    decayed = [(name, p) for name, p in named if is_decayed(name, p, skip, keywords)]
    others = [(name, p) for name, p in named if not is_decayed(name, p, skip, keywords)]
    groups = [{"params": decayed, "weight_decay": weight_decay}, {"params": others, "weight_decay": 0.0}]
    return [group for group in groups if group["params"]]


def make_adamw(
    groups: list[dict[str, object]], *, lr: float, betas: tuple[float, float], eps: float
) -> torch.optim.AdamW:
    """torch's AdamW, fused: one pass over the parameters."""
    return torch.optim.AdamW(groups, lr=lr, betas=betas, eps=eps, fused=True)
