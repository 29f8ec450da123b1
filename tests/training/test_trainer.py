"""The loss of an update, evaluation, checkpoints, going on, and what stops a run."""

import json
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from tests.training.stopping import dies_in_update, in_update
from unitrans.errors import ConfigError, InterruptedRunError, NonFiniteError, RunError
from unitrans.objectives import MaskedSignalModel
from unitrans.training import checkpoint as ckpt
from unitrans.training import report as reporting
from unitrans.training import run as running
from unitrans.training.callbacks import read_metrics, stop_signals
from unitrans.training.config import RunConfig, resolve
from unitrans.training.cost import dry_run
from unitrans.training.data import VALIDATION
from unitrans.training.loop import Trainer
from unitrans.training.observers import Observer

Tiny = Callable[..., RunConfig]


@pytest.fixture
def no_report(monkeypatch: pytest.MonkeyPatch) -> None:
    """For tests of the training itself: without the predictors and pictures at the end."""
    monkeypatch.setattr(running, "report", lambda *_: None)


def gradients_of_first_update(
    config: RunConfig, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> dict[str, torch.Tensor]:
    """The gradients that clipping sees in the first update."""
    seen: dict[str, torch.Tensor] = {}

    def grab(self: Trainer) -> float:
        seen.update({name: p.grad.clone() for name, p in self.model.named_parameters() if p.grad is not None})
        raise StopIteration

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "clip", grab)
        trainer = running.make_trainer(running.open_session(config), None)
        with pytest.raises(StopIteration):
            trainer.train()
    return seen


