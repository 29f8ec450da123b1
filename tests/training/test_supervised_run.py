"""A run that learns classes: report, best checkpoint, exact continuation of mixed batches, pretrained weights."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from tests.training.stopping import dies_in_update
from unitrans.objectives import MaskedSignalModel
from unitrans.training import run as running
from unitrans.training.callbacks import read_metrics
from unitrans.training.config import RunConfig, resolve
from unitrans.training.optim import make_optimizer

Tiny = Callable[..., RunConfig]
MODEL = ("model.embed_dim=16", "model.depth=2", "model.num_heads=2", "model.mlp_ratio=2.0")
SHORT = ("train.max_steps=6", "train.eval_steps=3", "train.save_steps=3", "train.logging_steps=2")


def supervised(*settings: str) -> RunConfig:
    base = [*MODEL, *SHORT, "train.per_device_train_batch_size=8"]
    given = {setting.partition("=")[0] for setting in settings}
    kept = [setting for setting in base if setting.partition("=")[0] not in given]
    return resolve(objective="classification", settings=[*kept, *settings])


def test_a_run_reports_accuracy_beside_classifiers(workdir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = running.train(supervised("data.validation=0.5"), None)
    assert run == Path("runs/vision-classification-1") and (run / "predictions.png").stat().st_size > 10_000
    summary = json.loads((run / "summary.json").read_text())
    rows = {row["step"]: row for row in read_metrics(run / "metrics.jsonl") if "eval_loss" in row}
    best = max(rows, key=lambda step: (rows[step]["eval_accuracy"], -step))  # the first of equals
    assert summary["step"] == best and summary["accuracy"] == pytest.approx(rows[best]["eval_accuracy"])
    figures = {p["name"]: p["accuracy"] for p in summary["predictors"]}
    assert figures["support vector machine on pixels"] > 0.95 > 0.3 > figures["most frequent class"]
    model = MaskedSignalModel.from_pretrained(run / "checkpoints" / "best")
    assert model.objective.labels is not None
    assert model.objective.labels.names == tuple(str(digit) for digit in range(10))
    printed = capsys.readouterr().out
    assert "Accuracy on" in printed and "logistic regression" in printed


@pytest.mark.parametrize("workers", [0, 2])
def test_a_run_with_mixed_batches_goes_on_bit_for_bit(
    workers: int, workdir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(running, "report", lambda *_: None)
    settings = ("data.mixup=0.8", "data.cutmix=1.0", "data.rand_augment=5", "data.random_erase=0.5")
    settings += ("model.drop_path_rate=0.2", "train.gradient_accumulation_steps=2", "train.layer_decay=0.7")
    settings += ("train.sampling=balanced",) if workers else ()
    whole = running.train(supervised(*settings), "whole")
    with dies_in_update(5):
        running.train(supervised(*settings, f"train.dataloader_num_workers={workers}"), "cut")
    running.resume("cut")
    first, second = (
        load_file(run / "checkpoints" / "latest" / "model.safetensors") for run in (whole, Path("cut"))
    )
    assert all(torch.equal(first[name], second[name]) for name in first)
    keys = ("step", "loss", "learning_rate", "grad_norm", "eval_loss", "eval_accuracy")
    logs = [
        [[row.get(key) for key in keys] for row in read_metrics(run / "metrics.jsonl")]
        for run in (whole, Path("cut"))
    ]
    assert logs[0] == logs[1]


def test_rates_fall_from_layer_to_layer(workdir: Path) -> None:
    trainer = running.make_trainer(running.open_session(supervised("train.layer_decay=0.5")), None)
    groups = make_optimizer(trainer.model, trainer.settings, 0.0).param_groups
    scale = {name: group["lr_scale"] for group in groups for name in group["param_names"]}
    assert scale["head.linear.weight"] == scale["encoder.norm.weight"] == 1.0
    assert scale["encoder.blocks.1.mlp.fc1.weight"] == 0.5 and scale["encoder.pos_embed"] == 0.125
    assert len(scale) == len(list(trainer.model.parameters()))


def test_a_pretrained_run_starts_a_supervised_one(tiny: Tiny, workdir: Path) -> None:
    same = [f"model.name=vit model.patch_size=2 {' '.join(MODEL)}"][0].split()
    config = resolve(settings=[*same, *SHORT, "objective.mask_patch_size=2"])
    run = running.train(config, "pretrained")
    session = running.open_new_session(resolve(objective="classification", init=str(run), settings=[*MODEL]))
    notes = " ".join(session.init_notes)
    assert "objective mim there, objective classification of 10 class labels (0, 1, 2, ...) here" in notes
    stored = load_file(run / "checkpoints" / "best" / "model.safetensors")
    own = session.model.state_dict()
    name = "encoder.blocks.1.attn.qkv.weight"
    assert torch.equal(own[name], stored[name]) and "head.linear.weight" in own


def test_other_classes_start_with_a_new_head(workdir: Path) -> None:
    session = running.open_session(supervised())
    torch.nn.init.ones_(session.model.head.linear.weight)
    session.model.save_pretrained("weights")
    again = running.open_new_session(resolve(objective="classification", init="weights", settings=[*MODEL]))
    assert "head starts afresh" not in " ".join(again.init_notes)
    assert torch.equal(again.model.head.linear.weight, session.model.head.linear.weight)
    config = json.loads(Path("weights/config.json").read_text())
    config["labels"]["names"][9] = "nine"
    Path("weights/config.json").write_text(json.dumps(config))
    again = running.open_new_session(resolve(objective="classification", init="weights", settings=[*MODEL]))
    assert "head starts afresh" in " ".join(again.init_notes)
    assert not torch.equal(again.model.head.linear.weight, session.model.head.linear.weight)
