"""Saved data sets and parquet files: which column, which split, which id, which error."""

import io
import itertools
import multiprocessing
import pickle
from types import SimpleNamespace

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

from unitrans.data.splits import hash_fraction
from unitrans.domains import get_domain
from unitrans.domains.vision import DataConfig
from unitrans.domains.vision.datasets import sample_ids, short_name
from unitrans.domains.vision.source import open_reader
from unitrans.domains.vision.stream import open_stream

DOMAIN = get_domain("vision")
MODEL = SimpleNamespace(in_chans=3, patch_size=4, plans=lambda grids: None)


@pytest.fixture(autouse=True)
def _cache(tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path / "cache"))


def config(path, **options):
    fixed = {"image_size": 16, "validation": "none", "mean": [0.5] * 3, "std": [0.25] * 3}
    return DataConfig(**{"path": str(path), **fixed, **options})


def encoded(value, kind="png"):
    stream = io.BytesIO()
    Image.fromarray(np.full((10, 12, 3), value, np.uint8)).save(stream, kind)
    return stream.getvalue()


def records(numbers, name="{:03}.png"):
    """Image i has the value i everywhere."""
    return [{"bytes": encoded(i % 256), "path": name and name.format(i)} for i in numbers]


IMAGE = datasets.Features({"image": datasets.Image(), "label": datasets.Value("int64")})


def table(numbers, name="{:03}.png"):
    rows = records(numbers, name)
    return datasets.Dataset.from_dict({"image": rows, "label": [0] * len(rows)}, features=IMAGE)


def reader(path, **options):
    return open_reader(str(path), config(path, **options), "data.path")[0]


def value(image):
    assert image.dtype == torch.float32 and image.shape == (3, 10, 12)
    return round(image.unique().item() * 255)


# ---- the same twelve images in every shape ------------------------------------------------------------------------


def write_saved(folder):
    table(range(12)).save_to_disk(folder)


def write_saved_dict(folder):
    datasets.DatasetDict({"train": table(range(12)), "test": table(range(100, 104))}).save_to_disk(folder)


def write_parquet_file(path):
    table(range(12)).to_parquet(path)


def write_parquet_folder(folder):
    (folder / "deep").mkdir(parents=True)
    table(range(6)).to_parquet(folder / "deep" / "a.parquet")
    table(range(6, 12)).to_parquet(folder / "deep" / "b.parquet")


def write_structs(path):
    pq.write_table(pa.table({"image": records(range(12)), "text": ["x"] * 12}), path)


def write_bytes(path):
    pq.write_table(pa.table({"jpg": [r["bytes"] for r in records(range(12))], "n": list(range(12))}), path)


def write_paths(folder):
    """Parquet with names of files beside it."""
    folder.mkdir()
    for i in range(12):
        Image.fromarray(np.full((10, 12, 3), i, np.uint8)).save(folder / f"{i:03}.png.stored", "png")
    rows = [{"bytes": None, "path": f"{i:03}.png.stored"} for i in range(12)]
    struct = pa.struct({"bytes": pa.binary(), "path": pa.string()})
    pq.write_table(pa.table({"image": pa.array(rows, struct)}), folder / "t.parquet")


SHAPES = [
    ("saved", write_saved, "{:03}.png"),
    ("saved-dict", write_saved_dict, "{:03}.png"),
    ("one.parquet", write_parquet_file, "{:03}.png"),
    ("parquet-folder", write_parquet_folder, "{:03}.png"),
    ("structs.parquet", write_structs, "{:03}.png"),
    ("bytes.parquet", write_bytes, "train#{}"),
    ("paths", write_paths, "{:03}.png.stored"),
]


@pytest.mark.parametrize(("name", "write", "ids"), SHAPES)
def test_every_shape_of_table(tmp_path, name, write, ids):
    write(tmp_path / name)
    found = reader(tmp_path / name)
    assert found.ids == [ids.format(i) for i in range(12)]
    assert [value(found.read(i)) for i in range(12)] == list(range(12))
    again = pickle.loads(pickle.dumps(found))  # as it is sent to loader workers
    assert value(again.read(7)) == 7


