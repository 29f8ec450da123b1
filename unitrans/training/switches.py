"""What can be switched on around any model: averaged weights, bfloat16, recomputed activations, compilation."""

from __future__ import annotations

import functools
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import get_ema_multi_avg_fn
from torch.utils import _pytree as pytree

from unitrans.errors import ConfigError
from unitrans.nn import Block


class AveragedWeights:
    """An exponential moving average of the parameters of a model.

    After update u (from 1) the average moves by 1 - min(decay, (1 + u) / (10 + u)) towards the parameters: the
    initial weights are soon forgotten, however short the run.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.decay = decay
        self.parameters: list[nn.Parameter] = list(model.parameters())
        self.restart()

    def restart(self) -> None:
        """The average becomes what the model holds now."""
        self.average: list[Tensor] = [p.detach().clone() for p in self.parameters]

    @torch.no_grad()
    def update(self, number: int) -> None:
        """Takes the parameters after update ``number`` (from 1) into the average."""
        decay = min(self.decay, (1 + number) / (10 + number))
        get_ema_multi_avg_fn(decay)(self.average, [p.detach() for p in self.parameters], number)

    @contextmanager
    def applied(self) -> Iterator[None]:
        """Inside, the model holds the average; afterwards the parameters are back, bit for bit."""
        trained = [p.detach().clone() for p in self.parameters]
        self._set(self.average)
        try:
            yield
        finally:
            self._set(trained)

    @torch.no_grad()
    def _set(self, values: list[Tensor]) -> None:
        for parameter, value in zip(self.parameters, values, strict=True):
            parameter.copy_(value)


def autocast_forward(model: nn.Module, device: torch.device) -> None:
    """Lets the forward pass compute in bfloat16 where that is safe; its outputs are float32 again."""
    forward = model.forward

    @functools.wraps(forward)
    def widened(*args: Any, **kwargs: Any) -> Any:
        with torch.autocast(device.type, torch.bfloat16):
            output = forward(*args, **kwargs)
        return pytree.tree_map_only(
            Tensor, lambda x: x.float() if x.dtype in (torch.bfloat16, torch.float16) else x, output
        )

    model.forward = widened


def recompute_blocks(model: nn.Module) -> None:
    """Activations inside every Block are not kept but computed again in the backward pass, dropout included."""
    blocks = [module for module in model.modules() if isinstance(module, Block)]
    if not blocks:
        raise ConfigError("train.gradient_checkpointing: this model has no Blocks; set it to false")
    for block in blocks:
        block.gradient_checkpointing = True


def compile_model(model: nn.Module, device: torch.device) -> None:
    """Compiles the model in place with torch.compile, when it is first called. ConfigError without a C++ compiler."""
    if device.type == "cpu" and not any(map(shutil.which, (os.environ.get("CXX", "g++"), "g++", "clang++"))):
        raise ConfigError(
            "train.torch_compile needs a C++ compiler (g++ or clang++) on the CPU and there is none: install one, "
            "or set it to false"
        )
    model.compile()
