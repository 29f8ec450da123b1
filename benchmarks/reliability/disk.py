"""Disks that are full and folders that vanish while a run writes: a sentence, and what was saved goes on."""

from __future__ import annotations

import errno
import os
import random
import resource
import shutil
import signal
from functools import partial
from pathlib import Path

from benchmarks.reliability import warm
from benchmarks.reliability.kills import on_change
from benchmarks.reliability.shared import FAULT, RIGHT, Tally

COMMAND = (
    "train",
    "--objective",
    "mim",
    "--output",
    "run",
    "train.max_steps=4",
    "train.eval_steps=2",
    "train.save_steps=2",
)
TINY = (
    "model.embed_dim=8",
    "model.depths=[1]",
    "model.num_heads=[1]",
    "train.use_cpu=true",
    "train.logging_steps=1",
)
LARGEST = 120_000  # bytes of a file of such a run, about


class Disk:
    """See the module."""

    name = "disk"
    share = 0.05
    goal = 200
    what = (
        "runs whose files may not grow beyond a size drawn at random or that find no room from one of their writes on, "
        "or whose folder is removed before one; right: a sentence with exit code 1 or 2, and with room the run goes on"
    )

    def __init__(self, seed: int, work: Path) -> None:
        self.seed, self.work = seed, work

    def trial(self, number: int, tally: Tally) -> None:
        """One run."""
        draw = random.Random(f"disk {self.seed} {number}")
        folder = self.work / "here"
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        number, size = draw.randint(1, 120), draw.randint(20_000, LARGEST)
        how, before = draw.choice(
            (
                ("a folder that vanishes", partial(_vanish, folder / "run", number)),
                (f"no room from the {number}. change on", partial(_no_room, folder / "run", number)),
                (f"files of at most {size} bytes", partial(_limit, size)),
            )
        )
        done = warm.call([*COMMAND, *TINY], folder, before=before)
        verdict, words = done.judge()
        saved = (folder / "run" / "checkpoints").is_dir() and any(
            (folder / "run" / "checkpoints").glob("step-*")
        )
        if verdict not in (RIGHT, FAULT) and saved:
            again = warm.call(["train", "--resume", "run"], folder)
            if again.code != 0:
                verdict, words = (
                    FAULT,
                    f"and with room --resume ends with {again.code}: {again.sentence[:200]}",
                )
        tally.add(verdict, f"{how}: {words}")


def _vanish(run: Path, number: int) -> None:
    """In a fork: removes the folder before the n-th change of what is in it."""
    on_change(run, number, lambda: shutil.rmtree(run, ignore_errors=True))


def _no_room(run: Path, number: int) -> None:
    """In a fork: from the n-th change of what is in the folder on, each is an error."""

    def fail() -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    on_change(run, number, fail, on=True)


def _limit(size: int) -> None:
    """In a fork: writing beyond so many bytes of a file is an error, as ENOSPC is."""
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))
    os.environ["PYTHONDONTWRITEBYTECODE"] = "1"
