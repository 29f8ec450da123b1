"""Two run folders, tensor by tensor and row by row. Seconds and what follows from them are left out."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

SECONDS = ("seconds", "_per_second")
GONE = object()


def steps_of(run: Path) -> list[int]:
    """The updates of a run's checkpoints, ascending."""
    return sorted(int(path.name.split("-")[1]) for path in (run / "checkpoints").glob("step-*"))


def checkpoint(run: Path, step: int) -> Path:
    """The folder of a checkpoint."""
    return run / "checkpoints" / f"step-{step:07}"


def rows(run: Path) -> list[dict[str, Any]]:
    """The log."""
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def differences(
    expected: Path, got: Path, added: Collection[str] = (), *, more_steps: bool = False, best: bool = True
) -> Iterator[str]:
    """What of ``expected`` is another in ``got``. added: keys that ``got`` may have beyond. more_steps: whether ``got``
    may have more checkpoints, as a run that was stopped has. best: whether the best checkpoint must be the same."""
    first, second = steps_of(expected), steps_of(got)
    if first != second and not (more_steps and set(first) <= set(second)):
        yield f"checkpoints after {first} updates became {second}"
    for link in ("latest", "best")[: 1 + best]:
        names = [(run / "checkpoints" / link).resolve().name for run in (expected, got)]
        if names[0] != names[1]:
            yield f"{link}: {names[0]} became {names[1]}"
    for step in first:
        if step in second:
            yield from _checkpoints(checkpoint(expected, step), checkpoint(got, step), added)
    yield from _values(rows(expected), rows(got), "metrics.jsonl", added)
    summaries = [run / "summary.json" for run in (expected, got)]
    if summaries[0].exists() or summaries[1].exists():
        found = [json.loads(file.read_text()) if file.exists() else {} for file in summaries]
        yield from _values(found[0], found[1], "summary.json", added)


def _checkpoints(expected: Path, got: Path, added: Collection[str]) -> Iterator[str]:
    """Weights, optimizer, schedule and the generators of every process."""
    for file in sorted((*expected.glob("*.safetensors"), *expected.glob("*.pt"))):
        where, other = f"{expected.name}/{file.name}", got / file.name
        if not other.exists():
            yield f"{where} is missing"
        elif file.suffix == ".safetensors":
            yield from _values(load_file(file), load_file(other), where, added)
        else:
            first, second = (torch.load(f, map_location="cpu", weights_only=True) for f in (file, other))
            yield from _values(first, second, where, added)


def _values(first: Any, second: Any, where: str, added: Collection[str]) -> Iterator[str]:
    """Differences of nested values, whose tensors are equal bit for bit."""
    if isinstance(first, dict) and isinstance(second, dict):
        for key in (*first, *(key for key in second if key not in first and str(key) not in added)):
            if not str(key).endswith(SECONDS):
                yield from _values(first.get(key, GONE), second.get(key, GONE), f"{where}:{key}", added)
    elif isinstance(first, list | tuple) and isinstance(second, list | tuple):
        if len(first) != len(second):
            yield f"{where}: {len(first)} entries became {len(second)}"
        for number, pair in enumerate(zip(first, second, strict=False)):
            yield from _values(*pair, f"{where}:{number}", added)
    elif isinstance(first, torch.Tensor) and isinstance(second, torch.Tensor):
        if (first.dtype, first.shape) != (second.dtype, second.shape):
            yield f"{where}: {first.dtype} {list(first.shape)} became {second.dtype} {list(second.shape)}"
        elif not _same_bits(first, second):
            yield f"{where}: differs by {float((first.double() - second.double()).abs().max()):.3g}"
    elif first is GONE or second is GONE:
        yield f"{where} is {'new' if first is GONE else 'missing'}"
    elif first != second and not (first != first and second != second):
        yield f"{where}: {first!r} became {second!r}"


def _same_bits(first: torch.Tensor, second: torch.Tensor) -> bool:
    return first.contiguous().view(-1).view(torch.uint8).equal(second.contiguous().view(-1).view(torch.uint8))
