"""``unitrans bench``: one row for every peer, three files, and the table of the README."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks import suites, write
from benchmarks.compare import Effort, Sides, compare
from benchmarks.rows import Curve, Results, Roofline, Row, Series, best_of
from benchmarks.scaling import fit
from benchmarks.timing import Ratio
from benchmarks.timm_import import Unavailable
from unitrans.cli import bench, main


def product(side: int) -> Any:
    a = torch.randn(side, side)
    return lambda: a @ a


def absent() -> Any:
    raise Unavailable("it is <not> installed")


def broken() -> Any:
    raise RuntimeError("of another shape\nand more")


def tiny(options: suites.Options) -> suites.Found:
    """Ours is a small product; the peers are a large one, one that is not there and one that fails."""
    peers = {
        "large": ("op", lambda: product(512)),
        "absent": ("op", absent),
        "broken": ("op", lambda: broken),
    }
    sides = Sides("32x32", {"op": lambda: product(32)}, peers, items=32, unit="rows")
    rows = compare(("attention", "products", "forward"), sides, Effort(0.05, 3, 0.001), device=options.device)
    side = {"unitrans": 1.0}
    series = Series(
        "batch", "images", "maps", [1, 2, 4], {"unitrans": [1.0, 2.0, 4.0]}, side, {"unitrans": 0.0}
    )
    roof = Roofline(70.0, 20.0, [("products", "forward", 5.0, 50.0)])
    return suites.Found(rows, [series], roof)


def quality(options: suites.Options) -> suites.Found:
    row = Row("digits", "1 seeds", "float32", 1, "after 2 s", "mim pretrained", "unitrans from scratch",
              suite="quality", metric="error rate", score=0.1, peer_score=0.2, ratio=Ratio(2.0, 2.0, 2.0))  # fmt: skip
    arms = {"pretrained": [[(1.0, 0.5), (2.0, 0.1)]], "from scratch": [[(1.0, 0.4), (2.0, 0.2)]]}
    return suites.Found([row], curves=[Curve("digits", "error rate", arms, ("SVM", 0.05))])


def failing(options: suites.Options) -> suites.Found:
    raise ValueError("no such operator")


@pytest.fixture
def few(monkeypatch: pytest.MonkeyPatch) -> None:
    entries = [suites.Entry("attention", "products", tiny), suites.Entry("quality", "digits", quality)]
    entries.append(suites.Entry("models", "failing", failing))
    monkeypatch.setattr(suites, "entries", lambda options: entries)


def test_every_peer_is_a_row_and_the_files_have_them_all(
    few: None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["bench", "--suite", "attention", "--quick", "--output", str(tmp_path)]) == 0
    assert main(["bench", "--suite", "quality", "--output", str(tmp_path)]) == 0  # added to what is there
    assert "written to" in capsys.readouterr().out
    data = json.loads((tmp_path / "results.json").read_text())
    assert data["cpu"] and data["cores"] >= 1 and torch.__version__.startswith(data["versions"]["torch"])
    assert data["date"] and data["commands"]
    rows = {row["peer"]: row for row in data["rows"]}
    assert set(rows) == {"large", "absent", "broken", "unitrans from scratch"}
    large = rows["large"]
    assert large["ratio"]["median"] > 3 and large["ratio"]["low"] <= large["ratio"]["median"]
    assert large["seconds"] < large["peer_seconds"] and large["peer_memory"] > 0.5
    assert rows["absent"]["ratio"] is None and rows["absent"]["reason"] == "it is <not> installed"
    assert rows["broken"]["reason"] == "RuntimeError: of another shape"
    read = Results.read(tmp_path / "results.json")
    assert read.to_json() == (tmp_path / "results.json").read_text()
    assert [r.peer for r in best_of(read.rows).values()] == ["large"]  # another way of ours is no peer

    text = (tmp_path / "results.md").read_text()
    assert "| products | 32x32 | float32 |" in text and "RuntimeError: of another shape" in text
    assert "sgemm 70 GFLOP/s" in text and "| digits | after 2 s | error rate |" in text
    page = (tmp_path / "results.html").read_text()
    assert "products / large" in page and "it is &lt;not&gt; installed" in page
    assert "exponent 1.00" in page and "70 GFLOP/s of a matrix product" in page
    assert "scikit-learn: SVM" in page and "http://" not in page and "https://" not in page


def test_ours_failing_is_a_row_and_exit_code_1(few: None, tmp_path: Path) -> None:
    assert main(["bench", "--suite", "models", "--output", str(tmp_path)]) == 1
    (row,) = json.loads((tmp_path / "results.json").read_text())["rows"]
    assert row["reason"] == "ours failed: ValueError: no such operator"
    assert "no such operator" in (tmp_path / "results.html").read_text()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--suite", "atention"], "did you mean 'attention'"),
        (["--case", "nothing"], "nothing of suite all begins with 'nothing'"),
    ],
)
def test_what_cannot_be_measured(
    few: None, arguments: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["bench", *arguments, "--output", str(tmp_path / "new")]) == 2
    assert message in capsys.readouterr().err and not (tmp_path / "new").exists()


def test_other_files_are_not_overwritten(
    few: None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "results.json").write_text('{"mine": 1}')
    assert main(["bench", "--output", str(tmp_path)]) == 2
    assert "name another folder" in capsys.readouterr().err
    assert (tmp_path / "results.json").read_text() == '{"mine": 1}'


def test_without_a_checkout(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(bench, "__file__", str(tmp_path / "unitrans" / "cli" / "bench.py"))
    monkeypatch.chdir(tmp_path)
    assert main(["bench", "--quick"]) == 2
    assert "run this in a checkout of unitrans" in capsys.readouterr().err


def test_a_real_case(tmp_path: Path) -> None:
    """The list, a case of it, and the loop."""
    threads = torch.get_num_threads()
    listed = suites.entries(suites.Options(quick=True))
    assert {entry.suite for entry in listed} == set(suites.SUITES) == set(bench.SUITES) - {"all"}
    assert len({(entry.suite, entry.name) for entry in listed}) == len(listed)
    try:
        arguments = ["--suite", "pretrain", "--case", "text packing", "--quick", "--output", str(tmp_path)]
        assert main(["bench", *arguments]) == 0
    finally:
        torch.set_num_threads(threads)
    (row,) = Results.read(tmp_path / "results.json").rows
    assert row.peer == "padded" and row.ratio is not None and row.unit == "texts" and row.items == 32


def test_the_exponent_of_a_power() -> None:
    exponent, error = fit([1, 2, 4, 8], [3 * x**1.5 for x in (1, 2, 4, 8)])
    assert exponent == pytest.approx(1.5) and error == pytest.approx(0, abs=1e-6)
    assert fit([1, 2, 4], [1, 2, 8])[1] > 0.1


def test_the_table_of_the_readme_is_that_of_the_results() -> None:
    source = write.readme_source()
    table = write.readme_table(Results.read(source), source.stem)
    text = write.README.read_text(encoding="utf-8")
    assert 10 <= table.count("\n| ") <= 16
    assert write.in_readme(text, table) == text, "python -m benchmarks.write brings README.md up to date"
