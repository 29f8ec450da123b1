"""What convert and export write is opened again and compared; what says something else is refused and does not stay."""

import errno
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from PIL import Image

import unitrans
from unitrans.cli import main
from unitrans.domains.text.tokenizer import train_tokenizer
from unitrans.models import BertConfig, SwinConfig, Swinv2Config, VitConfig
from unitrans.objectives import Labels, MaskedSignalModel, make_objective
from unitrans.use import compare
from unitrans.use.export import _onnx
from unitrans.use.predict import Predictor

SIZES: dict[str, Any] = {"image_size": 64, "embed_dim": 16, "depths": [2, 2], "num_heads": [1, 2]}
VIT: dict[str, Any] = {"image_size": 32, "patch_size": 8, "embed_dim": 16, "depth": 2, "num_heads": 2}
CLASSES = Labels("class", ("cat", "dog", "fish"), (1, 1, 1))
READING = {
    "domain": "vision",
    "image_size": 64,
    "channels": 3,
    "value_range": "dtype",
    "eval_crop": 1.0,
    "eval_fit": "crop",
    "mean": [0.2, 0.4, 0.6],
    "std": [0.3, 0.2, 0.1],
}


def saved(
    folder: Path,
    config: Any,
    objective: str = "classification",
    labels: Labels | None = CLASSES,
    reading: dict[str, Any] | None = None,
) -> MaskedSignalModel:
    """A checkpoint with random weights."""
    torch.manual_seed(0)
    model = MaskedSignalModel.create(config, make_objective(objective, config, {}, labels), reading).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.05)
    model.save_pretrained(folder)
    return model


def logits(model: MaskedSignalModel, images: torch.Tensor) -> torch.Tensor:
    patches, plans = model.encoder.pack(images)
    return model(patches=patches, plans=plans).prediction


@pytest.mark.parametrize(
    ("config", "head", "told"),
    [
        (SwinConfig(**SIZES, window_size=8), "head.fc", {"image_size": 64}),
        (SwinConfig(**SIZES, window_size=16), "head.fc", {"image_size": 64, "window_size": 16}),
        (Swinv2Config(**SIZES, window_size=8), "head.fc", {"image_size": 64, "window_size": 8}),
        (VitConfig(**VIT), "head", {"num_heads": 2}),
        (VitConfig(**VIT, pooling="mean", final_norm="pooled"), "head", {"num_heads": 2}),
    ],
)
def test_a_fine_tuned_classifier_is_one_of_timm(
    tmp_path: Path, config: Any, head: str, told: dict[str, Any]
) -> None:
    model = saved(tmp_path / "ours", config)
    file = tmp_path / "new" / "theirs.pth"
    assert main(["convert", str(tmp_path / "ours"), str(file), "--to", "timm"]) == 0
    weights = torch.load(file, weights_only=True)
    assert {name for name in weights if name.startswith("head")} == {f"{head}.weight", f"{head}.bias"}
    images = torch.randn(2, 3, config.image_size, config.image_size)
    torch.testing.assert_close(unitrans.load(file, **told)(images).logits, logits(model, images))


def test_timm_itself_opens_it(tmp_path: Path) -> None:
    timm = pytest.importorskip("timm", reason="timm is not installed")
    model = saved(tmp_path / "ours", SwinConfig(**SIZES, window_size=8))
    assert main(["convert", str(tmp_path / "ours"), str(tmp_path / "theirs.pth"), "--to", "timm"]) == 0
    theirs = timm.models.swin_transformer.SwinTransformer(
        img_size=64, embed_dim=16, depths=(2, 2), num_heads=(1, 2), window_size=8, num_classes=3
    ).eval()
    theirs.load_state_dict(torch.load(tmp_path / "theirs.pth", weights_only=True))
    images = torch.randn(2, 3, 64, 64)
    torch.testing.assert_close(theirs(images), logits(model, images), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("config", "target", "reason"),
    [
        (SwinConfig(**SIZES | {"image_size": 128}, window_size=7), "timm", "pad_mode is none here and roll_then_pad"),
        (VitConfig(**VIT, pooling="mean"), "timm", "pooling is mean here and cls in timm"),
        (SwinConfig(**SIZES, window_size=16), "hf", "is [225, 2] here and [961, 2] in its SwinForImageClassification"),
    ],
)  # fmt: skip
def test_what_another_code_base_computes_otherwise_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], config: Any, target: str, reason: str
) -> None:
    saved(tmp_path / "ours", config)
    output = tmp_path / "new" / ("theirs" if target == "hf" else "theirs.safetensors")
    assert main(["convert", str(tmp_path / "ours"), str(output), "--to", target]) == 2
    said = capsys.readouterr()
    assert reason in said.err and "nothing is kept" in said.err and "wrote" not in said.out
    assert [path.name for path in tmp_path.iterdir()] == ["ours"]


