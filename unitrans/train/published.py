"""Weights of images that no run of this program wrote, as what vectors are taken from."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch

from unitrans.domains.vision.config import IMAGENET_MEAN, IMAGENET_STD
from unitrans.models.images import ImageEncoder
from unitrans.train.errors import ConfigError
from unitrans.train.loading import encoder_of, is_run, load

CROP = 0.875  # of the side, as published models up to 256 px are judged


def is_published(path: Path) -> bool:
    """Whether these are weights beside which nothing says how samples are read."""
    weights = any((path / name).is_file() for name in ("model.safetensors", "pytorch_model.bin"))
    return path.is_file() or (weights and not is_run(path))


def published(name: str, image_size: int | None = None) -> tuple[Any, str]:
    """What `Trained` needs of a model (encoder, config, parameters), and a sentence about how images are read.

    Raises:
        ConfigError: weights that cannot be read, or of texts or graphs.
    """
    try:
        size: dict[str, Any] = {} if image_size is None else {"image_size": image_size}
        model = load(name, **size)
    except ValueError as error:
        hint = (
            "; unitrans convert SRC DIR KEY=VALUE writes a folder that knows it"
            if "do not tell" in str(error)
            else ""
        )
        raise ConfigError(f"--checkpoint {error}{hint}") from None
    encoder: Any = encoder_of(model)
    if not isinstance(encoder, ImageEncoder):
        raise ConfigError(
            f"--checkpoint {name}: weights of a {type(model).__name__}, which do not say how samples are read, as only "
            f"checkpoints of unitrans train do: start one with unitrans train --init {name}"
        )
    reading = _reading(Path(name).expanduser(), encoder.config)
    config = SimpleNamespace(
        encoder_config=encoder.config, objective=type(model).__name__, labels=None, reading=reading
    )
    moved: Any = encoder  # mypy knows another `to`
    moved.to("cuda" if torch.cuda.is_available() else "cpu")
    note = (
        f"{name} is no run of this program: images are read at {reading['image_size'][0]} x {reading['image_size'][1]} "
        f"px, the middle {reading['eval_crop']:g} of the side, with mean {reading['mean']} and std {reading['std']}"
    )
    return SimpleNamespace(encoder=encoder, config=config, parameters=encoder.parameters), note


def _reading(path: Path, config: Any) -> dict[str, Any]:
    """How published models read images; mean and std by preprocessor_config.json where there is one."""
    try:
        told = json.loads((path / "preprocessor_config.json").read_text(encoding="utf-8"))
        mean, std = list(map(float, told["image_mean"])), list(map(float, told["image_std"]))
    except (OSError, ValueError, KeyError, TypeError):
        mean, std = list(IMAGENET_MEAN), list(IMAGENET_STD)
    if len(mean) != config.in_chans:
        raise ConfigError(
            f"--checkpoint {path}: it takes {config.in_chans} channels, and nothing says by which mean and std"
        )
    size = [side * config.patch_size for side in config.grid]
    return {
        "domain": "vision",
        "image_size": size,
        "channels": config.in_chans,
        "value_range": "dtype",
        "eval_crop": CROP if max(size) <= 256 else 1.0,
        "eval_fit": "crop",
        "mean": mean,
        "std": std,
    }
