"""Files with flipped, cut, inserted or zeroed bytes: read as if whole, refused, or the loss is named.

Of a format with a checksum over what was damaged (PNG, gzip, xlsx, checkpoints with their manifest) the result must be
that of the undamaged file unless something is said. Of the others a damaged file may be a whole one with other content.
"""

from __future__ import annotations

import csv
import gzip
import json
import random
import shutil
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import numpy as np
from PIL import Image

from benchmarks.reliability import materials, warm
from benchmarks.reliability.shared import FAULT, OTHER, REFUSED, RIGHT, Tally

CHECKED = (".gz", ".png", ".xlsx")  # formats with a checksum
IMAGES = (".png", ".jpg", ".bmp", ".gif", ".tif", ".webp", ".npy", ".ppm")
TABLES = (".csv", ".csv.gz", ".tsv", ".jsonl", ".jsonl.gz", ".parquet", ".xlsx")
MOLECULES = (*TABLES, ".smi", ".sdf", ".sdf.gz")


class Damaged:
    """See the module."""

    name = "damaged"
    share = 0.12
    goal = 5_000
    what = (
        "images, tables, texts and molecules in all formats that are read, and checkpoints, with flipped, cut, "
        "zeroed, repeated or inserted bytes, for predict, embed, eval, train, resume, export and convert; right: "
        "the result of the undamaged file, or what is lost is said; of checkpoints every changed byte is refused, "
        "or lies in a file that the command does not need and changes nothing"
    )

    def __init__(self, seed: int, work: Path) -> None:
        self.seed, self.work = seed, work
        self.made = materials.make(work)
        self.whole: dict[str, str] = {}  # what the undamaged file gives, by command and format
        self.files = work / "formats"
        if not self.files.exists():
            self.files.mkdir()
            write_formats(self.made.data, self.files)

    def trial(self, number: int, tally: Tally) -> None:
        """One file."""
        draw = random.Random(f"damaged {self.seed} {number}")
        folder = self.work / f"damaged-{number}"
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        domain = draw.choice(list(materials.TASKS))
        verdict, words = (self._checkpoint if draw.random() < 0.4 else self._data)(domain, folder, draw)
        tally.add(verdict, words)
        if verdict != FAULT:
            shutil.rmtree(folder)

    def _data(self, domain: str, folder: Path, draw: random.Random) -> tuple[str, str]:
        suffix = draw.choice({"vision": IMAGES, "text": TABLES, "graph": MOLECULES}[domain])
        undamaged = self.files / f"{domain}{suffix}"
        if not undamaged.exists():
            return RIGHT, ""
        given = folder / undamaged.name
        how = damage(undamaged, given, draw)
        if draw.random() < 0.3:
            objective, _, settings = materials.TASKS[domain]
            task = ["train", "--domain", domain, "--objective", objective, "--data", str(given)]
            if domain == "vision":
                task[-1] = str(self._folder_with(given, folder))
            done = warm.call(
                [*task, *materials.SHORT, *settings, "--dry-run"], folder, before=warm.limit_memory
            )
            verdict, words = done.judge()
            return verdict, f"train on {given.name}, {how}: {words}"
        command = ["predict", "--checkpoint", str(self.made.runs[domain])]
        key = undamaged.name
        if key not in self.whole:
            done = warm.call([*command, str(undamaged), "-o", "whole.csv"], folder)
            if done.code != 0:
                return FAULT, f"the undamaged {key} is not read: {done.judge()[1]}"
            self.whole[key] = predictions(folder / "whole.csv")
        done = warm.call([*command, str(given), "-o", "out.csv"], folder, before=warm.limit_memory)
        verdict, words = done.judge()
        words = f"predict of {given.name}, {how}: {words}"
        if verdict != RIGHT or predictions(folder / "out.csv") == self.whole[key]:
            return verdict, words
        if any(word in done.err for word in ("left out", "cannot be read", "doubtful", "skipped")):
            return REFUSED, words
        if suffix.endswith(CHECKED):
            return FAULT, f"{words}other predictions than of the undamaged file, and nothing is said"
        return OTHER, words

    def _folder_with(self, image: Path, folder: Path) -> Path:
        photos = folder / "photos"
        shutil.copytree(self.made.data / "photos", photos)
        shutil.copy(image, photos / "cat")
        return photos

    def _checkpoint(self, domain: str, folder: Path, draw: random.Random) -> tuple[str, str]:
        shutil.copytree(self.made.runs[domain], folder / "run", symlinks=True)
        checkpoint = (folder / "run" / "checkpoints" / "latest").resolve()
        path = draw.choice(sorted(checkpoint.iterdir()))
        whole = path.read_bytes()
        how = damage(path, path, draw)
        if path.read_bytes() == whole:
            return RIGHT, ""
        data = str(self.made.data / materials.TASKS[domain][1])
        command, result = draw.choice(
            [
                (["predict", "--checkpoint", "run", data, "-o", "out.csv"], "out.csv"),
                (["train", "--resume", "run"], None),
                (["convert", "run", "out", "--to", "hf"], "out/model.safetensors"),
                (["export", "--checkpoint", "run", "--to", "torch-export", "-o", "out.pt2"], None),
                (["eval", "--checkpoint", "run", "--data", data, "--output", "out"], "out/eval.json"),
                (["embed", "--checkpoint", "run", data, "-o", "out.npy"], "out.npy"),
                (
                    [*materials.train(domain, self.made.data, "next"), "--init", "run"],
                    "next/checkpoints/latest/model.safetensors",
                ),
            ]
        )
        done = warm.call(command, folder, before=warm.limit_memory)
        verdict, words = done.judge()
        words = f"{' '.join(command[:2])} with {path.name} of a checkpoint, {how}: {words}"
        if verdict != RIGHT:
            return verdict, words
        if command[1] == "--resume" and path.name != "manifest.json":
            return FAULT, f"{words}it goes on"
        if path.name in ("model.safetensors", "config.json"):
            return FAULT, f"{words}it is used"
        if result is None:
            return RIGHT, ""
        key = f"{domain} {' '.join(command[:2])}"
        if key not in self.whole:
            clean = folder / "clean"
            clean.mkdir()
            shutil.copytree(self.made.runs[domain], clean / "run", symlinks=True)
            warm.call(command, clean)
            self.whole[key] = _content(clean / result)
        same = _content(folder / result) == self.whole[key]
        return (RIGHT, "") if same else (FAULT, f"{words}another result, and nothing is said")


