"""A run notices that its data have changed when it goes on, and keeps what it derived from them."""

import csv
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from unitrans.cli import main
from unitrans.errors import ConfigError
from unitrans.training import fingerprint
from unitrans.training.config import RunConfig, resolve
from unitrans.training.run import resume, train
from unitrans.training.session import open_session

Tiny = Callable[..., RunConfig]
SHORT = (
    "train.max_steps=1",
    "train.eval_steps=1",
    "train.save_steps=1",
    "train.per_device_train_batch_size=4",
)
SMALL = ("model.embed_dim=16", "model.depth=1", "model.num_heads=2")
SMILES = [f"{'C' * k}{end}" for k in range(1, 8) for end in ("O", "N", "Cl", "C#N")]


def image(path: Path, value: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((8, 8), value % 250 + 1, np.uint8)).save(path)


def images() -> Path:
    for number in range(20):
        image(Path(f"photos/{'ab'[number % 2]}/{number:02}.png"), 10 * number)
    return Path("photos")


def table(name: str, columns: list[str], rows: list[tuple[Any, ...]]) -> Path:
    with Path(name).open("w", newline="") as file:
        csv.writer(file).writerows([columns, *rows])
    return Path(name)


def molecules(values: list[float] | None = None, more: int = 0) -> Path:
    values = values or [float(len(smiles)) for smiles in SMILES]
    extra = [(f"{'C' * (9 + n)}F", 90.0) for n in range(more)]
    return table("molecules.csv", ["smiles", "y"], [*extra, *zip(SMILES, values, strict=True)])


def texts(more: int = 0) -> Path:
    rows = [(f"text number {n} says {'yes' if n % 2 else 'no'}", n % 2) for n in range(24 + more)]
    return table("texts.csv", ["text", "label"], rows)


@pytest.fixture(autouse=True)
def no_report(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        "unitrans.training.run.report",
        lambda session, trainer, run, *_: (run / "summary.json").write_text("{}"),
    )


@pytest.fixture
def graphs(workdir: Path, monkeypatch: pytest.MonkeyPatch) -> RunConfig:
    pytest.importorskip("rdkit", reason="needs the graph extra")
    monkeypatch.setenv("UNITRANS_CACHE", str(workdir / "cache"))
    settings = [*SHORT, *SMALL, "data.validation=0.2", "data.test=0.1"]
    return resolve(domain="graph", objective="regression", data=str(molecules()), settings=settings)


def refused(capsys: pytest.CaptureFixture[str], run: str = "run") -> str:
    """What --resume says in one sentence."""
    capsys.readouterr()
    assert main(["train", "--resume", run]) == 2
    said = capsys.readouterr().err.strip()
    assert said.count("\n") == 0 and "--accept-changed-data" in said
    return said


def record(run: str = "run") -> dict[str, Any]:
    return json.loads(Path(run, fingerprint.DATA_FILE).read_text())


