"""A run from its configuration to its report: what ``unitrans train`` does."""

from __future__ import annotations

import gc
import math
import os
import tempfile
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from accelerate import PartialState
from transformers import TrainerCallback, TrainingArguments, set_seed
from transformers.utils import logging as transformers_logging

import unitrans
from unitrans.domains.base import Domain, Source
from unitrans.domains.errors import SourceError
from unitrans.objectives import MaskedSignalModel
from unitrans.ops.backends import choose_backend
from unitrans.train import checkpoint as ckpt
from unitrans.train.callbacks import ProgressBar, RunLog, StopOnSignal, stop_signals
from unitrans.train.config import RunConfig, resolve
from unitrans.train.data import VALIDATION, Collate, CorruptedSamples
from unitrans.train.environment import describe_environment, processor_name, torch_note
from unitrans.train.errors import ConfigError, InterruptedRunError, RunError, user_errors
from unitrans.train.init import init_weights
from unitrans.train.random import derived_seed
from unitrans.train.report import Judged, report
from unitrans.train.runs import CONFIG_FILE, command_line, create_run_folder, find_run, write_json, write_text
from unitrans.train.sampler import UpdateSampler
from unitrans.train.saving import load_weights
from unitrans.train.schedule import Schedule
from unitrans.train.trainer import UnitransTrainer

DRY_RUN_UPDATES = 5
SKIPPED_SHOWN = 10  # of the samples that are known to be unreadable when a run begins
MAX_UPDATES = 10**12
MAX_SAMPLES = 10**7  # in an update
# Of TrainingArguments, these reach the trainer by other ways.
_NOT_PASSED = (
    "lr_scheduler_type",
    "lr_scheduler_kwargs",
    "warmup_steps",
    "dataloader_prefetch_factor",
    "use_cpu",
    "gradient_checkpointing",
    "torch_compile",
    "fsdp",
)


@dataclass
class Session:
    """Everything a run is made of, checked and opened; nothing is written yet."""

    config: RunConfig
    domain: Domain
    model_config: Any
    objective: Any
    train_source: Source
    validation_source: Source | None
    sampler: UpdateSampler
    max_steps: int
    model: MaskedSignalModel
    init_notes: list[str] = field(default_factory=list)

    @property
    def settings(self) -> dict[str, Any]:
        """The ``train`` section."""
        return self.config.train

    @property
    def rate_factor(self) -> float:
        """What the rates are multiplied by: see train.learning_rate_batch_size."""
        base = self.settings["learning_rate_batch_size"]
        return 1.0 if base is None else self.sampler.global_batch_size / base

    @property
    def schedule(self) -> Schedule:
        """The learning rate of every update."""
        train, factor = self.settings, self.rate_factor
        warmup = train["warmup_steps"]
        kwargs = train["lr_scheduler_kwargs"] or {}
        return Schedule(
            kind=train["lr_scheduler_type"],
            base=train["learning_rate"] * factor,
            total=self.max_steps,
            minimum=train["min_learning_rate"] * factor,
            warmup=int(warmup) if warmup >= 1 else math.ceil(self.max_steps * warmup),
            warmup_start=train["warmup_learning_rate"] * factor,
            prefix=train["warmup_prefix"],
            lag=train["schedule_lag"],
            milestones=tuple(
                m if m >= 1 else math.ceil(m * self.max_steps) for m in kwargs.get("milestones", ())
            ),
            gamma=kwargs.get("gamma", 0.1),
        )

    def data(self, source: Source) -> CorruptedSamples:
        """A source as the model sees it."""
        return CorruptedSamples(source, self.objective, self.settings["seed"])


def open_session(config: RunConfig) -> Session:
    """Opens the data and builds objective and model. ConfigError in one sentence for what does not fit."""
    train = config.train
    with user_errors():
        domain = config.get_domain()
        model_config = config.model_config()
        train_source, validation_source = domain.open(
            config.data_config(), model_config, train["seed"], config.objective_class().label_kinds
        )
        objective = config.make_objective(model_config, train_source.labels)
        sampler = UpdateSampler(
            len(train_source),
            per_device_batch_size=train["per_device_train_batch_size"],
            accumulation_steps=accumulation_steps(train, world_size()),
            world_size=world_size(),
            seed=train["seed"],
            num_tokens=train_source.num_tokens,
            in_order=train_source.in_order,
        )
        max_steps = planned_updates(train, sampler)
        set_seed(train["seed"])  # the initial weights
        reading = getattr(train_source, "reading", None)
        model = MaskedSignalModel.create(model_config, objective, reading)
    return Session(
        config, domain, model_config, objective, train_source, validation_source, sampler, max_steps, model
    )


