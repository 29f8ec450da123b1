"""Where the figures of a run go beside metrics.jsonl: see train.report_to."""

from __future__ import annotations

import hashlib
import importlib.util
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

from torch.utils.tensorboard import SummaryWriter

from unitrans.errors import ConfigError
from unitrans.training import processes

PROJECT = "unitrans"  # what runs are listed under where a tracker has projects


class Tracker(Protocol):
    """What takes figures; the trackers of accelerate are such."""

    def start(self) -> None:
        """Opens it."""

    def log(self, values: dict[str, Any], step: int | None = None) -> None:
        """Figures after an update."""

    def finish(self) -> None:
        """Closes it."""


class TensorBoard:
    """Files in ``folder``; what an earlier process wrote there from update ``step`` on does not count."""

    def __init__(self, folder: Path, step: int) -> None:
        self.folder, self.step = folder, step

    def start(self) -> None:
        """Opens the files."""
        self.writer = SummaryWriter(str(self.folder), purge_step=self.step)

    def log(self, values: dict[str, Any], step: int | None = None) -> None:
        """Figures after an update."""
        for name, value in values.items():
            self.writer.add_scalar(name, value, step)

    def finish(self) -> None:
        """Closes the files."""
        self.writer.close()


def check_trackers(names: Sequence[str]) -> None:
    """ConfigError for a tracker whose package is not installed."""
    for name in names:
        if importlib.util.find_spec(name) is None:
            raise ConfigError(
                f"train.report_to={name} needs the package {name}, which is not installed: pip install {name}, or "
                "leave it out"
            )


def make_trackers(names: Sequence[str], run: Path, step: int, use_cpu: bool) -> list[Tracker]:
    """The trackers of a run, not opened yet; step: the first update that they are going to see."""
    others = [name for name in names if name != "tensorboard"]
    trackers: list[Tracker] = [TensorBoard(run / "tensorboard", step)] if len(others) < len(names) else []
    if others:
        from accelerate import PartialState, tracking

        PartialState(
            cpu=processes.place(use_cpu).type == "cpu"
        )  # accelerate's loggers ask which process they are in
        identity = hashlib.blake2b(str(run.resolve()).encode(), digest_size=8).hexdigest()
        for name in others:
            if name == "wandb":  # a run that goes on is found again by its identity
                own = {"name": run.name, "id": identity, "resume": "allow", "dir": str(run)}
                trackers.append(tracking.WandBTracker(PROJECT, **own))
            elif name == "mlflow":
                trackers.append(tracking.MLflowTracker(PROJECT, run_name=run.name))
            else:
                trackers.append(tracking.CometMLTracker(PROJECT))
    return trackers
