"""The simple predictors: small cases by hand, and the digits."""

import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from unitrans.domains import Baseline, get_domain
from unitrans.domains.base import compare
from unitrans.domains.vision import DataConfig
from unitrans.domains.vision import baselines as predictors


class Images(list):
    """Training images in a list."""

    def unit_images(self, limit=None):
        count = len(self) if limit is None else min(limit, len(self))
        return (self[i] for i in np.linspace(0, len(self) - 1, count).round().astype(int))


def image(*rows):
    return torch.tensor([rows], dtype=torch.float32)


TRAIN = Images([image([0, 0], [0, 0]), image([0.2, 0.2], [0.2, 0.6]), image([1, 0.4], [0.7, 0.3])])


def errors(train, held_out, patch_size=1, unit=1, **options):
    rows = predictors.evaluate(train, lambda: iter(held_out), patch_size, unit, **options)
    return {row.name: row.value for row in rows}, {row.name: row.note for row in rows}


def test_by_hand():
    """Two images of 2 x 2 px; three of eight pixels hidden."""
    held_out = [
        (image([0.5, 0.9], [0.1, 0.3]), torch.tensor([[True, False], [False, False]])),
        (image([0.0, 1.0], [0.6, 0.2]), torch.tensor([[False, True], [False, True]])),
    ]
    got, notes = errors(TRAIN, held_out)
    assert got["mean image per position"] == pytest.approx(
        (abs(0.5 - 0.4) + abs(1 - 0.2) + abs(0.2 - 0.3)) / 3
    )
    assert got["median image per position"] == pytest.approx(
        (abs(0.5 - 0.2) + abs(1 - 0.2) + abs(0.2 - 0.3)) / 3
    )
    # first image: right and below are equally near, right comes first in row-major order
    assert got["nearest visible patch"] == pytest.approx((abs(0.5 - 0.9) + abs(1 - 0.0) + abs(0.2 - 0.6)) / 3)
    means = (0.9 + 0.1 + 0.3) / 3, (0.0 + 0.6) / 2
    expected = (abs(0.5 - means[0]) + abs(1 - means[1]) + abs(0.2 - means[1])) / 3
    assert got["mean of visible pixels"] == pytest.approx(expected)
    assert notes["mean image per position"] == "3 training images"


def test_gaussian_against_the_formula():
    rng = np.random.default_rng(0)
    mixing = rng.normal(size=(6, 6)) * 0.1
    train = torch.from_numpy((rng.normal(size=(4000, 6)) @ mixing + 0.5).astype(np.float32)).reshape(
        -1, 1, 2, 3
    )
    hidden = torch.tensor([[True, False, False], [True, True, False]])
    target = torch.from_numpy((rng.normal(size=(300, 6)) @ mixing + 0.5).astype(np.float32)).reshape(
        -1, 1, 2, 3
    )
    model = predictors.LinearGaussian(train)
    h, v = [0, 3, 4], [1, 2, 5]
    flat = train.reshape(4000, 6).double().numpy()
    covariance, mean = np.cov(flat.T, bias=True), flat.mean(0)
    weights = covariance[np.ix_(h, v)] @ np.linalg.inv(covariance[np.ix_(v, v)])
    for one in target[:5]:
        values = one.flatten().double().numpy()
        expected = mean[h] + weights @ (values[v] - mean[v])
        got = model.predict(one.double(), hidden)
        np.testing.assert_allclose(got[:, hidden].flatten(), expected, atol=5e-3)  # shrinkage of 4000 samples
        assert torch.equal(got[:, ~hidden], one.double()[:, ~hidden])
    # it is the best linear predictor: better than the mean on its own kind of data
    held_out = [(one, hidden) for one in target]
    got, _ = errors(Images(train), held_out)
    assert got["linear-Gaussian conditional mean"] < 0.8 * got["mean image per position"]


def test_gaussian_with_nothing_visible_and_with_nothing_hidden():
    model = predictors.LinearGaussian(torch.rand(20, 1, 2, 2, generator=torch.Generator().manual_seed(0)))
    one = torch.rand(1, 2, 2).double()
    assert torch.equal(model.predict(one, torch.zeros(2, 2, dtype=torch.bool)), one)
    got = model.predict(one, torch.ones(2, 2, dtype=torch.bool))
    np.testing.assert_allclose(got.flatten(), model.mean)


def test_gaussian_of_constant_images_is_finite():
    got, _ = errors(
        Images([torch.full((1, 2, 2), 0.5)] * 4), [(torch.full((1, 2, 2), 0.75), torch.eye(2).bool())]
    )
    assert got["linear-Gaussian conditional mean"] == pytest.approx(0.25, abs=1e-6)


