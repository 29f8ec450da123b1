"""docs/reliability.md, made from the results files."""

from __future__ import annotations

import os
import platform
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from benchmarks.reliability import shared


def table(tallies: Mapping[str, Any]) -> str:
    return ""


def machine() -> dict[str, Any]:
    return {}


def write(path: Path, results: Path) -> None: ...
