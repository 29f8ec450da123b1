"""Opening, augmenting and packing images."""

import copy
import itertools
import pickle
from types import SimpleNamespace

import numpy as np
import pydantic
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from unitrans.domains import get_domain
from unitrans.domains.vision import DataConfig, VisionDomain
from unitrans.domains.vision.transforms import centre_box, random_box, resize

DOMAIN = get_domain("vision")


def model(in_chans=3, patch_size=4):
    return SimpleNamespace(
        in_chans=in_chans, patch_size=patch_size, plans=lambda grids: ("plans of", tuple(grids))
    )


def config(path, **options):
    defaults = {"image_size": 16, "validation": "none", "mean": [0.5] * 3, "std": [0.25] * 3}
    return DataConfig(**{"path": str(path), **defaults, **options})


def digits(**options):
    options = {"channels": 1, "image_size": 8, "crop_scale": None, "flip": False, **options}
    return DOMAIN.open(DataConfig(**options), model(1, 1), 0)


@pytest.fixture
def folder(tmp_path):
    """Twenty images of several sizes in two class folders, and a file that is no image."""
    rng = np.random.default_rng(0)
    for i in range(20):
        path = tmp_path / "images" / ["cat", "dog"][i % 2] / f"{i:02}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (20 + i, 40 - i, 3), dtype=np.uint8)).save(path)
    (tmp_path / "images" / "labels.csv").write_text("x")
    return tmp_path / "images"


def test_get_domain():
    assert isinstance(DOMAIN, VisionDomain) and DOMAIN.name == "vision"
    with pytest.raises(
        ValueError, match=r"unknown domain 'vison': expected one of .*; did you mean 'vision'\?"
    ):
        get_domain("vison")


def test_digits():
    train, held_out = digits()
    assert len(train) + len(held_out) == 1797 and 60 < len(held_out) < 120
    assert not set(train.ids) & set(held_out.ids)
    sample = train[3]
    assert sample["id"] == train.ids[3] and sample["image"].shape == (1, 8, 8)
    values = torch.stack([train[i]["image"] for i in range(100)])
    assert values.min() == 0 and values.max() == 1 and torch.equal(values * 16, (values * 16).round())
    seen = train.augment(sample, np.random.default_rng(0), True)["image"]
    torch.testing.assert_close(
        seen * train.std[0] + train.mean[0], sample["image"]
    )  # untouched but for mean, std
    pixels = torch.stack([train[i]["image"] for i in range(len(train))])
    assert train.mean == [pytest.approx(pixels.mean().item(), abs=1e-5)]
    assert train.std == [pytest.approx(pixels.std(correction=0).item(), abs=1e-5)]
    assert held_out.mean == train.mean and held_out.std == train.std
    train, _ = DOMAIN.open(DataConfig(image_size=8), model(3, 1), 0)
    assert train[0]["image"].shape == (3, 8, 8)


def test_folder(folder):
    train, held_out = DOMAIN.open(config(folder), model(), 0)
    assert held_out is None
    assert train.ids == [f"{kind}/{i:02}.png" for kind in ("cat", "dog") for i in range(kind == "dog", 20, 2)]
    assert train.notes == [f"ignored 1 file that is not an image in {folder}: .csv (1)"]
    assert train[1]["image"].shape == (3, 22, 38)
    assert train.augment(train[1], np.random.default_rng(0), False)["image"].shape == (3, 16, 16)


def test_broken_files_are_skipped_and_named(folder, write_broken):
    reasons = write_broken(folder)
    train, _ = DOMAIN.open(config(folder), model(), 0)
    good = [i for i in range(len(train)) if train[i] is not None]
    assert len(good) == 20 and len(train) == 20 + len(reasons)
    assert [name for name, _ in train.skipped] == sorted(reasons)
    assert train[train.ids.index("cut.jpg")] is None
    assert len(train.skipped) == len(reasons)  # named once, however often it is met
    batch = DOMAIN.collate(
        [train.augment(train[i], None, False) if i in good else None for i in range(len(train))], model()
    )
    assert batch["num_skipped"] == len(reasons) and len(batch["sample_ids"]) == 20


