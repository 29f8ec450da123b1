"""A table means the same in train, eval and predict, in every domain."""

import csv
import json
import os
import threading
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from unitrans.cli import main

SMALL = (
    "model.embed_dim=16", "model.depth=1", "model.num_heads=2", "train.use_cpu=true", "train.max_steps=2",
    "train.eval_steps=2", "train.save_steps=2", "train.per_device_train_batch_size=8",
)  # fmt: skip
WORDS = "cat dog sun rain house tree river road night day".split()
SMILES = [
    "CCO",
    "c1ccccc1",
    "CC(=O)O",
    "CCN",
    "C1CC1",
    "CCCC",
    "c1ccncc1",
    "CC#N",
    "O=C=O",
    "CCCl",
    "C[NH3+]",
    "CS",
]


def texts(
    path: Path, labels: list[str], delimiter: str = ",", count: int = 60, encoding: str = "utf-8"
) -> str:
    lines = [f"text{delimiter}label"]
    for n in range(count):
        words = " ".join(WORDS[(n * k) % 10] for k in range(1, 9))
        text = {3: "NA", 4: "None"}.get(n, f"{words} \u00fc {n}")  # missing is an empty cell: these are texts
        lines.append(f"{text}{delimiter}{labels[n % len(labels)]}")
    path.write_bytes(("\r\n".join(lines) + "\r\n").encode(encoding))
    return str(path)


def train(tmp_path: Path, domain: str, data: str, *more: str) -> str:
    run = str(tmp_path / "run")
    extra = ["data.vocab_size=300", "data.validation=0.2"] if domain == "text" else []
    command = ["train", "--domain", domain, "--data", data, "--output", run, *more, *SMALL, *extra]
    assert main(command) == 0
    return run


def judged(tmp_path: Path, run: str, data: str, *more: str) -> dict:
    output = tmp_path / f"eval-{len(list(tmp_path.iterdir()))}"
    main(["eval", "--checkpoint", run, "--data", data, "--output", str(output), *more])
    return json.loads((output / "eval.json").read_text())


@pytest.mark.parametrize(
    ("labels", "names", "delimiter"),
    [
        (["010", "10", "7"], ["010", "10", "7"], ";"),
        (["NA", "None", "EU"], ["EU", "NA", "None"], "|"),
        (["0.0", "1.0"], ["0", "1"], "\t"),
        (["long", "long ", "short"], ["long", "short"], ","),
    ],
)
def test_classes_of_texts(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], labels: list[str], names: list[str], delimiter: str
) -> None:
    data = texts(tmp_path / "t.csv", labels, delimiter)
    run = train(tmp_path, "text", data, "--objective", "classification")
    shown = capsys.readouterr().out
    assert f"{len(names)} classes of training samples: {names[0]} " in shown
    assert ("'long' and 'long ' are one class" in shown) == ("long" in names)
    result = judged(tmp_path, run, data)
    assert result["samples"] == 60 and result["skipped"] == 0
    assert [row["class"] for row in result["classes"]] == names
    assert main(["predict", "--checkpoint", run, data, "-o", str(tmp_path / "p.csv")]) == 0
    rows = list(csv.DictReader((tmp_path / "p.csv").open()))
    assert len(rows) == 60 and {row["class"] for row in rows} <= set(names)
    assert rows[3]["text"] == "NA" and not any(row["error"] for row in rows)


VISION = (
    "data.image_size=8", "model.patch_size=4", "model.embed_dim=8", "model.depths=[1]", "model.num_heads=[1]",
    "model.window_size=2", "data.validation=0.2", "train.use_cpu=true", "train.max_steps=1", "train.eval_steps=1",
    "train.save_steps=1", "train.per_device_train_batch_size=8",
)  # fmt: skip


WRITTEN = ["010", "10", "7", "NA", "None", "long", "long "]


