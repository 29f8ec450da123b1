"""Swin V1, V2, SimMIM, ViT and BEiT against the published implementations: outputs, intermediate maps, gradients."""

import functools
import re
from typing import Any

import golden_cases
import pytest
import torch
import torch.nn.functional as F

from unitrans.models import (
    SwinBackbone,
    SwinForImageClassification,
    SwinModel,
    Swinv2Backbone,
    Swinv2ForImageClassification,
    Swinv2Model,
    VitForImageClassification,
    VitModel,
)
from unitrans.models._encoder import encoder_of
from unitrans.models.convert import config_from, export_tensors, load_weights
from unitrans.nn import block, unpatchify
from unitrans.objectives import MaskedSignalModel, get_objective
from unitrans.objectives.mim import local_statistics

MODELS: dict[tuple[str, str], Any] = {
    ("classifier", "swin"): SwinForImageClassification,
    ("classifier", "swinv2"): Swinv2ForImageClassification,
    ("classifier", "vit"): VitForImageClassification,
    ("encoder", "swin"): SwinModel,
    ("encoder", "swinv2"): Swinv2Model,
    ("encoder", "vit"): VitModel,
    ("backbone", "swin"): SwinBackbone,
    ("backbone", "swinv2"): Swinv2Backbone,
}


def cases(*kinds: str) -> Any:
    """The cases of these kinds, on both backends."""
    found = [case for case in golden_cases.vision_cases() if case[1] in kinds]
    if not found:
        missing = pytest.mark.skip(reason=f"no golden case of the kind {' or '.join(kinds)} is there")
        found = [pytest.param("none", kinds[0], "official", "swin", marks=missing)]
    named = pytest.mark.parametrize(("name", "kind", "layout", "family"), found)
    both = pytest.mark.parametrize("backend", ["cpu", "reference"])
    return lambda test: named(both(test))


def config_of(case, layout: str, family: str, **changes: Any) -> Any:
    """Our configuration from the recorded constructor arguments."""
    recorded = dict(case.meta["constructor"])
    cls = str(recorded.pop("cls", ""))
    recorded.pop("attn_implementation", None)
    eps = re.search(r"eps=([\d.e-]+)", f"{cls} {recorded.get('norm_layer')}")
    if eps and layout != "hf5":
        recorded.setdefault("norm_eps", float(eps.group(1)))
    rates = {"torchvision": "stochastic_depth_prob"}
    recorded = {rates.get(layout, "drop_path_rate"): 0.0} | recorded
    if layout == "hf5":
        recorded.setdefault("architectures", [cls.partition("(")[0].rpartition(".")[2]])
    return config_from(layout, recorded, family, **changes)


def build(case, kind: str, layout: str, family: str, **changes: Any) -> Any:
    """Our model with the weights of a case, every one of them."""
    model = MODELS[kind, family](config_of(case, layout, family, **changes)).eval()
    report = load_weights(model, case.weights, layout)
    assert not report.missing and not report.unexpected
    assert not [line for line in report.resized if "absolute_pos_embed" not in line]
    return model


