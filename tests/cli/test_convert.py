"""unitrans convert: what it writes opens with transformers and computes the same; what cannot be written is named."""

from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

import unitrans
from unitrans.cli import main
from unitrans.models import (
    BertConfig,
    BertForMaskedLM,
    Gpt2Config,
    Gpt2LMHeadModel,
    Graphormer,
    GraphormerConfig,
    SwinConfig,
    SwinForImageClassification,
    Swinv2Config,
    Swinv2ForImageClassification,
    VitConfig,
    VitForImageClassification,
)
from unitrans.models.convert import export_weights, load_weights
from unitrans.objectives import Labels, MaskedSignalModel, make_objective

SWIN = {"image_size": 64, "embed_dim": 16, "depths": [2, 2], "num_heads": [1, 2], "window_size": 8}
VIT = {"image_size": 32, "patch_size": 8, "embed_dim": 16, "depth": 2, "num_heads": 2}
CLASSES = Labels("class", ("cat", "dog", "fish"), (1, 1, 1))
BERT = {
    "vocab_size": 50,
    "embed_dim": 16,
    "depth": 2,
    "num_heads": 2,
    "mask_token_id": 4,
    "type_vocab_size": 0,
}


def saved(
    folder: Path, config: Any, objective: str, labels: Labels | None = None, **options: Any
) -> MaskedSignalModel:
    """A model with random weights in a folder."""
    torch.manual_seed(0)
    model = MaskedSignalModel.create(config, make_objective(objective, config, options, labels)).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.05)
    model.save_pretrained(folder)
    return model