@pytest.mark.parametrize(
    ("domain", "labels", "names"),
    [
        ("vision", WRITTEN, ["010", "10", "7", "NA", "None", "long"]),
        ("graph", WRITTEN, ["010", "10", "7", "NA", "None", "long"]),
        ("vision", ["0.0", "1", "2", "1.0"], ["0", "1", "2"]),
    ],
)
def test_classes_of_images_and_molecules(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], domain: str, labels: list[str], names: list[str]
) -> None:
    samples, more = SMILES, [*SMALL, "--target", "label", "data.validation=0", "data.test=0"]
    if domain == "graph":
        pytest.importorskip("rdkit", reason="needs the graph extra (RDKit)")
    else:
        samples, more = [f"{n}.png" for n in range(28)], list(VISION)
        for n, name in enumerate(samples):
            Image.fromarray(np.full((8, 8, 3), 9 * n, np.uint8)).save(tmp_path / name)
    lines = [f"{sample};{labels[n % len(labels)]}" for n, sample in enumerate(samples)]
    data, run = tmp_path / "t.csv", str(tmp_path / "run")
    header = "smiles" if domain == "graph" else "file"
    data.write_text("\r\n".join([f"{header};label", *lines]) + "\r\n")
    command = ["train", "--domain", domain, "--objective", "classification", "--data", str(data)]
    assert main([*command, "--output", run, *more]) == 0
    shown = capsys.readouterr().out
    assert f"{len(names)} classes of training samples: {names[0]} " in shown
    assert "are one class" in shown
    result = judged(tmp_path, run, str(data))
    assert (result["samples"], result["skipped"]) == (len(samples), 0)
    assert [row["class"] for row in result["classes"]] == names
    assert main(["predict", "--checkpoint", run, str(data), "-o", str(tmp_path / "p.csv")]) == 0
    rows = list(csv.DictReader((tmp_path / "p.csv").open()))
    said = "label" if domain == "graph" else "class"
    assert len(rows) == len(samples) and {row[said] for row in rows} <= set(names)
    assert {f"{said}_p_{name}" for name in names} <= set(rows[0])


def test_texts_in_other_encodings_and_through_pipes(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = texts(tmp_path / "t.csv", ["a", "b"], encoding="latin-1")
    command = ["train", "--domain", "text", "--objective", "classification", "--data", data, *SMALL]
    assert main(command) == 2
    assert "is not text in UTF-8 (byte 0xfc in it)" in capsys.readouterr().err
    run = train(tmp_path, "text", data, "--objective", "classification", "data.encoding=latin-1")
    os.mkfifo(tmp_path / "pipe")
    content = Path(data).read_bytes()
    writer = threading.Thread(target=lambda: (tmp_path / "pipe").write_bytes(content))
    writer.start()
    assert judged(tmp_path, run, str(tmp_path / "pipe"))["samples"] == 60
    writer.join()


def test_several_targets_of_molecules(tmp_path: Path) -> None:
    pytest.importorskip("rdkit", reason="needs the graph extra (RDKit)")
    rows = [f"{s},{(-1, 1)[n % 2]},{'' if n == 3 else n % 2}" for n, s in enumerate(SMILES)]
    (tmp_path / "m.csv").write_text("\n".join(['smiles,"a, b",c', *rows]) + "\n")
    run = train(
        tmp_path, "graph", str(tmp_path / "m.csv"), "--objective", "classification", "--target", '"a, b",c',
        "data.validation=0", "data.test=0",
    )  # fmt: skip
    result = judged(tmp_path, run, str(tmp_path / "m.csv"))
    assert [(row["class"], row["samples"], row["known"]) for row in result["classes"]] == [
        ("a, b", 6, 12),
        ("c", 5, 11),
    ]
    assert (
        main(["predict", "--checkpoint", run, str(tmp_path / "m.csv"), "-o", str(tmp_path / "p.jsonl")]) == 0
    )
    first = json.loads((tmp_path / "p.jsonl").read_text().splitlines()[0])
    assert first["a, b_given"] == "-1" and 0 < first["a, b"] < 1
