"""Configurations of transformers' text models as ours, and back."""

from collections.abc import Mapping
from typing import Any

from unitrans.models.bert import BertConfig
from unitrans.models.gpt2 import Gpt2Config

TEXT_FAMILIES = ("bert", "roberta", "gpt2")

#: Their name -> ours.
BERT_NAMES = {
    "vocab_size": "vocab_size",
    "hidden_size": "embed_dim",
    "num_hidden_layers": "depth",
    "num_attention_heads": "num_heads",
    "type_vocab_size": "type_vocab_size",
    "hidden_dropout_prob": "drop_rate",
    "attention_probs_dropout_prob": "attn_drop_rate",
    "layer_norm_eps": "layer_norm_eps",
    "pad_token_id": "pad_token_id",
    "num_labels": "num_labels",
}
GPT2_NAMES = {
    "vocab_size": "vocab_size",
    "n_positions": "max_position_embeddings",
    "n_embd": "embed_dim",
    "n_layer": "depth",
    "n_head": "num_heads",
    "resid_pdrop": "drop_rate",
    "attn_pdrop": "attn_drop_rate",
    "layer_norm_epsilon": "layer_norm_eps",
    "pad_token_id": "pad_token_id",
    "num_labels": "num_labels",
}
_ACTIVATIONS = {
    "gelu": "gelu",
    "gelu_new": "gelu_tanh",
    "gelu_pytorch_tanh": "gelu_tanh",
    "gelu_fast": "gelu_tanh",
    "gelu_accurate": "gelu_tanh",
    "relu": "relu",
}
_THEIR_ACTIVATIONS = {"gelu": "gelu", "gelu_tanh": "gelu_new", "relu": "relu"}
#: What must have this value, as our models compute nothing else.
_FIXED: dict[str, tuple[Any, ...]] = {
    "position_embedding_type": ("absolute", None),
    "is_decoder": (False, None),
    "add_cross_attention": (False, None),
    "tie_word_embeddings": (True, None),
    "scale_attn_weights": (True, None),
    "scale_attn_by_inverse_layer_idx": (False, None),
}
_WITH_POOLER = (
    "Model",
    "ForPreTraining",
    "ForNextSentencePrediction",
    "ForSequenceClassification",
    "ForMultipleChoice",
)


def text_config_from(theirs: Mapping[str, Any], family: str, **changes: Any) -> BertConfig | Gpt2Config:
    """Our configuration of a BERT, RoBERTa or GPT-2 of transformers.

    Args:
        theirs: their config.json; what is left out has their default.
        family: "bert", "roberta" or "gpt2".
        changes: fields of ours that are set in the end.

    Pooling is "pooler" where the architecture of the file has one (all but the masked-language and the token
    classification model), "first" otherwise, and "last" for GPT-2.

    Raises:
        ValueError: a setting that our models do not have.
    """
    for name, values in _FIXED.items():
        if theirs.get(name) not in values and name in theirs:
            raise ValueError(f"{name}: expected {values[0]!r}, got {theirs[name]!r}")
    names = GPT2_NAMES if family == "gpt2" else BERT_NAMES
    fields = {ours: theirs[name] for name, ours in names.items() if theirs.get(name) is not None}
    if "num_labels" not in theirs and theirs.get("id2label"):
        fields["num_labels"] = len(theirs["id2label"])
    key = "activation_function" if family == "gpt2" else "hidden_act"
    activation = theirs.get(key, "gelu_new" if family == "gpt2" else "gelu")
    if activation not in _ACTIVATIONS:
        raise ValueError(f"{key}: expected one of {', '.join(_ACTIVATIONS)}, got {activation!r}")
    fields["activation"] = _ACTIVATIONS[activation]
    width = fields.get("embed_dim", 768)
    hidden = theirs.get("n_inner" if family == "gpt2" else "intermediate_size")
    fields["mlp_ratio"] = (4.0 if family == "gpt2" else 3072 / width) if hidden is None else hidden / width
    if family == "gpt2":
        if theirs.get("embd_pdrop", 0.1) != theirs.get("resid_pdrop", 0.1):
            raise ValueError(
                f"embd_pdrop: expected the same as resid_pdrop {theirs.get('resid_pdrop', 0.1)}, "
                f"got {theirs.get('embd_pdrop', 0.1)}"
            )
        return Gpt2Config(**(fields | changes))
    offset = 0
    if family == "roberta":
        fields.setdefault("pad_token_id", 1)
        fields.setdefault("vocab_size", 50265)
        offset = fields["pad_token_id"] + 1
    fields["position_offset"] = offset
    fields["max_position_embeddings"] = theirs.get("max_position_embeddings", 512) - offset
    kind = str((theirs.get("architectures") or [""])[0])
    # RoBERTa's classifiers have no pooler; what looks like one belongs to the head.
    pooled = kind.endswith("Model") if family == "roberta" else kind.endswith(_WITH_POOLER)
    fields["pooling"] = "pooler" if pooled else "first"
    return BertConfig(**(fields | changes))


def text_config_to_hf(config: BertConfig | Gpt2Config, architecture: str) -> dict[str, Any]:
    """The config.json of transformers for a configuration of ours.

    Args:
        config: of a BERT (RoBERTa where it has a position_offset) or GPT-2 encoder.
        architecture: the name of their class.

    Raises:
        ValueError: a configuration that their models cannot compute.
    """
    family = config.layout_family
    names = GPT2_NAMES if family == "gpt2" else BERT_NAMES
    theirs = {name: getattr(config, ours) for name, ours in names.items() if ours != "num_labels"}
    activation, hidden = (
        _THEIR_ACTIVATIONS[config.activation],
        int(config.embed_dim * config.mlp_ratio + 1e-6),
    )
    theirs |= {"architectures": [architecture], "model_type": family}
    if family == "gpt2":
        return theirs | {
            "activation_function": activation,
            "n_inner": hidden,
            "embd_pdrop": config.drop_rate,
            "bos_token_id": None,
            "eos_token_id": None,
        }
    if family == "roberta" and config.position_offset != (config.pad_token_id or 0) + 1:
        raise ValueError(
            f"position_offset: expected pad_token_id + 1 as in RoBERTa, got {config.position_offset} with "
            f"pad_token_id {config.pad_token_id}"
        )
    positions = config.max_position_embeddings + config.position_offset
    return theirs | {
        "hidden_act": activation,
        "type_vocab_size": max(config.type_vocab_size, 1),  # they always have a table of segments
        "intermediate_size": hidden,
        "max_position_embeddings": positions,
    }
