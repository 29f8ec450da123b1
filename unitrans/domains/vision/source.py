"""Map-style data sets of images: a folder, a table, or embedded in a dependency."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from PIL import Image

from unitrans.data.columns import Column
from unitrans.data.files import is_pipe
from unitrans.data.labels import label_columns
from unitrans.data.sources import is_table
from unitrans.domains.base import Sample, Source
from unitrans.domains.places import settled
from unitrans.domains.vision.augment import mix, rand_augment, random_erase
from unitrans.domains.vision.config import IMAGENET_MEAN, IMAGENET_STD, DataConfig
from unitrans.domains.vision.datasets import open_hub, open_table
from unitrans.domains.vision.labels import answered, class_labels, folder_label, numbered
from unitrans.domains.vision.listing import ListedReader, is_listing, open_listing
from unitrans.domains.vision.reading import BrokenImageError, ValueRange, find_images, pages_of, read_image
from unitrans.domains.vision.transforms import centre_box, crop_resize, random_box

PROBED_TIFFS = 16  # looked at for pages
MAX_STATISTICS_IMAGES = 2000  # read to compute mean and std; their error is then far below 1 % of the std


class Reader(Protocol):
    """Names images and reads them; raises BrokenImageError for one that cannot be used.

    labels: the class of every image (None: it has none), or None where classes are not known or were not asked for. Of
    several classes an image a list of those that hold, or {column: cell}. columns: how cells are read; {}: as
    they show.
    class_names: the classes, where the data set declares them.
    """

    ids: list[str]
    class_names: list[str] | None
    columns: Mapping[str, Column]

    @property
    def labels(self) -> Sequence[Any] | None: ...

    def read(self, index: int) -> torch.Tensor: ...


@dataclass
class FolderReader:
    """Images below ``root``; ``paths[i]`` is relative to it, ``ids[i]`` is its printable name."""

    root: Path
    ids: list[str]
    paths: list[str]
    channels: int
    value_range: ValueRange
    max_pixels: int
    class_names: list[str] | None = None
    columns: Mapping[str, Column] = field(default_factory=lambda: {"folder": Column("folder", "text")})

    @property
    def labels(self) -> list[Any]:
        """The first folder of every path."""
        return [folder_label(name) for name in self.ids]

    def read(self, index: int) -> torch.Tensor:
        path = self.root / self.paths[index]
        return read_image(path, self.channels, self.value_range, self.max_pixels)


@dataclass
class ArrayReader:
    """Images in memory: ``images`` float32 [n, C, H, W] in [0, 1]."""

    ids: list[str]
    images: torch.Tensor
    channels: int
    labels: list[Any] | None
    class_names: list[str] | None = None
    columns: Mapping[str, Column] = field(default_factory=dict)

    def read(self, index: int) -> torch.Tensor:
        image = self.images[index]
        return image if image.shape[0] == self.channels else image.expand(self.channels, -1, -1).contiguous()


def _digits() -> tuple[torch.Tensor, list[Any]]:
    """scikit-learn's handwritten digits: 1797 grey images of 8 x 8 px, stored as 0 .. 16, and which digits they are."""
    from sklearn.datasets import load_digits

    digits = load_digits()
    return torch.from_numpy(digits.images.astype(np.float32) / 16.0).unsqueeze(1), digits.target.tolist()


EMBEDDED: dict[str, Callable[[], tuple[torch.Tensor, list[Any]]]] = {"digits": _digits}


