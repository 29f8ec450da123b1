"""eval, predict, embed and export on one small run with images; eval and embed on a table."""

import csv
import json
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
from PIL import Image
from pyarrow import parquet
from sklearn.datasets import load_digits
from sklearn.metrics import balanced_accuracy_score, roc_auc_score
from sklearn.neighbors import KNeighborsClassifier

import unitrans
from unitrans import models
from unitrans.cli import main
from unitrans.domains.vision import DataConfig
from unitrans.domains.vision.reading import read_image
from unitrans.domains.vision.source import ArrayReader, VisionSource
from unitrans.use import evaluate as evaluating
from unitrans.use.predict import Predictor

SWIN = (
    "model.name=swin", "model.embed_dim=16", "model.depths=[2,2]", "model.num_heads=[1,2]", "model.window_size=2",
    "model.patch_size=1", "train.use_cpu=true",
)  # fmt: skip


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Swin that has seen a few digits, in folders of classes; windows are shifted in both stages."""
    root = tmp_path_factory.mktemp("use")
    digits = load_digits()
    for part, rows in (("train", range(400)), ("test", range(400, 520))):
        for row in rows:
            folder = root / part / f"digit {digits.target[row]}"
            folder.mkdir(parents=True, exist_ok=True)
            Image.fromarray((digits.images[row] * 15).astype(np.uint8)).save(folder / f"{row}.png")
    settings = ["data.channels=1", "data.image_size=8", "data.crop_scale=null", "data.flip=false",
                "model.drop_path_rate=0", "train.max_steps=100", "train.per_device_train_batch_size=32",
                "train.learning_rate=1e-2", "train.save_steps=100", "train.eval_steps=50"]  # fmt: skip
    arguments = ["train", "--objective", "classification", "--data", str(root / "train"), *SWIN, *settings]
    assert main([*arguments, "--output", str(root / "run")]) == 0
    return root


def test_the_model_card_says_what_it_is(run: Path) -> None:
    card = (run / "run" / "checkpoints" / "best" / "README.md").read_text()
    for text in (
        "# swin on vision",
        "training samples",
        "| accuracy |",
        "labels (class): digit 0, digit 1",
        "embed_dim: 16",
    ):
        assert text in card
    assert f"unitrans {unitrans.__version__}" in card and "torch" in card


def test_eval(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["eval", "--checkpoint", str(run / "run"), "--data", str(run / "test")]
    assert main([*arguments, "--output", str(tmp_path / "one")]) == 0
    shown = capsys.readouterr().out
    result = json.loads((tmp_path / "one" / "eval.json").read_text())
    assert result["samples"] == 120 and result["figures"]["top1"] > 0.2 and "top1" in shown
    assert {path.name for path in (tmp_path / "one").iterdir()} == {
        "eval.json", "summary.txt", "classes.csv", "confusion.png"
    }  # fmt: skip
    assert main([*arguments, "--output", str(tmp_path / "two"), "--batch-size", "7"]) == 0
    again = json.loads((tmp_path / "two" / "eval.json").read_text())
    for name, value in result["figures"].items():
        assert again["figures"][name] == pytest.approx(value, abs=1e-6)
    assert main([*arguments, "--output", str(tmp_path / "two")]) == 2
    assert "is there already" in capsys.readouterr().err

    # The same from predictions row by row.
    assert (
        main(["predict", "--checkpoint", str(run / "run"), str(run / "test"), "-o", str(tmp_path / "p.csv")])
        == 0
    )
    rows = list(csv.DictReader((tmp_path / "p.csv").open()))
    truth = [Path(row["image"]).parent.name for row in rows]
    assert len(rows) == 120 and not any(row["error"] for row in rows)
    right = np.mean([row["class"] == name for row, name in zip(rows, truth, strict=True)])
    assert right == pytest.approx(result["figures"]["top1"])
    low, high = result["intervals"]["top1"]
    assert low < right < high
    classes = {row["class"]: row for row in csv.DictReader((tmp_path / "one" / "classes.csv").open())}
    zeros = [row["class"] == "digit 0" for row, name in zip(rows, truth, strict=True) if name == "digit 0"]
    assert float(classes["digit 0"]["recall"]) == pytest.approx(np.mean(zeros))


def test_figures_of_classes() -> None:
    rng = np.random.default_rng(0)
    logits, truth = rng.normal(size=(200, 7)), rng.integers(0, 6, 200)  # the last class has no sample
    logits[np.arange(200), truth] += 1.0
    figures, intervals = evaluating.ranked_figures(logits, truth)
    order = (-logits).argsort(1)
    assert figures["top1"] == pytest.approx((order[:, 0] == truth).mean())
    assert figures["top5"] == pytest.approx((order[:, :5] == truth[:, None]).any(1).mean())
    assert figures["balanced_accuracy"] == pytest.approx(balanced_accuracy_score(truth, logits.argmax(1)))
    low, high = intervals["balanced_accuracy"]
    assert low < figures["balanced_accuracy"] < high
    chances = torch.from_numpy(logits).softmax(1).numpy()
    areas = [roc_auc_score(truth == c, chances[:, c]) for c in range(6)]
    assert figures["roc_auc"] == pytest.approx(np.mean(areas))
    right, z = figures["top1"], 1.959964  # Wilson, 1927
    middle = (right + z**2 / 400) / (1 + z**2 / 200)
    half = z / (1 + z**2 / 200) * np.sqrt(right * (1 - right) / 200 + z**2 / (4 * 200**2))
    assert intervals["top1"] == pytest.approx((middle - half, middle + half), abs=1e-6)


def test_predict_names_what_it_cannot_read(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "broken.png").write_bytes(b"no image")
    good = next((run / "test").rglob("*.png"))
    (tmp_path / "files.csv").write_text(f"path,note\n{good},a\n{tmp_path / 'broken.png'},b\n,c\n")
    command = ["predict", "--checkpoint", str(run / "run")]
    assert main([*command, str(tmp_path / "files.csv"), "-o", str(tmp_path / "out.csv")]) == 1
    rows = list(csv.DictReader((tmp_path / "out.csv").open()))
    assert [bool(row["error"]) for row in rows] == [False, True, True] and [row["note"] for row in rows] == [
        "a",
        "b",
        "c",
    ]
    assert main([*command, str(tmp_path / "none.png")]) == 2
    assert "there is no such file" in capsys.readouterr().err
    assert (
        main(
            [
                "eval",
                "--checkpoint",
                str(run / "run"),
                "--data",
                str(tmp_path),
                "--output",
                str(tmp_path / "e"),
            ]
        )
        == 2
    )
    assert "can be read" in capsys.readouterr().err


def test_embed(run: Path, tmp_path: Path) -> None:
    command = ["embed", "--checkpoint", str(run / "run"), str(run / "test")]
    assert main([*command, "-o", str(tmp_path / "e.npy")]) == 0
    assert main([*command, "-o", str(tmp_path / "e.parquet"), "--batch-size", "11"]) == 0
    matrix, table = np.load(tmp_path / "e.npy"), parquet.read_table(tmp_path / "e.parquet").to_pydict()
    assert matrix.shape == (120, 32) and matrix.dtype == np.float32
    np.testing.assert_allclose(np.array(table["embedding"]), matrix, rtol=1e-4, atol=1e-5)
    assert table["error"] == [None] * 120
    assert main([*command, "-o", str(tmp_path / "e.csv")]) == 2


@pytest.mark.slow
def test_export(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The same labels on every test image, in one batch and one by one; the shifted windows are in it."""
    model = str(tmp_path / "model.onnx")
    assert main(["export", "--checkpoint", str(run / "run"), "--to", "onnx", "-o", model]) == 0
    assert "it differs from the model by at most" in capsys.readouterr().out
    about = json.loads((tmp_path / "model.json").read_text())
    files = sorted((run / "test").rglob("*.png"))
    images = np.stack([np.asarray(Image.open(file), dtype=np.float32)[None] / 255 for file in files])
    session = onnxruntime.InferenceSession(model)
    logits = session.run(["logits"], {"images": images})[0]
    assert (
        main(["predict", "--checkpoint", str(run / "run"), str(run / "test"), "-o", str(tmp_path / "p.csv")])
        == 0
    )
    predicted = {row["image"]: row["class"] for row in csv.DictReader((tmp_path / "p.csv").open())}
    assert [about["classes"][k] for k in logits.argmax(1)] == [predicted[str(file)] for file in files]
    one = session.run(["logits"], {"images": images[:1]})[0]
    np.testing.assert_allclose(one, logits[:1], rtol=1e-4, atol=1e-4)

    target = str(tmp_path / "encoder.pt2")
    assert (
        main(["export", "--checkpoint", str(run / "run"), "--to", "torch-export", "--encoder", "-o", target])
        == 0
    )
    program = torch.export.load(target).module()
    want = unitrans.load(run / "run").encoder
    mean, std = (
        torch.tensor(about["normalised_inside_by"][key]).view(1, -1, 1, 1) for key in ("mean", "std")
    )
    x = torch.from_numpy(images[:3])
    torch.testing.assert_close(program(x), want((x - mean) / std).pooler_output, rtol=1e-4, atol=1e-5)
    assert main(["export", "--checkpoint", str(run / "run"), "--to", "tflite", "-o", target + "x"]) == 2
    assert "--to tflite: expected one of onnx, torch-export" in capsys.readouterr().err


