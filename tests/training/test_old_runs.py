"""Run folders of an earlier version go on, are reported and give their models (tests/fixtures/runs)."""

import json
import tarfile
from pathlib import Path

import numpy as np
import pytest
import torch

import unitrans
from tests.warm import launch
from unitrans.cli import main

FIXTURES = Path(__file__).parents[1] / "fixtures" / "runs"
ROOT = Path(__file__).parents[2]
NAMES = ["image", "ema", "pending-evaluation", "teacher", "text", "graph", "joint"]


def unpack(name: str) -> Path:
    """The run folder, in the current directory."""
    if name in ("graph", "joint"):
        pytest.importorskip("rdkit", reason="needs the graph extra")
    with tarfile.open(FIXTURES / f"{name}.tar.xz") as archive:
        archive.extractall(".", filter="data")
    return Path(name)


def rows(run: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def test_fixtures_are_small() -> None:
    sizes = {file.name: file.stat().st_size for file in FIXTURES.glob("*.tar.xz")}
    assert len(sizes) == 8 and max(sizes.values()) <= 300_000


@pytest.mark.parametrize("name", NAMES)
def test_a_run_goes_on_to_its_end(name: str, workdir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = unpack(name)
    before = rows(run)
    assert main(["train", "--resume", name]) == 0
    after = rows(run)
    assert after[: len(before)] == before and after[-1]["step"] == 12
    evaluated = [row["step"] for row in after if "eval_loss" in row]
    assert evaluated == [6, 12], "also the one that was under way when the signal came"
    summary = json.loads((run / "summary.json").read_text())
    assert (run / "checkpoints" / "best").resolve().name == f"step-{summary['step']:07d}"
    weights = unitrans.load(run).state_dict()
    assert all(bool(torch.isfinite(x).all()) for x in weights.values() if x.is_floating_point())
    capsys.readouterr()
    assert main(["report", name, "--output", "page.html"]) == 0 and Path("page.html").stat().st_size > 10_000


def test_two_processes_go_on(workdir: Path) -> None:
    run = unpack("two-processes")
    program = (
        "import sys; from unitrans.cli import main; sys.exit(main(['train', '--resume', 'two-processes']))"
    )
    launch(program, 2)
    assert [row["step"] for row in rows(run) if "eval_loss" in row] == [6, 12]


@pytest.mark.parametrize(
    ("name", "data"), [("image", "digits"), ("text", "texts.csv"), ("graph", "molecules.csv")]
)
def test_an_unfinished_run_gives_vectors(name: str, data: str, workdir: Path) -> None:
    run = unpack(name)
    Path("texts.csv").write_text("text\nthe first text\nthe second\n")
    Path("molecules.csv").write_text("smiles\nCCO\nCCN\n")
    if name == "image":
        from PIL import Image

        Path("digits").mkdir()
        for number in range(2):
            Image.fromarray(np.full((8, 8), 90 * number, np.uint8)).save(f"digits/{number}.png")
    assert main(["embed", "--checkpoint", str(run), data, "-o", "vectors.npy"]) == 0
    assert np.load("vectors.npy").shape[0] == 2
