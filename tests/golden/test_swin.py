"""Swin V1 and SimMIM against the official and timm implementations: outputs, intermediate maps, gradients."""

import functools

import pytest
import torch
import torch.nn.functional as F

from unitrans.models.convert import LAYOUTS, load_weights
from unitrans.models.swin import SwinConfig, SwinForImageClassification
from unitrans.nn import block, unpatchify
from unitrans.objectives import MaskedSignalModel, get_objective

CONFIG_NAMES = (
    "img_size patch_size in_chans embed_dim depths num_heads window_size mlp_ratio qkv_bias qk_scale "
    "drop_rate attn_drop_rate drop_path_rate ape patch_norm"
).split()


def config_of(case) -> SwinConfig:
    ctor = {k: v for k, v in case.meta["constructor"].items() if k in CONFIG_NAMES}
    ctor["image_size"] = ctor.pop("img_size")
    ctor.setdefault("drop_path_rate", 0.0)
    return SwinConfig(num_labels=max(case.meta["constructor"].get("num_classes", 1), 1), **ctor)


def gradients(case, model, layout: str) -> dict[str, torch.Tensor]:
    """Parameter gradients under the names and in the shapes of the case."""
    table = LAYOUTS["swin", layout]
    grads = {}
    for name, parameter in model.named_parameters():
        theirs = "grad." + table.theirs(name.removeprefix("swin."))
        if theirs in case.expected:
            grads[theirs] = parameter.grad.reshape(case.expected[theirs].shape)
    assert len(grads) == sum(k.startswith("grad.") for k in case.expected), "some gradients were not compared"
    return grads


def stage_maps(model, patches, plans, batch: int) -> dict[str, torch.Tensor]:
    """The official intermediate maps: layers.N is a stage after its merge, as [B, tokens, C]."""
    x = model.embed(patches)
    maps = {"mid.patch_embed": x}
    if model.absolute_pos_embed is not None:
        x = x + F.embedding(plans.place, model.absolute_pos_embed[0])
    for number, stage in enumerate(model.layers):
        blocks = x
        for b, layer in enumerate(stage.blocks):
            plan = (plans.shifted if b % 2 else plans.windows)[number]
            blocks = layer(blocks, plan)
            maps[f"mid.layers.{number}.blocks.{b}"] = blocks
        x = blocks
        if stage.downsample is not None:
            x = stage.merge(x, plans.merges[number])
        maps[f"mid.layers.{number}"] = x
    maps["mid.norm"] = model.norm(x)
    return {name: x.reshape(batch, -1, x.shape[-1]) for name, x in maps.items()}


@pytest.mark.parametrize("backend", ["cpu", "reference"])
@pytest.mark.parametrize(("name", "layout"), [("01a_swin_v1_ms", "official"), ("03a_swin_v1_timm", "timm")])
def test_swin(golden, monkeypatch, name: str, layout: str, backend: str) -> None:
    use_backend(monkeypatch, backend)
    case = golden(name)
    model = SwinForImageClassification(config_of(case)).eval()
    report = load_weights(model, case.weights, layout)
    assert not report.missing and not report.unexpected and not report.resized

    x = case.inputs["x"].requires_grad_()
    output = model(x, labels=case.inputs["labels"])
    output.loss.backward()
    got = {"out.logits": output.logits, "out.loss": output.loss} | gradients(case, model, layout)
    if "gin.x" in case.expected:
        got["gin.x"] = x.grad
    pooled = "out.pooled" if layout == "official" else "out.pre_logits"
    got[pooled] = output.pooler_output
    if "out.features_nhwc" in case.expected:
        got["out.features_nhwc"] = output.last_hidden_state.reshape(case.expected["out.features_nhwc"].shape)
    with torch.no_grad():
        maps = stage_maps(model.swin, *model.swin.pack(x), batch=len(x))
    if layout == "timm":  # merges at the start of a stage, maps as [B, H, W, C]
        after_blocks = f"mid.layers.0.blocks.{len(model.swin.layers[0].blocks) - 1}"
        maps = {"mid.layers.0": maps[after_blocks], "mid.layers.1.downsample": maps["mid.layers.0"]}
    for name, tensor in maps.items():
        if name in case.expected:
            got[name] = tensor.reshape(case.expected[name].shape)
    case.check(got)


@pytest.mark.parametrize("backend", ["cpu", "reference"])
def test_simmim(golden, monkeypatch, backend: str) -> None:
    use_backend(monkeypatch, backend)
    case = golden("06a_simmim_swin_v1_ms")
    config = config_of(case)
    objective = get_objective("mim")(config, mask_patch_size=config.total_stride)
    model = MaskedSignalModel.create(config, objective).eval()
    load_weights(model, case.weights, "official")

    x, mask = case.inputs["x"].requires_grad_(), case.inputs["mask"].bool()
    patches, plans = model.encoder.pack(x)
    output = model(patches=patches, plans=plans, mask=mask.flatten())
    loss = output.loss_sum / output.num_targets
    loss.backward()
    encoded = []
    model.encoder.norm.register_forward_hook(lambda module, args, result: encoded.append(result))
    with torch.no_grad():
        model(patches=patches, plans=plans, mask=mask.flatten())
    h, w = (side // config.total_stride for side in x.shape[-2:])
    features = encoded[0].view(len(x), h, w, -1).permute(0, 3, 1, 2)
    squares = model.head.decoder(encoded[0])
    pixels = squares.view(len(x), h, w, config.in_chans, config.total_stride, -1)
    reconstruction = unpatchify(
        output.prediction.view(len(x), -1, patches.shape[1]),
        mask.shape[1:],
        config.patch_size,
        config.in_chans,
    )
    assert torch.equal(pixels.permute(0, 3, 1, 4, 2, 5).reshape(x.shape), reconstruction)
    case.check(
        {
            "out.loss": loss,
            "out.encoded": features,
            "out.reconstruction": reconstruction,
            "gin.x": x.grad,
            **gradients(case, model, "official"),
        }
    )


def use_backend(monkeypatch: pytest.MonkeyPatch, backend: str) -> None:
    monkeypatch.setattr(block, "attention", functools.partial(block.attention, backend=backend))
