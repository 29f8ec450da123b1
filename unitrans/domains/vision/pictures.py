"""Draws what was hidden and what was predicted."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from unitrans.domains.base import Sample
from unitrans.domains.sheet import GAP, Sheet
from unitrans.domains.vision.baselines import pixel_mask
from unitrans.nn import unpatchify

HIDDEN_COLOUR = (0.42, 0.52, 0.68)  # a slate blue: hidden areas must not look like grey image content
_INCHES = 1.5  # width of one picture
_TITLE, _CAPTION, _BETWEEN = 0.3, 0.22, 0.2  # inches above all rows, below a row, between two blocks
_DPI = 150


def draw_reconstructions(
    path: Path,
    samples: Sequence[Sample],
    predictions: Sequence[torch.Tensor],
    mean: Sequence[float],
    std: Sequence[float],
    patch_size: int,
) -> None:
    """Writes a PNG with original | masked | predicted for every sample.

    samples: corrupted samples, ``image`` normalised float [C, H, W] and ``mask`` bool [h, w] of patches;
    predictions: one [h*w, C*p*p] tensor each, normalised too. In the third picture visible pixels are the
    original's and hidden ones predicted, clipped to [0, 1]; the caption is the mean |error| per hidden
    value in units of [0, 1], before clipping. Small images are enlarged without smoothing. One channel is
    drawn grey; of more than three, the first three are shown. Where the originals fill less than half of [0, 1]
    (satellite images, microscopy), the contrast of all pictures is stretched by the same amount and the title says so.
    """
    if not samples or len(samples) != len(predictions):
        raise ValueError(
            f"expected one prediction for each of at least one sample, got {len(samples)} samples and "
            f"{len(predictions)} predictions"
        )
    blocks = 2 if len(samples) > 3 else 1
    rows = math.ceil(len(samples) / blocks)
    side, high = _INCHES, _INCHES * samples[0]["image"].shape[-2] / samples[0]["image"].shape[-1]
    wide, tall = 3 * (side + GAP), high + _CAPTION
    sheet = Sheet(blocks * wide + (blocks - 1) * _BETWEEN + GAP, rows * tall + _TITLE + GAP, _DPI)
    hidden = float(np.mean([float(torch.as_tensor(sample["mask"]).float().mean()) for sample in samples]))
    drawn = [_triple(*pair, mean, std, patch_size) for pair in zip(samples, predictions, strict=True)]
    low, up = _contrast([pictures[0] for pictures, _ in drawn])
    original = "original" if (low, up) == (0, 1) else f"original ({low:.2f} - {up:.2f})"
    titles = (original, f"masked ({hidden:.0%} hidden)", "predicted")

    def left(block: int, column: int) -> float:
        return GAP + block * (wide + _BETWEEN) + column * (side + GAP)

    for block in range(blocks):
        for column, title in enumerate(titles):
            sheet.text(
                left(block, column) + side / 2, _TITLE - 0.04, title, 8.5, below=False, fontweight="bold"
            )
    for index, (pictures, error) in enumerate(drawn):
        block, row = divmod(index, rows)
        top = _TITLE + row * tall
        stretched = [np.clip((picture - low) / (up - low), 0, 1) for picture in pictures]
        mask = pixel_mask(torch.as_tensor(samples[index]["mask"]).cpu(), patch_size).numpy()
        stretched[1][mask] = HIDDEN_COLOUR
        for column, picture in enumerate(stretched):
            sheet.picture(picture, left(block, column), top, side, high)
        sheet.text(left(block, 2) + side / 2, top + high + 0.03, f"L1 {error:.3f}", 7.5, below=True)
    sheet.save(path)


def _contrast(originals: Sequence[np.ndarray]) -> tuple[float, float]:
    """What is drawn as black and as white: (0, 1), or the range of all originals where it is less than half of that."""
    values = np.concatenate([picture.ravel() for picture in originals])
    low, high = (float(value) for value in np.percentile(values, (0.5, 99.5)))
    return (low, high) if 0 < high - low < 0.5 else (0.0, 1.0)


def _triple(
    sample: Sample, prediction: torch.Tensor, mean: Sequence[float], std: Sequence[float], patch_size: int
) -> tuple[list[np.ndarray], float]:
    """RGB pictures [H, W, 3] in [0, 1]: original, masked, predicted; and the error of the prediction."""
    shift, scale = (torch.tensor(list(values)).view(-1, 1, 1) for values in (mean, std))
    original = sample["image"].float().cpu() * scale + shift
    mask = torch.as_tensor(sample["mask"]).cpu()
    grid = (int(mask.shape[0]), int(mask.shape[1]))
    guess = unpatchify(prediction.detach().float().cpu(), grid, patch_size, len(original)) * scale + shift
    hidden = pixel_mask(mask, patch_size)
    error = float((guess - original).abs()[:, hidden].mean()) if hidden.any() else 0.0
    predicted = torch.where(hidden, guess, original)
    masked = rgb_picture(original)
    masked[hidden.numpy()] = HIDDEN_COLOUR
    return [rgb_picture(original), masked, rgb_picture(predicted)], error


def rgb_picture(image: torch.Tensor) -> Any:
    """[C, H, W] to a fresh float array [H, W, 3] in [0, 1]."""
    image = image[:3] if len(image) >= 3 else image[:1].repeat(3, 1, 1)
    return image.clamp(0, 1).permute(1, 2, 0).numpy().copy()
