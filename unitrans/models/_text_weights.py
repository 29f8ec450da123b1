"""What weights and arguments of text models have in common in transformers."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from unitrans.models._weights import numbers, set_heads, some

_ACTIVATIONS = {
    "gelu": "gelu",
    "gelu_new": "gelu_tanh",
    "gelu_pytorch_tanh": "gelu_tanh",
    "gelu_fast": "gelu_tanh",
    "gelu_accurate": "gelu_tanh",
    "quick_gelu": "quick_gelu",
    "relu": "relu",
}
THEIR_ACTIVATIONS = {"gelu": "gelu", "gelu_tanh": "gelu_new", "quick_gelu": "quick_gelu", "relu": "relu"}
#: What must have this value, as our models compute nothing else.
_FIXED: dict[str, tuple[Any, ...]] = {
    "position_embedding_type": ("absolute", None),
    "is_decoder": (False, None),
    "add_cross_attention": (False, None),
    "tie_word_embeddings": (True, None),
    "scale_attn_weights": (True, None),
    "scale_attn_by_inverse_layer_idx": (False, None),
}


def hub_fields(
    theirs: Mapping[str, Any], names: Mapping[str, str], activation: tuple[str, str], width: str
) -> dict[str, Any]:
    """Settings of transformers by our names.

    Args:
        theirs: their config.json; what is left out has their default.
        names: their name -> ours.
        activation: their name of the activation, and its default.
        width: their name of the hidden width of the MLPs, which is 3072 for embed_dim 768.

    Raises:
        ValueError: a setting that our models do not have.
    """
    for name, values in _FIXED.items():
        if theirs.get(name) not in values and name in theirs:
            raise ValueError(f"{name}: expected {values[0]!r}, got {theirs[name]!r}")
    fields = {ours: theirs[name] for name, ours in names.items() if theirs.get(name) is not None}
    if "num_labels" not in theirs and theirs.get("id2label"):
        fields["num_labels"] = len(theirs["id2label"])
    key, default = activation
    if theirs.get(key, default) not in _ACTIVATIONS:
        raise ValueError(f"{key}: expected one of {', '.join(_ACTIVATIONS)}, got {theirs[key]!r}")
    fields["activation"] = _ACTIVATIONS[theirs.get(key, default)]
    if theirs.get(width) is not None:
        fields["mlp_ratio"] = theirs[width] / fields.get("embed_dim", 768)
    return fields


def to_hub(config: Any, names: Mapping[str, str], model_type: str, architecture: str) -> dict[str, Any]:
    """Our settings by the names of transformers."""
    theirs = {name: getattr(config, ours) for name, ours in names.items() if ours != "num_labels"}
    return theirs | {"architectures": [architecture], "model_type": model_type}


def hidden_width(config: Any) -> int:
    """The hidden width of the MLPs."""
    return int(config.embed_dim * config.mlp_ratio + 1e-6)


#: What tells a classifier of texts from one of tokens, in our own models without a pooler.
EVERY_TOKEN = "mean, first or last: the rows that a classifier of texts sees; tokens: it classifies every one"


def own_kind(weights: Mapping[str, Tensor]) -> str | None:
    """The format of one of our own text models by its names; None for any other weights. Segments are told apart by
    BERT, RoBERTa has one, GPT-2 none."""
    if not some(weights, r"^(encoder\.)?embeddings\.word_embeddings\.weight$"):
        return None
    if not some(weights, r"^(encoder\.)?blocks\.\d+\.attn\.qkv\."):
        return None
    segments = next((t for name, t in weights.items() if name.endswith("token_type_embeddings.weight")), None)
    if segments is not None:
        return "roberta" if len(segments) == 1 else "bert"
    return "bert" if some(weights, r"embeddings\.norm\.|^head\.") else "gpt2"


def text_fields(
    own: Mapping[str, Tensor], weights: Mapping[str, Tensor], sizes: Mapping[str, Mapping[str, Any]]
) -> tuple[dict[str, Any], dict[str, str]]:
    """What shapes tell of a text encoder, and what they do not; weights: by their names, sizes: the published ones."""
    words, hidden = own["embeddings.word_embeddings.weight"], own["blocks.0.mlp.fc1.weight"]
    fields: dict[str, Any] = {
        "vocab_size": words.shape[0],
        "embed_dim": words.shape[1],
        "depth": len(numbers(own, r"blocks\.(\d+)\.")),
        "mlp_ratio": hidden.shape[0] / hidden.shape[1],
        "ape": "embeddings.position_embeddings.weight" in own,
        "norm": "pre" if "norm.weight" in own else "post",
    }
    if fields["ape"]:
        fields["max_position_embeddings"] = own["embeddings.position_embeddings.weight"].shape[0]
    untold: dict[str, str] = {}
    set_heads(fields, untold, sizes)
    segments = own.get("embeddings.token_type_embeddings.weight")
    if segments is not None:
        fields["type_vocab_size"] = segments.shape[0]
    if "pooler.weight" in own:
        fields["pooling"] = "pooler"
    elif own_kind(weights) is not None:  # nothing is published of our own models
        if "head.weight" in own:
            untold["pooling"] = EVERY_TOKEN
    elif segments is not None:
        fields["pooling"] = "first"
    if "head.weight" in own:
        fields["num_labels"] = own["head.weight"].shape[0]
    return fields, untold
