"""Weights and settings of BERT and RoBERTa in transformers."""

from collections.abc import Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor

from unitrans.models._text_weights import (
    THEIR_ACTIVATIONS,
    hidden_width,
    hub_fields,
    own_kind,
    text_fields,
    to_hub,
)
from unitrans.models._weights import Format, Hub, kind_of_heads, some
from unitrans.models.bert.config import BertConfig
from unitrans.models.bert.sizes import SIZES
from unitrans.models.renames import HF4_MLP, HF4_NAMES, Layout, Rename, under

_BERT_BLOCK: tuple[Rename, ...] = (
    (tuple(name + ".{rest}" for name in HF4_NAMES), "attn.qkv.{rest}"),
    ("attention.output.LayerNorm.{rest}", "norm1.{rest}"),
    ("output.LayerNorm.{rest}", "norm2.{rest}"),
    *HF4_MLP,
)


def _bert(base: str, transform: str, norm: str, head: str) -> Layout:
    """BERT or RoBERTa: the encoder's names are the same, those of the masked-language head are not."""
    return Layout(
        renames=(
            *under("encoder.layer.{b}.", "blocks.{b}.", _BERT_BLOCK),
            ("embeddings.LayerNorm.{rest}", "embeddings.norm.{rest}"),
            ("pooler.dense.{rest}", "pooler.{rest}"),
        ),
        heads=(
            (transform + ".{rest}", "head.dense.{rest}"),
            (norm + ".{rest}", "head.norm.{rest}"),
            (head + "bias", "head.output_bias"),
            ("cls.seq_relationship.{rest}", "nsp.{rest}"),
            ("classifier.weight", "head.weight"),
            ("classifier.bias", "head.bias"),
        ),
        prefix=base,
        derived=(r"position_ids$", r"embeddings\.token_type_ids$"),
        tied={
            head + "decoder.weight": base + "embeddings.word_embeddings.weight",
            head + "decoder.bias": head + "bias",
        },
        synonyms=(("LayerNorm.gamma", "LayerNorm.weight"), ("LayerNorm.beta", "LayerNorm.bias")),
    )


_BERT = _bert(
    "bert.", "cls.predictions.transform.dense", "cls.predictions.transform.LayerNorm", "cls.predictions."
)
_ROBERTA = _bert("roberta.", "lm_head.dense", "lm_head.layer_norm", "lm_head.")

_ROBERTA_OFFSET = 2  # its pad_token_id is 1 and its positions start behind it


def _layout_of(roberta: bool, weights: Mapping[str, Tensor]) -> str | None:
    words = some(weights, r"embeddings\.word_embeddings\.weight$")
    if not words or not some(weights, r"encoder\.layer\.\d+\.attention\.self\."):
        return None
    segments = next((t for name, t in weights.items() if name.endswith("token_type_embeddings.weight")), None)
    theirs = some(weights, r"^roberta\.|^lm_head\.dense") or (segments is not None and len(segments) == 1)
    return "hf4" if theirs == roberta else None


def _fields(
    own: Mapping[str, Tensor], weights: Mapping[str, Tensor]
) -> tuple[dict[str, Any], dict[str, str]]:
    return text_fields(own, weights, SIZES)


def _roberta_fields(
    own: Mapping[str, Tensor], weights: Mapping[str, Tensor]
) -> tuple[dict[str, Any], dict[str, str]]:
    fields, untold = text_fields(own, weights, SIZES)
    if fields["ape"]:
        fields["max_position_embeddings"] -= _ROBERTA_OFFSET
    return fields | {"pad_token_id": 1, "position_offset": _ROBERTA_OFFSET}, untold


def _kind(own: Mapping[str, Tensor]) -> str:
    if "nsp.weight" in own:
        return "pretraining" if "head.dense.weight" in own else "nsp"
    if "head.dense.weight" in own:
        return "mlm"
    if "head.weight" in own and "pooler.weight" not in own:
        return "tokens"
    return kind_of_heads(own)


