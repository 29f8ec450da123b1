"""The loop of every run: read :meth:`Trainer.train`, then :meth:`Trainer.update`, and it says what an update is.

Which samples an update sees is decided by :mod:`~unitrans.training.sampler`, its rate by
:mod:`~unitrans.training.schedule`; :mod:`~unitrans.training.judging` has the figures of held-out samples,
:mod:`~unitrans.training.saving` what a checkpoint holds, :mod:`~unitrans.training.processes` what several processes do.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from unitrans.domains.base import Batch
from unitrans.errors import RunError
from unitrans.objectives import MaskedSignalModel
from unitrans.objectives.base import CollapseError
from unitrans.training import processes
from unitrans.training.data import Collate, CorruptedSamples, Skipped, make_loader, move_batch
from unitrans.training.failures import MicroBatch, non_finite
from unitrans.training.joint import weigh_domains
from unitrans.training.judging import judge
from unitrans.training.observers import Clock, Observer
from unitrans.training.optim import make_optimizer
from unitrans.training.sampler import MicroBatches, UpdateSampler
from unitrans.training.saving import Learner, State, read_checkpoint, write_checkpoint
from unitrans.training.schedule import Schedule, UpdateScheduler
from unitrans.training.switches import AveragedWeights, autocast_forward, compile_model, recompute_blocks

MAX_UNREADABLE = 1000  # samples in a row after which a run gives up


class Trainer:
    """Trains a model whose forward returns ``loss_sum`` and ``num_targets``.

    settings: the ``train`` section. sampler, schedule: what is seen and how fast it is learned. run: where checkpoints
    go; None: nothing is evaluated or saved. scale: see ``Domain.data_unit_scale``. card: what writes README.md into a
    checkpoint. observers: what is told about every step of the run.
    """

    def __init__(
        self,
        model: MaskedSignalModel,
        *,
        settings: dict[str, Any],
        sampler: UpdateSampler,
        schedule: Schedule,
        train_data: CorruptedSamples,
        validation_data: CorruptedSamples | None,
        collate: Collate,
        run: Path | None = None,
        scale: Any = None,
        card: Callable[[int], str] | None = None,
    ) -> None:
        self.device = processes.place(settings["use_cpu"])
        self.rank, self.world_size = processes.rank(), processes.world_size()
        self.model: Any = nn.Module.to(model, self.device)
        self.settings, self.sampler, self.schedule = settings, sampler, schedule
        self.train_data, self.validation_data, self.collate = train_data, validation_data, collate
        self.run, self.scale, self.card = run, scale, card
        self.max_steps = schedule.total
        self.inputs = model.batch_keys()
        self.observers: list[Observer] = []
        self.notify: Callable[[str], None] = print  # how a sentence reaches the screen
        self.stop_signal: int | None = None  # set by a signal handler; acted on at the end of the update
        self.stopping = False  # the loop ends after this update
        self.state = State(micro_batches=sampler.accumulation_steps * self.world_size)
        self.clock = Clock()
        self.last_loss = math.nan
        self.tokens_seen = 0
        self.collected: dict[str, Tensor] = {}  # see judge()
        self._unreadable_in_a_row = 0
        self._tokens_last_logged, self._seconds_last_logged = 0, 0.0
        decay = settings["ema_decay"]
        self.average = None if decay is None else AveragedWeights(model, decay)
        if settings["gradient_checkpointing"]:
            recompute_blocks(model)
        if settings["torch_compile"]:
            compile_model(model, self.device)

    # ---- the run ------------------------------------------------------------------------------------------------

    def train(self, checkpoint: Path | None = None) -> None:
        """The whole run, or what a checkpoint leaves of it. Once for each trainer."""
        self.clock = Clock()
        self._prepare()
        set_generators = (lambda: None) if checkpoint is None else self._take_up(checkpoint)
        for observer in self.observers:
            observer.on_begin(self)
        set_generators()
        if self.state.pending_evaluation:  # a signal broke it off
            self.evaluate()
            if not self.state.pending_evaluation:
                self.save()  # again, with what came of it
            self._agree_on_stop()
        batches = self._micro_batches()
        while self.state.global_step < self.max_steps and not self.stopping:
            norm, rate = self.update([next(batches) for _ in range(self.sampler.accumulation_steps)])
            for observer in self.observers:
                observer.on_update(self)
            self._agree_on_stop()
            last = self.state.global_step >= self.max_steps
            if last or self._is_due("logging_steps"):
                self._log_update(norm, rate)
            judged = self.run is not None and self.validation_data is not None
            best = self.evaluate() if judged and (last or self._is_due("eval_steps")) else False
            if best or last or self.stopping or self._is_due("save_steps"):
                self.save()
        self._agree_on_stop()
        for observer in self.observers:
            observer.on_end(self)

    def update(self, batches: Sequence[Batch]) -> tuple[float, float]:
        """One update of the weights from its micro-batches. Returns the norm of its gradient and its rate."""
        self.wrapped.train()
        weigh_domains(self.model, batches, self.device)
        parts = []
        for number, batch in enumerate(batches, 1):
            with self._gradients_stay_local(number < len(batches)):
                parts.append(self.forward_backward(batch))
        self._normalise(parts)
        norm = self.clip()
        if not math.isfinite(norm):
            self._refuse("norm of the gradient", norm, parts)
        self.optimizer.step()
        rate = self._rate()
        self.scheduler.step()
        self.wrapped.zero_grad()
        state = self.state
        state.global_step += 1
        loss = self.last_loss if math.isfinite(self.last_loss) else 0.0  # the first update was passed over
        state.loss_since_log = float(np.float32(state.loss_since_log) + np.float32(loss))
        try:
            self.model.after_update()  # a teacher follows
        except CollapseError as error:
            raise RunError(str(error)) from None
        if self.average is not None:
            self.average.update(state.global_step)
        return norm, rate

    def _prepare(self) -> None:
        """The model as it computes, and what moves it."""
        if self.settings["bf16"]:
            autocast_forward(self.model, self.device)
        if self.settings["fsdp"]:
            processes.shard(self.model, self.device)
        self.optimizer = make_optimizer(self.model, self.settings, self.schedule(0))
        self.scheduler = UpdateScheduler(self.optimizer, self.schedule)
        several = self.world_size > 1 and not self.settings["fsdp"]
        self.wrapped: Any = processes.wrap(self.model, self.device) if several else self.model
        self.learner = Learner(
            self.model, self.optimizer, self.scheduler, self.average, self.settings["fsdp"]
        )

    def _micro_batches(self) -> Iterator[Batch]:
        """The micro-batches of this process from the next update to the last."""
        batches = MicroBatches(self.sampler, self.rank, self.state.global_step, self.max_steps)
        train = self.settings
        workers, ahead = train["dataloader_num_workers"], train["dataloader_prefetch_factor"]
        options = {"seed": train["seed"], "num_workers": workers, "prefetch_factor": ahead}
        return iter(make_loader(self.train_data, batches, self.collate, **options))

    # ---- the parts of an update ---------------------------------------------------------------------------------

    def _gradients_stay_local(self, local: bool) -> AbstractContextManager[Any]:
        """Inside, gradients are added up in each process and not exchanged."""
        if not local or self.world_size == 1:
            return nullcontext()
        return processes.no_exchange(self.wrapped)

    def forward_backward(self, batch: Batch) -> MicroBatch:
        """Adds the gradients of a micro-batch. Returns the sum of its loss, its targets and the ids of its samples."""
        ids = batch.get("sample_ids", [])
        if ids:
            tensors, output = self.run_model(self.wrapped, batch)
            self.tokens_seen += self.model.num_tokens(tensors)
            loss_sum, targets = output["loss_sum"], output["num_targets"]
        else:  # nothing in it can be read: a zero that keeps processes in step
            self.note_skipped(batch)
            if self.settings["fsdp"]:
                raise RunError(
                    "no sample of a micro-batch can be read, and with train.fsdp none can be left out"
                )
            zero = torch.zeros((), device=self.device)
            loss_sum = sum((p.sum() * 0.0 for p in self.model.parameters() if p.requires_grad), zero)
            targets = zero.long()
        loss_sum.backward()
        return loss_sum.detach(), targets, ids

    def run_model(self, model: nn.Module, batch: Batch) -> tuple[Batch, Any]:
        """The batch on the device and the model's output."""
        self.note_skipped(batch)
        inputs = move_batch({key: batch[key] for key in self.inputs if key in batch}, self.device)
        return inputs, model(**inputs)

    def _normalise(self, parts: list[MicroBatch]) -> None:
        """Turns the summed gradients into those of the mean over the targets of all micro-batches and processes."""
        losses, targets = [loss.double() for loss, _, _ in parts], [count for _, count, _ in parts]
        totals = torch.stack([torch.stack(losses).sum(), torch.stack(targets).sum().double()])
        processes.add_up(totals)
        loss_sum, count = totals.tolist()
        if count == 0:
            self._pass_over()
            return
        self._unreadable_in_a_row = 0
        self.last_loss = loss_sum / count
        if not math.isfinite(self.last_loss):
            self._refuse("loss", self.last_loss, parts)
        factor = self.world_size / count  # the exchange has averaged the sums over the processes
        for parameter in self.model.parameters():
            if parameter.grad is not None:
                parameter.grad.mul_(factor)

    def _pass_over(self) -> None:
        """None of the update's samples can be read: it changes no weight, and the run goes on, but not for ever."""
        self._unreadable_in_a_row += self.sampler.global_batch_size
        if self._unreadable_in_a_row >= min(self.sampler.num_samples, MAX_UNREADABLE):
            raise RunError(
                f"update {self.state.global_step + 1}: there is nothing to predict in the last "
                f"{self._unreadable_in_a_row:,} samples, and {len(self.state.skipped):,} could not be read so far: "
                "are the files still there?"
            )
        self.model.zero_grad(set_to_none=True)  # AdamW leaves a weight without gradient alone

    def clip(self) -> float:
        """Scales gradients down to train.max_grad_norm (0: never). Returns their norm before."""
        limit = self.settings["max_grad_norm"] or math.inf
        norm: Any = nn.utils.clip_grad_norm_(self.model.parameters(), limit)
        return float(norm.full_tensor() if isinstance(norm, DTensor) else norm)

    def _rate(self) -> float:
        """The rate that is logged: with train.layer_decay that of the last layer."""
        return float(max(self.scheduler.get_last_lr()))

    def _refuse(self, what: str, value: float, parts: list[MicroBatch]) -> NoReturn:
        """Stops at what is not a number."""
        at = {"step": self.state.global_step + 1, "learning_rate": self._rate()}
        raise non_finite(what, value, parts, at, self.run, self.rank)

    def note_skipped(self, batch: Batch) -> None:
        """Says once of every sample of a batch that it could not be read."""
        for sample in batch.get("skipped", ()):
            assert isinstance(sample, Skipped)
            if sample.sample_id not in self.state.skipped:
                self.state.skipped[sample.sample_id] = sample.reason
                self.notify(f"skipped {sample.sample_id}: {sample.reason}")

    # ---- behind an update ---------------------------------------------------------------------------------------

    def _is_due(self, key: str) -> bool:
        """Whether the update is a multiple of ``train.key``, which below 1 is a part of the run."""
        every = self.settings[key]
        return self.state.global_step % (every if every >= 1 else math.ceil(self.max_steps * every)) == 0

    def _agree_on_stop(self) -> None:
        """A signal to any process stops all of them after the same update."""
        signal = processes.largest(self.stop_signal or 0, self.device)
        if signal:
            self.stop_signal, self.stopping = signal, True

    def _log_update(self, norm: float, rate: float) -> None:
        """A row about the updates since the last one: their mean loss, and norm and rate of the newest."""
        state, seconds, tokens = self.state, self.clock.seconds(), self.tokens_seen * self.world_size
        loss = state.loss_since_log / (state.global_step - state.last_logged)
        speed = (tokens - self._tokens_last_logged) / max(seconds - self._seconds_last_logged, 1e-9)
        self._tokens_last_logged, self._seconds_last_logged = tokens, seconds
        state.loss_since_log, state.last_logged = 0.0, state.global_step
        row = {"loss": loss, "grad_norm": norm, "learning_rate": rate}
        self.log(row | {"tokens_per_second": round(speed, 1)})

    def log(self, row: dict[str, float]) -> None:
        """Completes a row and hands it to the observers (metrics.jsonl, trackers, the screen)."""
        row = row | {"epoch": self.sampler.epoch_at(self.state.global_step)}
        for observer in self.observers:
            observer.on_row(self, row)

    def evaluate(self) -> bool:
        """Judges the model on the held-out samples and logs it. Whether it is the best so far.

        A signal breaks it off; then it comes first when the run goes on.
        """
        averaged = nullcontext() if self.average is None else self.average.applied()
        with self.clock.pause(), averaged:
            metrics = self.judge()
        self.state.pending_evaluation = not metrics
        if not metrics:
            self.stopping = True
            return False
        self.log(metrics)
        objective, state = self.model.objective, self.state
        greater = objective.best != "loss" and objective.greater_is_better
        best = state.is_better(metrics[f"eval_{objective.best}"], greater)
        for observer in self.observers:
            observer.on_evaluation(self, metrics, best)
        patience = self.settings["early_stopping_patience"]
        if patience is not None and state.evaluations_without_best >= patience:
            self.stopping = True
        return best

    def judge(self, data: CorruptedSamples | None = None) -> dict[str, float]:
        """Figures of the model as it is on the held-out samples, or on others; see :func:`judging.judge`.

        What figures were made of is left in ``collected``. {} when a signal asks to stop first.
        """
        data = self.validation_data if data is None else data
        assert data is not None
        metrics, self.collected = judge(
            self.model,
            data,
            run_model=self.run_model,
            note_skipped=self.note_skipped,
            collate=self.collate,
            settings=self.settings,
            scale=self.scale,
            device=self.device,
            is_stopped=lambda: self.stop_signal is not None and self.world_size == 1,
        )
        return metrics

    # ---- checkpoints --------------------------------------------------------------------------------------------

    def save(self) -> None:
        """Writes a checkpoint, where there is a place for it."""
        if self.run is not None:
            with self.clock.pause():
                write_checkpoint(
                    self.run, self.learner, self.state, self.settings["save_total_limit"], self.card
                )

    def _take_up(self, checkpoint: Path) -> Callable[[], None]:
        """Everything as the checkpoint has it, but for the generators, which the returned function sets."""
        seed, limit = self.settings["seed"], self.settings["save_total_limit"]
        self.state, set_generators = read_checkpoint(checkpoint, self.learner, seed, limit)
        self.state.micro_batches = self.sampler.accumulation_steps * self.world_size
        patience = self.settings["early_stopping_patience"]
        if patience is not None and self.state.evaluations_without_best >= patience:
            self.max_steps = self.state.global_step  # it had stopped early: only the report is left
        return set_generators
