"""What the learning benchmarks share: figures of every evaluation of a run, and files with a line per run."""

import json
from pathlib import Path
from typing import Any

from unitrans.training.observers import Observer


class Evaluations(Observer):
    """Keeps (update, figures) of every evaluation."""

    def __init__(self) -> None:
        self.seen: list[tuple[int, dict[str, float]]] = []

    def on_evaluation(self, trainer: Any, metrics: dict[str, float], best: bool) -> None:
        """See Observer."""
        self.seen.append((trainer.state.global_step, dict(metrics)))


def read_rows(file: Path) -> list[dict[str, Any]]:
    """The lines of a file of results; none where it is absent."""
    return [json.loads(line) for line in file.read_text().splitlines()] if file.is_file() else []
