"""What a run shows and writes while it goes: progress bar, metrics.jsonl, trackers; stopping on a signal."""

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

from tqdm import tqdm

from unitrans.stored import parse_json
from unitrans.training.loop import Trainer
from unitrans.training.observers import Observer
from unitrans.training.processes import is_main
from unitrans.training.runs import write_text
from unitrans.training.tracking import make_trackers

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


class RunLog(Observer):
    """Every row to metrics.jsonl and to train.report_to. A run that goes on drops the rows after its checkpoint."""

    def __init__(self, run: Path) -> None:
        self.run = run
        self.path = run / METRICS_FILE

    def on_begin(self, trainer: Trainer) -> None:
        """Opens the file and the trackers."""
        state = trainer.state

        def is_kept(row: dict[str, Any]) -> bool:
            again = state.pending_evaluation and "eval_loss" in row
            return row["step"] < state.global_step + (not again)

        kept = [row for row in read_metrics(self.path) if is_kept(row)]
        write_text(self.path, "".join(json.dumps(row) + "\n" for row in kept))
        self.file = self.path.open("a", encoding="utf-8")
        settings = trainer.settings
        self.trackers = make_trackers(
            settings["report_to"], self.run, state.global_step + 1, settings["use_cpu"]
        )
        for tracker in self.trackers:
            tracker.start()

    def on_row(self, trainer: Trainer, row: dict[str, float]) -> None:
        """One row."""
        step = trainer.state.global_step
        self.file.write(json.dumps({"step": step, **row}) + "\n")
        self.file.flush()
        named = {
            f"validation/{name.removeprefix('eval_')}"
            if name.startswith("eval_")
            else f"training/{name}": value
            for name, value in row.items()
        }
        for tracker in self.trackers:
            tracker.log(named, step)

    def on_end(self, trainer: Trainer) -> None:
        """Closes them."""
        self.file.close()
        for tracker in self.trackers:
            tracker.finish()


class ProgressBar(Observer):
    """Loss, tokens per second and time left on stderr; one line per evaluation."""

    def __init__(self, trainer: Trainer) -> None:
        self.bar: tqdm[Any] | None = None
        self.speed = 0.0
        if is_main():
            trainer.notify = self.say

    def say(self, text: str) -> None:
        """A line that does not break the bar."""
        tqdm.write(text, file=sys.stderr)

    def on_begin(self, trainer: Trainer) -> None:
        """Starts the bar where the run starts."""
        self.bar = tqdm(
            total=trainer.max_steps,
            initial=trainer.state.global_step,
            file=sys.stderr,
            mininterval=0.2 if sys.stderr.isatty() else 15.0,
            bar_format="update {n_fmt}/{total_fmt} |{bar:20}| {elapsed} gone, {remaining} left{postfix}",
        )
        self.seconds, self.tokens = trainer.clock.seconds(), trainer.tokens_seen

    def on_update(self, trainer: Trainer) -> None:
        """One update further."""
        assert self.bar is not None
        seconds, tokens = trainer.clock.seconds(), trainer.tokens_seen
        if seconds - self.seconds > 1.0 or trainer.state.global_step <= 1:
            self.speed = (tokens - self.tokens) * trainer.world_size / max(seconds - self.seconds, 1e-9)
            self.seconds, self.tokens = seconds, tokens
        text = f" loss {trainer.last_loss:.4f}, {self.speed:,.0f} tokens/s"
        self.bar.set_postfix_str(text, refresh=False)
        self.bar.update(1)

    def on_evaluation(self, trainer: Trainer, metrics: dict[str, float], best: bool) -> None:
        """What the held-out samples say."""
        hidden = ("eval_loss", "eval_samples", "eval_seconds")
        figures = "".join(
            f", {name.removeprefix('eval_')} {value:.4f}"
            for name, value in metrics.items()
            if name.startswith("eval_") and name not in hidden
        )
        mark = " (best so far)" if best else ""
        step = trainer.state.global_step
        self.say(f"update {step}: held-out loss {metrics['eval_loss']:.4f}{figures}{mark}")

    def close(self) -> None:
        """Leaves the bar on the screen; what is printed next gets a line of its own."""
        if self.bar is not None:
            self.bar.close()
            self.bar = None

    def on_end(self, trainer: Trainer) -> None:
        """The loop is done."""
        self.close()


@contextmanager
def stop_signals(trainer: Trainer) -> Iterator[None]:
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
