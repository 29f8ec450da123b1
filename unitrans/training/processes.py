"""The processes of a run: how many there are, which one speaks, how they end."""

from __future__ import annotations

import gc
import os
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch.distributed as dist

from unitrans.errors import RunError, SourceError
from unitrans.training import checkpoint as ckpt
from unitrans.training.runs import command_line


def world_size() -> int:
    """Processes of this run, as torchrun says."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def is_main() -> bool:
    """Whether this process writes and speaks."""
    return int(os.environ.get("RANK", "0")) == 0


def say(text: str) -> None:
    """A line on the screen, once for all processes."""
    if is_main():
        print(text, flush=True)


@contextmanager
def failures(run: Path | None) -> Iterator[None]:
    """Where a run is on its way: a source that breaks off ends it with one sentence that says how to go on, and
    loader workers end before the process does."""
    try:
        yield
    except SourceError as error:
        end_workers(error)
        steps = [] if run is None else ckpt.steps_in(run / "checkpoints")
        saved = (
            f"; everything up to update {steps[-1]:,} is saved" if steps else "; nothing had been saved yet"
        )
        more = f", to go on: {command_line('train', '--resume', str(run))}" if steps else ""
        raise RunError(error.sentence + (saved + more) * (run is not None)) from None
    except RunError as error:
        end_workers(error)
        raise


def end_group() -> None:
    """Ends the process group, where there is one. The trainer must have gone out of sight.

    A thread of gloo drops the tensors of a collective after the caller has its result, and needs the interpreter for
    that; where the interpreter ends first, it aborts the process. These threads end with the last reference to their
    group. The wrapped model of a trainer, which is part of reference cycles, and its gradients' hooks hold some."""
    if dist.is_initialized():
        gc.collect()
        dist.destroy_process_group()


def end_workers(error: BaseException | None) -> None:
    """Frees the loader that the frames of an error hold. Its workers end with it; they do not heed SIGTERM, so a
    process that waited for them at its exit would wait for ever."""
    while error is not None:
        traceback.clear_frames(error.__traceback__)
        error = error.__cause__ or error.__context__
    gc.collect()
