"""Where the package keeps what it can make again."""

import os
from pathlib import Path


def cache_folder(kind: str) -> Path:
    """The folder of one kind of files: in UNITRANS_CACHE, else in XDG_CACHE_HOME or ~/.cache.

    It may not exist, and nothing may be writable there.
    """
    base = os.environ.get("UNITRANS_CACHE")
    if base:
        return Path(base) / kind
    try:
        return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "unitrans" / kind
    except RuntimeError:  # a user without a home: a place where nothing can be read or written
        return Path(os.devnull) / kind