def test_the_ending_says_what_a_file_is(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = saved(tmp_path / "ours", SwinConfig(**SIZES, window_size=8), "mim", None)
    for ending in (".pth", ".safetensors"):
        file = tmp_path / f"theirs{ending}"
        assert main(["convert", str(tmp_path / "ours"), str(file), "--to", "official"]) == 0
        again = unitrans.load(file, image_size=64)
        assert all(map(torch.equal, again.parameters(), model.parameters()))
    weights = torch.load(tmp_path / "theirs.pth", weights_only=True)[
        "model"
    ]  # as the published files have them
    assert "encoder.mask_token" in weights
    assert main(["convert", str(tmp_path / "ours"), str(tmp_path / "x.onnx"), "--to", "official"]) == 2
    assert ".safetensors, .pth, .pt, .bin, .ckpt, got .onnx" in capsys.readouterr().err
    assert not (tmp_path / "x.onnx").exists()


@pytest.mark.parametrize("target", ["unitrans", "hf", "official", "timm"])
def test_a_full_disk_leaves_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, target: str
) -> None:
    source = tmp_path / "ours"
    saved(source, SwinConfig(**SIZES, window_size=8))
    if target == "unitrans":
        assert main(["convert", str(source), str(tmp_path / "hf"), "--to", "hf"]) == 0
        source = tmp_path / "hf"
    before = sorted(tmp_path.iterdir())

    def full(*args: Any, **kwargs: Any) -> None:
        Path(args[1]).write_bytes(b"a part")
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("safetensors.torch.save_file", full)
    monkeypatch.setattr("transformers.modeling_utils.safe_save_file", full)
    monkeypatch.setattr("torch.save", lambda what, place: full(what, place))
    output = tmp_path / ("new" if target in ("unitrans", "hf") else "new.pth")
    assert main(["convert", str(source), str(output), "--to", target]) == 2
    said = capsys.readouterr().err
    assert f"{output} cannot be written" in said and "No space left" in said and "Traceback" not in said
    assert sorted(tmp_path.iterdir()) == before


def picture(file: Path, height: int, width: int) -> Path:
    small = np.random.default_rng(0).integers(0, 255, (6, 6, 3), np.uint8)
    Image.fromarray(small).resize((width, height), Image.Resampling.BICUBIC).save(file)
    return file


@pytest.mark.parametrize(
    ("reading", "size"), [({}, (64, 64)), ({"eval_crop": 0.8}, (80, 80)), ({"eval_fit": "stretch"}, (64, 96))]
)
def test_the_pipeline_of_transformers_gives_our_logits_on_a_file(
    tmp_path: Path, reading: dict[str, Any], size: tuple[int, int]
) -> None:
    told = READING | reading
    saved(tmp_path / "ours", SwinConfig(**SIZES, window_size=8), reading=told)
    assert main(["convert", str(tmp_path / "ours"), str(tmp_path / "hf"), "--to", "hf"]) == 0
    file = picture(tmp_path / "a.png", *size)
    pipeline = transformers.pipeline("image-classification", str(tmp_path / "hf"), function_to_apply="none")
    theirs = {one["label"]: one["score"] for one in pipeline(str(file))}
    for folder in ("ours", "hf"):  # by the run, and by the folder as published weights
        ours = Predictor(str(tmp_path / folder))
        sample = ours.domain.record_reader(["image"], ours.reading, None)({"image": str(file)})
        got = dict(zip(ours.labels.names, ours.outputs([sample | {"id": "a"}])[0, 0].tolist(), strict=True))
        assert got == pytest.approx(theirs, abs=2e-3), folder
    assert ours.reading["mean"] == told["mean"] and ours.reading["eval_crop"] == told["eval_crop"]


TEXTS = ["a red cat sat", "the dog ran far away", "a fish swims and swims"]