@pytest.mark.parametrize(
    ("config", "theirs"),
    [
        (SwinConfig(**SWIN), "SwinForImageClassification"),
        (Swinv2Config(**SWIN), "Swinv2ForImageClassification"),
        (VitConfig(**VIT), "ViTForImageClassification"),
    ],
)
def test_image_classifiers(tmp_path: Path, config: Any, theirs: str) -> None:
    model = saved(tmp_path / "ours", config, "classification", CLASSES)
    assert main(["convert", str(tmp_path / "ours"), "--to", "hf", str(tmp_path / "hf")]) == 0
    hf = getattr(transformers, theirs).from_pretrained(tmp_path / "hf").eval()
    assert hf.config.id2label == {0: "cat", 1: "dog", 2: "fish"}
    images = torch.randn(2, 3, config.image_size, config.image_size)
    patches, plans = model.encoder.pack(images)
    want = model(patches=patches, plans=plans).prediction
    torch.testing.assert_close(hf(images).logits, want, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("kind", [SwinConfig, Swinv2Config])
def test_masked_image_models(tmp_path: Path, kind: Any) -> None:
    config = kind(**SWIN)
    model = saved(tmp_path / "ours", config, "mim", mask_patch_size=8)
    assert main(["convert", str(tmp_path / "ours"), "--to", "hf", str(tmp_path / "hf")]) == 0
    name = f"{'Swinv2' if kind is Swinv2Config else 'Swin'}ForMaskedImageModeling"
    hf = getattr(transformers, name).from_pretrained(tmp_path / "hf").eval()
    images, mask = torch.randn(2, 3, 64, 64), torch.rand(2, 256) < 0.6
    patches, plans = model.encoder.pack(images)
    output = model(patches=patches, plans=plans, mask=mask.flatten())
    want = hf(images, bool_masked_pos=mask).loss
    torch.testing.assert_close(output.loss_sum / output.num_targets, want, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("target", ["official", "timm"])
def test_files_of_other_layouts_read_back(tmp_path: Path, target: str) -> None:
    config = SwinConfig(**SWIN)
    saved(tmp_path / "ours", config, "classification", CLASSES)
    file = tmp_path / "swin.safetensors"
    arguments = ["convert", str(tmp_path / "ours"), "--to", target, str(file), "--encoder"]
    assert main(arguments) == 0
    fresh = MaskedSignalModel.create(config, make_objective("classification", config, {}, CLASSES)).encoder
    report = load_weights(fresh, load_file(file), target)
    stored = load_file(tmp_path / "ours" / "model.safetensors")
    assert not report.missing
    assert all(torch.equal(p, stored["encoder." + name]) for name, p in fresh.named_parameters())


def test_a_folder_of_transformers_becomes_ours(tmp_path: Path) -> None:
    small = {"vocab_size": 50, "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
    hf = transformers.BertForMaskedLM(transformers.BertConfig(**small, intermediate_size=32)).eval()
    hf.save_pretrained(tmp_path / "hf")
    assert main(["convert", str(tmp_path / "hf"), "--to", "unitrans", str(tmp_path / "ours")]) == 0
    ours = transformers.AutoModelForMaskedLM.from_pretrained(tmp_path / "ours").eval()
    ids = torch.randint(0, 50, (2, 7))
    torch.testing.assert_close(ours(ids).logits, hf(ids).logits, rtol=1e-4, atol=1e-5)


def test_models_without_segments_get_an_empty_table(tmp_path: Path) -> None:
    """The default model has no segments; theirs always have a table of them."""
    model = saved(tmp_path / "ours", BertConfig(**BERT), "mlm")
    assert main(["convert", str(tmp_path / "ours"), "--to", "hf", str(tmp_path / "hf")]) == 0
    hf = transformers.BertForMaskedLM.from_pretrained(tmp_path / "hf").eval()
    ids = torch.randint(5, 50, (9,))
    rows = model.encoder.features(ids, model.encoder.config.plans([9]))
    want = model.head.scores(rows, model.encoder.embeddings.word_embeddings.weight)
    torch.testing.assert_close(hf(ids[None]).logits[0], want, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("config", "objective", "flags", "message"),
    [
        (
            BertConfig(**BERT),
            "classification",
            ["--to", "hf"],
            "classifies by pooling=pooler, this model by mean",
        ),
        (
            VitConfig(**VIT, pooling="mean"),
            "classification",
            ["--to", "hf"],
            "pooling: models of transformers compute",
        ),
        (
            SwinConfig(**SWIN, patch_norm=False),
            "classification",
            ["--to", "hf"],
            "patch_norm: models of transformers",
        ),
        (BertConfig(**BERT), "mlm", ["--to", "timm"], "layout: for bert expected one of 'hf4', 'hf5'"),
        (
            BertConfig(**BERT),
            "mlm",
            ["--to", "onnx"],
            "--to onnx: expected one of unitrans, hf, mae, official, timm",
        ),
        (BertConfig(**BERT), "mlm", ["--to", "unitrans"], "is a model of this program already"),
    ],
)
def test_what_cannot_be_written_is_named(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    config: Any,
    objective: str,
    flags: list[str],
    message: str,
) -> None:
    saved(tmp_path / "ours", config, objective, CLASSES if objective == "classification" else None)
    assert main(["convert", str(tmp_path / "ours"), *flags, str(tmp_path / "out")]) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_wrong_places_are_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["convert", str(tmp_path / "none"), "--to", "hf", str(tmp_path / "x")]) == 2
    assert "there is no such file or folder" in capsys.readouterr().err
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").write_text("")
    assert main(["convert", str(tmp_path), "--to", "hf", str(tmp_path / "full")]) == 2
    assert "is there already" in capsys.readouterr().err


ROUNDS = [
    (
        lambda: SwinForImageClassification(SwinConfig(**SWIN, num_labels=3)),
        "official",
        "hf",
        {"image_size": 64},
    ),
    (
        lambda: SwinForImageClassification(SwinConfig(**SWIN, num_labels=3)),
        "timm",
        "official",
        {"image_size": 64},
    ),
    (
        lambda: Swinv2ForImageClassification(Swinv2Config(**SWIN, num_labels=3)),
        "official",
        "hf",
        {"image_size": 64, "window_size": 8},
    ),
    (
        lambda: Swinv2ForImageClassification(Swinv2Config(**SWIN, num_labels=3)),
        "timm",
        "official",
        {"image_size": 64, "window_size": 8},
    ),
    (lambda: VitForImageClassification(VitConfig(**VIT, num_labels=3)), "timm", "hf", {"num_heads": 2}),
    (lambda: VitForImageClassification(VitConfig(**VIT, num_labels=3)), "hf4", "timm", {"num_heads": 2}),
    (lambda: BertForMaskedLM(BertConfig(**BERT | {"type_vocab_size": 2})), "hf4", "hf", {"num_heads": 2}),
    (
        lambda: Gpt2LMHeadModel(Gpt2Config(vocab_size=50, embed_dim=16, depth=1, num_heads=2)),
        "hf4",
        "hf",
        {"num_heads": 2},
    ),
]


@pytest.mark.parametrize(("make", "first", "second", "told"), ROUNDS)
def test_round_trips_are_exact(
    tmp_path: Path, make: Any, first: str, second: str, told: dict[str, Any]
) -> None:
    """A file of one code base, our folder, a folder or file of another one, and ours again."""
    torch.manual_seed(0)
    model = make()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn_like(parameter))
    weights = {name: tensor.contiguous() for name, tensor in export_weights(model, first).items()}
    save_file(weights, tmp_path / "theirs.safetensors")
    settings = [f"{key}={value}" for key, value in told.items()]
    ours, other = str(tmp_path / "ours"), str(tmp_path / ("hf" if second == "hf" else "other.safetensors"))
    assert main(["convert", str(tmp_path / "theirs.safetensors"), ours, *settings]) == 0
    assert main(["convert", ours, other, "--to", second]) == 0
    again = unitrans.load(other, **({} if second == "hf" else told))
    assert type(again) is type(model)
    for (name, a), (key, b) in zip(model.named_parameters(), again.named_parameters(), strict=True):
        assert name == key and torch.equal(a, b), name


def test_graphormer_under_the_published_names(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = Graphormer(GraphormerConfig(embed_dim=16, depth=1, num_heads=2))
    model.save_pretrained(tmp_path / "ours")
    file = tmp_path / "graphormer.safetensors"
    assert main(["convert", str(tmp_path / "ours"), str(file), "--to", "v2"]) == 0
    written = load_file(file)
    assert "encoder.graph_encoder.layers.0.fc1.weight" in written
    again = unitrans.load(file)
    for (name, got), want in zip(again.named_parameters(), model.parameters(), strict=True):
        assert torch.equal(got, want), name
    assert main(["convert", str(tmp_path / "ours"), str(tmp_path / "x"), "--to", "timm"]) == 2
    assert "layout: for graphormer expected one of 'v2'" in capsys.readouterr().err
