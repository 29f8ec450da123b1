"""Masked image modelling: what is hidden, what counts, and that the model uses what it sees."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from unitrans.models import SwinConfig
from unitrans.nn import patchify
from unitrans.objectives import MaskedSignalModel, get_objective
from unitrans.objectives.mim import local_statistics, unit_mask


def small(**changes: object) -> SwinConfig:
    fields = {"image_size": 16, "patch_size": 2, "embed_dim": 16, "depths": (2, 2), "num_heads": (1, 2)}
    return SwinConfig(**(fields | {"window_size": 4, "drop_path_rate": 0.0} | changes))


def model_and_batch(batch: int = 3, **options: object):
    torch.manual_seed(0)
    config = small()
    objective = get_objective("mim")(config, mask_patch_size=4, **options)
    model = MaskedSignalModel.create(config, objective).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    images = torch.randn(batch, 3, 16, 16)
    samples = [objective.corrupt({"image": x}, np.random.default_rng(i)) for i, x in enumerate(images)]
    mask = torch.cat([sample["mask"].flatten() for sample in samples])
    return model, patchify(images, 2).flatten(0, 1), config.plans([(8, 8)] * batch), mask


@settings(deadline=None)
@given(
    grid=st.tuples(st.integers(1, 12), st.integers(1, 12)),
    unit=st.integers(1, 5),
    ratio=st.floats(0.01, 0.99),
    seed=st.integers(0, 1000),
)
def test_whole_units_are_hidden_and_as_many_as_asked(
    grid: tuple[int, int], unit: int, ratio: float, seed: int
) -> None:
    mask = unit_mask(grid, unit, ratio, np.random.default_rng(seed))
    assert mask.shape == grid
    corners = mask[::unit, ::unit]
    assert corners.sum() == int(np.ceil(corners.size * ratio))
    for (y, x), hidden in np.ndenumerate(mask):
        assert hidden == corners[y // unit, x // unit]
    assert (mask == unit_mask(grid, unit, ratio, np.random.default_rng(seed))).all()


def test_units_are_hidden_equally_often() -> None:
    rng = np.random.default_rng(0)
    share = np.mean([unit_mask((6, 6), 2, 0.6, rng) for _ in range(3000)], axis=0)
    assert np.abs(share - 6 / 9).max() < 0.05


def test_loss_is_the_mean_absolute_error_of_hidden_pixels() -> None:
    model, patches, plans, mask = model_and_batch()
    out = model(patches=patches, plans=plans, mask=mask)
    want = (out.prediction - patches)[mask].abs()
    assert out.num_targets == want.numel()
    torch.testing.assert_close(out.loss_sum / out.num_targets, want.mean())


def test_hidden_pixels_are_not_seen() -> None:
    model, patches, plans, mask = model_and_batch()
    changed = torch.where(mask[:, None], torch.randn_like(patches) * 9, patches)
    assert torch.equal(
        model(patches=patches, plans=plans, mask=mask).prediction,
        model(patches=changed, plans=plans, mask=mask).prediction,
    )


def test_visible_pixels_are_used() -> None:
    """Visible patches exchanged between images change what is predicted for the hidden ones."""
    model, patches, plans, _ = model_and_batch()
    mask = model_and_batch()[3][:64].repeat(3)  # the same places in every image
    visible = patches.view(3, 64, -1)[:, ~mask[:64]]
    exchanged = patches.view(3, 64, -1).clone()
    exchanged[:, ~mask[:64]] = visible.roll(1, 0)
    before = model(patches=patches, plans=plans, mask=mask).prediction[mask]
    after = model(patches=exchanged.flatten(0, 1), plans=plans, mask=mask).prediction[mask]
    assert (before - after).abs().mean() > 1e-2 * before.abs().mean()
    torch.testing.assert_close(after.view(3, -1).roll(-1, 0), before.view(3, -1))


def test_nothing_hidden_counts_nothing() -> None:
    model, patches, plans, _ = model_and_batch()
    out = model(patches=patches, plans=plans)
    assert out.loss_sum == 0 and out.num_targets == 0


def test_model_survives_saving(tmp_path) -> None:
    model, patches, plans, mask = model_and_batch(mask_ratio=0.5)
    model.save_pretrained(tmp_path)
    loaded = MaskedSignalModel.from_pretrained(tmp_path).eval()
    assert loaded.objective.options == model.objective.options and loaded.objective.options.mask_ratio == 0.5
    want = model(patches=patches, plans=plans, mask=mask)
    torch.testing.assert_close(loaded(patches=patches, plans=plans, mask=mask).prediction, want.prediction)


def test_decay_exceptions_are_named() -> None:
    assert "relative_position_bias_table" in model_and_batch()[0].no_weight_decay_keywords()


def test_wrong_options_are_named() -> None:
    with pytest.raises(
        ValueError, match=r"mask_patch_size: expected a multiple of model.patch_size 2, got 3"
    ):
        get_objective("mim")(small(), mask_patch_size=3)
    with pytest.raises(ValueError, match=r"mask_ratio: 0.6 hides all 1 units of 16 px"):
        get_objective("mim")(small(), mask_patch_size=16)
    with pytest.raises(ValueError, match="mask_ratio"):
        get_objective("mim")(small(), mask_ratio=1.5)
    with pytest.raises(ValueError, match=r"expected one of .*'mim'.*, got 'min'; did you mean 'mim'"):
        get_objective("min")


def test_local_statistics_are_those_of_the_square_around_each_pixel() -> None:
    image = torch.randn(4, 9, 6, dtype=torch.float64)
    mean, deviation = local_statistics(image, 5)
    for (channel, y, x), value in np.ndenumerate(mean.numpy()):
        square = image[channel, max(y - 2, 0) : y + 3, max(x - 2, 0) : x + 3]
        assert value == pytest.approx(square.mean().item())
        assert deviation[channel, y, x] == pytest.approx((square.var().item() + 1e-6) ** 0.5)
    assert torch.isfinite(local_statistics(torch.zeros(1, 1, 1), 47)[1]).all()


def test_normalised_targets_of_images_of_different_sizes() -> None:
    """The loss is in units of the target, the prediction in units of the image."""
    torch.manual_seed(0)
    config = small(in_chans=4)
    objective = get_objective("mim")(config, mask_patch_size=4, norm_target=True, norm_target_window=7)
    model = MaskedSignalModel.create(config, objective).eval()
    grids = [(8, 8), (4, 6), (4, 6)]
    images = [torch.randn(4, 2 * h, 2 * w) * 3 + 1 for h, w in grids]
    patches = torch.cat([patchify(image, 2) for image in images])
    mask = torch.rand(len(patches)) < 0.5
    out = model(patches=patches, plans=config.plans(grids), mask=mask, grids=grids)
    mean, deviation = (
        torch.cat([patchify(local_statistics(image, 7)[part], 2) for image in images]) for part in (0, 1)
    )
    want = ((out.prediction - patches) / deviation)[mask].abs().sum()
    torch.testing.assert_close(out.loss_sum, want)
    raw = MaskedSignalModel.create(config, get_objective("mim")(config, mask_patch_size=4)).eval()
    raw.load_state_dict(model.state_dict())
    decoded = raw(patches=patches, plans=config.plans(grids), mask=mask).prediction
    torch.testing.assert_close(out.prediction, decoded * deviation + mean)
    assert "norm_target" in objective.note and raw.objective.note is None
    with pytest.raises(ValueError, match="grids: norm_target needs"):
        model(patches=patches, plans=config.plans(grids), mask=mask)
    with pytest.raises(ValueError, match="odd number"):
        get_objective("mim")(config, mask_patch_size=4, norm_target=True, norm_target_window=8)