def nearest_by_loops(one, hidden, unit):
    """The definition, pixel by pixel."""
    out = torch.zeros_like(one)
    rows, columns = math.ceil(one.shape[1] / unit), math.ceil(one.shape[2] / unit)
    visible = [(r, c) for r in range(rows) for c in range(columns) if not hidden[r * unit, c * unit]]
    for y in range(one.shape[1]):
        for x in range(one.shape[2]):
            r, c = min(visible, key=lambda rc: (rc[0] - y // unit) ** 2 + (rc[1] - x // unit) ** 2)
            out[:, y, x] = one[:, r * unit + y % unit, c * unit + x % unit]
    return out


@pytest.mark.parametrize("unit", [1, 2, 4])
@pytest.mark.parametrize("seed", range(5))
def test_nearest_visible(unit, seed):
    rng = np.random.default_rng(seed)
    one = torch.from_numpy(rng.random((3, 8, 12)))
    hidden = torch.from_numpy(rng.random((8 // unit, 12 // unit)) < 0.7)
    hidden[-1, 0] = False
    hidden = predictors.pixel_mask(hidden, unit)
    got = predictors.nearest_visible(one, hidden, unit)
    assert torch.equal(got, nearest_by_loops(one, hidden, unit))
    assert torch.equal(got[:, ~hidden], one[:, ~hidden])


def test_nearest_visible_where_units_are_cut_by_the_border():
    one = torch.arange(25.0).reshape(1, 5, 5)
    hidden = torch.ones(5, 5, dtype=torch.bool)
    hidden[:, 4] = False  # the last column of units is one pixel wide
    got = predictors.nearest_visible(one, hidden, 2)
    assert got[0, 0].tolist() == [4, 4, 4, 4, 4]


def test_nothing_visible():
    one, hidden = torch.ones(1, 2, 2), torch.ones(2, 2, dtype=torch.bool)
    assert (
        predictors.nearest_visible(one, hidden, 1).sum() == 0
        and predictors.visible_mean(one, hidden).sum() == 0
    )


def test_large_images_and_large_sets(monkeypatch):
    train = Images([torch.full((3, 40, 40), i / 100) for i in range(100)])
    held_out = [(torch.zeros(3, 40, 40), torch.eye(10, dtype=torch.bool))]
    monkeypatch.setattr(predictors, "MAX_STORED_VALUES", 20 * 4800)
    got, notes = errors(train, held_out, 4, 4)
    assert got["linear-Gaussian conditional mean"] is None
    assert notes["linear-Gaussian conditional mean"].startswith(
        "skipped: 4,800 values per image, at most 4,096"
    )
    assert notes["mean image per position"] == "100 training images"
    assert got["mean image per position"] == pytest.approx(0.495)
    assert notes["median image per position"] == "20 training images"
    assert got["median image per position"] == pytest.approx(0.475)  # of 0, 0.05, ... 0.95
    _, notes = errors(train, held_out, 4, 4, max_train_images=10)
    assert notes["mean image per position"] == "10 training images"


def test_gaussian_that_would_take_minutes(monkeypatch):
    monkeypatch.setattr(predictors, "MAX_GAUSSIAN_FLOPS", 10)
    got, notes = errors(TRAIN, [(image([0, 1], [1, 0]), torch.eye(2).bool())])
    assert (
        got["linear-Gaussian conditional mean"] is None
        and "would take minutes" in notes["linear-Gaussian conditional mean"]
    )


def test_nothing_hidden_is_an_error():
    with pytest.raises(ValueError, match="no pixel of the held-out images is hidden"):
        errors(TRAIN, [(image([0, 1], [1, 0]), torch.zeros(2, 2, dtype=torch.bool))])


class Units:
    """Hides 60 % of units of 2 x 2 px, at random."""

    options = SimpleNamespace(mask_patch_size=2)
    unit = 2
    predicts = "pixels"

    def corrupt(self, sample, rng):
        hidden = np.zeros(16, bool)
        hidden[rng.permutation(16)[:10]] = True
        return sample | {"mask": hidden.reshape(4, 4).repeat(2, 0).repeat(2, 1)}


def test_digits():
    """Figures of the digits, 62.5 % hidden; they move by a few thousandths with the images held out."""
    domain, cfg = get_domain("vision"), SimpleNamespace(in_chans=1, patch_size=1)
    data = DataConfig(channels=1, image_size=8, crop_scale=None, flip=False, validation=0.2)
    train, held_out = domain.open(data, cfg, 0)
    rows = domain.baselines(
        train, held_out, Units(), cfg, lambda name: np.random.default_rng(list(name.encode()))
    )
    got = {row.name: row.value for row in rows}
    assert got == {
        "mean image per position": pytest.approx(0.196, abs=0.006),
        "median image per position": pytest.approx(0.185, abs=0.006),
        "nearest visible patch": pytest.approx(0.397, abs=0.010),
        "linear-Gaussian conditional mean": pytest.approx(0.136, abs=0.006),
        "mean of visible pixels": pytest.approx(0.353, abs=0.010),
    }


def test_compare():
    rows = [Baseline("a", 0.2, "n"), Baseline("long name", 0.1), Baseline("c", None, "skipped")]
    lines = compare("Mean error", 0.15, rows).split("\n")
    assert lines == [
        "Mean error:",
        "  this model  0.1500",
        "  a           0.2000  (n)",
        "  long name   0.1000",
        "  c             -     (skipped)",
        "The model (0.1500) beats 1 of 2 simple predictors; not yet long name (0.1000).",
    ]
    assert compare("Accuracy", 0.15, rows, greater_is_better=True).endswith("not yet a (0.2000).")
    assert compare("Accuracy", 0.25, rows, greater_is_better=True).endswith("beats 2 of 2 simple predictors.")
    assert compare("Accuracy", 0.1, rows[1:2], greater_is_better=True).endswith("not yet long name (0.1000).")