def test_a_fraction_is_held_out_by_the_name(tmp_path):
    table(range(60)).save_to_disk(tmp_path / "saved")
    train, held_out = DOMAIN.open(config(tmp_path / "saved", validation=0.25), MODEL, 0)
    assert set(held_out.ids) == {n for n in (f"{i:03}.png" for i in range(60)) if hash_fraction(n) < 0.25}
    assert set(train.ids).isdisjoint(held_out.ids) and len(train) + len(held_out) == 60
    write_parquet_file(tmp_path / "t.parquet")
    other, _ = DOMAIN.open(config(tmp_path / "t.parquet", validation=0.25), MODEL, 1)
    assert set(other.ids) <= set(train.ids)  # the same images on the same side, whatever the container


def test_another_split_is_held_out(tmp_path):
    write_saved_dict(tmp_path / "saved")
    train, held_out = DOMAIN.open(config(tmp_path / "saved", validation="test"), MODEL, 0)
    assert len(train) == 12 and held_out.ids == [f"{i}.png" for i in range(100, 104)]
    assert value(held_out[2]["image"]) == 102
    train, held_out = DOMAIN.open(config(tmp_path / "saved", split="test", validation="train"), MODEL, 0)
    assert len(train) == 4 and len(held_out) == 12


def test_splits_by_the_names_of_parquet_files(tmp_path):
    for name, numbers in (("train-0", range(5)), ("test-0", range(5, 7)), ("odd", range(7, 9))):
        table(numbers).to_parquet(tmp_path / f"{name}.parquet")
    train, held_out = DOMAIN.open(config(tmp_path, validation="test"), MODEL, 0)
    assert len(train) == 5 and len(held_out) == 2
    assert "ignored 1 parquet file" in train.notes[0] and "odd.parquet" in train.notes[0]


def test_a_broken_row_is_named_and_skipped(tmp_path):
    rows = records(range(4))
    rows[1]["bytes"], rows[2] = b"no image", None
    datasets.Dataset.from_dict({"image": rows, "label": [0] * 4}, features=IMAGE).save_to_disk(tmp_path / "s")
    train, _ = DOMAIN.open(config(tmp_path / "s"), MODEL, 0)
    assert [train[i] is None for i in range(4)] == [False, True, True, False]
    reasons = dict(train.skipped)
    assert "not an image" in reasons["001.png"] and "no image in this row" in reasons["train#2"]


def test_encodings_and_ranges_are_those_of_files(tmp_path):
    deep = np.array([[0, 1000], [30000, 65535]], np.uint16)
    stream, array = io.BytesIO(), io.BytesIO()
    Image.fromarray(deep).save(stream, "tiff")
    np.save(array, deep)
    rows = [{"bytes": s.getvalue(), "path": None} for s in (stream, array)]
    datasets.Dataset.from_dict({"image": rows, "label": [0, 0]}, features=IMAGE).save_to_disk(tmp_path / "s")
    grey = {"channels": 1, "mean": [0.5], "std": [0.5]}
    expected = torch.from_numpy(deep / 65535).float()[None]
    for i in range(2):
        torch.testing.assert_close(reader(tmp_path / "s", **grey).read(i), expected)
        torch.testing.assert_close(
            reader(tmp_path / "s", value_range=(0, 4095), **grey).read(i),
            (expected * 65535 / 4095).clamp(0, 1),
        )
    np.save(array, deep.astype(np.float32))
    rows = [{"bytes": array.getvalue()[-144:], "path": "scan.npy"}]
    datasets.Dataset.from_dict({"image": rows, "label": [0]}, features=IMAGE).save_to_disk(tmp_path / "f")
    with pytest.raises(ValueError, match=r"data.value_range=dtype does not fit scan.npy: .*in \[0, 1\]"):
        reader(tmp_path / "f", **grey).read(0)


def test_names():
    assert short_name("a/b/c.png") == "a/b/c.png" and short_name("") is None and short_name(None) is None
    assert short_name("/pictures/train/cat/1.png") == "cat/1.png" == short_name(r"C:\x\cat\1.png")
    assert short_name("hf://datasets/o/n@0a/train/cat/1.png") == "cat/1.png"
    assert sample_ids(["a", "b", None, "a"], "test") == ["a#0", "b", "test#2", "a#3"]


def two_images(path):
    rows = records(range(2))
    features = datasets.Features({"left": datasets.Image(), "right": datasets.Image()})
    datasets.Dataset.from_dict({"left": rows, "right": rows}, features=features).to_parquet(path)


