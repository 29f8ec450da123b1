"""What a run is made of, from its configuration: data, objective, model, sampler, schedule, trainer."""

from __future__ import annotations

import functools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, cast

import numpy as np
from transformers.utils import logging as transformers_logging

from unitrans.domains.base import Domain, Source
from unitrans.domains.joint import JointDomain, JointSource
from unitrans.errors import ConfigError, user_errors
from unitrans.objectives import MaskedSignalModel
from unitrans.training.card import model_card
from unitrans.training.config import RunConfig
from unitrans.training.data import VALIDATION, Collate, CorruptedSamples
from unitrans.training.fingerprint import read_kept, updates_per_epoch
from unitrans.training.init import init_weights
from unitrans.training.loop import Trainer
from unitrans.training.processes import world_size
from unitrans.training.random import derived_seed, seed_dropout, seed_generators
from unitrans.training.sampler import JointSampler, UpdateSampler
from unitrans.training.schedule import Schedule
from unitrans.training.tracking import check_trackers

MAX_UPDATES = 10**12
FITTED_SAMPLES = 4000  # that an objective may look at before a run begins
MAX_SAMPLES = 10**7  # in an update


@dataclass
class Session:
    """Everything a run is made of, checked and opened; nothing is written yet.

    init_notes: what the weights started from. Of a run that goes on, for its model cards (None: one that begins, or of
    an earlier version): data_notes of the data that it began with, recipe its settings as a person gave them.
    """

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
    data_notes: list[str] | None = None
    recipe: RunConfig | None = None

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

    def by_domain(self) -> dict[str, Session]:
        """The same run as each of its domains sees it, by name; of one domain, itself."""
        if not isinstance(self.domain, JointDomain):
            return {self.domain.name: self}
        held_out: Any = self.validation_source
        return {
            name: replace(
                self,
                domain=domain,
                model_config=self.model_config.parts[name],
                objective=self.objective.parts[name],
                train_source=cast(JointSource, self.train_source).sources[name],
                validation_source=None if held_out is None else held_out.sources.get(name),
            )
            for name, domain in self.domain.domains.items()
        }

    def data(self, source: Source) -> CorruptedSamples:
        """A source as the model sees it."""
        return CorruptedSamples(source, self.objective, self.settings["seed"])


def open_session(config: RunConfig, run: Path | None = None) -> Session:
    """Opens the data and builds objective and model. ConfigError in one sentence for what does not fit.

    run: one that goes on, or whose data these are too: what it derived from its data when it began is not derived anew.
    """
    train = config.train
    check_trackers(train["report_to"])
    with user_errors():
        domain = config.get_domain()
        model_config = config.model_config()
        kept = None if run is None else read_kept(run)
        train_source, validation_source = domain.reopen(
            config.data_config(), model_config, train["seed"], config.objective_class().label_kinds, kept
        )
        objective = config.make_objective(model_config, train_source.labels)
        sampler = make_sampler(config, train_source)
        max_steps = planned_updates(train, sampler, None if run is None else updates_per_epoch(run))
        seed_generators(train["seed"])  # the initial weights
        model = MaskedSignalModel.create(model_config, objective, train_source.reading)
        if train["freeze"] == "encoder":
            model.freeze_encoder()
        if train["fsdp"] and hasattr(model.head, "after_update"):
            raise ConfigError(
                f"train.fsdp and objective {objective.name}, whose teacher follows the model, do not go together yet: "
                "set it to false (DDP is used)"
            )
    session = Session(
        config, domain, model_config, objective, train_source, validation_source, sampler, max_steps, model
    )
    with user_errors():
        for part in session.by_domain().values():
            try_extremes(part)
    return session


def try_extremes(session: Session) -> None:
    """Raises now what would stop the run hours later: that a sample has no row in a table of the model or objective."""
    domain, model_config = session.domain, session.model_config
    for source in (session.train_source, session.validation_source, session.train_source.test):
        if source is None:
            continue
        rows = domain.extremes(source, model_config)
        for start in range(0, len(rows), 256):
            samples = [source.load(row) for row in rows[start : start + 256]]
            tried = [session.objective.corrupt(sample, np.random.default_rng(0)) for sample in samples]
            domain.collate(tried, model_config)


def make_sampler(config: RunConfig, source: Source) -> UpdateSampler:
    """The samples of every update of a run on this source."""
    train = config.train
    options = {
        "per_device_batch_size": train["per_device_train_batch_size"],
        "accumulation_steps": accumulation_steps(train, world_size()),
        "world_size": world_size(),
        "seed": train["seed"],
        "num_tokens": source.num_tokens,
        "classes": _classes(config, source) if train["sampling"] == "balanced" else None,
    }
    if isinstance(source, JointSource):
        return JointSampler(source.sizes, source.mixing, **options)
    return UpdateSampler(len(source), in_order=source.in_order, **options)


