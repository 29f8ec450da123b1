"""Full disks and folders that are gone end a run, or another command, in one sentence."""

import errno
import os
import resource
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch

from unitrans.cli import main
from unitrans.errors import RunError, system_error
from unitrans.training.checkpoint import write_tensors
from unitrans.training.failures import failures
from unitrans.training.loop import Trainer

TINY = (
    "data.image_size=8", "model.patch_size=4", "model.embed_dim=32", "model.depths=[1]", "model.num_heads=[1]",
    "model.window_size=2", "objective.mask_patch_size=4", "train.max_steps=2", "train.eval_steps=1",
    "train.save_steps=1", "train.per_device_train_batch_size=8", "train.report_to=none", "train.use_cpu=true",
)  # fmt: skip


@contextmanager
def files_of_at_most(count: int) -> Iterator[None]:
    """Inside, no file can have more bytes: writing fails as on a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (count, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def one_sentence(capsys: pytest.CaptureFixture[str]) -> str:
    said = [line for line in capsys.readouterr().err.splitlines() if not line.startswith("update ")]
    assert len([line for line in said if line.strip()]) == 1, said
    return said[-1]


@pytest.mark.parametrize(
    ("limit", "words"),
    [
        (200, "run/config.yaml: File too large; nothing had been saved yet"),
        (30_000, "the checkpoint of update 1 cannot be written"),  # weights, by safetensors
        (90_000, "optimizer.pt: Input/output error); earlier ones are untouched"),  # by torch
    ],
)
def test_what_cannot_be_written_ends_a_run(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], limit: int, words: str
) -> None:
    with files_of_at_most(limit):
        assert main(["train", "--output", str(tmp_path / "run"), *TINY]) == 1
    assert words in one_sentence(capsys)
    assert not list(tmp_path.rglob(".*.tmp"))


def test_a_folder_that_is_gone_ends_a_run(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    run, update = tmp_path / "run", Trainer.update

    def removing(self: Trainer, batches: Any) -> Any:
        shutil.rmtree(run, ignore_errors=True)
        return update(self, batches)

    monkeypatch.setattr(Trainer, "update", removing)
    assert main(["train", "--output", str(run), *TINY]) == 1
    assert "the folder of the run is gone" in one_sentence(capsys)
    assert not run.exists()  # half a run is not made again


def test_errors_of_the_system_name_the_file_and_what_is_saved(tmp_path: Path) -> None:
    full = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    (tmp_path / "checkpoints" / "step-0000003").mkdir(parents=True)
    with (
        pytest.raises(
            RunError, match="No space left on device; everything up to update 3 is saved, to go on: "
        ),
        failures(tmp_path),
    ):
        raise full
    assert system_error(full) == "No space left on device"
    assert system_error(OSError(errno.EACCES, "Permission denied", b"/a")) == "/a: Permission denied"
    assert system_error(OSError("of a library")) is None and system_error(ValueError()) is None
    with pytest.raises(OSError, match="of a library"), failures(tmp_path):
        raise OSError("of a library")


def test_what_torch_makes_of_a_full_disk(tmp_path: Path) -> None:
    with files_of_at_most(1000), pytest.raises(OSError, match=r"error: '.*a\.pt'"):
        write_tensors(torch.zeros(1000), tmp_path / "a.pt")
