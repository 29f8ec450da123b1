"""Run folders and checkpoint folders."""

import json
import os
import random
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

import unitrans
from unitrans.cli import main
from unitrans.errors import ConfigError
from unitrans.objectives import MaskedSignalModel
from unitrans.training import checkpoint as ckpt
from unitrans.training.callbacks import read_metrics
from unitrans.training.config import RunConfig
from unitrans.training.run import train
from unitrans.training.runs import command_line, create_run_folder, find_run


def test_run_folders_are_numbered_and_never_reused(workdir: Path) -> None:
    assert create_run_folder(None, "vision", "mim") == Path("runs/vision-mim-1")
    assert create_run_folder(None, "vision", "mim") == Path("runs/vision-mim-2")
    assert create_run_folder(None, "vision", "other") == Path("runs/vision-other-1")
    (workdir / "runs" / "vision-mim-9").mkdir()
    (workdir / "runs" / "vision-mim-x").mkdir()
    assert create_run_folder(None, "vision", "mim") == Path("runs/vision-mim-10")


def test_a_given_folder_must_be_absent_or_empty(workdir: Path) -> None:
    folder = create_run_folder("a/b", "vision", "mim")
    assert folder.is_dir()
    assert create_run_folder("a/b", "vision", "mim") == folder
    (folder / "file").write_text("precious")
    with pytest.raises(ConfigError, match="not empty"):
        create_run_folder("a/b", "vision", "mim")
    with pytest.raises(ConfigError, match="is a file"):
        create_run_folder("a/b/file", "vision", "mim")
    with pytest.raises(ConfigError, match="cannot be made"):
        create_run_folder("a/b/file/c", "vision", "mim")
    assert (folder / "file").read_text() == "precious"


def test_finding_the_run_to_go_on_with(workdir: Path) -> None:
    with pytest.raises(ConfigError, match="there is no run under"):
        find_run("")
    with pytest.raises(ConfigError, match="there is no such run folder"):
        find_run("nowhere")
    first, second = (create_run_folder(None, "vision", "mim") for _ in range(2))
    with pytest.raises(ConfigError, match=r"holds no config\.yaml"):
        find_run(str(first))
    for seconds, folder in ((200, first), (100, second)):
        (folder / "config.yaml").write_text("")
        os.utime(folder / "config.yaml", (seconds, seconds))
    assert find_run("") == first
    assert find_run(str(second)) == second
    with pytest.raises(ConfigError, match="holds no checkpoint"):
        ckpt.latest_checkpoint(first)


