"""JSON that comes from files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any


def parse_json(text: str) -> Any:
    """The value of a JSON text. ValueError for one that cannot be read, nests too deeply or has endless numbers."""
    try:
        return json.loads(text)
    except RecursionError:
        raise ValueError("its lists and objects nest too deeply to be read") from None


def read_json(path: Path) -> Any:
    """The content of a JSON file. OSError and ValueError for one that cannot be read."""
    return parse_json(path.read_text(encoding="utf-8"))
