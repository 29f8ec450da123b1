"""Commands with random settings: each does what it says, or says in one sentence why not."""

from __future__ import annotations

import random
import shutil
from pathlib import Path
from typing import Any

import yaml

from benchmarks.reliability import materials, warm
from benchmarks.reliability.shared import FAULT, RIGHT, Tally
from benchmarks.same_updates import TASKS

REAL = 50  # one in so many is tried as a real command as well
WILD = (
    "0",
    "-1",
    "1",
    "2",
    "3",
    "7",
    "0.5",
    "1e-3",
    "1e30",
    "-0.1",
    "nan",
    "inf",
    "null",
    "true",
    "[]",
    "[1]",
    "[0.1, 0.9]",
    "{}",
)
WILD += (
    "x",
    "''",
    "[a, b]",
    "[[1]]",
    "{a: 1}",
    "1e5",
    "auto",
    "none",
    "4294967296",
    "9" * 25,
    "é",
    "*",
    "!!x 1",
    "{",
    "0x10",
)


class Invocations:
    """See the module."""

    name = "invocations"
    share = 0.25
    goal = 20_000
    what = (
        "commands of all kinds with random settings, flags and files, in forks of one process that has imported "
        f"everything; one in {REAL} also as a real command, which must end with the same code and sentence; right: "
        "exit 0, or another exit code and one sentence"
    )

    def __init__(self, seed: int, work: Path) -> None:
        self.seed, self.work = seed, work
        self.made = materials.make(work)
        self.known: dict[str, dict[str, Any]] = {}

    def trial(self, number: int, tally: Tally) -> None:
        """One command."""
        draw = random.Random(f"invocations {self.seed} {number}")
        folder = self.work / f"call-{number}"
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        command = self.command(draw)
        done = warm.call(command, folder, seconds=60.0, before=warm.limit_memory)
        verdict, words = done.judge()
        if verdict in (RIGHT, "refused") and draw.randrange(REAL) == 0:
            (folder / "real").mkdir()
            real = warm.command(command, folder / "real")
            if (real.code, self._last(real)) != (done.code, self._last(done)) and real.code is not None:
                verdict, words = (
                    FAULT,
                    f"a real command: exit {real.code}, {self._last(real)!r}, not {words!r}",
                )
        tally.add(verdict, f"unitrans {' '.join(command)}: {words}".replace(str(self.work), "WORK"))
        if verdict != FAULT:
            shutil.rmtree(folder, ignore_errors=True)

    def _last(self, done: warm.Done) -> str:
        return done.sentence if done.code else ""

    def settings(self, draw: random.Random, task: list[str]) -> list[str]:
        """One to four settings of a task with values near their own, or wild ones."""
        key = " ".join(task)
        if key not in self.known:
            done = warm.call([*task, "--print-config"], self.work)
            self.known[key] = dict(_flat(yaml.safe_load(done.out) or {})) if done.code == 0 else {}
        known = self.known[key]
        names = [name for name in known if name not in ("domain",)]
        if not names:
            return []
        given = {}
        for name in draw.sample(names, min(len(names), draw.randint(1, 4))):
            given[name] = draw.choice(WILD) if draw.random() < 0.35 else _near(known[name], draw)
        settings = [f"{name}={value}" for name, value in given.items()]
        if draw.random() < 0.05:
            settings.append(
                draw.choice(("model.embed_dimm=3", "=", "x=", "train.=1", "data", "a.b.c=1", "--", "-x"))
            )
        return settings

    def command(self, draw: random.Random) -> list[str]:
        """The arguments behind `unitrans`."""
        domain = draw.choice(list(materials.TASKS))
        run = str(
            draw.choice(list(self.made.runs.values())) if draw.random() < 0.1 else self.made.runs[domain]
        )
        if draw.random() < 0.05:
            run = draw.choice(
                (str(self.made.data), "nowhere", "", run + "/config.yaml", run + "/checkpoints/latest")
            )
        data = str(
            self.made.data
            / materials.TASKS[draw.choice(list(materials.TASKS)) if draw.random() < 0.1 else domain][1]
        )
        kind = draw.choices(
            (
                "print",
                "dry",
                "train",
                "predict",
                "embed",
                "eval",
                "export",
                "convert",
                "report",
                "ask",
                "doctor",
            ),
            (30, 22, 8, 10, 6, 7, 3, 5, 3, 5, 1),
        )[0]
        if kind in ("print", "dry", "train"):
            command = self._train(draw, kind)
        else:
            command = {
                "predict": [
                    "predict",
                    "--checkpoint",
                    run,
                    data,
                    *_maybe(draw, "-o", "out.csv", "out.jsonl", "out.xyz", "."),
                ],
                "embed": [
                    "embed",
                    "--checkpoint",
                    run,
                    data,
                    "-o",
                    draw.choice(("o.npy", "o.parquet", "o.csv", "o", "a/b.npy")),
                ],
                "eval": [
                    "eval",
                    "--checkpoint",
                    run,
                    "--data",
                    data,
                    *_maybe(draw, "--output", "e", ".", run),
                    *_maybe(draw, "--target", "label", "size", "x", ""),
                ],
                "export": [
                    "export",
                    "--checkpoint",
                    run,
                    "--to",
                    draw.choice(("torch-export", "torch-export", "x")),
                    "-o",
                    draw.choice(("m.pt2", "m", ".")),
                ],
                "convert": [
                    "convert",
                    run,
                    draw.choice(("out", "out.safetensors", "out.pth", ".")),
                    "--to",
                    draw.choice(("hf", "timm", "official", "unitrans", "x")),
                ],
                "report": ["report", run, *_maybe(draw, "-o", "page.html", ".", "a/b/c.html")],
                "ask": [
                    "predict",
                    "--checkpoint",
                    run,
                    draw.choice(("--fill-mask", "--prompt", "--embed")),
                    draw.choice(("the [MASK] light", "", "\x00", "é" * 3000)),
                ],
                "doctor": ["doctor"],
            }[kind]
            command += _maybe(draw, "--batch-size", "1", "3", "0", "-1", "x") if draw.random() < 0.3 else []
            command += _maybe(draw, "--image-size", "16", "32", "15", "0") if draw.random() < 0.15 else []
            command += _maybe(draw, "--column", "text", "x", "smiles", "") if draw.random() < 0.15 else []
        for _ in range(draw.choice((0, 0, 0, 0, 0, 0, 1, 2))):
            place = draw.randrange(1, len(command)) if len(command) > 1 else 0
            change = draw.randrange(3)
            if change == 0 and len(command) > 1:
                del command[place]
            elif change == 1:
                command.insert(place, draw.choice([*command, "--help", "--verbose", "-", "ä=1", "\udcff"]))
            else:
                command[place] = draw.choice(
                    (command[place][:-1], command[place] + "x", command[place].upper())
                )
        return [
            argument.replace("\x00", "0") for argument in command
        ]  # no process gets a NUL in its arguments

    def _train(self, draw: random.Random, kind: str) -> list[str]:
        name = draw.choice([task for task in TASKS if "joint" not in task])
        domain, objective, small, file = TASKS[name]
        task = ["train", "--domain", domain, "--objective", objective]
        task += ["--data", str(self.made.data / file)] if file else []
        drawn = self.settings(draw, task)
        if kind == "print":
            return [*task, *drawn, "--print-config"]
        taken = {setting.partition("=")[0] for setting in drawn}
        fixed = (*small, *materials.SHORT[:5]) if draw.random() < 0.9 else small
        command = [*task, *drawn, *(x for x in dict.fromkeys(fixed) if x.partition("=")[0] not in taken)]
        return [*command, "--dry-run"] if kind == "dry" else [*command, "--output", "run"]


