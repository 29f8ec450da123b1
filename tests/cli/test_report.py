"""unitrans report: what a run folder holds, on one page."""

from __future__ import annotations

import io
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from html_reader import Reader
from PIL import Image

from unitrans.cli import main
from unitrans.cli.pages import differences
from unitrans.cli.pages.charts import Line
from unitrans.cli.pages.predictions import sentences
from unitrans.cli.pages.runs import in_order, open_runs
from unitrans.cli.pages.training import training_page
from unitrans.training.config import resolve
from unitrans.training.yaml12 import dump_value

SMALL = ["model.embed_dim=8", "model.depths=[1, 1]", "model.num_heads=[1, 2]"]
HOSTILE = "</pre></table><script>alert(1)</script><img src=x onerror=alert(2)>&amp;\"'\u202e"
Drawn = dict[str, list[Line]]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A real run, three updates with an evaluation after each, to be copied and damaged."""
    run = tmp_path_factory.mktemp("trained") / "run"
    steps = ["train.max_steps=3", "train.eval_steps=1", "train.logging_steps=1", "train.save_steps=2"]
    assert main(["train", *SMALL, *steps, "--output", str(run)]) == 0
    return run


@pytest.fixture
def run(trained: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(trained, tmp_path / "run", symlinks=True))


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> Drawn:
    """What is given to charts, by title and unit; they are not drawn, which costs a second a page."""
    found: Drawn = {}

    def note(series: list[Line], *, title: str, y: str, **_: Any) -> str:
        found[f"{title}|{y}"] = list(series)
        return ""

    monkeypatch.setattr("unitrans.cli.pages.training.lines", note)
    return found


def read(*runs: Path) -> Reader:
    return Reader(training_page(open_runs([str(run) for run in runs])))


def png() -> bytes:
    file = io.BytesIO()
    Image.new("L", (4, 4)).save(file, "PNG")
    return file.getvalue()


def fabricated(folder: Path, domain: str, objective: str, **summary: Any) -> Path:
    """A folder as a run leaves it, without training."""
    folder.mkdir()
    (folder / "config.yaml").write_text(resolve(domain=domain, objective=objective).to_yaml())
    rows = [{"step": 10 * i, "loss": 1 / i, "learning_rate": 0.1} for i in range(1, 4)]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    if summary:
        (folder / "summary.json").write_text(json.dumps(summary))
    return folder


# ---- one run ---------------------------------------------------------------------------------------------------


def test_the_page_of_a_run(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["report", str(run)]) == 0
    said = capsys.readouterr().out
    assert said.startswith(str(run / "report.html"))
    text = (run / "report.html").read_text()
    page = Reader(text)
    assert page.tags["script"] == 0
    assert "http:" not in text
    assert all(target.startswith("data:image/png;base64,") for target in page.outside)
    assert page.outside, "the reconstructions"
    assert page.tags["svg"] == 2 * 6  # six charts, for wide and narrow screens; one run needs no legend
    summary = json.loads((run / "summary.json").read_text())
    for words in ("Training loss", "Held-out loss", "Learning rate", "Throughput", "L1 a hidden value",
                  "0 black to 1 white", f"{summary['l1']:.4g}",
                  "linear-Gaussian conditional mean", "3 of 3", "finished", "step-0000003",
                  "1,707 training samples", "random weights", "torch", "Original, masked and predicted"):  # fmt: skip
        assert words in page.words, words
    assert "is missing" not in page.words and "are missing" not in page.words


def test_what_differs_from_the_defaults_and_nothing_else(run: Path) -> None:
    (opened,) = open_runs([str(run)])
    rows = differences.differing([opened.config, differences.defaults_of(opened)])
    changed = {row[0]: row[1:] for row in rows}
    assert changed["model.embed_dim"][0] == "8"
    assert changed["train.max_steps"] == ["3", "1500"]
    assert set(changed) == {"model.embed_dim", "model.depths", "model.num_heads", "train.max_steps", "train.eval_steps",
                            "train.logging_steps", "train.save_steps"}  # fmt: skip


def test_every_domain_has_defaults(tmp_path: Path) -> None:
    for domain, objective in (("text", "mlm"), ("graph", "regression"), ("vision,text,graph", "msm")):
        (one,) = open_runs([str(fabricated(tmp_path / domain, domain, objective))])
        assert differences.differing([one.config, differences.defaults_of(one)]) == []


def test_what_is_not_there_is_named(run: Path, drawn: Drawn) -> None:
    def gone(name: str) -> None:
        path = run / name
        shutil.rmtree(path) if path.is_dir() else path.unlink()

    gone("summary.json")
    page = read(run)
    assert "summary.json is missing: the run has not come to its end (go on with" in page.words
    assert f"train --resume {run}" in page.words
    assert "not finished" in page.words
    assert "The last evaluation in its log" in page.words
    for name in ("metrics.jsonl", "environment.json", "reconstructions.png", "checkpoints"):
        gone(name)
    words = read(run).words
    for sentence in ("metrics.jsonl is missing: no curves", "environment.json is missing", "no weights",
                     "reconstructions.png or predictions.png is missing", "nothing has been judged on held-out samples",
                     "Not in the logs: training loss, held-out loss, learning rate", "it left no checkpoint",
                     "There is no model card", "there is no picture in the run folder"):  # fmt: skip
        assert sentence in words, sentence


def test_what_cannot_be_read_is_named(run: Path, drawn: Drawn) -> None:
    (run / "summary.json").write_text('{"l1": ')
    (run / "environment.json").write_text("[1, 2]")
    (run / "reconstructions.png").write_bytes(b"<svg onload=alert(1)>")
    (run / "checkpoints" / "best" / "README.md").unlink()
    with (run / "metrics.jsonl").open("a") as file:
        file.write('{"step": 4, "loss": NaN}\n5\n{"step": 5, "lo')
    words = read(run).words
    for sentence in ("summary.json cannot be read: Expecting value", "reconstructions.png cannot be shown",
                     "environment.json cannot be read: expected an object", "README.md is missing from step-",
                     "2 of 9 lines of metrics.jsonl",
                     "1 row of metrics.jsonl has a loss that is no number"):  # fmt: skip
        assert sentence in words, sentence


def test_values_of_other_kinds_do_not_end_it(run: Path, drawn: Drawn) -> None:
    (run / "summary.json").write_text(
        json.dumps({"l1": "x", "loss": 1, "predictors": 3, "intervals": [1], "test": 7})
    )
    (run / "environment.json").write_text(
        json.dumps({"packages": [1], "command": "x", "threads": {"a": None}})
    )
    (run / "checkpoints" / "latest" / "trainer_state.json").write_text(json.dumps({"max_steps": "many"}))
    assert "finished" in read(run).words


def test_nothing_in_a_folder_becomes_markup(run: Path, tmp_path: Path) -> None:
    summary = json.loads((run / "summary.json").read_text())
    summary["predictors"][0] |= {"name": HOSTILE, "note": HOSTILE}
    (run / "summary.json").write_text(json.dumps(summary | {HOSTILE: 1.5}))
    environment = json.loads((run / "environment.json").read_text())
    (run / "environment.json").write_text(
        json.dumps(environment | {"processor": HOSTILE, HOSTILE: [HOSTILE]})
    )
    config = (run / "config.yaml").read_text()
    (run / "config.yaml").write_text(config.replace("path: digits", f"path: {dump_value(HOSTILE)}"))
    card = run / "checkpoints" / "best" / "README.md"
    card.write_text(card.read_text().replace("- random weights", f"- {HOSTILE}"))
    (run / "skipped.txt").write_text(f"{HOSTILE}\t{HOSTILE}\n")
    (run / "metrics.jsonl").write_text(
        json.dumps({"step": 1, "loss": 1.0, HOSTILE: 2.0, f"eval_{HOSTILE}": 3.0})
    )
    (run / "predictions.html").write_text(
        f"<h1>{HOSTILE}</h1><p><span onclick=x class='right evil'>a{HOSTILE}<p>b</s>"
    )
    name = "<script>alert(3)<!--"
    for page in (read(run), read(run, Path(shutil.copytree(run, tmp_path / name, symlinks=True)))):
        assert page.tags["script"] == 0
        assert all(target.startswith("data:image/png;base64,") for target in page.outside)
    assert name in page.words
    assert page.words.count("<script>alert(1)</script>") > 10


# ---- logs ------------------------------------------------------------------------------------------------------


def test_a_run_taken_up_at_an_earlier_update_is_shown_as_it_went_in_the_end(run: Path, drawn: Drawn) -> None:
    rows = [(10, 5.0), (20, 4.0), (30, 3.0), (40, 2.5), (20, 4.1), (30, 3.1), (30, 3.2)]
    lines = [json.dumps({"step": step, "loss": loss}) for step, loss in rows]
    lines.insert(4, json.dumps({"step": 40, "eval_loss": 9.0}))  # of what was given up
    (run / "metrics.jsonl").write_text("\n".join([*lines, json.dumps({"step": 30, "eval_loss": 7.0})]) + "\n")
    page = read(run)
    (line,) = drawn["Training loss|L1 a hidden value, pixels normalised"]
    assert (line.x, line.y) == ([10, 20, 30], [5.0, 4.1, 3.2])
    (line,) = drawn["Held-out loss|L1 a hidden value, pixels normalised"]
    assert (line.x, line.y) == ([30], [7.0])
    assert "taken up once at an earlier update" in page.words


def test_rows_of_one_update_are_put_together() -> None:
    rows = [{"step": 1, "loss": 2.0}, {"step": 1, "eval_loss": 3.0}, {"step": 2, "loss": 1.0}]
    assert in_order(rows) == ([{"step": 1, "loss": 2.0, "eval_loss": 3.0}, {"step": 2, "loss": 1.0}], 0)
    assert in_order([]) == ([], 0)


# ---- several runs ----------------------------------------------------------------------------------------------


def test_several_runs_share_their_charts(run: Path, tmp_path: Path, drawn: Drawn) -> None:
    other = Path(shutil.copytree(run, tmp_path / "other", symlinks=True))
    config = (other / "config.yaml").read_text()
    (other / "config.yaml").write_text(config.replace("seed: 0", "seed: 7"))
    (other / "metrics.jsonl").write_text('{"step": 1, "loss": 0.5}\n')
    page = read(run, other)
    first, second = drawn["Training loss|L1 a hidden value, pixels normalised"]
    assert (first.name, second.name) == ("run", "other")
    assert (list(first.x), list(second.y)) == ([1, 2, 3], [0.5])
    first, second = drawn["Held-out l1|mean error of a hidden pixel, 0 black to 1 white"]
    assert (len(first.x), len(second.x)) == (3, 0)
    opened = open_runs([str(run), str(other)])
    assert differences.differing([one.config for one in opened]) == [["train.seed", "0", "7"]]
    assert "train.seed" in page.words
    assert "2 training runs" in page.words


def test_losses_in_other_units_have_charts_of_their_own(run: Path, tmp_path: Path, drawn: Drawn) -> None:
    predictors = [{"name": "most frequent token", "accuracy": 0.1, "note": "counted"}]
    text = fabricated(tmp_path / "t", "text", "mlm", loss=2.0, accuracy=0.3, samples=5, predictors=predictors)
    page = read(run, text)
    for unit, x in (("L1 a hidden value, pixels normalised", [3, 0]), ("nats a hidden token", [0, 3])):
        assert [len(line.x) for line in drawn[f"Training loss|{unit}"]] == x
    assert "Validation part: accuracy" in page.words
    assert "Validation part: l1" in page.words


def test_figures_stand_beside_those_of_simple_predictors(tmp_path: Path, drawn: Drawn) -> None:
    def part(mae: float) -> dict[str, Any]:
        rows = [{"name": n, "mae": v, "note": ""} for n, v in (("mean", 0.9), ("ridge", 0.4), ("none", None))]
        return {
            "mae": mae,
            "r2": 0.5,
            "samples": 1234,
            "predictors": rows,
            "intervals": {"mae": [mae - 0.1, mae + 0.1]},
        }

    run = fabricated(tmp_path / "g", "graph", "regression", step=30, **part(0.3), test=part(0.5))
    text = training_page(open_runs([str(run)]))
    words = Reader(text).words
    for expected in (
        "Validation part: mae",
        "Test part: mae",
        "0.2 to 0.4",
        "0.4 to 0.6",
        "samples 1,234",
        "less is better",
    ):
        assert expected in words, expected
    table = text[text.index("Validation part") : text.index("Test part")]
    assert [table.index(f">{name}<") for name in ("this model", "ridge", "mean", "none")] == sorted(
        table.index(f">{name}<") for name in ("this model", "ridge", "mean", "none")
    )


def test_domains_of_one_run_are_apart(tmp_path: Path, drawn: Drawn) -> None:
    def domain(name: str) -> dict[str, Any]:
        return {"loss": 1.0, name: 0.25, "predictors": [{"name": f"simple {name}", name: 0.5, "note": ""}]}

    figures = {"vision": domain("l1"), "text": domain("accuracy"), "graph": domain("node_accuracy")}
    words = read(fabricated(tmp_path / "j", "vision,text,graph", "msm", loss=3.0, **figures)).words
    assert list(drawn) == ["Training loss|weighted sum over the domains", "Learning rate|"]
    for expected in ("Vision, validation part: l1", "Text, validation part: accuracy", "simple node_accuracy",
                     "predictions.html is missing", "molecules.png is missing"):  # fmt: skip
        assert expected in words, expected


def test_an_ensemble_stands_for_its_members(run: Path, tmp_path: Path, drawn: Drawn) -> None:
    folder = tmp_path / "both"
    for name in ("seed-0", "seed-1"):
        shutil.copytree(run, folder / name, symlinks=True)
    shutil.copy(run / "config.yaml", folder)
    (folder / "ensemble.json").write_text(
        json.dumps({"members": ["seed-0", "seed-1"], "level": 0.9, "targets": None})
    )
    assert [one.name for one in open_runs([str(folder)])] == ["seed-0", "seed-1"]
    assert [one.name for one in open_runs([str(folder), str(run), str(run)])] == ["seed-0", "seed-1", "run"]


def test_sentences_keep_their_marks() -> None:
    title, parts = sentences(
        "<title>x</title><style>p{}</style><h1>Hidden</h1><p><small>id 1</small>a "
        '<span class="right" title="t">b</span>'
        '<span class="wrong"><s>c</s> d</span></p>' + "<p>more</p>" * 9
    )
    assert title == "Hidden"
    assert 'a <span class="right">b</span><span class="wrong"><s>c</s> d</span>' in parts[0]
    assert "5 more" in parts[-1]
    assert not any("p{}" in part for part in parts)


# ---- what cannot be used ---------------------------------------------------------------------------------------


def no_domain(folder: Path) -> list[str]:
    (folder / "config.yaml").write_text("a: 1\n")
    return [str(folder)]


def broken_yaml(folder: Path) -> list[str]:
    (folder / "config.yaml").write_text("a: [1\n")
    return [str(folder)]


def above(folder: Path) -> list[str]:
    (folder / "inner").mkdir()
    (folder / "inner" / "config.yaml").write_text("domain: vision\n")
    return [str(folder)]


def bad_output(folder: Path) -> list[str]:
    (folder / "config.yaml").write_text("domain: vision\n")
    return [str(folder), "-o", str(folder / "nowhere" / "page.html")]


def folder_output(folder: Path) -> list[str]:
    (folder / "config.yaml").write_text("domain: vision\n")
    return [str(folder), "-o", str(folder)]


def bad_ensemble(folder: Path) -> list[str]:
    (folder / "ensemble.json").write_text('{"members": 3}')
    return [str(folder)]


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (
            lambda folder: [str(folder / "absent")],
            "absent: expected a run folder, got nothing; name a folder",
        ),
        (
            lambda folder: [str(folder)],
            "expected a run folder, got one without config.yaml; name a folder that",
        ),
        (lambda folder: [__file__], "expected a run folder, got a file"),
        (above, "got one without config.yaml; name"),
        (no_domain, "config.yaml: expected the settings of a run, got no domain"),
        (broken_yaml, "config.yaml: expected the settings of a run, got what cannot be read (line 2"),
        (bad_ensemble, "ensemble.json: expected the names of its members, got 3"),
        (bad_output, "page.html cannot be written: No such file or directory; name another file"),
        (folder_output, "is a folder: name a file in it"),
        (lambda folder: [], "the following arguments are required: RUN"),
    ],
)
def test_what_cannot_be_used_is_one_sentence(
    arguments: Callable[[Path], list[str]],
    sentence: str,
    tmp_path: Path,
    drawn: Drawn,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["report", *arguments(tmp_path)]) == 2
    captured = capsys.readouterr()
    assert sentence in captured.err
    assert captured.err.startswith("unitrans: ") and captured.err.count("\n") == 1
