"""Which parameters decay."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from torch import nn

from unitrans.models import VitConfig
from unitrans.objectives import MaskedSignalModel, get_objective
from unitrans.training.config import RunConfig
from unitrans.training.optim import parameter_groups
from unitrans.training.session import open_session

TRAJECTORY = Path(__file__).parents[3] / "shared" / "golden" / "20_traj_simmim_swin"


def decay_of(model: nn.Module, **options: bool) -> dict[str, float]:
    groups = parameter_groups(model, 0.05, **options)
    return {name: group["weight_decay"] for group in groups for name, _ in group["params"]}  # type: ignore


def test_vectors_biases_tables_and_the_mask_token_do_not_decay(tiny: Callable[..., RunConfig]) -> None:
    model = open_session(tiny("model.ape=true")).model
    decay = decay_of(model)
    assert set(decay) == {name for name, _ in model.named_parameters()}
    assert decay["encoder.layers.0.blocks.0.attn.qkv.weight"] == 0.05
    assert decay["head.decoder.weight"] == 0.05
    for name, parameter in model.named_parameters():
        if parameter.ndim == 1 or name.endswith("bias") or "relative_position_bias_table" in name:
            assert decay[name] == 0.0, name
    assert decay["head.mask_token"] == decay["encoder.absolute_pos_embed"] == 0.0


def test_the_mask_token_of_a_vit_decays_as_in_official_simmim(tiny: Callable[..., RunConfig]) -> None:
    config = VitConfig(image_size=8, patch_size=4, embed_dim=8, depth=1, num_heads=1, in_chans=1)
    model = MaskedSignalModel.create(config, get_objective("mim")(config, mask_patch_size=4))
    decay = decay_of(model)
    assert decay["head.mask_token"] == 0.05
    assert decay["encoder.cls_token"] == decay["encoder.pos_embed"] == 0.0


def test_the_switch_decays_tables_as_official_simmim_does(tiny: Callable[..., RunConfig]) -> None:
    model = open_session(tiny("model.ape=true")).model
    without, with_tables = decay_of(model), decay_of(model, decay_bias_tables=True)
    changed = {name for name in without if without[name] != with_tables[name]}
    assert changed and all("relative_position_bias_table" in name for name in changed)


def test_frozen_parameters_are_left_out() -> None:
    model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    model[0].requires_grad_(False)
    assert set(decay_of(model)) == {"1.weight", "1.bias"}


def test_groups_as_in_the_official_run(tiny: Callable[..., RunConfig]) -> None:
    if not TRAJECTORY.is_dir():
        pytest.skip("golden case 20_traj_simmim_swin is not there (optional folder ../shared/golden)")
    official = json.loads((TRAJECTORY / "meta.json").read_text())["parameter_groups"]["weight_decay"]
    ours = decay_of(open_session(tiny("model.depths=[2, 2]")).model, decay_bias_tables=True)
    renamed = {
        name.replace("head.mask_token", "encoder.mask_token")
        .replace("head.decoder", "decoder.0")
        .replace("position_bias.relative_position_bias_table", "relative_position_bias_table"): value
        for name, value in ours.items()
    }
    assert renamed == official
