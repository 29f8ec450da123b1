"""Folders of models that are damaged or are none: one sentence, whatever the libraries below raise."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

import unitrans
from unitrans.cli import main
from unitrans.errors import ConfigError
from unitrans.models._encoder import encoder_of
from unitrans.models.swin import SwinConfig, SwinForImageClassification
from unitrans.models.vit import VitConfig
from unitrans.objectives import MaskedSignalModel, make_objective
from unitrans.objectives.base import Labels

WEIGHTS = "model.safetensors"
SWIN = SwinConfig(
    image_size=16, patch_size=4, embed_dim=8, depths=[1], num_heads=[1], window_size=2, num_labels=3
)


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A model of ours, one with an objective, and one of transformers."""
    root = tmp_path_factory.mktemp("models")
    SwinForImageClassification(SWIN).save_pretrained(root / "ours")
    vit = VitConfig(image_size=16, patch_size=8, embed_dim=8, depth=1, num_heads=1)
    MaskedSignalModel.create(vit, make_objective("mim", vit, {"mask_patch_size": 8})).save_pretrained(
        root / "signal"
    )
    assert main(["convert", str(root / "ours"), str(root / "theirs"), "--to", "hf"]) == 0
    return {name: root / name for name in ("ours", "signal", "theirs")}


def rewrite(file: str, change: Callable[[dict[str, Any]], object]) -> Callable[[Path], object]:
    def damage(folder: Path) -> None:
        stored = json.loads((folder / file).read_text())
        (folder / file).write_text(json.dumps(change(stored)))

    return damage


def reshape(folder: Path) -> None:
    tensors = load_file(folder / WEIGHTS)
    name = max(tensors, key=lambda key: tensors[key].numel())
    save_file(tensors | {name: torch.zeros(3, 5)}, folder / WEIGHTS, metadata={"format": "pt"})


def rename(folder: Path) -> None:
    tensors = load_file(folder / WEIGHTS)
    save_file(
        {f"x{n}": t for n, t in enumerate(tensors.values())}, folder / WEIGHTS, metadata={"format": "pt"}
    )


def lose(folder: Path) -> None:
    tensors = load_file(folder / WEIGHTS)
    name = max(tensors, key=lambda key: tensors[key].numel())
    save_file(
        {key: t for key, t in tensors.items() if key != name}, folder / WEIGHTS, metadata={"format": "pt"}
    )


def shards(folder: Path) -> None:
    (folder / WEIGHTS).rename(folder / "x.safetensors")
    index = {
        "metadata": {},
        "weight_map": dict.fromkeys(load_file(folder / "x.safetensors"), "absent.safetensors"),
    }
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


def folder_for_file(name: str) -> Callable[[Path], object]:
    def damage(folder: Path) -> None:
        (folder / name).unlink()
        (folder / name).mkdir()

    return damage


def cut(name: str, part: float) -> Callable[[Path], object]:
    def damage(folder: Path) -> None:
        whole = (folder / name).read_bytes()
        (folder / name).write_bytes(whole[: int(part * len(whole))])

    return damage


def change(stored: dict[str, Any], name: str, value: object) -> dict[str, Any]:
    inside = stored.get("encoder", stored)
    theirs = {"num_heads": "num_attention_heads"}  # embed_dim has this name there too
    inside[name if name in inside else theirs.get(name, name)] = value
    return stored