def _classes(config: RunConfig, source: Source) -> Sequence[int]:
    """The class of every training sample. ConfigError where there is none, or where classes are balanced already."""
    key = "train.sampling=balanced"
    if source.labels is None or source.labels.kind != "class":
        kind = "no labels" if source.labels is None else f"labels of kind {source.labels.kind}"
        raise ConfigError(f"{key} needs one class for every sample, and these have {kind}: leave it out")
    if source.in_order:
        raise ConfigError(f"{key} and data.streaming exclude each other: a stream comes in its own order")
    if config.objective.get("class_weights") == "balanced":
        raise ConfigError(f"{key} and objective.class_weights=balanced do the same twice: leave one out")
    return source.class_numbers()


def planned_updates(train: dict[str, Any], sampler: UpdateSampler, per_epoch: float | None = None) -> int:
    """How many updates a run takes; per_epoch: of the data that it began with. ConfigError for none, and for more or
    larger ones than a machine can compute."""
    if sampler.global_batch_size > MAX_SAMPLES:
        raise ConfigError(
            f"train.per_device_train_batch_size: {sampler.global_batch_size:,} samples an update are more than the "
            f"{MAX_SAMPLES:,} that are taken: lower it"
        )
    updates, name = train["max_steps"], "max_steps"
    if updates == 0:
        raise ConfigError("train.max_steps: expected -1 or a number of updates above 0, got 0")
    if updates < 0:
        name, updates = (
            "num_train_epochs",
            train["num_train_epochs"] * (per_epoch or sampler.updates_per_epoch()),
        )
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


def keep_global_batch(train: dict[str, Any], saved_by: int, micro_batches: int | None) -> dict[str, Any]:
    """The ``train`` section for a run that goes on with the processes of now, with the updates it was planned with.

    saved_by: processes that wrote the checkpoint. micro_batches: of an update, in all of them; None: as train says.
    ConfigError for a number of processes that does not divide them.
    """
    whole = micro_batches or accumulation_steps(train, saved_by) * saved_by
    if whole % world_size():
        numbers = ", ".join(str(number) for number in range(1, whole + 1) if whole % number == 0)
        raise ConfigError(
            f"an update of this run has {whole} micro-batches, which {world_size()} processes cannot share evenly: "
            f"start one of {numbers}"
        )
    if train["global_batch_size"] is not None and train["gradient_accumulation_steps"] == 1:
        return train  # they follow from it
    return train | {"gradient_accumulation_steps": whole // world_size()}


def check_sharding(train: dict[str, Any]) -> None:
    """ConfigError where train.fsdp cannot be."""
    if not train["fsdp"]:
        return
    if world_size() == 1:
        raise ConfigError(
            "train.fsdp shards over several processes and there is one: start them with torchrun"
        )
    if train["ema_decay"] is not None:
        raise ConfigError(
            "train.fsdp and train.ema_decay do not go together yet: set one of them to its default"
        )


def make_trainer(session: Session, run: Path | None) -> Trainer:
    """The trainer of a session; ``run`` is where checkpoints go, None for a dry run."""
    check_sharding(session.settings)
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    seed, validation = session.settings["seed"], session.validation_source
    seed_generators(seed)
    trainer = Trainer(
        session.model,
        settings=session.settings,
        sampler=session.sampler,
        schedule=session.schedule,
        train_data=session.data(session.train_source),
        validation_data=None if validation is None or run is None else session.data(validation),
        collate=Collate(session.domain, session.model_config, seed, session.train_source.mix),
        run=run,
        scale=session.domain.data_unit_scale(session.train_source, session.model_config),
        card=functools.partial(model_card, session, run),
    )
    # From here on the global generator serves dropout alone, differently in every process.
    seed_dropout(derived_seed(seed, "dropout", trainer.rank))
    return trainer


def open_new_session(config: RunConfig, run: Path | None = None) -> Session:
    """``open_session`` for a run that begins: with the weights of train.init."""
    session = open_session(config, run)
    if session.settings["init"] is not None:
        session.init_notes = init_weights(session.model, session.settings["init"])
    if session.objective.needs_fit:
        with user_errors():
            notes = session.objective.fit(
                session.model.head, _fitting_batches(session), session.settings["seed"]
            )
        session.init_notes += notes
    return session


def _fitting_batches(session: Session) -> Iterator[dict[str, Any]]:
    """Training samples as held-out ones are prepared, in batches, evenly spaced over the data set."""
    data, collate = session.data(session.train_source), Collate(session.domain, session.model_config)
    count = len(data)
    step = 1 if session.train_source.in_order else max(1, count // FITTED_SAMPLES)
    for start in range(0, count, 64 * step):
        batch = collate(
            [data[VALIDATION, index] for index in range(start, min(count, start + 64 * step), step)]
        )
        if batch.get("sample_ids"):
            yield batch
