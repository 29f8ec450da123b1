"""Errors that a user can cause, as one sentence. All others are bugs and show their traceback."""

from __future__ import annotations

import difflib
import dis
import os
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager


class ConfigError(ValueError):
    """Something the user gave cannot be used. The message is one sentence that says what, and how to mend it."""


class RunError(RuntimeError):
    """A run cannot go on for a reason outside the code. The message is one sentence."""


class NonFiniteError(RunError):
    """The loss or the gradient is not a number; the message names step, learning rate and samples."""


class SourceError(RuntimeError):
    """A source cannot be read on: a server is gone, a file is cut off. The message is one sentence.

    It crosses from a loader worker as a text that ends with the traceback; `sentence` is without it.
    """

    @property
    def sentence(self) -> str:
        """The message as it was raised."""
        last = str(self).strip().splitlines()[-1]
        return last.rpartition(f"{type(self).__name__}: ")[2]


class InterruptedRunError(Exception):
    """A signal asked the run to stop; it has saved its state."""

    def __init__(self, signum: int) -> None:
        super().__init__(f"stopped by signal {signum}")
        self.signum = signum


@contextmanager
def user_errors() -> Iterator[None]:
    """Where a run is put together from what the user gave, a ValueError that says what is wrong with it, missing files
    and missing packages are the user's to mend."""
    try:
        yield
    except ConfigError:
        raise
    except (ValueError, ImportError, OSError) as error:
        if is_bug(error):
            raise
        raise ConfigError(" ".join(str(error).split())) from error


def is_bug(error: BaseException) -> bool:
    """Whether a ValueError was not raised by a ``raise`` but by an operation of ours, as ``a, b = [1]`` or an array
    function with wrong shapes does: nobody wrote its message for a user."""
    trace = error.__traceback__
    if type(error) is not ValueError or trace is None:
        return False
    while trace.tb_next is not None:
        trace = trace.tb_next
    frame = trace.tb_frame
    ours = str(frame.f_globals.get("__name__", "")).partition(".")[0] == __name__.partition(".")[0]
    return ours and dis.opname[frame.f_code.co_code[trace.tb_lasti]] != "RAISE_VARARGS"


def system_error(error: BaseException, where: object = "") -> str | None:
    """What the system refused (a full disk, a folder that is gone, a right that is missing), and of which file; None
    for other errors. where: the place, where the error names none."""
    if not isinstance(error, OSError) or error.errno is None:
        return None
    place = os.fsdecode(error.filename) if isinstance(error.filename, bytes) else error.filename or where
    return f"{place}: {error.strerror}" if place else str(error.strerror)


def out_of_memory(error: BaseException) -> str | None:
    """One sentence if this is what Python, PyTorch or CUDA raise when memory runs out; None for other errors."""
    text = " ".join(str(error).split())
    told = ("can't allocate memory", "Cannot allocate memory", "out of memory", "Unable to allocate")
    if not isinstance(error, MemoryError) and not any(words in text for words in told):
        return None
    wanted = re.search(r"allocate ([\d.]+ [KMGT]iB|\d+ bytes)", text)
    size = f" ({wanted.group(1)} wanted)" if wanted else ""
    return (
        f"out of memory{size}: lower train.per_device_train_batch_size (train.gradient_accumulation_steps makes up "
        "for it), data.image_size or the model.* sizes"
    )


def nearest_name(name: str, valid: Iterable[str]) -> str:
    """``"; did you mean 'x'?"`` for the valid name closest to ``name``, or "" when none is close."""
    close = difflib.get_close_matches(name, list(valid), n=1, cutoff=0.5)
    return f"; did you mean {close[0]!r}?" if close else ""
