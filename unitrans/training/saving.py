"""Writing the state of a training loop into checkpoints and taking it up again."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
import torch.distributed as dist
from safetensors import SafetensorError
from torch import nn
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_state_dict,
    set_model_state_dict,
    set_optimizer_state_dict,
)
from torch.distributed.tensor import DTensor

from unitrans.errors import ConfigError, RunError
from unitrans.stored import read_json
from unitrans.training import checkpoint as ckpt
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


class Saving:
    """The half of the trainer that saves and loads; it replaces transformers' file layout by ours."""

    # What the other half provides.
    run: Path | None
    settings: dict[str, Any]
    args: Any
    state: Any
    model: Any
    accelerator: Any
    optimizer: Any
    lr_scheduler: Any
    clock: Any
    is_fsdp_enabled: bool
    average: AveragedWeights | None
    skipped: dict[str, str]
    card: Callable[[int], str] | None
    start_update: int
    evaluations_without_best: int
    pending_evaluation: bool
    _tr_loss: torch.Tensor
    _globalstep_last_logged: int
    _restored: dict[str, Any]
    resumed_from: Path | None

    def averaged(self) -> AbstractContextManager[None]:
        """Inside, the model holds the weights that count: their moving average where there is one."""
        return nullcontext() if self.average is None else self.average.applied()

    def _save_checkpoint(self, model: nn.Module, trial: Any) -> None:
        if self.run is None:
            return
        folder = self.run / "checkpoints"
        step = self.state.global_step
        temporary = folder / f".{ckpt.checkpoint_name(step)}.tmp"
        with self.clock.pause():
            try:
                if self.args.should_save:
                    shutil.rmtree(temporary, ignore_errors=True)
                    temporary.mkdir(parents=True)
                self._barrier()
                whole = gather_state(self.model, self._bare_optimizer()) if self.is_fsdp_enabled else None
                torch.save(ckpt.generator_state(), temporary / f"rng-{self.args.process_index}.pt")
                if self.args.should_save:
                    self._write_state(temporary, whole)
                self._barrier()
                if self.args.should_save:
                    self._publish(folder, temporary, step)
                self._barrier()
            except (OSError, SafetensorError, RuntimeError) as error:
                shutil.rmtree(temporary, ignore_errors=True)
                if type(error) is RuntimeError and "PytorchStreamWriter" not in str(error):
                    raise  # not a failure to write
                raise RunError(
                    f"the checkpoint of update {step} cannot be written to {folder} ({error}); earlier ones are "
                    f"untouched: make room, then go on with --resume {self.run}"
                ) from error

    def _bare_optimizer(self) -> torch.optim.Optimizer:
        bare: torch.optim.Optimizer = getattr(self.optimizer, "optimizer", self.optimizer)
        return bare

    def _write_state(self, folder: Path, whole: tuple[dict[str, Any], dict[str, Any]] | None) -> None:
        weights, moments = whole or (None, self.optimizer.state_dict())
        model = self.accelerator.unwrap_model(self.model)
        with self.averaged():
            model.save_pretrained(folder, state_dict=weights)
        if self.average is not None:
            kept = model.state_dict().keys()
            tensors = [*model.named_parameters(), *model.named_buffers()]
            trained = {name: tensor.detach().contiguous() for name, tensor in tensors if name in kept}
            safetensors.torch.save_file(trained, folder / TRAINED_WEIGHTS)
        torch.save(moments, folder / "optimizer.pt")
        torch.save(self.lr_scheduler.state_dict(), folder / "scheduler.pt")
        self.state.save_to_json(str(folder / "trainer_state.json"))
        if self.card is not None:
            (folder / "README.md").write_text(self.card(self.state.global_step), encoding="utf-8")
        progress = {
            "step": self.state.global_step,
            "loss_since_log": self._tr_loss.item(),
            "last_logged": self._globalstep_last_logged,
            "evaluations_without_best": self.evaluations_without_best,
            "pending_evaluation": self.pending_evaluation,
            "world_size": self.args.world_size,
            "skipped": self.skipped,
        }
        (folder / ckpt.PROGRESS).write_text(json.dumps(progress, indent=2) + "\n", encoding="utf-8")

    def _publish(self, folder: Path, temporary: Path, step: int) -> None:
        ckpt.seal(temporary, folder / ckpt.checkpoint_name(step))
        best = self.state.best_global_step
        ckpt.point_links(folder, step, best)
        ckpt.rotate(folder, self.args.save_total_limit, {best} if best else set())

    def _barrier(self) -> None:
        if self.args.world_size > 1:
            dist.barrier()

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: nn.Module | None = None) -> None:
        folder = Path(resume_from_checkpoint)
        progress = read_json(folder / ckpt.PROGRESS)
        if progress["world_size"] != self.args.world_size:
            raise ConfigError(
                f"the run was saved by {progress['world_size']} processes and cannot go on exactly with "
                f"{self.args.world_size}: use the same number"
            )
        self._restored, self.resumed_from = progress, folder
        patience = self.settings["early_stopping_patience"]
        if patience is not None and progress["evaluations_without_best"] >= patience:
            self.args.max_steps = progress["step"]  # it had stopped early: only the report is left
        self.start_update = progress["step"]
        self.skipped = dict(progress["skipped"])
        load_weights(self.model, folder)
        if self.average is not None:
            self.average.restart()
            load_weights(self.model, folder, TRAINED_WEIGHTS)

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        assert checkpoint is not None
        moments = ckpt.read_tensors(Path(checkpoint) / "optimizer.pt")
        try:
            if self.is_fsdp_enabled:
                scatter_moments(self.model, self._bare_optimizer(), moments)
            else:
                self.optimizer.load_state_dict(moments)
        except (ValueError, KeyError) as error:
            raise ConfigError(
                f"the checkpoint {checkpoint} cannot be used: optimizer.pt does not fit this model"
            ) from error
        self.lr_scheduler.load_state_dict(ckpt.read_tensors(Path(checkpoint) / "scheduler.pt"))

    def _load_rng_state(self, checkpoint: str | None) -> None:
        assert checkpoint is not None
        ckpt.set_generator_state(ckpt.read_tensors(Path(checkpoint) / f"rng-{self.args.process_index}.pt"))
