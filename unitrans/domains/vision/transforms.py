"""From an image of any size to the normalised image of one size that the model sees."""

from __future__ import annotations

import math

import numpy as np
import torch
import torch.nn.functional as F

Box = tuple[int, int, int, int]  # top, left, height, width in pixels


def random_box(
    height: int,
    width: int,
    scale: tuple[float, float],
    ratio: tuple[float, float],
    rng: np.random.Generator,
) -> Box:
    """The box of a random resized crop: area uniform in ``scale`` x the image's, width / height log-uniform
    in ``ratio``; after ten draws that do not fit, the largest centred box whose shape is allowed.

    Source: Szegedy et al., Going deeper with convolutions (2015), section 6; the ten tries and the centred
    box are the convention of the field."""
    for _ in range(10):
        area = height * width * rng.uniform(*scale)
        aspect = math.exp(rng.uniform(math.log(ratio[0]), math.log(ratio[1])))
        w, h = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
        if 0 < w <= width and 0 < h <= height:
            return int(rng.integers(height - h + 1)), int(rng.integers(width - w + 1)), h, w
    return centre_box(height, width, min(max(width / height, ratio[0]), ratio[1]))


def centre_box(height: int, width: int, aspect: float, part: float = 1.0) -> Box:
    """The largest centred box with width / height = ``aspect``, times ``part`` on each side, to the nearest pixel."""
    h = max(1, round(part * min(height, max(1, round(width / aspect)))))
    w = max(1, round(part * min(width, max(1, round(height * aspect)))))
    return (height - h) // 2, (width - w) // 2, h, w


def resize(image: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    """float32 [C, H, W] in [0, 1] to [C, *size]: antialiased bicubic, overshoot clipped. An image that has
    the size already is returned as it is."""
    if tuple(image.shape[-2:]) == size:
        return image
    out = F.interpolate(image[None], size=size, mode="bicubic", align_corners=False, antialias=True)
    return out[0].clamp_(0.0, 1.0)


def crop_resize(image: torch.Tensor, box: Box, size: tuple[int, int]) -> torch.Tensor:
    """``box`` of the image [C, H, W], resized to [C, *size]."""
    top, left, height, width = box
    return resize(image[:, top : top + height, left : left + width], size)
