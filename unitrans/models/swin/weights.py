"""Weights and arguments of the published Swin and Swin V2, of timm, torchvision and transformers."""

import re
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

from torch import Tensor

from unitrans.models._image_weights import (
    CONSTRUCTOR,
    DERIVED,
    HF5_BLOCK,
    HF_NAMES,
    HF_NORMS,
    MIM_SIDES,
    OFFICIAL_HEADS,
    TABLE,
    check_hub,
    constructor_fields,
    hf_layout,
    hub_fields,
    square_side,
    to_hub,
)
from unitrans.models._weights import OWN, Format, Hub, some
from unitrans.models.images import pair
from unitrans.models.renames import HF4_MLP, HF4_NAMES, Layout, Rename, qkv, under
from unitrans.models.swin.config import SwinConfig, Swinv2Config
from unitrans.models.swin.told import told_fields

_CPB: tuple[Rename, ...] = (
    ("attn.cpb_mlp.{rest}", "attn.position_bias.cpb_mlp.{rest}"),
    ("attn.rpe_mlp.{rest}", "attn.position_bias.cpb_mlp.{rest}"),  # older files
)
_SWIN_BLOCK = "layers.{s}.blocks.{b}."
_TIMM_SWIN_HEADS: tuple[Rename, ...] = (("head.fc.{rest}", "head.{rest}"),)
_TIMM_MERGE: Rename = ("layers.{s+1}.downsample.{rest}", "layers.{s}.downsample.{rest}")


def _official(*block: Rename) -> Layout:
    return Layout(
        renames=under(_SWIN_BLOCK, _SWIN_BLOCK, block),
        heads=OFFICIAL_HEADS,
        masked_prefix="encoder.",
        derived=DERIVED,
        sides=MIM_SIDES,
    )


def _timm_swin(*block: Rename) -> Layout:
    return Layout(
        renames=(*under(_SWIN_BLOCK, _SWIN_BLOCK, block), _TIMM_MERGE),
        heads=_TIMM_SWIN_HEADS,
        derived=DERIVED,
    )


_TORCHVISION_BLOCK = "features.{2s+1}.{b}."


def _torchvision(*block: Rename, fused_bias: bool = False) -> Layout:
    mlp = (("mlp.0.{rest}", "mlp.fc1.{rest}"), ("mlp.3.{rest}", "mlp.fc2.{rest}"))
    return Layout(
        renames=(
            ("features.0.0.{rest}", "patch_embed.proj.{rest}"),
            ("features.0.2.{rest}", "patch_embed.norm.{rest}"),
            *under(_TORCHVISION_BLOCK, _SWIN_BLOCK, (*block, *mlp)),
            (_TORCHVISION_BLOCK + "{rest}", _SWIN_BLOCK + "{rest}"),
            ("features.{2s+2}.{rest}", "layers.{s}.downsample.{rest}"),
        ),
        derived=DERIVED,
        fused_bias=fused_bias,
    )


_HF4_BLOCK: tuple[Rename, ...] = (
    *HF_NORMS,
    (tuple(name + ".{rest}" for name in HF4_NAMES), "attn.qkv.{rest}"),
    ("attention.self.relative_position_bias_table", "attn.position_bias.relative_position_bias_table"),
    *HF4_MLP,
)
_HF_V2_BLOCK: tuple[Rename, ...] = (
    *HF_NORMS,
    qkv(HF4_NAMES, "weight"),
    ("attention.self.query.bias", "attn.q_bias"),
    ("attention.self.value.bias", "attn.v_bias"),
    ("attention.self.logit_scale", "attn.logit_scale"),
    ("attention.self.continuous_position_bias_mlp.{rest}", "attn.position_bias.cpb_mlp.{rest}"),
    *HF4_MLP,
)


