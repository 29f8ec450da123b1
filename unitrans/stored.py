"""Reading what was stored: JSON, and whether a checkpoint is as it was written."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection
from pathlib import Path
from typing import Any

from unitrans.errors import ConfigError

MANIFEST = "manifest.json"  # of a checkpoint: size and SHA-256 of every file


def parse_json(text: str) -> Any:
    """The value of a JSON text. ValueError for one that cannot be read, nests too deeply or has endless numbers."""
    try:
        return json.loads(text)
    except RecursionError:
        raise ValueError("its lists and objects nest too deeply to be read") from None


def read_json(path: Path) -> Any:
    """The content of a JSON file. OSError and ValueError for one that cannot be read."""
    return parse_json(path.read_text(encoding="utf-8"))


def file_hash(path: Path) -> str:
    """SHA-256 of a file."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


_BLOCK = 1 << 20


def part_hash(path: Path, limit: int) -> str:
    """BLAKE2b of the size of a file and of its content: all of it up to limit bytes, else blocks, evenly spaced."""
    digest = hashlib.blake2b(digest_size=16)
    size, count = path.stat().st_size, max(2, limit // _BLOCK)
    digest.update(size.to_bytes(8, "little"))
    places = (
        range(0, size, _BLOCK)
        if size <= limit
        else [(size - _BLOCK) * n // (count - 1) for n in range(count)]
    )
    with path.open("rb") as file:
        for place in places:
            file.seek(place)
            digest.update(file.read(_BLOCK))
    return digest.hexdigest()


def verify(folder: Path, names: Collection[str] | None = None) -> None:
    """Compares the files of a checkpoint with the list that was written with them.

    Args:
        names: those that matter; None: all.

    Raises:
        ConfigError: a file is missing or not as it was written, or the list cannot be read.
    """
    try:
        manifest = read_json(folder / MANIFEST)
        for name, expected in manifest.items():
            if names is not None and name not in names:
                continue
            path = folder / name
            if not path.is_file():
                raise ConfigError(f"the checkpoint {folder} is not whole: {name} is missing; use another one")
            if path.stat().st_size != expected["bytes"] or file_hash(path) != expected["sha256"]:
                raise ConfigError(f"the checkpoint {folder} is damaged: {name} has changed; use another one")
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        if isinstance(error, ConfigError):
            raise
        raise ConfigError(
            f"the checkpoint {folder} is not whole: {MANIFEST} cannot be read; use another one"
        ) from None


def verify_model(folder: Path) -> None:
    """`verify` for what a model is made of, where the folder has a list; `save_pretrained` writes none.

    Raises:
        ConfigError: see `verify`.
    """
    if (folder / MANIFEST).is_file():
        verify(folder, ("model.safetensors", "config.json"))