def test_accumulation_equals_one_big_batch(
    tiny: Tiny, workdir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shape = "train.per_device_train_batch_size={}", "train.gradient_accumulation_steps={}"
    one = gradients_of_first_update(tiny(shape[0].format(12), shape[1].format(1)), workdir, monkeypatch)
    four = gradients_of_first_update(tiny(shape[0].format(3), shape[1].format(4)), workdir, monkeypatch)
    assert one.keys() == four.keys() and len(one) > 20
    largest = max(float(gradient.abs().max()) for gradient in one.values())
    for name, gradient in one.items():
        torch.testing.assert_close(four[name], gradient, rtol=0, atol=1e-6 * largest, msg=name)


def test_the_loss_is_the_mean_over_the_targets_of_the_update(
    tiny: Tiny, workdir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Micro-batches with unequal numbers of targets count by their targets, and gradients are those of the mean."""
    config = tiny(
        "train.gradient_accumulation_steps=3", "train.per_device_train_batch_size=2", "train.max_steps=1"
    )
    session = running.open_session(config)
    corrupt = session.objective.corrupt

    def uneven(sample: dict[str, Any], rng: Any) -> dict[str, Any]:
        sample = corrupt(sample, rng)
        return sample | {"mask": sample["mask"] & (torch.arange(8) < int(sample["id"][-1]))}

    session.objective.corrupt = uneven
    trainer = running.make_trainer(session, None)
    keys = session.sampler.global_batch(0)
    batch = trainer.collate([trainer.train_data[key] for key in keys])
    model = MaskedSignalModel.create(session.model_config, session.objective)
    model.load_state_dict(session.model.state_dict())
    output = model(patches=batch["patches"], plans=batch["plans"], mask=batch["mask"])
    expected = output.loss_sum / output.num_targets
    expected.backward()
    norm = torch.nn.utils.clip_grad_norm_(model.parameters(), 1e9)
    rows: list[dict[str, float]] = []
    monkeypatch.setattr(trainer, "log", rows.append)
    trainer.settings["logging_steps"] = 1
    trainer.train()
    assert rows[0]["loss"] == pytest.approx(float(expected.detach()), rel=1e-6)
    assert rows[0]["grad_norm"] == pytest.approx(float(norm), rel=1e-5)


def test_a_run_leaves_everything_it_promises(
    tiny: Tiny, workdir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = tiny()
    run = running.train(config, None)
    assert run == Path("runs/vision-mim-1")
    names = {path.name for path in run.iterdir()}
    assert names == {
        *("config.yaml", "environment.json", "metrics.jsonl", "summary.json", "tensorboard", "checkpoints"),
        *("data.json", "reconstructions.png", "curves.png"),
    }
    assert (run / "config.yaml").read_text() == config.to_yaml()
    rows = read_metrics(run / "metrics.jsonl")
    assert [row["step"] for row in rows if "loss" in row] == [2, 4, 6]
    assert [row["step"] for row in rows if "eval_loss" in row] == [3, 6]
    assert {"loss", "learning_rate", "grad_norm", "tokens_per_second", "epoch"} <= rows[0].keys()
    summary = json.loads((run / "summary.json").read_text())
    evaluations = {row["step"]: row for row in rows if "eval_loss" in row}
    assert summary["l1"] == pytest.approx(evaluations[summary["step"]]["eval_l1"], rel=1e-6)
    assert {predictor["name"] for predictor in summary["predictors"]} >= {"mean image per position"}
    best = MaskedSignalModel.from_pretrained(run / "checkpoints" / "best")
    assert best.config.encoder["embed_dim"] == 8
    assert not hasattr(best.config, "use_cache")
    printed = capsys.readouterr().out
    assert "this model" in printed and "linear-Gaussian" in printed and "unitrans train --config" in printed


def test_held_out_samples_are_judged_in_data_units_with_fixed_masks(tiny: Tiny, workdir: Path) -> None:
    session = running.open_session(tiny("train.per_device_eval_batch_size=7"))
    trainer = running.make_trainer(session, workdir)
    first, second = trainer.judge(), trainer.judge()
    assert first["eval_l1"] == second["eval_l1"] and first["eval_samples"] == len(session.validation_source)
    total, count = 0.0, 0
    for index in range(len(session.validation_source)):  # one by one, by hand
        sample = trainer.validation_data[VALIDATION, index]
        batch = trainer.collate([sample])
        with torch.no_grad():
            output = session.model(patches=batch["patches"], plans=batch["plans"], mask=batch["mask"])
        std = session.train_source.std[0]
        total += float(((output.prediction - batch["patches"]).abs() * std)[batch["mask"]].sum())
        count += int(batch["mask"].sum())
    assert first["eval_l1"] == pytest.approx(total / count, rel=1e-5)
    assert first["eval_loss"] == pytest.approx(total / count / std, rel=1e-5)


def final_state(run: Path) -> tuple[dict[str, torch.Tensor], list[tuple[Any, ...]]]:
    rows = read_metrics(run / "metrics.jsonl")
    keys = ("step", "loss", "learning_rate", "grad_norm", "eval_loss", "eval_l1")
    return load_file(run / "checkpoints" / "latest" / "model.safetensors"), [
        tuple(row.get(key) for key in keys) for row in rows
    ]


def assert_same_run(first: Path, second: Path) -> None:
    (weights, rows), (other_weights, other_rows) = final_state(first), final_state(second)
    assert rows == other_rows
    assert weights.keys() == other_weights.keys()
    assert all(torch.equal(weights[name], other_weights[name]) for name in weights)


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.usefixtures("no_report")
def test_a_run_that_died_goes_on_bit_for_bit(
    workers: int, tiny: Tiny, workdir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Dropout and drop-path draw from the saved generator; the log is cut and continued; workers do not matter."""
    settings = ("model.drop_rate=0.1", "model.drop_path_rate=0.2", "train.gradient_accumulation_steps=2")
    settings += ("train.max_steps=7", "train.save_steps=2", "data.crop_scale=[0.5, 1.0]", "data.flip=true")
    whole = running.train(tiny(*settings), "whole")
    config = tiny(*settings, f"train.dataloader_num_workers={workers}")
    with dies_in_update(6):
        running.train(config, "cut")
    assert (Path("cut") / "checkpoints" / "latest").resolve().name == "step-0000004"
    running.resume("cut")
    assert_same_run(whole, Path("cut"))


@pytest.mark.usefixtures("no_report")
def test_a_signal_saves_and_the_run_goes_on_bit_for_bit(
    tiny: Tiny, workdir: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    whole = running.train(tiny(), "whole")
    judge = Trainer.judge

    def stopped_in_evaluation(self: Trainer) -> dict[str, float]:
        signal.raise_signal(signal.SIGTERM)
        return judge(self)

    with (
        in_update(1, lambda: signal.raise_signal(signal.SIGINT)),
        pytest.raises(InterruptedRunError) as caught,
    ):
        running.train(tiny(), "cut")
    assert caught.value.signum == signal.SIGINT
    assert "unitrans train --resume cut" in capsys.readouterr().out
    assert (Path("cut") / "checkpoints" / "latest").resolve().name == "step-0000001"
    with monkeypatch.context() as patch:  # the evaluation that is broken off comes first when the run goes on
        patch.setattr(Trainer, "judge", stopped_in_evaluation)
        with pytest.raises(InterruptedRunError) as caught:
            running.resume("cut")
    assert caught.value.signum == signal.SIGTERM
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
    running.resume("cut")
    assert_same_run(whole, Path("cut"))


def test_a_finished_run_can_be_reported_again(tiny: Tiny, workdir: Path) -> None:
    run = running.train(tiny(), None)
    before = final_state(run)[1]
    (run / "summary.json").unlink()
    running.resume("")
    assert (run / "summary.json").exists()
    assert final_state(run)[1] == before


@pytest.mark.usefixtures("no_report")
def test_links_that_a_killed_writer_left_behind_are_moved(tiny: Tiny, workdir: Path) -> None:
    run = running.train(tiny(), None)
    links = {name: run / "checkpoints" / name for name in ("latest", "best")}
    expected = {name: link.readlink() for name, link in links.items()}
    for link in links.values():
        ckpt.point(link, "step-0000003")
    assert set(expected.values()) == {Path("step-0000006")}
    running.resume(str(run))
    assert {name: link.readlink() for name, link in links.items()} == expected


@pytest.mark.usefixtures("no_report")
def test_the_configuration_of_a_run_repeats_it(tiny: Tiny, workdir: Path) -> None:
    first = running.train(tiny(), None)
    second = running.train(resolve(config=str(first / "config.yaml")), None)
    assert second == Path("runs/vision-mim-2")
    assert_same_run(first, second)


@pytest.mark.usefixtures("no_report")
def test_early_stopping_and_the_best_checkpoint(
    tiny: Tiny, workdir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    losses = iter([3.0, 1.0, 2.0, 2.0, 2.0])

    def judged(self: Trainer, *_: Any) -> dict[str, float]:
        return {"eval_loss": next(losses), "eval_l1": 0.1, "eval_samples": 1}

    monkeypatch.setattr(Trainer, "judge", judged)
    settings = ("train.max_steps=20", "train.eval_steps=2", "train.early_stopping_patience=2")
    run = running.train(tiny(*settings, "train.save_steps=3", "train.save_total_limit=1"), None)
    assert (run / "checkpoints" / "best").resolve().name == "step-0000004"
    assert (run / "checkpoints" / "latest").resolve().name == "step-0000008"
    folders = {path.name for path in (run / "checkpoints").iterdir() if not path.is_symlink()}
    assert folders == {"step-0000004", "step-0000008"}
    before = final_state(run)[1]
    monkeypatch.setattr(Trainer, "judge", lambda *_: {})
    running.resume(str(run))  # what has stopped early does not go on
    assert final_state(run)[1] == before


@pytest.mark.usefixtures("no_report")
def test_a_full_disk_leaves_the_earlier_checkpoint(
    tiny: Tiny, workdir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = running.train(tiny(), "whole")
    save = torch.save

    def full(value: Any, path: Any, *args: Any) -> None:
        if "0000006" in str(path) and "optimizer" in str(path):
            raise OSError(28, "No space left on device")
        save(value, path, *args)

    with monkeypatch.context() as patch:
        patch.setattr(torch, "save", full)
        with pytest.raises(
            RunError, match=r"update 6 cannot be written .*No space left.* go on with --resume cut"
        ):
            running.train(tiny(), "cut")
    assert [path.name for path in Path("cut/checkpoints").glob("*step*")] == ["step-0000003"]
    running.resume("cut")
    assert_same_run(whole, Path("cut"))


def test_the_second_signal_ends_the_process_at_once(
    tiny: Tiny, workdir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    codes: list[int] = []
    monkeypatch.setattr("os._exit", codes.append)
    trainer = running.make_trainer(running.open_session(tiny()), None)
    with stop_signals(trainer):
        signal.raise_signal(signal.SIGINT)
        assert trainer.stop_signal == signal.SIGINT and codes == []
        signal.raise_signal(signal.SIGINT)
    assert codes == [130]


def test_a_short_run_is_in_the_log(tiny: Tiny, workdir: Path) -> None:
    run = running.train(tiny("train.logging_steps=100", "train.max_steps=3"), None)
    assert [row["step"] for row in read_metrics(run / "metrics.jsonl") if "loss" in row] == [3]


def test_a_loss_that_is_not_a_number_stops_the_run(
    tiny: Tiny, workdir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    session = running.open_session(tiny("train.gradient_accumulation_steps=2"))
    corrupt, (_, poisoned) = session.objective.corrupt, session.sampler.global_batch(1)[3]
    name = session.train_source.ids[poisoned]

    def poison(sample: dict[str, Any], rng: Any) -> dict[str, Any]:
        sample = corrupt(sample, rng)
        return sample | {"image": sample["image"] * float("nan")} if sample["id"] == name else sample

    session.objective.corrupt = poison
    Path("out").mkdir()
    trainer = running.make_trainer(session, Path("out"))
    with pytest.raises(NonFiniteError) as caught:
        trainer.train()
    message = str(caught.value)
    assert (
        f"update 2: the loss is nan; learning rate {session.schedule(1):.3g}" in message and name in message
    )
    record = json.loads(Path("out/nonfinite-0.json").read_text())
    assert record["step"] == 2 and name in record["sample_ids"]
    assert len(record["sample_ids"]) == 8  # only the micro-batch that is not finite


def test_a_gradient_that_is_not_a_number_stops_the_run(
    tiny: Tiny, workdir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer = running.make_trainer(running.open_session(tiny()), None)
    trainer.model.head.mask_token.register_hook(lambda gradient: gradient * float("inf"))
    with pytest.raises(NonFiniteError, match=r"update 1: the norm of the gradient is (inf|nan).*digits/"):
        trainer.train()


def broken(source: Any, names: set[str]) -> None:
    load = source.load

    def loads(index: int) -> Any:
        if source.ids[index] in names:
            source.skip(source.ids[index], "it is broken")
            return None
        return load(index)

    source.load = loads


@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.usefixtures("no_report")
def test_samples_that_cannot_be_read_are_named_and_left_out(
    workers: int, tiny: Tiny, workdir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = tiny(f"train.dataloader_num_workers={workers}", "train.max_steps=2")
    session = running.open_session(config)
    micro = session.sampler.micro_batches(0, 0)[0]
    names = {session.train_source.ids[index] for _, index in micro[:3]} | {session.validation_source.ids[0]}
    broken(session.train_source, names)
    broken(session.validation_source, names)
    Path("out").mkdir()
    running._train(session, Path("out"), None)
    listed = dict(line.split("\t") for line in Path("out/skipped.txt").read_text().splitlines())
    assert listed == dict.fromkeys(names, "it is broken")
    shown = capsys.readouterr().err
    assert all(f"skipped {name}: it is broken" in shown for name in names)


def test_a_micro_batch_without_a_readable_sample_counts_nothing(tiny: Tiny, workdir: Path) -> None:
    session = running.open_session(tiny("train.gradient_accumulation_steps=2", "train.max_steps=1"))
    first, _ = session.sampler.micro_batches(0, 0)
    broken(session.train_source, {session.train_source.ids[index] for _, index in first})
    trainer = running.make_trainer(session, None)
    trainer.train()
    assert trainer.state.global_step == 1 and len(trainer.state.skipped) == 8


def test_an_update_without_a_readable_sample_changes_no_weight(tiny: Tiny, workdir: Path) -> None:
    session = running.open_session(tiny("train.max_steps=2"))
    assert not set(session.sampler.global_batch(0)) & set(session.sampler.global_batch(1))
    broken(
        session.train_source,
        {session.train_source.ids[index] for _, index in session.sampler.global_batch(1)},
    )
    trainer = running.make_trainer(session, None)
    after: list[dict[str, torch.Tensor]] = []

    class Keep(Observer):
        def on_update(self, trainer: Any) -> None:
            after.append({name: p.detach().clone() for name, p in trainer.model.named_parameters()})

    trainer.observers.append(Keep())
    trainer.train()
    assert trainer.state.global_step == 2 and len(trainer.state.skipped) == 8
    assert all(torch.equal(after[0][name], after[1][name]) for name in after[0])


def test_a_run_gives_up_when_no_sample_can_be_read(
    tiny: Tiny, workdir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("unitrans.training.loop.MAX_UNREADABLE", 16)
    session = running.open_session(tiny("train.max_steps=5"))
    broken(session.train_source, set(session.train_source.ids))
    trainer = running.make_trainer(session, None)
    with pytest.raises(
        RunError, match="update 2: there is nothing to predict in the last 16 samples, and 16 could"
    ):
        trainer.train()


def test_pictures_are_of_evenly_spaced_samples(
    tiny: Tiny, workdir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    session = running.open_session(tiny("train.max_steps=1"))
    trainer = running.make_trainer(session, workdir)
    source = session.validation_source
    assert source is not None
    drawn: list[str] = []

    def note(_: Path, __: Any, samples: list[dict[str, Any]], *___: Any) -> list[Path]:
        drawn.extend(sample["id"] for sample in samples)
        return []

    monkeypatch.setattr(type(session.domain), "report", staticmethod(note))
    monkeypatch.setattr(reporting, "PICTURES", 4)
    starts = [len(source) * part // 4 for part in range(4)]
    broken(source, {source.ids[starts[2]]})  # the next one takes its place
    reporting._pictures(session, trainer, workdir)
    assert drawn == [
        source.ids[starts[0]],
        source.ids[starts[1]],
        source.ids[starts[2] + 1],
        source.ids[starts[3]],
    ]
    monkeypatch.setattr(reporting, "PICTURES", 10_000)
    drawn.clear()
    reporting._pictures(session, trainer, workdir)
    assert drawn == [name for name in source.ids if name != source.ids[starts[2]]]


@pytest.mark.usefixtures("no_report")
def test_bf16_trains(tiny: Tiny, workdir: Path) -> None:
    run = running.train(tiny("train.bf16=true", "train.max_steps=3"), None)
    weights = load_file(run / "checkpoints" / "latest" / "model.safetensors")
    assert {tensor.dtype for tensor in weights.values()} == {torch.float32}
    assert read_metrics(run / "metrics.jsonl")[-1]["eval_loss"] > 0


def test_nothing_held_out(tiny: Tiny, workdir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = running.train(tiny("data.validation=none"), None)
    assert "Nothing was held out" in capsys.readouterr().out
    assert not (run / "checkpoints" / "best").exists() and (run / "reconstructions.png").exists()


def test_a_dry_run_says_the_cost_and_writes_nothing(
    tiny: Tiny, workdir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    dry_run(tiny("train.max_steps=1000"))
    printed = capsys.readouterr().out
    assert (
        "1,000 updates" in printed and "hours" in printed and "GiB" in printed and "1,707 samples" in printed
    )
    assert list(workdir.iterdir()) == []


def test_the_prediction_depends_on_what_is_visible(tiny: Tiny, workdir: Path) -> None:
    """Visible patches of other images give another prediction: the model looks at them."""
    session = running.open_session(tiny("train.max_steps=1"))
    trainer = running.make_trainer(session, workdir)
    samples = [trainer.validation_data[VALIDATION, index] for index in range(4)]
    swapped = [
        sample | {"image": torch.where(sample["mask"], sample["image"], other["image"])}
        for sample, other in zip(samples, [*samples[1:], samples[0]], strict=True)
    ]
    outputs = [trainer.run_model(trainer.model, trainer.collate(part))[1] for part in (samples, swapped)]
    mask = torch.cat([sample["mask"].flatten() for sample in samples])
    difference = (outputs[0].prediction - outputs[1].prediction)[mask].abs()
    assert float(difference.max()) > 1e-4


@pytest.mark.usefixtures("no_report")
def test_other_sizes_of_a_run_are_refused_when_going_on(tiny: Tiny, workdir: Path) -> None:
    run = running.train(tiny(), None)
    text = (run / "config.yaml").read_text()
    (run / "config.yaml").write_text(text.replace("embed_dim: 8", "embed_dim: 16"))
    with pytest.raises(ConfigError, match="cannot be loaded into this model"):
        running.resume(str(run))


def stop_at_evaluations(monkeypatch: pytest.MonkeyPatch, update: int, times: int) -> None:
    """The first so many evaluations behind this update get a SIGTERM."""
    judge, left = Trainer.judge, [None] * times

    def interrupted(self: Trainer, *args: Any) -> dict[str, float]:
        if self.state.global_step == update and left:
            left.pop()
            signal.raise_signal(signal.SIGTERM)
        return judge(self, *args)

    monkeypatch.setattr(Trainer, "judge", interrupted)


STOPPED = ("train.max_steps=24", "train.eval_steps=8", "train.save_steps=24", "train.save_total_limit=2")


@pytest.mark.usefixtures("no_report")
def test_a_checkpoint_that_was_set_aside_when_its_writer_was_killed_comes_back(
    tiny: Tiny, workdir: Path
) -> None:
    run = running.train(tiny(), None)
    folder = run / "checkpoints"
    before = final_state(run)
    (folder / "step-0000006").rename(folder / ".step-0000006.old.tmp")  # between the renamings of seal()
    running.resume(str(run))
    assert final_state(run)[1] == before[1]
    assert all(torch.equal(before[0][name], tensor) for name, tensor in final_state(run)[0].items())
