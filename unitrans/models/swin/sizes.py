"""Published sizes, by timm's names."""

from typing import Any

_BODIES: dict[str, dict[str, Any]] = {
    "tiny": {"embed_dim": 96, "depths": [2, 2, 6, 2], "num_heads": [3, 6, 12, 24]},
    "small": {"embed_dim": 96, "depths": [2, 2, 18, 2], "num_heads": [3, 6, 12, 24]},
    "base": {"embed_dim": 128, "depths": [2, 2, 18, 2], "num_heads": [4, 8, 16, 32]},
    "large": {"embed_dim": 192, "depths": [2, 2, 18, 2], "num_heads": [6, 12, 24, 48]},
}
_DROP_PATH = {"tiny": 0.2, "small": 0.3, "base": 0.5, "large": 0.2}  # on ImageNet-1k; large: on 22k


def _swin(size: str, window: int, image: int) -> dict[str, Any]:
    return _BODIES[size] | {"window_size": window, "image_size": image, "drop_path_rate": _DROP_PATH[size]}


def _swinv2(size: str, window: int, image: int, trained: int = 0) -> dict[str, Any]:
    """trained: the window of the weights that were fine-tuned with this one; the last stage has half of it."""
    windows = [trained, trained, trained, trained // 2]
    large_data = trained or image == 192  # ImageNet-22k
    drop_path = 0.2 if large_data else _DROP_PATH[size]
    fields = {"window_size": window, "image_size": image, "drop_path_rate": drop_path}
    return _BODIES[size] | fields | {"pretrained_window_sizes": windows}


#: name -> fields of the configuration.
SIZES = {
    f"swin_{size}_patch4_window{window}_{image}": _swin(size, window, image)
    for window, image, bodies in ((7, 224, ("tiny", "small", "base", "large")), (12, 384, ("base", "large")))
    for size in bodies
}
#: The same of version 2.
SIZES_V2 = {
    f"swinv2_{size}_window{window}_256": _swinv2(size, window, 256)
    for window in (8, 16)
    for size in ("tiny", "small", "base")
}
for _size in ("base", "large"):
    SIZES_V2 |= {
        f"swinv2_{_size}_window12_192": _swinv2(_size, 12, 192),
        f"swinv2_{_size}_window12to16_192to256": _swinv2(_size, 16, 256, 12),
        f"swinv2_{_size}_window12to24_192to384": _swinv2(_size, 24, 384, 12),
    }
