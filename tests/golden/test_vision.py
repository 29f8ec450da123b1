"""Swin V1, V2, SimMIM, ViT and BEiT against the published implementations: outputs, intermediate maps, gradients."""

import functools
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from unitrans.models import (
    SwinForImageClassification,
    Swinv2Config,
    Swinv2ForImageClassification,
    VitForImageClassification,
)
from unitrans.models.convert import export_tensors, load_weights
from unitrans.models.convert_config import config_from
from unitrans.nn import block, unpatchify
from unitrans.objectives import MaskedSignalModel, get_objective
from unitrans.objectives.mim import local_statistics


def config_of(case, layout: str, family: str | None = None) -> Any:
    """Our configuration from the recorded constructor arguments."""
    arguments = {
        k: v
        for k, v in case.meta["constructor"].items()
        if k not in ("cls", "attn_implementation", "norm_eps")
    }
    return config_from(layout, {"drop_path_rate": 0.0} | arguments, family)


def gradients(case, model, layout: str) -> dict[str, torch.Tensor]:
    """Parameter gradients under the names and in the shapes of the case."""
    grads = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    exported = {f"grad.{name}": g for name, g in export_tensors(model, grads, layout).items()}
    found = {name: g for name, g in exported.items() if name in case.expected}
    assert len(found) == sum(k.startswith("grad.") for k in case.expected), "some gradients were not compared"
    return found


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
            pads = (plans.shifted_pads if b % 2 else plans.window_pads)[number]
            blocks = layer(blocks, plan, pads=pads)
            maps[f"mid.layers.{number}.blocks.{b}"] = blocks
        x = blocks
        if stage.downsample is not None:
            x = stage.merge(x, plans.merges[number])
        maps[f"mid.layers.{number}"] = x
    maps["mid.norm"] = model.norm(x)
    return {name: x.reshape(batch, -1, x.shape[-1]) for name, x in maps.items()}


CASES = [
    ("01a_swin_v1_ms", "official", "swin"),
    ("02b_swin_v1_hf_pad_60x44_w4", "hf5", "swin"),
    ("03a_swin_v1_timm", "timm", "swin"),
    ("04a_swin_v2_ms", "official", "swinv2"),
    ("05b_swin_v2_timm", "timm", "swinv2"),
]


@pytest.mark.parametrize("backend", ["cpu", "reference"])
@pytest.mark.parametrize(("name", "layout", "family"), CASES)
def test_swin(golden, monkeypatch, name: str, layout: str, family: str, backend: str) -> None:
    use_backend(monkeypatch, backend)
    case = golden(name)
    config = config_of(case, layout, family)
    kind = Swinv2ForImageClassification if isinstance(config, Swinv2Config) else SwinForImageClassification
    model = kind(config).eval()
    report = load_weights(model, case.weights, layout)
    assert not report.missing and not report.unexpected and not report.resized

    x = case.inputs["x"].requires_grad_()
    output = model(x, labels=case.inputs["labels"])
    output.loss.backward()
    got = {"out.logits": output.logits, "out.loss": output.loss} | gradients(case, model, layout)
    if "gin.x" in case.expected:
        got["gin.x"] = x.grad
    pooled = {"official": "out.pooled", "timm": "out.pre_logits", "hf5": "out.pooler_output"}[layout]
    got[pooled] = output.pooler_output
    with torch.no_grad():
        maps = stage_maps(model.swin, *model.swin.pack(x), batch=len(x))
    if layout == "timm":  # merges at the start of a stage, maps as [B, H, W, C]
        after_blocks = f"mid.layers.0.blocks.{len(model.swin.layers[0].blocks) - 1}"
        maps = {
            "mid.layers.0": maps[after_blocks],
            "mid.layers.1.downsample": maps["mid.layers.0"],
            "out.features_nhwc": output.last_hidden_state,
        }
    if layout == "hf5":  # maps as [B, C, H, W], after the merges
        maps = {
            f"out.reshaped_hidden_states_{n}": as_map(
                maps[name], case.expected[f"out.reshaped_hidden_states_{n}"]
            )
            for n, name in enumerate(("mid.patch_embed", "mid.layers.0", "mid.layers.1"))
        } | {"out.last_hidden_state": output.last_hidden_state}
    compared = 0
    for name, tensor in maps.items():
        if name in case.expected and tensor.numel() == case.expected[name].numel():
            got[name] = tensor.reshape(case.expected[name].shape)
            compared += 1
    assert compared >= 1, "no map was compared"
    case.check(got)


