"""unitrans.load: files, folders and state dicts of every layout, told by their names and shapes."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import save_file

import unitrans
from unitrans import models
from unitrans.models.convert import export_weights
from unitrans.models.recognise import configured, recognise
from unitrans.models.resize import resize_bias_table
from unitrans.nn.bias import log_spaced_offsets
from unitrans.objectives import MaskedSignalModel, make_objective

SWIN: dict[str, Any] = {
    "image_size": 56,
    "embed_dim": 16,
    "depths": [2, 2],
    "num_heads": [2, 4],
    "num_labels": 5,
}
V2: dict[str, Any] = SWIN | {"image_size": 64, "window_size": 8, "pretrained_window_sizes": [6, 4]}
VIT: dict[str, Any] = {
    "image_size": 32,
    "patch_size": 8,
    "embed_dim": 16,
    "depth": 2,
    "num_heads": 2,
    "num_labels": 5,
}
BEIT = VIT | {"image_size": [32, 48], "relative_position": "per_layer", "ape": False, "key_bias": False}
BEIT |= {"layer_scale": 0.1, "pooling": "mean", "final_norm": "pooled"}
BERT: dict[str, Any] = {
    "vocab_size": 30,
    "embed_dim": 64,
    "depth": 2,
    "num_heads": 1,
    "max_position_embeddings": 20,
}
GRAPH: dict[str, Any] = {"embed_dim": 16, "depth": 2, "num_heads": 4, "num_outputs": 3}

TOLD: list[tuple[Callable[[], Any], str, dict[str, Any]]] = [
    (lambda: models.SwinForImageClassification(models.SwinConfig(**SWIN)), "official", {"image_size": 56}),
    (lambda: models.SwinForImageClassification(models.SwinConfig(**SWIN)), "timm", {"image_size": 56}),
    (lambda: models.SwinForImageClassification(models.SwinConfig(**SWIN)), "torchvision", {"image_size": 56}),
    (lambda: models.SwinForImageClassification(models.SwinConfig(**SWIN)), "hf4", {"image_size": 56}),
    (lambda: models.SwinForImageClassification(models.SwinConfig(**SWIN)), "hf5", {"image_size": 56}),
    (lambda: models.SwinBackbone(models.SwinConfig(**SWIN, out_indices=[1])), "official", {"image_size": 56}),
    (
        lambda: models.Swinv2ForImageClassification(models.Swinv2Config(**V2)),
        "timm",
        {"window_size": 8, "image_size": 64, "pretrained_window_sizes": [6, 4]},
    ),
    (lambda: models.VitForImageClassification(models.VitConfig(**VIT)), "timm", {"num_heads": 2}),
    (lambda: models.VitForImageClassification(models.VitConfig(**VIT)), "hf4", {"num_heads": 2}),
    (lambda: models.VitForImageClassification(models.VitConfig(**VIT)), "hf5", {"num_heads": 2}),
    (
        lambda: models.VitForImageClassification(models.VitConfig(**BEIT)),
        "official",
        {"image_size": [32, 48]},
    ),
    (lambda: models.BertForMaskedLM(models.BertConfig(**BERT)), "hf4", {"num_heads": 1}),
    (
        lambda: models.BertForTokenClassification(models.BertConfig(**BERT, num_labels=3)),
        "hf4",
        {"num_heads": 1},
    ),
    (lambda: models.Gpt2LMHeadModel(models.Gpt2Config(**BERT)), "hf4", {"num_heads": 1}),
    (lambda: models.Graphormer(models.GraphormerConfig(**GRAPH)), "v2", {}),
]


def randomised(model: Any) -> Any:
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn_like(parameter) * 0.2)
    return model.eval()


def same(model: Any, other: Any) -> None:
    assert type(model) is type(other)
    for (name, a), (theirs, b) in zip(model.named_parameters(), other.named_parameters(), strict=True):
        assert name == theirs and torch.equal(a, b), name


@pytest.mark.parametrize(("make", "layout", "needed"), TOLD)
def test_weights_say_what_they_are(make: Any, layout: str, needed: dict[str, Any], tmp_path: Path) -> None:
    """All but `needed` follows from names and shapes; what is not said is not guessed."""
    model = randomised(make())
    weights = {name: tensor.contiguous() for name, tensor in export_weights(model, layout).items()}
    save_file(weights, tmp_path / "weights.safetensors")
    loaded = unitrans.load(tmp_path / "weights.safetensors", **needed)
    same(model, loaded)
    assert not loaded.training
    for name in recognise(weights).untold:
        with pytest.raises(ValueError, match=f"do not tell {name}: give {name}="):
            unitrans.load(weights, **{key: value for key, value in needed.items() if key != name})


@pytest.mark.parametrize(
    ("layout", "block"), [("official", "layers.{}.blocks.0."), ("torchvision", "features.{}.0.")]
)
def test_windows_of_v2_by_its_tables_of_coordinates(layout: str, block: str) -> None:
    """Also windows that are no squares, and those of pretraining: 8 x 6 and 4, trained as 12 x 9 and as they are."""
    config = models.Swinv2Config(**V2 | {"window_size": [8, 6], "pretrained_window_sizes": [[12, 9], 0]})
    model = randomised(models.Swinv2ForImageClassification(config))
    weights = export_weights(model, layout)
    for stage, trained in enumerate([(12, 9), (8, 6)]):
        sides = [torch.arange(1 - size, size) * 8 / (t - 1) for size, t in zip((8, 6), trained, strict=True)]
        offsets = torch.stack(torch.meshgrid(*sides, indexing="ij"), -1)
        table = offsets.sign() * (1 + offsets.abs()).log2() / 3
        weights[
            block.format(2 * stage + 1 if layout == "torchvision" else stage) + "attn.relative_coords_table"
        ] = table[None]
    loaded = unitrans.load(weights, image_size=64)
    same(model, loaded)
    assert loaded.config.window_size == [8, 6]
    assert list(loaded.config.pretrained_window_sizes) == [[12, 9], 0]


def test_published_sizes_need_no_word() -> None:
    """Width, depths and window of Swin-T are those of the published 224 px. Shapes are enough."""
    with torch.device("meta"):
        model = models.SwinForImageClassification(models.SwinConfig(num_labels=2))
    for layout, rules in {"official": ("none", "min"), "timm": ("roll_then_pad", "per_axis")}.items():
        found = recognise(export_weights(model, layout))
        config, _ = configured(found, {}, "weights")
        assert not found.untold and (config.image_size, config.window_size) == (224, 7)
        assert (config.pad_mode, config.window_clamp) == rules


@pytest.mark.parametrize(
    "nest", [lambda w: w, lambda w: {"model": w, "epoch": 3}, lambda w: {"state_dict": w}]
)
def test_files_of_torch(nest: Any, tmp_path: Path) -> None:
    model = randomised(models.VitForImageClassification(models.VitConfig(**VIT)))
    weights = {"module." + name: tensor for name, tensor in export_weights(model, "timm").items()}
    torch.save(nest(weights), tmp_path / "vit.pth")
    same(model, unitrans.load(tmp_path / "vit.pth", num_heads=2))


class Secret:
    """What a checkpoint may carry beside tensors."""


def test_files_with_more_than_tensors_are_refused(tmp_path: Path) -> None:
    torch.save({"model": {}, "config": Secret()}, tmp_path / "odd.pth")
    with pytest.raises(
        ValueError, match=r"carries more than tensors.*strip it once: torch\.save\(torch\.load"
    ):
        unitrans.load(tmp_path / "odd.pth")
    torch.save({"weights": 3}, tmp_path / "none.pth")
    with pytest.raises(ValueError, match=r"expected a dict of tensors.*got keys weights"):
        unitrans.load(tmp_path / "none.pth")
    (tmp_path / "text.safetensors").write_text("hello")
    with pytest.raises(ValueError, match="it is no file of safetensors, or not wholly written"):
        unitrans.load(tmp_path / "text.safetensors")
    with pytest.raises(ValueError, match="expected weights of a BERT, RoBERTa.*Swin, Swin V2"):
        unitrans.load({"conv1.weight": torch.zeros(3)})
    with pytest.raises(ValueError, match="there is no such file or folder"):
        unitrans.load(tmp_path / "nothing" / "here")


def test_what_is_left_over_is_an_error_or_a_warning() -> None:
    model = models.VitForImageClassification(models.VitConfig(**VIT))
    weights = export_weights(model, "timm")
    weights["blocks.0.extra.weight"] = torch.zeros(2)
    del weights["norm.bias"]
    with pytest.raises(
        ValueError, match=r"(?s)missing: vit\.norm\.bias.*unexpected: blocks\.0\.extra\.weight"
    ):
        unitrans.load(weights, num_heads=2)
    with pytest.warns(UserWarning, match="weights that do not fit wholly"):
        unitrans.load(weights, num_heads=2, strict=False)


def test_other_sizes_and_classes() -> None:
    model = randomised(models.SwinForImageClassification(models.SwinConfig(**SWIN)))
    weights = export_weights(model, "official")
    wider = unitrans.load(weights, image_size=112, window_size=14)
    assert wider.config.stage_windows == ((14, 14), (14, 14))
    other = unitrans.load(weights, image_size=56, num_labels=7)
    assert other.head.weight.shape == (7, 32) and torch.equal(other.swin.norm.weight, model.swin.norm.weight)
    chosen = unitrans.load(weights, image_size=56, class_map=[4, 0])
    assert torch.equal(chosen.head.weight, model.head.weight[[4, 0]])


def test_names_of_the_code_base_are_understood() -> None:
    weights = export_weights(
        randomised(models.SwinForImageClassification(models.SwinConfig(**SWIN))), "official"
    )
    loaded = unitrans.load(weights, img_size=56, num_classes=5, drop_path_rate=0.3, use_checkpoint=True)
    assert loaded.config.image_size == 56 and loaded.config.drop_path_rate == 0.3
    with pytest.raises(
        ValueError, match="imgsize: expected an argument of the official swin, got an unknown one"
    ):
        unitrans.load(weights, imgsize=56, image_size=56)


def test_folders_of_transformers_and_of_ours(tmp_path: Path) -> None:
    small = {"embed_dim": 16, "depths": [1, 1], "num_heads": [1, 2], "window_size": 7, "image_size": 56}
    hf = transformers.SwinForImageClassification(transformers.SwinConfig(**small, num_labels=3)).eval()
    hf.save_pretrained(tmp_path / "hf")
    ours = unitrans.load(tmp_path / "hf")
    x = torch.rand(2, 3, 56, 56)
    torch.testing.assert_close(ours(x).logits, hf(x).logits, rtol=1e-4, atol=1e-5)
    ours.save_pretrained(tmp_path / "ours")
    same(ours, unitrans.load(tmp_path / "ours"))
    maps = ours.forward_features(x, out_indices=[-1])
    assert [tuple(m.shape) for m in maps] == [(2, 32, 7, 7)]


def test_a_run_with_another_image_size(tmp_path: Path) -> None:
    config = models.SwinConfig(**{k: v for k, v in SWIN.items() if k != "num_labels"})
    model = randomised(
        MaskedSignalModel.create(config, make_objective("mim", config, {"mask_patch_size": 8}))
    )
    model.save_pretrained(tmp_path / "run")
    same(model, unitrans.load(tmp_path / "run"))
    wider = unitrans.load(tmp_path / "run", image_size=112, window_size=14)
    assert wider.encoder.config.stage_windows[0] == (14, 14)
    assert [tuple(m.shape) for m in wider.forward_features(torch.rand(1, 3, 112, 112))] == [
        (1, 16, 28, 28),
        (1, 32, 14, 14),
    ]
    weights = export_weights(model, "official")
    again = unitrans.load(weights, image_size=56)
    same(model, again)
    assert again.objective.options.mask_patch_size == 8


SMALL_V2 = {"image_size": 64, "embed_dim": 16, "depths": [1, 1], "num_heads": [1, 2], "window_size": 4}


def v2_state(folder: Path) -> Any:
    """The published names, with the table of coordinates that tells the window."""
    model = randomised(models.Swinv2ForImageClassification(models.Swinv2Config(**SMALL_V2, num_labels=3)))
    weights = export_weights(model, "official")
    for stage in (0, 1):
        weights[f"layers.{stage}.blocks.0.attn.relative_coords_table"] = log_spaced_offsets(
            (4, 4), (0, 0)
        ).view(1, 7, 7, 2)
    return model, weights


def v2_own(folder: Path) -> Any:
    model = randomised(models.Swinv2ForImageClassification(models.Swinv2Config(**SMALL_V2, num_labels=3)))
    model.save_pretrained(folder / "own")
    return model, folder / "own"


def v2_hf(folder: Path) -> Any:
    hf = transformers.Swinv2ForImageClassification(transformers.Swinv2Config(**SMALL_V2, num_labels=3)).eval()
    hf.save_pretrained(folder / "hf")
    return unitrans.load(folder / "hf"), folder / "hf"


def v2_run(folder: Path) -> Any:
    config = models.Swinv2Config(**SMALL_V2)
    objective = make_objective("mim", config, {"mask_patch_size": 8})
    model = randomised(MaskedSignalModel.create(config, objective))
    model.save_pretrained(folder / "run")
    return model, folder / "run"


@pytest.mark.parametrize("make", [v2_state, v2_own, v2_hf, v2_run])
def test_position_biases_of_v2_stay_in_other_windows(make: Any, tmp_path: Path) -> None:
    """The network is evaluated for the new window, offsets measured by the old one: shared offsets have their bias."""
    model, place = make(tmp_path)
    wider = unitrans.load(place, image_size=128, window_size=8)
    old, new = (getattr(m, "swinv2", getattr(m, "encoder", getattr(m, "swin", None))) for m in (model, wider))
    assert new.config.stage_windows == ((8, 8), (8, 8)) and list(new.config.pretrained_window_sizes) == [4, 4]
    for stage in (0, 1):
        a, b = (m.layers[stage].blocks[0].attn.position_bias() for m in (old, new))
        a, b = a.view(-1, 4, 4, 4, 4), b.view(-1, 8, 8, 8, 8)
        torch.testing.assert_close(b[:, :4, :4, :4, :4], a)
        assert not torch.equal(b[:, 0, 0, 7], b[:, 0, 0, 3])
    given = unitrans.load(place, image_size=128, window_size=8, pretrained_window_sizes=[8, 8])
    encoder = getattr(given, "swinv2", getattr(given, "encoder", getattr(given, "swin", None)))
    assert list(encoder.config.pretrained_window_sizes) == [8, 8]


def test_folders_with_other_windows_and_classes(tmp_path: Path) -> None:
    model = randomised(models.SwinForImageClassification(models.SwinConfig(**SWIN)))
    model.save_pretrained(tmp_path / "own")
    small = {"embed_dim": 16, "depths": [1, 1], "num_heads": [1, 2], "window_size": 7, "image_size": 56}
    hf = transformers.SwinForImageClassification(transformers.SwinConfig(**small, num_labels=5))
    hf.save_pretrained(tmp_path / "hf")
    state = unitrans.load(export_weights(model, "official"), image_size=112, window_size=14)
    own = unitrans.load(tmp_path / "own", image_size=112, window_size=14)
    same(state, own)
    for folder in ("own", "hf"):
        whole = unitrans.load(tmp_path / folder)
        other = unitrans.load(tmp_path / folder, num_labels=7)
        assert other.head.weight.shape == (7, 32) and torch.equal(
            other.swin.norm.weight, whole.swin.norm.weight
        )
        chosen = unitrans.load(tmp_path / folder, class_map=[4, 0])
        assert torch.equal(chosen.head.weight, whole.head.weight[[4, 0]])
        table = "layers.0.blocks.0.attn.position_bias.relative_position_bias_table"
        wider = unitrans.load(tmp_path / folder, image_size=112, window_size=14).swin.get_parameter(table)
        torch.testing.assert_close(wider, resize_bias_table(whole.swin.get_parameter(table), 13, 27))
    with pytest.raises(
        ValueError, match="windowsize: expected a setting of unitrans-swin, got an unknown one"
    ):
        unitrans.load(tmp_path / "own", windowsize=3)


OURS = [
    (lambda: models.SwinForImageClassification(models.SwinConfig(**SWIN)), {}),
    (lambda: models.Swinv2Model(models.Swinv2Config(**SMALL_V2)), {"window_size": 4, "image_size": 64}),
    (lambda: models.VitForImageClassification(models.VitConfig(**VIT)), {"num_heads": 2}),
    (lambda: models.BertForMaskedLM(models.BertConfig(**BERT)), {"num_heads": 1}),
    (
        lambda: models.BertForTokenClassification(models.BertConfig(**BERT)),
        {"num_heads": 1, "pooling": "tokens"},
    ),
    (
        lambda: models.BertForSequenceClassification(models.BertConfig(**BERT)),
        {"num_heads": 1, "pooling": "mean"},
    ),
    (lambda: models.Gpt2LMHeadModel(models.Gpt2Config(**BERT)), {"num_heads": 1}),
    (lambda: models.Graphormer(models.GraphormerConfig(**GRAPH)), {}),
]


@pytest.mark.parametrize(("make", "needed"), OURS)
def test_state_dicts_of_our_own_models(make: Any, needed: dict[str, Any]) -> None:
    """Under our own names, alone and as other tools wrap them."""
    model = randomised(make())
    state = model.state_dict()
    for stored in (
        state,
        {"state_dict": state},
        {"module." + name: tensor for name, tensor in state.items()},
        {"_orig_mod.module." + name: tensor for name, tensor in state.items()},
        {"epoch": torch.zeros(()), "state_dict": {"model." + name: tensor for name, tensor in state.items()}},
    ):
        same(model, unitrans.load(stored, **needed))


def test_what_accelerate_saves(tmp_path: Path) -> None:
    accelerate = pytest.importorskip("accelerate")
    model = randomised(models.SwinForImageClassification(models.SwinConfig(**SWIN)))
    accelerate.Accelerator(cpu=True).save_model(model, tmp_path / "saved")
    torch.save(model.state_dict(), tmp_path / "swin.pth")
    for place in ("saved", "swin.pth"):
        same(model, unitrans.load(tmp_path / place))
    with torch.no_grad():
        x = torch.rand(1, 3, 56, 56)
        assert torch.equal(unitrans.load(tmp_path / "saved")(x).logits, model(x).logits)


def test_all_that_is_not_told_is_asked_for_at_once(tmp_path: Path) -> None:
    """With what is published for such shapes; the name of a published size tells it all."""
    with torch.device("meta"):
        tiny = export_weights(models.Swinv2Model(models.Swinv2Config()), "timm")
        base = export_weights(unitrans.create("swinv2_base_window12to16_192to256"), "timm")
        huge = export_weights(unitrans.create("vit_huge_patch14_224"), "timm")
    asked = r"window_size= \(.*published: 8 or 16\), image_size= \(.*published: 256\)"
    with pytest.raises(ValueError, match=f"do not tell window_size and image_size: give {asked}"):
        configured(recognise(tiny), {}, "weights")
    with pytest.raises(ValueError, match=r"do not tell image_size: give image_size= \(.*published: 256"):
        configured(recognise(tiny), {"window_size": 8}, "weights")
    for name in ("swinv2_tiny_window8_256.ms_in1k", "swinv2_tiny_patch4_window8_256.pth"):
        config, _ = configured(recognise(tiny), {}, str(tmp_path / name))
        assert (config.window_size, config.image_size, config.window_clamp) == (8, 256, "per_axis")
    with pytest.raises(
        ValueError, match="do not tell window_size and image_size and pretrained_window_sizes"
    ):
        configured(recognise(base), {}, "swinv2_tiny_window8_256.pth")  # whose shapes are others
    config, _ = configured(recognise(base), {}, "swinv2_base_window12to16_192to256.pth")
    assert list(config.trained_windows) == [(12, 12)] * 3 + [(6, 6)]
    assert configured(recognise(huge), {}, "weights")[0].num_heads == 16


def test_the_size_of_images_is_asked_for_where_it_decides() -> None:
    """Windows of 7 at 112 px: timm's are shifted otherwise than at 128, the official ones are the same at any size."""
    config = {
        "image_size": 112,
        "embed_dim": 8,
        "depths": [2, 2, 2, 2],
        "num_heads": [1, 1, 1, 1],
        "num_labels": 3,
    }
    timm = {"pad_mode": "roll_then_pad", "window_clamp": "per_axis"}
    x = torch.rand(1, 3, 112, 112, generator=torch.Generator().manual_seed(0))
    model = randomised(models.SwinForImageClassification(models.SwinConfig(**config, **timm)))
    weights = export_weights(model, "timm")
    with pytest.raises(ValueError, match="do not tell image_size: give .*: 100 to 112, or 116 to 128"):
        unitrans.load(weights)
    assert torch.equal(unitrans.load(weights, image_size=112)(x).logits, model(x).logits)
    model = randomised(models.SwinForImageClassification(models.SwinConfig(**config)))
    assert torch.equal(unitrans.load(export_weights(model, "official"))(x).logits, model(x).logits)


