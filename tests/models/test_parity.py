"""Swin V1, V2 and ViT against the installed transformers: outputs and every gradient, odd geometries included."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from torch import Tensor, nn

import unitrans
from unitrans.models import (
    SwinBackbone,
    SwinForImageClassification,
    SwinModel,
    Swinv2Backbone,
    Swinv2ForImageClassification,
    Swinv2Model,
    VitConfig,
    VitForImageClassification,
    VitModel,
)
from unitrans.models.convert import config_from, export_tensors, export_weights, load_weights
from unitrans.models.files import save_hf
from unitrans.nn import patchify
from unitrans.objectives import MaskedSignalModel, get_objective
from unitrans.use.convert import convert

SWIN = {"image_size": 32, "embed_dim": 16, "depths": [2, 2], "num_heads": [1, 2], "window_size": 4}
VIT = {
    "image_size": 32, "patch_size": 8, "hidden_size": 16, "num_hidden_layers": 3, "num_attention_heads": 2,
    "intermediate_size": 40, "qkv_bias": True,
}  # fmt: skip


def randomised(model: nn.Module) -> Any:
    """Every parameter at random: a fresh Swin V2 is the identity, a fresh norm has no bias."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.2)
            if "logit_scale" in name:  # one head in two above the clamp of ln 100 = 4.6
                parameter.copy_(torch.tensor([4.0, 5.0] * 2)[: len(parameter)].view(parameter.shape))
            elif "layernorm" in name and name.endswith("weight"):
                parameter.add_(1)
    return model.eval()


def converted(hf: Any, kind: Callable[..., Any], layout: str = "hf5", **changes: Any) -> Any:
    """Our model of theirs, by its configuration and weights."""
    config = hf.config.to_dict() | {"architectures": [type(hf).__name__]}
    model = kind(config_from(layout, config, **changes)).eval()
    report = load_weights(model, hf.state_dict(), layout)
    assert not report.resized
    return model


def compare(theirs: list[Tensor], ours: list[Tensor], hf: nn.Module, model: Any, layout: str = "hf5") -> None:
    """Outputs, and gradients of a random projection of them."""
    loss, their_loss = torch.zeros(()), torch.zeros(())
    for number, (want, got) in enumerate(zip(theirs, ours, strict=True)):
        got = got.reshape(want.shape)
        scale = want.abs().max().item()
        assert (got - want).abs().max().item() <= 2e-5 * scale, f"output {number}"
        weight = torch.randn(want.shape, generator=torch.Generator().manual_seed(number))
        loss, their_loss = loss + (got * weight).sum(), their_loss + (want * weight).sum()
    loss.backward()
    their_loss.backward()
    wanted = {name: p.grad for name, p in hf.named_parameters() if p.grad is not None}
    grads = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    exported = export_tensors(model, grads, layout)
    assert exported.keys() == wanted.keys()
    largest = max(grad.abs().max().item() for grad in wanted.values())
    for name, want in wanted.items():
        error, scale = (exported[name] - want).abs().max().item(), want.abs().max().item()
        assert error <= 1e-4 * scale + 2e-6 * largest, f"{name}: {error:.2e} of {scale:.2e}"


def images(*size: int) -> Tensor:
    return torch.randn(2, 3, *size, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("size", [(32, 32), (60, 44), (37, 50), (32, 64)])
@pytest.mark.parametrize("qkv_bias", [True, False])
def test_swin_pads_then_rolls(size: tuple[int, int], qkv_bias: bool) -> None:
    hf = randomised(transformers.SwinModel(transformers.SwinConfig(**SWIN, qkv_bias=qkv_bias)))
    model = converted(hf, SwinModel)
    x = images(*size)
    want, got = hf(x), model(x)
    compare(
        [want.last_hidden_state, want.pooler_output], [got.last_hidden_state, got.pooler_output], hf, model
    )


@pytest.mark.parametrize("size", [(32, 32), (60, 44), (37, 50), (20, 8)])
@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"window_size": 8, "pretrained_window_sizes": [6, 3]},
        {"qkv_bias": False, "window_size": 3},
        {"image_size": [32, 64], "window_size": 8},
        {"depths": [2, 2, 2], "num_heads": [1, 2, 4], "image_size": 16},  # the last window has a side of 1
    ],
)
def test_swinv2(size: tuple[int, int], changes: dict[str, Any]) -> None:
    hf = randomised(transformers.Swinv2Model(transformers.Swinv2Config(**(SWIN | changes))))
    model = converted(hf, Swinv2Model)
    x = images(*size)
    want, got = hf(x), model(x)
    compare(
        [want.last_hidden_state, want.pooler_output], [got.last_hidden_state, got.pooler_output], hf, model
    )


