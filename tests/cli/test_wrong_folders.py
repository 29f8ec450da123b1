"""Data folders and run folders that cannot be used: exit code 2 and one sentence that says why."""

import os
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from unitrans.cli import main
from unitrans.training import checkpoint as ckpt

SMALL = ["model.embed_dim=8", "model.depths=[1, 1]", "model.num_heads=[1, 2]", "train.max_steps=2"]
CHECKPOINT = "checkpoints/step-0000002"


def sentence_of(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    """What the command says last on stderr, with exit code 2; before it there may be a progress bar, and no more."""
    capsys.readouterr()
    assert main(arguments) == 2
    *before, last = capsys.readouterr().err.splitlines()
    assert last.startswith("unitrans: ") and all(line.startswith("update ") for line in before if line), (
        before
    )
    return last


@pytest.fixture(autouse=True)
def _empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


# ---- run folders ------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A short run, to be copied and damaged."""
    run = tmp_path_factory.mktemp("finished") / "run"
    assert main(["train", *SMALL, "--output", str(run)]) == 0
    return run


def truncate(name: str) -> Callable[[Path], None]:
    def damage(run: Path) -> None:
        file = run / CHECKPOINT / name
        file.write_bytes(file.read_bytes()[:-10])

    return damage


def remove(name: str) -> Callable[[Path], None]:
    def damage(run: Path) -> None:
        path = run / name
        shutil.rmtree(path) if path.is_dir() else path.unlink()

    return damage


def write(name: str, text: str) -> Callable[[Path], None]:
    def damage(run: Path) -> None:
        (run / name).write_text(text)

    return damage


def flip_a_bit(run: Path) -> None:
    file = run / CHECKPOINT / "model.safetensors"
    content = bytearray(file.read_bytes())
    content[-100] ^= 1
    file.write_bytes(bytes(content))


def reseal(run: Path) -> None:
    """Gives changed files a manifest that fits, as someone does who edits a checkpoint on purpose."""
    folder = run / CHECKPOINT
    (folder / ckpt.MANIFEST).unlink()
    temporary = folder.rename(folder.with_name(".step-0000002.tmp"))
    ckpt.seal(temporary, folder)


def config(old: str, new: str) -> Callable[[Path], None]:
    def damage(run: Path) -> None:
        text = (run / "config.yaml").read_text()
        assert old in text
        (run / "config.yaml").write_text(text.replace(old, new))

    return damage


def half_written(run: Path) -> None:
    (run / CHECKPOINT).rename(run / "checkpoints" / ".step-0000002.tmp")


class Attack:
    def __reduce__(self) -> object:
        return os.system, ("touch executed",)


def hostile(name: str) -> Callable[[Path], None]:
    def damage(run: Path) -> None:
        config("max_steps: 2", "max_steps: 3")(run)  # so that there is something left to do
        (run / CHECKPOINT / name).write_bytes(pickle.dumps(Attack()))
        reseal(run)

    return damage


def other_optimizer(run: Path) -> None:
    weight = torch.nn.Parameter(torch.zeros(2))
    torch.save(torch.optim.AdamW([weight]).state_dict(), run / CHECKPOINT / "optimizer.pt")
    reseal(run)


RUNS: list[tuple[str, Callable[[Path], None], str]] = [
    ("no config", remove("config.yaml"), "it holds no config.yaml, so it is not a run folder"),
    ("no checkpoints", remove("checkpoints"), "holds no checkpoint to go on from: start again with --config"),
    ("half a checkpoint", half_written, "holds no checkpoint to go on from"),
    (
        "checkpoints is a file",
        lambda run: (remove("checkpoints")(run), write("checkpoints", "")(run))[0],
        "no checkpoint",
    ),
    ("weights truncated", truncate("model.safetensors"), "is damaged: model.safetensors has changed"),
    ("weights changed", flip_a_bit, "is damaged: model.safetensors has changed; use another one"),
    (
        "weights missing",
        remove(f"{CHECKPOINT}/model.safetensors"),
        "is not whole: model.safetensors is missing",
    ),
    ("optimizer truncated", truncate("optimizer.pt"), "is damaged: optimizer.pt has changed"),
    ("generator missing", remove(f"{CHECKPOINT}/rng-0.pt"), "is not whole: rng-0.pt is missing"),
    ("manifest missing", remove(f"{CHECKPOINT}/manifest.json"), "is not whole: manifest.json cannot be read"),
    (
        "manifest no JSON",
        write(f"{CHECKPOINT}/manifest.json", "{"),
        "is not whole: manifest.json cannot be read",
    ),
    (
        "manifest a list",
        write(f"{CHECKPOINT}/manifest.json", "[1]"),
        "is not whole: manifest.json cannot be read",
    ),
    (
        "optimizer hostile",
        hostile("optimizer.pt"),
        "optimizer.pt holds something else than tensors and plain values",
    ),
    ("generator hostile", hostile("rng-0.pt"), "rng-0.pt holds something else than tensors and plain values"),
    ("optimizer of another model", other_optimizer, "optimizer.pt does not fit this model"),
    ("wider model", config("embed_dim: 8", "embed_dim: 16"), "cannot be loaded into this model"),
    ("deeper model", config("depths: [1, 1]", "depths: [2, 1]"), "cannot be loaded into this model"),
    ("average switched on", config("ema_decay: null", "ema_decay: 0.9"), "trained.safetensors"),
    ("unknown setting", config("max_steps: 2", "max_stepz: 2"), "did you mean 'train.max_steps'"),
    ("config no YAML", write("config.yaml", "train: {"), "cannot be read as YAML"),
    ("data gone", config("path: digits", "path: /nowhere/photos"), "there is no folder '/nowhere/photos'"),
]


@pytest.mark.parametrize(("damage", "sentence"), [case[1:] for case in RUNS], ids=[case[0] for case in RUNS])
def test_wrong_run_folders(
    damage: Callable[[Path], None], sentence: str, finished: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(finished, "run", symlinks=True)
    damage(Path("run"))
    assert sentence in sentence_of(["train", "--resume", "run"], capsys)
    assert not Path("executed").exists()


# ---- data folders -----------------------------------------------------------------------------------------------


def picture(path: str, size: tuple[int, int] = (32, 32)) -> None:
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (*size, 3), dtype=np.uint8)).save(path)


