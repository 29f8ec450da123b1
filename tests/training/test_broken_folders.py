"""Folders of models that are damaged or are none: one sentence, whatever the libraries below raise."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

import unitrans
from unitrans.cli import main
from unitrans.errors import ConfigError
from unitrans.models._encoder import encoder_of
from unitrans.models.swin import SwinConfig, SwinForImageClassification
from unitrans.models.vit import VitConfig
from unitrans.objectives import MaskedSignalModel, make_objective

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
