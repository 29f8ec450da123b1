"""A run from its configuration to its report: what ``unitrans train`` does."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import torch
import torch.distributed as dist
from accelerate import PartialState

from unitrans.errors import ConfigError, InterruptedRunError
from unitrans.objectives import MaskedSignalModel
from unitrans.training import checkpoint as ckpt
from unitrans.training.callbacks import ProgressBar, RunLog, StopOnSignal, stop_signals
from unitrans.training.config import RunConfig, resolve
from unitrans.training.cost import introduce
from unitrans.training.environment import describe_environment
from unitrans.training.processes import end_group, failures, is_main, say, world_size
from unitrans.training.report import Judged, report
from unitrans.training.runs import (
    CONFIG_FILE,
    command_line,
    create_run_folder,
    find_run,
    write_json,
    write_text,
)
from unitrans.training.saving import load_weights
from unitrans.training.session import Session, make_trainer, open_new_session, open_session
from unitrans.training.trainer import UnitransTrainer


def train(config: RunConfig, output: str | None) -> Path:
    """Trains, evaluates and reports; returns the run folder. Raises InterruptedRunError after a signal."""
    session = open_new_session(config)
    if world_size() > 1:
        PartialState(cpu=config.train["use_cpu"] or not torch.cuda.is_available())
    run = shared_run_folder(output, config)
    if is_main():
        write_text(run / CONFIG_FILE, config.to_yaml())
        session.domain.keep(run, session.train_source)
        device = torch.device("cuda" if torch.cuda.is_available() and not config.train["use_cpu"] else "cpu")
        write_json(run / "environment.json", describe_environment(device))
    return _train(session, run, None)


def resume(folder: str) -> Path:
    """Goes on with a run from its newest checkpoint, bit for bit on a CPU with the same threads and processes."""
    run = find_run(folder)
    checkpoint = ckpt.latest_checkpoint(run)
    config = resolve(config=str(run / CONFIG_FILE))
    domain = config.get_domain()
    data, model = domain.resumed(config.data, config.model, run)
    config = replace(config, data=data, model=model)
    session = open_session(config)
    return _train(session, run, checkpoint)


def shared_run_folder(output: str | None, config: RunConfig) -> Path:
    """The run folder, made by the first process and known to all."""
    folder: list[Path | ConfigError | None] = [None]
    if is_main():
        try:
            folder[0] = create_run_folder(output, config.domain, config.objective["name"])
        except ConfigError as error:
            folder[0] = error
    if world_size() > 1:
        dist.broadcast_object_list(folder)
    if isinstance(folder[0], ConfigError):
        raise folder[0]
    assert folder[0] is not None
    return folder[0]


def _train(session: Session, run: Path, checkpoint: Path | None) -> Path:
    try:
        with failures(run):
            stop_signal = _run_to_report(session, run, checkpoint)
        end_group()
        if stop_signal is not None:
            raise InterruptedRunError(stop_signal)
        return run
    finally:
        for source in (session.train_source, session.validation_source):
            if source is not None:
                source.close()


def _run_to_report(session: Session, run: Path, checkpoint: Path | None) -> int | None:
    """None, or the signal that stopped the run before its report."""
    introduce(session, run, say)
    trainer = make_trainer(session, run, run)
    bar = ProgressBar(trainer)
    if is_main():
        for callback in (bar, RunLog(run, trainer)):
            trainer.add_callback(callback)
    trainer.add_callback(StopOnSignal(trainer))
    try:
        with stop_signals(trainer):
            trainer.train(resume_from_checkpoint=None if checkpoint is None else str(checkpoint))
    finally:
        bar.close()
    if trainer.stop_signal is not None:
        if is_main():
            write_skipped(trainer, session, run)
        say(f"stopped after update {trainer.state.global_step:,}; everything is saved. To go on:")
        say(f"  {command_line('train', '--resume', str(run))}")
        return trainer.stop_signal
    if trainer.state.global_step < session.max_steps:
        count = trainer.evaluations_without_best
        say(f"stopped early after update {trainer.state.global_step:,}: no better in {count} evaluations")
    checkpoints = run / "checkpoints"
    best = checkpoints / "best"
    if trainer.is_fsdp_enabled:  # from here on every process has a whole model
        trainer.model = MaskedSignalModel.create(session.model_config, session.objective).to(
            trainer.args.device
        )
    load_weights(trainer.model, best if best.exists() else checkpoints / "latest")
    judged = judge_parts(session, trainer)  # all processes together
    if is_main():
        report(session, trainer, run, judged, say)
        write_skipped(trainer, session, run)  # last: the simple predictors may have met more
    return None


def judge_parts(session: Session, trainer: UnitransTrainer) -> list[Judged]:
    """The chosen weights on the samples that chose them and, where the domain keeps some for that, on those that judge
    them, once."""
    judged = []
    parts = {"validation": session.validation_source, "test": session.train_source.test}
    for name, source in parts.items():
        if source is not None:
            metrics = trainer.judge(session.data(source))
            judged.append(Judged(name, source, metrics, trainer.collected))
    return judged


def write_skipped(trainer: UnitransTrainer, session: Session, run: Path) -> None:
    """skipped.txt: every sample that could not be read, with the reason; no file when there is none."""
    skipped = dict(session.train_source.skipped)
    if session.validation_source is not None:
        skipped |= dict(session.validation_source.skipped)
    skipped |= trainer.skipped
    if skipped:
        write_text(
            run / "skipped.txt", "".join(f"{name}\t{reason}\n" for name, reason in sorted(skipped.items()))
        )
        say(f"could not be read and left out: {len(skipped):,} (named in {run / 'skipped.txt'})")
