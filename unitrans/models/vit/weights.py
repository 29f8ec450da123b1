"""Weights and arguments of ViT, MAE, BEiT and SimMIM: of their own code, of timm and of transformers."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, get_args

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
from unitrans.models._weights import Format, Hub, some
from unitrans.models.images import pair
from unitrans.models.renames import HF4_MLP, Layout, Rename, under
from unitrans.models.vit.config import VitConfig
from unitrans.models.vit.told import told_fields
from unitrans.nn import Activation

_HF_VIT4_BLOCK: tuple[Rename, ...] = (
    *HF_NORMS,
    (
        tuple(f"attention.attention.{part}.{{rest}}" for part in ("query", "key", "value")),
        "attn.qkv.{rest}",
    ),
    *HF4_MLP,
)
_VIT_BLOCK = "blocks.{b}."


def _mae_heads(theirs: str, mask_token: str, layer: str, block: Sequence[Rename] = ()) -> tuple[Rename, ...]:
    """The decoder of MAE; mask_token, layer: their names of the token and in front of a layer."""
    parts = ("decoder_embed", "decoder_norm", "decoder_pred")
    return (
        (mask_token, "head.decoder.mask_token"),
        (theirs + "decoder_pos_embed", "head.decoder.pos_embed"),
        *under(layer + "{b}.", "head.decoder.blocks.{b}.", (*block, ("{rest}", "{rest}"))),
        *((f"{theirs}{p}.{{rest}}", f"head.decoder.{p.removeprefix('decoder_')}.{{rest}}") for p in parts),
    )


def _hf_vit(theirs: str, block: Sequence[Rename]) -> Layout:
    """ViT, and the decoder of ViTMAE, whose blocks are named alike."""
    plain = hf_layout("vit.", theirs, _VIT_BLOCK, block, pos_embed="pos_embed")
    mae = _mae_heads("decoder.", "decoder.mask_token", "decoder.decoder_layers.", block)
    # How transformers 5 writes the decoder's layers into files, its rename of "layers" having hit them too.
    saved = under(
        "decoder.decoder_encoder.layer.{b}.", "head.decoder.blocks.{b}.", (*block, ("{rest}", "{rest}"))
    )
    return replace(plain, heads=(*mae, *saved, *plain.heads))


def _beit_block(attention: str, parts: Sequence[str], position_bias: str) -> tuple[Rename, ...]:
    """A block of BEiT, whose keys have no bias; parts: queries, keys and values."""
    q, _, v = (f"{attention}.{part}.bias" for part in parts)
    return (
        *HF_NORMS,
        (tuple(f"{attention}.{part}.weight" for part in parts), "attn.qkv.weight"),
        (q, "attn.q_bias"),
        (v, "attn.v_bias"),
        (position_bias + "relative_position_bias.{rest}", "attn.position_bias.{rest}"),
        ("lambda_{s}", "gamma_{s}"),
    )


def _hf_beit(theirs: str, block: Sequence[Rename], shared: str) -> Layout:
    """BEiT; its model for masked images has the last norm of rows outside of the encoder."""
    plain = hf_layout("beit.", theirs, _VIT_BLOCK, block, pos_embed="pos_embed")
    heads = (("lm_head.{rest}", "head.classifier.{rest}"), ("layernorm.{rest}", "encoder.norm.{rest}"))
    return replace(
        plain,
        renames=(
            (shared + ".{rest}", "rel_pos_bias.{rest}"),
            ("pooler.layernorm.{rest}", "fc_norm.{rest}"),
            *plain.renames,
        ),
        heads=(*heads, ("layernorm.{rest}", "norm.{rest}"), *plain.heads),
        unused=(r"embeddings\.mask_token$",),
    )


_LAYOUTS = {
    "official": Layout(
        renames=under(_VIT_BLOCK, _VIT_BLOCK, (TABLE,)),
        heads=OFFICIAL_HEADS,
        masked_prefix="encoder.",
        derived=DERIVED,
        sides=MIM_SIDES,
    ),
    "mae": Layout(
        renames=(),
        heads=_mae_heads("", "mask_token", "decoder_blocks."),
        masked_prefix="",
        sides=((r"mask_token$", (None, 0, 1)),),
    ),
    "timm": Layout(
        renames=under(
            _VIT_BLOCK,
            _VIT_BLOCK,
            (("ls1.gamma", "gamma_1"), ("ls2.gamma", "gamma_2"), TABLE),
        ),
        derived=DERIVED,
    ),
    "hf4": _hf_vit("encoder.layer.{b}.", _HF_VIT4_BLOCK),
    "hf5": _hf_vit("layers.{b}.", HF5_BLOCK),
}
_BEIT_LAYOUTS = {
    "hf4": _hf_beit(
        "encoder.layer.{b}.",
        (*_beit_block("attention.attention", ("query", "key", "value"), "attention.attention."), *HF4_MLP),
        "encoder.relative_position_bias",
    ),
    "hf5": _hf_beit(
        "layers.{b}.",
        (
            *_beit_block("attention", ("q_proj", "k_proj", "v_proj"), ""),
            ("attention.o_proj.{rest}", "attn.proj.{rest}"),
        ),
        "shared_position_bias",
    ),
    # Elsewhere a BEiT is a ViT with more parts.
    "official": _LAYOUTS["official"],
    "timm": _LAYOUTS["timm"],
}


def _hub_layout(weights: Mapping[str, Tensor]) -> str | None:
    if not some(weights, r"patch_embeddings\."):
        return None
    if some(weights, r"encoder\.layer\.\d+\.attention\.attention\."):
        return "hf4"
    return "hf5" if some(weights, r"(^|\.)layers\.\d+\.attention\.q_proj\.") else None


def _has_key_bias(weights: Mapping[str, Tensor]) -> bool:
    return some(weights, r"\.(k_proj|key)\.bias$") or not some(weights, r"\.(q_proj|query)\.bias$")


def _layout_of(weights: Mapping[str, Tensor]) -> str | None:
    hub = _hub_layout(weights)
    if hub is not None:
        return hub if _has_key_bias(weights) else None
    if not some(weights, r"^(encoder\.)?blocks\.\d+\.attn\."):
        return None
    if some(weights, r"^decoder_blocks\."):
        return "mae"
    beit = some(weights, r"gamma_1$|attn\.q_bias$|relative_position_bias_table$|^encoder\.blocks\.")
    return "official" if beit else "timm"


def _beit_layout_of(weights: Mapping[str, Tensor]) -> str | None:
    return None if _has_key_bias(weights) else _hub_layout(weights)


def _fields(
    own: Mapping[str, Tensor], weights: Mapping[str, Tensor]
) -> tuple[dict[str, Any], dict[str, str]]:
    return told_fields(own, weights, timm=_layout_of(weights) == "timm")


_HUB = {"hidden_size": "embed_dim", "num_hidden_layers": "depth", "num_attention_heads": "num_heads"}
_HUB_BEIT = {name: ours for name, ours in (HF_NAMES | _HUB).items() if name != "qkv_bias"}
_HUB_BEIT |= {"drop_path_rate": "drop_path_rate", "use_absolute_position_embeddings": "ape"}
_OFFICIAL = CONSTRUCTOR | {
    "depth": "depth",
    "qk_scale": "qk_scale",
    "drop_rate": "drop_rate",
    "use_abs_pos_emb": "ape",
    "init_values": "layer_scale",
}
_TIMM = CONSTRUCTOR | {"depth": "depth", "proj_drop_rate": "drop_rate", "init_values": "layer_scale"}
_TIMM |= {"reg_tokens": "register_tokens", "pre_norm": "pre_norm"}
#: source -> their name -> ours.
_NAMES = {"official": _OFFICIAL, "timm": _TIMM, "hf4": HF_NAMES | _HUB, "hf5": HF_NAMES | _HUB}
_BEIT_NAMES = {"hf4": _HUB_BEIT, "hf5": _HUB_BEIT}
_EPS = {"hf4": 1e-12, "hf5": 1e-12, "official": 1e-5, "timm": 1e-6}  # where none is given


def _config(source: str, theirs: Mapping[str, Any], kind: str, **changes: Any) -> VitConfig:
    """Our configuration of a ViT, or of an MAE of transformers (kind "vit_mae"); see `config_from`."""
    fields: dict[str, Any] = {"layer_norm_eps": _EPS[source]}
    if source in ("hf4", "hf5"):
        fields |= hub_fields(theirs, _NAMES[source])
        hidden, width = theirs.get("intermediate_size", 3072), fields.get("embed_dim", 768)
        fields |= {"mlp_ratio": hidden / width, "cls_token": True, "ape": True}
    else:
        plain = {key: value for key, value in theirs.items() if key != "no_embed_class"}
        fields |= constructor_fields(source, "vit", plain, _NAMES[source])
        fields |= _timm_vit(theirs) if source == "timm" else _official_vit(theirs)
    if kind == "vit_mae":
        fields |= {"fixed_positions": True, "init": "mae"}
    return _made(fields | changes)


def _beit_config(source: str, theirs: Mapping[str, Any], kind: str, **changes: Any) -> VitConfig:
    """Our configuration of a BEiT of transformers; see `config_from`."""
    fields = {"layer_norm_eps": _EPS[source]} | hub_fields(theirs, _BEIT_NAMES[source])
    return _made(fields | _from_hf_beit(theirs, fields) | changes)


def _made(fields: dict[str, Any]) -> VitConfig:
    if fields.get("num_labels") == 0:
        del fields["num_labels"]
    return VitConfig(**fields)


#: global_pool of timm -> pooling.
_POOLING = {"token": "cls", "avg": "mean", "map": "attention"}


def _timm_vit(theirs: Mapping[str, Any]) -> dict[str, Any]:
    pool = theirs.get("global_pool", "token")
    if pool not in _POOLING:
        raise ValueError(f"global_pool: expected one of {', '.join(map(repr, _POOLING))}, got {pool!r}")
    named = theirs.get("act_layer")
    if isinstance(named, str) and named not in get_args(Activation):
        raise ValueError(
            f"act_layer: expected one of {', '.join(map(repr, get_args(Activation)))}, got {named!r}"
        )
    pooled = theirs.get("fc_norm")
    pooled = pool == "avg" if pooled is None else pooled
    return {
        "cls_token": theirs.get("class_token", True),
        "prefix_positions": not theirs.get("no_embed_class", False),
        "patch_bias": not theirs.get("pre_norm", False),
        "activation": named if isinstance(named, str) else "gelu",
        "pooling": _POOLING[pool],
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


#: What ViT and BEiT of transformers do not have.
_PLAIN: dict[str, Any] = {
    "distillation_token": False,
    "register_tokens": 0,
    "prefix_positions": True,
    "pre_norm": False,
}
_PLAIN |= {"patch_bias": True, "activation": "gelu"}


def _to_hub(config: VitConfig, architecture: str) -> dict[str, Any]:
    """The config.json of transformers for a ViT. ValueError for what their models cannot compute."""
    theirs = to_hub(config, _NAMES["hf4"], "vit", architecture)
    needed = {"cls_token": True, "ape": True, "relative_position": "none", "layer_scale": None}
    needed |= {"final_norm": "rows", "key_bias": True, "pooling": "cls", "qk_scale": None} | _PLAIN
    check_hub(config, needed)
    return theirs | {"intermediate_size": int(config.embed_dim * config.mlp_ratio + 1e-6)}


def _beit_to_hub(config: VitConfig, architecture: str) -> dict[str, Any]:
    """The same for a BEiT."""
    masked = "ForMaskedImage" in architecture
    theirs = to_hub(config, _HUB_BEIT, "beit", architecture) | {
        "image_size": square_side(config),
        "intermediate_size": int(config.embed_dim * config.mlp_ratio + 1e-6),
        "use_relative_position_bias": config.relative_position == "per_layer",
        "use_shared_relative_position_bias": config.relative_position == "shared",
        "layer_scale_init_value": config.layer_scale or 0.0,
        "use_mean_pooling": masked or config.pooling == "mean",
        "use_mask_token": masked,
    }
    mean = config.pooling == "mean" and not masked
    check_hub(config, {"qk_scale": None, "final_norm": "pooled" if mean else "rows"} | _PLAIN)
    return theirs


def _arguments(source: str, found: Any) -> dict[str, Any]:
    """Their arguments that say what weights cannot: the published models' eps, which is not their class's default."""
    return {"norm_eps": 1e-6} if source == "official" else {}


def _objective_fields(architecture: str, config: VitConfig, objective: Any) -> dict[str, Any]:
    """More of their config.json, which says of the objective what ours has in its options."""
    options = objective.options
    if architecture == "BeitForMaskedImageModeling":
        return {"vocab_size": options.vocab_size}
    if architecture != "ViTMAEForPreTraining":
        return {}
    return {
        "model_type": "vit_mae",
        "decoder_hidden_size": options.decoder_embed_dim,
        "decoder_num_hidden_layers": options.decoder_depth,
        "decoder_num_attention_heads": options.decoder_num_heads,
        "decoder_intermediate_size": 4 * options.decoder_embed_dim,
        "mask_ratio": options.mask_ratio,
        "norm_pix_loss": options.norm_pix_loss,
    }


_MODEL = "unitrans.models.vit.model"
_CLASSES = {"encoder": f"{_MODEL}:VitModel", "classifier": f"{_MODEL}:VitForImageClassification"}
FORMATS = (
    Format(
        name="vit",
        own=lambda weights: (
            some(weights, r"^vit\.patch_embed\.")
            or some(weights, r"^(encoder\.)?blocks\.\d+\.attn\.position_bias\.")
        ),
        titles=("ViT", "MAE", "SimMIM"),
        layouts=_LAYOUTS,
        layout_of=_layout_of,
        fields=_fields,
        classes=_CLASSES,
        sources=("official", "timm", "hf4", "hf5"),
        config=_config,
        names=_NAMES,
        arguments=_arguments,
        configured_as={"mae": "timm"},  # MAE is built on timm's ViT
        claims=lambda theirs: "depth" in theirs,
        hub=Hub(
            model_types={"vit": "ViTModel", "vit_mae": "ViTMAEModel"},
            classes={
                "ViTModel": f"{_MODEL}:VitModel",
                "ViTForImageClassification": f"{_MODEL}:VitForImageClassification",
                "ViTMAEModel": f"{_MODEL}:VitModel",
                "ViTMAEForPreTraining": f"{_MODEL}:VitModel",
            },
            heads={
                "mim": "ViTForMaskedImageModeling",
                "mae": "ViTMAEForPreTraining",
                "classification": "ViTForImageClassification",
            },
            config=_to_hub,
            objective_fields=_objective_fields,
            left_out={"ViTMAEForPreTraining": "decoder."},
            pretraining={
                "ViTMAEForPreTraining": {
                    "decoder_num_attention_heads": "decoder_num_heads",
                    "mask_ratio": "mask_ratio",
                    "norm_pix_loss": "norm_pix_loss",
                }
            },
        ),
    ),
    Format(
        name="beit",
        titles=("BEiT",),
        layouts=_BEIT_LAYOUTS,
        layout_of=_beit_layout_of,
        fields=_fields,
        classes=_CLASSES,
        sources=("hf4", "hf5"),
        config=_beit_config,
        names=_BEIT_NAMES,
        like="vit",
        hub=Hub(
            model_types={"beit": "BeitModel"},
            classes={
                "BeitModel": f"{_MODEL}:VitModel",
                "BeitForImageClassification": f"{_MODEL}:VitForImageClassification",
            },
            heads={"beit": "BeitForMaskedImageModeling", "classification": "BeitForImageClassification"},
            config=_beit_to_hub,
            objective_fields=_objective_fields,
        ),
    ),
)
