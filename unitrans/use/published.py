"""Weights of images that no run of this program wrote, as what gives vectors and, where they classify, predictions."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch

from unitrans.domains.vision.config import IMAGENET_MEAN, IMAGENET_STD
from unitrans.domains.vision.processor import PROCESSOR_FILE, crop_of
from unitrans.errors import ConfigError
from unitrans.models.images import ImageEncoder
from unitrans.objectives.base import Labels
from unitrans.stored import read_json
from unitrans.training.loading import encoder_of, is_run, load

CROP = 0.875  # of the side, as published models up to 256 px are judged


def is_published(path: Path) -> bool:
    """Whether these are weights beside which nothing says how samples are read."""
    weights = any((path / name).is_file() for name in ("model.safetensors", "pytorch_model.bin"))
    return path.is_file() or (weights and not is_run(path))


class Published:
    """A model of published weights with what `Trained` uses of the models of runs.

    Attributes:
        encoder: what vectors are taken from.
        config: encoder_config, objective (the name of the model's class), labels (None), reading.
    """

    def __init__(self, name: str, model: Any) -> None:
        encoder: Any = encoder_of(model)
        if not isinstance(encoder, ImageEncoder):
            raise ConfigError(
                f"--checkpoint {name}: weights of a {type(model).__name__}, which do not say how samples are read, as "
                f"only checkpoints of unitrans train do: start one with unitrans train --init {name}"
            )
        self.name, self.model, self.encoder = name, model.eval(), encoder
        self.config = SimpleNamespace(
            encoder_config=encoder.config,
            objective=type(model).__name__,
            labels=None,
            reading=_reading(Path(name).expanduser(), encoder.config),
        )
        model.to("cuda" if torch.cuda.is_available() else "cpu")

    def parameters(self) -> Iterator[torch.nn.Parameter]:
        """Those of the model."""
        return iter(self.model.parameters())

    def batch_keys(self) -> set[str]:
        """What of a batch the model takes."""
        return set(self.encoder.input_names)

    def __call__(self, **inputs: Any) -> SimpleNamespace:
        """prediction: logits float32 [B, classes]."""
        return SimpleNamespace(prediction=self.model(**inputs).logits)

    def labels(self, file: str | None) -> Labels:
        """The classes, by a file with a line for each in the order of their numbers, else by config.json.

        Raises:
            ConfigError: the model is no classifier, or nothing names its classes.
        """
        if "Classification" not in self.config.objective:
            raise ConfigError(
                f"--checkpoint {self.name}: weights of a {self.config.objective}, which predicts no classes: fine-tune "
                f"it first with unitrans train --objective classification --init {self.name} ... (embed and eval "
                "--probe take it as it is)"
            )
        count = int(self.model.config.num_labels)
        names = _told_classes(Path(self.name).expanduser()) if file is None else _listed_classes(file)
        if names is None:
            raise ConfigError(
                f"--checkpoint {self.name}: nothing names its {count:,} classes: expected --classes FILE with a line "
                "for each, in the order of their numbers (for ImageNet: ls train > FILE)"
            )
        if len(names) != count or len(set(names)) != count:
            what = f"--checkpoint {self.name}: its config.json" if file is None else f"--classes {file}"
            raise ConfigError(f"{what}: expected {count:,} different names, got {len(set(names)):,}")
        return Labels("class", tuple(names))


def _listed_classes(file: str) -> list[str]:
    try:
        lines = Path(file).expanduser().read_text(encoding="utf-8").splitlines()
    except (OSError, ValueError) as error:
        raise ConfigError(
            f"--classes {file}: expected a file with the name of a class in every line ({error})"
        ) from None
    return [line.strip() for line in lines if line.strip()]


def _told_classes(path: Path) -> list[str] | None:
    """Names of id2label in config.json; None where there is none, or where they are but numbers."""
    try:
        told = read_json(path / "config.json")["id2label"]
        names = [str(told[str(number)]) for number in range(len(told))]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return None if names == [f"LABEL_{number}" for number in range(len(names))] else names


def published(name: str, image_size: int | None = None) -> tuple[Published, str]:
    """The model of these weights, and a sentence about how images are read.

    Raises:
        ConfigError: weights that cannot be read, or of texts or graphs.
    """
    try:
        size: dict[str, Any] = {} if image_size is None else {"image_size": image_size}
        loaded = load(name, **size)
    except ValueError as error:
        hint = (
            "; unitrans convert SRC DIR KEY=VALUE writes a folder that knows it"
            if "do not tell" in str(error)
            else ""
        )
        raise ConfigError(f"--checkpoint {error}{hint}") from None
    model = Published(name, loaded)
    reading = model.config.reading
    return model, (
        f"{name} is no run of this program: images are read at {reading['image_size'][0]} x {reading['image_size'][1]} "
        f"px, the middle {reading['eval_crop']:g} of the side, with mean {reading['mean']} and std {reading['std']}"
    )


def _reading(path: Path, config: Any) -> dict[str, Any]:
    """How published models read images; by preprocessor_config.json where there is one."""
    crop = None
    try:
        told = read_json(path / PROCESSOR_FILE)
        mean, std = list(map(float, told["image_mean"])), list(map(float, told["image_std"]))
        crop = crop_of(told)
    except (OSError, ValueError, KeyError, TypeError):
        mean, std = list(IMAGENET_MEAN), list(IMAGENET_STD)
    if len(mean) != config.in_chans:
        raise ConfigError(
            f"--checkpoint {path}: it takes {config.in_chans} channels, and nothing says by which mean and std"
        )
    size = [side * config.patch_size for side in config.grid]
    usual = {"eval_crop": CROP if max(size) <= 256 else 1.0, "eval_fit": "crop"}
    return {
        "domain": "vision",
        "image_size": size,
        "channels": config.in_chans,
        "value_range": "dtype",
        **(crop or usual),
        "mean": mean,
        "std": std,
    }
