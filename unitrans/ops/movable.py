"""Values made of several tensors that move between devices as one."""

import dataclasses
from collections.abc import Callable
from typing import Any, ClassVar, TypeVar

import torch
from torch import Tensor

from unitrans.ops.verdict import ensure_verdict

M = TypeVar("M", bound="Movable")


class Movable:
    """Base of frozen dataclasses whose fields are tensors, others of these, lists of both, or anything that stays."""

    __dataclass_fields__: ClassVar[dict[str, Any]]

    def to(self: M, device: torch.device | str | int, *, non_blocking: bool = False) -> M:
        """The same on another device; the arguments of `Tensor.to`.

        Before the first move to a GPU the CUDA kernels are checked on it (`unitrans.ops.verdict`), so that the verdict
        is known before anything is traced or captured there.
        """
        ensure_verdict(device)
        return self._map(lambda x: x.to(device, non_blocking=non_blocking))

    def pin_memory(self: M) -> M:
        """The same in pinned memory, for asynchronous copies to a GPU."""
        return self._map(Tensor.pin_memory)

    def _map(self: M, change: Callable[[Tensor], Tensor]) -> M:
        fields = [field.name for field in dataclasses.fields(self)]
        return self._replace(**{name: _changed(getattr(self, name), change) for name in fields})

    def _replace(self: M, **changes: Any) -> M:
        return dataclasses.replace(self, **changes)


def _changed(value: Any, change: Callable[[Tensor], Tensor]) -> Any:
    if isinstance(value, Tensor):
        return change(value)
    if isinstance(value, Movable):
        return value._map(change)
    return [_changed(part, change) for part in value] if isinstance(value, list) else value
