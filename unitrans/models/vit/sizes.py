"""Published sizes, by timm's names; those of BEiT by its own."""

from typing import Any

#: size -> (width, depth, heads); the huge one has heads of 80 channels.
BODIES = {
    "tiny": (192, 12, 3),
    "small": (384, 12, 6),
    "base": (768, 12, 12),
    "large": (1024, 24, 16),
    "huge": (1280, 32, 16),
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