def test_other_channels(tmp_path: Path) -> None:
    """By our name and by those of the source: summed for one, repeated for more."""
    small = {"embed_dim": 16, "depths": [1, 1], "num_heads": [1, 2], "window_size": 7, "image_size": 56}
    hf = transformers.SwinForImageClassification(transformers.SwinConfig(**small, num_labels=3)).eval()
    hf.save_pretrained(tmp_path / "hf")
    ours = unitrans.load(tmp_path / "hf")
    ours.save_pretrained(tmp_path / "ours")
    weights, x = export_weights(ours, "official"), torch.rand(1, 1, 56, 56)
    for place, name in (("hf", "num_channels"), ("hf", "in_chans"), ("ours", "in_chans")):
        for channels in (1, 6):
            got = unitrans.load(tmp_path / place, **{name: channels})(x.expand(1, channels, -1, -1)).logits
            torch.testing.assert_close(got, ours(x.expand(1, 3, -1, -1)).logits, rtol=1e-4, atol=1e-5)
    assert unitrans.load(weights, in_chans=1).swin.patch_embed.proj.weight.shape == (16, 1, 4, 4)
    with pytest.raises(ValueError, match="num_chanels: expected a setting of swin, got an unknown one"):
        unitrans.load(tmp_path / "hf", num_chanels=1)


def test_weights_with_nan_are_named() -> None:
    weights = export_weights(models.VitForImageClassification(models.VitConfig(**VIT)), "timm")
    weights["head.bias"][0] = float("nan")
    with pytest.warns(UserWarning, match="hold NaN or infinite numbers in 1 tensors, such as head.bias"):
        unitrans.load(weights, num_heads=2)