def _maybe(draw: random.Random, flag: str, *values: str) -> list[str]:
    return [flag, draw.choice(values)] if draw.random() < 0.7 else []


def _flat(tree: Any, before: str = "") -> list[tuple[str, Any]]:
    if isinstance(tree, dict) and (tree or not before):
        return [pair for key, value in tree.items() for pair in _flat(value, f"{before}{key}.")]
    return [(before.removesuffix("."), tree)]


def _near(value: Any, draw: random.Random) -> str:
    """A value of the same kind."""
    if isinstance(value, bool):
        return draw.choice(("true", "false"))
    if isinstance(value, int):
        return str(
            draw.choice((value, value + 1, value - 1, value * 2, value // 2, max(1, value // 4), value * 8))
        )
    if isinstance(value, float):
        return str(
            draw.choice((value, value / 2, value * 2, value / 10, value * 10, 1 - value, round(value)))
        )
    if isinstance(value, list) and value:
        changed = [_near(item, draw) for item in value]
        return "[" + ", ".join(draw.choice((changed, changed[:-1], [*changed, changed[-1]]))) + "]"
    if isinstance(value, str):
        return draw.choice((value, value + "x", value[:-1] or "y", value.upper()))
    return draw.choice(("null", "1", "0.1", "true", "[1, 2]", "some"))