def test_logit_scale_above_the_clamp_has_no_gradient() -> None:
    hf = randomised(transformers.Swinv2Model(transformers.Swinv2Config(**SWIN)))
    model = converted(hf, Swinv2Model)
    model(images(32, 32)).pooler_output.square().sum().backward()
    grad = model.layers[1].blocks[1].attn.logit_scale.grad.flatten()
    assert grad[0] != 0 and grad[1] == 0


@pytest.mark.parametrize("size", [(32, 32), (16, 16), (44, 20)])
def test_backbone_of_swin(size: tuple[int, int]) -> None:
    """Maps smaller than the window too: their backbone pads and shifts them all the same."""
    names = ["stage1", "stage2", "stage3"]
    config = SWIN | {"depths": [2, 2, 2], "num_heads": [1, 2, 4]}
    hf = randomised(transformers.SwinBackbone(transformers.SwinConfig(**config, out_features=names)))
    model = converted(hf, SwinBackbone)
    assert model.config.window_clamp == "never" and model.stages == [0, 1, 2]
    x = images(*size)
    compare(list(hf(x).feature_maps), model(x), hf, model)


def test_feature_maps_of_swinv2() -> None:
    hf = randomised(
        transformers.Swinv2Backbone(transformers.Swinv2Config(**SWIN, out_features=["stage1", "stage2"]))
    )
    backbone = converted(hf, Swinv2Backbone)
    x = images(36, 52)
    compare(list(hf(x).feature_maps), backbone(x), hf, backbone)
    model = backbone.swin
    assert all(map(torch.equal, model.forward_features(x), backbone(x)))
    maps = model.forward_features(x, out_indices=(-1,))
    assert len(maps) == 1 and maps[0].shape == (2, 32, 5, 7)
    with pytest.raises(ValueError, match="out_indices: expected numbers of stages from -2 to 1"):
        model.forward_features(x, out_indices=(2,))


@pytest.mark.parametrize(("qkv_bias", "image_size"), [(True, 32), (False, 32), (True, [32, 48])])
def test_vit(qkv_bias: bool, image_size: Any) -> None:
    config = transformers.ViTConfig(**(VIT | {"qkv_bias": qkv_bias, "image_size": image_size}))
    hf = randomised(transformers.ViTModel(config, add_pooling_layer=False))
    model = converted(hf, VitModel)
    x = images(32, 32 if image_size == 32 else 48)
    compare([hf(x).last_hidden_state], [model(x).last_hidden_state], hf, model)
    assert len(model.forward_features(x)) == 3 and model.forward_features(x, [1])[0].shape[:2] == (2, 16)


CLASSIFIERS = [
    (transformers.SwinForImageClassification, transformers.SwinConfig, SWIN, SwinForImageClassification),
    (
        transformers.Swinv2ForImageClassification,
        transformers.Swinv2Config,
        SWIN,
        Swinv2ForImageClassification,
    ),
    (transformers.ViTForImageClassification, transformers.ViTConfig, VIT, VitForImageClassification),
]


@pytest.mark.parametrize(("hf_kind", "config", "fields", "kind"), CLASSIFIERS)
def test_classifiers(hf_kind: Any, config: Any, fields: dict[str, Any], kind: Any) -> None:
    hf = randomised(hf_kind(config(**fields, num_labels=5)))
    model = converted(hf, kind)
    x, labels = images(32, 32), torch.tensor([1, 4])
    want, got = hf(x, labels=labels), model(x, labels=labels)
    compare([want.logits, want.loss], [got.logits, got.loss], hf, model)


