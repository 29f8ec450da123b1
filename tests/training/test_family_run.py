"""Whole runs of the masked-signal objectives: exact resume, what is reported, collapse, an objective from outside."""

import json
import runpy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from tests.training.stopping import dies_in_update
from unitrans.errors import ConfigError, RunError
from unitrans.objectives import get_objective, register_objective
from unitrans.training import run as running
from unitrans.training.callbacks import read_metrics
from unitrans.training.config import RunConfig, resolve
from unitrans.training.session import open_new_session
from unitrans.use.convert import convert

Tiny = Callable[..., RunConfig]
VIT = ("model.embed_dim=8", "model.depth=2", "model.num_heads=1", "train.max_steps=6", "train.eval_steps=3")
VIT += ("train.save_steps=2", "train.logging_steps=1", "train.per_device_train_batch_size=8")
SETTINGS = {
    "mae": ("objective.decoder_embed_dim=8", "objective.decoder_depth=1", "objective.decoder_num_heads=1"),
    "beit": ("objective.vocab_size=8",),
    "data2vec": ("objective.top_k=2", "objective.ema_start=0.5", "objective.ema_updates=4"),
}


def tiny_vit(objective: str, *settings: str) -> RunConfig:
    given = {setting.partition("=")[0] for setting in settings}
    base = [s for s in (*VIT, *SETTINGS[objective]) if s.partition("=")[0] not in given]
    return resolve(objective=objective, settings=[*base, *settings])


def weights(run: Path) -> dict[str, torch.Tensor]:
    return load_file(run / "checkpoints" / "latest" / "model.safetensors")


def values(run: Path) -> list[dict[str, float]]:
    measured = ("tokens_per_second", "eval_seconds")
    return [
        {key: value for key, value in row.items() if key not in measured}
        for row in read_metrics(run / "metrics.jsonl")
    ]


def cut(config: RunConfig) -> None:
    """A run that dies in update 6 and goes on from update 4."""
    with dies_in_update(6):
        running.train(config, "cut")
    running.resume("cut")