#: Their name -> ours.
_NAMES = {
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
_WITH_POOLER = (
    "Model",
    "ForPreTraining",
    "ForNextSentencePrediction",
    "ForSequenceClassification",
    "ForMultipleChoice",
)


def _config(source: str, theirs: Mapping[str, Any], kind: str, **changes: Any) -> BertConfig:
    """Our configuration of a BERT, or of a RoBERTa (kind "roberta"); see `config_from`.

    Pooling is "pooler" where the architecture of the file has one (all but the masked-language and the token
    classification model), "first" otherwise.
    """
    fields = hub_fields(theirs, _NAMES, ("hidden_act", "gelu"), "intermediate_size")
    fields.setdefault("mlp_ratio", 3072 / fields.get("embed_dim", 768))
    offset = 0
    if kind == "roberta":
        fields.setdefault("pad_token_id", 1)
        fields.setdefault("vocab_size", 50265)
        offset = fields["pad_token_id"] + 1
    fields["position_offset"] = offset
    fields["max_position_embeddings"] = theirs.get("max_position_embeddings", 512) - offset
    architecture = str((theirs.get("architectures") or [""])[0])
    # RoBERTa's classifiers have no pooler; what looks like one belongs to the head.
    pooled = architecture.endswith("Model") if kind == "roberta" else architecture.endswith(_WITH_POOLER)
    fields["pooling"] = "pooler" if pooled else "first"
    return BertConfig(**(fields | changes))


def _to_hub(config: BertConfig, architecture: str) -> dict[str, Any]:
    """The config.json of transformers. ValueError for a configuration that their models cannot compute."""
    family = config.layout_family
    if family == "roberta" and config.position_offset != (config.pad_token_id or 0) + 1:
        raise ValueError(
            f"position_offset: expected pad_token_id + 1 as in RoBERTa, got {config.position_offset} with "
            f"pad_token_id {config.pad_token_id}"
        )
    return to_hub(config, _NAMES, family, architecture) | {
        "hidden_act": THEIR_ACTIVATIONS[config.activation],
        "type_vocab_size": max(config.type_vocab_size, 1),  # they always have a table of segments
        "intermediate_size": hidden_width(config),
        "max_position_embeddings": config.max_position_embeddings + config.position_offset,
    }


def _complete(config: BertConfig, architecture: str, layout: Layout) -> dict[str, Tensor]:
    """What their files have beside our parameters: a table of segments, also where there are none."""
    if config.type_vocab_size:
        return {}
    prefix = "" if architecture.endswith("Model") else layout.prefix
    return {prefix + "embeddings.token_type_embeddings.weight": torch.zeros(1, config.embed_dim)}


def _check_head(architecture: str, config: BertConfig, objective: Any) -> dict[str, Any]:
    """ValueError for a head that theirs is not."""
    if architecture == "BertForSequenceClassification" and config.pooling != "pooler":
        raise ValueError(
            f"--to hf: {architecture} classifies by pooling=pooler, this model by {config.pooling}: add --encoder to "
            "write the encoder alone"
        )
    return {}


_MODEL = "unitrans.models.bert.model"
_CLASSES = {
    "encoder": f"{_MODEL}:BertModel",
    "mlm": f"{_MODEL}:BertForMaskedLM",
    "pretraining": f"{_MODEL}:BertForPreTraining",
    "nsp": f"{_MODEL}:BertForNextSentencePrediction",
    "classifier": f"{_MODEL}:BertForSequenceClassification",
    "tokens": f"{_MODEL}:BertForTokenClassification",
}
FORMATS = (
    Format(
        name="bert",
        own=lambda weights: own_kind(weights) == "bert",
        titles=("BERT",),
        layouts={"hf4": _BERT, "hf5": _BERT},
        layout_of=partial(_layout_of, False),
        fields=_fields,
        kind=_kind,
        classes=_CLASSES,
        sources=("hf4", "hf5"),
        config=_config,
        names={"hf4": _NAMES, "hf5": _NAMES},
        hub=Hub(
            model_types={"bert": "BertModel"},
            classes={
                "BertModel": f"{_MODEL}:BertModel",
                "BertForMaskedLM": f"{_MODEL}:BertForMaskedLM",
                "BertForPreTraining": f"{_MODEL}:BertForPreTraining",
                "BertForNextSentencePrediction": f"{_MODEL}:BertForNextSentencePrediction",
                "BertForSequenceClassification": f"{_MODEL}:BertForSequenceClassification",
                "BertForTokenClassification": f"{_MODEL}:BertForTokenClassification",
            },
            heads={
                "mlm": "BertForMaskedLM",
                "classification": "BertForSequenceClassification",
                "regression": "BertForSequenceClassification",
                "token_classification": "BertForTokenClassification",
            },
            config=_to_hub,
            objective_fields=_check_head,
            complete=_complete,
            same_in_memory=True,
        ),
    ),
    Format(
        name="roberta",
        counts={"max_position_embeddings": "position_offset"},
        own=lambda weights: own_kind(weights) == "roberta",
        titles=("RoBERTa",),
        layouts={"hf4": _ROBERTA, "hf5": _ROBERTA},
        layout_of=partial(_layout_of, True),
        fields=_roberta_fields,
        kind=_kind,
        classes=_CLASSES,
        sources=("hf4", "hf5"),
        config=_config,
        names={"hf4": _NAMES, "hf5": _NAMES},
        hub=Hub(
            model_types={"roberta": "RobertaModel"},
            classes={
                "RobertaModel": f"{_MODEL}:BertModel",
                "RobertaForMaskedLM": f"{_MODEL}:BertForMaskedLM",
                "RobertaForTokenClassification": f"{_MODEL}:BertForTokenClassification",
            },
            heads={
                "mlm": "RobertaForMaskedLM",
                "token_classification": "RobertaForTokenClassification",
            },
            config=_to_hub,
            complete=_complete,
            same_in_memory=True,
        ),
    ),
)
