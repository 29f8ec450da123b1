"""The processes of a run: how many there are, which one speaks, what they exchange, how they end."""

from __future__ import annotations

import gc
import os
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.nn.parallel import DistributedDataParallel

from unitrans.errors import ConfigError
from unitrans.nn import Block


def world_size() -> int:
    """Processes of this run, as torchrun says."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def is_main() -> bool:
    """Whether this process writes and speaks."""
    return rank() == 0


def rank() -> int:
    """The number of this process."""
    return int(os.environ.get("RANK", "0"))


def place(use_cpu: bool) -> torch.device:
    """The device of this process: its own GPU, or the CPU. Joins the other processes, where there are some."""
    if use_cpu or not torch.cuda.is_available():
        device = torch.device("cpu")
    else:
        device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")) % torch.cuda.device_count())
        torch.cuda.set_device(device)
    if world_size() > 1 and not dist.is_initialized():
        dist.init_process_group("gloo" if device.type == "cpu" else "nccl")
    return device


def wrap(model: Any, device: torch.device) -> DistributedDataParallel:
    """The model with gradients that are averaged over all processes. An objective without labels may leave the pooling
    layer of an encoder unused, which then gets no gradient, as in one process."""
    pools = any(".pooler." in name for name, x in model.named_parameters() if x.requires_grad)
    return DistributedDataParallel(
        model,
        device_ids=None if device.type == "cpu" else [device.index],
        find_unused_parameters=pools and not model.objective.label_kinds,
    )


def shard(model: nn.Module, device: torch.device) -> None:
    """Cuts every Block, and what is outside of them, into a part for each process (FSDP2).

    Caches of torch hold the mesh, and so its group, for ever: it has one of its own, idle after training, so that
    :func:`end_group` can end the other."""
    mesh = DeviceMesh.from_group(dist.new_group(), device.type)
    for module in model.modules():
        if isinstance(module, Block):
            fully_shard(module, mesh=mesh)
    fully_shard(model, mesh=mesh)


@contextmanager
def _no_exchange_of_shards(model: FSDPModule) -> Iterator[None]:
    model.set_requires_gradient_sync(False)
    try:
        yield
    finally:
        model.set_requires_gradient_sync(True)


def no_exchange(model: Any) -> AbstractContextManager[Any]:
    """Inside, a model of :func:`wrap` or :func:`shard` adds up gradients without exchanging them."""
    return _no_exchange_of_shards(model) if isinstance(model, FSDPModule) else model.no_sync()


def add_up(tensor: Tensor) -> None:
    """In place: the sum over all processes."""
    if world_size() > 1:
        dist.all_reduce(tensor)


def largest(number: int, device: torch.device) -> int:
    """The largest of the numbers of all processes."""
    if world_size() == 1:
        return number
    shared = torch.tensor(number, device=device)
    dist.all_reduce(shared, op=dist.ReduceOp.MAX)
    return int(shared)


def gather_objects(value: Any) -> list[Any]:
    """The plain values of all processes, in their order."""
    values: list[Any] = [None] * world_size()
    dist.all_gather_object(values, value)
    return values


def on_main(function: Callable[[], Any]) -> Any:
    """What a function gives in the first process; its ConfigError is raised in all."""
    found: list[Any] = [None]
    if is_main():
        try:
            found[0] = function()
        except ConfigError as error:
            found[0] = error
    if world_size() > 1:
        dist.broadcast_object_list(found)
    if isinstance(found[0], ConfigError):
        raise found[0]
    return found[0]


def wait_for_all() -> None:
    """Returns when every process is here."""
    if world_size() > 1:
        dist.barrier()


def say(text: str) -> None:
    """A line on the screen, once for all processes."""
    if is_main():
        print(text, flush=True)


def end_group() -> None:
    """Ends the process group, where there is one. The trainer must have gone out of sight.

    A thread of gloo drops the tensors of a collective after the caller has its result, and needs the interpreter for
    that; where the interpreter ends first, it aborts the process. These threads end with the last reference to their
    group. The wrapped model of a trainer, which is part of reference cycles, and its gradients' hooks hold some."""
    if dist.is_initialized():
        gc.collect()
        dist.destroy_process_group()
