"""AdamW with the parameter groups of the official recipes."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import nn


class UncorrectedEpsAdamW(torch.optim.AdamW):
    """AdamW that adds eps to the root of the second moment before its bias is corrected, as fairseq's Adam does.

    It is AdamW with eps / sqrt(1 - beta2 ** t) in update t, so nothing else has to change.
    """

    def step(self, closure: Any = None) -> Any:
        """One update."""
        for group in self.param_groups:
            group.setdefault("given_eps", group["eps"])
            steps = [self.state[p]["step"] for p in group["params"] if p.grad is not None and self.state[p]]
            update = int(steps[0]) + 1 if steps else 1
            group["eps"] = group["given_eps"] / math.sqrt(1 - group["betas"][1] ** update)
        return super().step(closure)


def is_decayed(name: str, parameter: nn.Parameter, skip: set[str], keywords: set[str]) -> bool:
    """The rule of the official Swin and SimMIM code: no decay for vectors, biases and named parameters."""
    if parameter.ndim <= 1 or name.endswith(".bias") or name in skip:
        return False
    return not any(keyword in name for keyword in keywords)


def parameter_groups(
    model: nn.Module,
    weight_decay: float,
    *,
    decay_bias_tables: bool = False,
    decay_everything: bool = False,
    layer_decay: float = 1.0,
) -> list[dict[str, object]]:
    """Optimizer groups of (name, parameter) pairs, decayed and not; frozen parameters are left out.

    Names come from ``model.no_weight_decay()`` (exact) and ``model.no_weight_decay_keywords()`` (part of a name:
    relative position tables and the like). ``decay_bias_tables`` ignores the keywords, as official SimMIM
    pretraining does in effect; ``decay_everything`` decays all, as fairseq does. With ``layer_decay`` below 1 there are
    two groups for each of ``model.num_layers`` layers, and the rate of layer ``model.layer_id(name)`` is multiplied by
    layer_decay ** (num_layers - 1 - layer) (Clark et al., 2020, arXiv:2003.10555; BEiT and SimMIM for images).
    """
    skip = set(getattr(model, "no_weight_decay", set)())
    keywords = set() if decay_bias_tables else set(getattr(model, "no_weight_decay_keywords", set)())
    members: dict[tuple[int, bool], list[tuple[str, nn.Parameter]]] = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            layer = 0 if layer_decay == 1.0 else model.layer_id(name)  # type: ignore[operator]
            key = layer, not (decay_everything or is_decayed(name, parameter, skip, keywords))
            members.setdefault(key, []).append((name, parameter))
    groups: list[dict[str, object]] = []
    for (layer, spared), parameters in sorted(members.items(), key=lambda item: item[0]):
        group: dict[str, object] = {"params": parameters, "weight_decay": 0.0 if spared else weight_decay}
        if layer_decay != 1.0:
            group["lr_scale"] = layer_decay ** (model.num_layers - 1 - layer)  # type: ignore[operator]
        groups.append(group)
    return groups


def make_adamw(
    groups: list[dict[str, object]],
    *,
    lr: float,
    betas: tuple[float, float],
    eps: float,
    eps_mode: str = "corrected",
) -> torch.optim.AdamW:
    """torch's AdamW, fused: one pass over the parameters. eps_mode: see train.optim_eps_mode."""
    kind = UncorrectedEpsAdamW if eps_mode == "uncorrected" else torch.optim.AdamW
    return kind(groups, lr=lr, betas=betas, eps=eps, fused=True)


def make_optimizer(model: nn.Module, settings: dict[str, Any], rate: float) -> torch.optim.AdamW:
    """The optimizer of a model as the ``train`` section says; rate: that of the first update."""
    groups = parameter_groups(
        model,
        settings["weight_decay"],
        decay_bias_tables=settings["decay_bias_tables"],
        decay_everything=settings["decay_everything"],
        layer_decay=settings["layer_decay"],
    )
    betas = (settings["adam_beta1"], settings["adam_beta2"])
    mode = settings["optim_eps_mode"]
    return make_adamw(groups, lr=rate, betas=betas, eps=settings["adam_epsilon"], eps_mode=mode)