def _content(path: Path) -> str:
    if path.suffix == ".json":
        return repr(json.loads(path.read_text())["figures"])
    return predictions(path) if path.suffix == ".csv" else path.read_bytes().hex()


def predictions(path: Path) -> str:
    """What was predicted, without the names of files."""
    with path.open(newline="", encoding="utf-8") as file:
        rows = [{k: v for k, v in row.items() if k not in ("image", "id")} for row in csv.DictReader(file)]
    return repr(rows)


def damage(source: Path, target: Path, draw: random.Random) -> str:
    """Writes source with a damage to target and says which."""
    content = bytearray(source.read_bytes())
    size = max(len(content), 1)
    place, length = draw.randrange(size), min(size, 2 ** draw.randrange(10))
    how = draw.choice(
        (
            "flipped",
            "flipped",
            "bytes",
            "cut",
            "cut behind",
            "zeroed",
            "repeated",
            "inserted",
            "empty",
            "swapped",
        )
    )
    if how == "flipped" and content:
        content[place] ^= 1 << draw.randrange(8)
    elif how == "bytes":
        for _ in range(draw.randint(1, 20)):
            content[draw.randrange(size) : draw.randrange(size) + 1] = (
                b"" if not content else bytes([draw.randrange(256)])
            )
            size = max(len(content), 1)
    elif how == "cut":
        del content[place:]
    elif how == "cut behind":
        del content[place : place + length]
    elif how == "zeroed":
        content[place : place + length] = bytes(len(content[place : place + length]))
    elif how == "repeated":
        content[place:place] = content[place : place + length]
    elif how == "inserted":
        content[place:place] = draw.randbytes(length)
    elif how == "swapped":
        half = len(content) // 2
        content = content[half:] + content[:half]
    else:
        content = bytearray() if how == "empty" else content
    target.write_bytes(content)
    return f"{how} at {place}"


def write_formats(data: Path, folder: Path) -> None:
    """The data of every domain in every format, as DOMAIN.SUFFIX; those whose package is missing are left out."""
    pixels = np.random.default_rng(1).integers(0, 255, (24, 20, 3), dtype=np.uint8)
    for suffix in IMAGES:
        if suffix == ".npy":
            np.save(folder / "vision.npy", pixels)
        else:
            Image.fromarray(pixels).save(folder / f"vision{suffix}")
    for domain, name in (("text", "classes.csv"), ("graph", "molecules.csv")):
        with (data / name).open(newline="") as file:
            rows = list(csv.DictReader(file))[:24]
        _write_tables(folder, domain, rows)
    lines = [f"{row['smiles']} {number}" for number, row in enumerate(rows)]
    (folder / "graph.smi").write_text("\n".join(lines) + "\n")
    _try(lambda: _write_sdf(folder, [row["smiles"] for row in rows]))


def _write_tables(folder: Path, domain: str, rows: list[dict[str, str]]) -> None:
    import pandas as pd

    frame = pd.DataFrame(rows)
    frame.to_csv(folder / f"{domain}.csv", index=False)
    frame.to_csv(folder / f"{domain}.csv.gz", index=False)
    frame.to_csv(folder / f"{domain}.tsv", index=False, sep="\t")
    frame.to_json(folder / f"{domain}.jsonl", orient="records", lines=True)
    frame.to_json(folder / f"{domain}.jsonl.gz", orient="records", lines=True)
    frame.to_parquet(folder / f"{domain}.parquet")
    _try(lambda: frame.to_excel(folder / f"{domain}.xlsx", index=False))


def _write_sdf(folder: Path, smiles: list[str]) -> None:
    from rdkit import Chem

    with Chem.SDWriter(str(folder / "graph.sdf")) as writer:
        for text in smiles:
            molecule = Chem.MolFromSmiles(text)
            molecule.SetProp("size", str(len(text)))
            writer.write(molecule)
    (folder / "graph.sdf.gz").write_bytes(gzip.compress((folder / "graph.sdf").read_bytes()))


def _try(write: Callable[[], object]) -> None:
    """A format whose package is not installed is not tried."""
    with suppress(ImportError):
        write()
