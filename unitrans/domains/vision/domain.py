"""Vision: images from folders, tables, the hub or a dependency, cut into patches and packed into one stream."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from unitrans.data.columns import Column
from unitrans.data.copies import said
from unitrans.data.labels import USUAL, check_answers, column_notes
from unitrans.data.sources import SPLIT_WORDS
from unitrans.data.splits import split
from unitrans.data.table import Kind
from unitrans.domains.base import Baseline, Batch, Domain, Sample, stack_labels, summarise
from unitrans.domains.kept import Kept
from unitrans.domains.vision import baselines as predictors
from unitrans.domains.vision import classification, config, unseen
from unitrans.domains.vision.augment import check_augmentation
from unitrans.domains.vision.copies import copied_images, files_of
from unitrans.domains.vision.datasets import TableReader
from unitrans.domains.vision.listing import FILE_COLUMNS, ListedReader
from unitrans.domains.vision.pictures import draw_reconstructions
from unitrans.domains.vision.source import (
    EMBEDDED,
    FolderReader,
    Reader,
    VisionSource,
    first_readable,
    open_reader,
)
from unitrans.domains.vision.stream import open_stream
from unitrans.nn import patchify
from unitrans.objectives.base import LabelKind, Labels


class VisionDomain(Domain):
    """Images. A token is a patch of patch_size x patch_size pixels; see ``unitrans.domains.base.Domain``."""

    name = "vision"
    DataConfig = config.DataConfig
    embedded = frozenset(EMBEDDED)
    default_objective = "mim"
    judges = frozenset({"pixels", "classes", "answers"})
    draws = frozenset({"patch_tokens"})

    def open(
        self,
        data: config.DataConfig,
        model_config: Any,
        seed: int,
        label_kinds: Sequence[LabelKind] = (),
        kept: Kept | None = None,
    ) -> tuple[VisionSource, VisionSource | None]:
        """The training images and the held-out ones (None for data.validation=none or 0).

        The split does not depend on ``seed``: runs with other seeds are judged on the same images.
        ValueError in one sentence for whatever cannot be used.
        """
        _check_model(data, model_config)
        if kept is not None:
            data = data.model_copy(update={key: kept.reading[key] for key in ("mean", "std")})
        labels = bool(label_kinds)
        if labels and "class" not in label_kinds:
            raise ValueError(f"the domain vision has classes, not labels of kind {' or '.join(label_kinds)}")
        if labels and data.rand_augment:
            check_augmentation(data.channels)
        for name in () if labels else ("rand_augment", "random_erase", "mixup", "cutmix"):
            if getattr(data, name):
                raise ValueError(
                    f"data.{name} is for supervised training, and no labels are learned: set it to 0"
                )
        if data.streaming and data.image_folder is not None:
            raise ValueError("data.image_folder is for a table of files (.csv, .tsv), which is not streamed")
        if data.streaming:
            return _open_streaming(data, seed, labels)
        reader, notes, unreadable = open_reader(data.path, data, "data.path", labels)
        if data.split is not None and not isinstance(reader, TableReader):
            raise ValueError(
                f"data.split={data.split} is for parquet files and data sets with splits, and {data.path!r} has none: "
                "leave it out, or name a folder of its own as data.path"
            )
        _check_columns(data, reader)
        everything: Sequence[int] = range(len(reader.ids))
        first_readable(reader, everything, "data.path", data.path)
        validation: VisionSource | None = None
        if data.validation in (0, "none"):
            train = VisionSource(reader, everything, data)
        elif isinstance(data.validation, float):
            found = copied_images(reader)
            chosen, held_out = split(reader.ids, data.validation, data.group, found)
            notes += said(found, reader.ids, "images")
            train = VisionSource(reader, chosen, data)
            validation = VisionSource(reader, held_out, data)
        else:
            train, validation = _open_validation(reader, data, data.validation, labels)
        train.notes[:0] = notes
        for name, reason in unreadable:
            train.skip(name, reason)
        if labels:
            _set_labels(train, validation, data, kept)
        train.set_normalization()
        if validation is not None:
            validation.set_normalization(like=train)
        train.reading = unseen.reading_of(train)
        return train, validation

    def reopen(
        self,
        data: config.DataConfig,
        model_config: Any,
        seed: int,
        label_kinds: Sequence[LabelKind],
        kept: Kept | None,
    ) -> tuple[VisionSource, VisionSource | None]:
        """See ``unitrans.domains.base.Domain``: with the mean, the deviation and the classes it had."""
        return self.open(data, model_config, seed, label_kinds, kept)

    def collate(self, samples: Sequence[Sample | None], model_config: Any) -> Batch | None:
        """Packs images into one stream of patches.

        Returns {"patches": float32 [T, C*p*p], "mask": bool [T] or None, "plans", "grids": [(h, w)],
        "sample_ids", "num_skipped": how many samples were None, and "labels" of samples with labels}, or None when
        all of them were.
        """
        good = [sample for sample in samples if sample is not None]
        if not good:
            return None
        patch = model_config.patch_size
        grids = [(s["image"].shape[-2] // patch, s["image"].shape[-1] // patch) for s in good]
        masks = [torch.as_tensor(s["mask"]).reshape(-1) for s in good if "mask" in s]
        assert len(masks) in (0, len(good)), "either every sample of a batch has a mask or none has"
        return {
            "patches": torch.cat([patchify(sample["image"], patch) for sample in good]),
            "mask": torch.cat(masks) if masks else None,
            "plans": model_config.plans(grids, **_visible(good)),
            "grids": grids,
            "sample_ids": [sample["id"] for sample in good],
            "num_skipped": len(samples) - len(good),
            **stack_labels(good),
        }

    def record_reader(
        self, names: Sequence[str], reading: Mapping[str, Any], column: str | None
    ) -> Callable[[Mapping[str, Any]], Sample]:
        """See ``unitrans.domains.base.Domain``: rows name image files."""
        return unseen.image_reader(names, reading, column)

    def labelled(
        self,
        path: str,
        reading: Mapping[str, Any],
        labels: Labels | None,
        column: str | None,
        target: str | None,
    ) -> Iterator[tuple[Sample | str, Any]]:
        """See ``unitrans.domains.base.Domain``: whatever data.path can be."""
        source = unseen.labelled(path, reading, labels, column, target)
        assert source.labels is not None
        yield from ((f"{name}: {reason}", None) for name, reason in source.skipped)
        for index in range(len(source)):
            sample = source.load(index)
            if sample is None:
                yield f"{source.ids[index]}: {dict(source.skipped)[source.ids[index]]}", None
            else:
                number = sample["label"]
                yield (
                    unseen.prepared(source, sample),
                    source.labels.names[number] if labels is None else number,
                )

    def known_columns(self, reading: Mapping[str, Any]) -> list[str | None]:
        """Names that the header of a table has which is read as the training data were."""
        return [*FILE_COLUMNS, *USUAL, reading.get("image_column")]

    def line_kind(self, first: str) -> Kind:
        """See ``unitrans.domains.base.Domain``: a table with a header."""
        return "csv"

    def listed(self, inputs: Sequence[str]) -> list[Mapping[str, Any]] | None:
        """See ``unitrans.domains.base.Domain``: a row for each image file."""
        files = unseen.listed(inputs)
        return None if files is None else [{"image": name} for name in files]

    def data_unit_scale(self, source: VisionSource, model_config: Any) -> torch.Tensor:
        """float32 [C*p*p]: the std of each value of a patch, which turns an error into units of [0, 1]."""
        return torch.tensor(source.std).repeat_interleave(model_config.patch_size**2)

    def baselines(
        self,
        train_source: VisionSource,
        validation_source: VisionSource,
        objective: Any,
        model_config: Any,
        rng_for: Callable[[str], np.random.Generator],
    ) -> list[Baseline]:
        """Simple predictors of the hidden pixels (``unitrans.domains.vision.baselines``) or of the class
        (``unitrans.domains.vision.classification``)."""
        if objective.predicts == "classes":
            return classification.baselines(train_source, validation_source)
        if objective.predicts == "answers":
            return classification.answer_baselines(train_source, validation_source)

        def held_out() -> predictors.Masked:
            for index in range(len(validation_source)):
                sample = validation_source.load(index)
                if sample is None:
                    continue
                rng = rng_for(sample["id"])
                image = validation_source.unit_image(sample)
                mask = objective.corrupt({"id": sample["id"], "image": image}, rng)["mask"]
                yield image, torch.as_tensor(mask)

        return predictors.evaluate(train_source, held_out, model_config.patch_size, objective.unit)

    def report(
        self,
        directory: Path,
        source: VisionSource,
        samples: Sequence[Sample],
        predictions: Sequence[torch.Tensor],
        objective: Any,
        model_config: Any,
    ) -> list[Path]:
        """reconstructions.png: original | masked | predicted, one row or block per corrupted sample; or, with classes,
        predictions.png: what images were taken for."""
        mean, std = source.mean, source.std
        if source.labels is not None:
            path = Path(directory) / "predictions.png"
            classification.draw_predictions(path, samples, predictions, source.labels, mean, std)
        elif predictions[0].shape[1] != len(mean) * model_config.patch_size**2:
            return []  # tokens of a tokenizer that cannot be drawn
        else:
            path = Path(directory) / "reconstructions.png"
            draw_reconstructions(path, samples, predictions, mean, std, model_config.patch_size)
        return [path]

    def summary(self, metrics: Mapping[str, float], baselines: Sequence[Baseline], objective: Any) -> str:
        """The model beside the simple predictors, as a table and one sentence."""
        return summarise(metrics, baselines, objective, "images")


def _visible(samples: Sequence[Sample]) -> dict[str, Any]:
    """What plans are told where objectives let the encoder see a part of every image."""
    visible = [torch.as_tensor(sample["visible"]) for sample in samples if "visible" in sample]
    return {"visible": visible} if visible else {}


def _check_model(data: config.DataConfig, model_config: Any) -> None:
    """ValueError where data and model do not fit."""
    if model_config.in_chans != data.channels:
        raise ValueError(
            f"data.channels={data.channels} but model.in_chans={model_config.in_chans}: "
            "set both to the same number"
        )
    patch = model_config.patch_size
    if any(side % patch for side in data.size):
        height, width = (max(patch, round(side / patch) * patch) for side in data.size)
        raise ValueError(
            f"data.image_size={list(data.size)} is not a multiple of model.patch_size={patch}: "
            f"use [{height}, {width}] for example"
        )


def _check_columns(data: config.DataConfig, reader: Reader) -> None:
    """ValueError for settings of tables where there is none."""
    table = isinstance(reader, TableReader)
    for name in ("image_column", "label_column", "label_separator", "image_folder"):
        taken = isinstance(reader, ListedReader) or (table and name != "image_folder")
        if getattr(data, name) is not None and not taken:
            what = "a table of files (.csv, .tsv)" if name == "image_folder" else "a table"
            raise ValueError(f"data.{name} is for {what}, and {data.path!r} is none: leave it out")


def _set_labels(
    train: VisionSource, validation: VisionSource | None, data: config.DataConfig, kept: Kept | None
) -> None:
    """Gives the samples their classes: those the run had, or that are declared, else those of all samples of the data
    set."""
    if validation is not None and train.has_several != validation.has_several:
        raise ValueError(
            f"data.validation: {data.validation!r}: expected labels as in data.path, "
            f"{'several classes' if train.has_several else 'one class'} for each image"
        )
    names: Sequence[str] | None = train.reader.class_names
    if isinstance(train.reader, FolderReader):
        folders = {str(label).lower() for label in train.reader.labels or ()}
        if len(folders) > 1 and folders <= set(SPLIT_WORDS):
            raise ValueError(
                f"data.path: the folders of {data.path!r} are called {', '.join(sorted(folders))}, which are "
                "splits and no classes: name one as --data and another as data.validation="
            )
    columns: Mapping[str, Column] | None = None
    both = None
    if kept is not None and kept.labels is not None:
        names, columns = kept.labels.names, kept.columns
    if names is None and validation is not None and validation.reader is train.reader:
        both = VisionSource(train.reader, [*train.indices, *validation.indices], data)
        both.set_labels(None, f"data.path: {data.path!r}")
        assert both.labels is not None
        names, columns = both.labels.names, both.columns
    train.set_labels(names, f"data.path: {data.path!r}", columns)
    everything = both if both is not None else train
    train.notes += column_notes(everything.values, everything.columns)
    assert train.labels is not None
    if train.labels.kind == "multi":
        check_answers(train.labels)
    if kept is not None:
        train.labels = kept.labels  # with the counts of then
    if validation is not None:
        validation.set_labels(train.labels.names, f"data.validation: {data.validation!r}", train.columns)


def _open_streaming(
    data: config.DataConfig, seed: int, labels: bool
) -> tuple[VisionSource, VisionSource | None]:
    """``VisionDomain.open`` for data.streaming=true."""
    train, validation, other = open_stream(data, seed, labels)
    if other is not None:
        elsewhere = data.model_copy(update={"split": None, "revision": None})
        reader, notes, _ = open_reader(other, elsewhere, "data.validation", labels)
        validation = VisionSource(reader, range(len(reader.ids)), data)
        validation.notes += notes
    if validation is not None:
        first_readable(validation.reader, range(len(validation)), "data.validation", data.path)
    if validation is not None and train.labels is not None:
        validation.set_labels(train.labels.names, f"data.validation: {data.validation!r}")
    train.set_normalization()
    if validation is not None:
        validation.set_normalization(like=train)
    train.reading = unseen.reading_of(train)
    return train, validation


def _open_held_out(
    reader: Reader, data: config.DataConfig, path: str, labels: bool
) -> tuple[Reader, list[str], list[tuple[str, str]]]:
    """What data.validation names: another split of the data set that is trained on, or any other place."""
    if isinstance(reader, TableReader) and path in reader.splits and not Path(path).expanduser().exists():
        if path == reader.split:
            raise ValueError(f"data.validation={path} is the split that is trained on: name another")
        return open_reader(data.path, data.model_copy(update={"split": path}), "data.validation", labels)
    elsewhere = data.model_copy(update={"split": None, "revision": None})
    columns = reader.columns if isinstance(reader, ListedReader) else None
    return open_reader(path, elsewhere, "data.validation", labels, columns)


def _open_validation(
    reader: Reader, data: config.DataConfig, path: str, labels: bool
) -> tuple[VisionSource, VisionSource]:
    """Held-out images from another place; those that lie inside the training folder are not trained on."""
    held_out, notes, unreadable = _open_held_out(reader, data, path, labels)
    first_readable(held_out, range(len(held_out.ids)), "data.validation", path)
    if path in EMBEDDED and path == data.path:
        raise ValueError(
            f"data.validation={path} is the training set itself: give a fraction, another folder, or none"
        )
    chosen = list(range(len(reader.ids)))
    inside = 0
    if isinstance(reader, FolderReader) and isinstance(held_out, FolderReader):
        other = held_out.root.resolve()
        folder = reader.root.resolve()
        if folder.is_relative_to(other):
            raise ValueError(
                f"data.validation={path!r} contains the training folder {data.path!r}: "
                "held-out images must be others"
            )
        if other.is_relative_to(folder):
            prefix = _id_prefix(other, folder)
            chosen = [index for index in chosen if not reader.ids[index].startswith(prefix)]
            inside = len(reader.ids) - len(chosen)
    if isinstance(reader, ListedReader) and isinstance(held_out, ListedReader | FolderReader):
        judged = {os.path.realpath(file) for file in files_of(held_out)}
        chosen = [index for index, file in enumerate(reader.paths) if os.path.realpath(file) not in judged]
        inside = len(reader.ids) - len(chosen)
    if not chosen:
        raise ValueError(
            f"data.validation={path!r} holds every image of {data.path!r}: nothing is left to train on; "
            "give a fraction, another folder, or none"
        )
    train, validation = (
        VisionSource(reader, chosen, data),
        VisionSource(held_out, range(len(held_out.ids)), data),
    )
    if inside:
        train.notes.append(f"{inside:,} images of {path} belong to {data.path} too: held out, not trained on")
    validation.notes += notes
    for name, reason in unreadable:
        validation.skip(name, reason)
    return train, validation


def _id_prefix(inner: Path, outer: Path) -> str:
    return inner.relative_to(outer).as_posix() + "/"
