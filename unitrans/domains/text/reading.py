"""Text files as documents: compressed or not, in any encoding, lines of any length, in bounded memory."""

from __future__ import annotations

import os
import re
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple, TextIO

from unitrans.data.columns import Column
from unitrans.data.files import open_text, suffix_of
from unitrans.domains.places import is_kernels
from unitrans.domains.text.config import Boundary

SUFFIXES = (".txt", ".text", ".md", ".rst")
MAX_CHARACTERS = 1 << 18  # of a document in memory; what is longer comes in pieces


class Document(NamedTuple):
    """One document, or a piece of a very long one.

    id: a stable name. text: what it says. key: what is hashed to hold it out, the same for all pieces. label: of a
    row that has one; of several columns {name: value}. words: a text that came as words, with a label for each.
    second: the other text of a row with two.
    """

    id: str
    text: str
    key: str
    label: Any = None
    words: list[str] | None = None
    second: str | None = None


class Documents(ABC):
    """Documents that can be read again and again, file by file.

    Attributes:
        notes, skipped: sentences, and id -> reason of what could not be used so far.
        label_names: the classes, where the data declare them.
        columns: how the cells with labels are read.
        text, label, multi: of a table its column of texts, that (or those) of labels, and whether a label says yes or
            no to several things.
        split, splits: which part of a data set this is, and all there are.
    """

    notes: list[str]
    skipped: dict[str, str]
    label_names: list[str] | None
    columns: Mapping[str, Column] = MappingProxyType({})
    text: str | None = None
    label: str | list[str] | None = None
    multi: bool = False
    split: str | None = None
    splits: Sequence[str] = ()

    @property
    @abstractmethod
    def files(self) -> int:
        """How many parts can be read one by one."""

    @abstractmethod
    def size(self) -> int:
        """Bytes of all parts as they lie there, 0 if unknown."""

    @abstractmethod
    def of_file(self, file: int) -> Iterator[Document]:
        """The usable documents of one part, in order; others go to ``skipped``."""


@dataclass
class TextFiles(Documents):
    """The documents of text files.

    names: how files are called in ids. skipped: id -> reason of what could not be used so far. units: what is hashed to
    hold out a file as a whole; None: documents are held out.
    """

    paths: list[Path]
    names: list[str]
    boundary: Boundary
    encoding: str
    units: list[str] | None = None
    notes: list[str] = field(default_factory=list)
    skipped: dict[str, str] = field(default_factory=dict)
    label_names: list[str] | None = None

    @property
    def files(self) -> int:
        """How many files there are."""
        return len(self.paths)

    def size(self) -> int:
        """Bytes of all files as they lie there."""
        return sum(path.stat().st_size for path in self.paths)

    def of_file(self, file: int) -> Iterator[Document]:
        """The usable documents of one file, in order; others go to ``skipped``."""
        name, unit = self.names[file], None if self.units is None else self.units[file]
        try:
            with open_text(self.paths[file], self.encoding) as stream:
                for document in split_documents(stream, name, self.boundary, unit):
                    reason = unusable(document.text)
                    if reason is None:
                        yield document
                    else:
                        self.skipped.setdefault(document.id, reason)
        except (OSError, EOFError, ValueError) as error:  # encodings that break off, damaged archives
            self.skipped.setdefault(name, f"it cannot be read further: {' '.join(str(error).split())[:200]}")


def unusable(text: str) -> str | None:
    """Why a document is left out; None for a good one."""
    if "\0" in text:
        return "it holds NUL characters: it is not text, or in another encoding (data.encoding)"
    escaped = re.search("[\udc80-\udcff]", text)
    if escaped:
        byte = ord(escaped.group()) - 0xDC00
        return f"byte {byte:#04x} is not valid in its encoding: give the right one as data.encoding, such as cp1252"
    return None


def split_documents(
    stream: TextIO, name: str, boundary: Boundary, unit: str | None = None
) -> Iterator[Document]:
    """The documents of a stream; empty ones do not count. At most MAX_CHARACTERS are in memory: a longer document
    comes in pieces, cut at white space where there is some. unit: their key; None: each has its own."""
    number, piece, text, key = 0, 0, "", ""

    def made(content: str) -> Document:
        of_file = name if boundary == "file" else f"{name}#{number}"
        return Document(f"{of_file}+{piece}" if piece else of_file, content, unit or key)

    ended = True
    while True:
        line = stream.readline(MAX_CHARACTERS)
        begins_line = ended
        ended = line.endswith("\n") or not line
        blank = begins_line and ended and not line.strip()
        text += "" if blank and not text else line
        while len(text) > MAX_CHARACTERS:
            at = cut_at(text, MAX_CHARACTERS)
            key = key or text[:at]
            yield made(text[:at].strip())
            piece, text = piece + 1, text[at:]
        finished = not line or (boundary == "line" and ended) or (boundary == "blank_line" and blank)
        if finished and (text.strip() or piece):
            content = text.strip()
            key = key or content
            if content:
                yield made(content)
            number, piece, key = number + 1, 0, ""
        if finished:
            text = ""
        if not line:
            return


def cut_at(text: str, limit: int) -> int:
    """Where to cut a text so that the first part has at most ``limit`` characters: behind its last white space."""
    found = max(text.rfind(" ", 0, limit), text.rfind("\n", 0, limit), text.rfind("\t", 0, limit))
    return found + 1 if found > 0 else limit


def list_files(root: Path) -> tuple[list[Path], list[str]]:
    """The files below a folder in order, hidden ones left out, and sentences about folders that cannot be listed."""
    found, problems = [], []

    def failed(error: OSError) -> None:
        problems.append(f"{error.filename} cannot be listed: {error.strerror}")

    for folder, folders, files in os.walk(root, onerror=failed):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        kernels = [name for name in folders if is_kernels(os.lstat(Path(folder) / name).st_dev)]
        folders[:] = [name for name in folders if name not in kernels]
        problems += [f"{Path(folder) / name} is a file system of the kernel" for name in kernels]
        found += [Path(folder) / name for name in sorted(files) if not name.startswith(".")]
    return found, problems


def choose_text(files: Sequence[Path], pattern: str | None) -> tuple[list[Path], Counter[str]]:
    """The text files among these, and how many others there are by suffix."""
    chosen, others = [], Counter[str]()
    for path in files:
        if path.match(pattern) if pattern else suffix_of(path) in SUFFIXES:
            chosen.append(path)
        else:
            others[path.suffix.lower() or "no suffix"] += 1
    return chosen, others
