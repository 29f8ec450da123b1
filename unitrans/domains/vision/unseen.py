"""Images that a trained model is asked about: read as the held-out ones of its training data were."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from unitrans.data.columns import Column, columns_of
from unitrans.domains.base import Sample
from unitrans.domains.vision.config import DataConfig
from unitrans.domains.vision.listing import FILE_COLUMNS
from unitrans.domains.vision.reading import IMAGE_SUFFIXES, BrokenImageError, find_images, read_image
from unitrans.domains.vision.source import ArrayReader, VisionSource, first_readable, open_reader
from unitrans.objectives.base import Labels

_KEPT = ("image_size", "channels", "value_range", "eval_crop", "eval_fit")
_LATER = ("max_pixels",)  # what older checkpoints do not tell
_TABLES = ("image_column", "label_column", "label_separator", "missing", "encoding")


def reading_of(source: VisionSource) -> dict[str, Any]:
    """What a checkpoint has to know to read other images as these were read, as plain values."""
    kept = source.data.model_dump(mode="json", include={*_KEPT, *_LATER, *_TABLES})
    columns = {name: column.kind for name, column in source.columns.items()}
    return {
        "domain": "vision",
        **kept,
        "columns": columns,
        "mean": list(source.mean),
        "std": list(source.std),
    }


def data_config(reading: Mapping[str, Any], path: str = "images", **others: Any) -> DataConfig:
    """The same as a configuration."""
    kept = {key: reading[key] for key in (*_KEPT, "mean", "std")}
    kept |= {key: reading[key] for key in _LATER if key in reading}
    return DataConfig(path=path, validation="none", **kept, **others)


def labelled(
    path: str, reading: Mapping[str, Any], labels: Labels | None, column: str | None, target: str | None
) -> VisionSource:
    """Images with labels to judge a model on: what data.path can be.

    Args:
        path: class folders, a table, a hub name or an embedded set.
        reading: of the checkpoint; "files" says where files start that a table names.
        labels: those of the model; None: classes that are found.
        column, target: of a table, with the files and with the labels; None: named as in the training data.

    Raises:
        ValueError: nothing there, a class that the model does not have, or labels of another kind.
    """
    path = "/dev/stdin" if path == "-" else path
    told = {key: reading[key] for key in _TABLES if key in reading}  # checkpoints before these keys have none
    told |= {"image_column": column} if column is not None else {}
    told |= {"label_column": target} if target is not None else {}
    data = data_config(reading, path, image_folder=reading.get("files"), **told)
    columns = None if labels is None else label_cells(reading, labels, data)
    reader, notes, unreadable = open_reader(path, data, "--data", True, columns)
    first_readable(reader, range(len(reader.ids)), "--data", path)
    source = VisionSource(reader, range(len(reader.ids)), data)
    source.notes += notes
    for name, reason in unreadable:
        source.skip(name, reason)
    several = labels is not None and labels.kind == "multi"
    if source.has_several != several:
        kinds = {True: "several classes", False: "one class"}
        what = "a probe is fitted on" if labels is None else "the model knows"
        raise ValueError(
            f"--data {path!r} has {kinds[source.has_several]} for each image, {what} {kinds[several]}: name the column "
            "(several as a,b) with --target"
        )
    source.set_labels(None if labels is None else labels.names, f"--data {path!r}", columns)
    source.set_normalization()
    return source


def label_cells(reading: Mapping[str, Any], labels: Labels, data: DataConfig) -> dict[str, Column]:
    """How the labels of other tables are read: as those of the training data were."""
    names = list(labels.names) if labels.kind == "multi" and data.label_separator is None else ["label"]
    kept = dict(reading.get("columns") or {})
    if len(names) == len(kept) == 1:  # the one column may be called otherwise
        kept = {names[0]: next(iter(kept.values()))}
    return columns_of({"columns": kept, "missing": reading.get("missing")}, names, labels.names)


def prepared(source: VisionSource, sample: Sample) -> Sample:
    """A read image as the model sees it."""
    return source.augment(sample, np.random.default_rng(0), False)


def listed(inputs: Sequence[str]) -> list[str] | None:
    """The image files that these names stand for, folders with all below them; None where one is a table.

    Raises:
        ValueError: there is no such file, or a folder without images.
    """
    files: list[str] = []
    for name in inputs:
        path = Path(name).expanduser()
        if path.is_dir():
            found = find_images(path).paths
            if not found:
                raise ValueError(f"{name}: there is no image in this folder")
            files += [str(path / one) for one in found]
        elif path.suffix.lower() in IMAGE_SUFFIXES:
            if not path.is_file():
                raise ValueError(f"{name}: there is no such file")
            files.append(str(path))
        else:
            return None
    return files


def image_reader(
    names: Sequence[str], reading: Mapping[str, Any], column: str | None
) -> Callable[[Mapping[str, Any]], Sample]:
    """A function from a row of a table to a sample; the row names a file.

    Raises:
        ValueError: no column with file names; the function: a row without a readable image.
    """
    if column is None and reading.get("image_column") in names:
        column = reading["image_column"]
    found = [column] if column is not None else [name for name in FILE_COLUMNS if name in names]
    if not found or found[0] not in names:
        raise ValueError(
            f"the table has no column of image files: expected {' or '.join(FILE_COLUMNS[:3])}, or --column NAME; "
            f"it has {', '.join(names)}"
        )
    folder = Path(reading.get("files") or "")
    data = data_config(reading)
    source = VisionSource(ArrayReader([], torch.zeros(0), data.channels, None), [], data)
    source.set_normalization()

    def read(row: Mapping[str, Any]) -> Sample:
        name = str(row.get(found[0]) or "")
        if not name:
            raise ValueError("the row names no file")
        try:
            image = read_image(
                folder / Path(name).expanduser(), data.channels, data.value_range, data.max_pixels
            )
        except BrokenImageError as error:
            raise ValueError(str(error)) from None
        return prepared(source, {"image": image})

    return read
