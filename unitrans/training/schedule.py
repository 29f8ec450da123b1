"""Learning rates as published: linear warm-up from a start rate, then cosine, linear, steps or constant.

The formulas follow the schedulers that the official Swin and SimMIM code uses (timm's, evaluated per update), in
the same order of operations, so that rates agree to the last bit.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

SCHEDULES = ("cosine", "linear", "multistep", "constant_with_warmup")


@dataclass(frozen=True)
class Schedule:
    """A learning rate for each update.

    base, minimum, warmup_start: rates, already scaled to the global batch. total, warmup: updates.
    prefix: the decay starts after the warm-up (Swin) and not at update 0 (SimMIM), where its beginning is hidden
    behind the warm-up. lag: updates by which the schedule runs late; the official loops step the scheduler after
    the update and start from 0, so their lag is 1. milestones: updates at which "multistep" multiplies by gamma.
    """

    kind: str
    base: float
    total: int
    minimum: float = 0.0
    warmup: int = 0
    warmup_start: float = 0.0
    prefix: bool = False
    lag: int = 0
    milestones: tuple[int, ...] = ()
    gamma: float = 0.1

    def __call__(self, update: int) -> float:
        """The rate used in update ``update`` (from 0)."""
        step = max(0, update - self.lag)
        if step < self.warmup:
            return self.warmup_start + step * ((self.base - self.warmup_start) / self.warmup)
        if self.kind == "constant_with_warmup":
            return self.base
        if self.kind == "multistep":
            return float(self.base * self.gamma ** sum(step >= milestone for milestone in self.milestones))
        shift = self.warmup if self.prefix else 0
        step, total = step - shift, self.total - shift
        if step >= total:
            return self.minimum
        if self.kind == "linear":
            return self.base - (self.base - self.minimum) * (step / total)
        assert self.kind == "cosine", self.kind
        return self.minimum + 0.5 * (self.base - self.minimum) * (1 + math.cos(math.pi * step / total))


class UpdateScheduler(LRScheduler):
    """Sets the rate of every parameter group from a :class:`Schedule`; a group may scale it by "lr_scale"."""

    def __init__(self, optimizer: Optimizer, schedule: Schedule) -> None:
        self.schedule = schedule
        super().__init__(optimizer)

    def get_lr(self) -> list[Any]:
        rate = self.schedule(self.last_epoch)
        return [rate * group.get("lr_scale", 1.0) for group in self.optimizer.param_groups]

    def state_dict(self) -> dict[str, Any]:
        """Only the counter: the schedule itself is configuration."""
        return {"last_epoch": self.last_epoch}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continues after ``last_epoch`` updates."""
        self.last_epoch = int(state_dict["last_epoch"])
        self._last_lr = []
        for group, rate in zip(self.optimizer.param_groups, self.get_lr(), strict=True):
            group["lr"] = rate
            self._last_lr.append(rate)