def test_images_that_came_went_or_changed_are_told(
    tiny: Tiny, workdir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = tiny(*SHORT, "data.image_size=8", "data.mean=auto", "data.std=auto", "data.validation=0.2",
                  data=str(images()), domain="vision", objective="classification")  # fmt: skip
    train(config, "run")
    before = record()
    resume("run")
    assert record() == before
    for number in range(20, 30):
        image(Path(f"photos/a/{number}.png"), 180 + number)
    count = len(open_session(config).train_source)
    was = before["fingerprint"]["parts"]["training"]["samples"]
    assert f"training: {count} samples for {was}" in refused(capsys)
    assert main(["train", "--resume", "run", "--accept-changed-data"]) == 0
    after = record()
    assert after["labels"] == before["labels"] and after["reading"] == before["reading"]
    session = open_session(config, Path("run"))
    assert session.train_source.mean == before["reading"]["mean"] != open_session(config).train_source.mean
    resume("run")  # what was accepted is now what the run has
    for number, file in enumerate(sorted(Path("photos").rglob("*.png"))):
        image(file, 77 + number)
    assert f"{count} of {count} that were looked at have other content" in refused(capsys)
    image(Path("photos/c/1.png"), 5)
    with pytest.raises(ConfigError, match="class 'c'"):
        resume("run", accept_changed_data=True)


def test_texts_keep_their_words_and_classes(workdir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    settings = [*SHORT, *SMALL, "data.vocab_size=300"]
    config = resolve(domain="text", objective="classification", data=str(texts()), settings=settings)
    train(config, "run")
    before = record()
    resume("run")
    rows = [(f"other text {n}", n % 2) for n in range(24)]
    table("texts.csv", ["text", "label"], rows)
    assert "have other content" in refused(capsys)
    texts(more=10)
    assert "samples for" in refused(capsys)
    assert main(["train", "--resume", "run", "--accept-changed-data"]) == 0
    assert record()["labels"] == before["labels"]


def test_graphs_keep_their_scale_and_split(graphs: RunConfig, capsys: pytest.CaptureFixture[str]) -> None:
    train(graphs, "run")
    before = record()
    first = open_session(graphs).train_source
    held_out = {name: set(part.smiles) for name, part in (("v", first.validation), ("t", first.test))}
    resume("run")
    molecules(values=[2.0 * len(smiles) for smiles in SMILES])
    assert "that were looked at have other content, such as row" in refused(capsys)
    molecules(more=6)
    assert "training: " in refused(capsys)
    assert main(["train", "--resume", "run", "--accept-changed-data"]) == 0
    session = open_session(graphs, Path("run"))
    source = session.train_source
    assert {
        name: set(part.smiles) for name, part in (("v", source.validation), ("t", source.test))
    } == held_out
    assert record()["labels"] == before["labels"] and source.labels.mean[0] == before["labels"]["mean"][0]
    assert len(source) == len(first) + 6


def test_one_changed_cell_among_many_rows_is_told(
    graphs: RunConfig, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [(f"{'C' * (n % 30 + 1)}{'O' if n % 2 else 'N'}", n) for n in range(400)]
    table("molecules.csv", ["smiles", "y"], rows)
    train(graphs, "run")
    for place in (101, 102, 103):
        table("molecules.csv", ["smiles", "y"], [*rows[:place], (rows[place][0], -1), *rows[place + 1 :]])
        assert "content" in refused(capsys)


def test_a_run_of_several_domains_looks_at_all(
    workdir: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("rdkit", reason="needs the graph extra")
    monkeypatch.setenv("UNITRANS_CACHE", str(workdir / "cache"))
    settings = [*SHORT, "model.embed_dim=16", "model.depth=1", "model.num_heads=2", "data.text.vocab_size=300",
                f"data.text.path={texts()}", f"data.graph.path={molecules()}"]  # fmt: skip
    train(resolve(domain="vision,text,graph", settings=settings), "run")
    resume("run")
    molecules(more=3)
    said = refused(capsys)
    assert "graph training: " in said and "vision" not in said and "text" not in said.replace("texts", "")


def test_runs_that_kept_nothing_go_on(graphs: RunConfig) -> None:
    run = train(graphs, "run")
    (run / fingerprint.DATA_FILE).unlink()
    molecules(more=2)
    resume("run")
    assert not (run / fingerprint.DATA_FILE).exists()


def test_the_members_of_an_ensemble_share_their_data(
    graphs: RunConfig, capsys: pytest.CaptureFixture[str]
) -> None:
    from unitrans.use.ensemble import train_ensemble

    folder = train_ensemble(graphs, "several", 2)
    shutil.rmtree(folder / "seed-1")
    molecules(more=2)
    assert "training: " in refused(capsys, "several")
    assert main(["train", "--resume", "several", "--accept-changed-data"]) == 0
    assert record("several/seed-1")["labels"] == record("several/seed-0")["labels"]


def test_accepting_changed_data_is_for_runs_that_go_on(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", "--accept-changed-data"]) == 2
    assert "--resume" in capsys.readouterr().err


def test_a_large_file_is_read_in_parts(tmp_path: Path) -> None:
    from unitrans.stored import part_hash

    path = tmp_path / "large"
    path.write_bytes(bytes(9 << 20))
    before = part_hash(path, 4 << 20)
    with path.open("r+b") as file:
        file.seek((9 << 20) - 1)
        file.write(b"x")
    assert part_hash(path, 4 << 20) != before
    assert part_hash(path, 16 << 20) != part_hash(path, 4 << 20)
