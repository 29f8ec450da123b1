"""JSON that a user gives: what cannot be read is a ValueError, however it is damaged."""

from __future__ import annotations

import json
from typing import Any


def parse_json(text: str) -> Any:
    """The value of a JSON text.

    Raises:
        ValueError: it is no JSON (`json.JSONDecodeError`, with line and column), or nested too deeply to be read.
    """
    try:
        return json.loads(text)
    except RecursionError:
        raise ValueError("JSON that is nested too deeply to be read") from None