class VisionSource(Source):
    """Images of one side of the split, read one by one.

    ``source[i]`` is {"id": str, "image": float32 [C, H, W] in [0, 1], any size} and, after ``set_labels``, "label",
    or None if the file turned out to be broken; ``skipped`` then names it. ``augment`` makes it what the model sees.
    mean, std: one value per channel. reading: of the training source; see `unseen.reading_of`.
    """

    def __init__(self, reader: Reader, indices: Sequence[int], data: DataConfig) -> None:
        self.reader = reader
        self.indices = list(indices)
        self.data = data
        super().__init__([reader.ids[index] for index in self.indices])
        self.mean = [0.0] * data.channels
        self.std = [1.0] * data.channels
        self.columns: Mapping[str, Column] = {}  # of the labels
        self._numbers: list[Any] = []  # of every sample its class, or float32 [K] of answers

    def load(self, index: int) -> Sample | None:
        """Reads one image; see the class."""
        try:
            image = self.reader.read(self.indices[index])
        except BrokenImageError as error:
            self.skip(self.ids[index], str(error))
            return None
        sample = {"id": self.ids[index], "image": image}
        return sample | {"label": self._numbers[index]} if self._numbers else sample

    def class_numbers(self) -> list[int]:
        """The class of every sample."""
        return list(self._numbers)

    def file(self, index: int) -> Path | None:
        """The file of an image that lies in one."""
        reader, place = self.reader, self.indices[index]
        if isinstance(reader, FolderReader):
            return reader.root / reader.paths[place]
        return reader.paths[place] if isinstance(reader, ListedReader) else None

    def augment(self, sample: Sample, rng: np.random.Generator, training: bool) -> Sample:
        """The sample with ``image`` float32 [C, *data.size], normalised. In training a random crop, mirroring,
        RandAugment and erasing drawn from ``rng`` alone; otherwise, or where the config turns them off, the centre
        crop (no randomness).
        """
        data, image = self.data, self._geometry(sample["image"], rng if training else None)
        if training and data.rand_augment:
            image = rand_augment(image, data.rand_augment, rng, std=data.rand_augment_std, fill=self.mean)
        mean = torch.tensor(self.mean).view(-1, 1, 1)
        std = torch.tensor(self.std).view(-1, 1, 1)
        image = (image - mean) / std
        if training and data.random_erase and rng.random() < data.random_erase:
            image = random_erase(image, rng)
        return {**sample, "image": image}

    def mix(self, samples: list[Sample], rng: np.random.Generator) -> list[Sample]:
        """The samples of a training batch, blended as data.mixup and data.cutmix say."""
        data = self.data
        if self.labels is None or not (data.mixup or data.cutmix):
            return samples
        return mix(samples, len(self.labels.names), rng, mixup=data.mixup, cutmix=data.cutmix)

    def unit_image(self, sample: Sample) -> torch.Tensor:
        """What held-out images look like before mean and std: float32 [C, *data.size] in [0, 1]."""
        return self._geometry(sample["image"], None)

    def _geometry(self, image: torch.Tensor, rng: np.random.Generator | None) -> torch.Tensor:
        height, width = image.shape[-2:]
        size = self.data.size
        if rng is not None and self.data.crop_scale is not None:
            box = random_box(height, width, self.data.crop_scale, self.data.crop_ratio, rng)
        else:
            aspect = width / height if self.data.eval_fit == "stretch" else size[1] / size[0]
            box = centre_box(height, width, aspect, self.data.eval_crop)
        image = crop_resize(image, box, size)
        if rng is not None and self.data.flip and rng.random() < 0.5:
            image = image.flip(-1)
        return image

    def set_labels(
        self, names: Sequence[str] | None, where: str, columns: Mapping[str, Column] | None = None
    ) -> None:
        """Gives every sample its class, or its answers. ValueError for a sample without any.

        Args:
            names: the classes, None to find them.
            where: in messages.
            columns: how the cells of the training data are read; None: these are the training data.
        """
        if self.reader.labels is None:
            raise ValueError(f"{where} has no classes")
        values = self.values
        self.columns = columns or self.reader.columns or label_columns(values, None, self.data.missing)
        if self.has_several:
            self._numbers, self.labels = answered(values, self.ids, names, where, self.columns)
            return
        column = next(iter(self.columns.values()), None)
        self._numbers, found = numbered(values, self.ids, names, where, column)
        self.labels = class_labels(found, self._numbers)

    @property
    def values(self) -> list[Any]:
        """The cells that say what every sample is, as they were read."""
        labels = self.reader.labels
        return [] if labels is None else [labels[index] for index in self.indices]

    @property
    def has_several(self) -> bool:
        """Whether several classes may hold for one image."""
        first = next((value for value in self.reader.labels or () if value is not None), None)
        return isinstance(first, list | dict)

    def set_normalization(self, like: VisionSource | None = None) -> None:
        """Resolves data.mean and data.std into numbers, those of ``like`` or of this source's images."""
        if like is not None:
            self.mean, self.std = like.mean, like.std
            return
        mean, std = self.data.mean, self.data.std
        if mean == "auto" or std == "auto":
            auto_mean, auto_std, count = self._statistics()
            mean = auto_mean if mean == "auto" else mean
            std = auto_std if std == "auto" else std
            self.notes.append(
                f"mean {_numbers(auto_mean)} and std {_numbers(auto_std)} "
                f"computed over {count:,} training images"
            )
        self.mean = list(IMAGENET_MEAN) if isinstance(mean, str) else mean
        self.std = list(IMAGENET_STD) if isinstance(std, str) else std

    def _statistics(self) -> tuple[list[float], list[float], int]:
        """Mean and std per channel over at most MAX_STATISTICS_IMAGES images, evenly spaced, and how many."""
        count = 0
        total, squares = torch.zeros(2, self.data.channels, dtype=torch.float64)
        for image in self.unit_images(MAX_STATISTICS_IMAGES):
            values = image.double().flatten(1)
            total, squares, count = total + values.mean(1), squares + values.square().mean(1), count + 1
        if not count:
            raise ValueError(
                "data.mean=auto: none of the training images can be read; give mean and std as numbers"
            )
        mean = total / count
        variance = (squares / count - mean.square()).clamp_min(0)
        std = torch.where(variance > 1e-8, variance.sqrt(), 1.0)  # a constant channel is left as it is
        return [round(x, 6) for x in mean.tolist()], [round(x, 6) for x in std.tolist()], count

    def unit_images(self, limit: int | None = None) -> Iterator[torch.Tensor]:
        """``unit_image`` of every readable sample, or of at most ``limit`` evenly spaced ones."""
        return (self.unit_image(sample) for sample in self.readable(limit))

    def readable(self, limit: int | None = None) -> Iterator[Sample]:
        """Every sample that can be read, or at most ``limit`` evenly spaced ones."""
        count = len(self) if limit is None else min(limit, len(self))
        for index in np.linspace(0, len(self) - 1, count).round().astype(int).tolist():
            sample = self.load(index)
            if sample is not None:
                yield sample


