"""Files and folders that are there whole or not at all."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from safetensors import SafetensorError

from unitrans.errors import ConfigError


@contextmanager
def written_whole(output: Path) -> Iterator[Path]:
    """Where to write `output` first: at a path of the same name in a folder beside it, from which all is moved there at
    the end. Where anything fails, nothing stays.

    output: absent, or an empty folder where a folder is written.
    """
    output = output.absolute()
    made = [folder for folder in output.parents if not folder.exists()]
    partial = output.parent / f".partial-{os.getpid()}-{output.name}"
    try:
        with writing(output):
            partial.mkdir(parents=True)
        yield partial / output.name
        for written in sorted(partial.iterdir()):
            os.replace(written, output.parent / written.name)
        partial.rmdir()
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        for folder in made:  # the innermost first
            if folder.is_dir() and not any(folder.iterdir()):
                folder.rmdir()
        raise


@contextmanager
def writing(output: object) -> Iterator[None]:
    """Inside, what a full disk and the like make writing raise is one sentence: ConfigError."""
    try:
        yield
    except BrokenPipeError:
        raise
    except (OSError, SafetensorError) as error:
        reason = (error.strerror if isinstance(error, OSError) else None) or " ".join(str(error).split())[
            :200
        ]
        raise ConfigError(f"{output} cannot be written: {reason}") from None