def test_validation_folder(folder):
    train, held_out = DOMAIN.open(config(folder / "cat", validation=str(folder / "dog")), model(), 0)
    assert len(train) == 10 and len(held_out) == 10 and held_out.ids[0] == "01.png"
    train, held_out = DOMAIN.open(config(folder, validation=str(folder / "dog")), model(), 0)
    assert len(train) == 10 and all(name.startswith("cat/") for name in train.ids)
    assert "10 images of" in train.notes[-1] and "held out, not trained on" in train.notes[-1]


def test_group_parent(folder):
    train, held_out = DOMAIN.open(config(folder, validation=0.5, group="parent"), model(), 0)
    assert {name[:3] for name in train.ids}.isdisjoint(name[:3] for name in held_out.ids)


def test_split_does_not_depend_on_the_seed(folder):
    held_out = [DOMAIN.open(config(folder, validation=0.3), model(), seed)[1].ids for seed in (0, 1)]
    assert held_out[0] == held_out[1]


def test_sources_can_be_sent_to_workers(folder):
    train, _ = DOMAIN.open(config(folder), model(), 0)
    again = pickle.loads(pickle.dumps(train))
    assert torch.equal(again[5]["image"], train[5]["image"])


# --- what a user can get wrong --------------------------------------------------------------------


def make(tmp_path, what):
    place = tmp_path / "place"
    if what == "file":
        place.write_text("x")
    elif what != "missing":
        place.mkdir()
    if what == "no images":
        (place / "a.csv").write_text("x")
        (place / ".a.png").write_text("x")
    if what in ("all broken", "float", "good"):
        (place / "sub").mkdir()
    if what == "all broken":
        (place / "sub" / "a.png").write_text("x")
        (place / "sub" / "b.png").write_text("x")
    if what == "float":
        np.save(place / "sub" / "a.npy", np.full((8, 8), 7.0, np.float32))
    if what == "good":
        for name in "abc":
            Image.new("RGB", (8, 8)).save(place / "sub" / f"{name}.png")
    return place


@pytest.mark.parametrize(
    ("what", "options", "words"),
    [
        ("missing", {}, r"data.path: there is no folder '.*place' and no embedded data set .*\(digits\)"),
        ("missing", {"path": "digit"}, r"no folder 'digit'.*did you mean 'digits'\?"),
        ("missing", {"path": "~nobody-at-all/x"}, "no folder '~nobody-at-all/x'"),
        ("file", {}, "data.path: .* is a file, expected a folder of images"),
        ("empty", {}, "there is no image in .*: it is empty"),
        ("no images", {}, r"there is no image in .*only other files \(.csv\)"),
        ("all broken", {}, r"none of the 2 images in .* can be read \(sub/a.png: not an image"),
        ("float", {}, r"float images must be in \[0, 1\].*percentile"),
        ("good", {"validation": "nowhere"}, "data.validation: there is no folder 'nowhere'"),
        ("good", {"validation": "PLACE"}, "contains the training folder"),
        ("good", {"validation": "PLACE/sub"}, "nothing is left to train on"),
        ("good", {"validation": 0.5, "group": "parent"}, "only one unit under data.group='parent'"),
        (
            "good",
            {"image_size": [10, 17]},
            r"image_size=\[10, 17\] is not a multiple of model.patch_size=4.*\[8, 16\]",
        ),
        ("good", {"channels": 1, "mean": "auto", "std": "auto"}, "data.channels=1 but model.in_chans=3"),
    ],
)
def test_open_errors(tmp_path, what, options, words):
    place = make(tmp_path, what)
    options = {k: v.replace("PLACE", str(place)) if isinstance(v, str) else v for k, v in options.items()}
    with pytest.raises(ValueError, match=words) as error:
        DOMAIN.open(config(**{"path": place, **options}), model(), 0)
    assert "\n" not in str(error.value)


