"""The one trainer, on transformers.Trainer.

What transformers does stays its own: the loop, mixed precision, clipping, wrapping for several processes. Ours are
the parts that decide what is computed: which samples an update sees (:mod:`unitrans.training.sampler`), the loss of an
update (a sum over all its micro-batches and processes, divided by the number of targets in all of them), parameter
groups, schedule, evaluation and checkpoints.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.utils import _pytree as pytree
from torch.utils.data import DataLoader
from transformers import PrinterCallback, Trainer, TrainerCallback, TrainingArguments

from unitrans.domains.base import Batch
from unitrans.errors import NonFiniteError, RunError
from unitrans.objectives import MaskedSignalModel
from unitrans.objectives.base import CollapseError
from unitrans.training import checkpoint as ckpt
from unitrans.training.data import Collate, CorruptedSamples, Skipped, make_loader, validation_batches
from unitrans.training.optim import make_adamw, parameter_groups
from unitrans.training.sampler import MicroBatches, UpdateSampler
from unitrans.training.saving import Saving
from unitrans.training.schedule import Schedule, UpdateScheduler
from unitrans.training.switches import AveragedWeights, compile_model, recompute_blocks

MAX_UNREADABLE = 1000  # samples in a row after which a run gives up
MAX_NAMED_SAMPLES = 32  # in the message of a non-finite loss; the file beside it has them all


class Clock:
    """Seconds spent training: evaluation and writing checkpoints are taken out."""

    def __init__(self) -> None:
        self._start = time.perf_counter()
        self._paused = 0.0

    def seconds(self) -> float:
        """Since the clock was made, without the pauses."""
        return time.perf_counter() - self._start - self._paused

    @contextmanager
    def pause(self) -> Iterator[None]:
        """What happens inside does not count."""
        start = time.perf_counter()
        try:
            yield
        finally:
            self._paused += time.perf_counter() - start


class UnitransTrainer(Saving, Trainer):
    """Trains a model whose forward returns ``loss_sum`` and ``num_targets``.

    args: from :func:`unitrans.training.run.training_arguments`. settings: the ``train`` section. sampler, schedule:
    what and how fast. run: where checkpoints go, None for none. scale: see ``Domain.data_unit_scale``.
    """

    model: Any
    optimizer: Any
    lr_scheduler: Any
    train_dataset: Any
    eval_dataset: Any
    data_collator: Any

    def __init__(
        self,
        model: MaskedSignalModel,
        args: TrainingArguments,
        *,
        settings: dict[str, Any],
        sampler: UpdateSampler,
        schedule: Schedule,
        train_data: CorruptedSamples,
        validation_data: CorruptedSamples | None,
        collate: Collate,
        run: Path | None = None,
        scale: Any = None,
        callbacks: list[TrainerCallback] | None = None,
    ) -> None:
        had_use_cache = hasattr(getattr(model, "config", None), "use_cache")
        super().__init__(
            model=model,
            args=args,
            train_dataset=train_data,
            eval_dataset=validation_data,
            data_collator=collate,
        )
        if not had_use_cache and hasattr(getattr(model, "config", None), "use_cache"):
            del model.config.use_cache
        self.remove_callback(PrinterCallback)
        for callback in callbacks or []:
            self.add_callback(callback)
        self.card = None  # what writes README.md into checkpoints
        self.settings, self.sampler, self.schedule, self.run, self.scale = (
            settings,
            sampler,
            schedule,
            run,
            scale,
        )
        self.inputs = model.batch_keys()
        self.notify: Callable[[str], None] = print  # how a sentence reaches the screen
        self.stop_signal: int | None = None  # set by a signal handler; acted on at the end of the update
        self.start_update = 0
        self.last_loss = math.nan
        self.tokens_seen = 0
        self.skipped: dict[str, str] = {}  # sample id -> why it could not be read
        self.clock = Clock()
        self.collected: dict[str, Tensor] = {}  # see judge()
        self.evaluations_without_best = 0
        self._unreadable_in_a_row = 0
        self.pending_evaluation = False
        self._restored: dict[str, Any] = {}
        self.resumed_from: Path | None = None
        self._tokens_last_logged, self._seconds_last_logged = 0, 0.0
        decay = settings["ema_decay"]
        self.average = None if decay is None else AveragedWeights(model, decay)
        if settings["gradient_checkpointing"]:
            recompute_blocks(model)
        if settings["torch_compile"]:
            compile_model(model, args.device)
        self._reset_update()

    def train(self, *args: Any, **kwargs: Any) -> Any:
        """The loop; see transformers. Once for each trainer."""
        self.clock = Clock()
        self.add_callback(_Flow(self))  # last: it may evaluate, and the others must be ready to show it
        try:
            return super().train(*args, **kwargs)
        except _StoppedAgainError:
            return None  # the checkpoint that the run goes on from is as it was

    @property
    def must_evaluate_first(self) -> bool:
        """Whether the checkpoint was written by a signal during its evaluation, which is made up for."""
        return bool(self._restored) and bool(self._restored["pending_evaluation"])

    # ---- what an update sees ------------------------------------------------------------------------------------

    def get_train_dataloader(self) -> DataLoader[Any]:
        """The micro-batches of this process from the update to start with; not handed to accelerate's sharding."""
        batches = MicroBatches(self.sampler, self.args.process_index, self.start_update, self.args.max_steps)
        return make_loader(
            self.train_dataset,
            batches,
            self.data_collator,
            seed=self.args.seed,
            num_workers=self.args.dataloader_num_workers,
            prefetch_factor=self.settings["dataloader_prefetch_factor"],
        )

    def set_initial_training_values(self, args: TrainingArguments, dataloader: Any) -> tuple[Any, ...]:
        """The whole run is one pass over our loader: epochs are counted by the sampler."""
        steps, batch = args.max_steps, self.sampler.global_batch_size
        micro_batches = steps * args.gradient_accumulation_steps
        return 1, steps, self.sampler.num_samples, steps * batch, batch, micro_batches, steps

    def _prepare_inputs(self, inputs: Batch) -> Batch:
        return pytree.tree_map_only(
            Tensor, lambda tensor: tensor.to(self.args.device, non_blocking=True), inputs
        )

    def run_model(self, model: nn.Module, batch: Batch) -> tuple[Batch, Any]:
        """The batch on the device and the model's output."""
        for skipped in batch.get("skipped", ()):
            self._note_skipped(skipped)
        inputs = self._prepare_inputs({key: batch[key] for key in self.inputs if key in batch})
        return inputs, model(**inputs)

    def _note_skipped(self, sample: Skipped) -> None:
        if sample.sample_id not in self.skipped:
            self.skipped[sample.sample_id] = sample.reason
            self.notify(f"skipped {sample.sample_id}: {sample.reason}")

    # ---- the loss of an update ----------------------------------------------------------------------------------

    def _reset_update(self) -> None:
        self._update_done = False
        self._sums: list[tuple[Tensor, list[str]]] = []
        self._targets: list[Tensor] = []

    def get_batch_samples(
        self, epoch_iterator: Iterator[Batch], num_batches: int, device: torch.device
    ) -> tuple[list[Batch], Tensor | int | None]:
        """The micro-batches of an update. With several domains each is told what a target of a domain counts, for
        which the targets of all of them, in all processes, are counted first."""
        batches, items = super().get_batch_samples(epoch_iterator, num_batches, device)
        objective, head = self.model.objective, self.model.head
        if not objective.joint:
            return batches, items
        counts = torch.tensor(
            [list(head.count(batch).values()) for batch in batches], dtype=torch.int64, device=device
        ).sum(0)
        if self.args.world_size > 1:
            dist.all_reduce(counts)
        weights = objective.target_weights(dict(zip(objective.parts, counts.tolist(), strict=True)))
        for batch in batches:
            batch["target_weights"] = {
                d: torch.tensor(w, dtype=torch.float32, device=device) for d, w in weights.items()
            }
        return batches, items

    def training_step(
        self, model: nn.Module, inputs: Batch, num_items_in_batch: Tensor | int | None = None
    ) -> Tensor:
        """Backward of one micro-batch. The last one of an update turns summed gradients into those of the mean.

        Returns the loss of the update with the last micro-batch and 0 with the others: the loop adds them up.
        """
        if self._update_done:
            self._reset_update()
        model.train()
        ids = inputs.get("sample_ids", [])
        if ids:
            tensors, output = self.run_model(model, inputs)
            self.tokens_seen += self.model.num_tokens(tensors)
            loss_sum, targets = output["loss_sum"], output["num_targets"]
        else:  # nothing in it can be read: a zero that keeps processes in step
            for sample in inputs["skipped"]:
                self._note_skipped(sample)
            if self.is_fsdp_enabled:
                raise RunError(
                    "no sample of a micro-batch can be read, and with train.fsdp none can be left out"
                )
            zero = torch.zeros((), device=self.args.device)
            loss_sum = sum((p.sum() * 0.0 for p in self.model.parameters() if p.requires_grad), zero)
            targets = zero.long()
        self.accelerator.backward(loss_sum)
        self._sums.append((loss_sum.detach(), ids))
        self._targets.append(targets)
        if not self.accelerator.sync_gradients:
            return torch.zeros((), device=self.args.device)
        return self._finish_update()

    def floating_point_ops(self, inputs: Batch) -> int:
        """As transformers estimates them; none where it does not find its one tensor of inputs."""
        return 0 if self.model.objective.joint else int(super().floating_point_ops(inputs))

    def _finish_update(self) -> Tensor:
        """Divides the gradients by the number of targets of all micro-batches and processes; returns the loss."""
        totals = torch.stack(
            [
                torch.stack([s.double() for s, _ in self._sums]).sum(),
                torch.stack(self._targets).sum().double(),
            ]
        )
        if self.args.world_size > 1:
            dist.all_reduce(totals)
        loss_sum, targets = totals.tolist()
        if targets == 0:
            return self._pass_over()
        self._unreadable_in_a_row = 0
        self.last_loss = loss_sum / targets
        if not math.isfinite(self.last_loss):
            self._stop_non_finite("loss", self.last_loss)
        # DDP has averaged the summed gradients over the processes.
        factor = self.args.world_size / targets
        gradients = [p.grad for p in self.model.parameters() if p.grad is not None]
        torch._foreach_mul_(gradients, factor)
        self._update_done = True
        return torch.tensor(self.last_loss, device=self.args.device)

    def _pass_over(self) -> Tensor:
        """None of the update's samples can be read: it changes no weight, and the run goes on, but not for ever."""
        self._unreadable_in_a_row += self.sampler.global_batch_size
        if self._unreadable_in_a_row >= min(self.sampler.num_samples, MAX_UNREADABLE):
            raise RunError(
                f"update {self.state.global_step + 1}: there is nothing to predict in the last "
                f"{self._unreadable_in_a_row:,} samples, and {len(self.skipped):,} could not be read so far: "
                "are the files still there?"
            )
        self.model.zero_grad(set_to_none=True)  # AdamW leaves a weight without gradient alone
        self._update_done = True
        last = self.last_loss if math.isfinite(self.last_loss) else 0.0
        return torch.tensor(last, device=self.args.device)

    def _get_grad_norm(self, model: nn.Module, grad_norm: Any = None) -> float:
        """The norm before clipping, which must be finite."""
        norm = float(super()._get_grad_norm(model, grad_norm))
        if not math.isfinite(norm):
            self._stop_non_finite("norm of the gradient", norm)
        return norm

    def _stop_non_finite(self, what: str, value: float) -> None:
        bad = [ids for loss, ids in self._sums if not bool(torch.isfinite(loss))]
        ids = [name for part in (bad or [ids for _, ids in self._sums]) for name in part]
        rate = self._get_learning_rate()
        record = {
            "step": self.state.global_step + 1,
            "what": what,
            "value": str(value),
            "learning_rate": rate,
        }
        where = ""
        if self.run is not None:
            path = self.run / f"nonfinite-{self.args.process_index}.json"
            path.write_text(json.dumps(record | {"sample_ids": ids}, indent=2) + "\n", encoding="utf-8")
            where = f" (all in {path})"
        more = f", ... {len(ids)} in all" if len(ids) > MAX_NAMED_SAMPLES else ""
        shown = ", ".join(ids[:MAX_NAMED_SAMPLES]) + more
        raise NonFiniteError(
            f"update {self.state.global_step + 1}: the {what} is {value}; learning rate {rate:.3g}; "
            f"samples: {shown or 'on another process'}{where}. Look at these samples, or lower train.learning_rate "
            "or train.max_grad_norm"
        )

    # ---- optimizer and schedule ---------------------------------------------------------------------------------

    def create_optimizer(self, model: nn.Module | None = None) -> torch.optim.Optimizer:
        """AdamW on the groups of :func:`unitrans.training.optim.parameter_groups`."""
        if self.optimizer is None:
            groups = parameter_groups(
                self.model if model is None else model,
                self.args.weight_decay,
                decay_bias_tables=self.settings["decay_bias_tables"],
                decay_everything=self.settings["decay_everything"],
                layer_decay=self.settings["layer_decay"],
            )
            betas = (self.args.adam_beta1, self.args.adam_beta2)
            self.optimizer = make_adamw(
                groups,
                lr=self.schedule(0),
                betas=betas,
                eps=self.args.adam_epsilon,
                eps_mode=self.settings["optim_eps_mode"],
            )
        return self.optimizer

    def create_scheduler(self, num_training_steps: int, optimizer: Any = None) -> UpdateScheduler:
        """The schedule of the run; ``num_training_steps`` is already in it."""
        if self.lr_scheduler is None:
            self.lr_scheduler = UpdateScheduler(optimizer or self.optimizer, self.schedule)
            self._created_lr_scheduler = True
        return self.lr_scheduler

    def _get_learning_rate(self) -> float:
        """The rate that is logged: with train.layer_decay that of the last layer."""
        return float(max(self.lr_scheduler.get_last_lr()))

    # ---- evaluation ---------------------------------------------------------------------------------------------

    def evaluate(self, *_: Any, **__: Any) -> dict[str, float]:
        """Judges the model and logs it. Returns {} when a signal asks to stop first."""
        with self.clock.pause(), self.averaged():
            metrics = self.judge()
        if metrics:
            self.log(metrics)
            self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        return metrics

    @torch.no_grad()
    def judge(self, data: CorruptedSamples | None = None) -> dict[str, float]:
        """Sums over all held-out samples for the model as it is, with masks that never change.

        data: other samples than the held-out ones. ``eval_loss`` in the loss's unit, and the metrics and figures of the
        objective; what figures were made of is left in ``collected``. {} when a signal asks to stop first.
        """
        data = self.eval_dataset if data is None else data
        start = time.perf_counter()
        # With FSDP all processes must call the model equally often: each judges everything.
        rank, processes = (0, 1) if self.is_fsdp_enabled else (self.args.process_index, self.args.world_size)
        batches = validation_batches(len(data), self.args.per_device_eval_batch_size, rank, processes)
        loader = make_loader(
            data,
            batches,
            self.data_collator.for_validation(),
            seed=self.args.seed,
            num_workers=self.args.dataloader_num_workers,
        )
        self.model.eval()
        names = self.model.objective.metric_names
        totals = torch.zeros(2 * len(names) + 3, dtype=torch.float64, device=self.args.device)
        collected: list[dict[str, Tensor]] = []
        for batch in loader:
            if self.stop_signal is not None and self.args.world_size == 1:
                return {}
            totals += self._judge(batch, collected)
        if processes > 1:
            dist.all_reduce(totals)
            parts: list[Any] = [None] * processes
            dist.all_gather_object(parts, collected)
            collected = [batch for part in parts for batch in part]
        loss, targets, samples, *sums = totals.tolist()
        if not samples:
            raise RunError(f"none of the {len(data):,} held-out samples can be read")
        metrics = {"eval_loss": loss / max(targets, 1)}
        for name, total, count in zip(names, sums[::2], sums[1::2], strict=True):
            metrics[f"eval_{name}"] = total / max(count, 1)
        self.collected = {}
        if collected:
            keys = dict.fromkeys(key for batch in collected for key in batch)
            self.collected = {
                key: torch.cat([batch[key] for batch in collected if key in batch]) for key in keys
            }
            figures = self.model.objective.figures(self.collected)
            metrics |= {f"eval_{name}": value for name, value in figures.items()}
        return metrics | {"eval_samples": int(samples), "eval_seconds": round(time.perf_counter() - start, 3)}

    def _judge(self, batch: Batch, collected: list[dict[str, Tensor]]) -> Tensor:
        """[sum of the loss, targets, samples, then sum and count of each metric] of a batch."""
        objective = self.model.objective
        if not batch.get("sample_ids"):
            for sample in batch["skipped"]:
                self._note_skipped(sample)
            return torch.zeros(
                2 * len(objective.metric_names) + 3, dtype=torch.float64, device=self.args.device
            )
        inputs, output = self.run_model(self.model, batch)
        kept = objective.collect(inputs, output)
        if kept:
            collected.append({key: tensor.cpu() for key, tensor in kept.items()})
        metrics = objective.metrics(inputs, output, self.scale)
        head = (output["loss_sum"], output["num_targets"], torch.tensor(len(batch["sample_ids"])))
        first = torch.stack([part.double().to(self.args.device) for part in head])
        return torch.cat(
            [first, *(metrics[name].double().to(first.device) for name in objective.metric_names)]
        )

    def _determine_best_metric(self, metrics: dict[str, float], trial: Any) -> bool:
        if not metrics:  # interrupted: to be done first when the run goes on
            self.pending_evaluation = self.control.should_save = self.control.should_training_stop = True
            self.control.should_evaluate = False
            return False
        best = super()._determine_best_metric(metrics, trial)
        self.evaluations_without_best = 0 if best else self.evaluations_without_best + 1
        patience = self.settings["early_stopping_patience"]
        if patience is not None and self.evaluations_without_best >= patience:
            self.control.should_training_stop = True
        if best or self.control.should_training_stop:
            self.control.should_save = True
        return bool(best)

    # ---- the log ------------------------------------------------------------------------------------------------

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Completes a row and hands it to the callbacks (metrics.jsonl, TensorBoard, the screen)."""
        if "train_runtime" in logs:  # the loop's closing summary repeats what the rows say
            return
        if "loss" in logs:
            tokens, seconds = self.tokens_seen * self.args.world_size, self.clock.seconds()
            elapsed = seconds - self._seconds_last_logged
            logs["tokens_per_second"] = round((tokens - self._tokens_last_logged) / max(elapsed, 1e-9), 1)
            self._tokens_last_logged, self._seconds_last_logged = tokens, seconds
        logs["epoch"] = self.sampler.epoch_at(self.state.global_step)
        self.control = self.callback_handler.on_log(self.args, self.state, self.control, logs)

    def restore_progress(self) -> None:
        """Takes up the log and the evaluation where the checkpoint left them; called when the loop is set up."""
        if not self._restored:
            return
        if (
            self.run is not None and self.args.should_save
        ):  # the writer may have been killed before it moved them
            ckpt.point_links(self.run / "checkpoints", self.start_update, self.state.best_global_step)
        self._tr_loss = torch.tensor(self._restored["loss_since_log"], device=self.args.device)
        self._globalstep_last_logged = self._restored["last_logged"]
        self.evaluations_without_best = self._restored["evaluations_without_best"]
        if self.must_evaluate_first:
            self._make_up_evaluation()

    def _make_up_evaluation(self) -> None:
        """The evaluation that a signal cut short, and the checkpoint again with what it found."""
        metrics = self._evaluate(None, None)
        if not metrics:
            raise _StoppedAgainError
        self._determine_best_metric(metrics, None)
        self.pending_evaluation = False
        self._load_rng_state(str(self.resumed_from))  # the loop does so later; the checkpoint holds them
        self._save_checkpoint(self.model, None)
        self.control.should_save = False


class _StoppedAgainError(Exception):
    """A signal came while the evaluation was made up for that an earlier signal had cut short."""


class _Flow(TrainerCallback):
    """What transformers' own flow leaves out."""

    def __init__(self, trainer: UnitransTrainer) -> None:
        self.trainer = trainer

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """The loop has set its counters to zero: now they can be restored."""
        self.trainer.restore_progress()

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """A teacher and the average of the weights follow; the last update is always in the log."""
        try:
            self.trainer.accelerator.unwrap_model(self.trainer.model).after_update()
        except CollapseError as error:
            raise RunError(str(error)) from None
        if self.trainer.average is not None:
            self.trainer.average.update(state.global_step)
        if state.global_step >= state.max_steps:
            control.should_log = True
