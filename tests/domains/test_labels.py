"""Classes of images: folders, tables, streams, embedded; and what can be wrong with them."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from unitrans.domains import get_domain
from unitrans.domains.vision import DataConfig
from unitrans.domains.vision.labels import label_column, numbered

datasets = pytest.importorskip("datasets")
DOMAIN = get_domain("vision")
MODEL = SimpleNamespace(in_chans=3, patch_size=4, plans=tuple)


def opened(path, **options):
    options = {"image_size": 8, "validation": "none", "mean": [0.5] * 3, "std": [0.25] * 3, **options}
    return DOMAIN.open(DataConfig(path=str(path), **options), MODEL, 0, ("class", "multi"))


def picture(shade):
    return Image.fromarray(np.full((8, 8, 3), shade, np.uint8))


@pytest.fixture
def folder(tmp_path):
    for name, shade in (("cat/1", 10), ("cat/deep/2", 20), ("dog/3", 110), ("eel/4", 210), ("eel/5", 220)):
        path = tmp_path / "photos" / f"{name}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        picture(shade).save(path)
    return tmp_path / "photos"


def classes(source):
    return {source[i]["id"]: source.labels.names[source[i]["label"]] for i in range(len(source))}


def test_the_first_folder_names_the_class(folder):
    train, _ = opened(folder)
    assert train.labels.names == ("cat", "dog", "eel") and train.labels.counts == (2, 1, 2)
    assert classes(train) == {
        "cat/1.png": "cat",
        "cat/deep/2.png": "cat",
        "dog/3.png": "dog",
        "eel/4.png": "eel",
        "eel/5.png": "eel",
    }
    batch = DOMAIN.collate([train.augment(train[i], None, False) for i in (0, 4)], MODEL)
    assert batch["labels"].dtype == torch.int64 and batch["labels"].tolist() == [0, 2]


def test_held_out_images_have_the_numbers_of_the_training_images(folder, tmp_path):
    train, held_out = opened(folder, validation=0.5)
    assert train.labels.names == held_out.labels.names == ("cat", "dog", "eel")
    other = tmp_path / "other" / "eel"
    other.mkdir(parents=True)
    picture(200).save(other / "x.png")
    _, held_out = opened(folder, validation=str(tmp_path / "other"))
    assert held_out[0]["label"] == 2
    (tmp_path / "other" / "fox").mkdir()
    picture(50).save(tmp_path / "other" / "fox" / "y.png")
    with pytest.raises(
        ValueError,
        match=r"fox/y.png is of class 'fox', which the training data do not have: expected one of cat, dog, eel",
    ):
        opened(folder, validation=str(tmp_path / "other"))


def test_images_in_no_folder(folder):
    picture(0).save(folder / "stray.png")
    with pytest.raises(ValueError, match="stray.png has no class; put images into one folder per class"):
        opened(folder)


def test_splits_are_no_classes(tmp_path):
    for name in ("train", "val"):
        (tmp_path / "x" / name / "cat").mkdir(parents=True)
        picture(0).save(tmp_path / "x" / name / "cat" / "1.png")
    with pytest.raises(
        ValueError, match=r"called train, val, which are splits and no classes: name one as --data"
    ):
        opened(tmp_path / "x")


def table(labels, feature=None):
    columns = {"image": [picture(10 * i) for i in range(len(labels))], "label": labels}
    features = datasets.Features({"image": datasets.Image(), "label": feature or datasets.Value("string")})
    return datasets.Dataset.from_dict(columns, features=features)


def test_tables(tmp_path):
    table(["b", "a", "b"]).save_to_disk(tmp_path / "text")
    train, _ = opened(tmp_path / "text")
    assert train.labels.names == ("a", "b") and [train[i]["label"] for i in range(3)] == [1, 0, 1]
    table([7, 10, 7], datasets.Value("int64")).save_to_disk(tmp_path / "numbers")
    train, _ = opened(tmp_path / "numbers")
    assert train.labels.names == ("7", "10") and [train[i]["label"] for i in range(3)] == [0, 1, 0]
    declared = datasets.ClassLabel(names=["zebra", "ant", "never seen"])
    table([0, 1, 0], declared).save_to_disk(tmp_path / "declared")
    train, _ = opened(tmp_path / "declared")
    assert train.labels.names == ("zebra", "ant", "never seen") and train.labels.counts == (2, 1, 0)
    table([0, -1, 0], declared).save_to_disk(tmp_path / "missing")
    with pytest.raises(ValueError, match="train#1 has no class"):
        opened(tmp_path / "missing")


def test_streams(tmp_path):
    declared = datasets.ClassLabel(names=["zebra", "ant"])
    table([0, 1, 1, 0, 1, 0], declared).to_parquet(tmp_path / "t.parquet")
    train, held_out = opened(tmp_path / "t.parquet", streaming=True, validation=0.4)
    whole, _ = opened(tmp_path / "t.parquet")
    shades = {round(float(whole[i]["image"].mean()), 4): whole[i]["label"] for i in range(6)}
    seen = [train.load(i) for i in range(2)] + [held_out[i] for i in range(len(held_out))]
    assert len(held_out) and all(shades[round(float(s["image"].mean()), 4)] == s["label"] for s in seen)
    assert sum(1 for _ in train.readable()) == 6 - len(held_out)
    table(["b", "a", "b"]).to_parquet(tmp_path / "u.parquet")
    with pytest.raises(
        ValueError, match="does not declare its classes, and a stream is not read to find them"
    ):
        opened(tmp_path / "u.parquet", streaming=True)


def test_columns():
    kinds = {"image": datasets.Image(), "x": datasets.ClassLabel(names=["a"]), "y": datasets.Value("int8")}
    assert label_column(kinds, None, "t") == ("x", ["a"]) and label_column(kinds, "y", "t") == ("y", None)
    with pytest.raises(
        ValueError, match=r"data.label_column='z' is not a column of t: expected one of image, x, y"
    ):
        label_column(kinds, "z", "t")
    with pytest.raises(ValueError, match="holds float32: expected classes, as text or whole numbers"):
        label_column({"f": datasets.Value("float32")}, "f", "t")
    with pytest.raises(ValueError, match="several columns of classes"):
        label_column({"a": kinds["x"], "b": kinds["x"]}, None, "t")
    with pytest.raises(ValueError, match="has no column of classes"):
        label_column({"image": kinds["image"]}, None, "t")


def test_numbers_are_sorted_as_numbers():
    assert numbered([10, 9, 10], ["a", "b", "c"], None, "x") == ([1, 0, 1], ("9", "10"))


def test_augmentation_of_labels_needs_labels(folder):
    config = DataConfig(path=str(folder), image_size=8, mixup=0.8)
    with pytest.raises(ValueError, match="data.mixup is for supervised training"):
        DOMAIN.open(config, MODEL, 0)


def test_mixing_and_erasing_happen_in_training_only(folder):
    train, _ = opened(folder, cutmix=1.0, random_erase=1.0, crop_scale=None, flip=False)
    plain = train.augment(train[0], np.random.default_rng(0), False)["image"]
    erased = train.augment(train[0], np.random.default_rng(0), True)["image"]
    assert len(plain.unique()) == 1 and len(erased.unique()) > 1
    samples = [train.augment(train[i], None, False) for i in range(4)]
    mixed = train.mix(samples, np.random.default_rng(1))
    assert mixed[0]["label"].shape == (3,) and mixed[0]["label"].sum() == pytest.approx(1)
    plain_source, _ = opened(folder)
    assert plain_source.mix(samples, np.random.default_rng(1)) is samples


def test_held_out_geometry(tmp_path):
    (tmp_path / "a").mkdir()
    ramp = np.broadcast_to(np.arange(0, 256, 8, dtype=np.uint8)[None, :, None], (16, 32, 3))
    Image.fromarray(ramp.copy()).save(tmp_path / "a" / "1.png")
    wide = [opened(tmp_path, **o)[0] for o in ({}, {"eval_fit": "stretch"}, {"eval_crop": 0.5})]
    crop, stretch, centre = (s.unit_image(s[0])[0, 0] * 255 for s in wide)
    assert crop[0] > 55 and crop[-1] < 195  # the middle half
    assert stretch[0] < 30 and stretch[-1] > 220  # all of it
    assert centre[0] > 90 and centre[-1] < 160  # the middle quarter
