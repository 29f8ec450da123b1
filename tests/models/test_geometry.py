"""Padding and clamping of windows against the published order of operations, written out with rolls and masks."""

import math

import pytest
import torch
import torch._dynamo.testing
from torch import Tensor, nn
from torch.nn import functional as F

from unitrans.models import SwinConfig, Swinv2Config, Swinv2ForImageClassification, Swinv2Model
from unitrans.models.swin.plans import StageWindow, pad_map, windows_of
from unitrans.models.vit import VitConfig, VitModel
from unitrans.nn import Attention, LogSpacedPositionBias, RelativePositionBias, patchify
from unitrans.objectives import MaskedSignalModel, make_objective


def regions(side: int, window: int, shift: int) -> Tensor:
    """The number of the region of every place of a rolled axis."""
    place = torch.arange(side)
    if shift == 0:
        return torch.zeros_like(place)
    return (place >= side - window).long() + (place >= side - shift).long()


def published(
    attn: Attention, x: Tensor, window: tuple[int, int], shift: tuple[int, int], mode: str
) -> Tensor:
    """Attention in windows of a map x [H, W, C], as the code bases compute it."""
    h, w, channels = x.shape
    pad = (0, 0, 0, -w % window[1], 0, -h % window[0])
    back = (-shift[0], -shift[1])
    x = F.pad(x, pad).roll(back, (0, 1)) if mode == "pad_then_roll" else F.pad(x.roll(back, (0, 1)), pad)
    rows, cols = x.shape[0], x.shape[1]

    def windows(x: Tensor) -> Tensor:
        tiles = x.view(rows // window[0], window[0], cols // window[1], window[1], -1)
        return tiles.transpose(1, 2).reshape(-1, window[0] * window[1], x.shape[-1])

    region = 3 * regions(rows, window[0], shift[0])[:, None] + regions(cols, window[1], shift[1])
    number = windows(region[..., None]).squeeze(-1)
    apart = number[:, None, :, None] != number[:, None, None, :]
    qkv = attn.project(windows(x)).unflatten(-1, (3, attn.num_heads, -1)).permute(2, 0, 3, 1, 4)
    q, k, v = qkv.unbind(0)
    if attn.qk_norm:
        q, k = F.normalize(q, dim=-1), F.normalize(k, dim=-1)
    factor = torch.as_tensor(attn.factor(), dtype=x.dtype).view(-1, 1, 1)
    scores = q @ k.transpose(-1, -2) * factor + attn.position_bias().unflatten(1, q.shape[2:3] * 2)
    out = scores.masked_fill(apart, -torch.inf).softmax(-1) @ v
    out = out.transpose(1, 2).reshape(-1, window[0], window[1], channels)
    out = out.view(rows // window[0], cols // window[1], *window, channels).transpose(1, 2).reshape(x.shape)
    out = out.roll(shift, (0, 1))[:h, :w] if mode == "pad_then_roll" else out[:h, :w].roll(shift, (0, 1))
    return attn.proj(out)


@pytest.mark.parametrize("mode", ["pad_then_roll", "roll_then_pad"])
@pytest.mark.parametrize("version", [1, 2])
@pytest.mark.parametrize(
    ("grid", "window", "shift"),
    [
        ((10, 7), (4, 4), (2, 2)),
        ((10, 7), (4, 4), (0, 0)),
        ((5, 9), (4, 3), (2, 1)),
        ((3, 9), (4, 4), (0, 2)),
        ((3, 3), (4, 4), (2, 2)),
        ((8, 8), (4, 4), (2, 2)),
        ((1, 6), (2, 4), (1, 2)),
    ],
)
def test_pads_take_part_as_published(grid, window, shift, mode: str, version: int) -> None:
    torch.manual_seed(0)
    if version == 1:
        attn = Attention(16, 2, position_bias=RelativePositionBias(window, 2))
    else:
        attn = Attention(16, 2, key_bias=False, qk_norm=True, position_bias=LogSpacedPositionBias(window, 2))
    for parameter in attn.parameters():
        nn.init.normal_(parameter, std=0.5)
    attn.double()
    x = torch.randn(2, *grid, 16, dtype=torch.float64, requires_grad=True)
    want = torch.stack([published(attn, image, window, shift, mode) for image in x])
    plan, pads = windows_of(grid, window, shift, mode)
    assert (pads is None) == (grid == (8, 8))
    got = attn(x.flatten(0, 2), plan.repeat(2), pads=pads and pads.repeat(2)).view(want.shape)
    torch.testing.assert_close(got, want)
    weight = torch.randn_like(want)
    inputs = [x, *attn.parameters()]
    wanted = torch.autograd.grad((want * weight).sum(), inputs)
    for a, b in zip(torch.autograd.grad((got * weight).sum(), inputs), wanted, strict=True):
        torch.testing.assert_close(a, b)


def test_rolled_pads_come_between_the_rows() -> None:
    rows = pad_map((3, 1), (2, 1), (1, 0), "roll_then_pad")
    assert rows is not None and rows.index.tolist() == [-1, 1, 2, 0]
    assert pad_map((3, 1), (2, 1), (1, 0), "none") is None


@pytest.mark.parametrize(
    ("clamp", "sizes", "shifts"),
    [
        ("min", [(4, 4), (4, 4), (2, 2)], [(2, 2), (0, 0), (0, 0)]),
        ("per_axis", [(4, 4), (4, 4), (2, 4)], [(2, 2), (0, 2), (0, 0)]),
        ("padded", [(4, 4), (4, 4), (4, 4)], [(2, 2), (0, 2), (0, 0)]),
        ("never", [(4, 4), (4, 4), (4, 4)], [(2, 2), (2, 2), (2, 2)]),
    ],
)
def test_clamping_rules(clamp, sizes, shifts) -> None:
    config = SwinConfig(
        image_size=[32, 64], depths=(2, 2, 2), num_heads=(1, 1, 1), window_size=4, window_clamp=clamp
    )
    assert list(config.stage_windows) == sizes
    maps = [(8, 16), (4, 8), (2, 4)]
    assert [rule.shift_on(grid) for rule, grid in zip(config.window_rules, maps, strict=True)] == shifts


def test_rounding_of_odd_maps_decides_about_windows() -> None:
    """11 patches: the second stage is 6 or, rounded down, 5 wide, the third 3 or 2; their bias tables differ."""
    sizes = {
        clamp: SwinConfig(
            image_size=44, depths=(2, 2, 2), num_heads=(1, 1, 1), window_size=8, window_clamp=clamp
        ).stage_windows
        for clamp in ("per_axis", "per_axis_floor")
    }
    assert sizes == {"per_axis": ((8, 8), (6, 6), (3, 3)), "per_axis_floor": ((8, 8), (5, 5), (2, 2))}


def test_only_image_size_decides_per_axis() -> None:
    rule = StageWindow((4, 4), (2, 2), "per_axis")
    assert rule.shift_on((3, 3)) == (2, 2)
    assert StageWindow((4, 4), (2, 2), "padded").shift_on((3, 9)) == (0, 2)


def randomised(model: nn.Module) -> nn.Module:
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.2)
    return model.eval()


def build(pad_mode: str, clamp: str) -> nn.Module:
    config = Swinv2Config(
        image_size=32, embed_dim=16, depths=(2, 2, 2), num_heads=(1, 2, 4), window_size=4,
        pad_mode=pad_mode, window_clamp=clamp, extra_norm_period=2,
    )  # fmt: skip
    return randomised(Swinv2Model(config))


@pytest.mark.parametrize("pad_mode", ["none", "pad_then_roll", "roll_then_pad"])
@pytest.mark.parametrize("clamp", ["min", "per_axis", "per_axis_floor", "padded", "never"])
def test_every_switch_is_stateless_and_batches_are_their_images(pad_mode: str, clamp: str) -> None:
    model = build(pad_mode, clamp)
    grids = [(8, 8), (5, 11), (1, 2), (8, 8)]
    images = [torch.randn(3, 4 * h, 4 * w) for h, w in grids]
    patches = torch.cat([patchify(image, 4) for image in images])
    with torch.no_grad():
        first = [model(image[None]).pooler_output for image in images]
        together = model(patches=patches, plans=model.config.plans(grids)).pooler_output
        again = [model(image[None]).pooler_output for image in images]
    torch.testing.assert_close(together, torch.cat(first))
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))