def test_printed_commands_can_be_typed(workdir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    environment = workdir / ".venv" / "bin"
    environment.mkdir(parents=True)
    for name in ("unitrans", "tensorboard"):
        (environment / name).write_text("#!/bin/sh\n")
        (environment / name).chmod(0o755)
    monkeypatch.setenv("PATH", "/nowhere")
    monkeypatch.setattr("sys.argv", [str(environment / "unitrans"), "train"])
    assert command_line("train", "--resume", "a b") == ".venv/bin/unitrans train --resume 'a b'"
    assert command_line("--logdir", "x", program="tensorboard") == ".venv/bin/tensorboard --logdir x"
    monkeypatch.setattr("sys.argv", [".venv/bin/unitrans", "train"])
    assert command_line("train") == ".venv/bin/unitrans train"
    monkeypatch.setenv("PATH", str(environment))
    assert command_line("train") == "unitrans train"
    monkeypatch.setattr("sys.argv", ["-c"])
    assert command_line("train") == "unitrans train"


def write_checkpoint(run: Path, step: int) -> Path:
    temporary = run / "checkpoints" / f".{ckpt.checkpoint_name(step)}.tmp"
    temporary.mkdir(parents=True)
    (temporary / "model.safetensors").write_bytes(b"weights of step %d" % step)
    final = run / "checkpoints" / ckpt.checkpoint_name(step)
    ckpt.seal(temporary, final)
    return final


def test_only_whole_checkpoints_count(tmp_path: Path) -> None:
    first, second = write_checkpoint(tmp_path, 3), write_checkpoint(tmp_path, 6)
    (tmp_path / "checkpoints" / ".step-0000009.tmp").mkdir()  # a writer that was killed
    assert ckpt.latest_checkpoint(tmp_path) == second
    ckpt.verify(first)
    (second / "model.safetensors").write_bytes(b"weights of step 7")
    with pytest.raises(ConfigError, match=r"damaged: model\.safetensors"):
        ckpt.verify(second)
    (second / "model.safetensors").unlink()
    with pytest.raises(ConfigError, match=r"model\.safetensors is missing"):
        ckpt.latest_checkpoint(tmp_path)
    for text in ("{", "[]", '{"model.safetensors": 3}'):
        (first / ckpt.MANIFEST).write_text(text)
        with pytest.raises(ConfigError, match="not whole"):
            ckpt.verify(first)


def test_rotation_keeps_the_best_and_the_latest(tmp_path: Path) -> None:
    for step in (1, 2, 3, 4, 5):
        write_checkpoint(tmp_path, step)
    checkpoints = tmp_path / "checkpoints"
    ckpt.rotate(checkpoints, None, {1})
    assert ckpt.steps_in(checkpoints) == [1, 2, 3, 4, 5]
    ckpt.rotate(checkpoints, 3, {1})
    assert ckpt.steps_in(checkpoints) == [1, 4, 5]
    ckpt.rotate(checkpoints, 1, {1})
    assert ckpt.steps_in(checkpoints) == [1, 5]
    ckpt.point(checkpoints / "best", ckpt.checkpoint_name(1))
    ckpt.point(checkpoints / "best", ckpt.checkpoint_name(5))
    assert (checkpoints / "best").resolve().name == "step-0000005"
    assert ckpt.steps_in(checkpoints) == [1, 5]


def test_generators_go_on_where_they_were(tmp_path: Path) -> None:
    torch.save(ckpt.generator_state(), tmp_path / "rng.pt")

    def draw() -> tuple[float, float, float]:
        return random.random(), float(np.random.rand()), float(torch.rand(()))

    first = draw()
    assert draw() != first
    ckpt.set_generator_state(ckpt.read_tensors(tmp_path / "rng.pt"))
    assert draw() == first


def test_a_cut_off_row_is_left_out(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    assert read_metrics(path) == []
    path.write_text(json.dumps({"step": 1}) + "\n" + '{"step": 2, "lo')
    assert read_metrics(path) == [{"step": 1}]


@pytest.mark.parametrize("name", ["model.safetensors", "config.json"])
def test_a_flipped_bit_is_noticed_by_everything_that_reads_a_model(
    name: str, workdir: Path, tiny: Callable[..., RunConfig], capsys: pytest.CaptureFixture[str]
) -> None:
    train(tiny(), "run")
    capsys.readouterr()
    checkpoint = Path("run/checkpoints/best").resolve()
    content = bytearray((checkpoint / name).read_bytes())
    place = len(content) - 3 if name == "model.safetensors" else content.index(b"8")
    content[place] ^= 1
    (checkpoint / name).write_bytes(content)
    said = f"{name} has changed"
    for read in (
        lambda: unitrans.load("run"),
        lambda: unitrans.load(str(checkpoint)),
        lambda: MaskedSignalModel.from_pretrained("run/checkpoints/best"),
    ):
        with pytest.raises(ConfigError, match=said):
            read()
    Path("x.png").write_bytes(b"")
    for command in (
        ["export", "--checkpoint", "run", "--to", "torch-export", "-o", "model.pt2"],
        ["convert", "run", "out", "--to", "hf"],
        ["embed", "--checkpoint", "run", "x.png", "-o", "x.npy"],
        ["train", "--init", "run", "--dry-run"],
    ):
        assert main(command) == 2
        assert said in capsys.readouterr().err, command