def as_map(rows: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    """[B, h*w, C] -> [B, C, h, w]."""
    return rows.view(len(rows), *like.shape[2:], -1).permute(0, 3, 1, 2)


@pytest.mark.parametrize("backend", ["cpu", "reference"])
@pytest.mark.parametrize(
    ("name", "family"), [("06a_simmim_swin_v1_ms", "swin"), ("06b_simmim_swin_v2_ms_normtarget", "swinv2")]
)
def test_simmim(golden, monkeypatch, name: str, family: str, backend: str) -> None:
    use_backend(monkeypatch, backend)
    case = golden(name)
    config, normalised = config_of(case, "official", family), "extra.norm_targets_47" in case.expected
    objective = get_objective("mim")(config, mask_patch_size=config.total_stride, norm_target=normalised)
    model = MaskedSignalModel.create(config, objective).eval()
    load_weights(model, case.weights, "official")

    x, mask = case.inputs["x"].requires_grad_(), case.inputs["mask"].bool()
    patches, plans = model.encoder.pack(x)
    batch = {"patches": patches, "plans": plans, "mask": mask.flatten()}
    if normalised:
        batch["grids"] = [mask.shape[1:]] * len(x)
    encoded = []
    model.encoder.norm.register_forward_hook(lambda module, args, result: encoded.append(result))
    output = model(**batch)
    loss = output.loss_sum / output.num_targets
    loss.backward()
    h, w = (side // config.total_stride for side in x.shape[-2:])
    features = encoded[0].view(len(x), h, w, -1).permute(0, 3, 1, 2)
    pixels = model.head.decoder(encoded[0]).view(len(x), h, w, config.in_chans, config.total_stride, -1)
    reconstruction = pixels.permute(0, 3, 1, 4, 2, 5).reshape(x.shape)
    shown = unpatchify(
        output.prediction.view(len(x), -1, patches.shape[1]),
        mask.shape[1:],
        config.patch_size,
        config.in_chans,
    )
    got = {"out.loss": loss, "out.encoded": features, "out.reconstruction": reconstruction}
    if normalised:
        for window in (47, 7):
            mean, deviation = local_statistics(x, window)
            got[f"extra.norm_targets_{window}"] = (x - mean) / deviation
        mean, deviation = local_statistics(x, 47)
        torch.testing.assert_close(shown, reconstruction * deviation + mean)
    else:
        assert torch.equal(shown, reconstruction)
        got["gin.x"] = x.grad
    case.check(got | gradients(case, model, "official"))


@pytest.mark.parametrize("backend", ["cpu", "reference"])
@pytest.mark.parametrize(
    ("name", "layout"), [("11d_vit_timm", "timm"), ("13a_beit_ms_relpos_rect", "official")]
)
def test_vit(golden, monkeypatch, name: str, layout: str, backend: str) -> None:
    """BEiT adds relative positions per block on a rectangular grid, separate biases and layer scale."""
    use_backend(monkeypatch, backend)
    case = golden(name)
    model = VitForImageClassification(config_of(case, layout, "vit")).eval()
    report = load_weights(model, case.weights, layout)
    assert not report.missing and not report.unexpected and not report.resized
    output = model(case.inputs["x"], labels=case.inputs["labels"])
    output.loss.backward()
    got = {"out.logits": output.logits, "out.loss": output.loss} | gradients(case, model, layout)
    if layout == "timm":
        got["out.features"] = output.last_hidden_state.reshape(case.expected["out.features"].shape)
    else:
        got["out.pooled"] = output.pooler_output
    case.check(got)


def use_backend(monkeypatch: pytest.MonkeyPatch, backend: str) -> None:
    monkeypatch.setattr(block, "attention", functools.partial(block.attention, backend=backend))
