"""RandAugment, erasing, mixup and cutmix."""

import numpy as np
import pytest
import torch

from unitrans.domains.vision import augment

pytest.importorskip("kornia", reason="kornia is not installed (the extra vision)")
FILL = [0.2, 0.4, 0.6]


def image(channels=3, size=(24, 32)):
    """Smooth, so that a stronger operation changes it more."""
    rows, columns = torch.linspace(0, 1, size[0])[:, None], torch.linspace(0, 1, size[1])
    return torch.stack([(0.5 + 0.1 * c) * (rows + columns**2) for c in range(channels)]).clamp(0, 1)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("name", sorted(augment._OPERATIONS))
def test_operations_keep_shape_and_range_and_grow(name, channels):
    x = image(channels)
    changed = []
    for strength in (0.0, 0.3, 0.9):
        y = augment._OPERATIONS[name](x, strength, 1.0, FILL[:channels]).clamp(0, 1)
        assert y.shape == x.shape and y.isfinite().all()
        changed.append(float((y - x).abs().mean()))
    if name not in ("autocontrast", "equalize", "invert", "posterize", "solarize_add"):
        if name == "color" and channels == 1:
            assert changed == [0.0, 0.0, 0.0]
        else:
            assert changed[0] == pytest.approx(0, abs=1e-5) and changed[0] < changed[1] < changed[2]


def test_turned_images_show_the_fill_colour():
    x = torch.ones(3, 20, 20)
    moved = augment._OPERATIONS["translate_x"](x, 1.0, 1.0, FILL)
    torch.testing.assert_close(moved[:, 10, 2], torch.tensor(FILL))  # nine columns are uncovered at the left
    torch.testing.assert_close(moved[:, 10, 12], torch.ones(3))
    x[:, :, :10] = 0
    turned = augment._OPERATIONS["rotate"](x, 1.0, 1.0, FILL)
    assert turned[0, 10, 2] == pytest.approx(0, abs=1e-4) and turned[0, 10, 17] == pytest.approx(1, abs=1e-4)
    torch.testing.assert_close(turned[:, 0, 0], torch.tensor(FILL), atol=1e-4, rtol=0)


def test_solarize_and_posterize_by_hand():
    x = torch.tensor([0.1, 0.4, 0.6, 0.95]).view(1, 2, 2)
    solarized = augment._OPERATIONS["solarize"](x, 0.5, 1.0, [0.0])
    torch.testing.assert_close(solarized.flatten(), torch.tensor([0.1, 0.4, 0.4, 0.05]))
    bits = augment._OPERATIONS["posterize"](x, 0.5, 1.0, [0.0])  # two bits are left
    torch.testing.assert_close(bits.flatten() * 255 / 64, torch.tensor([0.0, 1.0, 2.0, 3.0]))


def test_rand_augment_is_a_function_of_its_generator():
    x = image()
    a, b = (augment.rand_augment(x, 9.0, np.random.default_rng(3), fill=FILL) for _ in range(2))
    assert torch.equal(a, b)
    state = torch.get_rng_state()
    results = [augment.rand_augment(x, 9.0, np.random.default_rng(seed), fill=FILL) for seed in range(40)]
    assert torch.equal(state, torch.get_rng_state())  # nothing is drawn from the global generator
    assert all(y.min() >= 0 and y.max() <= 1 for y in results)
    untouched = sum(torch.equal(y, x) for y in results)
    assert 2 <= untouched <= 20  # two operations at 1/2 each leave a quarter as it is


def test_erasing():
    x = torch.zeros(3, 32, 32)
    shares = []
    for seed in range(50):
        y = augment.random_erase(x, np.random.default_rng(seed))
        hit = (y != 0).all(0)
        rows, columns = hit.any(1).nonzero(), hit.any(0).nonzero()
        assert hit.sum() == len(rows) * len(columns)  # a rectangle
        shares.append(float(hit.float().mean()))
    assert not x.any() and min(shares) > 0.01 and max(shares) < 0.36 and 0.1 < np.mean(shares) < 0.25


def samples(count=6):
    images = torch.arange(count).float().view(-1, 1, 1, 1).expand(count, 2, 16, 16)
    return [{"id": str(i), "image": images[i].clone(), "label": i % 3} for i in range(count)]


def test_mixup_blends_images_and_labels_alike():
    for seed in range(5):
        mixed = augment.mix(samples(), 3, np.random.default_rng(seed), mixup=0.8, cutmix=0.0)
        factor = float(mixed[0]["label"][0]) if 5 % 3 != 0 else None
        for index, sample in enumerate(mixed):
            partner = 5 - index
            expected = factor * index + (1 - factor) * partner
            torch.testing.assert_close(sample["image"], torch.full((2, 16, 16), expected))
            target = np.zeros(3)
            target[index % 3] += factor
            target[partner % 3] += 1 - factor
            np.testing.assert_allclose(sample["label"], target, atol=1e-6)


def test_cutmix_blends_labels_by_area():
    seen = set()
    for seed in range(8):
        mixed = augment.mix(samples(), 3, np.random.default_rng(seed), mixup=0.0, cutmix=1.0)
        for index, sample in enumerate(mixed):
            own = float((sample["image"][0] == index).float().mean())
            other = float((sample["image"][0] == 5 - index).float().mean())
            assert own + other == pytest.approx(1.0)
            assert sample["label"][index % 3] == pytest.approx(
                own + other * (index % 3 == (5 - index) % 3), abs=1e-5
            )
            seen.add(round(own, 3))
    assert len(seen) > 4


def test_both_take_turns():
    kinds = set()
    for seed in range(20):
        image = augment.mix(samples(), 3, np.random.default_rng(seed), mixup=0.8, cutmix=1.0)[0]["image"]
        kinds.add(len(image.unique()) == 1 and float(image[0, 0, 0]) not in (0.0, 5.0))
    assert kinds == {True, False}


def test_channels_that_operations_do_not_take():
    with pytest.raises(
        ValueError, match="data.rand_augment is for images of 1 or 3 channels, data.channels is 4"
    ):
        augment.check_augmentation(4)
