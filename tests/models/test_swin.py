"""Swin V1: official sizes, odd geometries, parity with the installed transformers, tracing, saving."""

import math

import pytest
import torch
import torch._dynamo.testing
from torch import nn
from transformers import AutoModel
from transformers import SwinConfig as HFConfig
from transformers import SwinForMaskedImageModeling as HFMasked
from transformers import SwinModel as HFSwin

from unitrans.models.convert import export_weights, load_weights
from unitrans.models.renames import Layout, Target
from unitrans.models.resize import fit_shape, resize_bias_table
from unitrans.models.swin import SwinConfig, SwinForImageClassification, SwinModel, Swinv2Model
from unitrans.models.swin.plans import merge_map
from unitrans.nn import RelativePositionBias, patchify, relative_position_index
from unitrans.objectives import MaskedSignalModel, get_objective

# embed_dim, depths, heads, window, image, parameters with 1000 classes: the numbers the official code gives.
OFFICIAL = {
    "tiny": (96, (2, 2, 6, 2), (3, 6, 12, 24), 7, 224, 28_288_354),
    "small": (96, (2, 2, 18, 2), (3, 6, 12, 24), 7, 224, 49_606_258),
    "base": (128, (2, 2, 18, 2), (4, 8, 16, 32), 7, 224, 87_768_224),
    "base-384": (128, (2, 2, 18, 2), (4, 8, 16, 32), 12, 384, 87_903_584),
    "large": (192, (2, 2, 18, 2), (6, 12, 24, 48), 7, 224, 196_532_476),
    "large-384": (192, (2, 2, 18, 2), (6, 12, 24, 48), 12, 384, 196_735_516),
}


@pytest.mark.parametrize("name", OFFICIAL)
def test_official_sizes_have_the_official_number_of_parameters(name: str) -> None:
    embed_dim, depths, heads, window, image, count = OFFICIAL[name]
    config = SwinConfig(
        embed_dim=embed_dim,
        depths=depths,
        num_heads=heads,
        window_size=window,
        image_size=image,
        num_labels=1000,
    )
    with torch.device("meta"):
        model = SwinForImageClassification(config)
    assert sum(p.numel() for p in model.parameters()) == count


def small(**changes: object) -> SwinConfig:
    fields: dict[str, object] = {
        "image_size": 32, "embed_dim": 16, "depths": (2, 2), "num_heads": (1, 2), "window_size": 4,
        "drop_path_rate": 0.0,
    }  # fmt: skip
    return SwinConfig(**(fields | changes))


def randomise(model: nn.Module) -> None:
    """Every parameter at random, so that nothing agrees because it is zero or one."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.2)


def to_ours(name: str) -> str | None:
    """Our name of a parameter of transformers' Swin (5.x), None where three of theirs make one of ours."""
    name = name.removeprefix("swin.").replace("encoder.layers", "layers")
    name = name.replace("embeddings.patch_embeddings.projection", "patch_embed.proj")
    name = name.replace("embeddings.norm", "patch_embed.norm")
    name = name.replace("layernorm_before", "norm1").replace("layernorm_after", "norm2")
    name = name.replace("attention.relative_position_bias.", "attn.position_bias.")
    name = name.replace("attention.o_proj", "attn.proj").replace("layernorm.", "norm.")
    return None if "attention." in name else name


def copy_from(theirs: nn.Module, ours: nn.Module) -> None:
    state = dict(theirs.named_parameters())
    own = dict(ours.named_parameters())
    with torch.no_grad():
        for name, parameter in state.items():
            if (target := to_ours(name)) in own:
                own[target].copy_(parameter.reshape(own[target].shape))
            else:
                assert target is None or "mask_token" in name or "decoder" in name, name
        for name in own:
            if ".attn.qkv." in name:
                own[name].copy_(torch.cat(split_qkv(name, state)))


def split_qkv(name: str, state: dict[str, torch.Tensor]) -> list[torch.Tensor]:
    prefix = next(
        p for p in ("swin.", "") if p + "encoder.layers.0.blocks.0.layernorm_before.weight" in state
    )
    place, kind = name.rsplit(".attn.qkv.", 1)
    return [state[f"{prefix}encoder.{place}.attention.{part}_proj.{kind}"] for part in "qkv"]


