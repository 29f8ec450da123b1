"""Names and tables of other code bases that are not installed here."""

from typing import Any

import pytest
import torch
from torch import Tensor

from unitrans.models import (
    SwinBackbone,
    SwinForImageClassification,
    Swinv2ForImageClassification,
    VitConfig,
    VitForImageClassification,
)
from unitrans.models.convert import config_from, export_weights, load_weights
from unitrans.models.renames import Layout, Target
from unitrans.models.resize import fit_shape, resize_bias_table, resize_places
from unitrans.objectives import MaskedSignalModel, get_objective

SIZES: dict[str, Any] = {"embed_dim": 16, "depths": [2, 2], "num_heads": [1, 2], "num_classes": 5}
VIT: dict[str, Any] = {
    "image_size": 32, "patch_size": 8, "embed_dim": 16, "depth": 2, "num_heads": 2, "ape": False,
    "key_bias": False, "layer_scale": 0.1,
}  # fmt: skip


def randomised(model: Any) -> Any:
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn_like(parameter) * 0.2)
    return model.eval()


def same(model: Any, other: Any) -> None:
    for (name, a), b in zip(model.named_parameters(), other.parameters(), strict=True):
        assert torch.equal(a, b), name


class SwinTransformerBlockV2:
    """Stands for torchvision's class, by whose name its V2 is told."""


@pytest.mark.parametrize("kind", [SwinForImageClassification, Swinv2ForImageClassification])
def test_torchvision(kind: Any) -> None:
    v2 = kind is Swinv2ForImageClassification
    arguments = SIZES | {"patch_size": [4, 4], "window_size": [7, 7], "stochastic_depth_prob": 0.2}
    config = config_from("torchvision", arguments | ({"block": SwinTransformerBlockV2} if v2 else {}))
    assert (config.pad_mode, config.window_clamp, config.patch_size) == ("pad_then_roll", "padded", 4)
    model = randomised(kind(config))
    weights = export_weights(model, "torchvision")
    expected = {
        "features.0.0.weight": (16, 3, 4, 4),
        "features.0.2.bias": (16,),
        "features.1.1.attn.qkv.bias": (48,),
        "features.1.0.mlp.3.weight": (16, 64),
        "features.2.reduction.weight": (32, 64),
        "features.3.1.mlp.0.weight": (128, 32),
        "norm.weight": (32,),
        "head.weight": (5, 32),
    } | ({"features.3.0.attn.logit_scale": (2, 1, 1)} if v2 else {})
    assert {name: tuple(weights[name].shape) for name in expected} == expected
    keys = weights["features.3.0.attn.qkv.bias"].chunk(3)[1]
    assert (keys == 0).all() == v2
    weights["features.1.0.attn.relative_position_index"] = torch.zeros(2401)
    other = kind(config)
    report = load_weights(other, weights, "torchvision")
    assert not report.resized and len(report.derived) == (
        1 + 4 if v2 else 1
    )  # V2: the zero biases of keys too
    same(model, other)
    x = torch.rand(1, 3, 30, 28)  # their convolution leaves out what does not fill a patch
    assert torch.equal(model(x).logits, model(x[:, :, :28]).logits)
    with pytest.raises(ValueError, match="patch_size: expected a square"):
        config_from("torchvision", arguments | {"patch_size": [4, 2]})
    with pytest.raises(ValueError, match="family: expected one of 'swin', 'swinv2', got 'vit'"):
        config_from("torchvision", {"depth": 2})


def test_templates_count_in_steps() -> None:
    layout = Layout(
        renames=(("f.{2s+1}.{b}.{rest}", "l.{s}.b.{b}.{rest}"), ("f.{2s+2}.{rest}", "l.{s}.d.{rest}"))
    )
    for theirs, ours in (("f.3.0.w.x", "l.1.b.0.w.x"), ("f.4.w", "l.1.d.w")):
        assert layout.ours(theirs) == Target(ours) and layout.theirs(ours) == (theirs,)
    assert layout.ours("f.0.w") == Target("f.0.w")  # would be stage -1


