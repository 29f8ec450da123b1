"""Texts that a user gives and that would keep a reader busy, or end it: each is refused in a sentence, at once."""

import json
import time
from pathlib import Path

import pytest

from unitrans.cli import main
from unitrans.parsing import parse_json
from unitrans.training import yaml12

BOMB = "\n".join(
    ["data:", "  a0: &a0 [x, x, x, x, x, x, x, x, x]"]
    + [f"  a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]" for n in range(1, 9)]
)
TEXTS = {
    "aliases of aliases": BOMB,
    "lists in lists": "data: " + "[" * 2000 + "]" * 2000,
    "maps in maps": "data: " + "{a: " * 2000 + "1" + "}" * 2000,
    "indented maps": "\n".join(" " * n + "a:" for n in range(1500)),
    "questions": "? " * 3000,
    "an alias inside its value": "data: &a [*a]",
    "digits": "data: {seed: " + "9" * 10_000 + "}",
    "many values": "data: [" + "1," * 30_000 + "]",
}


@pytest.mark.parametrize("name", TEXTS)
def test_configurations(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "config.yaml"
    file.write_text(TEXTS[name])
    start = time.process_time()
    assert main(["train", "--config", str(file), "--print-config"]) == 2
    assert time.process_time() - start < 5
    error = capsys.readouterr().err
    assert error.startswith("unitrans: --config") and "line " in error and error.count("\n") == 1


@pytest.mark.parametrize("value", ["[" * 2000, "[" * 2000 + "]" * 2000, "9" * 10_000])
def test_settings_of_the_command_line(value: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", f"train.seed={value}", "--print-config"]) == 2
    error = capsys.readouterr().err
    assert error.startswith("unitrans: ") and error.count("\n") == 1 and len(error) < 500


def test_run_folders(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = tmp_path / "run"
    (run / "checkpoints").mkdir(parents=True)
    (run / "config.yaml").write_text(BOMB)
    for command in (["train", "--resume"], ["report"]):
        assert main([*command, str(run)]) == 2
        error = capsys.readouterr().err
        assert error.startswith("unitrans: ") and error.count("\n") == 1


def test_what_configurations_hold_is_within_the_bounds() -> None:
    assert yaml12.load("a: &x {b: 1}\nc: *x\nd: [*x, *x]") == {
        "a": {"b": 1},
        "c": {"b": 1},
        "d": [{"b": 1}] * 2,
    }
    assert yaml12.load("a: " + "[" * 40 + "1" + "]" * 40)["a"][0]
    assert yaml12.load(f"a: {2**300}") == {"a": 2**300}


@pytest.mark.parametrize("text", ["[" * 100_000, '{"a":' * 100_000, "9" * 10_000, "[1", ""])
def test_json_that_cannot_be_read_is_a_value_error(text: str) -> None:
    with pytest.raises(ValueError):
        parse_json(text)
    assert parse_json(json.dumps({"a": [1, 2.5, None]})) == {"a": [1, 2.5, None]}


def test_rows_of_json_lines(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A row that is nested too deeply is one that cannot be read, as other damaged rows are."""
    file = tmp_path / "rows.jsonl"
    file.write_text('{"text": "a good one", "label": "x"}\n' * 20 + "[" * 100_000 + "\n")
    code = main(
        ["train", "--domain", "text", "--objective", "classification", "--data", str(file), "--dry-run"]
    )
    assert code == 2
    assert (
        capsys.readouterr().err.splitlines()[-1].startswith(f"unitrans: data.path: '{file}' cannot be read")
    )
