"""Configurations of other code bases as ours, with the switches for where their arithmetic differs."""

from collections.abc import Mapping, Sequence
from typing import Any

from unitrans.models.bert import BertConfig
from unitrans.models.convert_graphormer import PUBLISHED_NAMES, graphormer_config
from unitrans.models.convert_text_config import (
    BERT_NAMES,
    GPT2_NAMES,
    TEXT_FAMILIES,
    text_config_from,
    text_config_to_hf,
)
from unitrans.models.gpt2 import Gpt2Config
from unitrans.models.graphormer import GraphormerConfig
from unitrans.models.images import pair
from unitrans.models.swin import SwinConfig
from unitrans.models.swinv2 import Swinv2Config
from unitrans.models.vit import VitConfig

ImageConfig = SwinConfig | Swinv2Config | VitConfig
Config = ImageConfig | BertConfig | Gpt2Config | GraphormerConfig

_SAME = "patch_size in_chans embed_dim num_heads mlp_ratio qkv_bias attn_drop_rate drop_path_rate".split()
_CONSTRUCTOR = {"img_size": "image_size", "num_classes": "num_labels", "norm_eps": "layer_norm_eps"}
_CONSTRUCTOR |= {name: name for name in _SAME}
_SWIN = {
    "depths": "depths",
    "window_size": "window_size",
    "pretrained_window_sizes": "pretrained_window_sizes",
}
_HF_NAMES = {
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
_HF_SWIN = {
    "embed_dim": "embed_dim",
    "num_heads": "num_heads",
    "drop_path_rate": "drop_path_rate",
    "use_absolute_embeddings": "ape",
}
_HF_VIT = {"hidden_size": "embed_dim", "num_hidden_layers": "depth", "num_attention_heads": "num_heads"}
_HF_BEIT = {name: ours for name, ours in (_HF_NAMES | _HF_VIT).items() if name != "qkv_bias"}
_HF_BEIT |= {"drop_path_rate": "drop_path_rate", "use_absolute_position_embeddings": "ape"}

#: source -> family -> their name -> ours.
_NAMES: dict[str, dict[str, dict[str, str]]] = {
    "official": {
        "swin": _CONSTRUCTOR
        | _SWIN
        | {name: name for name in ("qk_scale", "drop_rate", "ape", "patch_norm", "out_indices")}
        | {"pretrain_img_size": "image_size"},
        "vit": _CONSTRUCTOR
        | {
            "depth": "depth",
            "qk_scale": "qk_scale",
            "drop_rate": "drop_rate",
            "use_abs_pos_emb": "ape",
            "init_values": "layer_scale",
        },
    },
    "timm": {
        "swin": _CONSTRUCTOR | _SWIN | {"proj_drop_rate": "drop_rate"},
        "vit": _CONSTRUCTOR | {"depth": "depth", "proj_drop_rate": "drop_rate", "init_values": "layer_scale"},
    },
    "torchvision": {
        "swin": {
            name: name
            for name in ("embed_dim", "depths", "num_heads", "window_size", "mlp_ratio", "patch_size")
        }
        | {"num_classes": "num_labels", "dropout": "drop_rate", "attention_dropout": "attn_drop_rate"}
        | {"stochastic_depth_prob": "drop_path_rate"}
    },
    "hf": {"swin": _HF_NAMES | _HF_SWIN | _SWIN, "vit": _HF_NAMES | _HF_VIT, "beit": _HF_BEIT},
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
    "no_embed_class": False,
    "reg_tokens": 0,
    "pre_norm": False,
    "final_norm": True,
    "pool_include_prefix": False,
    "dynamic_img_pad": False,
}


def config_from(source: str, theirs: Mapping[str, Any], family: str | None = None, **changes: Any) -> Config:
    """Our configuration of a model of another code base.

    Args:
        source: "official", "timm" or "torchvision", whose constructor arguments are given; "hf4" or "hf5", whose
            config.json is; "v1" or "v2", the published versions of Graphormer, whose arguments are.
        theirs: their arguments; what is left out has their default.
        family: "swin", "swinv2" or "vit", and of transformers "vit_mae", "beit", "bert", "roberta" or "gpt2"; None:
            told by model_type, or by arguments that only one family has.
        changes: fields of ours that are set in the end.

    Returns:
        SwinConfig, Swinv2Config, VitConfig, BertConfig, Gpt2Config or GraphormerConfig. pad_mode and window_clamp of
        Swin are set as that code base computes: official none and min (pad_then_roll and never in its backbone for
        detection and segmentation, which is told by pretrain_img_size), timm roll_then_pad and per_axis,
        transformers pad_then_roll with min (V1), per_axis_floor (V2) or never (its backbone of V1), torchvision
        pad_then_roll and padded. timm and torchvision leave out what does not fill a patch: images have to be cut
        accordingly.

    Raises:
        ValueError: an unknown source, family or argument, or one whose value our models do not have.
    """
    if source in ("v1", "v2"):
        return graphormer_config(source, theirs, **changes)
    base = "hf" if source in ("hf4", "hf5") else source
    if base not in _NAMES or source == "hf":
        raise ValueError(
            f"source: expected one of 'official', 'timm', 'torchvision', 'hf4', 'hf5', 'v1', 'v2', got {source!r}"
        )
    family = family or _family_of(theirs)
    if family in TEXT_FAMILIES and base == "hf":
        return text_config_from(theirs, family, **changes)
    if family == "vit_mae":
        family, changes = "vit", {"fixed_positions": True, "init": "mae"} | changes
    known = ("swin", "swinv2", *(name for name in ("vit", "beit") if name in _NAMES[base]))
    if family not in known:
        raise ValueError(f"family: expected one of {', '.join(map(repr, known))}, got {family!r}")
    names = _names(base, family)
    fields = _defaults(base, family) | {ours: theirs[name] for name, ours in names.items() if name in theirs}
    if base == "hf":
        fields |= _from_hf(theirs, family, fields)
    else:
        for name, value in _ONLY.items():
            if theirs.get(name, value) != value:
                raise ValueError(
                    f"{name}: expected {value!r}, which our models are made for, got {theirs[name]!r}"
                )
        unknown = [name for name in theirs if name not in {*names, *_READ_APART, *_ONLY}]
        if unknown:
            raise ValueError(
                f"{unknown[0]}: expected an argument of the {source} {family}, got an unknown one"
            )
        fields |= _from_constructor(base, theirs, family, fields)
    classes: dict[str, type[ImageConfig]] = {"swin": SwinConfig, "swinv2": Swinv2Config}
    if family == "swin":
        fields.pop("pretrained_window_sizes", None)
    if fields.get("num_labels") == 0:
        del fields["num_labels"]
    return classes.get(family, VitConfig)(**(fields | changes))


def _names(base: str, family: str) -> dict[str, str]:
    """Their names of image models -> ours."""
    return _NAMES[base][family if family in _NAMES[base] else "swin"]


def our_name(source: str, family: str, theirs: str) -> str | None:
    """Our name of an argument of theirs that is only called otherwise; None: it is not one of these."""
    if family == "graphormer":
        return PUBLISHED_NAMES[source].get(theirs)
    if family in TEXT_FAMILIES:
        return (GPT2_NAMES if family == "gpt2" else BERT_NAMES).get(theirs)
    return _names("hf" if source in ("hf4", "hf5") else source, family).get(theirs)


def _family_of(theirs: Mapping[str, Any]) -> str:
    if "model_type" in theirs:
        return str(theirs["model_type"])
    if "pretrained_window_sizes" in theirs or "V2" in getattr(theirs.get("block"), "__name__", ""):
        return "swinv2"
    return "vit" if "depth" in theirs else "swin"


def _defaults(base: str, family: str) -> dict[str, Any]:
    """Where their default is not ours."""
    if family in ("vit", "beit"):
        return {"layer_norm_eps": {"hf": 1e-12, "official": 1e-5, "timm": 1e-6}[base]}
    return {"image_size": 224, "window_size": 7, "drop_path_rate": 0.1}


def _from_constructor(
    base: str, theirs: Mapping[str, Any], family: str, fields: Mapping[str, Any]
) -> dict[str, Any]:
    if family == "vit":
        return _timm_vit(theirs) if base == "timm" else _official_vit(theirs)
    if base == "torchvision":
        patch = pair(fields.get("patch_size", 4), "patch_size")
        if patch[0] != patch[1]:
            raise ValueError(
                f"patch_size: expected a square, which our models are made for, got {list(patch)}"
            )
        return {"pad_mode": "pad_then_roll", "window_clamp": "padded", "patch_size": patch[0]}
    if base == "official" and "pretrain_img_size" in theirs:  # the backbone of the detection code
        out = {"out_indices": list(theirs["out_indices"])} if "out_indices" in theirs else {}
        return {"pad_mode": "pad_then_roll", "window_clamp": "never"} | out
    if base == "official":
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


def _timm_vit(theirs: Mapping[str, Any]) -> dict[str, Any]:
    pool = theirs.get("global_pool", "token")
    if pool not in ("token", "avg"):
        raise ValueError(f"global_pool: expected 'token' or 'avg', got {pool!r}")
    pooled = theirs.get("fc_norm")
    pooled = pool == "avg" if pooled is None else pooled
    return {
        "cls_token": theirs.get("class_token", True),
        "pooling": "mean" if pool == "avg" else "cls",
        "final_norm": "pooled" if pooled else "rows",
    }


def _official_vit(theirs: Mapping[str, Any]) -> dict[str, Any]:
    """The ViT of SimMIM, which is BEiT's."""
    relative = "per_layer" if theirs.get("use_rel_pos_bias") else "none"
    if theirs.get("use_rel_pos_bias") and theirs.get("use_shared_rel_pos_bias"):
        raise ValueError(
            "use_rel_pos_bias: expected tables per block or use_shared_rel_pos_bias, one for all, got both"
        )
    mean = theirs.get("use_mean_pooling", True)
    return {
        "qkv_bias": theirs.get("qkv_bias", False),
        "key_bias": False,
        "relative_position": "shared" if theirs.get("use_shared_rel_pos_bias") else relative,
        "pooling": "mean" if mean else "cls",
        "final_norm": "pooled" if mean else "rows",
    }


def _from_hf(theirs: Mapping[str, Any], family: str, fields: Mapping[str, Any]) -> dict[str, Any]:
    if theirs.get("hidden_act", "gelu") != "gelu":
        raise ValueError(f"hidden_act: expected 'gelu', got {theirs['hidden_act']!r}")
    found: dict[str, Any] = {}
    if "num_labels" not in theirs and theirs.get("id2label"):
        found["num_labels"] = len(theirs["id2label"])
    if family == "vit":
        hidden, width = theirs.get("intermediate_size", 3072), fields.get("embed_dim", 768)
        return found | {"mlp_ratio": hidden / width, "cls_token": True, "ape": True}
    if family == "beit":
        return found | _from_hf_beit(theirs, fields)
    backbone = any("Backbone" in name for name in theirs.get("architectures") or ())
    found["pad_mode"] = "pad_then_roll"
    if family == "swinv2":
        found["window_clamp"] = "per_axis_floor"
        # Height decides for both axes there.
        found["image_size"] = pair(fields.get("image_size", 224), "image_size")[0]
    else:
        found["window_clamp"] = "never" if backbone else "min"
    if backbone:
        found |= {"out_indices": _stages(theirs), "out_norm": family == "swin"}
    return found


def _from_hf_beit(theirs: Mapping[str, Any], fields: Mapping[str, Any]) -> dict[str, Any]:
    shared, per_layer = (theirs.get(f"use_{kind}relative_position_bias") for kind in ("shared_", ""))
    if shared and per_layer:
        raise ValueError(
            "use_relative_position_bias: expected tables per block or use_shared_relative_position_bias, one for all, "
            "got both"
        )
    size = pair(fields.get("image_size", 224), "image_size")
    if size[0] != size[1] and (shared or per_layer):
        raise ValueError(
            f"image_size: transformers resizes BEiT's tables of relative positions wrongly for images that are not "
            f"square, expected one side, got {list(size)}"
        )
    mean, scale = theirs.get("use_mean_pooling", True), theirs.get("layer_scale_init_value", 0.1)
    masked = any("ForMaskedImage" in name for name in theirs.get("architectures") or ())
    if masked and not mean:
        raise ValueError(
            "use_mean_pooling: expected true of a BeitForMaskedImageModeling, whose encoder then has no norm of its "
            "own beside that of the head, got false"
        )
    return {
        "mlp_ratio": theirs.get("intermediate_size", 3072) / fields.get("embed_dim", 768),
        "cls_token": True,
        "ape": bool(theirs.get("use_absolute_position_embeddings")),
        "key_bias": False,
        "relative_position": "shared" if shared else "per_layer" if per_layer else "none",
        "layer_scale": scale if scale > 0 else None,
        "pooling": "mean" if mean and not masked else "cls",
        "final_norm": "pooled" if mean and not masked else "rows",
        "drop_path_rate": theirs.get("drop_path_rate", 0.1),
        "init": "beit",
    }


def _stages(theirs: Mapping[str, Any]) -> list[int] | None:
    """Stages of a backbone; theirs count the patch embedding as the first."""
    indices: Sequence[int] | None = theirs.get("out_indices")
    if indices is None and theirs.get("out_features"):
        names = ["stem", *(f"stage{stage + 1}" for stage in range(len(theirs["depths"])))]
        indices = [names.index(name) for name in theirs["out_features"]]
    if indices is None:
        return [-1]
    if any(index == 0 for index in indices):
        raise ValueError("out_indices: expected stages, 1 or more, got 0, the patch embedding")
    return [index - 1 if index > 0 else index for index in indices]


def config_to_hf(config: Config, architecture: str) -> dict[str, Any]:
    """The config.json of transformers for a configuration of ours.

    Args:
        config: of an encoder.
        architecture: the name of their class.

    Raises:
        ValueError: a configuration that their models cannot compute.
    """
    if isinstance(config, (BertConfig, Gpt2Config)):
        return text_config_to_hf(config, architecture)
    family = getattr(config, "layout_family", config.model_type.removeprefix("unitrans-"))
    names = _names("hf", family)
    theirs = {
        name: getattr(config, ours)
        for name, ours in names.items()
        if ours != "num_labels" and hasattr(config, ours)
    }
    theirs |= {"architectures": [architecture], "model_type": family, "hidden_act": "gelu"}
    if family == "beit":
        more, needed = _beit_to_hf(config, architecture)
        theirs |= more
    elif isinstance(config, VitConfig):
        needed = {"cls_token": True, "ape": True, "relative_position": "none", "layer_scale": None}
        needed |= {"final_norm": "rows", "key_bias": True, "pooling": "cls", "qk_scale": None}
        theirs["intermediate_size"] = int(config.embed_dim * config.mlp_ratio + 1e-6)
    else:
        height, width = pair(config.image_size, "image_size")
        theirs |= {"image_size": height, "encoder_stride": config.total_stride}
        if height != width:
            raise ValueError(f"image_size: models of transformers are square, got {config.image_size}")
        needed = {"qk_scale": None, "patch_norm": True}
        divisible = all(
            side % config.window_size == 0
            for stage in range(len(config.depths))
            for side in [height // config.patch_size // 2**stage]
            if side > config.window_size
        )
        if not divisible:  # where windows do not fit the map, code bases differ
            needed["pad_mode"] = "pad_then_roll"
            needed["window_clamp"] = "per_axis_floor" if isinstance(config, Swinv2Config) else "min"
    for name, value in needed.items():
        if hasattr(config, name) and getattr(config, name) != value:
            raise ValueError(
                f"{name}: models of transformers compute {value!r} only, got {getattr(config, name)!r}"
            )
    return theirs


def _beit_to_hf(config: Any, architecture: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """More of their configuration of a BEiT, and what it cannot say."""
    masked = "ForMaskedImage" in architecture
    height, width = pair(config.image_size, "image_size")
    if height != width:
        raise ValueError(f"image_size: models of transformers are square, got {config.image_size}")
    theirs = {
        "image_size": height,
        "intermediate_size": int(config.embed_dim * config.mlp_ratio + 1e-6),
        "use_relative_position_bias": config.relative_position == "per_layer",
        "use_shared_relative_position_bias": config.relative_position == "shared",
        "layer_scale_init_value": config.layer_scale or 0.0,
        "use_mean_pooling": masked or config.pooling == "mean",
        "use_mask_token": masked,
    }
    mean = config.pooling == "mean" and not masked
    return theirs, {"qk_scale": None, "final_norm": "pooled" if mean else "rows"}