def test_backbone_of_the_detection_code() -> None:
    """Norms of its own, no final norm; absolute positions are a map of the pretraining size."""
    arguments = {k: v for k, v in SIZES.items() if k != "num_classes"}
    arguments |= {"pretrain_img_size": 32, "window_size": 4, "out_indices": (0, 1), "ape": True}
    model = randomised(SwinBackbone(config_from("official", arguments)))
    weights = export_weights(model, "official")
    assert weights["norm0.weight"].shape == (16,) and weights["norm1.bias"].shape == (32,)
    for name in ("norm.weight", "norm.bias"):
        del weights[name]
    flat = weights["absolute_pos_embed"]
    weights["absolute_pos_embed"] = flat.transpose(1, 2).reshape(1, 16, 8, 8)
    other = SwinBackbone(model.config)
    assert not load_weights(other, weights, "official").missing
    assert torch.equal(other.swin.absolute_pos_embed, model.swin.absolute_pos_embed)
    wide = SwinBackbone(config_from("official", arguments, image_size=[32, 48])).eval()
    load_weights(wide, weights, "official")
    want = resize_places(flat[0], (8, 8), (8, 12))
    assert torch.equal(wide.swin.absolute_pos_embed[0], want)
    assert [tuple(m.shape) for m in wide(torch.zeros(1, 3, 32, 48))] == [(1, 16, 8, 12), (1, 32, 4, 6)]


def masked(**changes: Any) -> MaskedSignalModel:
    config = VitConfig(**VIT | {"relative_position": "shared"} | changes)
    return randomised(MaskedSignalModel.create(config, get_objective("mim")(config, mask_patch_size=8)))


@pytest.mark.parametrize("image_size", [32, 48])
def test_fine_tuning_of_simmim_vit_copies_the_shared_table(image_size: int) -> None:
    """Into every block, resized with growing steps where the grid differs; the rows of the class token stay."""
    weights = export_weights(masked(), "official")
    table = weights["encoder.rel_pos_bias.relative_position_bias_table"]
    config = VitConfig(**VIT | {"relative_position": "per_layer", "image_size": image_size, "num_labels": 5})
    model = VitForImageClassification(config)
    report = load_weights(model, weights, "official", strict=False)
    assert report.missing == ["head.weight", "head.bias"]
    assert [line.split()[0] for line in report.unexpected] == [
        "encoder.mask_token", "decoder.0.weight", "decoder.0.bias"
    ]  # fmt: skip
    side, want = image_size // 8 * 2 - 1, table
    if side != 7:
        want = torch.cat([resize_bias_table(table[:-3], 7, side, "geometric"), table[-3:]])
    for layer in model.vit.blocks:
        assert torch.equal(layer.attn.position_bias.relative_position_bias_table, want)
    assert len(report.resized) == (0 if side == 7 else 2)


def test_shared_and_own_tables_are_not_mixed_up() -> None:
    weights = export_weights(masked(), "official")
    other = masked(relative_position="per_layer")
    load_weights(other, weights, "official")
    back = export_weights(other, "official")
    assert "encoder.blocks.1.attn.relative_position_bias_table" in back
    with pytest.raises(ValueError, match="unexpected: encoder.blocks.0.attn.relative_position_bias_table"):
        load_weights(masked(), back, "official")


def smooth(side: int) -> Tensor:
    axis = torch.linspace(-1, 1, side)
    return torch.stack([axis[:, None] + 0 * axis, axis[:, None] * axis], dim=-1).flatten(0, 1)


@pytest.mark.parametrize("rule", ["bicubic", "geometric", "geometric-linear"])
@pytest.mark.parametrize(("old", "new"), [(7, 13), (13, 7), (3, 5), (1, 3), (5, 1)])
def test_resizing_keeps_centre_and_symmetry(rule: Any, old: int, new: int) -> None:
    table = smooth(old)
    got = resize_bias_table(table, old, new, rule).view(new, new, 2)
    middle = new // 2
    torch.testing.assert_close(
        got[middle, middle], table.view(old, old, 2)[old // 2, old // 2], atol=1e-5, rtol=0
    )
    if old > 1:
        torch.testing.assert_close(got[..., 0], -got[..., 0].flip(0), atol=1e-5, rtol=0)
        assert new == 1 or got[0, 0, 0] < got[-1, 0, 0]


def test_near_offsets_stay_near_with_growing_steps() -> None:
    """The geometric rule leaves the nearest offsets where they are; bicubic moves them outwards."""
    table = torch.zeros(13, 13, 1)
    table[6, 7] = 1
    near = [
        resize_bias_table(table.view(169, 1), 13, 23, rule).view(23, 23) for rule in ("geometric", "bicubic")
    ]
    assert abs(near[0][11, 12].item() - 1) < 1e-5 and near[1][11, 12] < 0.9


def test_what_cannot_be_resized() -> None:
    assert fit_shape("relative_position_bias_table", torch.zeros(15, 2), torch.Size([49, 2])) is None
    assert fit_shape("pos_embed", torch.zeros(1, 16, 4), torch.Size([1, 24, 4])) is None
    assert fit_shape("pos_embed", torch.zeros(1, 16, 4), torch.Size([1, 24, 4]), grid=(4, 6)) is not None
    assert fit_shape("absolute_pos_embed", torch.zeros(1, 3, 4, 4), torch.Size([1, 16, 4])) is None
