"""Damaged files behind every door: refused, or what is lost is named."""

from __future__ import annotations

import csv
import gzip
import random
import shutil
from collections.abc import Callable
from pathlib import Path

from benchmarks.reliability import warm
from benchmarks.reliability.shared import FAULT, OTHER, REFUSED, RIGHT, Tally
from benchmarks.same_updates import write_data

TINY = ("model.embed_dim=8", "train.max_steps=1", "train.eval_steps=1", "train.use_cpu=true")
SWIN = ("model.depths=[1]", "model.num_heads=[1]")
TOWER = ("model.depth=1", "model.num_heads=1")
#: What a checkpoint is made of: where one byte of it is another, nothing may be read from it.
WHOLE = ("model.safetensors", "config.json")


class Files:
    """See the module."""

    name = "files"
    share = 0.15
    goal = 5_000
    what = (
        "checkpoints, images, tables, texts and molecules with bytes flipped, cut, repeated or put in, given to train, "
        "predict, export and convert; right: refused in a sentence (checkpoints always), or an answer for every row "
        "that is there; `other`: still a whole file of its format, with other content"
    )

    def __init__(self, seed: int, work: Path) -> None:
        self.seed, self.work = seed, work
        self.runs: dict[str, Path] = {}

    def trial(self, number: int, tally: Tally) -> None:
        """One damaged file."""
        if not self.runs:
            self._prepare()
        draw = random.Random(f"files {self.seed} {number}")
        folder = self.work / "here"
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        kind = draw.choice((self._checkpoint, self._images, self._table, self._training))
        kind(draw, folder, tally)

    def _prepare(self) -> None:
        write_data(self.work / "data")
        data = self.work / "data"
        content = (data / "classes.csv").read_bytes()
        (data / "classes.csv.gz").write_bytes(gzip.compress(content))
        rows = list(csv.DictReader(content.decode().splitlines()))
        import pandas

        pandas.DataFrame(rows).to_parquet(data / "classes.parquet")
        pandas.DataFrame(rows).to_json(data / "classes.jsonl", orient="records", lines=True)
        self._pictures(data / "photos")
        runs = {
            "vision": [
                "--objective",
                "classification",
                "--data",
                str(data / "photos"),
                "data.image_size=8",
                *SWIN,
            ],
            "text": [
                "--domain",
                "text",
                "--objective",
                "classification",
                "--data",
                str(data / "classes.csv"),
                *TOWER,
            ],
            "graph": [
                "--domain",
                "graph",
                "--objective",
                "regression",
                "--data",
                str(data / "molecules.csv"),
                *TOWER,
                "data.target=size",
            ],
        }
        for name, given in runs.items():
            done = warm.call(["train", *given, *TINY, "--output", str(self.work / name)], self.work)
            if done.code != 0:
                raise RuntimeError(f"the run on {name} fails: {done.sentence}")
            self.runs[name] = self.work / name

    def _pictures(self, folder: Path) -> None:
        import numpy as np
        from PIL import Image

        rng = np.random.default_rng(0)
        for number in range(24):
            place = folder / "ab"[number % 2]
            place.mkdir(parents=True, exist_ok=True)
            pixels = rng.integers(0, 256, (16, 16, 3), dtype=np.uint8)
            ending = ("png", "jpg", "tif", "npy", "bmp", "gif")[number % 6]
            if ending == "npy":
                np.save(place / f"{number}.npy", pixels)
            else:
                Image.fromarray(pixels).save(place / f"{number}.{ending}")

    def _checkpoint(self, draw: random.Random, folder: Path, tally: Tally) -> None:
        name = draw.choice(list(self.runs))
        shutil.copytree(self.runs[name], folder / "run", symlinks=True)
        latest = (folder / "run" / "checkpoints" / "latest").resolve()
        file = (
            latest / draw.choice(WHOLE)
            if draw.random() < 0.7
            else draw.choice([x for x in latest.iterdir() if x.is_file()])
        )
        if not damage(draw, file):
            return
        data = str(
            self.work / "data" / {"vision": "photos", "text": "classes.csv", "graph": "molecules.csv"}[name]
        )
        command = draw.choice(
            (
                ["predict", "--checkpoint", "run/checkpoints/latest", data, "-o", "p.csv"],
                ["train", "--resume", "run"],
                ["convert", "run/checkpoints/latest", "out", "--to", "hf"],
                ["export", "--checkpoint", "run/checkpoints/latest", "--to", "torch-export", "-o", "m.pt2"],
            )
        )
        done = warm.call(command, folder)
        verdict, words = done.judge()
        if verdict == RIGHT and file.name in WHOLE:
            verdict, words = FAULT, "a damaged file of the checkpoint is read"
        tally.add(verdict, f"{name}, {file.name}, {command[0]}: {words}")

    def _images(self, draw: random.Random, folder: Path, tally: Tally) -> None:
        shutil.copytree(self.work / "data" / "photos", folder / "photos")
        file = draw.choice(sorted(x for x in (folder / "photos").rglob("*") if x.is_file()))
        if not damage(draw, file):
            return
        done = warm.call(
            ["predict", "--checkpoint", str(self.runs["vision"]), "photos", "-o", "p.csv"], folder
        )
        verdict, words = done.judge()
        if verdict == RIGHT:
            answered = len(list(csv.DictReader((folder / "p.csv").open())))
            named = file.name in done.out + done.err + (folder / "p.csv").read_text()
            verdict = OTHER if answered == 24 else (REFUSED if named else FAULT)
            words = f"{answered} of 24 images are answered, and the damaged one is not named"
        tally.add(verdict, f"{file.name}: {words}")

    def _table(self, draw: random.Random, folder: Path, tally: Tally) -> None:
        ending = draw.choice(("csv", "csv.gz", "parquet", "jsonl", "molecules"))
        name, run = ("molecules.csv", "graph") if ending == "molecules" else (f"classes.{ending}", "text")
        file = folder / name
        shutil.copy(self.work / "data" / name, file)
        if not damage(draw, file):
            return
        done = warm.call(["predict", "--checkpoint", str(self.runs[run]), name, "-o", "p.csv"], folder)
        verdict, words = done.judge()
        tally.add(OTHER if verdict == RIGHT else verdict, f"{name}: {words}")

    def _training(self, draw: random.Random, folder: Path, tally: Tally) -> None:
        name, given = draw.choice(
            (
                ("text.txt", ["--domain", "text", "--objective", "mlm"]),
                ("classes.csv", ["--domain", "text", "--objective", "classification"]),
                ("tokens.jsonl", ["--domain", "text", "--objective", "token_classification"]),
                ("molecules.csv", ["--domain", "graph", "--objective", "regression", "data.target=size"]),
            )
        )
        shutil.copy(self.work / "data" / name, folder / name)
        if not damage(draw, folder / name):
            return
        done = warm.call(["train", *given, "--data", name, "--dry-run", *TOWER, *TINY], folder)
        verdict, words = done.judge()
        tally.add(OTHER if verdict == RIGHT else verdict, f"{name}: {words}")


def damage(draw: random.Random, file: Path) -> bool:
    """Changes a file; False where it is as before."""
    before = file.read_bytes()
    content = bytearray(before)
    at, more = sorted(draw.randrange(len(content) + 1) for _ in range(2)) if content else (0, 0)
    ways: tuple[Callable[[], object], ...] = (
        lambda: [
            content.__setitem__(draw.randrange(len(content)), draw.randrange(256))
            for _ in range(draw.randint(1, 8))
        ],
        lambda: content.__delitem__(slice(at, None)),
        lambda: content.__delitem__(slice(at, more)),
        lambda: content.__setitem__(slice(at, at), content[at:more]),
        lambda: content.__setitem__(slice(at, at), draw.randbytes(draw.randint(1, 40))),
        lambda: content.__setitem__(slice(at, more), bytes(more - at)),
        lambda: content.extend(draw.randbytes(draw.randint(1, 400))),
        lambda: content.clear(),
    )
    if content:
        draw.choice(ways)()
    file.write_bytes(content)
    return bytes(content) != before
