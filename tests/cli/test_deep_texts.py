"""Texts made to take a reader long or too deep: settings, configurations, JSON beside weights, rows."""

import json
import time
from pathlib import Path

import pytest

from unitrans.cli import main

DEEP = 100_000
FLOWS = {
    "lists": "[" * 2000 + "]" * 2000,
    "mappings": "{a: " * 2000 + "1" + "}" * 2000,
    "digits": "9" * 10_000,
    "self": "&a [*a]",
    "tag": "!!python/name:os.system x",
    "bad tag": "!!bool maybe",
    "no number": "!!int ''",
    "no single number": "!!float [1]",
}


def bomb(levels: int) -> str:
    """Nine times the line before, again and again."""
    lines = ["data:", "  path:", "  - &c0 [x,x,x,x,x,x,x,x,x]"]
    lines += [f"  - &c{n} [{','.join([f'*c{n - 1}'] * 9)}]" for n in range(1, levels)]
    return "\n".join(lines) + "\n"


def refuse(arguments: list[str], capsys) -> str:
    start = time.monotonic()
    code = main(arguments)
    lines = capsys.readouterr().err.strip().splitlines()
    assert code == 2 and len(lines) == 1 and len(lines[0]) < 1500, (code, lines)
    assert time.monotonic() - start < 10
    return lines[0]


@pytest.mark.parametrize("levels", [5, 6, 8, 60])
def test_aliases_that_grow(levels, tmp_path, capsys) -> None:
    path = tmp_path / "bomb.yaml"
    path.write_text(bomb(levels))
    said = refuse(["train", "--config", str(path), "--print-config"], capsys)
    assert "bomb.yaml cannot be read as YAML" in said and "aliases make more than 10,000 values" in said


def test_a_value_that_no_file_can_be_called(tmp_path, capsys) -> None:
    path = tmp_path / "long.yaml"
    path.write_text(bomb(3))
    for arguments in (["--config", str(path)], ["--data", "x" * 3000], ["--data", "a\0b"]):
        for domain in ("vision", "text", "graph"):
            refuse(["train", *arguments, "--domain", domain, "--dry-run"], capsys)


def test_aliases_that_do_not_grow_are_read(tmp_path, capsys) -> None:
    path = tmp_path / "c.yaml"
    path.write_text("data: {mean: &m [0.5], std: *m}\n")
    assert main(["train", "--config", str(path), "--print-config"]) == 0
    assert "std: [0.5]" in capsys.readouterr().out


def test_tags_of_plain_values_are_read() -> None:
    from unitrans.training.yaml12 import load

    text = "a: [!!str 12, !!int 5, !!float 2, !!bool true, !!null ~, ! x]\nb: !!map {c: !!seq [1_0]}"
    assert load(text) == {"a": ["12", 5, 2.0, True, None, "x"], "b": {"c": ["1_0"]}}
    assert isinstance(load("!!float 2"), float)


@pytest.mark.parametrize("name", FLOWS)
@pytest.mark.parametrize("door", ["file", "setting", "report", "base"])
def test_yaml_that_nests_or_does_not_end(name, door, tmp_path, capsys) -> None:
    path = tmp_path / "c.yaml"
    path.write_text(f"data:\n  path: {FLOWS[name]}\n")
    if door == "setting":
        refuse(["train", f"data.path={FLOWS[name]}", "--print-config"], capsys)
    elif door == "base":
        (tmp_path / "d.yaml").write_text("base: c.yaml\n")
        refuse(["train", "--config", str(tmp_path / "d.yaml"), "--print-config"], capsys)
    elif door == "report":
        path.rename(tmp_path / "config.yaml")
        refuse(["report", str(tmp_path)], capsys)
    else:
        assert "cannot be read as YAML: line" in refuse(
            ["train", "--config", str(path), "--print-config"], capsys
        )


def test_indented_yaml_that_nests(tmp_path, capsys) -> None:
    path = tmp_path / "c.yaml"
    path.write_text("\n".join(" " * n + f"k{n}:" for n in range(2000)))
    assert "nest deeper than 50 levels" in refuse(["train", "--config", str(path)], capsys)


def test_a_setting_of_many_parts(capsys) -> None:
    refuse(["train", "data." + ".".join(["a"] * 5000) + "=1", "--print-config"], capsys)


@pytest.mark.parametrize(
    "content", ["[" * DEEP, '{"a":' * DEEP, '{"model_type": ' + "9" * 10_000 + "}", "[]"]
)
@pytest.mark.parametrize("command", ["init", "predict", "embed", "convert", "export", "tokenizer"])
def test_json_beside_weights(command, content, tmp_path, capsys) -> None:
    folder: Path = tmp_path / "model"
    folder.mkdir()
    for name in ("config.json", "tokenizer.json", "tokenizer_config.json", "preprocessor_config.json"):
        (folder / name).write_text(content)
    (folder / "model.safetensors").write_bytes(b"\x02\0\0\0\0\0\0\0{}")
    said = refuse(
        {
            "init": ["train", "--init", str(folder), "--dry-run"],
            "tokenizer": ["train", "--domain", "text", "--tokenizer", str(folder), "--dry-run"],
            "predict": ["predict", "--checkpoint", str(folder), str(tmp_path / "x.csv")],
            "embed": [
                "embed",
                "--checkpoint",
                str(folder),
                str(tmp_path / "x.csv"),
                "-o",
                str(tmp_path / "v.npy"),
            ],
            "export": ["export", "--checkpoint", str(folder), "--to", "onnx", "-o", str(tmp_path / "m.onnx")],
            "convert": ["convert", str(folder), str(tmp_path / "out"), "--to", "hf"],
        }[command],
        capsys,
    )
    assert str(folder) in said and "--help" not in said


def test_json_of_a_reasonable_depth_is_read() -> None:
    from unitrans.stored import parse_json

    text = json.dumps({"a": [[[1, 2.5]]]})
    assert parse_json(text) == {"a": [[[1, 2.5]]]}
