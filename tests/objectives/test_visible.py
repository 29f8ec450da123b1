"""Encoding visible tokens only: the same numbers as all tokens with the hidden ones cut off from them."""

import dataclasses
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from unitrans.domains import get_domain
from unitrans.models import SwinConfig, SwinModel, Swinv2Config, Swinv2Model, VitConfig, VitModel
from unitrans.nn import patchify
from unitrans.objectives import MaskedSignalModel, get_objective
from unitrans.objectives.mim import unit_mask
from unitrans.ops import Plan

SWIN = {"image_size": 48, "patch_size": 2, "embed_dim": 16, "depths": (2, 2, 2), "num_heads": (1, 2, 4)}
CASES = {
    "swin": (SwinModel, SwinConfig(**SWIN, window_size=5, drop_path_rate=0.0)),
    "swin-ape": (SwinModel, SwinConfig(**SWIN, window_size=4, drop_path_rate=0.0, ape=True)),
    "swinv2": (Swinv2Model, Swinv2Config(**SWIN, window_size=5, drop_path_rate=0.0)),
    "vit": (VitModel, VitConfig(image_size=48, patch_size=8, embed_dim=16, depth=2, num_heads=2)),
    "vit-relative": (
        VitModel,
        VitConfig(
            image_size=48,
            patch_size=8,
            embed_dim=16,
            depth=2,
            num_heads=2,
            cls_token=False,
            pooling="mean",
            ape=False,
            relative_position="per_layer",
        ),
    ),
}


def encoder_of(case: str) -> Any:
    torch.manual_seed(0)
    model, config = CASES[case]
    encoder = model(config).eval()
    with torch.no_grad():
        for parameter in encoder.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    return encoder