@pytest.mark.parametrize("objective", SETTINGS)
def test_runs_go_on_bit_for_bit(objective: str, workdir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The weights of a teacher and a codebook too; the report has the figures of simple predictors."""
    config = tiny_vit(objective)
    whole = running.train(config, "whole")
    with monkeypatch.context() as patch:
        patch.setattr(running, "report", lambda *args: None)
        cut(config)
    assert values(Path("cut")) == values(whole)
    want, got = weights(whole), weights(Path("cut"))
    assert want.keys() == got.keys()
    for name in want:
        assert torch.equal(want[name], got[name]), name
    if objective == "data2vec":
        assert int(want["head.updates"]) == 6
        moved = [name for name in want if name.startswith("encoder.") and want[name].numel() > 64]
        assert any(not torch.equal(want[name], want["head.teacher." + name[8:]]) for name in moved)
    summary = json.loads((whole / "summary.json").read_text())
    assert len(summary["predictors"]) >= 1
    pictures = {path.name for path in whole.glob("*.png")}
    assert pictures == {"curves.png"} | (set() if objective == "data2vec" else {"reconstructions.png"})


def test_a_teacher_and_an_average_are_both_saved(workdir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(running, "report", lambda *args: None)
    config = tiny_vit("data2vec", "train.ema_decay=0.9")
    whole = running.train(config, "whole")
    cut(config)
    want, got = weights(whole), weights(Path("cut"))
    assert all(torch.equal(want[name], got[name]) for name in want)


def test_visible_tokens_train_in_loader_workers(
    tiny: Tiny, workdir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The plans of a batch depend on its masks and are made where it is packed; the numbers do not depend on where."""
    monkeypatch.setattr(running, "report", lambda *args: None)
    visible = ("objective.encoder_tokens=visible", "objective.decoder_num_heads=2")
    here = running.train(tiny(*visible), "here")
    there = running.train(tiny(*visible, "train.dataloader_num_workers=2"), "there")
    assert values(here) == values(there) and len(values(here)) >= 3
    want, got = weights(here), weights(there)
    assert all(torch.equal(want[name], got[name]) for name in want)


def test_collapse_ends_the_run_with_a_sentence(workdir: Path) -> None:
    """A teacher that says the same of every token: positions and contents without effect."""
    config = tiny_vit("data2vec", "objective.min_target_variance=100", "train.max_steps=25")
    with pytest.raises(RunError, match=r"update 20: the targets have collapsed: .*\.min_target_variance=100"):
        running.train(config, "flat")


def test_a_codebook_larger_than_the_data_is_refused(workdir: Path) -> None:
    with pytest.raises(ConfigError, match=r"objective.vocab_size: expected at most the .* different patches"):
        running.train(tiny_vit("beit", "objective.vocab_size=20000"), "run")


def test_an_objective_from_outside_the_package(workdir: Path, capsys: Any) -> None:
    source = Path(__file__).with_name("toy_objective.py")
    assert len(source.read_text().splitlines()) < 60
    runpy.run_path(str(source))
    file = Path("toy.yaml")
    file.write_text(
        "objective: {name: patch_means, hidden: 20}\nmodel: {name: vit, patch_size: 1, image_size: 8}\n"
    )
    data = (
        "data.path=digits",
        "data.channels=1",
        "data.image_size=8",
        "data.crop_scale=null",
        "train.max_steps=40",
    )
    more = ("train.learning_rate=3e-3", "train.eval_steps=20", "model.embed_dim=16")
    settings = [
        s
        for s in VIT
        if s.partition("=")[0] not in {"model.embed_dim", "train.max_steps", "train.eval_steps"}
    ]
    run = running.train(resolve(config=str(file), settings=[*settings, *data, *more]), "run")
    summary = json.loads((run / "summary.json").read_text())
    assert summary["predictors"] == [
        {"name": "the mean of all pixels", "error": summary["of_mean"], "note": ""}
    ]
    assert summary["error"] < 0.9 * summary["of_mean"]
    assert "error on 90 held-out samples" in capsys.readouterr().out
    running.resume("run")


def test_names_of_objectives_are_unique() -> None:
    taken = type("Other", (get_objective("mim"),), {})
    with pytest.raises(ValueError, match="the name 'mim' is taken"):
        register_objective(taken)
    with pytest.raises(ValueError, match="expected the attribute 'name'"):
        register_objective(type("Nameless", (), {}))


def test_a_run_of_mae_is_fine_tuned_and_opened_by_transformers(
    workdir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from transformers import ViTMAEForPreTraining

    monkeypatch.setattr(running, "report", lambda *args: None)
    run = running.train(tiny_vit("mae"), "mae")
    convert(run, "hf", Path("hf"))
    theirs, info = ViTMAEForPreTraining.from_pretrained("hf", output_loading_info=True)
    assert not info["missing_keys"] and not info["unexpected_keys"]
    found = weights(run)
    assert torch.equal(theirs.vit.embeddings.cls_token, found["encoder.cls_token"])
    assert torch.equal(theirs.decoder.decoder_pred.weight, found["head.decoder.pred.weight"])
    convert(run, "official", Path("mae.safetensors"))
    official = load_file("mae.safetensors")
    assert torch.equal(
        official["decoder_blocks.0.mlp.fc1.weight"], found["head.decoder.blocks.0.mlp.fc1.weight"]
    )
    settings = ("model.name=vit", "model.patch_size=1", "model.pooling=mean", "model.final_norm=pooled")
    for init in ("mae", "hf"):
        session = open_new_session(resolve(objective="classification", init=init, settings=[*VIT, *settings]))
        got = session.model.state_dict()
        assert torch.equal(got["encoder.blocks.1.mlp.fc1.weight"], found["encoder.blocks.1.mlp.fc1.weight"])
        assert torch.equal(got["encoder.pos_embed"], found["encoder.pos_embed"])
        assert session.model.encoder.pos_embed.requires_grad