def _numbers(values: Sequence[float]) -> str:
    return "[" + ", ".join(f"{value:.3f}" for value in values) + "]"


def open_reader(
    path: str,
    data: DataConfig,
    key: str,
    labels: bool = False,
    columns: Mapping[str, Column] | None = None,
) -> tuple[Reader, list[str], list[tuple[str, str]]]:
    """The reader of what ``path`` names, sentences to show, and (name, reason) of what is left out.

    In this order: an embedded data set; a file or folder of this machine (a saved data set, images, parquet files, a
    table that lists images); a data set of the hub. ``key`` names the option in errors; labels: whether classes are
    wanted; columns: how their cells are read, as a run has kept it. ValueError in one sentence if there is nothing to
    read."""
    if path in EMBEDDED:
        images, values = EMBEDDED[path]()
        if images.shape[1] != data.channels and images.shape[1] != 1:
            raise ValueError(
                f"{path} has {images.shape[1]} channels, data.channels is {data.channels}: set it to that"
            )
        digits = len(str(len(images) - 1))
        ids = [f"{path}/{index:0{digits}}" for index in range(len(images))]
        return ArrayReader(ids, images, data.channels, values), [], []
    root = Path(os.path.expanduser(path))  # an unknown ~user is left as it is and not found
    try:
        if not root.exists():
            return *open_hub(path, data, key, EMBEDDED, labels), []
        root = settled(root, key)
        if is_table(root):
            return *open_table(root, path, data, key, labels), []
        if not root.is_dir() and (is_listing(root) or is_pipe(root)):
            listed, sentences = open_listing(root, data, key, labels, columns)
            return listed, sentences, listed.left_out
        if not root.is_dir():
            raise ValueError(
                f"{key}: {path!r} is a file, expected a folder of images, a table that lists them (.csv, .tsv) or a "
                ".parquet file: name the folder it is in"
            )
        os.scandir(root).close()
    except OSError as error:
        raise ValueError(f"{key}: the folder {path!r} cannot be read: {error.strerror}") from None
    listing = find_images(root)
    unlisted = [(f"{name}/", f"folder cannot be listed: {reason}") for name, reason in listing.unreadable]
    if not listing.ids and ".parquet" in listing.ignored:
        return *open_table(root, path, data, key, labels), unlisted
    if not listing.ids:
        raise ValueError(f"{key}: there is no image in {path!r}{_found_instead(listing.ignored)}")
    notes = []
    if listing.ignored:
        kinds = ", ".join(f"{suffix} ({count:,})" for suffix, count in listing.ignored.most_common(6))
        count = listing.ignored.total()
        files = "1 file that is not an image" if count == 1 else f"{count:,} files that are not images"
        notes.append(f"ignored {files} in {path}: {kinds}")
    notes += _unread_pages(root, listing.paths, data.channels)
    reader = FolderReader(root, listing.ids, listing.paths, data.channels, data.value_range, data.max_pixels)
    return reader, notes, unlisted


def _unread_pages(root: Path, paths: Sequence[str], channels: int) -> list[str]:
    """A note if one of the first TIFF files has pages that will not be read."""
    tiffs = [path for path in paths if path.lower().endswith((".tif", ".tiff"))]
    for path in tiffs[:PROBED_TIFFS]:
        try:
            with Image.open(root / path) as file:
                pages = pages_of(file)
        except Exception:  # damaged, or a layout for tifffile: what is wrong with it is told when it is read
            continue
        if pages not in (1, channels):
            return [
                f"{path} has {pages} pages: the first page of each file is read (data.channels={pages} takes grey "
                "pages as channels; to train on each page, save them as files)"
            ]
    return []


def _found_instead(ignored: Counter[str]) -> str:
    if not ignored:
        return ": it is empty; name a folder with .jpg, .png, .tif, ... files at any depth"
    kinds = ", ".join(suffix for suffix, _ in ignored.most_common(4))
    return (
        f": it holds only other files ({kinds}); name a folder with .jpg, .png, .tif, ... files at any depth"
    )


def first_readable(reader: Reader, indices: Sequence[int], key: str, path: str) -> None:
    """Reads until one image is good, so that a config that does not fit the data, or a folder of broken
    files, is told before a run starts. ValueError if none can be read."""
    first = ""
    for index in indices:
        try:
            reader.read(index)
            return
        except BrokenImageError as error:
            first = first or f"{reader.ids[index]}: {error}"
    count = f"none of the {len(indices):,} images" if len(indices) > 1 else "the only image"
    raise ValueError(f"{key}: {count} in {path!r} can be read ({first}); check the files and data.channels")