@pytest.mark.parametrize("kind", ["class", "multi", "value"])
def test_the_text_pipeline_of_transformers_gives_our_answers(tmp_path: Path, kind: Any) -> None:
    tokenizer = train_tokenizer(TEXTS * 3, "wordpiece", 60, True, 16)
    config = BertConfig(
        vocab_size=len(tokenizer), embed_dim=16, depth=1, num_heads=2, type_vocab_size=0, pooling="pooler",
        max_position_embeddings=16, mask_token_id=tokenizer.mask_token_id,
    )  # fmt: skip
    labels = (
        Labels(kind, ("cat",), mean=(50.0,), std=(20.0,)) if kind == "value" else Labels(kind, CLASSES.names)
    )
    reading = {"domain": "text", "max_length": 16, "tokenizer": "."}
    model = saved(
        tmp_path / "ours", config, "regression" if kind == "value" else "classification", labels, reading
    )
    tokenizer.save(tmp_path / "ours")
    assert main(["convert", str(tmp_path / "ours"), str(tmp_path / "hf"), "--to", "hf"]) == 0
    pipeline = transformers.pipeline("text-classification", str(tmp_path / "hf"), top_k=None)
    ids = torch.tensor(tokenizer._plain(TEXTS[1], True))
    rows = model(input_ids=ids, plans=config.plans([len(ids)])).prediction[0]
    want = {"class": rows.softmax(0), "multi": rows.sigmoid(), "value": rows * 20 + 50}[kind]
    got = {one["label"]: one["score"] for one in pipeline([TEXTS[1]])[0]}
    assert got == pytest.approx(dict(zip(labels.names, want.tolist(), strict=True)), abs=1e-4)


def test_what_transformers_cannot_say_about_images_is_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    reading = READING | {"channels": 1, "mean": [0.5], "std": [0.2], "value_range": "percentile"}
    saved(tmp_path / "ours", SwinConfig(**SIZES, window_size=8, in_chans=1), reading=reading)
    assert main(["convert", str(tmp_path / "ours"), str(tmp_path / "hf"), "--to", "hf"]) == 0
    said = capsys.readouterr().out
    assert "data.value_range=percentile is not known there" in said and "the model takes 1" in said
    assert json.loads((tmp_path / "hf" / "preprocessor_config.json").read_text())["image_mean"] == [0.5]


def test_rounding_is_no_difference() -> None:
    """What differs in fp32 alone is computed in fp64 before anything is refused."""
    torch.manual_seed(0)
    config = VitConfig(**VIT)
    model = MaskedSignalModel.create(config, make_objective("classification", config, {}, CLASSES)).eval()
    given = compare.random_input(model)
    want = compare.said(model, given)
    assert want.shape == (2, 3) and want.dtype == torch.float32
    calls = []

    def noisy(self: Any, inputs: Any) -> torch.Tensor:
        calls.append(next(self.parameters()).dtype)
        return want * (1 + 0.01 * len(calls)) if calls[-1] == torch.float32 else want

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(compare, "said", noisy)
        compare.check_same("x", model, given, lambda: model)
    assert calls == [torch.float32] * 2 + [torch.float64] * 2


class Flat(torch.nn.Module):
    """Says nothing about any image."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return images.flatten(1)[:, :3] * 0


def test_an_export_that_differs_leaves_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    saved(tmp_path / "ours", VitConfig(**VIT))

    def write(target: str, place: Path, wrapped: Any, example: torch.Tensor, result: str) -> None:
        dynamic = {"images": {0: torch.export.Dim.DYNAMIC}}
        torch.export.save(torch.export.export(Flat(), (example,), dynamic_shapes=dynamic), place)

    monkeypatch.setattr("unitrans.use.export._write", write)
    output = str(tmp_path / "new" / "model.pt2")
    assert main(["export", "--checkpoint", str(tmp_path / "ours"), "--to", "torch-export", "-o", output]) == 2
    assert "so nothing is kept" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["ours"]


def test_onnx_itself_runs_a_file_where_onnxruntime_is_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    onnx = pytest.importorskip("onnx", reason="onnx is not installed")
    value = [onnx.helper.make_tensor_value_info(name, 1, [None, 3]) for name in ("images", "logits")]
    node = onnx.helper.make_node("Neg", ["images"], ["logits"])
    onnx.save(
        onnx.helper.make_model(onnx.helper.make_graph([node], "g", value[:1], value[1:])), tmp_path / "m.onnx"
    )
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    images = np.ones((2, 3), np.float32)
    assert (_onnx(tmp_path / "m.onnx")({"images": images})[0] == -images).all()
