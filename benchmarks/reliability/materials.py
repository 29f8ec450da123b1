"""Small data of each domain, and a run on each, for the commands of a campaign."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from benchmarks.reliability import warm
from benchmarks.same_updates import write_data

SHORT = ("train.max_steps=2", "train.eval_steps=2", "train.save_steps=2", "train.use_cpu=true")
SHORT += ("train.per_device_train_batch_size=4", "model.embed_dim=8", "model.depth=1", "model.num_heads=1")
#: domain -> objective, name of its data, settings
TASKS: dict[str, tuple[str, str, tuple[str, ...]]] = {
    "vision": (
        "classification",
        "photos",
        ("data.image_size=16", "data.channels=3", "model.name=vit", "model.patch_size=4"),
    ),
    "text": ("classification", "classes.csv", ("data.vocab_size=300",)),
    "graph": ("regression", "molecules.csv", ("data.target=size",)),
}


@dataclass
class Materials:
    """data: the folder of the data; runs: by domain."""

    data: Path
    runs: dict[str, Path]


def train(domain: str, data: Path, output: str) -> list[str]:
    """The command that trains the run of a domain."""
    objective, name, settings = TASKS[domain]
    task = ["train", "--domain", domain, "--objective", objective, "--data", str(data / name)]
    return [*task, "--output", output, *SHORT, *settings]


@functools.cache
def make(work: Path) -> Materials:
    """Data and runs, made once for a folder."""
    data = work / "data"
    write_data(data)
    rng = np.random.default_rng(0)
    for label in ("cat", "dog"):
        (data / "photos" / label).mkdir(parents=True, exist_ok=True)
        for number in range(12):
            pixels = rng.integers(0, 255, (16, 16, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(data / "photos" / label / f"{number}.png")
    runs = {}
    for domain in TASKS:
        done = warm.call(train(domain, data, str(work / domain)), work)
        if done.code != 0:
            raise RuntimeError(f"{domain}: {done.judge()[1]}\n{done.err[-2000:]}")
        runs[domain] = work / domain
    return Materials(data, runs)