def test_digits_are_not_their_own_validation():
    with pytest.raises(ValueError, match=r"data.validation=digits is the training set itself"):
        digits(validation="digits")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"valdation": 0.1}, "Extra inputs are not permitted"),
        ({"validation": 1.5}, r"fraction of the images in \[0, 1\)"),
        ({"validation": "5"}, "for 5 % write 0.05"),
        ({"validation": -0.1}, "fraction of the images"),
        ({"validation": "nan"}, "fraction of the images"),
        ({"channels": 0}, "greater than or equal to 1"),
        ({"image_size": 0}, "greater than 0"),
        ({"image_size": [1, 2, 3]}, "tuple"),
        ({"value_range": "auto"}, "dtype"),
        ({"value_range": [5, 5]}, "two different values"),
        ({"value_range": [5, 1]}, "low <= high"),
        ({"crop_scale": [0, 1]}, r"in \(0, 1\].*null turns it off"),
        ({"crop_scale": [0.5, 2]}, r"in \(0, 1\]"),
        ({"crop_ratio": [-1, 1]}, "positive"),
        ({"mean": [0.5]}, "data.mean has 1 values, data.channels is 3"),
        ({"std": [1, 0, 1]}, "data.std must be finite and positive"),
        ({"channels": 1, "mean": "imagenet"}, "data.mean=imagenet has 3 channels, data.channels is 1"),
        ({"mean": "imagnet"}, "imagenet"),
    ],
)
def test_config_errors(options, words):
    with pytest.raises(pydantic.ValidationError, match=words):
        DataConfig(**options)


def test_config_values():
    assert DataConfig(validation="0.1").validation == 0.1
    assert DataConfig(validation="none").validation == "none"
    assert DataConfig(value_range=[0, 4095]).value_range == (0, 4095)
    assert DataConfig(image_size=[8, 12]).size == (8, 12) and DataConfig(image_size=8).size == (8, 8)
    assert all(field.description for field in DataConfig.model_fields.values())
    values = DataConfig(value_range=[0, 1], mean="imagenet").model_dump(mode="json")
    assert DataConfig(**values).model_dump(mode="json") == values


# --- augmentation ---------------------------------------------------------------------------------


def source(**options):
    return DOMAIN.open(
        DataConfig(**{"image_size": [12, 16], "mean": "imagenet", "std": "imagenet", **options}), model(), 0
    )[0]


SOURCE = source()
PHOTO = {"id": "x", "image": torch.rand(3, 37, 51, generator=torch.Generator().manual_seed(0))}


def test_augment_is_a_function_of_the_generator():
    before = copy.deepcopy(PHOTO)
    np.random.seed(0)
    torch.manual_seed(0)
    first = [SOURCE.augment(PHOTO, np.random.default_rng(seed), True)["image"] for seed in range(8)]
    np.random.seed(1)
    torch.manual_seed(1)
    again = [SOURCE.augment(PHOTO, np.random.default_rng(seed), True)["image"] for seed in range(8)]
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    assert not any(torch.equal(a, b) for a, b in itertools.pairwise(first))
    assert torch.equal(PHOTO["image"], before["image"])
    assert all(image.shape == (3, 12, 16) and image.dtype == torch.float32 for image in first)


def test_held_out_images_are_not_augmented():
    rng = np.random.default_rng(0)
    state = copy.deepcopy(rng.bit_generator.state)
    first = SOURCE.augment(PHOTO, rng, False)["image"]
    assert rng.bit_generator.state == state
    mean, std = (torch.tensor(v).view(3, 1, 1) for v in (SOURCE.mean, SOURCE.std))
    torch.testing.assert_close(first * std + mean, SOURCE.unit_image(PHOTO))
    # 37 x 51 is cut to the shape of 12 x 16, the largest centred box: 37 x 49 from column 1
    expected = resize(PHOTO["image"][:, :, 1:50], (12, 16))
    assert torch.equal(SOURCE.unit_image(PHOTO), expected)


def test_flip_alone():
    only_flip = source(crop_scale=None, image_size=[36, 52], flip=True)
    only_flip.mean, only_flip.std = [0.0] * 3, [1.0] * 3
    photo = {"id": "x", "image": torch.rand(3, 36, 52)}
    seen = [only_flip.augment(photo, np.random.default_rng(i), True)["image"] for i in range(40)]
    flipped = [torch.equal(image, photo["image"].flip(-1)) for image in seen]
    assert all(f or torch.equal(image, photo["image"]) for f, image in zip(flipped, seen, strict=True))
    assert 8 < sum(flipped) < 32


@given(st.integers(1, 300), st.integers(1, 300), st.integers(0, 2**32))
def test_random_box_lies_inside(height, width, seed):
    top, left, h, w = random_box(height, width, (0.3, 1.0), (0.75, 4 / 3), np.random.default_rng(seed))
    assert min(top, left) >= 0 and h >= 1 and w >= 1 and top + h <= height and left + w <= width


