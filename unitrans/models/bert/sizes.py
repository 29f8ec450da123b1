"""Published sizes, by transformers' names."""

from typing import Any

_BASE: dict[str, Any] = {"embed_dim": 768, "depth": 12, "num_heads": 12, "pooling": "pooler"}
_LARGE: dict[str, Any] = {"embed_dim": 1024, "depth": 24, "num_heads": 16, "pooling": "pooler"}
_ROBERTA = {
    "vocab_size": 50265,
    "type_vocab_size": 1,
    "pad_token_id": 1,
    "position_offset": 2,
    "layer_norm_eps": 1e-5,
}

#: name -> fields of the configuration.
SIZES: dict[str, dict[str, Any]] = {
    "bert-base-uncased": _BASE | {"vocab_size": 30522},
    "bert-base-cased": _BASE | {"vocab_size": 28996},
    "bert-large-uncased": _LARGE | {"vocab_size": 30522},
    "bert-large-cased": _LARGE | {"vocab_size": 28996},
    "roberta-base": _BASE | _ROBERTA,
    "roberta-large": _LARGE | _ROBERTA,
}
#: The smaller ones of Turc et al. 2019 (arXiv:1908.08962), and MiniLM, whose heads have 32 channels.
SIZES |= {
    f"bert_uncased_L-{depth}_H-{width}_A-{width // 64}": _BASE
    | {"vocab_size": 30522, "embed_dim": width, "depth": depth, "num_heads": width // 64}
    for depth in range(2, 13, 2)
    for width in (128, 256, 512, 768)
}
SIZES |= {
    f"MiniLM-L{depth}-H384-uncased": _BASE
    | {"vocab_size": 30522, "embed_dim": 384, "depth": depth, "num_heads": 12}
    for depth in (6, 12)
}
