"""Published sizes, by timm's names; those of BEiT by its own."""

from typing import Any

#: size -> (width, depth, heads); the huge one has heads of 80 channels, so400m of 72.
BODIES = {
    "tiny": (192, 12, 3),
    "small": (384, 12, 6),
    "medium": (512, 12, 8),
    "base": (768, 12, 12),
    "large": (1024, 24, 16),
    "huge": (1280, 32, 16),
    "so400m": (1152, 27, 16),
}


def _vit(size: str, patch: int, image: int) -> dict[str, Any]:
    width, depth, heads = BODIES[size]
    body = {"embed_dim": width, "depth": depth, "num_heads": heads}
    return body | {"patch_size": patch, "image_size": image}


def _beit(size: str, image: int) -> dict[str, Any]:
    return _vit(size, 16, image) | {
        "ape": False,
        "relative_position": "per_layer",
        "key_bias": False,
        "layer_scale": 0.1 if size == "base" else 1e-5,
        "pooling": "mean",
        "final_norm": "pooled",
        "init": "beit",
        "drop_path_rate": 0.1,
    }


_DISTILLED: dict[str, Any] = {"distillation_token": True}
_DEIT3: dict[str, Any] = {"prefix_positions": False, "layer_scale": 1e-6}
_DINO: dict[str, Any] = {"layer_scale": 1e-5}
_REGISTERS: dict[str, Any] = _DINO | {"register_tokens": 4, "prefix_positions": False}
_CLIP: dict[str, Any] = {"pre_norm": True, "patch_bias": False, "layer_norm_eps": 1e-5}
_SIGLIP: dict[str, Any] = {"cls_token": False, "pooling": "attention"}

_KINDS = (
    *((size, 16, image) for size in ("tiny", "small", "base", "large") for image in (224, 384)),
    *((size, 32, image) for size in ("small", "base", "large") for image in (224, 384)),
    *(("base", 8, 224), ("huge", 14, 224)),
)
#: name -> fields of the configuration.
SIZES = {f"vit_{size}_patch{patch}_{image}": _vit(size, patch, image) for size, patch, image in _KINDS}
SIZES |= {
    f"beit_{size}_patch16_{image}": _beit(size, image) for size in ("base", "large") for image in (224, 384)
}
for _size in ("tiny", "small", "base"):
    SIZES[f"deit_{_size}_patch16_224"] = _vit(_size, 16, 224)
    SIZES[f"deit_{_size}_distilled_patch16_224"] = _vit(_size, 16, 224) | _DISTILLED
for _image in (224, 384):
    SIZES |= {f"deit3_{s}_patch16_{_image}": _vit(s, 16, _image) | _DEIT3 for s in ("small", "base", "large")}
SIZES["deit3_medium_patch16_224"] = _vit("medium", 16, 224) | _DEIT3
SIZES["deit3_huge_patch14_224"] = _vit("huge", 14, 224) | _DEIT3
for _size in ("small", "base", "large"):
    SIZES[f"vit_{_size}_patch14_dinov2"] = _vit(_size, 14, 518) | _DINO
    SIZES[f"vit_{_size}_patch14_reg4_dinov2"] = _vit(_size, 14, 518) | _REGISTERS
for _size, _patch in (("base", 32), ("base", 16), ("large", 14), ("huge", 14)):
    SIZES[f"vit_{_size}_patch{_patch}_clip_224"] = _vit(_size, _patch, 224) | _CLIP | {"activation": "gelu"}
    if _size != "huge":
        quick = _CLIP | {"activation": "quick_gelu"}
        SIZES[f"vit_{_size}_patch{_patch}_clip_quickgelu_224"] = _vit(_size, _patch, 224) | quick
for _size, _image in (("base", 224), ("base", 256), ("base", 384), ("large", 256), ("large", 384)):
    SIZES[f"vit_{_size}_patch16_siglip_{_image}"] = _vit(_size, 16, _image) | _SIGLIP | {"activation": "gelu"}
SIZES["vit_so400m_patch14_siglip_224"] = (
    _vit("so400m", 14, 224) | _SIGLIP | {"activation": "gelu", "mlp_ratio": 3.7362}
)
