"""What published names and arguments of image models have in common; the tables are in the folders of the families."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from unitrans.models.images import pair
from unitrans.models.renames import Layout, Rename, under

DERIVED = (r"relative_position_index$", r"attn_mask$", r"relative_coords_table$", r"attn\.k_bias$")
MIM_SIDES = ((r"mask_token$", (None, 0, 1)), (r"decoder\.0\.weight$", (0, 1, None, None)))

TABLE: Rename = ("attn.relative_position_bias_table", "attn.position_bias.relative_position_bias_table")
OFFICIAL_HEADS: tuple[Rename, ...] = (
    ("encoder.mask_token", "head.mask_token"),
    ("decoder.0.{rest}", "head.decoder.{rest}"),
    ("norm{s}.{rest}", "out_norms.{s}.{rest}"),
)
HF_NORMS: tuple[Rename, ...] = (
    ("layernorm_before.{rest}", "norm1.{rest}"),
    ("layernorm_after.{rest}", "norm2.{rest}"),
)
HF5_QKV: Rename = (
    tuple(f"attention.{part}_proj.{{rest}}" for part in "qkv"),
    "attn.qkv.{rest}",
)
HF5_BLOCK: tuple[Rename, ...] = (
    *HF_NORMS,
    HF5_QKV,
    ("attention.o_proj.{rest}", "attn.proj.{rest}"),
    ("attention.relative_position_bias.{rest}", "attn.position_bias.{rest}"),
)


def hf_layout(
    base: str, theirs: str, ours: str, block: Sequence[Rename], *, pos_embed: str, backbone: str | None = None
) -> Layout:
    return Layout(
        renames=(
            *under(theirs, ours, block),
            (theirs + "{rest}", ours + "{rest}"),
            ("encoder.layers.{s}.downsample.{rest}", "layers.{s}.downsample.{rest}"),
            ("embeddings.patch_embeddings.projection.{rest}", "patch_embed.proj.{rest}"),
            ("embeddings.norm.{rest}", "patch_embed.norm.{rest}"),
            ("embeddings.position_embeddings", pos_embed),
            ("embeddings.cls_token", "cls_token"),
            ("layernorm.{rest}", "norm.{rest}"),
        ),
        heads=(
            (base + "embeddings.mask_token", "head.mask_token"),
            ("decoder.0.{rest}", "head.decoder.{rest}"),
            ("classifier.{rest}", "head.{rest}"),
            ("hidden_states_norms.stem.{rest}", "out_norms.stem.{rest}"),
            ("hidden_states_norms.stage{s+1}.{rest}", "out_norms.{s}.{rest}"),
        ),
        prefix=base,
        backbone_prefix=backbone,
        derived=DERIVED,
        sides=MIM_SIDES,
    )


_SAME = "patch_size in_chans embed_dim num_heads mlp_ratio qkv_bias attn_drop_rate drop_path_rate".split()
CONSTRUCTOR = {"img_size": "image_size", "num_classes": "num_labels", "norm_eps": "layer_norm_eps"}
CONSTRUCTOR |= {name: name for name in _SAME}
HF_NAMES = {
    "image_size": "image_size",
    "patch_size": "patch_size",
    "num_channels": "in_chans",
    "mlp_ratio": "mlp_ratio",
    "qkv_bias": "qkv_bias",
    "hidden_dropout_prob": "drop_rate",
    "attention_probs_dropout_prob": "attn_drop_rate",
    "layer_norm_eps": "layer_norm_eps",
    "num_labels": "num_labels",
}

#: Arguments that change nothing that a model computes here, or that are read apart.
_READ_APART = (
    "use_checkpoint fused_window_process weight_init fix_init strict_img_size dynamic_img_size always_partition "
    "global_pool class_token fc_norm use_rel_pos_bias use_shared_rel_pos_bias use_mean_pooling init_scale head_dim "
    "frozen_stages drop_rate pos_drop_rate patch_drop_rate norm_layer act_layer embed_layer device dtype "
    "block downsample_layer"
).split()
#: Arguments of which our models have one value only.
_ONLY: dict[str, Any] = {
    "qk_norm": False,
    "scale_attn_norm": False,
    "scale_mlp_norm": False,
    "proj_bias": True,
    "pos_embed": "learn",
    "final_norm": True,
    "pool_include_prefix": False,
    "dynamic_img_pad": False,
}


def constructor_fields(
    source: str, family: str, theirs: Mapping[str, Any], names: Mapping[str, str]
) -> dict[str, Any]:
    """Constructor arguments that are only called otherwise here. ValueError for one that our models do not have."""
    for name, value in _ONLY.items():
        if theirs.get(name, value) != value:
            raise ValueError(
                f"{name}: expected {value!r}, which our models are made for, got {theirs[name]!r}"
            )
    unknown = [name for name in theirs if name not in {*names, *_READ_APART, *_ONLY}]
    if unknown:
        raise ValueError(f"{unknown[0]}: expected an argument of the {source} {family}, got an unknown one")
    return renamed_fields(theirs, names)


def hub_fields(theirs: Mapping[str, Any], names: Mapping[str, str]) -> dict[str, Any]:
    """Settings of transformers that are only called otherwise here. ValueError for another activation."""
    if theirs.get("hidden_act", "gelu") != "gelu":
        raise ValueError(f"hidden_act: expected 'gelu', got {theirs['hidden_act']!r}")
    found = renamed_fields(theirs, names)
    if "num_labels" not in theirs and theirs.get("id2label"):
        found["num_labels"] = len(theirs["id2label"])
    return found


def renamed_fields(theirs: Mapping[str, Any], names: Mapping[str, str]) -> dict[str, Any]:
    """What they set, by our names."""
    return {ours: theirs[name] for name, ours in names.items() if name in theirs}


def to_hub(config: Any, names: Mapping[str, str], model_type: str, architecture: str) -> dict[str, Any]:
    """Our settings by the names of transformers."""
    theirs = {
        name: getattr(config, ours)
        for name, ours in names.items()
        if ours != "num_labels" and hasattr(config, ours)
    }
    return theirs | {"architectures": [architecture], "model_type": model_type, "hidden_act": "gelu"}


def check_hub(config: Any, needed: Mapping[str, Any]) -> None:
    """ValueError for a setting that models of transformers do not have."""
    for name, value in needed.items():
        if hasattr(config, name) and getattr(config, name) != value:
            raise ValueError(
                f"{name}: models of transformers compute {value!r} only, got {getattr(config, name)!r}"
            )


def square_side(config: Any) -> int:
    """The side of image_size. ValueError for another shape."""
    height, width = pair(config.image_size, "image_size")
    if height != width:
        raise ValueError(f"image_size: models of transformers are square, got {config.image_size}")
    return height


def image_fields(own: Mapping[str, Tensor]) -> dict[str, Any]:
    proj = own["patch_embed.proj.weight"]
    fields: dict[str, Any] = {
        "embed_dim": proj.shape[0],
        "in_chans": proj.shape[1],
        "patch_size": proj.shape[2],
    }
    if "head.weight" in own:
        fields["num_labels"] = own["head.weight"].shape[0]
    return fields


def plain(window: tuple[int, int]) -> int | list[int]:
    return window[0] if window[0] == window[1] else list(window)


def width_of_index(index: Tensor) -> int:
    """Columns of a window, by the places in the table of the offsets from its first position: they fall by one along
    a row."""
    row = index.flatten()[: math.isqrt(index.numel())].tolist()
    width = 1
    while width < len(row) and row[width] == row[width - 1] - 1:
        width += 1
    return width


def set_square(fields: dict[str, Any], untold: dict[str, str], places: int, patch: int) -> None:
    side = math.isqrt(places)
    if side * side == places:
        fields["image_size"] = side * patch
    else:
        untold["image_size"] = f"[height, width] of {places} patches of {patch} pixels"
