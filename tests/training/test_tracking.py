"""train.report_to: where figures go beside metrics.jsonl."""

import importlib.machinery
import sys
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from unitrans.errors import ConfigError
from unitrans.training import run as running
from unitrans.training.callbacks import read_metrics
from unitrans.training.config import RunConfig, resolve

Tiny = Callable[..., RunConfig]


class StandIn(types.ModuleType):
    """What accelerate's tracker uses of wandb."""

    def __init__(self) -> None:
        super().__init__("wandb")
        self.__spec__ = importlib.machinery.ModuleSpec("wandb", None)
        self.started: list[dict[str, Any]] = []
        self.rows: list[tuple[int, dict[str, Any]]] = []
        self.finished = 0

    def init(self, **options: Any) -> "StandIn":
        self.started.append(options)
        return self

    def log(self, values: dict[str, Any], step: int) -> None:
        self.rows.append((step, values))

    def finish(self) -> None:
        self.finished += 1


def test_figures_go_to_a_tracker_and_a_run_that_goes_on_to_the_same_one(
    tiny: Tiny, workdir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(running, "report", lambda *_: None)
    wandb = StandIn()
    monkeypatch.setitem(sys.modules, "wandb", wandb)
    run = running.train(tiny("train.report_to=wandb"), None)
    rows = read_metrics(run / "metrics.jsonl")
    assert not (run / "tensorboard").exists() and wandb.finished == 1
    assert [step for step, _ in wandb.rows] == [row["step"] for row in rows]
    for (_, values), row in zip(wandb.rows, rows, strict=True):
        name = "validation/loss" if "eval_loss" in row else "training/loss"
        assert values[name] == row.get("eval_loss", row.get("loss"))
    running.resume(str(run))
    first, second = wandb.started
    assert first == second and first["name"] == "vision-mim-1" and first["resume"] == "allow"


def test_none_and_several() -> None:
    assert resolve().train["report_to"] == ["tensorboard"]
    assert resolve(settings=["train.report_to=none"]).train["report_to"] == []
    assert len(resolve(settings=["train.report_to=[tensorboard, mlflow]"]).train["report_to"]) == 2
    with pytest.raises(
        ConfigError, match=r"train\.report_to: expected one of tensorboard, wandb, .* got weights"
    ):
        resolve(settings=["train.report_to=weights"])


def test_a_tracker_that_is_not_installed_is_refused_before_anything_is_written(
    tiny: Tiny, workdir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ConfigError, match="train.report_to=comet_ml needs the package comet_ml"):
        running.train(tiny("train.report_to=comet_ml"), None)
    assert list(workdir.iterdir()) == []
