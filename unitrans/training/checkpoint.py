"""Checkpoints: folders that are whole or not there.

checkpoints/step-N holds model.safetensors, config.json (what ``from_pretrained`` reads), README.md (a model card),
optimizer.pt, scheduler.pt, trainer_state.json, progress.json, one rng-RANK.pt per process and manifest.json with the
size and SHA-256 of each. With train.ema_decay model.safetensors is the average and trained.safetensors what is trained.
It is written as checkpoints/.step-N.tmp, flushed to disk, then renamed; ``latest`` and ``best`` are links, moved in
one step. Nothing but tensors and plain values is ever read back (weights_only).
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import random
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import torch

from unitrans.errors import ConfigError
from unitrans.stored import MANIFEST, file_hash
from unitrans.stored import verify as verify

PROGRESS = "progress.json"


def checkpoint_name(step: int) -> str:
    """The folder name of the checkpoint after ``step`` updates."""
    return f"step-{step:07d}"


def step_of(name: str) -> int | None:
    """The update number in a folder name, None if it is not a checkpoint's."""
    match = re.fullmatch(r"step-(\d+)", name)
    return int(match.group(1)) if match else None


def _flush(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def seal(temporary: Path, final: Path) -> None:
    """Lists the files of ``temporary`` with their hashes, flushes everything to disk and renames it to ``final``."""
    files = sorted(path for path in temporary.iterdir() if path.is_file())
    manifest = {path.name: {"bytes": path.stat().st_size, "sha256": file_hash(path)} for path in files}
    (temporary / MANIFEST).write_text(json.dumps(manifest, indent=2) + "\n", encoding="utf-8")
    for path in (*files, temporary / MANIFEST, temporary):
        _flush(path)
    if final.exists():  # the same step written again: at no time half removed under its name
        final.rename(final.with_name(f".{final.name}.old.tmp"))
    temporary.rename(final)
    _flush(final.parent)


def point(link: Path, target: str) -> None:
    """Makes ``link`` (latest, best) a link to the folder ``target`` beside it, in one step."""
    temporary = link.with_name(f".{link.name}.tmp")
    temporary.unlink(missing_ok=True)
    temporary.symlink_to(target)
    temporary.replace(link)


def point_links(checkpoints: Path, step: int, best: int | None) -> None:
    """Makes ``latest`` and, where there is one, ``best`` links to the checkpoints after so many updates."""
    for name, target in (("latest", step), ("best", best)):
        if target and (checkpoints / checkpoint_name(target)).is_dir():
            point(checkpoints / name, checkpoint_name(target))


def steps_in(checkpoints: Path) -> list[int]:
    """Update numbers of the finished checkpoints, ascending."""
    if not checkpoints.is_dir():
        return []
    steps = (step_of(path.name) for path in checkpoints.iterdir() if path.is_dir() and not path.is_symlink())
    return sorted(step for step in steps if step is not None)


def recover(checkpoints: Path) -> None:
    """Takes back what :func:`seal` had set aside when it was killed between its two renamings."""
    for aside in checkpoints.glob(".step-*.old.tmp"):
        final = checkpoints / aside.name.removeprefix(".").removesuffix(".old.tmp")
        if not final.exists():
            with contextlib.suppress(FileNotFoundError):  # another process of the run was faster
                aside.rename(final)


def latest_checkpoint(run: Path) -> Path:
    """The newest checkpoint of a run, verified. ConfigError when there is none."""
    recover(run / "checkpoints")
    steps = steps_in(run / "checkpoints")
    if not steps:
        raise ConfigError(
            f"{run} holds no checkpoint to go on from: start again with --config {run}/config.yaml"
        )
    folder = run / "checkpoints" / checkpoint_name(steps[-1])
    verify(folder)
    return folder


def rotate(checkpoints: Path, limit: int | None, keep: set[int]) -> None:
    """Removes the oldest checkpoints above ``limit``, never the newest nor those in ``keep``; and old halves."""
    for path in checkpoints.glob(".step-*.tmp"):
        shutil.rmtree(path, ignore_errors=True)
    steps = steps_in(checkpoints)
    if limit is None or not steps:
        return
    kept = keep | {steps[-1]}
    removable = [step for step in steps if step not in kept]
    excess = len(steps) - max(limit, len(kept & set(steps)))
    for step in removable[: max(0, excess)]:
        shutil.rmtree(checkpoints / checkpoint_name(step), ignore_errors=True)


def generator_state() -> dict[str, Any]:
    """The state of every global generator of this process: tensors and plain values."""
    name, keys, position, has_gauss, gauss = np.random.get_state()
    version, internal, gauss_next = random.getstate()
    state: dict[str, Any] = {
        "torch": torch.get_rng_state(),
        "python": [version, list(internal), gauss_next],
        "numpy": [str(name), torch.from_numpy(np.asarray(keys).astype(np.int64)), position, has_gauss, gauss],
    }
    if torch.cuda.is_available():
        state["cuda"] = torch.cuda.get_rng_state_all()
    return state


def set_generator_state(state: dict[str, Any]) -> None:
    """The inverse of :func:`generator_state`."""
    torch.set_rng_state(state["torch"])
    version, internal, gauss_next = state["python"]
    random.setstate((version, tuple(internal), gauss_next))
    name, keys, position, has_gauss, gauss = state["numpy"]
    np.random.set_state((name, keys.numpy().astype(np.uint32), position, has_gauss, gauss))
    if "cuda" in state and torch.cuda.is_available():
        torch.cuda.set_rng_state_all(state["cuda"])


def write_tensors(value: Any, path: Path) -> None:
    """A .pt file. OSError where it cannot be written whole."""
    try:
        torch.save(value, path)
    except RuntimeError as error:  # whatever torch's writer makes of a full disk
        full = shutil.disk_usage(path.parent).free < 1 << 16
        code = errno.ENOSPC if full else errno.EIO
        raise OSError(code, os.strerror(code), str(path)) from error


def read_tensors(path: Path) -> Any:
    """A .pt file with tensors and plain values only. ConfigError for one with anything else in it."""
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except OSError:
        raise
    except Exception as error:  # torch's reader of damaged files raises nearly anything
        raise ConfigError(
            f"the checkpoint {path.parent} cannot be used: {path.name} holds something else than tensors and plain "
            "values; use another one"
        ) from error
