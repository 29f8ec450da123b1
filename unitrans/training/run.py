"""A run from its configuration to its report: what ``unitrans train`` does."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path

from unitrans.errors import InterruptedRunError
from unitrans.nn import products
from unitrans.objectives import MaskedSignalModel
from unitrans.training import checkpoint as ckpt
from unitrans.training import fingerprint
from unitrans.training.callbacks import ProgressBar, RunLog, stop_signals
from unitrans.training.config import RunConfig, resolve
from unitrans.training.cost import introduce
from unitrans.training.environment import describe_environment
from unitrans.training.failures import failures
from unitrans.training.lock import hold
from unitrans.training.loop import Trainer
from unitrans.training.processes import end_group, is_main, on_main, place, say, world_size
from unitrans.training.report import Judged, report
from unitrans.training.runs import (
    CONFIG_FILE,
    command_line,
    create_run_folder,
    find_run,
    write_json,
    write_text,
)
from unitrans.training.saving import load_weights, read_progress
from unitrans.training.session import Session, keep_global_batch, make_trainer, open_new_session, open_session


def train(config: RunConfig, output: str | None, like: Path | None = None, accept: bool = False) -> Path:
    """Trains, evaluates and reports; returns the run folder. Raises InterruptedRunError after a signal.

    like: a run that shares its data with this one, and what it derived from them. accept: see ``resume``.
    """
    session = open_new_session(config, like)
    if like is not None:
        fingerprint.compare(like, session, accept)
    device = place(config.train["use_cpu"])
    run = shared_run_folder(output, config)
    with failures(run):
        if is_main():
            write_text(run / CONFIG_FILE, config.to_yaml())
            session.domain.keep(run, session.train_source)
            fingerprint.remember(run, session)
            write_json(run / "environment.json", describe_environment(device))
    with sole_use(run):
        return _train(session, run, None)


def resume(folder: str | Path, accept_changed_data: bool = False) -> Path:
    """Goes on with a run from its newest checkpoint, bit for bit on a CPU with the same threads and processes.

    accept_changed_data: also where its data are others than when it began; ConfigError says what has changed.
    """
    run = find_run(str(folder))
    config = recipe = resolve(config=str(run / CONFIG_FILE))
    place(config.train["use_cpu"])
    with sole_use(run):
        checkpoint = ckpt.latest_checkpoint(run)
        progress = read_progress(checkpoint)
        saved_by = progress["world_size"]
        train = keep_global_batch(config.train, saved_by, progress.get("micro_batches"))
        config = replace(config, train=train)
        if saved_by != world_size():
            say(
                f"saved by {saved_by} processes, goes on with {world_size()}: updates see the same samples, dropout "
                "and drop path start again from seed, update and rank"
            )
        domain = config.get_domain()
        data, model = domain.resumed(config.data, config.model, run)
        config = replace(config, data=data, model=model)
        session = open_session(config, run)
        fingerprint.compare(run, session, accept_changed_data)
        fingerprint.remind(run, session)
        session.recipe = recipe
        line, sentence = products.recorded(progress.get("products"))
        if sentence is not None:
            say(sentence)
        with products.follow(line):
            return _train(session, run, checkpoint)


def shared_run_folder(output: str | None, config: RunConfig) -> Path:
    """The run folder, made by the first process and known to all."""
    folder: Path = on_main(lambda: create_run_folder(output, config.domain, config.objective["name"]))
    return folder


@contextmanager
def sole_use(run: Path) -> Iterator[None]:
    """Inside, no other command trains in ``run``. ConfigError, in all processes, where one does."""
    with ExitStack() as stack:
        kind = on_main(lambda: stack.enter_context(hold(run)))
        say(f"{run} is held by {kind}")
        yield


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
    trainer = make_trainer(session, run)
    bar = ProgressBar(trainer)
    if is_main():
        trainer.observers += [bar, RunLog(run)]
    try:
        with stop_signals(trainer):
            trainer.train(checkpoint)
    finally:
        bar.close()
    if trainer.stop_signal is not None:
        if is_main():
            write_skipped(trainer, session, run)
        say(f"stopped after update {trainer.state.global_step:,}; everything is saved. To go on:")
        say(f"  {command_line('train', '--resume', str(run))}")
        return trainer.stop_signal
    if trainer.state.global_step < session.max_steps:
        count = trainer.state.evaluations_without_best
        say(f"stopped early after update {trainer.state.global_step:,}: no better in {count} evaluations")
    checkpoints = run / "checkpoints"
    best = checkpoints / "best"
    if session.settings["fsdp"]:  # from here on every process has a whole model
        trainer.model = MaskedSignalModel.create(session.model_config, session.objective)
        trainer.model.to(trainer.device)
    load_weights(trainer.model, best if best.exists() else checkpoints / "latest")
    judged = judge_parts(session, trainer)  # all processes together
    if is_main():
        report(session, trainer, run, judged, say)
        write_skipped(trainer, session, run)  # last: the simple predictors may have met more
    return None


def judge_parts(session: Session, trainer: Trainer) -> list[Judged]:
    """The chosen weights on the samples that chose them and, where the domain keeps some for that, on those that judge
    them, once."""
    judged = []
    parts = {"validation": session.validation_source, "test": session.train_source.test}
    for name, source in parts.items():
        if source is not None:
            metrics = trainer.judge(session.data(source))
            judged.append(Judged(name, source, metrics, trainer.collected))
    return judged


def write_skipped(trainer: Trainer, session: Session, run: Path) -> None:
    """skipped.txt: every sample that could not be read, with the reason; no file when there is none."""
    skipped = dict(session.train_source.skipped)
    if session.validation_source is not None:
        skipped |= dict(session.validation_source.skipped)
    skipped |= trainer.state.skipped
    if skipped:
        write_text(
            run / "skipped.txt", "".join(f"{name}\t{reason}\n" for name, reason in sorted(skipped.items()))
        )
        say(f"could not be read and left out: {len(skipped):,} (named in {run / 'skipped.txt'})")
