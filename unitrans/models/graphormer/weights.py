"""Weights and arguments of the published Graphormer, versions 1 and 2, and of transformers up to 4."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from torch import Tensor

from unitrans.models._weights import Format, numbers, some
from unitrans.models.graphormer.config import GraphormerConfig
from unitrans.models.renames import Layout, Rename, under

_BLOCK = "blocks.{b}."
_GRAPH_NODES = ("atom_encoder", "in_degree_encoder", "out_degree_encoder", "graph_token")
_GRAPH_PAIRS = (
    "edge_encoder",
    "edge_dis_encoder",
    "spatial_pos_encoder",
    "graph_token_virtual_distance",
)
_GRAPH_V2_BLOCK: tuple[Rename, ...] = (
    (tuple(f"self_attn.{part}_proj.{{rest}}" for part in "qkv"), "attn.qkv.{rest}"),
    ("self_attn.in_proj_{rest}", "attn.qkv.{rest}"),  # older files
    ("self_attn.out_proj.{rest}", "attn.proj.{rest}"),
    ("self_attn_layer_norm.{rest}", "norm1.{rest}"),
    ("fc1.{rest}", "mlp.fc1.{rest}"),
    ("fc2.{rest}", "mlp.fc2.{rest}"),
    ("final_layer_norm.{rest}", "norm2.{rest}"),
)
_GRAPH_V2 = Layout(
    renames=(
        *under("graph_encoder.layers.{b}.", _BLOCK, _GRAPH_V2_BLOCK),
        ("graph_encoder.graph_node_feature.{rest}", "node_embed.{rest}"),
        ("graph_encoder.graph_attn_bias.{rest}", "pair_bias.{rest}"),
        ("graph_encoder.emb_layer_norm.{rest}", "embed_norm.{rest}"),
        ("lm_head_transform_weight.{rest}", "pooler.dense.{rest}"),
        ("layer_norm.{rest}", "pooler.norm.{rest}"),
    ),
    heads=(
        ("encoder.embed_out.weight", "out.weight"),
        ("encoder.lm_output_learned_bias", "out_bias"),
        (
            "encoder.embed_out.weight",
            "head.linear.weight",
        ),  # of a model that is trained here, with one output
        ("encoder.lm_output_learned_bias", "head.linear.bias"),
        ("encoder.masked_lm_pooler.{rest}", "masked_lm_pooler.{rest}"),
        ("encoder.graph_encoder.final_layer_norm.{rest}", "unused_norm.{rest}"),
    ),
    prefix="encoder.",
    unused=(r"^encoder\.masked_lm_pooler\.", r"^encoder\.graph_encoder\.final_layer_norm\."),
)
_GRAPH_V1_BLOCK: tuple[Rename, ...] = (
    (tuple(f"self_attention.linear_{part}.{{rest}}" for part in "qkv"), "attn.qkv.{rest}"),
    ("self_attention.output_layer.{rest}", "attn.proj.{rest}"),
    ("self_attention_norm.{rest}", "norm1.{rest}"),
    ("ffn.layer{s}.{rest}", "mlp.fc{s}.{rest}"),
    ("ffn_norm.{rest}", "norm2.{rest}"),
)


def _graph_v1(*head: str) -> Layout:
    return Layout(
        renames=(
            *under("layers.{b}.", _BLOCK, _GRAPH_V1_BLOCK),
            *((f"{name}.{{rest}}", f"node_embed.{name}.{{rest}}") for name in _GRAPH_NODES),
            *((f"{name}.{{rest}}", f"pair_bias.{name}.{{rest}}") for name in _GRAPH_PAIRS),
            ("final_ln.{rest}", "norm.{rest}"),
        ),
        heads=tuple(
            (f"{name}.{{rest}}", f"{ours}.{{rest}}") for ours in ("out", "head.linear") for name in head
        ),
    )


_LAYOUTS = {
    "v2": _GRAPH_V2,
    # transformers up to 4.x, which kept the tree of version 2 under a classifier of its own.
    "hf4": replace(
        _GRAPH_V2,
        heads=(
            ("classifier.classifier.weight", "out.weight"),
            ("classifier.lm_output_learned_bias", "out_bias"),
            ("classifier.classifier.weight", "head.linear.weight"),
            ("classifier.lm_output_learned_bias", "head.linear.bias"),
            ("encoder.masked_lm_pooler.{rest}", "masked_lm_pooler.{rest}"),
            ("encoder.graph_encoder.final_layer_norm.{rest}", "unused_norm.{rest}"),
        ),
    ),
    # The head is downstream_out_proj for all data sets but PCQM4M; both are read.
    "v1": _graph_v1("out_proj", "downstream_out_proj"),
    "v1-downstream": _graph_v1("downstream_out_proj", "out_proj"),
}


def _layout_of(weights: Mapping[str, Tensor]) -> str | None:
    if some(weights, r"graph_encoder\.layers\.\d+\."):
        return "hf4" if "classifier.classifier.weight" in weights else "v2"
    return "v1" if some(weights, r"layers\.\d+\.self_attention\.linear_q\.") else None


def _fields(
    own: Mapping[str, Tensor], weights: Mapping[str, Tensor]
) -> tuple[dict[str, Any], dict[str, str]]:
    heads = own["pair_bias.spatial_pos_encoder.weight"].shape[1]
    hidden = own["blocks.0.mlp.fc1.weight"]
    hops = own.get("pair_bias.edge_dis_encoder.weight")
    fields: dict[str, Any] = {
        "embed_dim": hidden.shape[1],
        "depth": len(numbers(own, r"blocks\.(\d+)\.")),
        "num_heads": heads,
        "mlp_ratio": hidden.shape[0] / hidden.shape[1],
        "num_atoms": own["node_embed.atom_encoder.weight"].shape[0] - 1,
        "num_edges": own["pair_bias.edge_encoder.weight"].shape[0] - 1,
        "num_in_degree": own["node_embed.in_degree_encoder.weight"].shape[0],
        "num_out_degree": own["node_embed.out_degree_encoder.weight"].shape[0],
        "num_spatial": own["pair_bias.spatial_pos_encoder.weight"].shape[0],
        "multi_hop": hops is not None,
        "embed_norm": "embed_norm.weight" in own,
    }
    if hops is not None:
        fields["num_edge_dis"] = hops.numel() // heads**2
    fields["final_norm"] = "norm.weight" in own
    if fields["final_norm"] or "unused_norm.weight" in own:
        fields["norm"] = "pre"
    if "out.bias" in own:
        fields["head"] = "linear"
    for name in ("out.weight", "head.linear.weight"):
        if name in own:
            fields["num_outputs"] = own[name].shape[0]
    return fields, {}


TABLES = ("num_in_degree", "num_out_degree", "num_spatial", "num_edge_dis", "multi_hop_max_dist")
_V2 = {
    "num_atoms": "num_atoms",
    "num_edges": "num_edges",
    "encoder_layers": "depth",
    "encoder_embed_dim": "embed_dim",
    "encoder_attention_heads": "num_heads",
    "dropout": "drop_rate",
    "attention_dropout": "attn_drop_rate",
    "act_dropout": "act_drop_rate",
    "encoder_normalize_before": "embed_norm",
    "num_classes": "num_outputs",
} | {name: name for name in TABLES}
_V1 = {
    "n_layers": "depth",
    "hidden_dim": "embed_dim",
    "num_heads": "num_heads",
    "dropout_rate": "drop_rate",
    "intput_dropout_rate": "embed_drop_rate",  # their spelling
    "attention_dropout_rate": "attn_drop_rate",
    "num_classes": "num_outputs",
    "num_class": "num_outputs",
} | {name: name for name in TABLES}
#: version -> their name -> ours.
_NAMES = {"v1": _V1, "v2": _V2}

#: Arguments that change nothing in the network, or that are read apart.
_READ_APART = (
    "edge_type pre_layernorm encoder_ffn_embed_dim ffn_dim apply_graphormer_init activation_fn max_nodes collator "
    "share_encoder_input_output_embed pretrained_model_name load_pretrained_model_output_layer cls dataset_name "
    "spatial_pos_max multi_hop num_atoms num_edges weight_decay warmup_updates tot_updates peak_lr end_lr flag flag_m "
    "flag_step_size flag_mag max_node encoder_learned_pos no_token_positional_embeddings remove_head"
).split()
_ZINC = {
    "num_atoms": 63,
    "num_edges": 63,
    "num_in_degree": 64,
    "num_out_degree": 64,
    "num_spatial": 40,
    "num_edge_dis": 40,
}


def _config(version: str, theirs: Mapping[str, Any], kind: str, **changes: Any) -> GraphormerConfig:
    """Our configuration of a published model.

    Args:
        version: "v2" (`graphormer_base`, `_slim`, `_large` of fairseq) or "v1" (pytorch lightning).
        theirs: their arguments; what is left out has our default. `collator.spatial_pos_max` is read too. For v1,
            num_atoms and num_edges count rows as there, padding included, and dataset_name ZINC has small tables.
        changes: fields of ours that are set in the end.

    Raises:
        ValueError: an unknown argument, or one whose value our model does not have.
    """
    names = _NAMES[version]
    unknown = [name for name in theirs if name not in names and name not in _READ_APART]
    if unknown:
        raise ValueError(f"{unknown[0]}: expected an argument of Graphormer {version}, got an unknown one")
    if theirs.get("activation_fn", "gelu") != "gelu":
        raise ValueError(f"activation_fn: expected 'gelu', got {theirs['activation_fn']!r}")
    if theirs.get("share_encoder_input_output_embed"):
        raise ValueError("share_encoder_input_output_embed: expected False, got True")
    fields: dict[str, Any] = {}
    if version == "v1":
        fields = {"norm": "pre", "final_norm": True, "embed_norm": False, "head": "linear", "init": "v1"}
        fields |= {"drop_rate": 0.1, "act_drop_rate": 0.0, "embed_dim": 512, "num_heads": 32}
        if theirs.get("dataset_name") == "ZINC":
            fields |= _ZINC
        fields |= {name: theirs[name] - 1 for name in ("num_atoms", "num_edges") if name in theirs}
    elif theirs.get("pre_layernorm"):
        fields["norm"] = "pre"
    fields |= {ours: theirs[name] for name, ours in names.items() if name in theirs}
    if "multi_hop" in theirs or "edge_type" in theirs:
        fields["multi_hop"] = bool(theirs.get("multi_hop", True)) and theirs.get("edge_type") in (
            None,
            "multi_hop",
        )
    hidden = theirs.get("encoder_ffn_embed_dim", theirs.get("ffn_dim"))
    if hidden is not None:
        fields["mlp_ratio"] = hidden / fields.get("embed_dim", 80)
    collator = {**theirs, **(theirs.get("collator") or {})}
    if "spatial_pos_max" in collator:
        fields["spatial_pos_max"] = collator["spatial_pos_max"]
    return GraphormerConfig(**(fields | changes))


FORMATS = (
    Format(
        name="graphormer",
        titles=("Graphormer",),
        layouts=_LAYOUTS,
        layout_of=_layout_of,
        fields=_fields,
        kind=lambda own: "graph",
        own=lambda weights: some(weights, r"^(encoder\.)?node_embed\."),
        classes={"graph": "unitrans.models.graphormer.model:Graphormer"},
        sources=("v1", "v2"),
        config=_config,
        names=_NAMES,
        configured_as={"hf4": "v2"},
    ),
)
