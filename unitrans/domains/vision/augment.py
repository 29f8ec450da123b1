"""Augmentation of supervised training: RandAugment, random erasing, mixup and cutmix. Operations are kornia's."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from torch import Tensor

from unitrans.domains.base import Sample

_LEVELS = 10.0  # magnitudes go from 0 to this


@lru_cache(maxsize=1)
def _kornia() -> Any:
    try:
        import kornia
    except ImportError:
        raise ValueError(
            "data.rand_augment needs kornia, which is not installed: pip install 'unitrans[vision]', or set it to 0"
        ) from None
    return kornia


def check_augmentation(channels: int) -> None:
    """ValueError if RandAugment cannot be had: the library of the operations is missing, or they are not for images
    of so many channels."""
    if channels not in (1, 3):
        raise ValueError(
            f"data.rand_augment is for images of 1 or 3 channels, data.channels is {channels}: set it to 0"
        )
    _kornia()


def rand_augment(
    image: Tensor,
    magnitude: float,
    rng: np.random.Generator,
    *,
    std: float = 0.5,
    count: int = 2,
    fill: Sequence[float],
) -> Tensor:
    """RandAugment (Cubuk et al., 2020, arXiv:1909.13719) in the form that the recipes of Swin use.

    ``count`` operations are drawn with replacement from fifteen; each is applied with probability 1/2 and with a
    strength drawn from a normal distribution around ``magnitude``, cut to [0, 10]; all grow with it.

    Args:
        image: float32 [C, H, W] in [0, 1], C 1 or 3.
        magnitude: 0 to 10.
        rng: what all choices are drawn from.
        std: of the strength.
        count: operations.
        fill: [C], the colour of what a turned or moved image uncovers.

    Returns:
        float32 [C, H, W] in [0, 1].
    """
    for name in rng.choice(sorted(_OPERATIONS), count):
        strength = min(max(rng.normal(magnitude, std), 0.0), _LEVELS) / _LEVELS
        sign = 1.0 if rng.random() < 0.5 else -1.0
        if rng.random() < 0.5:
            image = _OPERATIONS[name](image, strength, sign, fill).clamp(0, 1)
    return image


def _affine(image: Tensor, matrix: list[list[float]], fill: Sequence[float]) -> Tensor:
    """The image moved by a 2 x 2 matrix around its middle and a shift in pixels (the third column)."""
    height, width = image.shape[-2:]
    middle = torch.tensor([(width - 1) / 2, (height - 1) / 2])
    full = torch.tensor(matrix)
    full[:, 2] += middle - full[:, :2] @ middle
    colour = torch.tensor(list(fill)).view(-1, 1, 1)
    moved = _kornia().geometry.transform.warp_affine(
        (image - colour)[None], full[None], (height, width), align_corners=True
    )
    return moved[0] + colour


def _rotate(image: Tensor, strength: float, sign: float, fill: Sequence[float]) -> Tensor:
    angle = math.radians(30.0 * strength * sign)
    cosine, sine = math.cos(angle), math.sin(angle)
    return _affine(image, [[cosine, sine, 0.0], [-sine, cosine, 0.0]], fill)


def _shear(x: float, y: float) -> Callable[..., Tensor]:
    def shear(image: Tensor, strength: float, sign: float, fill: Sequence[float]) -> Tensor:
        by = 0.3 * strength * sign
        return _affine(image, [[1.0, x * by, 0.0], [y * by, 1.0, 0.0]], fill)

    return shear


def _translate(x: float, y: float) -> Callable[..., Tensor]:
    def translate(image: Tensor, strength: float, sign: float, fill: Sequence[float]) -> Tensor:
        by = 0.45 * strength * sign
        height, width = image.shape[-2:]
        return _affine(image, [[1.0, 0.0, x * by * width], [0.0, 1.0, y * by * height]], fill)

    return translate


def _blend(other: Callable[[Tensor], Tensor]) -> Callable[..., Tensor]:
    """other + factor * (image - other), the factor 1 +- up to 0.9."""

    def enhance(image: Tensor, strength: float, sign: float, fill: Sequence[float]) -> Tensor:
        base = other(image)
        return base + max(0.1, 1.0 + 0.9 * strength * sign) * (image - base)

    return enhance


def _grey(image: Tensor) -> Tensor:
    if len(image) == 1:
        return image
    return (image * torch.tensor([0.299, 0.587, 0.114]).view(3, 1, 1)).sum(0, keepdim=True)


def _smooth(image: Tensor) -> Tensor:
    """A 3 x 3 average with five times the weight in the middle; the border stays."""
    kernel = torch.ones(3, 3)
    kernel[1, 1] = 5.0
    smooth = image.clone()
    filtered = torch.nn.functional.conv2d(image[:, None], kernel[None, None] / kernel.sum())
    smooth[:, 1:-1, 1:-1] = filtered[:, 0]
    return smooth if min(image.shape[-2:]) > 2 else image


def _autocontrast(image: Tensor, *_: Any) -> Tensor:
    low, high = image.amin((1, 2), keepdim=True), image.amax((1, 2), keepdim=True)
    return torch.where(high > low, (image - low) / (high - low).clamp(min=1e-6), image)


def _posterize(image: Tensor, strength: float, *_: Any) -> Tensor:
    bits = 4 - int(strength * 4)  # 4 down to 0, which is black
    step = 2 ** (8 - bits)
    return ((image * 255).round() / step).floor() * step / 255


def _solarize(image: Tensor, strength: float, *_: Any) -> Tensor:
    return torch.where(image * 255 < 256 * (1.0 - strength), image, 1.0 - image)


def _solarize_add(image: Tensor, strength: float, *_: Any) -> Tensor:
    return torch.where(image < 128 / 255, image + 110 / 255 * strength, image)


_OPERATIONS: dict[str, Callable[..., Tensor]] = {
    "autocontrast": _autocontrast,
    "equalize": lambda image, *_: _kornia().enhance.equalize(image[None])[0],
    "invert": lambda image, *_: 1.0 - image,
    "rotate": _rotate,
    "posterize": _posterize,
    "solarize": _solarize,
    "solarize_add": _solarize_add,
    "color": _blend(_grey),
    "contrast": _blend(lambda image: _grey(image).mean().expand_as(image)),
    "brightness": _blend(torch.zeros_like),
    "sharpness": _blend(_smooth),
    "shear_x": _shear(1.0, 0.0),
    "shear_y": _shear(0.0, 1.0),
    "translate_x": _translate(1.0, 0.0),
    "translate_y": _translate(0.0, 1.0),
}


def random_erase(image: Tensor, rng: np.random.Generator) -> Tensor:
    """A rectangle of 2 to 33 % of the area, width / height log-uniform in 0.3 to 3.3, filled with normal noise
    (Zhong et al., 2020, arXiv:1708.04896, with noise per pixel).

    Args:
        image: normalised float32 [C, H, W].
        rng: what the rectangle and the noise are drawn from.
    """
    channels, height, width = image.shape
    for _ in range(10):
        area = rng.uniform(0.02, 1 / 3) * height * width
        aspect = math.exp(rng.uniform(math.log(0.3), math.log(1 / 0.3)))
        h, w = round(math.sqrt(area / aspect)), round(math.sqrt(area * aspect))
        if 0 < h < height and 0 < w < width:
            top, left = int(rng.integers(height - h + 1)), int(rng.integers(width - w + 1))
            image = image.clone()
            noise = rng.standard_normal((channels, h, w), dtype=np.float32)
            image[:, top : top + h, left : left + w] = torch.from_numpy(noise)
            return image
    return image


def mix(
    samples: list[Sample],
    num_classes: int,
    rng: np.random.Generator,
    *,
    mixup: float,
    cutmix: float,
) -> list[Sample]:
    """Blends every image of a batch with the one at the mirrored place, by one factor for all, and their classes
    likewise: mixup (Zhang et al., 2018, arXiv:1710.09412) or cutmix (Yun et al., 2019, arXiv:1905.04899), one of the
    two by chance where both are on.

    Args:
        samples: image [C, H, W] of one size, label int or float32 [K].
        num_classes: K.
        rng: what all choices are drawn from.
        mixup, cutmix: parameters of the Beta distribution of the factor; 0 is off.

    Returns:
        The samples with other images, and float32 [K] as labels.
    """
    cut = cutmix > 0 and (mixup == 0 or rng.random() < 0.5)
    factor = float(rng.beta(cutmix, cutmix) if cut else rng.beta(mixup, mixup))
    images = torch.stack([sample["image"] for sample in samples])
    labels = torch.as_tensor(np.stack([np.asarray(sample["label"]) for sample in samples]))
    # Answers [B, K] are targets as they are; one that is missing in either image is missing in the blend.
    targets = labels.float() if labels.ndim == 2 else torch.nn.functional.one_hot(labels, num_classes).float()
    if cut:
        height, width = images.shape[-2:]
        h, w = int(height * math.sqrt(1 - factor)), int(width * math.sqrt(1 - factor))
        y, x = int(rng.integers(height)), int(rng.integers(width))
        rows = slice(max(y - h // 2, 0), min(y + h // 2, height))
        columns = slice(max(x - w // 2, 0), min(x + w // 2, width))
        mixed = images.clone()
        mixed[..., rows, columns] = images.flip(0)[..., rows, columns]
        area = (rows.stop - rows.start) * (columns.stop - columns.start)
        factor = 1 - area / (height * width)
    else:
        mixed = images * factor + images.flip(0) * (1 - factor)
    targets = targets * factor + targets.flip(0) * (1 - factor)
    return [
        {**sample, "image": image, "label": target.numpy()}
        for sample, image, target in zip(samples, mixed, targets, strict=True)
    ]
