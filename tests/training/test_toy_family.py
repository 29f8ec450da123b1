"""A family from outside of the package does all that ours do, with no other line changed."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

import unitrans
from tests.training import toy_family
from unitrans.cli import main
from unitrans.models import registry
from unitrans.models._encoder import Encoder, MapEncoder
from unitrans.models.convert import export_weights

STEPS = ("train.max_steps=3", "train.eval_steps=3", "train.save_steps=3", "train.use_cpu=true")
SIZE = ("model.name=mixer", "model.embed_dim=8", "model.depth=1", "model.num_heads=1")


@pytest.fixture(autouse=True)
def _family() -> Iterator[None]:
    toy_family.register()
    yield
    registry.unregister_model("mixer")


def test_it_is_short() -> None:
    lines = Path(toy_family.__file__).read_text().splitlines()
    assert len([line for line in lines if line.strip()]) <= 150


def test_created_listed_saved_and_loaded(tmp_path: Path) -> None:
    assert unitrans.list_models("mixer*") == ["mixer_micro"]
    model = unitrans.create("mixer_micro", num_labels=3).eval()
    assert isinstance(model.encoder, (Encoder, MapEncoder))
    model.save_pretrained(tmp_path)
    again, x = unitrans.load(tmp_path), torch.rand(2, 3, 8, 8)
    assert type(again) is type(model) and torch.equal(again(x).logits, model(x).logits)
    assert again.forward_features(x)[0].shape == (2, 8, 4, 4)


def test_foreign_names_both_ways(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model, x = unitrans.create("mixer_micro", num_labels=3).eval(), torch.rand(2, 3, 8, 8)
    theirs = {name: tensor.contiguous() for name, tensor in export_weights(model, "mixerlib").items()}
    assert "stem.weight" in theirs and "mixer.0.attn.qkv.weight" in theirs
    save_file(theirs, tmp_path / "theirs.safetensors")
    with pytest.raises(ValueError, match="a mixer under mixerlib names .* do not tell num_heads"):
        unitrans.load(tmp_path / "theirs.safetensors")
    loaded = unitrans.load(tmp_path / "theirs.safetensors", num_heads=1)
    assert torch.equal(loaded(x).logits, model(x).logits)
    arguments = [str(tmp_path / "theirs.safetensors"), str(tmp_path / "ours"), "num_heads=1"]
    assert main(["convert", *arguments, "--from", "mixerlib"]) == 0
    assert torch.equal(unitrans.load(tmp_path / "ours")(x).logits, model(x).logits)
    assert (
        main(["convert", str(tmp_path / "ours"), str(tmp_path / "back.safetensors"), "--to", "mixerlib"]) == 0
    )
    assert torch.equal(unitrans.load(tmp_path / "back.safetensors", num_heads=1)(x).logits, model(x).logits)


def test_trained_predicted_and_exported(workdir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    common = ["train", "--data", "digits", *SIZE, *STEPS]
    assert main([*common, "--objective", "mim", "--output", "mim"]) == 0, capsys.readouterr().err
    fine = ["train", "--data", "digits", "--objective", "classification", "--init", "mim", "--output", "fine"]
    assert main([*fine, *STEPS]) == 0, capsys.readouterr().err
    stored = json.loads((Path("fine") / "checkpoints" / "latest" / "config.json").read_text())
    assert stored["encoder"]["model_type"] == "toy-mixer" and stored["encoder"]["embed_dim"] == 8
    Path("new").mkdir()
    Image.new("RGB", (8, 8), "white").save("new/white.png")
    assert main(["predict", "--checkpoint", "fine", "new", "--output", "answers.csv"]) == 0
    assert "white.png" in Path("answers.csv").read_text()
    assert main(["export", "--checkpoint", "fine", "--to", "torch-export", "--output", "fine.pt2"]) == 0
    assert Path("fine.pt2").stat().st_size
    assert type(unitrans.load("fine").encoder) is toy_family.ToyModel
