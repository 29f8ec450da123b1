"""Random commands with random settings: right, or one sentence."""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from benchmarks.reliability import warm
from benchmarks.reliability.shared import FAULT, Tally
from benchmarks.same_updates import TASKS, write_data

REAL = 50  # one in so many is a command of its own
SMALL = ("train.max_steps=1", "train.use_cpu=true", "train.per_device_train_batch_size=2")
#: Values that somebody types, right and wrong.
VALUES: tuple[str, ...] = (
    *("0", "1", "2", "3", "7", "16", "-1", "0.5", "1e-3", "1e30", "-0.0", "nan", "inf", "1_000", "9" * 20),
    *(
        "true",
        "false",
        "null",
        "none",
        "auto",
        "''",
        "[]",
        "[1]",
        "[1, 2]",
        "[[1]]",
        "{}",
        "{a: 1}",
        "swin",
        "vit",
    ),
    *("mean", "cosine", "gelu", "a b", "ü", "/", "..", "no/such/place", "a,b", "x" * 300, "*a", "&a 1"),
    "!!python/name:os.system",
)
NAMES = ("no_such_folder", "", "\x01", "ä" * 200, "..", "digits", "hub/name", "-", "--", "run")
NAMES += ("run/checkpoints/latest",)


class Invocations:
    """See the module."""

    name = "invocations"
    share = 0.25
    goal = 20_000
    what = (
        "commands with settings, names and combinations drawn at random, in forks of a warm process and one in 50 as a "
        "real command; right: exit 0, or a refusal in one sentence with exit code 1 or 2"
    )

    def __init__(self, seed: int, work: Path) -> None:
        self.seed, self.work = seed, work
        write_data(work / "data")
        self.keys: dict[str, dict[str, Any]] = {}  # by domain, settings and their defaults
        self.run = work / "run"

    def trial(self, number: int, tally: Tally) -> None:
        """One command."""
        draw = random.Random(f"invocations {self.seed} {number}")
        folder = self.work / "here"
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        if not self.run.exists():
            self._make_run()
        (folder / "run").symlink_to(self.run)
        arguments = [
            x.replace("\0", "") for x in (self._train(draw) if draw.random() < 0.7 else self._use(draw))
        ]
        if number % REAL == REAL - 1:
            done = warm.command(arguments, folder)
        else:
            done = warm.call(arguments, folder, seconds=60, before=warm.limit_memory)
        verdict, words = done.judge()
        tally.add(verdict, f"{arguments}: {words}" if verdict == FAULT else "")

    def _make_run(self) -> None:
        settings = ("model.embed_dim=8", "model.depth=1", "model.num_heads=1")
        done = warm.call(
            ["train", "--objective", "classification", "--output", str(self.run), *SMALL, *settings],
            self.work,
        )
        if done.code != 0:
            raise RuntimeError(f"the run that commands use fails: {done.sentence}")

    def _train(self, draw: random.Random) -> list[str]:
        domain, objective, settings, name = TASKS[draw.choice(list(TASKS))]
        given = ["--data", str(self.work / "data" / name)] if name else []
        keys = self._keys(domain)
        names = draw.choices(list(keys), k=draw.randint(1, 4))
        chosen = [f"{name}={_near(draw, keys[name])}" for name in names]
        if draw.random() < 0.5:
            chosen[0] = f"{names[0]}={draw.choice(VALUES)}"
        if draw.random() < 0.2:
            given = ["--data", draw.choice(NAMES)]
        if draw.random() < 0.1:
            objective = draw.choice(list(TASKS.values()))[1]
        flags = draw.choice(
            (
                [],
                [],
                [],
                ["--dry-run"],
                ["--print-config"],
                ["--init", draw.choice(NAMES)],
                ["--resume", draw.choice(NAMES)],
            )
        )
        return [
            "train",
            "--domain",
            domain,
            "--objective",
            objective,
            *given,
            *flags,
            *settings,
            *SMALL,
            *chosen,
        ]

    def _use(self, draw: random.Random) -> list[str]:
        place = draw.choice(("run", *NAMES))
        data = draw.choice((str(self.work / "data" / "classes.csv"), str(self.work / "data"), *NAMES))
        command = draw.choice(
            (
                ["predict", "--checkpoint", place, data],
                ["eval", "--checkpoint", place, "--data", data],
                [
                    "embed",
                    "--checkpoint",
                    place,
                    data,
                    "-o",
                    draw.choice(("e.parquet", "e.npz", "e.csv", *NAMES)),
                ],
                [
                    "export",
                    "--checkpoint",
                    place,
                    "--to",
                    draw.choice(("torch-export", *NAMES)),
                    "-o",
                    draw.choice(NAMES),
                ],
                [
                    "convert",
                    place,
                    draw.choice(("out", "out.pth", *NAMES)),
                    "--to",
                    draw.choice(("hf", "timm", "official", "v1")),
                ],
                ["report", place, draw.choice(NAMES)],
                [draw.choice(("train", "predict", "eval", "doctr", "report", "")), draw.choice(NAMES)],
            )
        )
        extra = draw.choice(
            ([], [], ["--device", "cpu"], ["--batch-size", draw.choice(VALUES)], [draw.choice(VALUES)])
        )
        return [*command, *extra]

    def _keys(self, domain: str) -> dict[str, Any]:
        """All settings of a domain, as its printed configuration names them."""
        if domain not in self.keys:
            objective = next(name for where, name, _, _ in TASKS.values() if where == domain)
            done = warm.call(
                ["train", "--domain", domain, "--objective", objective, "--print-config"], self.work
            )
            self.keys[domain] = dict(_leaves(_yaml(done.out)))
        return self.keys[domain]


def _yaml(text: str) -> Any:
    from unitrans.training.yaml12 import load

    return load(text)


def _leaves(value: Any, front: tuple[str, ...] = ()) -> Iterator[tuple[str, Any]]:
    if not isinstance(value, dict) or not value:
        yield ".".join(front), value
        return
    for key, inner in value.items():
        yield from _leaves(inner, (*front, str(key)))


def _near(draw: random.Random, value: Any) -> str:
    """Something of the kind of a default."""
    if isinstance(value, bool):
        return draw.choice(("true", "false"))
    if isinstance(value, int):
        return str(max(0, min(64, draw.choice((value, value + 1, value - 1, value // 2, 1, 2)))))
    if isinstance(value, float):
        return str(value * draw.choice((0.5, 1.0, 2.0)))
    return json.dumps(value)