def _hf_swin(base: str, block: Sequence[Rename], backbone: str | None = None) -> Layout:
    theirs, pos_embed = "encoder." + _SWIN_BLOCK, "absolute_pos_embed"
    return hf_layout(base, theirs, _SWIN_BLOCK, block, pos_embed=pos_embed, backbone=backbone)


_LAYOUTS = {
    "official": _official(TABLE),
    "timm": _timm_swin(TABLE),
    "torchvision": _torchvision(TABLE),
    "hf4": _hf_swin("swin.", _HF4_BLOCK),
    "hf5": _hf_swin("swin.", HF5_BLOCK),
}
_LAYOUTS_V2 = {
    "official": _official(*_CPB),
    "timm": _timm_swin(*_CPB),
    "torchvision": _torchvision(*_CPB[:1], fused_bias=True),
    "hf4": _hf_swin("swinv2.", _HF_V2_BLOCK, backbone=""),
    "hf5": _hf_swin("swinv2.", _HF_V2_BLOCK, backbone=""),
}


def _is_own(v2: bool, weights: Mapping[str, Tensor]) -> bool:
    """Whether these are the names of our own Swin of this version."""
    if some(weights, r"logit_scale$") != v2:
        return False
    windows = some(weights, r"^(encoder\.|swin\.)?layers\.\d+\.blocks\.\d+\.attn\.position_bias\.")
    return windows or some(weights, r"^swin\.patch_embed\.")


def _layout_of(v2: bool, weights: Mapping[str, Tensor]) -> str | None:
    """The layout of these weights; None where they are not of this version, or not of a Swin."""
    if some(weights, r"logit_scale$") != v2:
        return None
    if some(weights, r"^features\.1\.0\.attn\."):
        return "torchvision"
    if some(weights, r"layers\.\d+\.blocks\.\d+\.(attention|layernorm_before)\."):
        return "hf5" if some(weights, r"attention\.q_proj\.") else "hf4"
    if not some(weights, r"^(encoder\.)?layers\.\d+\.blocks\.\d+\.attn\."):
        return None
    stages = {int(m.group(1)) for name in weights if (m := re.search(r"layers\.(\d+)\.blocks\.", name))}
    last = f"layers.{max(stages)}.downsample."
    timm = "head.fc.weight" in weights or (max(stages) > 0 and some(weights, r"^" + re.escape(last)))
    return "timm" if timm else "official"


_WINDOWS = {
    "depths": "depths",
    "window_size": "window_size",
    "pretrained_window_sizes": "pretrained_window_sizes",
}
_HUB = {
    "embed_dim": "embed_dim",
    "num_heads": "num_heads",
    "drop_path_rate": "drop_path_rate",
    "use_absolute_embeddings": "ape",
}
_SAME = ("embed_dim", "depths", "num_heads", "window_size", "mlp_ratio", "patch_size")
#: source -> their name -> ours.
_NAMES: dict[str, dict[str, str]] = {
    "official": CONSTRUCTOR
    | _WINDOWS
    | {name: name for name in ("qk_scale", "drop_rate", "ape", "patch_norm", "out_indices")}
    | {"pretrain_img_size": "image_size"},
    "timm": CONSTRUCTOR | _WINDOWS | {"proj_drop_rate": "drop_rate"},
    "torchvision": {name: name for name in _SAME}
    | {"num_classes": "num_labels", "dropout": "drop_rate", "attention_dropout": "attn_drop_rate"}
    | {"stochastic_depth_prob": "drop_path_rate"},
    "hf": HF_NAMES | _HUB | _WINDOWS,
}
_NAMES |= {"hf4": _NAMES["hf"], "hf5": _NAMES["hf"]}


