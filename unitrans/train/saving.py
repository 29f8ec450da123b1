"""Writing the state of a training loop into checkpoints and taking it up again."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
import torch.distributed as dist
from safetensors import SafetensorError
from torch import nn

from unitrans.train import checkpoint as ckpt
from unitrans.train.errors import ConfigError, RunError


def load_weights(model: nn.Module, folder: Path) -> None:
    """The weights of a checkpoint into a model of the same shape. ConfigError where they do not fit."""
    try:
        weights = safetensors.torch.load_file(folder / "model.safetensors")
        model.load_state_dict(weights, strict=True)
    except (OSError, SafetensorError, RuntimeError) as error:
        message = " ".join(str(error).split())[:300]
        raise ConfigError(f"the weights in {folder} cannot be loaded into this model: {message}") from None


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
    skipped: dict[str, str]
    start_update: int
    evaluations_without_best: int
    pending_evaluation: bool
    _tr_loss: torch.Tensor
    _globalstep_last_logged: int
    _restored: dict[str, Any]

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
                torch.save(ckpt.generator_state(), temporary / f"rng-{self.args.process_index}.pt")
                if self.args.should_save:
                    self._write_state(temporary)
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

    def _write_state(self, folder: Path) -> None:
        self.accelerator.unwrap_model(self.model).save_pretrained(folder)
        torch.save(self.optimizer.state_dict(), folder / "optimizer.pt")
        torch.save(self.lr_scheduler.state_dict(), folder / "scheduler.pt")
        self.state.save_to_json(str(folder / "trainer_state.json"))
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
        progress = json.loads((folder / ckpt.PROGRESS).read_text(encoding="utf-8"))
        if progress["world_size"] != self.args.world_size:
            raise ConfigError(
                f"the run was saved by {progress['world_size']} processes and cannot go on exactly with "
                f"{self.args.world_size}: use the same number"
            )
        self._restored = progress
        patience = self.settings["early_stopping_patience"]
        if patience is not None and progress["evaluations_without_best"] >= patience:
            self.args.max_steps = progress["step"]  # it had stopped early: only the report is left
        self.start_update = progress["step"]
        self.skipped = dict(progress["skipped"])
        load_weights(self.model, folder)

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        assert checkpoint is not None
        self.optimizer.load_state_dict(ckpt.read_tensors(Path(checkpoint) / "optimizer.pt"))
        self.lr_scheduler.load_state_dict(ckpt.read_tensors(Path(checkpoint) / "scheduler.pt"))

    def _load_rng_state(self, checkpoint: str | None) -> None:
        assert checkpoint is not None
        ckpt.set_generator_state(ckpt.read_tensors(Path(checkpoint) / f"rng-{self.args.process_index}.pt"))
