"""The ``data`` section of a vision run."""

from __future__ import annotations

import math
import re
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from unitrans.data.labels import check_columns, check_separator
from unitrans.data.table import DELIMITER, ENCODING, HEADER, MISSING

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
MAX_PIXELS = 120_000_000

Size = Annotated[int, Field(gt=0)]


class DataConfig(BaseModel):
    """Where the images are and how they become arrays of one size, in [0, 1] before mean and std."""

    model_config = ConfigDict(extra="forbid")

    path: str = Field(
        "digits",
        min_length=1,
        description="A folder of images (any depth, any size and mode); a table that lists them (.csv or .tsv, .gz "
        "too: a column of files, and columns of labels); a data set saved by Hugging Face datasets; a parquet file or "
        "a folder of them; the name of an embedded data set (digits); or a data set of the hub (NAME, OWNER/NAME or "
        "OWNER/NAME:CONFIG). An embedded name wins over a folder of the same name (write ./digits for "
        "the folder), a folder over the hub.",
    )
    split: str | None = Field(
        None, description="Which split of a data set is trained on. null: train, or the only one."
    )
    image_column: str | None = Field(
        None,
        description="The column with the images, where a data set has several, or with the files, in a table that "
        "lists them. null: the only one, or one named image, path, file or filename.",
    )
    image_folder: str | None = Field(
        None,
        description="Where the files that a table names start. null: in the folder of the table.",
    )
    label_column: str | list[str] | None = Field(
        None,
        description="Supervised training: the column with the class. Several columns, as [cat, dog]: yes (1), no (0) "
        "or empty (not known) for each. null: the only one of type ClassLabel, or one named label. In a folder of "
        "images the first folder of a path names the class.",
    )
    label_separator: str | None = Field(
        None,
        min_length=1,
        description="What stands between classes in a cell of the label column where several may hold, as ';' in "
        "'cat;dog'. An empty cell is a missing label; the separator alone says that none holds.",
    )
    delimiter: str | None = DELIMITER
    header: bool | None = HEADER
    encoding: str = ENCODING
    missing: list[str] | None = MISSING
    revision: str | None = Field(
        None, description="Commit, tag or branch of a data set of the hub. null: its newest commit."
    )
    streaming: bool = Field(
        False,
        description="true: parquet files and data sets of the hub are read from front to back instead of being "
        "downloaded and unpacked first.",
    )
    shuffle_buffer: int = Field(
        1000,
        ge=1,
        description="Streaming: images among which the next one is drawn; encoded, in the memory of every process.",
    )
    stream_samples: int | None = Field(
        None,
        ge=1,
        description="Streaming: rows of the data set, where it does not say so itself. It sets the length of an epoch "
        "in train.num_train_epochs and in the log, nothing else.",
    )
    stream_validation_samples: int = Field(
        500,
        ge=1,
        description="Streaming: how many of the held-out images are kept in memory and judged; the others are left "
        "out of training all the same.",
    )
    validation: float | str = Field(
        0.05,
        description="What is held out: a fraction of the images (chosen by a hash of the id, so adding files "
        "moves no other), another split of the same data set, anything that data.path takes, or none.",
    )
    group: str | None = Field(
        None,
        description="Keeps related images on one side when a fraction is held out: 'parent' (the folder a "
        "file lies in) or a regular expression on the id whose first group names the unit, for example "
        "'(patient[0-9]+)'. null: each image by itself.",
    )
    channels: int = Field(
        3,
        ge=1,
        description="Channels of every image: 1 (luminance), 3 (colour), 4 (colour and alpha; opaque where "
        "a file has none) or N (files must have N; .npy arrays of shape [H, W, N]). Must equal model.in_chans.",
    )
    value_range: Literal["dtype", "percentile"] | tuple[float, float] = Field(
        "dtype",
        description="What becomes 0 and 1. dtype: divide by the largest value of the stored integer type "
        "(float images must be in [0, 1]); percentile: 0.5 % to 99.5 % of each image; [lo, hi]: clip to "
        "these stored values, for example [0, 4095] for 12-bit scans.",
    )
    max_pixels: int = Field(
        MAX_PIXELS,
        ge=1,
        description="Images of more pixels are left out before they are decoded, which takes 14 bytes a pixel and "
        "more. Pillow decodes none of more than 178,956,970; .npy files and the TIFF files that tifffile reads may be "
        "larger.",
    )
    image_size: Size | tuple[Size, Size] = Field(
        192, description="Height and width in pixels the model sees: one number, or [height, width]."
    )
    mean: Literal["auto", "imagenet"] | list[float] = Field(
        "auto",
        description="Subtracted per channel: a list, imagenet (3 channels), or auto (computed over the "
        "training images).",
    )
    std: Literal["auto", "imagenet"] | list[float] = Field(
        "auto", description="Divided by, per channel: a list, imagenet, or auto, as for mean."
    )
    crop_scale: tuple[float, float] | None = Field(
        (0.67, 1.0),
        description="Training takes a random crop of this fraction of the image's area and resizes it. "
        "null: the centre crop that held-out images get.",
    )
    crop_ratio: tuple[float, float] = Field(
        (3 / 4, 4 / 3), description="Range of width / height of the random crop."
    )
    flip: bool = Field(True, description="Training mirrors half of the images left to right.")
    eval_crop: float = Field(
        1.0,
        gt=0,
        le=1,
        description="Held-out images are cut to this part of the largest centred box, on each side (0.875 in the "
        "recipes at 224 px).",
    )
    eval_fit: Literal["crop", "stretch"] = Field(
        "crop",
        description="Held-out images of another shape: crop takes the largest centred box of the shape of image_size; "
        "stretch takes all of the image and distorts it (the published evaluation at 384 px).",
    )
    rand_augment: float = Field(
        0.0,
        ge=0,
        le=10,
        description="Supervised training: magnitude of RandAugment, two operations an image (9 in the recipes of "
        "Swin). 0: off.",
    )
    rand_augment_std: float = Field(0.5, ge=0, description="Standard deviation of that magnitude.")
    random_erase: float = Field(
        0.0,
        ge=0,
        le=1,
        description="Supervised training: this part of the images gets a rectangle of noise.",
    )
    mixup: float = Field(
        0.0,
        ge=0,
        description="Supervised training: images and labels of a batch are blended by a factor drawn from "
        "Beta(mixup, mixup). 0: off. With cutmix too, chance decides for every batch.",
    )
    cutmix: float = Field(
        0.0,
        ge=0,
        description="Supervised training: a rectangle is taken from another image of the batch, its share drawn from "
        "Beta(cutmix, cutmix), and labels are blended likewise. 0: off.",
    )

    @field_validator("validation", mode="before")
    @classmethod
    def _number_or_name(cls, value: Any) -> Any:
        """A fraction may arrive as text ("0.1"), as it does from a command line."""
        if isinstance(value, str):
            percent = re.fullmatch(r"([0-9.]+) ?%", value)
            if percent:
                raise ValueError(f"expected a fraction in [0, 1), got {value}: write 5 % as 0.05")
            try:
                return float(value)
            except ValueError:
                return value
        return value

    @field_validator("validation")
    @classmethod
    def _fraction(cls, value: float | str) -> float | str:
        if isinstance(value, float) and not 0 <= value < 1:
            raise ValueError(
                f"expected a fraction of the images in [0, 1), a folder, or none, got {value:g}"
                + (f"; for {value:g} % write {value / 100:g}" if 1 <= value < 100 else "")
            )
        if value == "":
            raise ValueError("expected a fraction of the images in [0, 1), a folder, or none, got nothing")
        return value

    @field_validator("value_range", "crop_ratio", "crop_scale")
    @classmethod
    def _ordered(cls, value: Any, info: Any) -> Any:
        if value is None or isinstance(value, str):
            return value
        low, high = value
        if not (math.isfinite(low) and math.isfinite(high)) or low > high:
            raise ValueError(f"expected [low, high] with low <= high, both finite, got [{low:g}, {high:g}]")
        if info.field_name == "value_range" and low == high:
            raise ValueError(f"expected two different values, got [{low:g}, {high:g}]")
        if info.field_name == "crop_ratio" and low <= 0:
            raise ValueError(f"expected positive ratios of width to height, got [{low:g}, {high:g}]")
        if info.field_name == "crop_scale" and not 0 < low <= high <= 1:
            raise ValueError(
                f"expected fractions of the image's area in (0, 1], got [{low:g}, {high:g}]; "
                "null turns it off"
            )
        return value

    @field_validator("label_column")
    @classmethod
    def _columns(cls, value: str | list[str] | None) -> str | list[str] | None:
        return check_columns(value)

    @model_validator(mode="after")
    def _one_way(self) -> DataConfig:
        check_separator(self.label_column, self.label_separator)
        return self

    @model_validator(mode="after")
    def _per_channel(self) -> DataConfig:
        for name in ("mean", "std"):
            value = getattr(self, name)
            if value == "imagenet" and self.channels != 3:
                raise ValueError(
                    f"data.{name}=imagenet has 3 channels, data.channels is {self.channels}: "
                    f"use auto or a list of {self.channels}"
                )
            if isinstance(value, list):
                if len(value) != self.channels:
                    raise ValueError(
                        f"data.{name} has {len(value)} values, data.channels is {self.channels}: "
                        "give one per channel"
                    )
                if not all(math.isfinite(x) and (name == "mean" or x > 0) for x in value):
                    raise ValueError(
                        f"data.{name} must be finite"
                        + (" and positive" if name == "std" else "")
                        + f", got {value}"
                    )
        return self

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) of the images the model sees."""
        return (self.image_size, self.image_size) if isinstance(self.image_size, int) else self.image_size
