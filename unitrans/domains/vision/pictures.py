"""Draws what was hidden and what was predicted."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from unitrans.domains.base import Sample
from unitrans.domains.vision.baselines import pixel_mask
from unitrans.nn import unpatchify

HIDDEN_COLOUR = (0.42, 0.52, 0.68)  # a slate blue: hidden areas must not look like grey image content
_INCHES = 1.5  # side of one picture
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
    aspect = samples[0]["image"].shape[-2] / samples[0]["image"].shape[-1]
    figsize = (blocks * 3 * (_INCHES + 0.1) + 0.2, rows * (_INCHES * aspect + 0.22) + 0.4)
    figure = Figure(figsize=figsize, dpi=_DPI, layout="constrained")
    FigureCanvasAgg(figure)
    # a narrow empty column keeps the two blocks apart
    widths = [1, 1, 1, 0.1, 1, 1, 1][: 4 * blocks - 1]
    axes = figure.subplots(rows, len(widths), squeeze=False, width_ratios=widths)
    for axis in axes.flat:
        axis.set_axis_off()
    hidden = float(np.mean([float(torch.as_tensor(sample["mask"]).float().mean()) for sample in samples]))
    drawn = [_triple(*pair, mean, std, patch_size) for pair in zip(samples, predictions, strict=True)]
    low, high = _contrast([pictures[0] for pictures, _ in drawn])
    original = "original" if (low, high) == (0, 1) else f"original ({low:.2f} - {high:.2f})"
    for block in range(blocks):
        for column, title in enumerate((original, f"masked ({hidden:.0%} hidden)", "predicted")):
            axes[0, 4 * block + column].set_title(title, fontsize=8.5, fontweight="bold")
    for index, (pictures, error) in enumerate(drawn):
        block, row = divmod(index, rows)
        stretched = [np.clip((picture - low) / (high - low), 0, 1) for picture in pictures]
        mask = pixel_mask(torch.as_tensor(samples[index]["mask"]).cpu(), patch_size).numpy()
        stretched[1][mask] = HIDDEN_COLOUR
        _draw_row(list(axes[row, 4 * block : 4 * block + 3]), stretched, error)
    figure.savefig(path)


def _contrast(originals: Sequence[np.ndarray]) -> tuple[float, float]:
    """What is drawn as black and as white: (0, 1), or the range of all originals where it is less than half of that."""
    values = np.concatenate([picture.ravel() for picture in originals])
    low, high = (float(value) for value in np.percentile(values, (0.5, 99.5)))
    return (low, high) if 0 < high - low < 0.5 else (0.0, 1.0)


def _draw_row(axes: Sequence[Axes], pictures: Sequence[np.ndarray], error: float) -> None:
    for axis, picture in zip(axes, pictures, strict=True):
        axis.imshow(picture, interpolation="nearest" if max(picture.shape[:2]) < 128 else "antialiased")
    last = axes[-1]
    last.text(0.5, -0.03, f"L1 {error:.3f}", transform=last.transAxes, ha="center", va="top", fontsize=7.5)


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
