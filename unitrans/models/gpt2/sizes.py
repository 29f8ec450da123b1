"""Published sizes, by transformers' names."""

from typing import Any

_PUBLISHED = {
    "gpt2": (768, 12, 12),
    "distilgpt2": (768, 6, 12),
    "gpt2-medium": (1024, 24, 16),
    "gpt2-large": (1280, 36, 20),
    "gpt2-xl": (1600, 48, 25),
}

#: name -> fields of the configuration.
SIZES: dict[str, dict[str, Any]] = {
    name: {"embed_dim": width, "depth": depth, "num_heads": heads}
    for name, (width, depth, heads) in _PUBLISHED.items()
}