def test_probes(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The same vectors as embed writes, classified by scikit-learn's own nearest neighbours."""
    parts = {}
    for part in ("train", "test"):
        written = tmp_path / f"{part}.parquet"
        assert main(["embed", "--checkpoint", str(run / "run"), str(run / part), "-o", str(written)]) == 0
        table = parquet.read_table(written).to_pydict()
        parts[part] = np.array(table["embedding"]), [Path(name).parent.name for name in table["image"]]
    nearest = KNeighborsClassifier(20, metric="cosine", weights="distance").fit(*parts["train"])
    want = nearest.score(*parts["test"])
    command = [
        "eval",
        "--checkpoint",
        str(run / "run"),
        "--fit",
        str(run / "train"),
        "--data",
        str(run / "test"),
    ]
    assert main([*command, "--probe", "knn", "--output", str(tmp_path / "knn")]) == 0
    assert json.loads((tmp_path / "knn" / "eval.json").read_text())["figures"]["top1"] == pytest.approx(want)
    assert main([*command, "--probe", "linear", "--output", str(tmp_path / "linear")]) == 0
    assert json.loads((tmp_path / "linear" / "eval.json").read_text())["figures"]["top1"] > 0.25
    assert main([*command, "--probe", "forest", "--output", str(tmp_path / "x")]) == 2
    assert main([*command[:3], "--data", str(run / "test"), "--probe", "knn"]) == 2
    assert "--probe and --fit belong together" in capsys.readouterr().err


def test_only_the_head_is_trained(run: Path, tmp_path: Path) -> None:
    settings = ["data.channels=1", "data.image_size=8", "train.max_steps=3", "train.freeze=encoder",
                "model.drop_path_rate=0.5", "train.use_cpu=true"]  # fmt: skip
    arguments = [
        "train",
        "--objective",
        "classification",
        "--data",
        str(run / "train"),
        "--init",
        str(run / "run"),
    ]
    assert main([*arguments, *settings, "--output", str(tmp_path / "probe")]) == 0
    before, after = unitrans.load(run / "run"), unitrans.load(tmp_path / "probe" / "checkpoints" / "latest")
    for (name, a), b in zip(before.named_parameters(), after.parameters(), strict=True):
        assert torch.equal(a, b) == name.startswith("encoder."), name
    assert after.encoder.config.depths == [2, 2]  # from the weights, though the default is another model


def test_published_weights_as_they_are(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A folder that convert writes gives vectors, probes and, once its classes have names, predictions."""
    torch.manual_seed(0)
    config = models.SwinConfig(
        image_size=16, embed_dim=8, depths=[1, 1], num_heads=[1, 2], window_size=2, num_labels=10
    )
    model = models.SwinForImageClassification(config).eval()
    model.save_pretrained(tmp_path / "swin")
    (tmp_path / "swin" / "preprocessor_config.json").write_text(
        '{"image_mean": [0.5, 0.5, 0.5], "image_std": [0.5, 0.5, 0.5]}'
    )
    command = ["--checkpoint", str(tmp_path / "swin")]
    files = sorted((run / "test").rglob("*.png"))[:3]
    assert main(["embed", *command, *map(str, files), "-o", str(tmp_path / "e.npy")]) == 0
    shown = capsys.readouterr().err
    assert "images are read at 16 x 16 px, the middle 0.875 of the side, with mean [0.5, 0.5, 0.5]" in shown
    reading = DataConfig(image_size=16, eval_crop=0.875, mean=[0.5] * 3, std=[0.5] * 3)
    source = VisionSource(ArrayReader([], torch.zeros(0), 3, None), [], reading)
    source.set_normalization()
    images = [read_image(file, 3, "dtype") for file in files]
    x = torch.stack(
        [source.augment({"image": image}, np.random.default_rng(), False)["image"] for image in images]
    )
    with torch.no_grad():
        want = model.swin(x).pooler_output
    np.testing.assert_allclose(np.load(tmp_path / "e.npy"), want, rtol=1e-4, atol=1e-5)
    data = ["--data", str(run / "test"), "--output", str(tmp_path / "knn")]
    assert main(["eval", *command, "--probe", "knn", "--fit", str(run / "test"), *data]) == 0
    assert main(["eval", *command, "--data", str(run / "test")]) == 2
    assert "nothing names its 10 classes: expected --classes FILE with a line" in capsys.readouterr().err
    names, listed = [f"digit {number}" for number in (3, 1, 4, 0, 5, 9, 2, 6, 8, 7)], tmp_path / "classes.txt"
    listed.write_text("\n".join(names[:9]))
    assert main(["predict", *command, str(files[0]), "--classes", str(listed)]) == 2
    assert "expected 10 different names, got 9" in capsys.readouterr().err
    listed.write_text("\n".join(names))
    output = ["--output", str(tmp_path / "judged")]
    assert main(["eval", *command, "--data", str(run / "test"), "--classes", str(listed), *output]) == 0
    config = json.loads((tmp_path / "swin" / "config.json").read_text())
    told = {"id2label": dict(enumerate(names)), "label2id": {name: i for i, name in enumerate(names)}}
    (tmp_path / "swin" / "config.json").write_text(json.dumps(config | told))
    assert main(["predict", *command, *map(str, files), "-o", str(tmp_path / "p.csv")]) == 0
    with torch.no_grad():
        guesses = [names[number] for number in model(x).logits.argmax(1)]
    rows = list(csv.DictReader((tmp_path / "p.csv").open()))
    assert [row["class"] for row in rows] == guesses
    rows = list(csv.DictReader((tmp_path / "judged" / "classes.csv").open()))
    assert {row["class"]: int(row["samples"]) for row in rows} == {
        name: len(list((run / "test" / name).iterdir())) for name in names
    }


def test_another_test_resolution(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["eval", "--checkpoint", str(run / "run"), "--data", str(run / "test")]
    assert main([*command, "--image-size", "16", "--output", str(tmp_path / "e")]) == 0
    figures = json.loads((tmp_path / "e" / "eval.json").read_text())["figures"]
    predictor = Predictor(str(run / "run"), image_size=16)
    assert predictor.models[0].encoder.config.image_size == 16
    images, truth = [], []
    for sample, label in predictor.domain.labelled(
        str(run / "test"), predictor.reading, predictor.labels, None, None
    ):
        assert sample["image"].shape == (1, 16, 16)
        images.append(sample)
        truth.append(label)
    right = (predictor.outputs(images)[0].argmax(1) == np.array(truth)).mean()
    assert figures["top1"] == pytest.approx(right)
    assert main([*command[:3], "--data", str(run / "test"), "--image-size", "0"]) == 2
    assert "expected at least 1" in capsys.readouterr().err
