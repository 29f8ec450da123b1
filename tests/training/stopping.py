"""What happens to a run in the middle, by torch's hooks alone: whatever the loop looks like, it passes them."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NoReturn

import pytest
from torch.optim.optimizer import register_optimizer_step_pre_hook


@contextmanager
def in_update(number: int, action: Callable[[], object]) -> Iterator[None]:
    """Inside, ``action`` is called in this update of a run (from 1), when its gradients are there."""
    count = 0

    def look(*_: Any) -> None:
        nonlocal count
        count += 1
        if count == number:
            action()

    hook = register_optimizer_step_pre_hook(look)
    try:
        yield
    finally:
        hook.remove()


@contextmanager
def dies_in_update(number: int) -> Iterator[None]:
    """Inside, a run ends there with an error, and nothing is saved."""

    def die() -> NoReturn:
        raise OSError("the machine goes down")

    with in_update(number, die), pytest.raises(OSError, match="goes down"):
        yield