@pytest.mark.parametrize("size", [(32, 32), (32, 64), (64, 32)])
def test_equal_to_transformers(size: tuple[int, int]) -> None:
    """Outputs and every gradient, H != W included."""
    hf = HFSwin(
        HFConfig(
            image_size=list(size),
            embed_dim=16,
            depths=[2, 2],
            num_heads=[1, 2],
            window_size=4,
            num_channels=3,
        )
    ).eval()
    model = SwinModel(small(image_size=size)).eval()
    randomise(hf)
    copy_from(hf, model)
    x = torch.randn(2, 3, *size, generator=torch.Generator().manual_seed(1), requires_grad=True)
    want, got = hf(x), model(x)
    torch.testing.assert_close(got.pooler_output, want.pooler_output, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(
        got.last_hidden_state.view(want.last_hidden_state.shape), want.last_hidden_state, rtol=1e-4, atol=1e-5
    )
    weight = torch.randn(want.last_hidden_state.shape, generator=torch.Generator().manual_seed(2))
    (want.last_hidden_state * weight).sum().backward()
    dx, x.grad = x.grad, None
    (got.last_hidden_state.view(weight.shape) * weight).sum().backward()
    assert dx is not None
    torch.testing.assert_close(x.grad, dx, rtol=1e-3, atol=1e-4 * dx.abs().max().item())
    grads = {name: p.grad for name, p in hf.named_parameters()}
    for name, parameter in model.named_parameters():
        if ".attn.qkv." in name:
            target = torch.cat(split_qkv(name, grads))
        else:
            target = next(g for theirs, g in grads.items() if to_ours(theirs) == name)
        assert parameter.grad is not None
        scale = max(target.abs().max().item(), 1e-3)
        error = (parameter.grad - target.reshape(parameter.shape)).abs().max().item()
        assert error <= 1e-4 * scale, f"{name}: {error:.2e} of {scale:.2e}"


def test_masked_image_modelling_equals_transformers() -> None:
    config = HFConfig(
        image_size=32, embed_dim=16, depths=[2, 2], num_heads=[1, 2], window_size=4, encoder_stride=8
    )
    hf = HFMasked(config).eval()
    ours_config = small()
    model = MaskedSignalModel.create(ours_config, get_objective("mim")(ours_config, mask_patch_size=8)).eval()
    randomise(hf)
    copy_from(hf, model.encoder)
    with torch.no_grad():
        model.head.mask_token.copy_(hf.swin.embeddings.mask_token.view(1, -1))
        model.head.decoder.weight.copy_(hf.decoder[0].weight.flatten(1))
        model.head.decoder.bias.copy_(hf.decoder[0].bias)
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(2, 3, 32, 32, generator=generator)
    mask = torch.rand(2, 64, generator=generator) < 0.6
    want = hf(x, bool_masked_pos=mask)
    patches, plans = model.encoder.pack(x)
    got = model(patches=patches, plans=plans, mask=mask.flatten())
    torch.testing.assert_close(got.loss_sum / got.num_targets, want.loss, rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(
        got.prediction, patchify(want.reconstruction, 4).flatten(0, 1), rtol=1e-4, atol=1e-4
    )


@pytest.mark.parametrize("size", [(32, 32), (20, 44), (4, 4), (36, 12), (100, 28)])
def test_any_geometry_and_a_batch_is_its_images_one_by_one(size: tuple[int, int]) -> None:
    model = SwinModel(small()).eval()
    randomise(model)
    x = torch.randn(3, 3, *size)
    with torch.no_grad():
        together = model(x).pooler_output
        torch.testing.assert_close(together, torch.cat([model(one[None]).pooler_output for one in x]))
        again = model(x).pooler_output
    assert torch.equal(together, again), "a forward changed the model"


def test_images_of_different_sizes_share_a_batch() -> None:
    model = SwinModel(small()).eval()
    images = [torch.randn(3, 32, 32), torch.randn(3, 20, 44), torch.randn(3, 32, 32)]
    patches = torch.cat([patchify(x, 4) for x in images])
    with torch.no_grad():
        got = model(patches=patches, plans=model.config.plans([(8, 8), (5, 11), (8, 8)])).pooler_output
        torch.testing.assert_close(got, torch.cat([model(x[None]).pooler_output for x in images]))


def test_gradients_do_not_depend_on_the_backend(monkeypatch: pytest.MonkeyPatch) -> None:
    from functools import partial

    from unitrans.nn import block

    model, x = SwinModel(small(window_size=3)).double(), torch.randn(2, 3, 20, 36).double()
    randomise(model)
    grads = []
    for backend in ("cpu", "reference"):
        with monkeypatch.context() as patch:
            patch.setattr(block, "attention_qkvpacked", partial(block.attention_qkvpacked, backend=backend))
            model.zero_grad()
            model(x).last_hidden_state.square().sum().backward()
            grads.append([p.grad.clone() for p in model.parameters()])
    torch.testing.assert_close(grads[0], grads[1])


def test_merge_order_is_row_parity_first() -> None:
    assert merge_map((2, 2)).index.tolist() == [0, 2, 1, 3]
    assert merge_map((3, 1)).index.tolist() == [0, 1, -1, -1, 2, -1, -1, -1]


def test_relative_position_index_is_the_official_formula() -> None:
    height, width = 2, 3
    index = relative_position_index((height, width))
    for i in range(6):
        for j in range(6):
            dy, dx = i // width - j // width, i % width - j % width
            assert index[i, j] == (dy + height - 1) * (2 * width - 1) + dx + width - 1


@pytest.mark.parametrize(
    ("image_size", "window", "expected"),
    [(224, 7, [7, 7, 7, 7]), (192, 12, [12, 12, 12, 6]), (64, 7, [7, 7, 4, 2])],
)
def test_windows_shrink_with_small_maps(image_size: int, window: int, expected: list[int]) -> None:
    windows = SwinConfig(image_size=image_size, window_size=window).stage_windows
    assert windows == tuple((side, side) for side in expected)


def test_drop_path_drops_whole_samples() -> None:
    model = SwinModel(small(drop_path_rate=0.9)).train()
    randomise(model)
    torch.manual_seed(0)
    x = torch.randn(1, 3, 32, 32).repeat(64, 1, 1, 1)
    with torch.no_grad():
        distinct = {tuple(row.tolist()) for row in model(x).pooler_output.round(decimals=4)}
    assert 1 < len(distinct) < 64  # few combinations of kept branches, not one per token


def test_compiles_whole_and_not_again_for_every_batch() -> None:
    torch._dynamo.reset()
    model = SwinModel(small()).train()
    counter = torch._dynamo.testing.CompileCounterWithBackend("aot_eager")
    compiled = torch.compile(model, backend=counter, fullgraph=True)
    generator = torch.Generator().manual_seed(0)
    for _ in range(20):
        sides = torch.randint(
            3, 10, (int(torch.randint(2, 6, (), generator=generator)), 2), generator=generator
        )
        grids = [(int(h), int(w)) for h, w in sides]
        patches = torch.randn(sum(h * w for h, w in grids), 48)
        plans = model.config.plans(grids)
        got = compiled(patches=patches, plans=plans).pooler_output
        torch.testing.assert_close(got, model(patches=patches, plans=plans).pooler_output)
        got.sum().backward()
    assert counter.frame_count <= 3, f"{counter.frame_count} compilations"
    torch._dynamo.reset()
    counter = torch._dynamo.testing.CompileCounterWithBackend("aot_eager")
    compiled = torch.compile(model, backend=counter, fullgraph=True)
    for batch in (2, 3, 4, 5):
        compiled(torch.randn(batch, 3, 32, 32))
    assert counter.frame_count <= 2, f"{counter.frame_count} compilations for one image size"


@pytest.mark.slow
def test_two_stages_of_swin_tiny_compile_with_inductor() -> None:
    torch._dynamo.reset()
    config = SwinConfig(image_size=64, depths=(2, 2), num_heads=(3, 6), drop_path_rate=0.0)
    model = SwinModel(config).eval()
    compiled = torch.compile(model, fullgraph=True)
    x = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        torch.testing.assert_close(compiled(x).pooler_output, model(x).pooler_output, rtol=1e-3, atol=1e-4)


def test_export_serves_other_batch_sizes() -> None:
    model = SwinModel(small()).eval()
    batch = torch.export.Dim("batch", min=2)
    program = torch.export.export(
        model, (torch.randn(2, 3, 32, 32),), dynamic_shapes={"pixel_values": {0: batch}}
    )
    x = torch.randn(5, 3, 32, 32)
    with torch.no_grad():
        torch.testing.assert_close(program.module()(x).pooler_output, model(x).pooler_output)


def test_saved_and_loaded_models_are_equal(tmp_path) -> None:
    model = SwinModel(small(ape=True, patch_norm=False, qkv_bias=False, qk_scale=0.3)).eval()
    randomise(model)
    model.save_pretrained(tmp_path)
    x = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        for loaded in (SwinModel.from_pretrained(tmp_path), AutoModel.from_pretrained(tmp_path)):
            assert all(map(torch.equal, loaded.state_dict().values(), model.state_dict().values()))
            # Not bit for bit: loaded tensors are aligned differently in memory, which products round by.
            torch.testing.assert_close(loaded.eval()(x).pooler_output, model(x).pooler_output)
    for module in loaded.modules():
        if isinstance(module, RelativePositionBias):
            assert torch.equal(
                module.relative_position_index, relative_position_index(module.window_size).flatten()
            )


def test_fresh_models_are_initialised_as_published() -> None:
    model = SwinModel(SwinConfig())
    for name, parameter in model.named_parameters():
        if ("norm" in name and name.endswith("bias")) or "qkv.bias" in name:
            assert (parameter == 0).all(), name
        elif "norm" in name:
            assert (parameter == 1).all(), name
        elif "patch_embed" not in name and not name.endswith("bias"):
            assert math.isclose(parameter.std().item(), 0.02, rel_tol=0.1), name


@pytest.mark.parametrize("layout", ["official", "timm", "hf4", "hf5"])
def test_weights_survive_a_round_trip(layout: str) -> None:
    model, other = (SwinForImageClassification(small(num_labels=5)) for _ in range(2))
    randomise(model)
    report = load_weights(other, export_weights(model, layout), layout)
    assert not report.resized and len(report.loaded) == len(list(model.parameters()))
    for (name, a), b in zip(model.named_parameters(), other.parameters(), strict=True):
        assert torch.equal(a, b), name


def test_timm_counts_merges_from_the_next_stage() -> None:
    names = export_weights(SwinForImageClassification(small(num_labels=5)), "timm")
    assert "layers.1.downsample.reduction.weight" in names and "head.fc.weight" in names
    assert "layers.0.blocks.1.attn.relative_position_bias_table" in names


def test_what_does_not_fit_is_reported() -> None:
    model = SwinForImageClassification(small(num_labels=5))
    weights = export_weights(model, "official")
    weights["layers.0.blocks.0.attn.relative_position_index"] = torch.zeros(16, 16)
    weights["surprise"] = torch.zeros(3)
    weights["head.weight"] = torch.zeros(7, 32)
    del weights["norm.bias"]
    with pytest.raises(ValueError, match="does not fit") as error:
        load_weights(model, weights, "official")
    text = str(error.value)
    assert "missing: swin.norm.bias" in text and "unexpected: surprise [3]" in text
    assert (
        "unexpected: head.weight [7, 32]: head.weight has [5, 32]" in text
        and "derived buffers left 1" in text
    )
    assert load_weights(model, weights, "official", strict=False).unexpected
    with pytest.raises(
        ValueError,
        match="layout: for swin expected one of 'official', 'timm', 'torchvision', 'hf4', 'hf5', got 'keras'",
    ):
        load_weights(model, weights, "keras")


def test_bias_tables_are_resized_bicubically() -> None:
    table = torch.randn(49, 3)
    model = SwinModel(small(image_size=64, window_size=7))
    weights = export_weights(SwinModel(small()), "official")
    report = load_weights(model, weights, "official")
    assert report.resized == [
        f"layers.{s}.blocks.{b}.attn.position_bias.relative_position_bias_table: "
        f"[49, {s + 1}] -> [169, {s + 1}]" for s in (0, 1) for b in (0, 1)
    ]  # fmt: skip
    assert torch.equal(resize_bias_table(table, 7, 7), table)
    planes = table.t().view(1, 3, 7, 7)
    want = nn.functional.interpolate(planes, size=(13, 13), mode="bicubic").view(3, -1).t()
    assert torch.equal(fit_shape("x.relative_position_bias_table", table, torch.Size([169, 3])), want)


def test_templates_rename_both_ways() -> None:
    layout = Layout(renames=(("a.{s+1}.b.{rest}", "c.{s}.{rest}"),))
    assert layout.ours("a.3.b.w.x") == Target("c.2.w.x") and layout.theirs("c.2.w.x") == ("a.3.b.w.x",)
    assert layout.ours("other") == Target("other") and layout.theirs("other") == ("other",)
    parts = Layout(renames=((("q.{rest}", "k.{rest}"), "qk.{rest}"),), prefix="net.")
    assert parts.ours("net.k.bias") == Target("qk.bias", 1, 2)
    assert parts.theirs("swin.qk.bias", "swin.") == ("net.q.bias", "net.k.bias")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"num_heads": (1, 2, 4)}, "num_heads: expected one number per stage"),
        ({"num_heads": (3, 2)}, "num_heads: expected divisors of the widths"),
        ({"window_size": 0}, "window_size: expected positive"),
        ({"embed_dim": 0}, "embed_dim: expected positive numbers, got 0"),
        ({"patch_size": -4}, "patch_size: expected positive numbers, got -4"),
        ({"depths": (2, 0)}, "depths: expected positive numbers"),
        ({"mlp_ratio": math.nan}, "mlp_ratio: expected positive numbers, got nan"),
        ({"drop_path_rate": 2.0}, r"drop_path_rate: expected a number in \[0, 1\), got 2.0"),
        ({"image_size": [1, 2, 3]}, "image_size: expected one number"),
        ({"relative_position": "shared"}, "relative_position: expected one of none, per_layer"),
    ],
)
def test_wrong_configurations_are_named(change: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        small(**change)


@pytest.mark.parametrize("kind", [SwinModel, Swinv2Model])
def test_without_relative_positions_windows_are_bags(kind: type[SwinModel]) -> None:
    """relative_position none is a bias of zeros: nothing else changes, and other code bases have no such model."""
    fields = {"image_size": 32, "embed_dim": 16, "depths": (2, 2), "num_heads": (1, 2), "window_size": 4}
    with_bias, without = (
        kind(kind.config_class(**fields, drop_path_rate=0.0, relative_position=rule))
        for rule in ("per_layer", "none")
    )
    randomise(with_bias)
    bias = [p for n, p in with_bias.named_parameters() if "relative_position" in n or "cpb_mlp" in n]
    assert bias and len(list(with_bias.parameters())) - len(bias) == len(list(without.parameters()))
    without.load_state_dict(with_bias.state_dict(), strict=False)
    images = torch.rand(2, 3, 32, 32)
    rows = without(images).last_hidden_state
    assert not torch.allclose(with_bias(images).last_hidden_state, rows, atol=1e-3)
    with torch.no_grad():
        for parameter in bias:
            parameter.zero_()  # of V2: the same bias, 16 sigmoid(0), for all pairs
    torch.testing.assert_close(with_bias(images).last_hidden_state, rows, rtol=1e-4, atol=1e-5)
    with pytest.raises(
        ValueError, match="relative_position: other code bases have Swin with 'per_layer' only"
    ):
        export_weights(without, "timm")


def test_wrong_inputs_are_named() -> None:
    model = SwinModel(small(ape=True))
    with pytest.raises(ValueError, match="expected 3 channels"):
        model(torch.zeros(1, 1, 32, 32))
    with pytest.raises(ValueError, match="interpolate_pos_encoding: False expects images of image_size"):
        model(torch.zeros(1, 3, 64, 32), interpolate_pos_encoding=False)
    with pytest.raises(ValueError, match="with ape .* expected the patch grid"):
        model.config.plans([(8, 8), (16, 8)])
    with pytest.raises(ValueError, match="expected pixel_values, or patches"):
        model()
