"""One image among many that does not fit the settings is left out and named; the card of a model tells no folders."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from unitrans.cli import main


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
