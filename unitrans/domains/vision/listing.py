"""Images listed in a table of text (CSV): a column with the files, and columns with labels."""

from __future__ import annotations

import os
import posixpath
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from unitrans.data.columns import Column, cell_text
from unitrans.data.files import suffix_of
from unitrans.data.labels import (
    USUAL,
    cell_classes,
    check_separator,
    label_columns,
    says_nothing,
    target_columns,
)
from unitrans.data.table import is_table, layout_of, open_table
from unitrans.domains.vision.config import DataConfig
from unitrans.domains.vision.datasets import sample_ids
from unitrans.domains.vision.reading import ValueRange, read_image
from unitrans.errors import nearest_name

#: What a column of files is called where nobody names it.
FILE_COLUMNS = ("image", "path", "file", "filename", "file_name", "image_path")


@dataclass
class ListedReader:
    """Images that the rows of a table name.

    ids: the files as the table writes them (of absolute paths the last two parts); paths: where they are. labels: of
    every image a class, a list of classes or {column: cell}; None where none were asked for. left_out: (row, reason).
    """

    ids: list[str]
    paths: list[Path]
    channels: int
    value_range: ValueRange
    max_pixels: int
    labels: list[Any] | None = None
    class_names: list[str] | None = None
    left_out: list[tuple[str, str]] = field(default_factory=list)
    columns: Mapping[str, Column] = field(default_factory=dict)

    def read(self, index: int) -> torch.Tensor:
        """Image ``index``; see ``read_image``."""
        return read_image(self.paths[index], self.channels, self.value_range, self.max_pixels)


def is_listing(path: Path) -> bool:
    """Whether a file is a table that may list images; one of parquet is where it holds none itself."""
    return is_table(path) and suffix_of(path) != ".parquet"


def open_listing(
    root: Path, data: DataConfig, key: str, labels: bool, columns: Mapping[str, Column] | None = None
) -> tuple[ListedReader, list[str]]:
    """The images that a table names, and sentences to show. Rows without a file or without a label are left out.

    Args:
        columns: with labels, as a run has kept them; None: as this table shows.

    Raises:
        ValueError: in one sentence: no such column, no row that can be used, one image in two rows.
    """
    where = f"{key}: {str(root)!r}"
    table = open_table(root, where, layout_of(data, [*FILE_COLUMNS, *USUAL, data.image_column]))
    names = table.names
    column = file_column(names, data.image_column, where)
    folder = Path(data.image_folder).expanduser() if data.image_folder is not None else root.parent
    if not folder.is_dir():
        raise ValueError(f"data.image_folder: there is no folder {data.image_folder!r}")
    data = data.model_copy(update={"label_column": target_columns(data.label_column, names)})
    check_separator(data.label_column, data.label_separator)
    targets = found_columns(names, column, data, where) if labels else []
    rows = list(table.rows())
    cells = [None if isinstance(row, str) else _label(row, targets, data) for row in rows]
    name = targets[0] if len(targets) == 1 else None
    columns = columns or label_columns(cells, name, data.missing)
    kept: list[tuple[str, Path, Any]] = []
    left_out: list[tuple[str, str]] = []
    missing: list[Path] = []
    for number, (row, label) in enumerate(zip(rows, cells, strict=True), start=1):
        written = "" if isinstance(row, str) else cell_text(row.get(column)) or ""
        file, reason = folder / os.path.expanduser(written), ""
        if isinstance(row, str):
            reason = row
        elif not written:
            reason = "it names no file"
        elif labels and says_nothing(label, columns):
            reason = "it has no label"
        elif not file.is_file():
            missing.append(file)
            reason = f"there is no file {file}"
        if reason:
            left_out.append((f"row {number:,}", reason))
        else:
            kept.append((posixpath.normpath(written), file, label))
    if not rows:
        raise ValueError(
            f"{where} has no rows: expected a line with the names of columns, and a line for each image"
        )
    if not kept:
        _nothing(where, len(left_out), missing, left_out, data)
    _unique([file for _, file, _ in kept], where)
    reader = ListedReader(
        sample_ids([name for name, *_ in kept], root.stem),
        [file for _, file, _ in kept],
        data.channels,
        data.value_range,
        data.max_pixels,
        [label for *_, label in kept] if labels else None,
        targets if labels and isinstance(data.label_column, list) else None,
        left_out,
        columns,
    )
    notes = [
        f"{len(kept):,} images of {root.name}" + (f", labels in {', '.join(targets)}" if targets else "")
    ]
    if left_out:
        name, reason = left_out[0]
        notes.append(f"{len(left_out):,} rows of {root.name} are left out; the first: {name}: {reason}")
    return reader, notes


def file_column(names: Sequence[str], asked: str | None, where: str) -> str:
    """The column with the files: ``asked``, else the first with a usual name."""
    if asked is not None and asked not in names:
        raise ValueError(
            f"data.image_column={asked!r} is not a column of {where}: expected one of {', '.join(names)}"
            f"{nearest_name(asked, names)}"
        )
    found = [asked] if asked is not None else [name for name in FILE_COLUMNS if name in names]
    if not found:
        raise ValueError(
            f"{where} has no column of image files: expected one named {' or '.join(FILE_COLUMNS)}, got "
            f"{', '.join(names)}; name it with data.image_column"
        )
    return found[0]


def found_columns(names: Sequence[str], files: str, data: DataConfig, where: str) -> list[str]:
    """The columns with labels: data.label_column, else the first with a usual name, else the only other one."""
    asked = data.label_column
    wanted = [asked] if isinstance(asked, str) else list(asked or ())
    for name in wanted:
        if name not in names or name == files:
            others = [other for other in names if other != files]
            raise ValueError(
                f"data.label_column={name!r} is not a column with labels of {where}: expected one of "
                f"{', '.join(others)}{nearest_name(name, others)}"
            )
    if wanted:
        return wanted
    others = [name for name in names if name != files]
    usual = [name for name in USUAL if name in others]
    if not usual and len(others) != 1:
        raise ValueError(
            f"{where} has no column of classes: expected one named {' or '.join(USUAL)}, got "
            f"{', '.join(others) or 'no other column'}; name it, or several, with data.label_column"
        )
    return (usual or others)[:1]


def _label(row: Mapping[str, Any], targets: Sequence[str], data: DataConfig) -> Any:
    """The cells of a row with labels."""
    if isinstance(data.label_column, list):
        return {name: row.get(name) for name in targets}
    if not targets:
        return None
    cell = row.get(targets[0])
    return cell if data.label_separator is None else cell_classes(cell, data.label_separator)


def _nothing(
    where: str, count: int, missing: Sequence[Path], left_out: Sequence[tuple[str, str]], data: DataConfig
) -> None:
    """ValueError for a table of which no row can be used."""
    if missing:
        kind = "image_folder" if data.image_folder is None else "image_column"
        raise ValueError(
            f"{where}: none of the files it names is there (the first: {missing[0]}); data.{kind} says "
            + (
                "where they are, if not beside the table"
                if kind == "image_folder"
                else "which column names them"
            )
        )
    raise ValueError(f"{where}: none of its {count:,} rows can be used (the first: {left_out[0][1]})")


def _unique(files: Sequence[Path], where: str) -> None:
    """ValueError for an image in two rows: one might be trained on and the other held out."""
    seen: dict[str, Path] = {}
    for file in files:
        real = os.path.realpath(file)
        if real in seen:
            raise ValueError(
                f"{where}: two rows name the image {file}: expected one row for each; several classes of an image "
                "stand in one cell (data.label_separator) or in columns of their own (data.label_column=[a,b])"
            )
        seen[real] = file
