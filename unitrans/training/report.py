"""The end of a run: figures beside simple predictors, pictures, and what to type next."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import islice, pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from unitrans.domains.base import Baseline, summarise
from unitrans.domains.curves import draw_curves
from unitrans.training.callbacks import METRICS_FILE, read_metrics
from unitrans.training.data import VALIDATION, Skipped
from unitrans.training.loop import Trainer
from unitrans.training.random import sample_rng
from unitrans.training.runs import CONFIG_FILE, SUMMARY_FILE, command_line, write_json

if TYPE_CHECKING:
    from unitrans.training.run import Session

PICTURES = 16


@dataclass(frozen=True)
class Judged:
    """A part of the data that was not trained on: its name, what the model reached there (``eval_`` and the name of a
    figure), and what the figures were made of."""

    name: str
    source: Any
    metrics: dict[str, float]
    collected: dict[str, torch.Tensor]


def report(
    session: Session,
    trainer: Trainer,
    run: Path,
    judged: Sequence[Judged],
    say: Callable[[str], None],
) -> None:
    """Says how good the model is, draws reconstructions.png and curves.png, writes summary.json.

    judged: the parts of the data that were not trained on; the first is the validation part where there is one.
    """
    step = trainer.state.best_global_step or trainer.state.global_step
    result: dict[str, Any] = {"step": step}
    files: list[Path] = []
    if not judged:
        say(
            "\nNothing was held out (data.validation=none), so there is no figure for samples it has not seen."
        )
    for part in judged:
        found: dict[str, Any] = {}
        for view, own in _by_domain(session, part):
            if own is not part:
                say(f"\n{view.domain.name}:")
            figures = _compare(view, own, say)
            drawn, details = _details(view, run, own, say)
            files += drawn
            found |= figures | details if own is part else {view.domain.name: figures | details}
        if "loss" not in found:  # of several domains
            found["loss"] = part.metrics["eval_loss"]
        result |= found if part.name == "validation" else {part.name: found}
    write_json(run / SUMMARY_FILE, result)
    for view in session.by_domain().values():
        files += _pictures(view, trainer, run)
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


def _by_domain(session: Session, part: Judged) -> list[tuple[Session, Judged]]:
    """A run of several domains and what it reached, domain by domain; of one domain, as they are."""
    views = session.by_domain()
    if not session.objective.joint:
        return [(session, part)]
    found = []
    for name, view in views.items():
        source = part.source.sources.get(name)
        if source is None:
            continue
        start, own = f"eval_{name}_", f"{name}.own."
        metrics = {
            "eval_" + key.removeprefix(start): v for key, v in part.metrics.items() if key.startswith(start)
        }
        metrics["eval_samples"] = len(source)
        collected = {key.removeprefix(own): v for key, v in part.collected.items() if key.startswith(own)}
        found.append((view, Judged(part.name, source, metrics, collected)))
    return found


def _details(
    session: Session, run: Path, part: Judged, say: Callable[[str], None]
) -> tuple[list[Path], dict[str, Any]]:
    """What the domain has to say about all predictions for a part, where it has."""
    if session.objective.predicts not in session.domain.judges:
        return [], {}
    files, found = session.domain.details(run, part.name, part.collected, session.objective)
    intervals = found.get("intervals", {})
    if session.objective.headline in intervals:
        low, high = intervals[session.objective.headline]
        say(f"95 % of resamples of these samples: {session.objective.headline} {low:.4f} to {high:.4f}.")
    targets = found.get("targets", {})
    if len(targets) > 1:
        for name, figures in targets.items():
            say(f"  {name}: MAE {figures['mae']:.4g}, RMSE {figures['rmse']:.4g}")
    return files, found


def _compare(session: Session, part: Judged, say: Callable[[str], None]) -> dict[str, Any]:
    """The model beside the simple predictors of its domain."""
    metrics = part.metrics
    seed, objective = session.settings["seed"], session.objective
    figures = {name.removeprefix("eval_"): value for name, value in metrics.items() if name != "eval_seconds"}
    baselines = [Baseline(words, figures[name]) for name, words in objective.beside.items()]
    if objective.predicts in session.domain.judges:
        baselines += session.domain.baselines(
            session.train_source,
            part.source,
            objective,
            session.model_config,
            lambda sample_id: sample_rng(seed, None, sample_id, "mask"),
        )
    if part.name != "validation":
        say(f"\nThe {part.name} part, judged once:")
    say(("\n" if part.name == "validation" else "") + _summary(session, figures, baselines))
    if objective.note and part.name == "validation":
        say(f"Note: {objective.note}.")
    predictors = [{"name": b.name, objective.headline: b.value, "note": b.note} for b in baselines]
    return {**figures, "predictors": predictors}


def _summary(session: Session, figures: dict[str, Any], baselines: list[Baseline]) -> str:
    """The figures beside those of simple predictors, in the words of the domain where it knows what is predicted."""
    objective = session.objective
    if objective.predicts in session.domain.judges:
        return session.domain.summary(figures, baselines, objective)
    return summarise(figures, baselines, objective, "samples")


@torch.no_grad()
def _pictures(session: Session, trainer: Trainer, run: Path) -> list[Path]:
    """What was hidden and predicted, for held-out samples of a domain (training samples when none is held out).

    They are evenly spaced, so that folders of classes all have their share; the first ones of a stream.
    """
    if session.objective.predicts not in session.domain.judges | session.domain.draws:
        return []
    source = session.validation_source or session.train_source
    data, collate = session.data(source), trainer.collate.for_validation()
    trainer.model.eval()
    domain: str = session.domain.name
    samples, predictions = [], []
    last = min(len(data), PICTURES) if source.in_order else len(data)
    for start, stop in pairwise(last * part // PICTURES for part in range(PICTURES + 1)):
        readable = (
            s for s in (data[VALIDATION, i] for i in range(start, stop)) if not isinstance(s, Skipped)
        )
        for sample in islice(readable, 1):
            samples.append(sample)
            _, output = trainer.run_model(trainer.model, collate([sample | {"domain": domain}]))
            output = output if output.get("parts") is None else output["parts"][domain]
            predictions.append(output["prediction"].float().cpu())
    return session.domain.report(run, source, samples, predictions, session.objective, session.model_config)
