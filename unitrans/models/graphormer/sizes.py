"""Published sizes; the hidden width of the MLPs is embed_dim."""

from typing import Any

_PUBLISHED = {"slim": (12, 80, 8), "base": (12, 768, 32), "large": (24, 1024, 32)}

#: name -> fields of the configuration.
SIZES: dict[str, dict[str, Any]] = {
    f"graphormer-{size}": {"depth": depth, "embed_dim": width, "num_heads": heads}
    for size, (depth, width, heads) in _PUBLISHED.items()
}
