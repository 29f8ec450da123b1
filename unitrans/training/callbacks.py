"""What a run shows and writes while it goes: progress bar, metrics.jsonl, TensorBoard, stopping on a signal."""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

import torch
import torch.distributed as dist
from torch.utils.tensorboard import SummaryWriter
from tqdm import tqdm
from transformers import TrainerCallback

from unitrans.stored import parse_json
from unitrans.training.trainer import UnitransTrainer

METRICS_FILE = "metrics.jsonl"


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """The rows of a metrics.jsonl; a last line cut off by a crash is left out."""
    rows = []
    for line in path.read_text(encoding="utf-8").splitlines() if path.exists() else ():
        try:
            rows.append(parse_json(line))
        except ValueError:
            break
    return rows


class RunLog(TrainerCallback):
    """Every row to metrics.jsonl and TensorBoard. A run that goes on drops the rows after its checkpoint."""

    def __init__(self, run: Path, trainer: UnitransTrainer) -> None:
        self.run, self.trainer = run, trainer
        self.path = run / METRICS_FILE

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Opens both files."""
        kept = [row for row in read_metrics(self.path) if row["step"] <= state.global_step]
        if self.trainer.must_evaluate_first:  # it may have been made up for by a process that was killed then
            kept = [row for row in kept if row["step"] < state.global_step or "eval_loss" not in row]
        temporary = self.path.with_name(f".{METRICS_FILE}.tmp")
        temporary.write_text("".join(json.dumps(row) + "\n" for row in kept), encoding="utf-8")
        temporary.replace(self.path)
        self.file = self.path.open("a", encoding="utf-8")
        self.board = SummaryWriter(str(self.run / "tensorboard"), purge_step=state.global_step + 1)

    def on_log(
        self, args: Any, state: Any, control: Any, logs: dict[str, float] | None = None, **kwargs: Any
    ) -> None:
        """One row."""
        logs = logs or {}
        self.file.write(json.dumps({"step": state.global_step, **logs}) + "\n")
        self.file.flush()
        for name, value in logs.items():
            tag = (
                f"validation/{name.removeprefix('eval_')}" if name.startswith("eval_") else f"training/{name}"
            )
            self.board.add_scalar(tag, value, state.global_step)

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Closes both files."""
        self.file.close()
        self.board.close()


class ProgressBar(TrainerCallback):
    """Loss, tokens per second and time left on stderr; one line per evaluation."""

    def __init__(self, trainer: UnitransTrainer) -> None:
        self.trainer = trainer
        self.bar: tqdm[Any] | None = None
        if int(os.environ.get("RANK", "0")) == 0:
            trainer.notify = self.say

    def say(self, text: str) -> None:
        """A line that does not break the bar."""
        tqdm.write(text, file=sys.stderr)

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Starts the bar where the run starts."""
        self.bar = tqdm(
            total=state.max_steps,
            initial=state.global_step,
            file=sys.stderr,
            mininterval=0.2 if sys.stderr.isatty() else 15.0,
            bar_format="update {n_fmt}/{total_fmt} |{bar:20}| {elapsed} gone, {remaining} left{postfix}",
        )
        self.seconds, self.tokens = self.trainer.clock.seconds(), self.trainer.tokens_seen

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """One update further."""
        assert self.bar is not None
        seconds, tokens = self.trainer.clock.seconds(), self.trainer.tokens_seen
        if seconds - self.seconds > 1.0 or state.global_step <= 1:
            self.speed = (tokens - self.tokens) * args.world_size / max(seconds - self.seconds, 1e-9)
            self.seconds, self.tokens = seconds, tokens
        speed = getattr(self, "speed", 0.0)
        self.bar.set_postfix_str(f" loss {self.trainer.last_loss:.4f}, {speed:,.0f} tokens/s", refresh=False)
        self.bar.update(1)

    def on_evaluate(self, args: Any, state: Any, control: Any, metrics: Any = None, **kwargs: Any) -> None:
        """What the held-out samples say."""
        value, greater = metrics[f"eval_{args.metric_for_best_model}"], args.greater_is_better
        best = state.best_metric is None or (
            value > state.best_metric if greater else value < state.best_metric
        )
        hidden = ("eval_loss", "eval_samples", "eval_seconds")
        figures = "".join(
            f", {name.removeprefix('eval_')} {value:.4f}"
            for name, value in metrics.items()
            if name.startswith("eval_") and name not in hidden
        )
        mark = " (best so far)" if best else ""
        self.say(f"update {state.global_step}: held-out loss {metrics['eval_loss']:.4f}{figures}{mark}")

    def close(self) -> None:
        """Leaves the bar on the screen; what is printed next gets a line of its own."""
        if self.bar is not None:
            self.bar.close()
            self.bar = None

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """The loop is done."""
        self.close()


class StopOnSignal(TrainerCallback):
    """After a signal the update is finished, the state saved and the loop left; all processes agree on the update."""

    def __init__(self, trainer: UnitransTrainer) -> None:
        self.trainer = trainer

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Asks whether any process has been told to stop."""
        number = self.trainer.stop_signal or 0
        if args.world_size > 1:
            shared = torch.tensor(number, device=args.device)
            dist.all_reduce(shared, op=dist.ReduceOp.MAX)
            number = int(shared)
        if number:
            self.trainer.stop_signal = number
            control.should_training_stop = control.should_save = True


@contextmanager
def stop_signals(trainer: UnitransTrainer) -> Iterator[None]:
    """Ctrl-C and SIGTERM ask the trainer to stop; the second one ends the process at once."""

    def handle(signum: int, frame: FrameType | None) -> None:
        if trainer.stop_signal is not None:
            os._exit(128 + signum)
        trainer.stop_signal = signum
        message = (
            f"\n{signal.Signals(signum).name}: finishing this update, then saving; once more stops at once\n"
        )
        os.write(2, message.encode())  # print is not safe in a handler

    numbers = (signal.SIGINT, signal.SIGTERM)
    before = [signal.signal(number, handle) for number in numbers]
    try:
        yield
    finally:
        for number, handler in zip(numbers, before, strict=True):
            signal.signal(number, handler)
