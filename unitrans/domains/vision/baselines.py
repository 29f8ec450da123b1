"""Simple predictors of hidden pixels. A model that has learnt anything must beat the first four.

All errors are the mean |difference| per hidden value (pixels x channels, over all held-out images
together), in data units: [0, 1], before mean and std. Predictors are fitted on the training images as
held-out images are prepared (centre crop, no mirroring) and judged on the same images with the same masks
as the model.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch

from unitrans.domains.base import Baseline

Masked = Iterator[tuple[torch.Tensor, torch.Tensor]]  # image [C, H, W] in [0, 1]; mask bool [h, w] of patches

MAX_TRAIN_IMAGES = 10_000  # more take minutes and hardly change the figures
MAX_STORED_VALUES = 2**26  # for the median: 256 MiB of float32
MAX_COVARIANCE_VALUES = 2**24  # for the covariance: 128 MiB of float64, and a few copies of it
MAX_GAUSSIAN_VALUES = 4096  # per image; the covariance has the square of it
MAX_GAUSSIAN_FLOPS = 1e12  # about a minute on two cores


class TrainImages(Protocol):
    def __len__(self) -> int: ...

    def unit_images(self, limit: int | None = None) -> Iterator[torch.Tensor]: ...


@dataclass
class Statistics:
    """mean: float64 [C, H, W], exact over ``count`` images; stored: float32 [n, C, H, W], evenly spaced among
    them."""

    mean: torch.Tensor
    count: int
    stored: torch.Tensor


def training_statistics(train: TrainImages, max_images: int = MAX_TRAIN_IMAGES) -> Statistics:
    """One pass over the training images in bounded memory. ValueError if none can be read."""
    total: torch.Tensor | None = None
    stored: list[torch.Tensor] = []
    count, step = 0, 1
    for image in train.unit_images(max_images):
        if total is None:
            total = torch.zeros(image.shape, dtype=torch.float64)
            capacity = max(1, MAX_STORED_VALUES // image.numel())
            step = math.ceil(min(max_images, len(train)) / capacity)
        total += image
        if count % step == 0:
            stored.append(image)
        count += 1
    if total is None:
        raise ValueError("none of the training images can be read: the simple predictors cannot be fitted")
    return Statistics(total / count, count, torch.stack(stored))


def median_image(stored: torch.Tensor) -> torch.Tensor:
    """[C, H, W]: the median over the images [n, C, H, W] (mean of the middle two when n is even)."""
    flat = stored.reshape(len(stored), -1)
    # by columns, because np.median makes a copy of what it is given
    parts = [np.median(part.numpy(), axis=0) for part in torch.split(flat, 4096, dim=1)]
    return torch.from_numpy(np.concatenate(parts)).reshape(stored.shape[1:])


def pixel_mask(mask: torch.Tensor, patch_size: int) -> torch.Tensor:
    """bool [h, w] of patches to bool [h*p, w*p] of pixels."""
    return mask.bool().repeat_interleave(patch_size, 0).repeat_interleave(patch_size, 1)


def nearest_visible(image: torch.Tensor, hidden: torch.Tensor, unit: int) -> torch.Tensor:
    """Fills every hidden unit with the content of the nearest visible one.

    image: [C, H, W]; hidden: bool [H, W], constant in units of ``unit`` x ``unit`` pixels. Distances are
    Euclidean between units; of several nearest the first in row-major order is taken. With nothing visible
    the result is 0.
    """
    _, height, width = image.shape
    units = hidden[::unit, ::unit]
    visible = (~units).nonzero()
    if not len(visible):
        return torch.zeros_like(image)
    cells = torch.cartesian_prod(torch.arange(units.shape[0]), torch.arange(units.shape[1]))
    squared = (cells[:, None] - visible[None]).square().sum(-1)  # integers: ties are exact
    nearest = visible[squared.argmin(1)].reshape(*units.shape, 2)
    y, x = torch.arange(height), torch.arange(width)
    source = nearest[y // unit][:, x // unit]
    rows = (source[..., 0] * unit + (y % unit)[:, None]).clamp_max(height - 1)
    columns = (source[..., 1] * unit + (x % unit)[None]).clamp_max(width - 1)
    return image[:, rows, columns]


def visible_mean(image: torch.Tensor, hidden: torch.Tensor) -> torch.Tensor:
    """[C, 1, 1]: the mean of the visible pixels of this image, per channel (0 with nothing visible)."""
    visible = image[:, ~hidden]
    return (visible.mean(1) if visible.shape[1] else visible.new_zeros(len(image))).view(-1, 1, 1)


class LinearGaussian:
    """The conditional mean E[hidden | visible] of a Gaussian fitted on the training images: the best linear
    predictor. Covariance shrunk towards a multiple of the identity as in Ledoit and Wolf (2004)."""

    def __init__(self, stored: torch.Tensor) -> None:
        from sklearn.covariance import ledoit_wolf

        flat = stored.reshape(len(stored), -1).numpy().astype(np.float64)
        self.mean = flat.mean(0)
        covariance, self.shrinkage = ledoit_wolf(flat)
        # constant data has covariance 0; the floor keeps the solve defined and is far below any real variance
        self.covariance = torch.from_numpy(covariance) + 1e-8 * torch.eye(
            len(covariance), dtype=torch.float64
        )

    def predict(self, image: torch.Tensor, hidden: torch.Tensor) -> torch.Tensor:
        """float64 [C, H, W]: visible pixels kept, hidden ones predicted from exactly the visible ones."""
        values = image.double().flatten()
        mask = hidden.expand(image.shape).flatten()
        mean = torch.from_numpy(self.mean)
        seen = (~mask).nonzero()[:, 0]
        weights = torch.zeros_like(values)
        if len(seen):
            factor = torch.linalg.cholesky(self.covariance[seen[:, None], seen])
            weights[seen] = torch.cholesky_solve((values - mean)[seen, None], factor)[:, 0]
        # one product with the whole matrix is faster than cutting the hidden rows out of it
        out = torch.where(mask, mean + self.covariance @ weights, values)
        return out.reshape(image.shape)


def evaluate(
    train: TrainImages,
    held_out: Callable[[], Masked],
    patch_size: int,
    mask_patch_size: int,
    max_train_images: int = MAX_TRAIN_IMAGES,
) -> list[Baseline]:
    """The five predictors on every image of ``held_out()``.

    mask_patch_size: side in pixels of the units that masks consist of. At most ``max_train_images`` evenly
    spaced training images are read; the notes say how many each figure rests on.
    """
    statistics = training_statistics(train, max_train_images)
    count, stored = f"{statistics.count:,} training images", f"{len(statistics.stored):,} training images"
    constant = {
        "mean image per position": statistics.mean,
        "median image per position": median_image(statistics.stored),
    }
    gaussian, gaussian_note = _gaussian(statistics, held_out)
    sums: dict[str, float] = dict.fromkeys(
        [*constant, "nearest visible patch", "linear-Gaussian conditional mean", "mean of visible pixels"],
        0.0,
    )
    values = 0
    for image, mask in held_out():
        hidden = pixel_mask(mask, patch_size)
        image = image.double()
        guesses = {
            **constant,
            "nearest visible patch": nearest_visible(image, hidden, mask_patch_size),
            "mean of visible pixels": visible_mean(image, hidden),
        }
        if gaussian is not None:
            guesses["linear-Gaussian conditional mean"] = gaussian.predict(image, hidden)
        for name, guess in guesses.items():
            sums[name] += float((image - guess).abs()[:, hidden].sum())
        values += int(hidden.sum()) * len(image)
    if not values:
        raise ValueError("no pixel of the held-out images is hidden: nothing can be predicted")
    notes = dict(zip(sums, [count, stored, "", gaussian_note, ""], strict=True))
    skipped = {"linear-Gaussian conditional mean"} if gaussian is None else set()
    return [Baseline(name, None if name in skipped else sums[name] / values, notes[name]) for name in sums]


def _gaussian(statistics: Statistics, held_out: Callable[[], Masked]) -> tuple[LinearGaussian | None, str]:
    """The fitted predictor and what it was fitted on, or None and the reason in words."""
    size = statistics.mean.numel()
    if size > MAX_GAUSSIAN_VALUES:
        return None, f"skipped: {size:,} values per image, at most {MAX_GAUSSIAN_VALUES:,} are practical"
    if len(statistics.stored) < 2:
        return None, "skipped: it needs at least two training images"
    visible = [int((~mask.bool()).sum()) * size // mask.numel() for _, mask in held_out()]
    flops = sum(n**3 / 3 + n * size for n in visible)
    if flops > MAX_GAUSSIAN_FLOPS:
        return None, f"skipped: {len(visible):,} held-out images of {size:,} values would take minutes"
    step = math.ceil(statistics.stored.numel() / MAX_COVARIANCE_VALUES)
    fitted_on = statistics.stored[::step]
    return LinearGaussian(fitted_on), f"{len(fitted_on):,} training images"