def no_image(path):
    pq.write_table(pa.table({"text": ["a"], "number": [1]}), path)


def broken(path):
    path.write_bytes(b"PAR1 and nothing else")


def cut(path):
    write_saved(path)
    file = next(path.glob("*.arrow"))
    file.write_bytes(file.read_bytes()[:100])


def only_odd_splits(path):
    datasets.DatasetDict({"a": table(range(2)), "b": table(range(2))}).save_to_disk(path)


def empty(path):
    table(range(0)).save_to_disk(path)


ERRORS = [
    (two_images, "t.parquet", {}, r"several columns of images \(left, right\): .*data.image_column=left"),
    (
        two_images,
        "t.parquet",
        {"image_column": "lft"},
        r"expected one of left \(Image\), right .*mean 'left'\?",
    ),
    (no_image, "t.parquet", {}, r"has no column of images: .*got text \(string\), number \(int64\)"),
    (no_image, "t.parquet", {"image_column": "text"}, r"'text' holds no images but string"),
    (broken, "t.parquet", {}, r"data.path: '.*t.parquet' cannot be read as a data set: .*(?i:parquet)"),
    (cut, "saved", {}, r"data.path: '.*saved' cannot be read as a data set: "),
    (only_odd_splits, "saved", {}, r"has no split train: choose one with data.split \(a, b\)"),
    (write_saved_dict, "saved", {"split": "tst"}, r"expected one of train, test; did you mean 'test'\?"),
    (
        write_saved_dict,
        "saved",
        {"validation": "train"},
        "data.validation=train is the split that is trained on",
    ),
    (
        write_saved_dict,
        "saved",
        {"streaming": True},
        "read in place: data.streaming is for parquet files and the hub",
    ),
    (empty, "saved", {}, "has no rows"),
    (
        lambda path: path.write_text("x"),
        "t.txt",
        {},
        "is a file, expected a folder of images, a table that lists them .*or a .parquet file",
    ),
    (two_images, "t.parquet", {"streaming": True}, "several columns of images"),
    (broken, "t.parquet", {"streaming": True}, "cannot be read as a data set: "),
    (write_parquet_file, "t.parquet", {"streaming": True, "split": "a"}, "expected one of train"),
]


@pytest.mark.parametrize(("write", "name", "options", "message"), ERRORS)
def test_errors_in_one_sentence(tmp_path, write, name, options, message):
    write(tmp_path / name)
    with pytest.raises(ValueError, match=message) as caught:
        DOMAIN.open(config(tmp_path / name, **options), MODEL, 0)
    assert "\n" not in str(caught.value)


# ---- streaming ----------------------------------------------------------------------------------------------------

ROWS, FRACTION = 90, 0.2


@pytest.fixture
def shards(tmp_path):
    """Ninety images in three parquet files."""
    folder = tmp_path / "shards"
    folder.mkdir()
    for i in range(3):
        table(range(30 * i, 30 * i + 30)).to_parquet(folder / f"train-{i}.parquet")
    return folder


def stream(path, seed=0, **options):
    options = {"streaming": True, "shuffle_buffer": 10, "validation": FRACTION, **options}
    return DOMAIN.open(config(path, **options), MODEL, seed)


def names(source, positions):
    return [source.load(i)["id"] for i in positions]


