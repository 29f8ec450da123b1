"""Starting from the weights of another run."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch

from unitrans.cli import main
from unitrans.errors import ConfigError
from unitrans.models import BertConfig, BertForMaskedLM
from unitrans.models.channels import average_channels, inflate_channels
from unitrans.models.convert import export_weights
from unitrans.models.swin import SwinConfig, SwinForImageClassification, SwinModel, Swinv2Config, Swinv2Model
from unitrans.objectives import MaskedSignalModel, get_objective, make_objective
from unitrans.objectives.base import Labels
from unitrans.training.init import init_weights, model_settings
from unitrans.training.loading import encoder_of

SIZES = {
    "image_size": 32,
    "patch_size": 4,
    "embed_dim": 8,
    "depths": [1, 1],
    "num_heads": [1, 2],
    "window_size": 4,
}


def make(seed: int = 0, **options: object) -> MaskedSignalModel:
    torch.manual_seed(seed)
    config = SwinConfig(**SIZES | options)
    return MaskedSignalModel.create(config, get_objective("mim")(config, mask_patch_size=8))


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    """A run folder with a best and a latest checkpoint of other weights."""
    for name, seed in (("best", 1), ("latest", 2)):
        make(seed).save_pretrained(tmp_path / "run" / "checkpoints" / name)
    return tmp_path / "run"


def test_the_same_model_takes_every_weight_of_the_best_checkpoint(saved: Path) -> None:
    for folder, seed in ((saved, 1), (saved / "checkpoints" / "latest", 2)):
        model = make()
        notes = init_weights(model, str(folder))
        assert all(
            torch.equal(a, b) for a, b in zip(model.parameters(), make(seed).parameters(), strict=True)
        )
        assert len(notes) == 1 and notes[0].startswith("weights of ")


@pytest.mark.parametrize("channels", [1, 2, 4, 6, 13])
def test_other_channels(saved: Path, channels: int) -> None:
    model, source = make(in_chans=channels), make(1)
    notes = init_weights(model, str(saved))
    assert any(f"adapted from 3 to {channels} channels" in note for note in notes)
    adapted = ("encoder.patch_embed.proj.weight", "head.decoder.weight", "head.decoder.bias")
    there = dict(source.named_parameters())
    for name, parameter in model.named_parameters():
        assert name in adapted or torch.equal(parameter, there[name]), name
    grey = torch.randn(1, 4, 4)
    new, old = (torch.einsum("ecij,cij->e", p.encoder.patch_embed.proj.weight, grey.expand(c, -1, -1))
                for p, c in ((model, channels), (source, 3)))  # fmt: skip
    if channels in (1, 6):  # equal channels: the same embedding
        torch.testing.assert_close(new, old)
    bias = model.head.decoder.bias.unflatten(0, (channels, -1))
    assert torch.equal(bias, source.head.decoder.bias.unflatten(0, (3, -1)).mean(0).expand_as(bias))


def test_channels_by_hand() -> None:
    weight = torch.tensor([1.0, 2.0, 3.0]).view(1, 3, 1, 1)
    assert inflate_channels(weight, 1).flatten().tolist() == [6]
    assert inflate_channels(weight, 4).flatten().tolist() == [0.75, 1.5, 2.25, 0.75]
    assert inflate_channels(weight[:, :1], 2).flatten().tolist() == [0.5, 0.5]
    assert average_channels(torch.tensor([1.0, 2, 3, 4]), 2, 3).tolist() == [2, 3, 2, 3, 2, 3]


def test_another_window_is_resized_and_said(saved: Path) -> None:
    model = make(window_size=2, drop_path_rate=0.3)
    notes = init_weights(model, str(saved))
    assert any("model.window_size is 4 there, 2 here" in note for note in notes)
    assert not any("drop_path_rate" in note for note in notes)
    assert sum("relative_position_bias_table resized from [49" in note for note in notes) == 2


def _cut(run: Path) -> None:
    file = run / "checkpoints" / "best" / "model.safetensors"
    file.write_bytes(file.read_bytes()[:50])


def _not_ours(run: Path) -> None:
    (run / "checkpoints" / "best" / "config.json").write_text('{"model_type": "swin"}')


def _empty(run: Path) -> None:
    for file in run.rglob("model.safetensors"):
        file.unlink()


@pytest.mark.parametrize(
    ("spoil", "options", "message"),
    [
        (
            None,
            {"embed_dim": 16},
            r"do not fit this model \(model.embed_dim is 8 there, 16 here\): \d+ tensors",
        ),
        (None, {"depths": [1, 2]}, r"model.depths is \[1, 1\] there, \[1, 2\] here"),
        (None, {"embed_dim": 16, "in_chans": 1}, "model.embed_dim is 8 there, 16 here"),
        (_cut, {}, "best/model.safetensors: it is no file of safetensors, or not wholly written"),
        (_not_ours, {}, "is not a checkpoint of this program"),
        (_empty, {}, "it holds no checkpoint: name a file of weights, .* a run folder"),
    ],
)
def test_what_cannot_be_taken(
    saved: Path, spoil: Callable[[Path], None] | None, options: dict[str, object], message: str
) -> None:
    if spoil:
        spoil(saved)
    model = make(**options)
    before = [p.clone() for p in model.parameters()]
    with pytest.raises(ConfigError, match=message):
        init_weights(model, str(saved))
    assert all(torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))


def test_init_on_the_command_line(saved: Path, workdir: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """A run on grey digits from colour weights; the run can be repeated and gone on with."""
    sizes = [
        "data.channels=1",
        "data.image_size=32",
        "model.patch_size=4",
        "model.embed_dim=8",
        "model.depths=[1,1]",
    ]
    sizes += ["model.num_heads=[1,2]", "model.window_size=4", "objective.mask_patch_size=8"]
    few = [
        "train.max_steps=2",
        "train.save_steps=1",
        "train.per_device_train_batch_size=2",
        "train.learning_rate=0",
        "train.min_learning_rate=0",
    ]
    assert (
        main(["train", "--init", str(saved), "--output", "grey", *sizes, *few, "train.warmup_steps=0"]) == 0
    )
    assert "adapted from 3 to 1 channels" in capfd.readouterr().out
    expected = make(1).encoder.patch_embed.proj.weight.sum(1, keepdim=True)
    weights = safetensors.torch.load_file(Path("grey/checkpoints/latest/model.safetensors"))
    torch.testing.assert_close(weights["encoder.patch_embed.proj.weight"], expected, rtol=0, atol=0)
    assert f"init: {saved}" in Path("grey/config.yaml").read_text()
    saved.rename(saved.with_name("gone"))
    assert main(["train", "--resume", "grey"]) == 0  # its own checkpoints are enough
    assert main(["train", "--init", str(saved), *sizes, *few]) == 2
    assert "there is no such file or folder" in capfd.readouterr().err
    assert main(["train", "--resume", "grey", "--init", "x"]) == 2


def test_classes_of_the_same_name_are_taken_over(tmp_path: Path) -> None:
    """Other classes, in another order: the rows of those that both have go where they belong."""

    def classifier(names: tuple[str, ...], seed: int) -> MaskedSignalModel:
        torch.manual_seed(seed)
        config = SwinConfig(**SIZES)
        return MaskedSignalModel.create(
            config, get_objective("classification")(config, Labels("class", names, (1,) * len(names)))
        )

    old = classifier(("ant", "bee", "cat"), 1)
    torch.nn.init.normal_(old.head.linear.bias)
    old.save_pretrained(tmp_path / "old")
    new = classifier(("cat", "dog", "ant", "eel"), 2)
    before = new.head.linear.weight.detach().clone()
    notes = init_weights(new, str(tmp_path / "old"))
    assert any("but for the 2 classes of both" in note for note in notes)
    for here, there in ((0, 2), (2, 0)):
        assert torch.equal(new.head.linear.weight[here], old.head.linear.weight[there])
        assert torch.equal(new.head.linear.bias[here], old.head.linear.bias[there])
    assert torch.equal(new.head.linear.weight[[1, 3]], before[[1, 3]])


def test_a_file_of_another_code_base(
    tmp_path: Path, workdir: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """The model follows from the file; what is not its kind is named."""
    config = SwinConfig(**SIZES, num_labels=3)
    torch.manual_seed(1)
    source = SwinForImageClassification(config)
    torch.save({"model": export_weights(source, "official")}, tmp_path / "swin.pth")
    model = make()
    notes = init_weights(model, str(tmp_path / "swin.pth"))
    assert notes[0].endswith("a swin under official names (embed_dim 8, depths [1, 1], window_size 4, num_heads "
                             "[1, 2], patch_size 4)")  # fmt: skip
    for (name, a), b in zip(model.encoder.named_parameters(), source.swin.parameters(), strict=True):
        assert torch.equal(a, b), name
    settings = ["data.image_size=32", "data.channels=3", "model.image_size=32", "train.max_steps=1",
                "objective.mask_patch_size=8", "train.use_cpu=true"]  # fmt: skip
    asked = ["train", "--data", "digits", "--init", str(tmp_path / "swin.pth"), *settings]
    assert main([*asked, "--output", "run"]) == 0
    assert "depths: [1, 1]" in (workdir / "run" / "config.yaml").read_text()
    other = Swinv2Config(**SIZES)
    torch.save(export_weights(Swinv2Model(other), "hf4"), tmp_path / "v2.pth")
    assert (
        main([*asked[:4], str(tmp_path / "v2.pth"), *settings, "model.window_size=4", "model.name=swin"]) == 2
    )
    assert "holds a swinv2 under hf4 names" in capfd.readouterr().err


@pytest.mark.parametrize("kind", ["classifier", "encoder", "mlm"])
def test_folders_that_convert_wrote(tmp_path: Path, kind: str) -> None:
    torch.manual_seed(0)
    if kind == "mlm":
        config: Any = BertConfig(vocab_size=20, embed_dim=8, depth=1, num_heads=2, mask_token_id=4)
        model: Any = BertForMaskedLM(config)
        objective = make_objective("mlm", config, {})
    else:
        config = SwinConfig(
            image_size=16, patch_size=2, embed_dim=8, depths=[1, 1], num_heads=[1, 2], window_size=4
        )
        model = SwinForImageClassification(config) if kind == "classifier" else SwinModel(config)
        objective = make_objective("mim", config, {"mask_patch_size": 4})
    model.save_pretrained(tmp_path / "ours")
    settings = model_settings(str(tmp_path / "ours"), {}, "vision")
    assert settings["name"] == ("bert" if kind == "mlm" else "swin") and settings["embed_dim"] == 8
    fresh = MaskedSignalModel.create(config, objective)
    notes = init_weights(fresh, str(tmp_path / "ours"))
    encoder = encoder_of(model).state_dict()
    assert encoder and all(torch.equal(encoder[name], p) for name, p in fresh.encoder.state_dict().items())
    assert any("the head starts afresh" in note for note in notes)