def _config(cls: type[SwinConfig], source: str, theirs: Mapping[str, Any], kind: str, **changes: Any) -> Any:
    """Our configuration; see `config_from`."""
    v2 = issubclass(cls, Swinv2Config)
    fields: dict[str, Any] = {"image_size": 224, "window_size": 7, "drop_path_rate": 0.1}
    if source in ("hf4", "hf5"):
        fields |= hub_fields(theirs, _NAMES["hf"])
        fields |= _from_hub(theirs, v2, fields)
    else:
        fields |= constructor_fields(source, "swinv2" if v2 else "swin", theirs, _NAMES[source])
        fields |= _from_constructor(source, theirs, fields)
    if not v2:
        fields.pop("pretrained_window_sizes", None)
    if fields.get("num_labels") == 0:
        del fields["num_labels"]
    return cls(**(fields | changes))


def _fields(
    own: Mapping[str, Tensor], weights: Mapping[str, Tensor]
) -> tuple[dict[str, Any], dict[str, str]]:
    v2 = some(weights, r"logit_scale$")
    layout = OWN if _is_own(v2, weights) else _layout_of(v2, weights)
    if layout in (None, OWN):
        return told_fields(own, weights, {})
    backbone = {"pretrain_img_size": 224} if some(own, r"^out_norms\.") and layout == "official" else {}
    config = _config(Swinv2Config if v2 else SwinConfig, layout, backbone, "")
    return told_fields(own, weights, {"pad_mode": config.pad_mode, "window_clamp": config.window_clamp})


