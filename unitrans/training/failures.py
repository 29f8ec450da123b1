"""How a run ends that cannot go on: in one sentence, and without loader workers that outlive it."""

from __future__ import annotations

import gc
import json
import threading
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from unitrans.errors import NonFiniteError, RunError, SourceError, system_error
from unitrans.training import checkpoint as ckpt
from unitrans.training.runs import command_line

MAX_NAMED_SAMPLES = 32  # in the message of a non-finite loss; the file beside it has them all
MicroBatch = tuple[Tensor, Tensor, list[str]]  # sum of its loss, its targets, ids of its samples


def non_finite(
    what: str, value: float, parts: Sequence[MicroBatch], at: dict[str, Any], run: Path | None, rank: int
) -> NonFiniteError:
    """The error that names the samples of a loss or gradient that is not a number, and a file in the run with them.

    Args:
        what: which figure.
        value: what it is.
        parts: the micro-batches of the update.
        at: step and learning_rate.
        run: its folder; None: no file.
        rank: of this process.
    """
    bad = [ids for loss, _, ids in parts if not bool(torch.isfinite(loss))]
    ids = [name for part in (bad or [ids for _, _, ids in parts]) for name in part]
    where = ""
    if run is not None:
        path = run / f"nonfinite-{rank}.json"
        record = at | {"what": what, "value": str(value), "sample_ids": ids}
        path.write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
        where = f" (all in {path})"
    more = f", ... {len(ids)} in all" if len(ids) > MAX_NAMED_SAMPLES else ""
    shown = ", ".join(ids[:MAX_NAMED_SAMPLES]) + more
    return NonFiniteError(
        f"update {at['step']}: the {what} is {value}; learning rate {at['learning_rate']:.3g}; "
        f"samples: {shown or 'on another process'}{where}. Look at these samples, or lower train.learning_rate "
        "or train.max_grad_norm"
    )


@contextmanager
def failures(run: Path | None) -> Iterator[None]:
    """Where a run is on its way: a source that breaks off, a full disk and the like end it with one sentence that says
    how to go on, and loader workers end before the process does."""
    shown = threading.excepthook
    threading.excepthook = lambda thrown: None if _told_later(thrown) else shown(thrown)
    try:
        yield
    except SourceError as error:
        end_workers(error)
        raise RunError(error.sentence + _to_go_on(run)) from None
    except OSError as error:
        reason = system_error(error, run or "")
        if reason is None:
            raise
        end_workers(error)
        raise RunError(reason + _to_go_on(run)) from error
    except RunError as error:
        end_workers(error)
        raise
    finally:
        threading.excepthook = shown


def _told_later(thrown: threading.ExceptHookArgs) -> bool:
    """Whether this is what TensorBoard's writer met in its thread, which it raises again where it is asked next."""
    return isinstance(thrown.exc_value, OSError) and type(thrown.thread).__module__.startswith("tensorboard.")


def _to_go_on(run: Path | None) -> str:
    if run is None:
        return ""
    if not run.is_dir():
        return "; the folder of the run is gone"
    steps = ckpt.steps_in(run / "checkpoints")
    if not steps:
        return "; nothing had been saved yet"
    command = command_line("train", "--resume", str(run))
    return f"; everything up to update {steps[-1]:,} is saved, to go on: {command}"


def end_workers(error: BaseException | None) -> None:
    """Frees the loader that the frames of an error hold. Its workers end with it; they do not heed SIGTERM, so a
    process that waited for them at its exit would wait for ever."""
    while error is not None:
        traceback.clear_frames(error.__traceback__)
        error = error.__cause__ or error.__context__
    gc.collect()
