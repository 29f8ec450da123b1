"""A run that is killed (SIGKILL) eight times, at random moments, ends as if nothing had happened."""

import random
import time
from collections.abc import Callable
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import Any

import pytest

from tests.warm import CONTEXT
from unitrans.training import checkpoint as ckpt
from unitrans.training import run as running
from unitrans.training.callbacks import read_metrics
from unitrans.training.config import RunConfig

KILLS = 8
UPDATES = 40  # more than the killed processes can get through


class Killer:
    """Starts processes of a run and kills them."""

    def __init__(self, config: RunConfig, run: Path, seed: int) -> None:
        self.config, self.run, self.draw = config, run, random.Random(seed)

    def start(self) -> ForkServerProcess:
        """Goes on from the newest checkpoint; from the beginning where there is none yet."""
        if ckpt.steps_in(self.run / "checkpoints"):
            process = CONTEXT.Process(target=running.resume, args=(str(self.run),))
        else:
            process = CONTEXT.Process(target=running.train, args=(self.config, str(self.new_folder())))
        process.start()
        return process

    def new_folder(self) -> Path:
        self.run = self.run.with_name(self.run.name + "+")
        return self.run

    def half_checkpoints(self) -> list[Path]:
        return list((self.run / "checkpoints").glob(".step-*.tmp"))

    def kill(self, moment: int) -> None:
        """In a start-up, when a checkpoint begins to be written, or some time after that."""
        process = self.start()
        begin = time.monotonic()
        wait = self.draw.uniform(0.0, 1.0)
        if moment % 4:
            first = set(ckpt.steps_in(self.run / "checkpoints"))
            more = self.draw.randint(0, 1)  # checkpoints of this process before the one that is broken off
            while (
                len(set(ckpt.steps_in(self.run / "checkpoints")) - first) < more
                or not self.half_checkpoints()
            ):
                assert process.is_alive() and time.monotonic() - begin < 60, process.exitcode
                time.sleep(0.0005)
            begin, wait = (
                time.monotonic(),
                self.draw.uniform(0.0, 0.06),
            )  # about one update with its checkpoint
        time.sleep(max(0.0, wait - (time.monotonic() - begin)))
        process.kill()
        process.join()
        assert process.exitcode == -9


def row_values(run: Path, last: int) -> list[tuple[Any, ...]]:
    keys = ("step", "loss", "learning_rate", "grad_norm", "epoch", "eval_loss", "eval_l1")
    rows = read_metrics(run / "metrics.jsonl")
    return [tuple(row.get(key) for key in keys) for row in rows if row["step"] <= last]


@pytest.mark.slow
def test_kills_leave_no_trace(
    tiny: Callable[..., RunConfig], workdir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    settings = ("model.drop_rate=0.1", "model.drop_path_rate=0.2", "data.crop_scale=[0.5, 1.0]")
    settings += (f"train.max_steps={UPDATES}", "train.save_steps=1", "train.logging_steps=1")
    settings += ("train.eval_steps=2", "train.per_device_train_batch_size=4")
    whole = running.train(tiny(*settings, "train.save_total_limit=null"), str(workdir / "whole"))
    config = tiny(*settings, "train.save_total_limit=2")  # killed while old checkpoints are removed, too
    killer = Killer(config, workdir / "cut", seed=0)
    halves = 0
    for moment in range(KILLS):
        killer.kill(moment)
        halves += bool(killer.half_checkpoints())
        if not ckpt.steps_in(killer.run / "checkpoints"):
            continue
        newest = ckpt.latest_checkpoint(killer.run)  # whole, with every hash
        step = ckpt.step_of(newest.name)
        assert step is not None
        for name in ("model.safetensors", "optimizer.pt", "rng-0.pt"):
            assert (newest / name).read_bytes() == (whole / "checkpoints" / newest.name / name).read_bytes()
        assert row_values(killer.run, step) == row_values(whole, step)
    assert halves >= KILLS // 4  # writers were killed too
    running.resume(str(killer.run))
    assert row_values(killer.run, UPDATES) == row_values(whole, UPDATES)
    for link in ("latest", "best"):
        ours, theirs = (run / "checkpoints" / link for run in (killer.run, whole))
        assert ours.resolve().name == theirs.resolve().name
        assert (ours / "model.safetensors").read_bytes() == (theirs / "model.safetensors").read_bytes()
    assert (killer.run / "summary.json").read_text() == (whole / "summary.json").read_text()
    assert not killer.half_checkpoints()
