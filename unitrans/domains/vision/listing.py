"""Images listed in a table of text (CSV): a column with the files, and columns with labels."""

from __future__ import annotations

import os
import posixpath
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from unitrans.domains.base import nearest_name
from unitrans.domains.labels import cell_classes, cell_text
from unitrans.domains.rows import open_text, table_lines
from unitrans.domains.vision.config import DataConfig
from unitrans.domains.vision.datasets import sample_ids
from unitrans.domains.vision.labels import USUAL
from unitrans.domains.vision.reading import ValueRange, read_image

SUFFIXES = (".csv", ".tsv", ".csv.gz", ".tsv.gz")
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

    def read(self, index: int) -> torch.Tensor:
        """Image ``index``; see ``read_image``."""
        return read_image(self.paths[index], self.channels, self.value_range, self.max_pixels)


def is_listing(path: Path) -> bool:
    """Whether this is the name of a table of text."""
    return path.name.lower().endswith(SUFFIXES)


def open_listing(root: Path, data: DataConfig, key: str, labels: bool) -> tuple[ListedReader, list[str]]:
    """The images that a table names, and sentences to show. Rows without a file or without a label are left out.

    Raises:
        ValueError: in one sentence: no such column, no row that can be used, one image in two rows.
    """
    where = f"{key}: {str(root)!r}"
    names, rows = _rows(root, where)
    column = file_column(names, data.image_column, where)
    folder = Path(data.image_folder).expanduser() if data.image_folder is not None else root.parent
    if not folder.is_dir():
        raise ValueError(f"data.image_folder: there is no folder {data.image_folder!r}")
    targets = label_columns(names, column, data, where) if labels else []
    kept: list[tuple[str, Path, Any]] = []
    left_out: list[tuple[str, str]] = []
    missing: list[Path] = []
    for number, row in enumerate(rows, start=1):
        name, file, label, reason = f"row {number:,}", Path(), None, ""
        if len(row) != len(names):
            reason = f"the row has {len(row)} cells, the header has {len(names)}"
        else:
            cells = dict(zip(names, row, strict=True))
            file = folder / os.path.expanduser(cells[column].strip())
            label = _label(cells, targets, data)
            if not cells[column].strip():
                reason = "it names no file"
            elif labels and label is None:
                reason = "it has no label"
            elif not file.is_file():
                missing.append(file)
                reason = f"there is no file {file}"
        if reason:
            left_out.append((name, reason))
        else:
            kept.append((posixpath.normpath(cells[column].strip()), file, label))
    if not kept:
        _nothing(where, len(left_out), missing, left_out, data)
    _unique([file for _, file, _ in kept], where)
    values = [label for *_, label in kept]
    if targets and not several(data):
        values = numbers_where_all(values, targets[0], where)
    reader = ListedReader(
        sample_ids([name for name, *_ in kept], root.stem),
        [file for _, file, _ in kept],
        data.channels,
        data.value_range,
        data.max_pixels,
        values if labels else None,
        targets if labels and isinstance(data.label_column, list) else None,
        left_out,
    )
    notes = [
        f"{len(kept):,} images of {root.name}" + (f", labels in {', '.join(targets)}" if targets else "")
    ]
    if left_out:
        name, reason = left_out[0]
        notes.append(f"{len(left_out):,} rows of {root.name} are left out; the first: {name}: {reason}")
    return reader, notes


def several(data: DataConfig) -> bool:
    """Whether a label says yes or no to several things."""
    return isinstance(data.label_column, list) or data.label_separator is not None


def _rows(root: Path, where: str) -> tuple[list[str], list[list[str]]]:
    """The names of the columns and the rows of a table."""
    try:
        with open_text(root) as file:
            rows = list(table_lines(file, root.name, None))
    except UnicodeDecodeError:
        raise ValueError(f"{where} is not text in UTF-8: save the table as that") from None
    except OSError as error:
        raise ValueError(f"{where} cannot be read: {error.strerror or error}") from None
    if len(rows) < 2:
        raise ValueError(
            f"{where} has no rows: expected a line with the names of columns, and a line for each image"
        )
    return rows[0], rows[1:]


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


def label_columns(names: Sequence[str], files: str, data: DataConfig, where: str) -> list[str]:
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


def _label(cells: Mapping[str, str], targets: Sequence[str], data: DataConfig) -> Any:
    """What the cells of a row say; None where they say nothing."""
    if isinstance(data.label_column, list):
        found = {name: cell_text(cells[name]) for name in targets}
        return found if any(value is not None for value in found.values()) else None
    if not targets:
        return None
    if data.label_separator is not None:
        return cell_classes(cells[targets[0]], data.label_separator)
    return cell_text(cells[targets[0]])


def numbers_where_all(values: Sequence[Any], column: str, where: str) -> list[Any]:
    """Classes as whole numbers where all cells are such (1.0 too, as programs write a column with gaps), else as text.

    ValueError for fractions, which are no classes.
    """
    try:
        parsed = [float(value) for value in values]
    except ValueError:
        return list(values)
    fraction = next(
        (value for value, number in zip(values, parsed, strict=True) if number != int(number)), None
    )
    if fraction is not None:
        raise ValueError(
            f"data.label_column={column!r} of {where} holds fractions ({fraction}): expected classes, as text or whole "
            "numbers"
        )
    plain = all(
        value == str(int(number)) or "." in value for value, number in zip(values, parsed, strict=True)
    )
    return [int(number) for number in parsed] if plain else list(values)  # 007 and 7 are two names


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