def test_images_of_any_size_are_filled_up_or_cut() -> None:
    """timm and torchvision leave out what does not fill a patch, all others fill it up."""
    x = torch.randn(1, 3, 30, 33)
    filled, cut = F.pad(x, (0, 3, 0, 2)), x[..., :28, :32]
    for pad_mode, clamp, seen in (
        ("none", "min", filled),
        ("pad_then_roll", "min", filled),
        ("roll_then_pad", "per_axis", cut),
        ("pad_then_roll", "padded", cut),
    ):
        model = build(pad_mode, clamp)
        with torch.no_grad():
            assert torch.equal(model(x).pooler_output, model(seen).pooler_output), pad_mode
            assert model.forward_features(x)[0].shape == model.forward_features(seen)[0].shape
    vit = randomised(VitModel(VitConfig(**VIT)))
    with torch.no_grad():
        for size in ((33, 47), (32, 48), (225, 231)):
            images = torch.randn(1, 3, *size)
            whole = images[..., : size[0] // 8 * 8, : size[1] // 8 * 8]
            assert torch.equal(vit(images).pooler_output, vit(whole).pooler_output)
    with pytest.raises(ValueError, match="at least one patch of 8 x 8 px, got \\[7, 9\\]"):
        vit(torch.zeros(1, 3, 7, 9))


# embed_dim, depths, heads, extra norms, parameters with 1000 classes; H and G as in the paper (658M, 3.0B).
OFFICIAL = {
    "tiny": (96, (2, 2, 6, 2), (3, 6, 12, 24), 0, 28_347_154),
    "small": (96, (2, 2, 18, 2), (3, 6, 12, 24), 0, 49_728_418),
    "base": (128, (2, 2, 18, 2), (4, 8, 16, 32), 0, 87_918_816),
    "large": (192, (2, 2, 18, 2), (6, 12, 24, 48), 0, 196_739_932),
    "huge": (352, (2, 2, 18, 2), (11, 22, 44, 88), 6, 658_036_370),
    "giant": (512, (2, 2, 42, 4), (16, 32, 64, 128), 6, 3_001_940_680),
}


@pytest.mark.parametrize("name", OFFICIAL)
def test_official_sizes_of_v2_have_the_official_number_of_parameters(name: str) -> None:
    embed_dim, depths, heads, period, count = OFFICIAL[name]
    config = Swinv2Config(
        embed_dim=embed_dim, depths=depths, num_heads=heads, extra_norm_period=period, num_labels=1000
    )
    with torch.device("meta"):
        model = Swinv2ForImageClassification(config)
    assert sum(p.numel() for p in model.parameters()) == count
    extra = sum(name.endswith("norm3.weight") for name, _ in model.named_parameters())
    assert extra == (sum(depth // period for depth in depths) if period else 0)


def test_fresh_v2_is_the_identity_around_its_merges(tmp_path) -> None:
    model = Swinv2Model(Swinv2Config(image_size=32, embed_dim=16, depths=(2,), num_heads=(1,), window_size=4))
    patches, plans = model.pack(torch.randn(1, 3, 32, 32))
    x = model.embed(patches)
    assert torch.equal(model.encode_stages(x, plans)[0], x)
    attn = model.layers[0].blocks[0].attn
    torch.testing.assert_close(attn.factor(), torch.full((1,), 10.0))
    model = randomised(model).eval()
    for name, parameter in VitModel(VitConfig(**VIT, layer_scale=0.1)).named_parameters():
        if "gamma" in name:
            assert (parameter == 0.1).all(), name
    model.save_pretrained(tmp_path)
    loaded = Swinv2Model.from_pretrained(tmp_path).eval()
    x = torch.randn(1, 3, 32, 32)
    assert all(map(torch.equal, loaded.state_dict().values(), model.state_dict().values()))
    torch.testing.assert_close(loaded(x).pooler_output, model(x).pooler_output)


def test_offsets_of_a_window_side_of_1_are_finite() -> None:
    for window, trained in (((1, 1), (0, 0)), ((1, 4), (0, 0)), ((2, 2), (1, 1))):
        assert torch.isfinite(LogSpacedPositionBias(window, 2, trained)()).all()


def test_decay_exceptions_of_v2_are_named() -> None:
    model = Swinv2Model(Swinv2Config(image_size=32, embed_dim=16, depths=(1,), num_heads=(1,), window_size=4))
    assert {"cpb_mlp", "logit_scale"} <= set(model.no_weight_decay_keywords())
    assert any("cpb_mlp" in name for name, _ in model.named_parameters())


@pytest.mark.parametrize(
    ("kind", "change", "message"),
    [
        (SwinConfig, {"pad_mode": "reflect"}, "pad_mode: expected one of none, pad_then_roll, roll_then_pad"),
        (SwinConfig, {"window_clamp": "max"}, "window_clamp: expected one of min"),
        (Swinv2Config, {"qk_scale": 0.5}, "qk_scale: expected null"),
        (Swinv2Config, {"pretrained_window_sizes": [0, 0, 0, 0, 6]}, "expected one per stage"),
        (Swinv2Config, {"extra_norm_period": -1}, "extra_norm_period: expected 0 or more"),
        (VitConfig, {"cls_token": False}, "pooling: expected mean"),
        (VitConfig, {"num_heads": 7}, "num_heads: expected a divisor of embed_dim 768"),
        (VitConfig, {"relative_position": "t5"}, "relative_position: expected one of none, shared"),
    ],
)
def test_wrong_configurations_are_named(kind, change, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        kind(**change)


VIT = {"image_size": [32, 48], "patch_size": 8, "embed_dim": 16, "depth": 2, "num_heads": 2}


@pytest.mark.parametrize("cls_token", [True, False])
@pytest.mark.parametrize("relative", ["none", "shared", "per_layer"])
def test_images_of_different_sizes_share_a_batch_of_vit(cls_token: bool, relative: str) -> None:
    config = VitConfig(**VIT, ape=False, cls_token=cls_token, relative_position=relative, pooling="mean")
    model = randomised(VitModel(config))
    grids = [(4, 6), (4, 6), (2, 3), (1, 6)]
    images = [torch.randn(3, 8 * h, 8 * w) for h, w in grids]
    patches = torch.cat([patchify(image, 8) for image in images])
    with torch.no_grad():
        want = torch.cat([model(image[None]).pooler_output for image in images])
        torch.testing.assert_close(model(patches=patches, plans=config.plans(grids)).pooler_output, want)
    if relative != "none":
        with pytest.raises(ValueError, match="relative positions expected at most the patch grid"):
            model(torch.zeros(1, 3, 64, 48))
    else:
        assert model(torch.zeros(1, 3, 64, 48)).pooler_output.shape == (1, 16)


def test_relative_positions_of_a_small_image_are_those_of_the_table() -> None:
    """A smaller image reads the same biases as its corner of the full grid."""
    config = VitConfig(**VIT, ape=False, cls_token=False, relative_position="shared", pooling="mean")
    full = RelativePositionBias((4, 6), 2)().unflatten(1, (4, 6, 4, 6))
    plan = config.plans([(2, 3)]).groups
    assert plan.position is not None
    place = plan.position.long()
    rows, cols = place // 6, place % 6
    assert rows.tolist() == [0, 0, 0, 1, 1, 1] and cols.tolist() == [0, 1, 2] * 2
    assert full.shape[1:] == (4, 6, 4, 6) and plan.bias_size == 24**2


def test_vit_and_padded_swin_compile_whole_and_not_again() -> None:
    for model, batches in (
        (
            VitModel(VitConfig(**VIT, ape=False)),
            [[(4, 6)] * 2, [(3, 3), (4, 2)], [(2, 5)] * 5, [(1, 1), (6, 6)]],
        ),
        (build("pad_then_roll", "never"), [[(5, 7)] * 2, [(6, 7), (9, 5)], [(7, 7)] * 4, [(11, 9), (5, 6)]]),
    ):
        torch._dynamo.reset()
        counter = torch._dynamo.testing.CompileCounterWithBackend("aot_eager")
        compiled = torch.compile(model, backend=counter, fullgraph=True)
        p = model.config.patch_size
        for grids in batches:
            patches = torch.randn(sum(h * w for h, w in grids), 3 * p * p)
            plans = model.config.plans(grids)
            want = model(patches=patches, plans=plans).pooler_output
            torch.testing.assert_close(compiled(patches=patches, plans=plans).pooler_output, want)
        assert counter.frame_count <= 3, f"{type(model).__name__}: {counter.frame_count} compilations"


@pytest.mark.parametrize("size", ["base", "large", "huge"])
def test_published_sizes_of_vit(size: str) -> None:
    """ViT-B/L/16 and H/14 as timm counts them, without a head."""
    width, depth, heads, patch, count = {
        "base": (768, 12, 12, 16, 85_798_656),
        "large": (1024, 24, 16, 16, 303_301_632),
        "huge": (1280, 32, 16, 14, 630_764_800),
    }[size]
    with torch.device("meta"):
        model = VitModel(VitConfig(embed_dim=width, depth=depth, num_heads=heads, patch_size=patch))
    assert sum(p.numel() for p in model.parameters()) == count


def test_fresh_weights_of_beit(tmp_path) -> None:
    """Cut at one deviation, divided by sqrt(2 * block) where branches end, tables of zeros; loading changes nothing."""
    config = VitConfig(
        image_size=32, embed_dim=96, depth=3, num_heads=2, relative_position="per_layer", init="beit"
    )
    objective = make_objective("mim", config, {"mask_patch_size": 16})
    for encoder in (VitModel(config), MaskedSignalModel.create(config, objective).encoder):
        for number, block in enumerate(encoder.blocks, start=1):
            assert block.attn.qkv.weight.abs().max() <= 0.02
            largest = 0.02 / math.sqrt(2 * number)
            for layer in (block.attn.proj, block.mlp.fc2):
                assert 0.95 * largest < layer.weight.abs().max() <= largest * 1.0001
            assert not block.attn.position_bias.relative_position_bias_table.any()
    encoder.save_pretrained(tmp_path)
    again = VitModel.from_pretrained(tmp_path)
    assert all(torch.equal(a, b) for a, b in zip(again.parameters(), encoder.parameters(), strict=True))
