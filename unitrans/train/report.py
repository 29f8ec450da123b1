"""The end of a run: figures beside simple predictors, pictures, and what to type next."""

from __future__ import annotations

from collections.abc import Callable
from itertools import islice, pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from unitrans.domains.curves import draw_curves
from unitrans.train.callbacks import METRICS_FILE, read_metrics
from unitrans.train.data import VALIDATION, Skipped
from unitrans.train.random import sample_rng
from unitrans.train.runs import CONFIG_FILE, command_line, write_json
from unitrans.train.trainer import UnitransTrainer

if TYPE_CHECKING:
    from unitrans.train.run import Session

PICTURES = 16


def report(
    session: Session,
    trainer: UnitransTrainer,
    run: Path,
    metrics: dict[str, float] | None,
    say: Callable[[str], None],
) -> None:
    """Says how good the model is, draws reconstructions.png and curves.png, writes summary.json.

    metrics: of the held-out samples, None when nothing was held out.
    """
    step = trainer.state.best_global_step or trainer.state.global_step
    result: dict[str, Any] = {"step": step}
    if metrics is None:
        say(
            "\nNothing was held out (data.validation=none), so there is no figure for samples it has not seen."
        )
    else:
        result |= _compare(session, metrics, say)
    write_json(run / "summary.json", result)
    files = _pictures(session, trainer, run)
    draw_curves(run / "curves.png", read_metrics(run / METRICS_FILE))
    names = ", ".join(path.name for path in [*files, run / "curves.png"])
    weights = "best" if trainer.state.best_global_step else "latest"
    say(f"\nThe run is in {run}: {names}, metrics.jsonl, checkpoints/{weights}")
    say("Next:")
    commands = {
        command_line("--logdir", str(run), program="tensorboard"): "the curves in a browser",
        command_line(
            "train", "--config", str(run / CONFIG_FILE), "train.seed=1"
        ): "the same with another seed",
        command_line("train", "--print-config"): "every setting; --data FOLDER takes your own data",
    }
    width = max(map(len, commands))
    for command, text in commands.items():
        say(f"  {command:<{width}}  # {text}")


def _compare(session: Session, metrics: dict[str, float], say: Callable[[str], None]) -> dict[str, Any]:
    """The model beside the simple predictors of its domain."""
    seed, objective = session.settings["seed"], session.objective
    figures = {name.removeprefix("eval_"): value for name, value in metrics.items() if name != "eval_seconds"}
    baselines = session.domain.baselines(
        session.train_source,
        session.validation_source,
        objective,
        session.model_config,
        lambda sample_id: sample_rng(seed, None, sample_id, "mask"),
    )
    say("\n" + session.domain.summary(figures, baselines, objective))
    if objective.note:
        say(f"Note: {objective.note}.")
    predictors = [{"name": b.name, objective.headline: b.value, "note": b.note} for b in baselines]
    return {**figures, "predictors": predictors}


@torch.no_grad()
def _pictures(session: Session, trainer: UnitransTrainer, run: Path) -> list[Path]:
    """What was hidden and predicted, for held-out samples (training samples when none is held out).

    They are evenly spaced, so that folders of classes all have their share; the first ones of a stream.
    """
    source = session.validation_source or session.train_source
    data, collate = session.data(source), trainer.data_collator.for_validation()
    trainer.model.eval()
    samples, predictions = [], []
    last = min(len(data), PICTURES) if source.in_order else len(data)
    for start, stop in pairwise(last * part // PICTURES for part in range(PICTURES + 1)):
        readable = (
            s for s in (data[VALIDATION, i] for i in range(start, stop)) if not isinstance(s, Skipped)
        )
        for sample in islice(readable, 1):
            samples.append(sample)
            _, output = trainer.run_model(trainer.model, collate([sample]))
            predictions.append(output["prediction"].float().cpu())
    return session.domain.report(run, source, samples, predictions, session.objective, session.model_config)
