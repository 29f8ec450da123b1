"""Averaged weights, recomputed activations, compilation."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from tests.training.stopping import dies_in_update
from unitrans.errors import ConfigError
from unitrans.nn import Block
from unitrans.objectives import MaskedSignalModel
from unitrans.training import run as running
from unitrans.training.callbacks import read_metrics
from unitrans.training.config import RunConfig
from unitrans.training.loop import Trainer
from unitrans.training.switches import AveragedWeights, recompute_blocks

Tiny = Callable[..., RunConfig]
DROPOUT = (
    "model.drop_rate=0.1",
    "model.attn_drop_rate=0.1",
    "model.drop_path_rate=0.2",
    "train.logging_steps=1",
)


@pytest.fixture(autouse=True)
def _no_report(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(running, "report", lambda *_: None)


def values(run: Path) -> list[tuple[Any, ...]]:
    keys = ("step", "loss", "grad_norm", "eval_loss", "eval_l1")
    return [tuple(row.get(key) for key in keys) for row in read_metrics(run / "metrics.jsonl")]


def weights(run: Path, name: str = "model", link: str = "latest") -> dict[str, torch.Tensor]:
    return load_file(run / "checkpoints" / link / f"{name}.safetensors")


def assert_equal(one: dict[str, torch.Tensor], two: dict[str, torch.Tensor]) -> None:
    assert one.keys() == two.keys() and all(torch.equal(one[name], two[name]) for name in one)


def test_the_average_follows_its_formula() -> None:
    model = torch.nn.Linear(3, 2)
    average = AveragedWeights(model, 0.5)
    expected = model.weight.detach().double().clone()
    for number in range(1, 30):
        with torch.no_grad():
            model.weight.add_(torch.randn(2, 3))
        average.update(number)
        decay = min(0.5, (1 + number) / (10 + number))
        expected = decay * expected + (1 - decay) * model.weight.detach().double()
    before = model.weight.detach().clone()
    with average.applied():
        torch.testing.assert_close(model.weight.detach().double(), expected, rtol=0, atol=1e-6)
    assert torch.equal(model.weight, before)


def test_the_average_is_what_is_judged_and_saved(tiny: Tiny, workdir: Path) -> None:
    plain = running.train(tiny(*DROPOUT), "plain")
    config = tiny(*DROPOUT, "train.ema_decay=0.9")
    run = running.train(config, "averaged")
    assert_equal(weights(run, "trained"), weights(plain))  # the average does not change what is trained
    assert [row[:3] for row in values(run)] == [row[:3] for row in values(plain)]
    assert [row[3] for row in values(run)] != [row[3] for row in values(plain)]
    model = MaskedSignalModel.from_pretrained(run / "checkpoints" / "best")
    session = running.open_session(config)
    session.model.load_state_dict(model.state_dict())
    judged = running.make_trainer(session, workdir).judge()["eval_loss"]
    assert judged == min(row[3] for row in values(run) if row[3] is not None)


def test_without_held_out_samples_the_average_is_reported(
    tiny: Tiny, workdir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[dict[str, torch.Tensor]] = []

    def report(session: Any, trainer: Trainer, *_: Any) -> None:
        seen.append({name: tensor.clone() for name, tensor in trainer.model.state_dict().items()})

    monkeypatch.setattr(running, "report", report)
    run = running.train(tiny("data.validation=none", "train.ema_decay=0.9"), "run")
    assert_equal(seen[0], weights(run))


def test_the_average_goes_on_bit_for_bit(tiny: Tiny, workdir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = (*DROPOUT, "train.ema_decay=0.9", "train.save_steps=2")
    whole = running.train(tiny(*settings), "whole")
    with dies_in_update(6):
        running.train(tiny(*settings), "cut")
    running.resume("cut")
    assert values(Path("cut")) == values(whole)
    for name in ("model", "trained"):
        assert_equal(weights(Path("cut"), name), weights(whole, name))


def test_recomputing_activations_changes_no_number(
    tiny: Tiny, workdir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Dropout, attention dropout and drop-path draw the same again. Each Block runs twice an update."""
    calls: list[bool] = []
    forward = Block._computed

    def counted(self: Block, *args: Any, **kwargs: Any) -> torch.Tensor:
        calls.append(self.training)
        return forward(self, *args, **kwargs)

    monkeypatch.setattr(Block, "_computed", counted)
    plain = running.train(tiny(*DROPOUT), "plain")
    assert sum(calls) == 6 * 4
    calls.clear()
    again = running.train(tiny(*DROPOUT, "train.gradient_checkpointing=true"), "again")
    assert sum(calls) == 2 * 6 * 4
    assert values(again) == values(plain)
    assert_equal(weights(again), weights(plain))


def test_a_model_without_blocks_cannot_recompute() -> None:
    with pytest.raises(ConfigError, match="this model has no Blocks"):
        recompute_blocks(torch.nn.Linear(2, 2))


@pytest.mark.slow
def test_compiled_runs_give_the_same_losses(tiny: Tiny, workdir: Path) -> None:
    small = ("model.depths=[2]", "model.num_heads=[1]", "train.max_steps=3", "train.logging_steps=1")
    small += ("data.validation=none",)
    plain = running.train(tiny(*small), "plain")
    compiled = running.train(tiny(*small, "train.torch_compile=true"), "compiled")
    assert len(values(plain)) == 3
    for row, other in zip(values(plain), values(compiled), strict=True):
        assert other[:3] == pytest.approx(row[:3], rel=1e-4)
    assert weights(plain).keys() == weights(compiled).keys()
    assert (
        MaskedSignalModel.from_pretrained(compiled / "checkpoints" / "latest").config.encoder["embed_dim"]
        == 8
    )


def test_without_a_compiler_compilation_is_refused(
    tiny: Tiny, workdir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    monkeypatch.delenv("CXX", raising=False)
    session = running.open_session(tiny("train.torch_compile=true"))
    with pytest.raises(ConfigError, match=r"train.torch_compile needs a C\+\+ compiler"):
        running.make_trainer(session, None)