def planned_updates(train: dict[str, Any], sampler: UpdateSampler) -> int:
    """How many updates a run takes. ConfigError for none, and for more or larger ones than a machine can compute."""
    if sampler.global_batch_size > MAX_SAMPLES:
        raise ConfigError(
            f"train.per_device_train_batch_size: {sampler.global_batch_size:,} samples an update are more than the "
            f"{MAX_SAMPLES:,} that are taken: lower it"
        )
    updates, name = train["max_steps"], "max_steps"
    if updates == 0:
        raise ConfigError("train.max_steps: expected -1 or a number of updates above 0, got 0")
    if updates < 0:
        name, updates = "num_train_epochs", train["num_train_epochs"] * sampler.updates_per_epoch()
    if updates > MAX_UPDATES:
        raise ConfigError(
            f"train.{name}={train[name]:g} means {updates:.3g} updates, more than the {MAX_UPDATES:,} that are taken: "
            "lower it"
        )
    return max(1, math.ceil(updates))


def accumulation_steps(train: dict[str, Any], processes: int) -> int:
    """Micro-batches of an update in each process. ConfigError where the global batch is no multiple of them."""
    total, batch = train["global_batch_size"], train["per_device_train_batch_size"]
    steps: int = train["gradient_accumulation_steps"]
    if total is None:
        return steps
    if total % (batch * processes):
        raise ConfigError(
            f"train.global_batch_size: expected a multiple of train.per_device_train_batch_size x processes = "
            f"{batch} x {processes}, got {total}; change one of the three"
        )
    if steps not in (1, total // (batch * processes)):
        raise ConfigError(
            f"train.global_batch_size={total} needs {total // (batch * processes)} micro-batches in each of "
            f"{processes} processes, but train.gradient_accumulation_steps={steps}: leave that at 1"
        )
    return int(total // (batch * processes))


def world_size() -> int:
    """Processes of this run, as torchrun says."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def sharding(train: dict[str, Any]) -> dict[str, Any]:
    """What TrainingArguments are told about FSDP2. ConfigError where it cannot be."""
    if not train["fsdp"]:
        return {}
    if train["use_cpu"] or not torch.cuda.is_available():
        raise ConfigError(
            "train.fsdp shards over GPUs and this run is on the CPU: set it to false (DDP is used)"
        )
    if world_size() == 1:
        raise ConfigError(
            "train.fsdp shards over several processes and there is one: start them with torchrun"
        )
    if train["ema_decay"] is not None:
        raise ConfigError(
            "train.fsdp and train.ema_decay do not go together yet: set one of them to its default"
        )
    return {"fsdp": True, "fsdp_config": {"version": 2, "transformer_layer_cls_to_wrap": ["Block"]}}


def training_arguments(session: Session, folder: Path, *, evaluate: bool = True) -> TrainingArguments:
    """TrainingArguments for the honoured names, and what this trainer decides itself."""
    train, objective = session.settings, session.objective
    honoured = set(TrainingArguments.__dataclass_fields__) - set(_NOT_PASSED)
    passed = {key: value for key, value in train.items() if key in honoured}
    with user_errors():
        return TrainingArguments(
            **passed
            | {
                "output_dir": str(folder),
                "max_steps": session.max_steps,
                "gradient_accumulation_steps": session.sampler.accumulation_steps,
                "use_cpu": train["use_cpu"] or not torch.cuda.is_available(),
                "eval_strategy": "steps" if evaluate and session.validation_source is not None else "no",
                "save_strategy": "steps" if evaluate else "no",
                "metric_for_best_model": objective.best,
                "greater_is_better": objective.best != "loss" and objective.greater_is_better,
                "logging_nan_inf_filter": False,
                "report_to": "none",
                "disable_tqdm": True,
                "remove_unused_columns": False,
                "dataloader_pin_memory": False,
                "ddp_find_unused_parameters": False,
                "ignore_data_skip": True,
            }
            | sharding(train)
        )


def make_trainer(session: Session, folder: Path, run: Path | None) -> UnitransTrainer:
    """The trainer of a session; ``run`` is where checkpoints go, None for a dry run."""
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    args = training_arguments(session, folder, evaluate=run is not None)
    validation = session.validation_source if run is not None else None
    trainer = UnitransTrainer(
        session.model,
        args,
        settings=session.settings,
        sampler=session.sampler,
        schedule=session.schedule,
        train_data=session.data(session.train_source),
        validation_data=None if validation is None else session.data(validation),
        collate=Collate(
            session.domain,
            session.model_config,
            session.settings["seed"],
            getattr(session.train_source, "mix", None),
        ),
        run=run,
        scale=session.domain.data_unit_scale(session.train_source, session.model_config),
    )
    # From here on the global generator serves dropout alone, differently in every process.
    torch.manual_seed(derived_seed(session.settings["seed"], "dropout", args.process_index))
    return trainer


def introduce(session: Session, run: Path | None, say: Any) -> None:
    """What is about to happen, before it does."""
    config, sampler, train = session.config, session.sampler, session.settings
    validation = session.validation_source
    held_out = "nothing held out" if validation is None else f"{len(validation):,} held out"
    model, objective = config.model["name"], config.objective["name"]
    say(f"unitrans {unitrans.__version__}: {model} on {config.domain}, objective {objective}")
    say(f"  data        {config.data['path']}: {len(session.train_source):,} training samples, {held_out}")
    for source in (session.train_source, validation):
        if source is not None:
            skipped = [f"skipped {name}: {reason}" for name, reason in source.skipped]
            more = len(skipped) - SKIPPED_SHOWN
            rest = [f"... {more:,} more were skipped; skipped.txt names them at the end"] if more > 0 else []
            for note in [*source.notes, *skipped[:SKIPPED_SHOWN], *rest]:
                say(f"              {note}")
    parameters = sum(p.numel() for p in session.model.parameters())
    tokens = tokens_per_sample(session)
    say(f"  model       {parameters:,} parameters")
    for note in session.init_notes:
        say(f"              {note}")
    batch, accumulation = train["per_device_train_batch_size"], sampler.accumulation_steps
    say(
        f"  batch       {sampler.global_batch_size:,} samples = {batch} per device x {accumulation} accumulation x "
        f"{sampler.world_size} process{'es' if sampler.world_size > 1 else ''}; "
        f"{tokens:,} tokens a sample, {tokens * sampler.global_batch_size:,} an update"
    )
    base = train["learning_rate_batch_size"]
    scaled = f"{train['learning_rate']:g} x {sampler.global_batch_size}/{base}, linear rule"
    rule = "as given" if base is None else scaled
    schedule = session.schedule
    say(
        f"  rate        {schedule.base:.4g} ({rule}), {schedule.kind}, {schedule.warmup:,} updates of warm-up"
    )
    say(f"  updates     {session.max_steps:,} ({sampler.epoch_at(session.max_steps):,.1f} epochs)")
    device = torch.device("cuda" if torch.cuda.is_available() and not train["use_cpu"] else "cpu")
    where = torch.cuda.get_device_name() if device.type == "cuda" else processor_name()
    say(
        f"  computes    {choose_backend(None, device).name} backend on {where}, {torch.get_num_threads()} threads"
    )
    if torch_note():
        say(f"  note        {torch_note()}")
    if run is not None:
        say(f"  run         {run}")


def tokens_per_sample(session: Session) -> int:
    """Tokens of a sample on average where that is known, else those of the first that can be read."""
    if session.train_source.num_tokens is not None:
        return round(sum(session.train_source.num_tokens) / len(session.train_source.num_tokens))
    data, collate = session.data(session.train_source), Collate(session.domain, session.model_config)
    for index in range(len(data)):
        batch = collate([data[VALIDATION, index]])
        if batch.get("sample_ids"):
            return len(batch[session.model.main_input_name])
    raise ConfigError(f"data.path: none of the {len(data):,} training samples can be read")


def open_new_session(config: RunConfig) -> Session:
    """``open_session`` for a run that begins: with the weights of train.init."""
    session = open_session(config)
    if session.settings["init"] is not None:
        session.init_notes = init_weights(session.model, session.settings["init"])
    return session


def train(config: RunConfig, output: str | None) -> Path:
    """Trains, evaluates and reports; returns the run folder. Raises InterruptedRunError after a signal."""
    session = open_new_session(config)
    if world_size() > 1:
        PartialState(cpu=config.train["use_cpu"] or not torch.cuda.is_available())
    run = shared_run_folder(output, config)
    if is_main():
        write_text(run / CONFIG_FILE, config.to_yaml())
        if hasattr(session.domain, "keep"):
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
    if hasattr(domain, "resumed"):
        data, model = domain.resumed(config.data, config.model, run)
        config = replace(config, data=data, model=model)
    session = open_session(config)
    return _train(session, run, checkpoint)


def is_main() -> bool:
    """Whether this process writes and speaks."""
    return int(os.environ.get("RANK", "0")) == 0


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


def _say(text: str) -> None:
    if is_main():
        print(text, flush=True)


@contextmanager
def failures(run: Path | None) -> Iterator[None]:
    """Where a run is on its way: a source that breaks off ends it with one sentence that says how to go on, and
    loader workers end before the process does."""
    try:
        yield
    except SourceError as error:
        end_workers(error)
        steps = [] if run is None else ckpt.steps_in(run / "checkpoints")
        saved = (
            f"; everything up to update {steps[-1]:,} is saved" if steps else "; nothing had been saved yet"
        )
        more = f", to go on: {command_line('train', '--resume', str(run))}" if steps else ""
        raise RunError(error.sentence + (saved + more) * (run is not None)) from None
    except RunError as error:
        end_workers(error)
        raise


def end_workers(error: BaseException | None) -> None:
    """Frees the loader that the frames of an error hold. Its workers end with it; they do not heed SIGTERM, so a
    process that waited for them at its exit would wait for ever."""
    while error is not None:
        traceback.clear_frames(error.__traceback__)
        error = error.__cause__ or error.__context__
    gc.collect()


def _train(session: Session, run: Path, checkpoint: Path | None) -> Path:
    try:
        with failures(run):
            return _run_to_report(session, run, checkpoint)
    finally:
        for source in (session.train_source, session.validation_source):
            getattr(source, "close", lambda: None)()


def _run_to_report(session: Session, run: Path, checkpoint: Path | None) -> Path:
    introduce(session, run, _say)
    trainer = make_trainer(session, run, run)
    bar = ProgressBar(trainer)
    if is_main():
        for callback in (bar, RunLog(run)):
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
        _say(f"stopped after update {trainer.state.global_step:,}; everything is saved. To go on:")
        _say(f"  {command_line('train', '--resume', str(run))}")
        raise InterruptedRunError(trainer.stop_signal)
    if trainer.state.global_step < session.max_steps:
        count = trainer.evaluations_without_best
        _say(f"stopped early after update {trainer.state.global_step:,}: no better in {count} evaluations")
    checkpoints = run / "checkpoints"
    best = checkpoints / "best"
    if trainer.is_fsdp_enabled:  # from here on every process has a whole model
        trainer.model = MaskedSignalModel.create(session.model_config, session.objective).to(
            trainer.args.device
        )
    load_weights(trainer.model, best if best.exists() else checkpoints / "latest")
    judged = judge_parts(session, trainer)  # all processes together
    if is_main():
        report(session, trainer, run, judged, _say)
        write_skipped(trainer, session, run)  # last: the simple predictors may have met more
    if dist.is_initialized():
        dist.destroy_process_group()
    return run


def judge_parts(session: Session, trainer: UnitransTrainer) -> list[Judged]:
    """The chosen weights on the samples that chose them and, where the domain keeps some for that, on those that judge
    them, once."""
    judged = []
    parts = {"validation": session.validation_source, "test": getattr(session.train_source, "test", None)}
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
        _say(f"could not be read and left out: {len(skipped):,} (named in {run / 'skipped.txt'})")


class _Stopwatch(TrainerCallback):
    """Times updates and ends the loop after a few; the first update warms up and does not count."""

    def __init__(self) -> None:
        self.ends: list[float] = []

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Notes the time."""
        self.ends.append(time.perf_counter())
        control.should_training_stop = len(self.ends) > DRY_RUN_UPDATES

    def seconds_per_update(self, start: float) -> float:
        """Mean over the timed updates."""
        if len(self.ends) == 1:
            return self.ends[0] - start
        return (self.ends[-1] - self.ends[0]) / (len(self.ends) - 1)


def dry_run(config: RunConfig) -> None:
    """Times a few updates and says what the run would cost. Nothing is written."""
    session = open_new_session(config)
    watch = _Stopwatch()
    with temporary_folder() as folder, failures(None):
        introduce(session, None, _say)
        trainer = make_trainer(session, folder, None)
        trainer.add_callback(watch)
        start = time.perf_counter()
        trainer.train()
    seconds = watch.seconds_per_update(start)
    hours = seconds * session.max_steps / 3600
    tokens = trainer.tokens_seen * world_size() / len(watch.ends)
    duration = f"{hours:.1f} hours" if hours >= 1 else f"{hours * 60:.1f} minutes"
    _say(
        f"dry run: {len(session.train_source):,} samples, {session.max_steps:,} updates, {seconds:.3f} s an update "
        f"({tokens / seconds:,.0f} tokens/s): {duration} ({hours:.2f} hours) without evaluation; "
        f"{peak_memory(trainer.args.device)}; nothing was written"
    )


@contextmanager
def temporary_folder() -> Iterator[Path]:
    """A folder that is gone afterwards."""
    with tempfile.TemporaryDirectory(prefix="unitrans-dry-run-") as folder:
        yield Path(folder)


def peak_memory(device: torch.device) -> str:
    """The most memory this process has held."""
    import resource

    main = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    text = f"{main:.1f} GiB of memory"
    if device.type == "cuda":
        text += f", {torch.cuda.max_memory_allocated(device) / 2**30:.1f} GiB of GPU memory"
    return text
