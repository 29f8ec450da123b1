"""Images and their labels from a table: one class, several, missing ones; and what can be wrong with it."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from unitrans.domains import get_domain
from unitrans.domains.vision import DataConfig
from unitrans.objectives.base import Labels

DOMAIN = get_domain("vision")
MODEL = SimpleNamespace(in_chans=3, patch_size=4, plans=tuple)


def opened(path, kinds=("class", "multi"), **options):
    options = {"image_size": 8, "validation": "none", "mean": [0.5] * 3, "std": [0.25] * 3, **options}
    return DOMAIN.open(DataConfig(path=str(path), **options), MODEL, 0, kinds)


@pytest.fixture
def photos(tmp_path):
    folder = tmp_path / "photos"
    folder.mkdir()
    for number in range(6):
        Image.fromarray(np.full((8, 8, 3), 40 * number, np.uint8)).save(folder / f"{number}.png")
    return folder


def listed(photos, text, name="labels.csv"):
    path = photos.parent / name
    path.write_text(text)
    return path


def test_one_class_an_image(photos):
    rows = "file,label\nphotos/0.png,10\nphotos/1.png,9\nphotos/2.png,\nphotos/3.png,10.0\n"
    train, _ = opened(listed(photos, rows))
    assert train.labels == Labels("class", ("9", "10"), (1, 2)) and train.class_numbers() == [1, 0, 1]
    assert train.ids == [
        "photos/0.png",
        "photos/1.png",
        "photos/3.png",
    ]  # the row without a class is left out
    assert train.skipped == [("row 3", "it has no label")]
    assert train[1]["image"].mean() == pytest.approx(40 / 255)
    words, _ = opened(listed(photos, "image;kind\n0.png;b\n1.png;a\n"), image_folder=str(photos))
    assert words.labels.names == ("a", "b")  # the only other column
    unlabelled, _ = opened(listed(photos, "image\nphotos/0.png\nphotos/1.png\n"), kinds=())
    assert len(unlabelled) == 2 and "label" not in unlabelled[0]


def test_several_columns_with_missing_values(photos):
    rows = "file,cat,dog,split\nphotos/0.png,1,,a\nphotos/1.png,0,True,a\nphotos/2.png,,,a\nphotos/3.png,1.0,0,a\n"
    train, _ = opened(listed(photos, rows), label_column=["dog", "cat"])
    assert train.labels == Labels("multi", ("dog", "cat"), (1, 2), known=(2, 3))
    answers = np.stack([train[i]["label"] for i in range(3)])
    np.testing.assert_array_equal(answers, np.float32([[np.nan, 1], [1, 0], [0, 1]]))
    assert train.skipped == [("row 3", "it has no label")]
    batch = DOMAIN.collate([train.augment(train[i], None, False) for i in (0, 1)], MODEL)
    assert batch["labels"].dtype == torch.float32 and batch["labels"].isnan().tolist() == [
        [True, False],
        [False] * 2,
    ]
    mixing, _ = opened(
        listed(photos, rows), label_column="dog,cat", mixup=1.0
    )  # as --target dog,cat gives it
    samples = [mixing.augment(mixing[i], None, False) for i in (0, 1, 2)]
    mixed = np.stack([s["label"] for s in mixing.mix(samples, np.random.default_rng(0))])
    assert (
        np.isnan(mixed[[0, 2], 0]).all() and 0 <= mixed[1, 1] <= 1
    )  # missing in either is missing in the blend


def test_classes_in_one_cell(photos):
    rows = "file,label\nphotos/0.png,cat|dog\nphotos/1.png,|\nphotos/2.png,\nphotos/3.png, dog\n"
    train, _ = opened(listed(photos, rows), label_separator="|")
    assert train.labels == Labels("multi", ("cat", "dog"), (1, 2), known=(3, 3))
    assert [train[i]["label"].tolist() for i in range(3)] == [[1, 1], [0, 0], [0, 1]]
    other = listed(photos, "file,label\nphotos/4.png,cat|fox\n", "other.csv")
    with pytest.raises(
        ValueError, match=r"photos/4.png has the class 'fox', which the training data do not have"
    ):
        opened(listed(photos, rows), label_separator="|", validation=str(other))
    with pytest.raises(ValueError, match="names several: leave it out"):
        opened(listed(photos, rows), label_separator="|", label_column=["a", "b"])


def test_held_out_by_hash_group_and_table(photos):
    rows = "file,label\n" + "".join(f"photos/{i}.png,{'ab'[i % 2]}\n" for i in range(6))
    path = listed(photos, rows)
    train, held_out = opened(path, validation=0.4)
    assert sorted(train.ids + held_out.ids) == [f"photos/{i}.png" for i in range(6)] and held_out.ids
    assert train.labels.names == held_out.labels.names == ("a", "b")
    train, held_out = opened(path, validation=0.4, group=r"([0-2]|3|4|5)\.png")
    assert sorted(train.ids + held_out.ids) == [f"photos/{i}.png" for i in range(6)]
    other = listed(photos, "file,label\nphotos/1.png,b\nphotos/5.png,b\n", "test.csv")
    train, held_out = opened(path, validation=str(other))
    assert held_out.ids == ["photos/1.png", "photos/5.png"] and not set(held_out.ids) & set(train.ids)
    assert len(train) == 4 and "2 images of" in train.notes[-2] + train.notes[-1]
    lists = listed(photos, "file,label\nphotos/1.png,a;b\n", "lists.csv")
    with pytest.raises(ValueError, match="is of class 'a;b', which the training data do not have"):
        opened(path, validation=str(lists))


@pytest.mark.parametrize(
    ("rows", "options", "message"),
    [
        ("name,label\na,b\n", {}, "has no column of image files: expected one named image or path"),
        ("file,label\nphotos/0.png,a\n", {"image_column": "fil"}, "is not a column of .*did you mean 'file'"),
        ("file,label\nphotos/0.png,a\n", {"label_column": "lable"}, "is not a column with .*mean 'label'"),
        ("file,a,b\nphotos/0.png,1,0\n", {}, "has no column of classes: expected one named label"),
        ("file,label\nphoto/0.png,a\n", {}, "none of the files it names is there .*data.image_folder says where"),
        ("file,label\n0.png,a\n", {"image_folder": "nowhere"}, "data.image_folder: there is no folder 'nowhere'"),
        ("file,label\n", {}, "has no rows"),
        ("file,label\nphotos/0.png,\n", {}, "none of its 1 rows can be used .the first: it has no label"),
        ("file,label\nphotos/0.png,a\nphotos/../photos/0.png,b\n", {}, "two rows name the image"),
        ("file,label\nphotos/0.png,0.5\nphotos/1.png,1\n", {}, "holds fractions .0.5.: expected classes"),
        ("file,a,b\nphotos/0.png,1,2\n", {"label_column": ["a", "b"]}, "each is yes .1. or no .0., and 'b' has '2'"),
        ("file,a,b\nphotos/0.png,1,\n", {"label_column": ["a", "b"]}, "'b': no training sample has a label"),
        ("file,label,label\nphotos/0.png,1,1\n", {}, "two columns are called 'label'"),
    ],
)  # fmt: skip
def test_what_is_wrong_with_a_table(photos, rows, options, message):
    with pytest.raises(ValueError, match=message):
        opened(listed(photos, rows), **options)


def test_a_few_missing_files_are_left_out(photos):
    train, _ = opened(listed(photos, "file,label\nphotos/0.png,a\nphotos/9.png,b\nphotos/1.png,b,\n"))
    assert train.ids == ["photos/0.png"] and [name for name, _ in train.skipped] == ["row 2", "row 3"]
    assert "2 rows of labels.csv are left out; the first: row 2: there is no file" in train.notes[1]
    (photos.parent / "latin.csv").write_bytes("file,label\nphotos/0.png,caf\xe9\n".encode("latin-1"))
    with pytest.raises(ValueError, match="is not text in UTF-8"):
        opened(photos.parent / "latin.csv")


def test_settings_of_tables_need_one(photos):
    for name, value in (("image_folder", "x"), ("label_column", "a"), ("label_separator", ";")):
        with pytest.raises(ValueError, match=f"data.{name} is for a table.*, and .* is none: leave it out"):
            opened(photos, kinds=(), **{name: value})


def test_several_classes_in_data_sets(tmp_path):
    datasets = pytest.importorskip("datasets")
    pictures = [Image.fromarray(np.full((8, 8, 3), 10 * i, np.uint8)) for i in range(3)]
    table = datasets.Dataset.from_dict(
        {"image": pictures, "tags": [[0, 1], [], [1]], "wild": [1, None, 0], "big": [True, False, True]},
        features=datasets.Features(
            {
                "image": datasets.Image(),
                "tags": datasets.Sequence(datasets.ClassLabel(names=["fur", "tail"])),
                "wild": datasets.Value("int64"),
                "big": datasets.Value("bool"),
            }
        ),
    )
    table.save_to_disk(tmp_path / "t")
    train, _ = opened(tmp_path / "t", label_column="tags")
    assert train.labels.names == ("fur", "tail") and [train[i]["label"].tolist() for i in range(3)] == [
        [1, 1],
        [0, 0],
        [0, 1],
    ]
    train, _ = opened(tmp_path / "t", label_column=["wild", "big"])
    assert train.labels.known == (2, 3) and np.isnan(train[1]["label"][0]) and train[1]["label"][1] == 0


def test_one_rule_for_the_cells_of_a_column(photos):
    """Zeros in front, numbers with a point, words that elsewhere mean nothing, and white space."""

    def names(cells, **options):
        rows = "".join(f"photos/{n}.png,{cell}\n" for n, cell in enumerate(cells))
        train, _ = opened(listed(photos, "file,label\n" + rows), **options)
        return dict(zip(train.labels.names, train.labels.counts, strict=True)), train

    assert names(["010", "10", "7"])[0] == {"010": 1, "10": 1, "7": 1}
    assert names(["0.0", "1.0", "1"])[0] == {"0": 1, "1": 2}
    assert names(["NA", "EU", "None"])[0] == {"EU": 1, "NA": 1, "None": 1}
    assert names(["NA", "1", "2"])[0] == {"1": 1, "2": 1}
    assert names(["x", "EU", "NA"], missing=["x"])[0] == {"EU": 1, "NA": 1}
    found, train = names(["long", "long ", "short"])
    assert found == {"long": 2, "short": 1}
    assert "column label: 'long' and 'long ' are one class, long" in train.notes
    assert train.reading["columns"] == {"label": "text"}
    both = "file;a;b\nphotos/0.png;-1;0\nphotos/1.png;1;1\n"
    train, _ = opened(listed(photos, both), label_column="a,b")
    assert [train[n]["label"].tolist() for n in (0, 1)] == [[0, 0], [1, 1]]
    assert train.reading["columns"] == {"a": "sign", "b": "number"}
    lines = '{"image": "photos/0.png", "label": 1}\n{"image": "photos/1.png", "label": 2}\n'
    train, _ = opened(listed(photos, lines, "labels.jsonl"))
    assert train.labels.names == ("1", "2")