def whole_patches(x: torch.Tensor, config: Any) -> torch.Tensor:
    """An image as timm and torchvision see it: without what does not fill a patch."""
    p = config.patch_size
    return x if config.pads_images else x[..., : x.shape[-2] // p * p, : x.shape[-1] // p * p]


def check(case, got: dict[str, torch.Tensor], *needed: str) -> None:
    """Compare what is recorded; each of `needed` must be, where it is."""
    known = {name: tensor for name, tensor in got.items() if name in case.expected}
    assert {name for name in needed if name in case.expected} <= known.keys()
    assert any(name.startswith("out.") for name in known), f"nothing to compare in {sorted(case.expected)}"
    case.check(known)


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


@cases("classifier", "encoder")
def test_encoder(golden, monkeypatch, name: str, kind: str, layout: str, family: str, backend: str) -> None:
    """BEiT adds relative positions per block on a rectangular grid, separate biases and layer scale."""
    use_backend(monkeypatch, backend)
    case = golden(name)
    model = build(case, kind, layout, family)
    x = case.inputs["x" if "x" in case.inputs else "pixel_values"].requires_grad_()
    seen = whole_patches(x, model.config)
    output = model(seen, labels=case.inputs["labels"]) if kind == "classifier" else model(seen)
    got = {"out.logits": output.logits, "out.loss": output.loss}
    if output.loss is not None and "labels" in case.inputs:
        output.loss.backward()
        got |= gradients(case, model, layout) | {"gin.x": x.grad}
    rows = encoder_of(model)(seen)
    for pooled in ("out.pooled", "out.pre_logits", "out.pooler_output"):
        got[pooled] = rows.pooler_output
    got |= {"out.features": rows.last_hidden_state, "out.last_hidden_state": rows.last_hidden_state}
    if family != "vit":
        got |= swin_maps(case, getattr(model, "swin", model), seen, layout)
    for key, tensor in got.items():
        if tensor is not None and key in case.expected and tensor.numel() == case.expected[key].numel():
            got[key] = tensor.reshape(case.expected[key].shape)
    check(case, {key: tensor for key, tensor in got.items() if tensor is not None}, "out.logits", "out.loss")


def swin_maps(case, model, x: torch.Tensor, layout: str) -> dict[str, torch.Tensor]:
    """The maps between the stages under the names of a case, those that it has."""
    with torch.no_grad():
        patches, plans = model.pack(x)
        maps = stage_maps(model, patches, plans, batch=len(x))
    if layout == "timm":  # merges at the start of a stage, maps as [B, H, W, C]
        after_blocks = f"mid.layers.0.blocks.{len(model.layers[0].blocks) - 1}"
        maps = {
            "mid.layers.0": maps[after_blocks],
            "mid.layers.1.downsample": maps["mid.layers.0"],
            "out.features_nhwc": maps["mid.norm"],
        }
    if layout == "hf5":  # maps as [B, C, H, W], after the merges
        names = ["mid.patch_embed", *(f"mid.layers.{n}" for n in range(len(model.layers)))]
        theirs = {f"out.reshaped_hidden_states_{n}": name for n, name in enumerate(names)}
        maps = {
            key: as_map(maps[name], case.expected[key])
            for key, name in theirs.items()
            if key in case.expected
        }
    found = {key: rows for key, rows in maps.items() if key in case.expected}
    if case.meta["case"] in [name for name, *_ in golden_cases.KNOWN]:
        assert found, "no map was compared"
    return {key: rows for key, rows in found.items() if rows.numel() == case.expected[key].numel()}


@cases("backbone")
def test_backbone(golden, monkeypatch, name: str, kind: str, layout: str, family: str, backend: str) -> None:
    """Feature maps of detection and segmentation code, whatever they are called there, in their order."""
    use_backend(monkeypatch, backend)
    case = golden(name)
    x = case.inputs["x" if "x" in case.inputs else "pixel_values"]
    fixed = case.meta["constructor"].get("ape") or case.meta["constructor"].get("use_absolute_embeddings")
    model = build(case, kind, layout, family, **({"image_size": list(x.shape[-2:])} if fixed else {}))
    maps = model(x)
    wanted = sorted((key for key in case.expected if key.startswith("out.")), key=natural)
    wanted = [key for key in wanted if case.expected[key].dim() == 4]
    assert len(wanted) == len(maps)
    case.check(dict(zip(wanted, maps, strict=True)))


def natural(name: str) -> list[Any]:
    """Numbers in a name count as numbers."""
    return [int(part) if part.isdigit() else part for part in re.split(r"(\d+)", name)]


def as_map(rows: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    """[B, h*w, C] -> [B, C, h, w]."""
    return rows.view(len(rows), *like.shape[2:], -1).permute(0, 3, 1, 2)


@cases("masked")
def test_masked(golden, monkeypatch, name: str, kind: str, layout: str, family: str, backend: str) -> None:
    use_backend(monkeypatch, backend)
    case = golden(name)
    cls, config = str(case.meta["constructor"]["cls"]), config_of(case, layout, family)
    normalised = "extra.norm_targets_47" in case.expected or "ENABLE=True" in cls
    window = re.search(r"ENABLE=True, PATCH_SIZE=(\d+)", cls)
    objective = get_objective("mim")(
        config,
        mask_patch_size=config.total_stride,
        norm_target=normalised,
        norm_target_window=int(window.group(1)) if window else 47,
    )
    model = MaskedSignalModel.create(config, objective).eval()
    load_weights(model, case.weights, layout)

    x = case.inputs["x" if "x" in case.inputs else "pixel_values"].requires_grad_()
    mask = case.inputs["mask" if "mask" in case.inputs else "bool_masked_pos"].bool()
    patches, plans = model.encoder.pack(x)
    grid = tuple(side // config.patch_size for side in x.shape[-2:])
    batch = {"patches": patches, "plans": plans, "mask": mask.flatten()}
    if normalised:
        batch["grids"] = [grid] * len(x)
    encoded = []
    model.head.decoder.register_forward_pre_hook(lambda module, args: encoded.append(args[0]))
    output = model(**batch)
    loss = output.loss_sum / output.num_targets
    loss.backward()
    h, w = (side // config.total_stride for side in x.shape[-2:])
    features = encoded[0].view(len(x), h, w, -1).permute(0, 3, 1, 2)
    pixels = model.head.decoder(encoded[0]).view(len(x), h, w, config.in_chans, config.total_stride, -1)
    reconstruction = pixels.permute(0, 3, 1, 4, 2, 5).reshape(x.shape)
    prediction = output.prediction.view(len(x), -1, patches.shape[1])
    shown = unpatchify(prediction, grid, config.patch_size, config.in_chans)
    got = {"out.loss": loss, "out.encoded": features, "out.reconstruction": reconstruction}
    if normalised:
        for side in (47, 7):
            mean, deviation = local_statistics(x, side)
            got[f"extra.norm_targets_{side}"] = (x - mean) / deviation
        mean, deviation = local_statistics(x, objective.options.norm_target_window)
        torch.testing.assert_close(shown, reconstruction * deviation + mean)
    else:
        assert torch.equal(shown, reconstruction)
    got["gin.x"] = x.grad
    check(case, got | gradients(case, model, layout), "out.loss", "out.reconstruction", "gin.x")


def use_backend(monkeypatch: pytest.MonkeyPatch, backend: str) -> None:
    call = functools.partial(block.attention_qkvpacked, backend=backend)
    monkeypatch.setattr(block, "attention_qkvpacked", call)
