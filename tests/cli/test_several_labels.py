"""Images with several labels each, some missing, from a table: trained, judged and predicted from the command line."""

import csv
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_digits
from sklearn.metrics import average_precision_score, roc_auc_score

from unitrans.cli import main
from unitrans.use.targets import target_figures, write_answers

SETTINGS = (
    "model.name=swin", "model.embed_dim=32", "model.depths=[2,2]", "model.num_heads=[2,4]", "model.window_size=2",
    "model.patch_size=2", "model.drop_path_rate=0", "data.channels=1", "data.image_size=8", "data.crop_scale=null",
    "data.flip=false", "data.mixup=0.2", "train.use_cpu=true", "train.max_steps=60", "train.eval_steps=60",
    "train.save_steps=60", "train.per_device_train_batch_size=32", "train.learning_rate=1e-2",
)  # fmt: skip


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Digits and what they are: even, at least five; the second is known of every other one only."""
    root = tmp_path_factory.mktemp("several")
    (root / "images").mkdir()
    digits = load_digits()
    lines = {"train": ["name,even,big"], "test": ["name,even,big"]}
    for row in range(520):
        number = int(digits.target[row])
        Image.fromarray((digits.images[row] * 15).astype(np.uint8)).save(root / "images" / f"{row}.png")
        big = str(int(number >= 5)) if row % 2 else ""
        lines["train" if row < 400 else "test"].append(f"{row}.png,{int(number % 2 == 0)},{big}")
    for part, rows in lines.items():
        (root / f"{part}.csv").write_text("\n".join(rows) + "\n")
    arguments = [
        "train",
        "--objective",
        "classification",
        "--data",
        str(root / "train.csv"),
        "--target",
        "even,big",
    ]
    columns = ["data.image_column=name", f"data.image_folder={root / 'images'}"]
    assert main([*arguments, *columns, *SETTINGS, "--output", str(root / "run")]) == 0
    return root


def test_train_eval_and_predict(root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    summary = json.loads((root / "run" / "summary.json").read_text())
    assert {p["name"] for p in summary["predictors"]} == {"chance", "logistic regression on pixels"}
    assert (root / "run" / "predictions.png").is_file()
    command = ["--checkpoint", str(root / "run"), "--image-folder", str(root / "images")]
    assert main(["eval", *command, "--data", str(root / "test.csv"), "--output", str(tmp_path / "e")]) == 0
    shown = capsys.readouterr().out
    result = json.loads((tmp_path / "e" / "eval.json").read_text())
    assert main(["predict", *command, str(root / "test.csv"), "-o", str(tmp_path / "p.csv")]) == 0
    rows = list(csv.DictReader((tmp_path / "p.csv").open()))
    assert len(rows) == result["samples"] == 120 and not any(row["error"] for row in rows)
    areas = []
    for name, row in zip(("even", "big"), result["classes"], strict=True):
        pairs = [(int(r[f"{name}_given"]), float(r[name])) for r in rows if r[f"{name}_given"]]
        truth, score = zip(*pairs, strict=True)
        areas.append(roc_auc_score(truth, score))
        assert row["class"] == name and row["known"] == len(pairs) == (120 if name == "even" else 60)
        assert row["roc_auc"] == pytest.approx(areas[-1]) and row["samples"] == sum(truth)
        assert row["average_precision"] == pytest.approx(average_precision_score(truth, score))
        assert row["roc_auc_low"] < row["roc_auc"] < row["roc_auc_high"]
        assert f"{name}: roc_auc {row['roc_auc']:.4f}" in shown
    assert result["figures"]["roc_auc"] == pytest.approx(np.mean(areas)) and np.mean(areas) > 0.6
    low, high = result["intervals"]["average_precision"]
    assert low < result["figures"]["average_precision"] < high
    assert len(list(csv.DictReader((tmp_path / "e" / "classes.csv").open()))) == 2


def test_what_does_not_fit(root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = [
        "eval",
        "--checkpoint",
        str(root / "run"),
        "--data",
        str(root / "test.csv"),
        "--output",
        str(tmp_path / "e"),
    ]
    assert main(command) == 2
    assert "none of the files it names is there" in capsys.readouterr().err
    command += ["--image-folder", str(root / "images")]
    assert main([*command, "--target", "even"]) == 2
    assert "has one class for each image, the model knows several classes" in capsys.readouterr().err
    assert main([*command, "--probe", "knn", "--fit", str(root / "train.csv")]) == 2
    assert "a probe is fitted on one class" in capsys.readouterr().err
    train = ["train", "--objective", "classification", "--data", str(root / "train.csv"), "data.image_column=name",
             f"data.image_folder={root / 'images'}", *SETTINGS, "train.sampling=balanced"]  # fmt: skip
    assert main([*train, "--target", "even,big"]) == 2
    assert "needs one class for every sample, and these have labels of kind multi" in capsys.readouterr().err
    assert main([*train, "--target", "even", "objective.class_weights=balanced"]) == 2
    assert "do the same twice" in capsys.readouterr().err
    assert main([*train, "--target", "odd"]) == 2
    assert "data.label_column='odd' is not a column with labels" in capsys.readouterr().err


def test_a_label_with_one_answer_has_no_area(tmp_path: Path) -> None:
    logits, truth = (
        np.array([[1.0, 2.0], [-1.0, 3.0], [0.5, -1.0]]),
        np.array([[1.0, 1], [0, 1], [0, np.nan]]),
    )
    figures, intervals = target_figures({}, logits, truth)
    first, second = write_answers(tmp_path, ("a", "b"), logits, truth, figures, intervals)
    assert first["roc_auc"] == 1.0 and first["precision"] == 0.5 and first["recall"] == 1.0
    assert second["roc_auc"] is None and second["known"] == 2 and second["f1"] == 1.0