def test_random_box_keeps_to_scale_and_ratio():
    rng = np.random.default_rng(0)
    boxes = np.array([random_box(500, 600, (0.25, 0.5), (0.75, 4 / 3), rng) for _ in range(500)])
    area, ratio = boxes[:, 2] * boxes[:, 3] / 300_000, boxes[:, 3] / boxes[:, 2]
    assert 0.248 < area.min() < 0.26 and 0.49 < area.max() < 0.502 and abs(area.mean() - 0.375) < 0.02
    assert 0.74 < ratio.min() < 0.78 and 1.28 < ratio.max() < 1.345 and abs(np.log(ratio).mean()) < 0.03
    assert boxes[:, 0].min() < 20 and (boxes[:, 0] + boxes[:, 2]).max() > 480


def test_random_box_of_a_strip_is_centred():
    assert random_box(10, 1000, (0.5, 1.0), (0.75, 4 / 3), np.random.default_rng(0)) == (0, 493, 10, 13)


@pytest.mark.parametrize(
    ("shape", "aspect", "box"),
    [
        ((10, 20), 1.0, (0, 5, 10, 10)),
        ((20, 10), 1.0, (5, 0, 10, 10)),
        ((9, 9), 3.0, (3, 0, 3, 9)),
        ((1, 1), 5.0, (0, 0, 1, 1)),
    ],
)
def test_centre_box(shape, aspect, box):
    assert centre_box(*shape, aspect) == box


def test_resize_stays_in_range_and_keeps_constants():
    step = torch.zeros(1, 9, 9)
    step[:, :, 5:] = 1.0
    out = resize(step, (33, 33))
    assert out.min() == 0 and out.max() == 1  # bicubic overshoots; clipped
    torch.testing.assert_close(resize(torch.full((2, 50, 70), 0.3), (8, 8)), torch.full((2, 8, 8), 0.3))
    assert resize(step, (9, 9)) is step


# --- packing --------------------------------------------------------------------------------------


def test_collate():
    a, b = torch.arange(2 * 4 * 6.0).reshape(2, 4, 6), torch.arange(100, 132.0).reshape(2, 4, 4)
    mask = torch.tensor([[True, False, True], [False, False, True]])
    samples = [
        {"id": "a", "image": a, "mask": mask},
        None,
        {"id": "b", "image": b, "mask": np.eye(2, dtype=bool)},
    ]
    batch = DOMAIN.collate(samples, model(2, 2))
    assert (
        batch["grids"] == [(2, 3), (2, 2)] and batch["sample_ids"] == ["a", "b"] and batch["num_skipped"] == 1
    )
    assert batch["plans"] == ("plans of", ((2, 3), (2, 2)))
    assert batch["patches"].shape == (10, 8)
    assert batch["patches"][1].tolist() == [
        2,
        3,
        8,
        9,
        26,
        27,
        32,
        33,
    ]  # row-major patches of (channel, row, column)
    assert batch["patches"][6].tolist() == [100, 101, 104, 105, 116, 117, 120, 121]
    assert batch["mask"].tolist() == [True, False, True, False, False, True, True, False, False, True]
    assert DOMAIN.collate([{"id": "a", "image": a}], model(2, 2))["mask"] is None
    assert DOMAIN.collate([None, None], model(2, 2)) is None


def test_data_unit_scale():
    three = SimpleNamespace(std=[0.1, 0.2, 0.3])
    scale = DOMAIN.data_unit_scale(three, model(3, 2))
    torch.testing.assert_close(scale, torch.tensor([0.1] * 4 + [0.2] * 4 + [0.3] * 4))


def test_with_the_real_model_config():
    swin = pytest.importorskip("unitrans.models.swin", reason="no Swin model here")
    train, _ = digits()
    cfg = swin.SwinConfig(
        patch_size=1, in_chans=1, embed_dim=8, depths=[2, 2], num_heads=[1, 2], window_size=4, image_size=8
    )
    batch = DOMAIN.collate([train.augment(train[i], None, False) for i in range(3)], cfg)
    assert batch["patches"].shape == (3 * 64, 1)