def test_a_stream_is_a_permutation_of_each_epoch(shards):
    train, held_out = stream(shards)
    size = ROWS - len(held_out)
    assert 10 < len(held_out) < 30 and all(hash_fraction(name) < FRACTION for name in held_out.ids)
    samples = [train.load(i) for i in range(3 * size)]
    epochs = [samples[start : start + size] for start in range(0, 3 * size, size)]
    for number, epoch in enumerate(epochs):
        assert {s["epoch"] for s in epoch} == {number}
        assert {s["id"] for s in epoch} == {f"{i:03}.png" for i in range(ROWS)} - set(held_out.ids)
        assert all(value(s["image"]) == int(s["id"][:3]) for s in epoch)
    orders = [[s["id"] for s in epoch] for epoch in epochs]
    assert orders[0] != orders[1] != orders[2] != orders[0] and orders[0] != sorted(orders[0])
    assert names(stream(shards)[0], range(size)) == orders[0]
    assert names(stream(shards, seed=1)[0], range(size)) != orders[0]
    files = [[int(name[:3]) // 30 for name in order[:10]] for order in orders]
    assert len({tuple(sorted(set(first))) for first in files}) > 1  # files in another order in another epoch


def test_a_stream_goes_on_anywhere(shards):
    train, _ = stream(shards)
    size = ROWS - len(stream(shards)[1])
    expected = names(train, range(4 * size))
    for start in (0, 1, size - 1, size, 2 * size + 7, 3 * size):
        fresh, _ = stream(shards)
        assert names(fresh, range(start, 4 * size)) == expected[start:], start
    assert names(train, [5, 3 * size + 2, 2 * size, 0]) == [  # and goes back
        expected[i] for i in (5, 3 * size + 2, 2 * size, 0)
    ]
    assert names(pickle.loads(pickle.dumps(train)), [9]) == [expected[9]]


def _load_in_child(train, positions, queue):
    queue.put(names(train, positions))


def test_a_stream_is_read_anew_in_a_forked_process(shards):
    train, _ = stream(shards)
    expected = names(train, range(40))
    context = multiprocessing.get_context("fork")
    queue = context.SimpleQueue()
    child = context.Process(target=_load_in_child, args=(train, range(20, 60, 2), queue))
    child.start()
    assert queue.get()[:10] == expected[20:40:2]
    child.join()


def test_streamed_and_not_the_same_images_are_held_out(shards):
    _, streamed = stream(shards)
    _, unpacked = DOMAIN.open(config(shards, validation=FRACTION), MODEL, 0)
    assert set(streamed.ids) == set(unpacked.ids)
    _, few = stream(shards, stream_validation_samples=6)
    assert len(few) == 6 and set(few.ids) < set(streamed.ids)
    assert {int(name[:3]) // 30 for name in few.ids} == {0, 1, 2}
    assert "6 held-out images are kept" in few.notes[0]


def test_names_that_repeat_are_numbered(tmp_path):
    table(range(40), name="image.png").to_parquet(tmp_path / "t.parquet")
    train, held_out = stream(tmp_path / "t.parquet")
    assert 0 < len(held_out) < 40 and set(held_out.ids) <= {f"image.png#0.{i}" for i in range(40)}
    table(range(40), name=None).to_parquet(tmp_path / "u.parquet")
    train, held_out = stream(tmp_path / "u.parquet")
    assert train.load(0)["id"].startswith("train#0.")


def test_statistics_and_other_splits_of_a_stream(tmp_path):
    table(range(20)).to_parquet(tmp_path / "train-0.parquet")
    table(range(50, 53)).to_parquet(tmp_path / "test-0.parquet")
    train, held_out = stream(tmp_path, validation="test", mean="auto", std="auto")
    assert held_out.ids == ["050.png", "051.png", "052.png"] and held_out.mean == train.mean
    assert train.mean == [pytest.approx(9.5 / 255, abs=1e-5)] * 3 and len(train) == 20
    assert "training samples an epoch" in " ".join(train.notes)
    train, held_out = stream(tmp_path, validation="digits")
    assert len(held_out) == 1797


def test_a_broken_row_of_a_stream_keeps_its_place(tmp_path):
    rows = records(range(6))
    rows[2]["bytes"] = b"no image"
    data = datasets.Dataset.from_dict({"image": rows, "label": [0] * 6}, features=IMAGE)
    data.to_parquet(tmp_path / "t.parquet")
    train, _ = stream(tmp_path / "t.parquet", validation="none")
    found = [(train.load(i), train.name(i)) for i in range(6)]
    assert {name for sample, name in found if sample is None} == {"002.png"} == set(dict(train.skipped))
    assert sorted(name for _, name in found) == [f"{i:03}.png" for i in range(6)]


def test_a_stream_that_changes_is_noticed(tmp_path):
    table(range(8)).to_parquet(tmp_path / "t.parquet")
    train, _ = open_stream(config(tmp_path / "t.parquet", streaming=True), 0, False)[:2]
    names(train, range(9))
    table(range(7)).to_parquet(tmp_path / "t.parquet")
    with pytest.raises(ValueError, match="has changed while it was read: 8 training samples"):
        names(train, itertools.islice(itertools.count(9), 20))
