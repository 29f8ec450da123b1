"""Run folders that an earlier version left: today's version resumes, uses, reports and converts them.

Each was interrupted, and KIND.json says how that version ended it (tests/fixtures/old_runs/README.md). A processor with
other instructions computes other last digits, so the figures are compared to a tolerance and not bit for bit; bit for
bit two versions are compared on one machine by `python -m benchmarks.same_updates`.
"""

import csv
import json
import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.datasets import load_digits

import unitrans
from benchmarks.commands import CommandLine
from unitrans.cli import main

ROOT = Path(__file__).parents[2]
OLD = ROOT / "tests" / "fixtures" / "old_runs"
PLACE = "/tmp/unitrans-old-runs"  # where they were made
KINDS = ("image", "text", "graph", "joint", "ema", "teacher", "processes", "pending")
GRAPHS = ("graph", "joint", "pending")
TOLERANCE = 1e-3
#: What of a row and of a summary is no result: seconds.
SECONDS = ("seconds", "_per_second")


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the data and a copy of every run, as it was left."""
    folder = tmp_path_factory.mktemp("old")
    for name in ("data", *KINDS):
        shutil.copytree(OLD / name, folder / name, symlinks=True)
    for kind in KINDS:
        config = folder / kind / "config.yaml"
        config.write_text(config.read_text().replace(PLACE, str(folder)))
    digits = load_digits()
    for number in range(20):
        path = folder / "photos" / str(digits.target[number]) / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray((digits.images[number] * 15).astype(np.uint8)).save(path)
    return folder


@pytest.fixture(autouse=True)
def _inside(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(place)


def needs(kind: str) -> None:
    if kind in GRAPHS:
        pytest.importorskip("rdkit", reason="needs the graph extra (RDKit)")


@pytest.mark.parametrize("kind", KINDS)
def test_size_and_paths(kind: str) -> None:
    files = [file for file in (OLD / kind).rglob("*") if file.is_file()]
    assert 0 < sum(file.stat().st_size for file in files) <= 300_000
    assert not (OLD / kind / "summary.json").exists()  # it is on its way


@pytest.mark.parametrize(
    ("kind", "arguments"),
    [
        ("image", "predict --checkpoint image photos -o image.csv"),
        ("image", "eval --checkpoint image --data photos --output judged-image"),
        ("image", "embed --checkpoint image photos -o image.npy"),
        ("image", "export --checkpoint image --to onnx -o image.onnx"),
        ("image", "convert image image.safetensors --to official"),
        ("text", "convert text text-hf --to hf"),
        ("text", "embed --checkpoint text data/texts.csv -o text.npy"),
        ("ema", "predict --checkpoint ema data/texts.csv -o ema.csv"),
        ("ema", "eval --checkpoint ema --data data/texts.csv --target kind --output judged-ema"),
        ("teacher", "embed --checkpoint teacher photos -o teacher.npy"),
        ("processes", "embed --checkpoint processes photos -o processes.npy"),
        ("graph", "predict --checkpoint graph data/molecules.csv -o graph.csv"),
        ("graph", "eval --checkpoint graph --data data/molecules.csv --target size --output judged-graph"),
        ("graph", "convert graph graph.pt --to v2"),
        ("pending", "predict --checkpoint pending data/molecules.csv -o pending.csv"),
    ],
)
def test_interrupted_runs_are_used(kind: str, arguments: str) -> None:
    """The weights of the best checkpoint so far do what a trained model does."""
    needs(kind)
    assert main(arguments.split()) == 0
    written = Path(arguments.split()[-1] if " -o " in arguments else "data")
    if written.suffix == ".npy":
        vectors = np.load(written)
        assert vectors.shape[1] == 8 and np.isfinite(vectors).all() and vectors.std(0).min() > 0
    if written.suffix == ".csv":
        count = (
            20
            if kind == "image"
            else len(
                Path("data/texts.csv" if kind == "ema" else "data/molecules.csv").read_text().splitlines()
            )
            - 1
        )
        with written.open() as file:
            assert sum(1 for _ in csv.DictReader(file)) == count


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "joint"])
def test_interrupted_runs_load(kind: str) -> None:
    needs(kind)
    model = unitrans.load(kind)
    assert all(bool(torch.isfinite(tensor).all()) for tensor in model.state_dict().values())


def without_seconds(value: Any) -> Any:
    """The same without what depends on how fast the machine is."""
    if isinstance(value, dict):
        return {k: without_seconds(v) for k, v in value.items() if not k.endswith(SECONDS)}
    return [without_seconds(part) for part in value] if isinstance(value, list) else value


def assert_close(found: Any, expected: Any, where: str) -> None:
    """All of ``expected`` is in ``found``; numbers to the tolerance."""
    if isinstance(expected, dict):
        assert expected.keys() <= found.keys(), where
        for key in expected:
            assert_close(found[key], expected[key], f"{where}.{key}")
    elif isinstance(expected, list):
        assert len(found) == len(expected), where
        for number, pair in enumerate(zip(found, expected, strict=True)):
            assert_close(*pair, f"{where}[{number}]")
    elif isinstance(expected, float):
        assert found == pytest.approx(expected, rel=TOLERANCE, abs=TOLERANCE / 10), where
    else:
        assert found == expected, where


@pytest.mark.parametrize("kind", KINDS)
def test_interrupted_runs_go_on_to_their_end(kind: str) -> None:
    """With the log and figures of the version that made them; then there is a report."""
    needs(kind)
    before = [json.loads(line) for line in (OLD / kind / "metrics.jsonl").read_text().splitlines()]
    if kind == "processes":
        with CommandLine(ROOT, sys.executable) as line:
            done = line.run(Path.cwd(), ["train", "--resume", kind], processes=2)
        assert done.codes == (0, 0), done.output
    else:
        assert main(["train", "--resume", kind]) == 0
    expected = without_seconds(json.loads((OLD / f"{kind}.json").read_text()))
    rows = [json.loads(line) for line in Path(kind, "metrics.jsonl").read_text().splitlines()]
    assert rows[: len(before)] == before  # what was written stays as it was, seconds included
    assert_close(without_seconds(rows), expected["rows"], "rows")
    assert_close(
        without_seconds(json.loads(Path(kind, "summary.json").read_text())), expected["summary"], "summary"
    )
    assert Path(kind, "checkpoints", "latest").resolve().name == "step-0000012"
    assert main(["report", kind]) == 0
    page = Path(kind, "report.html").read_text()
    assert "<svg" in page and kind in page
