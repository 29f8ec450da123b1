"""What ``data.path`` names, as documents: embedded text, text files, tables, data sets of the hub."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from unitrans.data.copies import copied_files, said
from unitrans.data.files import COMPRESSIONS, is_pipe, seekable, suffix_of
from unitrans.data.sources import is_table
from unitrans.data.splits import with_copies
from unitrans.data.table import KINDS
from unitrans.domains.places import settled
from unitrans.domains.text import tables
from unitrans.domains.text.config import DataConfig
from unitrans.domains.text.reading import (
    SUFFIXES,
    Document,
    Documents,
    TextFiles,
    choose_text,
    list_files,
    split_documents,
)
from unitrans.errors import nearest_name
from unitrans.objectives.base import LabelKind

EMBEDDED = ("pydoc",)


def all_documents(documents: Documents) -> Iterator[Document]:
    """The documents of all files, in order."""
    for file in range(documents.files):
        yield from documents.of_file(file)


class EmbeddedText(Documents):
    """The topics of the language reference that Python carries for its help(); each is a file."""

    def __init__(self, data: DataConfig) -> None:
        from pydoc_data.topics import topics  # type: ignore[import-not-found,unused-ignore]

        self.topics = [(name, text) for name, text in sorted(topics.items())]
        self.data = data
        self.notes: list[str] = []
        self.skipped: dict[str, str] = {}
        self.label_names: list[str] | None = None

    @property
    def files(self) -> int:
        return len(self.topics)

    def size(self) -> int:
        return sum(len(text) for _, text in self.topics)

    def of_file(self, file: int) -> Iterator[Document]:
        import io

        name, text = self.topics[file]
        yield from split_documents(
            io.StringIO(text),
            f"pydoc/{name}",
            self.data.document,
            f"pydoc/{name}" if self.data.group == "file" else None,
        )


def open_documents(path: str, data: DataConfig, kind: LabelKind | None, key: str = "data.path") -> Documents:
    """The documents that ``path`` names. ValueError in one sentence if there is nothing to read.

    kind: of the labels that every document needs; None: the text is all.
    """
    if path in EMBEDDED:
        _no_labels(kind, f"{key}: {path!r}")
        return EmbeddedText(data)
    root = Path(os.path.expanduser(path))
    where = f"{key}: {path!r}"
    try:
        if not root.exists():
            return tables.open_hub(path, data, kind, key, EMBEDDED)
        root = settled(root, key)
        if root.is_dir() and is_table(root):
            return tables.open_saved(root, data, kind, key)
        if is_pipe(root) and kind:
            return tables.open_files(root, [root], data, kind, key)
        files, problems = list_files(root) if root.is_dir() else ([seekable(root)], [])
    except OSError as error:
        raise ValueError(f"{where} cannot be read: {error.strerror}") from None
    if not root.is_dir() and suffix_of(root) not in KINDS:
        _no_labels(kind, where)
        return _text_files(files[0].parent, files, data)
    chosen, others = choose_text(files, data.pattern) if root.is_dir() else ([], Counter[str]())
    if chosen and not kind:
        found = _text_files(root, chosen, data)
        found.notes += problems
        if others:
            kinds = ", ".join(f"{suffix} ({count:,})" for suffix, count in others.most_common(6))
            found.notes.append(
                f"ignored files in {path} that are not text: {kinds} (data.pattern takes others)"
            )
        return found
    if any(suffix_of(file) in KINDS for file in files):
        return tables.open_files(root, files, data, kind, key)
    if chosen:
        _no_labels(kind, where)
    held = ", ".join(f"{suffix} ({count:,})" for suffix, count in others.most_common(4))
    raise ValueError(
        f"{where}: there is no text in it ({'it holds ' + held if held else 'it is empty'}); expected "
        f"{', '.join(SUFFIXES)} files ({', '.join(COMPRESSIONS)} too), tables, or files that data.pattern names"
    )


def _text_files(root: Path, files: list[Path], data: DataConfig) -> TextFiles:
    names = [file.relative_to(root).as_posix() for file in files]
    found = copied_files(files) if data.group == "file" else {}
    units = with_copies(names, found) if data.group == "file" else None
    notes = said(found, names, "files")
    return TextFiles(files, names, data.document, data.encoding, units, notes)


def _no_labels(kind: LabelKind | None, where: str) -> None:
    if kind:
        raise ValueError(
            f"{where} is plain text without labels: expected a table (CSV, JSON lines, parquet, a hub name)"
        )


def nothing_usable(documents: Documents, where: str) -> ValueError:
    """The error for documents none of which can be used."""
    first = next(iter(documents.skipped.items()), None)
    reason = "it is empty" if first is None else f"{first[0]}: {first[1]}"
    hint = nearest_name(where, EMBEDDED) if first is None else ""
    return ValueError(f"{where}: none of its documents can be used ({reason}){hint}")
