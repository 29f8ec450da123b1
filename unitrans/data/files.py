"""Files of text: compressed or not, in any encoding, read from front to back; pipes are read once."""

from __future__ import annotations

import codecs
import io
import shutil
import stat
import tempfile
from pathlib import Path
from typing import Any, TextIO

COMPRESSIONS = {".gz": "gzip", ".bz2": "bz2", ".zst": "zstd"}
_MARKS = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
#: What pipes have given, by device and inode, for as long as the process lives.
_COPIES: dict[tuple[int, int], Any] = {}


def suffix_of(path: Path) -> str:
    """The suffix that says what is in a file, that of compression left out."""
    suffixes = [suffix.lower() for suffix in path.suffixes]
    if suffixes and suffixes[-1] in COMPRESSIONS:
        suffixes.pop()
    return suffixes[-1] if suffixes else ""


def is_pipe(path: Path) -> bool:
    """Whether a path that exists can be read only once: a pipe, a socket, a terminal."""
    mode = path.stat().st_mode
    return not stat.S_ISREG(mode) and not stat.S_ISDIR(mode)


def seekable(path: Path) -> Path:
    """The file itself; of a pipe a temporary copy of what it gives, the same one for whoever asks again."""
    if not is_pipe(path):
        return path
    found = path.stat()
    key = (found.st_dev, found.st_ino)
    if key not in _COPIES:
        copy = tempfile.NamedTemporaryFile(prefix="pipe-", suffix="".join(path.suffixes[-2:]))  # noqa: SIM115
        with path.open("rb") as pipe:
            shutil.copyfileobj(pipe, copy)
        copy.flush()
        _COPIES[key] = copy
    return Path(_COPIES[key].name)


def open_bytes(path: Path) -> io.BufferedReader:
    """A stream of bytes over a file, decompressed by its suffix. ValueError where a packed file is cut or damaged."""
    kind = COMPRESSIONS.get(path.suffix.lower())
    if kind is None:
        return path.open("rb")
    import pyarrow

    raw: Any = _Readable(pyarrow.input_stream(str(path), compression=kind), path)
    return io.BufferedReader(raw, 1 << 20)


def open_text(path: Path, encoding: str = "auto", errors: str = "surrogateescape") -> TextIO:
    """A text stream over a file, decompressed by its suffix, line ends as they are in it when errors is strict.

    Args:
        encoding: a name that Python knows; auto: UTF-8, or what the mark at the start says.
        errors: what bytes become that cannot be decoded: lone surrogates, or (strict) UnicodeDecodeError.
    """
    buffered = open_bytes(path)
    if encoding == "auto":
        start = buffered.peek(4)[:4]
        encoding = next((name for mark, name in _MARKS if start.startswith(mark)), "utf-8")
    newline = "" if errors == "strict" else None
    return io.TextIOWrapper(buffered, encoding=encoding, errors=errors, newline=newline)


class _Readable(io.RawIOBase):
    """Any object with read(n) as a raw stream; what a damaged file makes it raise is a ValueError."""

    def __init__(self, stream: Any, path: Path) -> None:
        self.stream, self.path = stream, path

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        try:
            content = self.stream.read(len(buffer))
        except (OSError, EOFError, ValueError) as error:
            reason = " ".join(str(error).split())
            raise ValueError(
                f"{self.path}: it is cut or damaged and cannot be unpacked ({reason}): copy or pack it again"
            ) from None
        buffer[: len(content)] = content
        return len(content)

    def close(self) -> None:
        self.stream.close()
        super().close()