MASKED = [
    (transformers.SwinForMaskedImageModeling, transformers.SwinConfig, SWIN | {"encoder_stride": 8}),
    (transformers.Swinv2ForMaskedImageModeling, transformers.Swinv2Config, SWIN | {"encoder_stride": 8}),
    (transformers.ViTForMaskedImageModeling, transformers.ViTConfig, VIT | {"encoder_stride": 8}),
]


@pytest.mark.parametrize(("hf_kind", "config", "fields"), MASKED)
def test_masked_image_modelling(hf_kind: Any, config: Any, fields: dict[str, Any]) -> None:
    hf = randomised(hf_kind(config(**fields)))

    def build(encoder_config: Any) -> MaskedSignalModel:
        return MaskedSignalModel.create(
            encoder_config, get_objective("mim")(encoder_config, mask_patch_size=8)
        )

    model = converted(hf, build)
    x, p = images(32, 32), hf.config.patch_size
    mask = torch.rand(2, (32 // p) ** 2, generator=torch.Generator().manual_seed(1)) < 0.6
    patches, plans = model.encoder.pack(x)
    want, got = hf(x, bool_masked_pos=mask), model(patches=patches, plans=plans, mask=mask.flatten())
    rebuilt = patchify(want.reconstruction, p).flatten(0, 1)
    torch.testing.assert_close(got.prediction, rebuilt, rtol=1e-4, atol=1e-4)
    compare([want.loss], [got.loss_sum / got.num_targets], hf, model)


@pytest.mark.parametrize("layout", ["official", "timm", "hf4", "hf5"])
@pytest.mark.parametrize(("hf_kind", "config", "fields", "kind"), CLASSIFIERS[1:])
def test_weights_survive_a_round_trip(layout: str, hf_kind: Any, config: Any, fields: Any, kind: Any) -> None:
    hf = randomised(hf_kind(config(**fields, num_labels=5)))
    model = converted(hf, kind)
    other = kind(model.config)
    report = load_weights(other, export_weights(model, layout), layout)
    assert not report.resized and len(report.loaded) == len(list(model.parameters()))
    for (name, a), b in zip(model.named_parameters(), other.parameters(), strict=True):
        assert torch.equal(a, b), name


@pytest.mark.parametrize(("hf_kind", "config", "fields"), MASKED)
@pytest.mark.parametrize("layout", ["hf5", "hf4"])
def test_masked_models_go_back_to_transformers(hf_kind: Any, config: Any, fields: Any, layout: str) -> None:
    """Names and shapes are theirs: their own loader takes what is exported."""
    hf, other = randomised(hf_kind(config(**fields))), hf_kind(config(**fields))

    def build(encoder_config: Any) -> MaskedSignalModel:
        return MaskedSignalModel.create(
            encoder_config, get_objective("mim")(encoder_config, mask_patch_size=8)
        )

    model = converted(hf, build)
    weights = export_weights(model, layout)
    if layout == "hf5":
        other.load_state_dict(weights)
        for (name, a), b in zip(hf.named_parameters(), other.parameters(), strict=True):
            assert torch.equal(a, b), name
    else:
        again = build(model.encoder.config)
        assert not load_weights(again, weights, layout).resized


BEIT = VIT | {"use_mean_pooling": True, "layer_scale_init_value": 0.1}
BEITS = [
    {"use_relative_position_bias": True},
    {"use_shared_relative_position_bias": True, "use_mean_pooling": False},
    {"use_absolute_position_embeddings": True, "layer_scale_init_value": 0.0},
]


@pytest.mark.parametrize("options", BEITS)
def test_beit_is_theirs(options: dict[str, Any], tmp_path: Path) -> None:
    """Encoder and classifier by configuration and weights, by their folder, and back into theirs."""
    config = transformers.BeitConfig(**BEIT | options, num_labels=5)
    hf, x = randomised(transformers.BeitForImageClassification(config)), images(32, 32)
    model, bare = converted(hf, VitForImageClassification), converted(hf.beit, VitModel)
    want, got = hf.beit(x), bare(x)
    compare([want.last_hidden_state, want.pooler_output], list(got.values()), hf.beit, bare)
    hf.zero_grad()
    compare([hf(x).logits], [model(x).logits], hf, model)
    hf.save_pretrained(tmp_path / "theirs")  # under the names of transformers 4
    loaded = unitrans.load(tmp_path / "theirs")
    assert torch.equal(loaded(x).logits, model(x).logits)
    save_hf(tmp_path / "ours", loaded, loaded.config, "BeitForImageClassification", num_labels=5)
    again, info = transformers.BeitForImageClassification.from_pretrained(
        tmp_path / "ours", output_loading_info=True
    )
    assert not info["missing_keys"] and not info["unexpected_keys"]
    for (name, a), b in zip(hf.named_parameters(), again.parameters(), strict=True):
        assert torch.equal(a, b), name
    for layout in ("hf4", "hf5"):
        told = unitrans.load(export_weights(model, layout), num_heads=2)
        assert torch.equal(told(x).logits, model(x).logits)


def test_beit_for_masked_images_is_theirs(tmp_path: Path) -> None:
    """Scores of all tokens where patches are hidden, their folder, and `convert --to hf` of what was read."""
    config = transformers.BeitConfig(
        **BEIT, use_shared_relative_position_bias=True, use_mask_token=True, vocab_size=11
    )
    hf, x = randomised(transformers.BeitForMaskedImageModeling(config)), images(32, 32)
    hf.save_pretrained(tmp_path / "theirs")
    model = unitrans.load(tmp_path / "theirs", min_block=4)
    mask = torch.rand(2, 16, generator=torch.Generator().manual_seed(1)) < 0.4
    patches, plans = model.encoder.pack(x)
    rows = torch.where(mask.flatten()[:, None], model.head.mask_token, model.encoder.embed(patches))
    scores = model.head.classifier(model.encoder.token_rows(model.encoder.encode(rows, plans), plans))
    compare([hf(x, bool_masked_pos=mask).logits], [scores], hf, model)
    convert(str(tmp_path / "theirs"), "unitrans", tmp_path / "run", overrides={"min_block": 4})
    convert(str(tmp_path / "run"), "hf", tmp_path / "back")
    again, info = transformers.BeitForMaskedImageModeling.from_pretrained(
        tmp_path / "back", output_loading_info=True
    )
    assert not info["missing_keys"] and not info["unexpected_keys"]
    for (name, a), b in zip(hf.named_parameters(), again.parameters(), strict=True):
        assert torch.equal(a, b), name
    twice = hf.state_dict() | {
        "beit.layernorm.weight": torch.ones(16),
        "beit.layernorm.bias": torch.zeros(16),
    }
    with pytest.raises(ValueError, match="encoder.norm.weight has been filled by another one"):
        unitrans.load(twice, min_block=4)


def test_files_of_the_hub_have_the_names_of_transformers_4(golden_names: dict[str, str]) -> None:
    hf = randomised(transformers.SwinForImageClassification(transformers.SwinConfig(**SWIN, num_labels=5)))
    model = converted(hf, SwinForImageClassification)
    new, old = export_weights(model, "hf5"), export_weights(model, "hf4")
    for name, want in golden_names.items():
        assert name in new and torch.equal(new[name], old[want]), name


@pytest.fixture
def golden_names() -> dict[str, str]:
    """Names in transformers 5 -> names in 4, of one block."""
    block = "swin.encoder.layers.1.blocks.0."
    return {
        block + "attention.q_proj.weight": block + "attention.self.query.weight",
        block + "attention.k_proj.bias": block + "attention.self.key.bias",
        block + "attention.o_proj.weight": block + "attention.output.dense.weight",
        block + "attention.relative_position_bias.relative_position_bias_table": block
        + "attention.self.relative_position_bias_table",
        block + "mlp.fc1.weight": block + "intermediate.dense.weight",
        block + "mlp.fc2.bias": block + "output.dense.bias",
        block + "layernorm_before.weight": block + "layernorm_before.weight",
        "classifier.weight": "classifier.weight",
    }


@pytest.mark.parametrize(
    ("source", "theirs", "family", "expected"),
    [
        ("timm", {"window_size": 7}, "swin", {"pad_mode": "roll_then_pad", "window_clamp": "per_axis"}),
        ("timm", {"always_partition": True}, "swinv2", {"window_clamp": "never", "image_size": 224}),
        ("official", {"img_size": 192}, "swin", {"pad_mode": "none", "window_clamp": "min", "image_size": 192}),
        ("hf4", {"model_type": "swin"}, None, {"pad_mode": "pad_then_roll", "window_clamp": "min"}),
        ("hf5", {"model_type": "swinv2"}, None, {"pad_mode": "pad_then_roll", "window_clamp": "per_axis_floor"}),
        ("timm", {"img_size": (62, 44), "head_dim": 32}, "swin", {"image_size": [60, 44]}),
        ("official", {"depth": 6}, None, {"qkv_bias": False, "layer_norm_eps": 1e-5, "relative_position": "none"}),
        ("official", {"depth": 6, "norm_eps": 1e-6, "qkv_bias": True}, None,
         {"qkv_bias": True, "layer_norm_eps": 1e-6}),
        ("official", {"pretrain_img_size": 224, "out_indices": (1, 3), "frozen_stages": -1}, None,
         {"pad_mode": "pad_then_roll", "window_clamp": "never", "out_indices": [1, 3], "image_size": 224}),
        ("timm", {"depth": 6, "global_pool": "avg"}, None, {"pooling": "mean", "final_norm": "pooled"}),
        ("official", {"use_shared_rel_pos_bias": True, "use_mean_pooling": False}, "vit",
         {"relative_position": "shared", "final_norm": "rows", "key_bias": False}),
    ],
)  # fmt: skip
def test_switches_of_a_code_base(source: str, theirs: Any, family: Any, expected: dict[str, Any]) -> None:
    config = config_from(source, theirs, family)
    assert {name: getattr(config, name) for name in expected} == expected


@pytest.mark.parametrize(
    ("source", "theirs", "message"),
    [
        ("keras", {}, "source: expected one of"),
        ("hf5", {"model_type": "resnet"}, "family: expected one of"),
        ("timm", {"windows": 7}, "windows: expected an argument of the timm swin"),
        ("hf5", {"model_type": "vit", "hidden_act": "relu"}, "hidden_act: expected 'gelu', got 'relu'"),
        ("timm", {"depth": 2, "global_pool": "max"}, "global_pool: expected one of .token., .avg., .map."),
        (
            "timm",
            {"head_dim": 16},
            r"head_dim: expected none, as ours is the width over num_heads \(\[32, 32, 32",
        ),
        ("official", {"depth": 2, "use_rel_pos_bias": True, "use_shared_rel_pos_bias": True}, "got both"),
        (
            "hf5",
            {
                "model_type": "beit",
                "use_relative_position_bias": True,
                "use_shared_relative_position_bias": True,
            },
            "got both",
        ),
        (
            "hf5",
            {"model_type": "beit", "use_relative_position_bias": True, "image_size": [32, 48]},
            "image_size: transformers resizes BEiT's tables",
        ),
        (
            "hf5",
            {
                "model_type": "beit",
                "architectures": ["BeitForMaskedImageModeling"],
                "use_mean_pooling": False,
            },
            "use_mean_pooling: expected true",
        ),
    ],
)
def test_what_cannot_be_converted_is_named(source: str, theirs: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        config_from(source, theirs)


def test_simmim_vit_runs_and_has_official_names() -> None:
    config = VitConfig(
        image_size=32, patch_size=8, embed_dim=16, depth=2, num_heads=2, ape=False, key_bias=False,
        relative_position="shared", layer_scale=0.1,
    )  # fmt: skip
    model = MaskedSignalModel.create(config, get_objective("mim")(config, mask_patch_size=8))
    names = export_weights(model, "official")
    assert names["encoder.rel_pos_bias.relative_position_bias_table"].shape == (52, 2)
    assert names["encoder.mask_token"].shape == (1, 1, 16) and names["decoder.0.weight"].shape == (
        192,
        16,
        1,
        1,
    )
    assert {"encoder.cls_token", "encoder.blocks.1.gamma_2", "encoder.blocks.0.attn.q_bias"} <= names.keys()
    patches, plans = model.encoder.pack(images(32, 32))
    mask = torch.arange(32) % 2 == 0
    out = model(patches=patches, plans=plans, mask=mask)
    out.loss_sum.backward()
    unused = [name for name, p in model.named_parameters() if p.grad is None]
    assert unused == [] and out.prediction.shape == patches.shape
