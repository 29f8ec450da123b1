"""The pictures hold what they should."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from unitrans.domains import get_domain
from unitrans.domains.curves import draw_curves, points
from unitrans.domains.vision.pictures import HIDDEN_COLOUR, _contrast, _triple, draw_reconstructions
from unitrans.nn import patchify


def sample(channels=3, size=(8, 12), patch=2, seed=0):
    generator = torch.Generator().manual_seed(seed)
    image = torch.rand(channels, *size, generator=generator)
    mask = torch.rand(size[0] // patch, size[1] // patch, generator=generator) < 0.6
    return {"id": str(seed), "image": image, "mask": mask}


@pytest.mark.parametrize("channels", [1, 3, 5])
def test_triple(channels):
    mean, std = [0.4] * channels, [0.5] * channels
    one = sample(channels)
    seen = {**one, "image": (one["image"] - 0.4) / 0.5}
    guess = torch.full_like(seen["image"], 0.2)  # 0.5 in [0, 1]
    (original, masked, predicted), error = _triple(seen, patchify(guess, 2), mean, std, 2)
    hidden = one["mask"].repeat_interleave(2, 0).repeat_interleave(2, 1).numpy()
    shown = one["image"][:3] if channels >= 3 else one["image"].expand(3, -1, -1)
    np.testing.assert_allclose(original, shown.permute(1, 2, 0), atol=1e-6)
    np.testing.assert_allclose(
        masked[hidden], np.broadcast_to(HIDDEN_COLOUR, masked[hidden].shape), atol=1e-6
    )
    np.testing.assert_allclose(masked[~hidden], original[~hidden])
    np.testing.assert_allclose(predicted[hidden], 0.5, atol=1e-6)
    np.testing.assert_allclose(predicted[~hidden], original[~hidden], atol=1e-6)
    assert error == pytest.approx((one["image"] - 0.5).abs()[:, hidden].mean().item(), abs=1e-6)


def test_values_are_clipped():
    one = sample()
    (_, _, predicted), error = _triple(one, torch.full((24, 12), 9.0), [0.0] * 3, [1.0] * 3, 2)
    assert predicted.max() == 1 and error > 8


@pytest.mark.parametrize(("count", "channels", "size"), [(8, 1, (8, 8)), (1, 3, (8, 12)), (9, 3, (64, 32))])
def test_file(tmp_path, count, channels, size):
    samples = [sample(channels, size, seed=i) for i in range(count)]
    source = SimpleNamespace(mean=[0.0] * channels, std=[1.0] * channels, labels=None)
    files = get_domain("vision").report(
        tmp_path,
        source,
        samples,
        [patchify(s["image"], 2) for s in samples],
        None,
        SimpleNamespace(patch_size=2),
    )
    assert files == [tmp_path / "reconstructions.png"]
    with Image.open(files[0]) as picture:
        assert picture.width > 600 and picture.height > 200
        pixels = np.asarray(picture.convert("RGB")).reshape(-1, 3)
    blue = np.abs(pixels - np.array(HIDDEN_COLOUR) * 255).max(1) < 2
    assert 0.05 < blue.mean() < 0.3


def test_counts_must_agree(tmp_path):
    with pytest.raises(ValueError, match="got 1 samples and 0 predictions"):
        draw_reconstructions(tmp_path / "x.png", [sample()], [], [0.0] * 3, [1.0] * 3, 2)


def test_points():
    rows = [
        {"step": 2, "loss": 0.5}, {"step": 1, "loss": 1.0}, {"step": 2, "loss": 0.4},
        {"step": 3, "loss": float("nan")}, {"step": 3, "eval_loss": 0.3}, {"loss": 7}, {"step": 4},
        {"step": 4, "loss": "x"},
    ]  # fmt: skip
    assert points(rows, "loss") == ([1.0, 2.0], [1.0, 0.4])
    assert points(rows, "eval_loss") == ([3.0], [0.3])


@pytest.mark.parametrize("count", [0, 1, 3, 400])
def test_curves(tmp_path, count):
    rows = [{"step": i, "loss": 1 / (i + 1), "learning_rate": 1e-3} for i in range(count)]
    rows += [{"step": i, "eval_loss": 0.5} for i in range(0, count, 100)]
    draw_curves(tmp_path / "curves.png", rows)
    with Image.open(tmp_path / "curves.png") as picture:
        assert picture.size == (960, 720)


def test_dark_images_are_stretched_alike():
    """Reflectances of a satellite fill a tenth of 16 bits; whole ranges and constant images stay as they are."""
    dark = np.linspace(0.02, 0.12, 300).reshape(10, 10, 3)
    low, high = _contrast([dark, dark * 0.5])
    assert 0.009 < low < 0.012 and 0.11 < high <= 0.12
    assert _contrast([dark * 10]) == (0, 1) and _contrast([np.full((4, 4, 3), 0.3)]) == (0, 1)


def test_stretched_picture(tmp_path):
    one = sample(1, (8, 8))
    one["image"] = one["image"] * 0.1
    prediction = patchify(one["image"], 2)
    draw_reconstructions(tmp_path / "dark.png", [one], [prediction], [0.0], [1.0], 2)
    drawn = np.asarray(Image.open(tmp_path / "dark.png").convert("RGB"))[60:]
    hidden = np.array([round(255 * part) for part in HIDDEN_COLOUR])
    assert (np.abs(drawn.astype(int) - hidden).max(-1) <= 2).sum() > 1000  # not stretched with the rest
    third = drawn[:, : drawn.shape[1] // 3]
    grey = third[(third[..., 0] == third[..., 1]) & (third[..., 0] < 250)]
    assert len(np.unique(grey)) > 20 and grey.max() > 200