def images_of(
    config: Any, sizes: list[tuple[int, int]]
) -> tuple[Tensor, list[tuple[int, int]], list[Tensor]]:
    """Patches, grids and what is visible of images of these sizes; units are the encoder's total stride."""
    generator = torch.Generator().manual_seed(1)
    images = [torch.randn(3, *size, generator=generator) for size in sizes]
    p, unit = config.patch_size, config.total_stride // config.patch_size
    grids = [(h // p, w // p) for h, w in sizes]
    visible = [
        ~torch.from_numpy(unit_mask(grid, unit, 0.6, np.random.default_rng(i)))
        for i, grid in enumerate(grids)
    ]
    return torch.cat([patchify(image, p) for image in images]), grids, visible


def sizes_of(case: str) -> list[tuple[int, int]]:
    """Images of several sizes, some not multiples of a unit, where the encoder takes such."""
    if CASES[case][1].__dict__.get("ape"):
        return [(48, 48), (48, 48)]
    if case == "vit-relative":
        return [(48, 48), (40, 24), (40, 24)]
    return [(48, 48), (44, 46), (44, 46), (56, 24)]


@pytest.mark.parametrize("case", CASES)
def test_nothing_hidden_is_bit_equal(case: str) -> None:
    encoder = encoder_of(case)
    patches, grids, visible = images_of(encoder.config, sizes_of(case))
    everything = [torch.ones_like(part) for part in visible]
    want = encoder(patches=patches, plans=encoder.config.plans(grids))
    got = encoder(patches=patches, plans=encoder.config.plans(grids, everything))
    assert torch.equal(got.last_hidden_state, want.last_hidden_state)
    assert torch.equal(got.pooler_output, want.pooler_output)


def cut_off(plan: Plan, hidden: Tensor) -> Plan:
    """The plan with every group split into its visible and its hidden rows, at the places they had."""
    cu, index, position = (
        plan.cu_seqlens,
        plan._queries().explicit_index(),
        plan._queries().explicit_position(),
    )
    group = torch.arange(plan.num_groups).repeat_interleave(cu.diff())
    key = group * 2 + hidden[index.long()]
    order = torch.argsort(key, stable=True)
    sizes = torch.bincount(key, minlength=2 * plan.num_groups)
    return dataclasses.replace(
        plan,
        cu_seqlens=torch.cat([cu[:1], sizes.cumsum(0).int()]),
        token_index=index[order],
        position=position[order],
        bias_offset=None if plan.bias_offset is None else plan.bias_offset.repeat_interleave(2),
        bias_row_stride=None if plan.bias_row_stride is None else plan.bias_row_stride.repeat_interleave(2),
    )


def separated(encoder: Any, plans: Any, visible: list[Tensor]) -> tuple[Any, Tensor]:
    """Plans of all tokens in which visible and hidden ones never meet, and which of the last rows are visible."""
    if isinstance(encoder, VitModel):
        seen = torch.cat([part.flatten() for part in visible])
        rows = torch.ones(plans.sample_index.shape, dtype=torch.bool)
        if plans.tokens is not None:
            rows = torch.where(plans.tokens.index < 0, True, seen[plans.tokens.index.clamp(min=0)])
        else:
            rows = seen
        return dataclasses.replace(plans, groups=cut_off(plans.groups, ~rows)), rows
    stages, rows = [torch.cat([part.flatten() for part in visible])], []
    for merge in plans.merges:
        quads = merge.index.view(-1, 4)
        stages.append((stages[-1][quads.clamp(min=0)] & (quads >= 0)).any(1))
    windows = [cut_off(plan, ~rows) for plan, rows in zip(plans.windows, stages, strict=True)]
    shifted = [cut_off(plan, ~rows) for plan, rows in zip(plans.shifted, stages, strict=True)]
    return dataclasses.replace(plans, windows=windows, shifted=shifted), stages[-1]


@pytest.mark.parametrize("case", CASES)
def test_hidden_tokens_cut_off_give_the_same_outputs_and_gradients(case: str) -> None:
    encoder = encoder_of(case)
    patches, grids, visible = images_of(encoder.config, sizes_of(case))
    cut, rows = separated(encoder, encoder.config.plans(grids), visible)
    want = encoder(patches=patches, plans=cut).last_hidden_state[rows]
    got = encoder(patches=patches, plans=encoder.config.plans(grids, visible)).last_hidden_state
    assert 0 < len(got) < len(rows)
    torch.testing.assert_close(got, want, rtol=0, atol=1e-5)
    weight = torch.randn_like(want)
    parameters = dict(encoder.named_parameters())
    wanted = torch.autograd.grad((want * weight).sum(), list(parameters.values()), allow_unused=True)
    found = torch.autograd.grad((got * weight).sum(), list(parameters.values()), allow_unused=True)
    for name, ours, theirs in zip(parameters, found, wanted, strict=True):
        assert (ours is None) == (theirs is None), name
        if ours is not None:
            assert ours.abs().max() > 0, name
            limit = 1e-5 * max(1.0, float(theirs.abs().max()))
            torch.testing.assert_close(ours, theirs, rtol=0, atol=limit, msg=lambda m, n=name: f"{n}: {m}")
    with_others = encoder(patches=patches, plans=encoder.config.plans(grids)).last_hidden_state[rows]
    assert (with_others - want).abs().max() > 1e-2, "cutting off must change something"


@pytest.mark.parametrize("case", CASES)
def test_every_hidden_pixel_is_predicted_and_none_is_seen(case: str) -> None:
    """Whole training steps through the domain: all weights get gradients, hidden pixels change no prediction."""
    torch.manual_seed(0)
    config, sizes = CASES[case][1], sizes_of(case)
    objective = get_objective("mim")(
        config, mask_patch_size=config.total_stride, encoder_tokens="visible", decoder_depth=2
    )
    model = MaskedSignalModel.create(config, objective)
    samples = [
        objective.corrupt({"id": str(i), "image": torch.randn(3, *size)}, np.random.default_rng(i))
        for i, size in enumerate(sizes)
    ]
    batch = get_domain("vision").collate(samples, config)
    batch = {key: batch[key] for key in model.batch_keys() if key in batch}
    output = model(**batch)
    assert output.num_targets == batch["mask"].sum() * batch["patches"].shape[1]
    output.loss_sum.backward()
    assert not [name for name, p in model.named_parameters() if p.grad is None]
    changed = torch.where(batch["mask"][:, None], torch.randn_like(batch["patches"]), batch["patches"])
    again = model(**batch | {"patches": changed}).prediction
    assert torch.equal(output.prediction, again)
    other = batch["patches"].clone()
    other[~batch["mask"]] += torch.randn_like(other[~batch["mask"]])
    moved = model(**batch | {"patches": other}).prediction - output.prediction
    assert moved[batch["mask"]].abs().max() > 1e-3


def test_plans_of_a_batch_are_those_of_its_images() -> None:
    encoder = encoder_of("swin")
    patches, grids, visible = images_of(encoder.config, sizes_of("swin"))
    together = encoder(patches=patches, plans=encoder.config.plans(grids, visible)).last_hidden_state
    start, alone = 0, []
    for grid, seen in zip(grids, visible, strict=True):
        rows = patches[start : start + grid[0] * grid[1]]
        alone.append(encoder(patches=rows, plans=encoder.config.plans([grid], [seen])).last_hidden_state)
        start += len(rows)
    torch.testing.assert_close(together, torch.cat(alone), rtol=0, atol=1e-5)


def test_wrong_settings_are_named() -> None:
    config = CASES["swin"][1]
    with pytest.raises(ValueError, match=r"mask_patch_size: .* total stride 8, .* got 4"):
        get_objective("mim")(config, mask_patch_size=4, encoder_tokens="visible")
    with pytest.raises(ValueError, match=r"decoder_depth: .* expected 1 or more"):
        get_objective("mim")(config, mask_patch_size=8, encoder_tokens="visible", decoder_depth=0)
    with pytest.raises(ValueError, match=r"decoder_num_heads: expected a divisor of .* 64, got 5"):
        get_objective("mim")(config, mask_patch_size=8, decoder_num_heads=5)
    half = torch.zeros(24, 24, dtype=torch.bool)
    half[:4, :3] = True
    with pytest.raises(ValueError, match="visible: expected whole units"):
        config.plans([(24, 24)], [half])
    with pytest.raises(ValueError, match=r"visible: expected bool \[24, 24\]"):
        config.plans([(24, 24)], [half[:8]])
    padded = SwinConfig(**SWIN, window_size=5, pad_mode="pad_then_roll")
    with pytest.raises(ValueError, match="pad_mode: expected none"):
        padded.plans([(24, 24)], [torch.ones(24, 24, dtype=torch.bool)])
