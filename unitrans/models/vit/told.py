"""What shapes tell of a ViT, and what they do not."""

import math
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from unitrans.models._image_weights import image_fields, set_square, width_of_index
from unitrans.models._weights import numbers, set_heads
from unitrans.models.vit.sizes import SIZES


def told_fields(
    own: Mapping[str, Tensor], weights: Mapping[str, Tensor], *, timm: bool
) -> tuple[dict[str, Any], dict[str, str]]:
    """Fields of the configuration that the shapes tell, and what they do not tell -> a word on what it is.

    Args:
        own: tensors by our names of the bare encoder.
        weights: all, by theirs.
        timm: they are timm's names.

    Raises:
        ValueError: MLPs that our ViT does not have.
    """
    fields = image_fields(own)
    untold: dict[str, str] = {}
    hidden = own["blocks.0.mlp.fc1.weight"]
    out = own["blocks.0.mlp.fc2.weight"]
    if out.shape[1] != hidden.shape[0]:
        raise ValueError(
            f"blocks.0.mlp: expected fc2 to take the {hidden.shape[0]} channels of fc1, got {out.shape[1]}: MLPs with "
            "a gate (SwiGLU, as DINOv2's giant has) are none of this ViT"
        )
    fields |= {
        "depth": len(numbers(own, r"blocks\.(\d+)\.")),
        "mlp_ratio": hidden.shape[0] / hidden.shape[1],
    }
    fields["cls_token"] = "cls_token" in own
    fields["distillation_token"] = "dist_token" in own
    fields["register_tokens"] = own["reg_token"].shape[1] if "reg_token" in own else 0
    fields["pre_norm"] = "norm_pre.weight" in own
    fields["patch_bias"] = "patch_embed.proj.bias" in own
    fields["qkv_bias"] = "blocks.0.attn.qkv.bias" in own or "blocks.0.attn.q_bias" in own
    fields["key_bias"] = "blocks.0.attn.q_bias" not in own
    fields["layer_scale"] = 0.1 if "blocks.0.gamma_1" in own else None  # the weights replace it
    fields["ape"] = "pos_embed" in own
    shared = own.get("rel_pos_bias.relative_position_bias_table")
    table = own.get("blocks.0.attn.position_bias.relative_position_bias_table", shared)
    patch, cls = fields["patch_size"], int(fields["cls_token"])
    front = cls + fields["distillation_token"] + fields["register_tokens"]
    if table is not None:
        fields["relative_position"] = "per_layer" if shared is None else "shared"
        fields["num_heads"] = table.shape[1]
        _image_of_table(fields, untold, table.shape[0] - 3 * cls, cls, weights)
    if fields["ape"]:
        rows = own["pos_embed"].shape[1]
        fields["prefix_positions"] = _is_square(rows - front) or not _is_square(rows)
        set_square(fields, untold, rows - front * fields["prefix_positions"], patch)
    elif table is None:
        untold["image_size"] = "pixels per side"
    if "num_heads" not in fields:
        set_heads(fields, untold, SIZES)
    pooled = any(name.startswith("fc_norm.") for name in own)
    fields["final_norm"] = "pooled" if pooled else "rows"
    fields["pooling"] = "mean" if pooled or not cls else "cls"
    if "attn_pool.latent" in own:
        fields["pooling"] = "attention"
    plain_mean = not cls and not pooled and timm  # as SigLIP with mean pooling
    if fields["pre_norm"] and timm:
        fields["layer_norm_eps"] = 1e-5  # of CLIP's
    if fields["pre_norm"] or fields["pooling"] == "attention" or plain_mean:
        untold["activation"] = "of the MLPs: gelu, gelu_tanh (later SigLIP) or quick_gelu (CLIP by OpenAI)"
    decoder = own.get("head.decoder.pos_embed")
    if decoder is not None:
        fields |= {"fixed_positions": True, "init": "mae"}
    return fields, untold


def _is_square(places: int) -> bool:
    return places > 0 and math.isqrt(places) ** 2 == places


def _image_of_table(
    fields: dict[str, Any], untold: dict[str, str], rows: int, cls: int, weights: Mapping[str, Tensor]
) -> None:
    """image_size by a table of the relative positions in a whole image, (2h - 1)(2w - 1) rows."""
    patch, side = fields["patch_size"], math.isqrt(rows)
    if side * side == rows:
        fields["image_size"] = (side + 1) // 2 * patch
        return
    index = next((t for name, t in weights.items() if name.endswith("relative_position_index")), None)
    if index is None:
        untold["image_size"] = f"[height, width] with {rows} relative positions of patches of {patch} pixels"
        return
    width = width_of_index(index[cls:, cls:].contiguous())
    fields["image_size"] = [(rows // (2 * width - 1) + 1) // 2 * patch, width * patch]
