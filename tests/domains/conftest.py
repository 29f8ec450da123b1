"""Files that are images by name only."""

import os
import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image


def _png_header(width: int, height: int) -> bytes:
    """A PNG that claims a size and has no pixels."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", b"") + chunk(b"IEND", b"")


def _write_broken(folder: Path) -> dict[str, str]:
    """name -> words of the reason."""
    photo = Image.effect_noise((64, 64), 50).convert("RGB")
    photo.save(folder / "whole.jpg")
    photo.save(folder / "whole.png")
    jpeg, png = (folder / "whole.jpg").read_bytes(), (folder / "whole.png").read_bytes()
    (folder / "empty.jpg").write_bytes(b"")
    (folder / "text.png").write_text("<html>not found</html>")
    (folder / "cut.jpg").write_bytes(jpeg[: len(jpeg) // 2])
    (folder / "cut.png").write_bytes(png[: len(png) // 2])
    (folder / "bomb.png").write_bytes(_png_header(60_000, 60_000))
    (folder / "header.png").write_bytes(_png_header(16, 16))
    (folder / "cut.npy").write_bytes(b"\x93NUMPY\x01\x00")
    np.save(folder / "pickle.npy", np.array([{"a": 1}], dtype=object), allow_pickle=True)
    np.save(folder / "flat.npy", np.zeros(5, np.uint8))
    np.save(folder / "none.npy", np.zeros((0, 5), np.uint8))
    np.save(folder / "nan.npy", np.array([[0.5, np.nan]], np.float32))
    np.save(folder / "complex.npy", np.zeros((2, 2), complex))
    np.save(folder / "five.npy", np.zeros((2, 2, 5), np.uint8))
    (folder / "dangling.png").symlink_to(folder / "nowhere")
    (folder / "self.png").symlink_to("self.png")
    os.mkfifo(folder / "fifo.png")
    (folder / "whole.jpg").unlink()
    (folder / "whole.png").unlink()
    return {
        "empty.jpg": "not an image Pillow can read",
        "text.png": "not an image Pillow can read",
        "cut.jpg": "(?i)truncated",
        "cut.png": "(?i)truncated",
        "bomb.png": "too many pixels",
        "header.png": ".",
        "cut.npy": ".",
        "pickle.npy": "allow_pickle",
        "flat.npy": r"got shape \[5\]",
        "none.npy": "no pixels",
        "nan.npy": "NaN",
        "complex.npy": "got dtype complex128",
        "five.npy": "has 5 channels, data.channels is 3",
        "dangling.png": "No such file",
        "self.png": "Too many levels of symbolic links",
        "fifo.png": "not a regular file",
    }


@pytest.fixture
def write_broken() -> Callable[[Path], dict[str, str]]:
    """Fills a folder with broken files; returns name -> words of the reason."""
    return _write_broken