DAMAGES: dict[str, Callable[[Path], object]] = {
    "no config": lambda folder: (folder / "config.json").unlink(),
    "config cut": cut("config.json", 0.5),
    "config empty": cut("config.json", 0),
    "config of bytes": lambda folder: (folder / "config.json").write_bytes(b"\xff\xfe\x00"),
    "config a list": rewrite("config.json", lambda stored: [stored]),
    "config a folder": folder_for_file("config.json"),
    "unknown model": rewrite("config.json", lambda stored: stored | {"model_type": "resnet"}),
    "no model_type": rewrite(
        "config.json", lambda stored: {k: v for k, v in stored.items() if k != "model_type"}
    ),
    "model_type a number": rewrite("config.json", lambda stored: stored | {"model_type": 3}),
    "architectures a number": rewrite("config.json", lambda stored: stored | {"architectures": 3}),
    "architecture unknown": rewrite("config.json", lambda stored: stored | {"architectures": ["Nothing"]}),
    "a text as number": rewrite("config.json", lambda stored: change(stored, "embed_dim", "wide")),
    "null as number": rewrite("config.json", lambda stored: change(stored, "embed_dim", None)),
    "a negative number": rewrite("config.json", lambda stored: change(stored, "embed_dim", -8)),
    "a huge number": rewrite("config.json", lambda stored: change(stored, "embed_dim", 10**9)),
    "a number as list": rewrite("config.json", lambda stored: change(stored, "num_heads", {"a": 1})),
    "no weights": lambda folder: (folder / WEIGHTS).unlink(),
    "weights cut": cut(WEIGHTS, 0.7),
    "weights empty": cut(WEIGHTS, 0),
    "weights a folder": folder_for_file(WEIGHTS),
    "weights of bytes": lambda folder: (folder / WEIGHTS).write_bytes(b"\xff" * 100),
    "other names": rename,
    "another shape": reshape,
    "a weight lost": lose,
    "absent shards": shards,
    "no index": lambda folder: (
        (folder / WEIGHTS).unlink(),
        (folder / "model.safetensors.index.json").write_text("["),
    ),
    "model_type a list": rewrite("config.json", lambda stored: stored | {"model_type": [3]}),
    "whole numbers": lambda folder: save_file(
        {name: tensor.long() for name, tensor in load_file(folder / WEIGHTS).items()},
        folder / WEIGHTS,
        metadata={"format": "pt"},
    ),
    "more in front of names": lambda folder: save_file(
        {f"x.{name}": tensor for name, tensor in load_file(folder / WEIGHTS).items()},
        folder / WEIGHTS,
        metadata={"format": "pt"},
    ),
    "a broken pickle": lambda folder: (
        (folder / WEIGHTS).unlink(),
        (folder / "pytorch_model.bin").write_bytes(b"PK\3\4"),
    ),
    "nothing": lambda folder: [file.unlink() for file in folder.iterdir()],
}
#: The weights of images alone tell what these files would, and nothing reads the architecture beside an objective.
HARMLESS = {
    (damage, kind)
    for damage in ("no config", "no model_type", "unknown model")
    for kind in ("ours", "theirs")
}
HARMLESS |= {("architecture unknown", "signal")}


@pytest.mark.parametrize("kind", ["ours", "signal", "theirs"])
@pytest.mark.parametrize("damage", DAMAGES)
def test_a_broken_folder_is_one_sentence(
    damage: str, kind: str, folders: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "model"
    shutil.copytree(folders[kind], folder)
    DAMAGES[damage](folder)
    if (damage, kind) in HARMLESS:
        x = torch.rand(2, 3, 16, 16)
        got, want = (encoder_of(unitrans.load(place))(x).pooler_output for place in (folder, folders[kind]))
        assert torch.equal(got, want)
        return
    with pytest.raises(ConfigError) as caught:
        unitrans.load(folder)
    said = str(caught.value)
    assert str(folder) in said and said.count("\n") == 0
    assert main(["convert", str(folder), str(tmp_path / "out"), "--to", "hf"]) == 2
    assert capsys.readouterr().err.count("\n") == 1


READING = {
    "domain": "vision", "image_size": [16, 16], "channels": 3, "value_range": "dtype", "eval_crop": 1.0,
    "eval_fit": "crop", "mean": [0.5] * 3, "std": [0.2] * 3,
}  # fmt: skip


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("labels", [1]),
        ("labels", {"foo": 1}),
        ("reading", [1]),
        ("reading", {"domain": "vision"}),
        ("encoder", [1]),
        ("objective", 3),
        ("objective_options", [1]),
        ("model_type", [3]),
    ],
)
def test_settings_of_a_run_that_are_none(
    setting: str,
    value: object,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Whatever opens a checkpoint."""
    monkeypatch.chdir(tmp_path)
    vit = VitConfig(image_size=16, patch_size=8, embed_dim=8, depth=1, num_heads=1)
    objective = make_objective("classification", vit, {}, Labels("class", ("a", "b"), (1, 1)))
    MaskedSignalModel.create(vit, objective, READING).save_pretrained("run")
    Path("photos").mkdir()
    for name in "abcd":
        Image.fromarray(np.full((16, 16, 3), ord(name), np.uint8)).save(f"photos/{name}.png")
    commands = {
        "predict": ["predict", "--checkpoint", "run", "photos", "--output", "rows.csv"],
        "embed": ["embed", "--checkpoint", "run", "photos", "--output", "vectors.npy"],
        "convert": ["convert", "run", "out.safetensors", "--to", "timm"],
        "init": ["train", "--data", "photos", "--init", "run", "--output", "other", "train.max_steps=1"],
    }
    assert main(commands["predict"]) == 0
    rewrite("config.json", lambda stored: stored | {setting: value})(Path("run"))
    for name, command in commands.items():
        capsys.readouterr()
        code, said = main(command), capsys.readouterr().err
        if value == {"domain": "vision"} and name in ("convert", "init"):  # which read nothing as it did
            assert code == 0
        else:
            assert code == 2 and said.count("\n") == 1 and "run/config.json" in said, (name, said)
