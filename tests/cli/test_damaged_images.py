"""One image among many that does not fit the settings is left out and named; the card of a model tells no folders."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageFile

from unitrans.cli import main
from unitrans.domains.vision.reading import BrokenImageError, read_image
from unitrans.training.card import _without_folders


@pytest.mark.parametrize("name", ["bad.tif", "bad.npy"])
def test_one_image_out_of_range_is_left_out(name, tmp_path: Path) -> None:
    photos = tmp_path / "photos"
    rng = np.random.default_rng(0)
    for label in ("a", "<b>bold</b>".replace("/", "_")):
        (photos / label).mkdir(parents=True)
        for n in range(12):
            pixels = rng.integers(0, 255, (16, 16), dtype=np.uint8)
            Image.fromarray(pixels).save(photos / label / f"{n}.png")
    outside = np.full((16, 16), 700.0, np.float32)
    if name.endswith(".npy"):
        np.save(photos / "a" / name, outside)
    else:
        Image.fromarray(outside).save(photos / "a" / name)
    sizes = "data.image_size=16 data.channels=1 model.embed_dim=16 model.depths=[1] model.num_heads=[1]"
    settings = f"{sizes} model.window_size=2 train.max_steps=4 train.per_device_train_batch_size=8"
    command = [
        "train",
        "--objective",
        "classification",
        "--data",
        str(photos),
        "--output",
        str(tmp_path / "run"),
    ]
    assert main([*command, *settings.split()]) == 0
    skipped = (tmp_path / "run" / "skipped.txt").read_text()
    assert f"a/{name}\tdata.value_range=dtype does not fit" in skipped and skipped.count("\n") == 1
    card = next((tmp_path / "run" / "checkpoints").rglob("README.md")).read_text()
    assert str(tmp_path) not in card
    assert "&lt;b&gt;" in card and "<b>" not in card.split("## Recipe")[0]


@pytest.mark.parametrize("name", ["x.png", "x.tif", "deep.tif", "five.tif", "x.npy"])
def test_images_of_too_many_pixels_are_not_decoded(name, tmp_path: Path, monkeypatch) -> None:
    path = tmp_path / name
    deep = np.zeros((40, 50, 3), np.uint16)
    if name == "x.npy":
        np.save(path, deep)
    elif name == "five.tif":
        pytest.importorskip("tifffile").imwrite(path, np.zeros((40, 50, 5), np.uint8), planarconfig="contig")
    elif name.startswith("deep"):
        pytest.importorskip("tifffile").imwrite(path, deep)
    else:
        Image.fromarray(deep.astype(np.uint8)).save(path)
    channels = 5 if name == "five.tif" else 3
    assert read_image(path, channels, "dtype", 2000).shape == (channels, 40, 50)
    monkeypatch.setattr(ImageFile.ImageFile, "load", lambda *_: pytest.fail("decoded"))
    with pytest.raises(
        BrokenImageError, match=r"50 x 40 pixels are more than data.max_pixels=1999: make it smaller"
    ):
        read_image(path, channels, "dtype", 1999)


def test_the_limit_of_pixels_is_a_setting(tmp_path: Path, capsys) -> None:
    photos = tmp_path / "photos"
    photos.mkdir()
    for n in range(12):
        Image.new("L", (16 + (n == 5), 16), 20 * n).save(photos / f"{n}.png")
    sizes = "data.image_size=16 data.channels=1 data.max_pixels=256 model.embed_dim=16 model.depths=[1]"
    settings = f"{sizes} model.num_heads=[1] model.window_size=2 data.mask_patch_size=4 train.max_steps=1"
    command = ["train", "--objective", "mim", "--data", str(photos), "--output", str(tmp_path / "run")]
    assert main([*command, *settings.replace("data.mask", "objective.mask").split()]) == 0
    assert "data.max_pixels=256" in (tmp_path / "run" / "skipped.txt").read_text()
    assert main([*command, "data.max_pixels=0"]) == 2
    assert "data.max_pixels: expected" in capsys.readouterr().err


def test_a_card_loses_the_folders_of_the_settings_and_nothing_else() -> None:
    settings = {
        "path": "/kept",
        "more": ["/place/run", "/place/run/best", "pyg:QM9:/place/qm9"],
        "root": "/",
    }
    text = "a/kept, /kept/x.csv of /kept. /kept-apart and / or https://a/kept; /place/run/best; pyg:QM9:/place/qm9\n"
    expected = "a/kept, kept/x.csv of kept. /kept-apart and / or https://a/kept; best; pyg:QM9:qm9\n"
    assert _without_folders(text, settings) == expected
