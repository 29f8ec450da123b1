"""The list of a checkpoint's files with their sizes and hashes, which says whether they are as they were written."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection
from pathlib import Path

from unitrans.errors import ConfigError

MANIFEST = "manifest.json"
READ_BY_MODELS = ("config.json", "model.safetensors")


def hash_file(path: Path) -> str:
    """The SHA-256 of a file."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def verify(folder: Path, only: Collection[str] | None = None) -> None:
    """ConfigError, naming the file, unless every file of the checkpoint is as it was written.

    only: these alone, where the manifest names them.
    """
    try:
        manifest = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
        for name, expected in manifest.items():
            if only is not None and name not in only:
                continue
            path = folder / name
            if not path.is_file():
                raise ConfigError(f"the checkpoint {folder} is not whole: {name} is missing; use another one")
            if path.stat().st_size != expected["bytes"] or hash_file(path) != expected["sha256"]:
                raise ConfigError(f"the checkpoint {folder} is damaged: {name} has changed; use another one")
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        if isinstance(error, ConfigError):
            raise
        raise ConfigError(
            f"the checkpoint {folder} is not whole: {MANIFEST} cannot be read; use another one"
        ) from None
