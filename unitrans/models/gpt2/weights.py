"""Weights and settings of GPT-2 in transformers."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from unitrans.models._text_weights import (
    THEIR_ACTIVATIONS,
    hidden_width,
    hub_fields,
    own_kind,
    text_fields,
    to_hub,
)
from unitrans.models._weights import Format, Hub, some
from unitrans.models.gpt2.config import Gpt2Config
from unitrans.models.gpt2.sizes import SIZES
from unitrans.models.renames import Layout, under

_GPT2 = Layout(
    renames=(
        *under(
            "h.{b}.",
            "blocks.{b}.",
            (
                ("ln_1.{rest}", "norm1.{rest}"),
                ("ln_2.{rest}", "norm2.{rest}"),
                ("attn.c_attn.{rest}", "attn.qkv.{rest}"),
                ("attn.c_proj.{rest}", "attn.proj.{rest}"),
                ("mlp.c_fc.{rest}", "mlp.fc1.{rest}"),
                ("mlp.c_proj.{rest}", "mlp.fc2.{rest}"),
            ),
        ),
        ("wte.weight", "embeddings.word_embeddings.weight"),
        ("wpe.weight", "embeddings.position_embeddings.weight"),
        ("ln_f.{rest}", "norm.{rest}"),
    ),
    heads=(("score.weight", "head.weight"),),
    prefix="transformer.",
    derived=(r"\.attn\.bias$", r"\.attn\.masked_bias$"),
    tied={"lm_head.weight": "transformer.wte.weight"},
    transposed=(r"(c_attn|c_proj|c_fc)\.weight$",),
)


def _layout_of(weights: Mapping[str, Tensor]) -> str | None:
    return "hf4" if some(weights, r"(^|\.)h\.\d+\.attn\.c_attn\.") else None


def _fields(
    own: Mapping[str, Tensor], weights: Mapping[str, Tensor]
) -> tuple[dict[str, Any], dict[str, str]]:
    return text_fields(own, weights, SIZES)


_NAMES = {
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


def _config(source: str, theirs: Mapping[str, Any], kind: str, **changes: Any) -> Gpt2Config:
    """Our configuration; see `config_from`. Pooling is "last"."""
    fields = hub_fields(theirs, _NAMES, ("activation_function", "gelu_new"), "n_inner")
    fields.setdefault("mlp_ratio", 4.0)
    if theirs.get("embd_pdrop", 0.1) != theirs.get("resid_pdrop", 0.1):
        raise ValueError(
            f"embd_pdrop: expected the same as resid_pdrop {theirs.get('resid_pdrop', 0.1)}, "
            f"got {theirs.get('embd_pdrop', 0.1)}"
        )
    return Gpt2Config(**(fields | changes))


def _to_hub(config: Gpt2Config, architecture: str) -> dict[str, Any]:
    """The config.json of transformers. ValueError for a configuration that their models cannot compute."""
    return to_hub(config, _NAMES, config.layout_family, architecture) | {
        "activation_function": THEIR_ACTIVATIONS[config.activation],
        "n_inner": hidden_width(config),
        "embd_pdrop": config.drop_rate,
        "bos_token_id": None,
        "eos_token_id": None,
    }


_MODEL = "unitrans.models.gpt2.model"
FORMATS = (
    Format(
        name="gpt2",
        own=lambda weights: own_kind(weights) == "gpt2",
        titles=("GPT-2",),
        layouts={"hf4": _GPT2, "hf5": _GPT2},
        layout_of=_layout_of,
        fields=_fields,
        kind=lambda own: "clm",
        classes={"clm": f"{_MODEL}:Gpt2LMHeadModel"},
        sources=("hf4", "hf5"),
        config=_config,
        names={"hf4": _NAMES, "hf5": _NAMES},
        hub=Hub(
            model_types={"gpt2": "GPT2Model"},
            classes={"GPT2Model": f"{_MODEL}:Gpt2Model", "GPT2LMHeadModel": f"{_MODEL}:Gpt2LMHeadModel"},
            heads={"clm": "GPT2LMHeadModel"},
            config=_to_hub,
            same_in_memory=True,
        ),
    ),
)