def texts() -> None:
    Path("photos").mkdir()
    Path("photos/notes.txt").write_text("no image")


def hidden() -> None:
    picture("photos/.cache/a.png")


def nested() -> None:
    Path("photos/a/b").mkdir(parents=True)


def all_broken() -> None:
    Path("photos").mkdir()
    for name in "abc":
        Path(f"photos/{name}.png").write_bytes(b"broken")


def one() -> None:
    picture("photos/a.png")


def two() -> None:
    picture("photos/a.png")
    picture("photos/b.png")


def array(values: np.ndarray) -> Callable[[], None]:
    def make() -> None:
        Path("photos").mkdir()
        for name in "ab":
            np.save(f"photos/{name}.npy", values)

    return make


DATA: list[tuple[str, Callable[[], None], list[str], str]] = [
    ("missing", lambda: None, [], "there is no folder 'photos'"),
    ("no image", texts, [], "there is no image in"),
    ("hidden images", hidden, [], "there is no image in"),
    ("empty folders", nested, [], "there is no image in"),
    ("all broken", all_broken, [], "none of the 3 images in"),
    ("one image", one, [], "cannot hold anything out: there is only one sample"),
    (
        "vectors",
        array(np.zeros(7, np.uint8)),
        [],
        "a.npy: expected an array [H, W] or [H, W, channels], got shape [7]",
    ),
    ("two channels", array(np.zeros((8, 8, 2), np.uint8)), [], "a.npy: has 2 channels, data.channels is 3"),
    ("objects", array(np.array([[{}]], dtype=object)), [], "a.npy: Object arrays cannot be loaded"),
    ("float range", array(np.full((8, 8, 3), 7.0, np.float32)), [], "data.value_range=dtype does not fit"),
    ("validation missing", two, ["data.validation=held"], "data.validation: there is no folder 'held'"),
    (
        "validation empty",
        two,
        ["data.validation=photos/none"],
        "data.validation: there is no folder 'photos/none'",
    ),
    (
        "validation negative",
        two,
        ["data.validation=-0.5"],
        "expected a fraction of the images in [0, 1), a folder, or none, got -0.5",
    ),
    ("wrong group", two, ["data.group='('"], "data.group is neither"),
    (
        "channels of mean",
        two,
        ["data.mean=[0.5]"],
        "data.mean has 1 values, data.channels is 3: give one per channel",
    ),
    ("negative std", two, ["data.std=[1, 1, -1]"], "data.std must be finite and positive"),
    ("crop upside down", two, ["data.crop_scale=[1, 0.5]"], "expected [low, high] with low <= high"),
    ("range upside down", two, ["data.value_range=[5, 5]"], "expected two different values, got [5, 5]"),
    (
        "size of patches",
        two,
        ["data.image_size=190"],
        "data.image_size=[190, 190] is not a multiple of model.patch_size=4: use [192, 192]",
    ),
    (
        "other channels",
        two,
        ["data.channels=4", "data.mean=imagenet"],
        "data.mean=imagenet has 3 channels, data.channels is 4: use auto or a list of 4",
    ),
]


@pytest.mark.parametrize(
    ("make", "settings", "sentence"), [case[1:] for case in DATA], ids=[case[0] for case in DATA]
)
def test_wrong_data_folders(
    make: Callable[[], None], settings: list[str], sentence: str, capsys: pytest.CaptureFixture[str]
) -> None:
    make()
    before = sorted(Path().rglob("*"))
    assert sentence in sentence_of(["train", "--data", "photos", *settings], capsys)
    assert sorted(Path().rglob("*")) == before
