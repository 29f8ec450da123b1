"""What a run is about to do, and what it would cost."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import torch

import unitrans
from unitrans.data.labels import describe
from unitrans.errors import ConfigError
from unitrans.ops.backends import choose_backend
from unitrans.training.config import RunConfig
from unitrans.training.data import VALIDATION, Collate
from unitrans.training.environment import processor_name, torch_note
from unitrans.training.failures import failures
from unitrans.training.loop import Trainer
from unitrans.training.observers import Observer
from unitrans.training.processes import say, world_size
from unitrans.training.session import Session, make_trainer, open_new_session

DRY_RUN_UPDATES = 5
SKIPPED_SHOWN = 10  # of the samples that are known to be unreadable when a run begins


def introduce(session: Session, run: Path | None, say: Any) -> None:
    """What is about to happen, before it does."""
    config, sampler, train = session.config, session.sampler, session.settings
    validation = session.validation_source
    held_out = "nothing held out" if validation is None else f"{len(validation):,} held out"
    model, objective = config.model["name"], config.objective["name"]
    say(f"unitrans {unitrans.__version__}: {model} on {config.domain}, objective {objective}")
    say(f"  data        {config.data_name}: {len(session.train_source):,} training samples, {held_out}")
    for source in (session.train_source, validation):
        if source is not None:
            skipped = [f"skipped {name}: {reason}" for name, reason in source.skipped]
            more = len(skipped) - SKIPPED_SHOWN
            rest = [f"... {more:,} more were skipped; skipped.txt names them at the end"] if more > 0 else []
            for note in [*source.notes, *skipped[:SKIPPED_SHOWN], *rest]:
                say(f"              {note}")
    for line in filter(None, (describe(view.train_source.labels) for view in session.by_domain().values())):
        say(f"              {line}")
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
    known = session.sampler.tokens_per_sample
    if known is not None:
        return round(known)
    data, collate = session.data(session.train_source), Collate(session.domain, session.model_config)
    for index in range(len(data)):
        batch = collate([data[VALIDATION, index]])
        if batch.get("sample_ids"):
            return session.model.num_tokens(batch)
    raise ConfigError(f"data.path: none of the {len(data):,} training samples can be read")


class _Stopwatch(Observer):
    """Times updates and ends the loop after a few; the first update warms up and does not count."""

    def __init__(self) -> None:
        self.ends: list[float] = []

    def on_update(self, trainer: Trainer) -> None:
        """Notes the time."""
        self.ends.append(time.perf_counter())
        trainer.stopping = len(self.ends) > DRY_RUN_UPDATES

    def seconds_per_update(self, start: float) -> float:
        """Mean over the timed updates."""
        if len(self.ends) == 1:
            return self.ends[0] - start
        return (self.ends[-1] - self.ends[0]) / (len(self.ends) - 1)


def dry_run(config: RunConfig) -> None:
    """Times a few updates and says what the run would cost. Nothing is written."""
    session = open_new_session(config)
    watch = _Stopwatch()
    with failures(None):
        introduce(session, None, say)
        trainer = make_trainer(session, None)
        trainer.observers.append(watch)
        start = time.perf_counter()
        trainer.train()
    seconds = watch.seconds_per_update(start)
    hours = seconds * session.max_steps / 3600
    tokens = trainer.tokens_seen * world_size() / len(watch.ends)
    duration = f"{hours:.1f} hours" if hours >= 1 else f"{hours * 60:.1f} minutes"
    say(
        f"dry run: {len(session.train_source):,} samples, {session.max_steps:,} updates, {seconds:.3f} s an update "
        f"({tokens / seconds:,.0f} tokens/s): {duration} ({hours:.2f} hours) without evaluation; "
        f"{peak_memory(trainer.device)}; nothing was written"
    )


def peak_memory(device: torch.device) -> str:
    """The most memory this process has held."""
    import resource

    main = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    text = f"{main:.1f} GiB of memory"
    if device.type == "cuda":
        text += f", {torch.cuda.max_memory_allocated(device) / 2**30:.1f} GiB of GPU memory"
    return text
