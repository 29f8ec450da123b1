"""Copies under other names stand on one side of a split, and nothing else moves for them."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from unitrans.data.copies import HEAD, copied_files, said
from unitrans.data.splits import split, with_copies
from unitrans.domains.text.config import DataConfig as TextConfig
from unitrans.domains.text.documents import open_documents
from unitrans.domains.vision import VisionDomain
from unitrans.domains.vision.config import DataConfig
from unitrans.domains.vision.copies import copied_images
from unitrans.domains.vision.source import open_reader
from unitrans.models import SwinConfig

MODEL = SwinConfig(image_size=8, patch_size=4, embed_dim=8, depths=[1], num_heads=[1], window_size=2)


def data(path: Path, **others: object) -> DataConfig:
    return DataConfig(path=str(path), image_size=8, mean=[0.0] * 3, std=[1.0] * 3, **others)


def image(number: int) -> Image.Image:
    return Image.fromarray(np.full((8, 8, 3), number, np.uint8))


def content(source) -> set[int]:
    return {round(float(source.load(n)["image"][0, 0, 0]) * 255) for n in range(len(source))}


@pytest.mark.parametrize("form", ["folder", "table", "parquet", "paths"])
def test_copies_of_images_stay_together(tmp_path: Path, form: str) -> None:
    """30 images, each 6 times."""
    folder = tmp_path / "images"
    folder.mkdir()
    names = [f"{'abcdef'[copy]}{number}.png" for copy in range(6) for number in range(30)]
    for name in names:
        image(int(name[1:-4])).save(folder / name)
    path = folder
    if form == "table":
        path = tmp_path / "t.csv"
        path.write_text("\n".join(["file", *(f"images/{name}" for name in names)]))
    elif form != "folder":
        import datasets

        def record(name: str) -> dict:
            stored = None if form == "paths" else (folder / name).read_bytes()
            return {"bytes": stored, "path": str(folder / name)}

        path = tmp_path / "t.parquet"
        datasets.Dataset.from_dict({"image": [record(name) for name in names]}).to_parquet(path)
    train, held_out = VisionDomain().open(data(path, validation=0.1), MODEL, 0)
    assert len(train) + len(held_out) == 180 and len(held_out) % 6 == 0
    assert content(held_out) and not content(train) & content(held_out)
    note = next(note for note in train.notes if "same content" in note)
    assert note.startswith("180 images have the same content as others, such as ") and "(30 different" in note


def test_without_copies_names_decide_as_before(tmp_path: Path) -> None:
    for number in range(40):
        image(number).save(tmp_path / f"{number}.png")
    train, held_out = VisionDomain().open(data(tmp_path, validation=0.2), MODEL, 0)
    assert [train.ids, held_out.ids] == [
        [sorted([*train.ids, *held_out.ids])[n] for n in side] for side in split(sorted(train.ids + held_out.ids), 0.2)
    ]  # fmt: skip
    assert not any("same content" in note for note in train.notes)
    sides = {name: side for side, ids in enumerate((train.ids, held_out.ids)) for name in ids}
    image(7).save(tmp_path / "copy.png")  # no other image moves
    train, held_out = VisionDomain().open(data(tmp_path, validation=0.2), MODEL, 0)
    for side, ids in enumerate((train.ids, held_out.ids)):
        assert all(sides[name] == side for name in ids if name not in ("7.png", "copy.png"))
    assert ("7.png" in train.ids) == ("copy.png" in train.ids)


def test_the_embedded_images_have_no_copies() -> None:
    reader, *_ = open_reader("digits", DataConfig(channels=1), "data.path")
    assert copied_images(reader) == {}


def test_groups_that_share_a_content_are_one_unit() -> None:
    units = ["a", "a", "b", "c", "d", "e"]
    assert with_copies(units, {}) == units
    assert with_copies(units, {0: "x", 1: "x"}) == units  # within one group
    linked = with_copies(units, {1: "x", 2: "x", 3: "y", 4: "y", 0: "z", 3 + 2: "z"})
    assert linked == ["content x"] * 3 + ["content y"] * 2 + ["content x"]
    ids = [f"p{n % 7}/{n}.png" for n in range(60)]
    pairs = {n: str(n // 2 * 2 % 5) for n in range(0, 60, 11)}
    train, held_out = split(ids, 0.3, "parent", pairs)
    assert not {ids[n].split("/")[0] for n in train} & {ids[n].split("/")[0] for n in held_out}
    with pytest.raises(ValueError, match="there is only one sample"):
        split(["a", "b"], 0.5, None, {0: "x", 1: "x"})


def test_files_are_told_apart_by_all_that_is_in_them(tmp_path: Path) -> None:
    start = b"s" * HEAD
    written = [b"one", b"two", b"one", start + b"a", start + b"b", start + b"a", b"", b""]
    files = [tmp_path / str(n) for n in range(len(written))]
    for file, inside in zip(files, written, strict=True):
        file.write_bytes(inside)
    found = copied_files([*files, tmp_path / "absent"])
    assert set(found) == {0, 2, 3, 5} and found[0] == found[2] and found[3] == found[5] != found[0]
    assert said({}, [], "images") == []


def test_files_of_text_that_are_held_out_as_a_whole(tmp_path: Path) -> None:
    for name, text in {"a": "one\n\ntwo", "b": "three", "c": "one\n\ntwo"}.items():
        (tmp_path / f"{name}.txt").write_text(text)
    found = open_documents(str(tmp_path), TextConfig(path=str(tmp_path), group="file"), None)
    keys = {d.id.split("#")[0]: d.key for n in range(found.files) for d in found.of_file(n)}
    assert keys["a.txt"] == keys["c.txt"] and keys["b.txt"] == "b.txt"
    assert any("2 files have the same content" in note for note in found.notes)
