"""Writing the state of a training loop into checkpoints and taking it up again."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import nn
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_state_dict,
    set_model_state_dict,
    set_optimizer_state_dict,
)
from torch.distributed.tensor import DTensor

from unitrans.errors import ConfigError, RunError, system_error
from unitrans.nn.products import in_use
from unitrans.stored import read_json
from unitrans.training import checkpoint as ckpt
from unitrans.training import processes
from unitrans.training.random import derived_seed, seed_dropout
from unitrans.training.schedule import UpdateScheduler
from unitrans.training.switches import AveragedWeights

TRAINED_WEIGHTS = "trained.safetensors"  # with train.ema_decay: what the optimizer moves, beside its average


def load_weights(model: nn.Module, folder: Path, name: str = "model.safetensors") -> None:
    """The weights of a checkpoint into a model of the same shape. ConfigError where they do not fit."""
    try:
        weights = safetensors.torch.load_file(folder / name)
        if any(isinstance(parameter, DTensor) for parameter in model.parameters()):
            scatter_weights(model, weights)
        else:
            model.load_state_dict(weights, strict=True)
    except (OSError, SafetensorError, RuntimeError) as error:
        message = " ".join(str(error).split())[:300]
        raise ConfigError(f"the weights in {folder} cannot be loaded into this model: {message}") from None


def gather_state(model: nn.Module, optimizer: torch.optim.Optimizer) -> tuple[dict[str, Any], dict[str, Any]]:
    """The whole state of a model and an optimizer that fully_shard has cut up, on the CPU of the first process.

    Called by all processes.
    """
    weights, moments = get_state_dict(
        model, optimizer, options=StateDictOptions(full_state_dict=True, cpu_offload=True)
    )
    return weights, dict(moments)


def scatter_weights(model: nn.Module, weights: dict[str, Any]) -> None:
    """Whole weights into a model that fully_shard has cut up. Called by all processes, each with the same."""
    set_model_state_dict(model, weights, options=StateDictOptions(full_state_dict=True))


def scatter_moments(model: nn.Module, optimizer: torch.optim.Optimizer, moments: dict[str, Any]) -> None:
    """The whole state of an optimizer as from :func:`gather_state`, likewise."""
    set_optimizer_state_dict(model, optimizer, moments, options=StateDictOptions(full_state_dict=True))


@dataclass
class State:
    """How far a run is, beside weights, optimizer and generators.

    global_step: updates done. best_metric, best_global_step: the best evaluation so far. loss_since_log: sum over the
    updates since last_logged. evaluations_without_best: in a row. pending_evaluation: one was broken off and comes
    first. skipped: id of each sample that could not be read -> why. micro_batches: of an update, in all processes.
    """

    global_step: int = 0
    best_metric: float | None = None
    best_global_step: int | None = None
    loss_since_log: float = 0.0
    last_logged: int = 0
    evaluations_without_best: int = 0
    pending_evaluation: bool = False
    skipped: dict[str, str] = field(default_factory=dict)
    micro_batches: int | None = None

    def is_better(self, value: float, greater: bool) -> bool:
        """Takes down an evaluation: whether it is the best so far, greater or smaller values being better."""
        best = self.best_metric
        better = value == value if best is None else value > best if greater else value < best
        self.evaluations_without_best = 0 if better else self.evaluations_without_best + 1
        if better:
            self.best_metric, self.best_global_step = value, self.global_step
        return better


_BEST = (
    "global_step",
    "best_metric",
    "best_global_step",
)  # in trainer_state.json; the others are in progress.json


@dataclass
class Learner:
    """What an update changes. sharded: the model is cut up by ``fully_shard``."""

    model: Any
    optimizer: torch.optim.Optimizer
    scheduler: UpdateScheduler
    average: AveragedWeights | None
    sharded: bool


def write_checkpoint(
    run: Path, learner: Learner, state: State, limit: int | None, card: Callable[[int], str] | None
) -> None:
    """Writes checkpoints/step-N of a run and moves its links. Called by all processes.

    limit: how many are kept. card: what writes README.md. RunError where it cannot be written.
    """
    folder, step = run / "checkpoints", state.global_step
    temporary = folder / f".{ckpt.checkpoint_name(step)}.tmp"
    try:
        if processes.is_main():
            shutil.rmtree(temporary, ignore_errors=True)
            folder.mkdir(exist_ok=True)  # in the run, which is not made again where it is gone
            temporary.mkdir()
        processes.wait_for_all()
        whole = gather_state(learner.model, learner.optimizer) if learner.sharded else None
        ckpt.write_tensors(ckpt.generator_state(), temporary / f"rng-{processes.rank()}.pt")
        if processes.is_main():
            _write_learner(temporary, learner, whole)
            _write_state(temporary, state)
            if card is not None:
                (temporary / "README.md").write_text(card(step), encoding="utf-8")
        processes.wait_for_all()
        if processes.is_main():
            best = state.best_global_step
            ckpt.seal(temporary, folder / ckpt.checkpoint_name(step))
            ckpt.point_links(folder, step, best)
            ckpt.rotate(folder, limit, {best} if best else set())
        processes.wait_for_all()
    except (OSError, SafetensorError) as error:
        shutil.rmtree(temporary, ignore_errors=True)
        reason = system_error(error) or " ".join(str(error).split())
        way_out = (
            f"earlier ones are untouched: make room, then go on with --resume {run}"
            if run.is_dir()
            else "the folder of the run is gone"
        )
        raise RunError(
            f"the checkpoint of update {step} cannot be written to {folder} ({reason}); {way_out}"
        ) from error


def _write_learner(
    folder: Path, learner: Learner, whole: tuple[dict[str, Any], dict[str, Any]] | None
) -> None:
    weights, moments = whole or (None, learner.optimizer.state_dict())
    model, average = learner.model, learner.average
    if average is None:
        model.save_pretrained(folder, state_dict=weights)
    else:
        with average.applied():
            model.save_pretrained(folder)
        kept = model.state_dict().keys()
        tensors = [*model.named_parameters(), *model.named_buffers()]
        trained = {name: tensor.detach().contiguous() for name, tensor in tensors if name in kept}
        safetensors.torch.save_file(trained, folder / TRAINED_WEIGHTS)
    ckpt.write_tensors(moments, folder / "optimizer.pt")
    ckpt.write_tensors(learner.scheduler.state_dict(), folder / "scheduler.pt")


def _write_state(folder: Path, state: State) -> None:
    values = asdict(state)
    best = {name: values.pop(name) for name in _BEST}
    _write_json(folder / "trainer_state.json", best)
    _write_json(
        folder / ckpt.PROGRESS,
        {"step": state.global_step, "world_size": processes.world_size(), "products": in_use().record()}
        | values,
    )


def _write_json(path: Path, value: dict[str, Any]) -> None:
    path.write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")


def read_progress(folder: Path) -> dict[str, Any]:
    """progress.json of a checkpoint: the fields of :class:`State`, ``step``, and the ``world_size`` of its writers."""
    progress: dict[str, Any] = read_json(folder / ckpt.PROGRESS)
    return progress


def read_checkpoint(
    folder: Path, learner: Learner, seed: int, limit: int | None
) -> tuple[State, Callable[[], None]]:
    """Weights, optimizer and schedule as a checkpoint has them. Called by all processes. limit: as in
    :func:`write_checkpoint`.

    Returns the state of the run, and what sets the generators: as they were, or, with another number of processes, from
    (seed, update, rank). ConfigError where something does not fit.
    """
    progress = read_progress(folder)
    told = read_json(folder / "trainer_state.json")
    names = (State.__dataclass_fields__.keys() - set(_BEST)) & progress.keys()
    state = State(**{name: told[name] for name in _BEST}, **{name: progress[name] for name in names})
    load_weights(learner.model, folder)
    if learner.average is not None:
        learner.average.restart()
        load_weights(learner.model, folder, TRAINED_WEIGHTS)
    moments = ckpt.read_tensors(folder / "optimizer.pt")
    try:
        if learner.sharded:
            scatter_moments(learner.model, learner.optimizer, moments)
        else:
            learner.optimizer.load_state_dict(moments)
    except (ValueError, KeyError) as error:
        raise ConfigError(
            f"the checkpoint {folder} cannot be used: optimizer.pt does not fit this model"
        ) from error
    learner.scheduler.load_state_dict(ckpt.read_tensors(folder / "scheduler.pt"))
    if (
        processes.is_main()
    ):  # the writer may have been killed before it moved links and removed old checkpoints
        best = state.best_global_step
        ckpt.point_links(folder.parent, state.global_step, best)
        ckpt.rotate(folder.parent, limit, {best} if best else set())
    rank = processes.rank()
    if progress["world_size"] != processes.world_size():
        start = derived_seed(seed, "dropout", state.global_step, rank)
        return state, lambda: seed_dropout(start)
    generators = ckpt.read_tensors(folder / f"rng-{rank}.pt")
    return state, lambda: ckpt.set_generator_state(generators)