def _from_constructor(source: str, theirs: Mapping[str, Any], fields: Mapping[str, Any]) -> dict[str, Any]:
    if source == "torchvision":
        patch = pair(fields.get("patch_size", 4), "patch_size")
        if patch[0] != patch[1]:
            raise ValueError(
                f"patch_size: expected a square, which our models are made for, got {list(patch)}"
            )
        return {"pad_mode": "pad_then_roll", "window_clamp": "padded", "patch_size": patch[0]}
    if source == "official" and "pretrain_img_size" in theirs:  # the backbone of the detection code
        out = {"out_indices": list(theirs["out_indices"])} if "out_indices" in theirs else {}
        return {"pad_mode": "pad_then_roll", "window_clamp": "never"} | out
    if source == "official":
        return {"pad_mode": "none", "window_clamp": "min"}
    dim, heads = fields.get("embed_dim", 96), fields.get("num_heads", (3, 6, 12, 24))
    dims = [dim * 2**stage // n for stage, n in enumerate(heads)]
    if theirs.get("head_dim") and set(dims) != {theirs["head_dim"]}:
        raise ValueError(
            f"head_dim: expected none, as ours is the width over num_heads ({dims}), got {theirs['head_dim']}"
        )
    clamp = "never" if theirs.get("always_partition") else "per_axis"
    patch = fields.get("patch_size", 4)
    height, width = (n // patch * patch for n in pair(fields.get("image_size", 224), "image_size"))
    size = height if height == width else [height, width]
    return {"pad_mode": "roll_then_pad", "window_clamp": clamp, "image_size": size}


def _from_hub(theirs: Mapping[str, Any], v2: bool, fields: Mapping[str, Any]) -> dict[str, Any]:
    backbone = any("Backbone" in name for name in theirs.get("architectures") or ())
    found: dict[str, Any] = {"pad_mode": "pad_then_roll"}
    if v2:
        found["window_clamp"] = "per_axis_floor"
        # Height decides for both axes there.
        found["image_size"] = pair(fields.get("image_size", 224), "image_size")[0]
    else:
        found["window_clamp"] = "never" if backbone else "min"
    if backbone:
        stages = _stages(theirs)
        found |= {"out_indices": [s - 1 if s > 0 else s for s in stages if s != 0], "out_stem": 0 in stages}
        found["out_norm"] = not v2
    return found


def _stages(theirs: Mapping[str, Any]) -> Sequence[int]:
    """Stages of a backbone as they count them: the patch embedding is 0, negative ones are from the end."""
    indices: Sequence[int] | None = theirs.get("out_indices")
    if indices is None and theirs.get("out_features"):
        names = ["stem", *(f"stage{stage + 1}" for stage in range(len(theirs["depths"])))]
        indices = [names.index(name) for name in theirs["out_features"]]
    return [-1] if indices is None else indices


def _to_hub(config: Any, architecture: str) -> dict[str, Any]:
    """The config.json of transformers. ValueError for a configuration that their models cannot compute."""
    v2 = isinstance(config, Swinv2Config)
    side = square_side(config)
    theirs = to_hub(config, _NAMES["hf"], "swinv2" if v2 else "swin", architecture)
    needed: dict[str, Any] = {"qk_scale": None, "patch_norm": True}
    divisible = all(
        here % config.window_size == 0
        for stage in range(len(config.depths))
        for here in [side // config.patch_size // 2**stage]
        if here > config.window_size
    )
    if not divisible:  # where windows do not fit the map, code bases differ
        needed |= {"pad_mode": "pad_then_roll", "window_clamp": "per_axis_floor" if v2 else "min"}
    check_hub(config, needed)
    return theirs | {"image_size": side, "encoder_stride": config.total_stride}


def _arguments(source: str, found: Any) -> dict[str, Any]:
    """Their arguments that say what weights cannot: the backbone of the detection code."""
    if found.kind == "backbone" and source == "official":
        return {"pretrain_img_size": found.fields.get("image_size", 224)}
    return {}


def _is_v2(theirs: Mapping[str, Any]) -> bool:
    return "pretrained_window_sizes" in theirs or "V2" in getattr(theirs.get("block"), "__name__", "")


_MODEL = "unitrans.models.swin.model"
SWIN = (
    Format(
        name="swin",
        own=partial(_is_own, False),
        titles=("Swin",),
        layouts=_LAYOUTS,
        layout_of=partial(_layout_of, False),
        fields=_fields,
        classes={
            "encoder": f"{_MODEL}:SwinModel",
            "classifier": f"{_MODEL}:SwinForImageClassification",
            "backbone": f"{_MODEL}:SwinBackbone",
        },
        sources=("official", "timm", "torchvision", "hf4", "hf5"),
        config=partial(_config, SwinConfig),
        names=_NAMES,
        arguments=_arguments,
        claims=lambda theirs: "depth" not in theirs and not _is_v2(theirs),
        hub=Hub(
            model_types={"swin": "SwinModel"},
            classes={
                "SwinModel": f"{_MODEL}:SwinModel",
                "SwinForImageClassification": f"{_MODEL}:SwinForImageClassification",
                "SwinBackbone": f"{_MODEL}:SwinBackbone",
            },
            heads={"mim": "SwinForMaskedImageModeling", "classification": "SwinForImageClassification"},
            config=_to_hub,
        ),
    ),
)
SWINV2 = (
    Format(
        name="swinv2",
        own=partial(_is_own, True),
        titles=("Swin V2",),
        layouts=_LAYOUTS_V2,
        layout_of=partial(_layout_of, True),
        fields=_fields,
        classes={
            "encoder": f"{_MODEL}:Swinv2Model",
            "classifier": f"{_MODEL}:Swinv2ForImageClassification",
            "backbone": f"{_MODEL}:Swinv2Backbone",
        },
        sources=("official", "timm", "torchvision", "hf4", "hf5"),
        config=partial(_config, Swinv2Config),
        names=_NAMES,
        arguments=_arguments,
        claims=_is_v2,
        hub=Hub(
            model_types={"swinv2": "Swinv2Model"},
            classes={
                "Swinv2Model": f"{_MODEL}:Swinv2Model",
                "Swinv2ForImageClassification": f"{_MODEL}:Swinv2ForImageClassification",
                "Swinv2Backbone": f"{_MODEL}:Swinv2Backbone",
            },
            heads={"mim": "Swinv2ForMaskedImageModeling", "classification": "Swinv2ForImageClassification"},
            config=_to_hub,
        ),
    ),
)
