"""Arguments of the published Graphormer, versions 1 and 2, as our configuration."""

from collections.abc import Mapping
from typing import Any

from unitrans.models.graphormer import GraphormerConfig

_TABLES = ("num_in_degree", "num_out_degree", "num_spatial", "num_edge_dis", "multi_hop_max_dist")
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
} | {name: name for name in _TABLES}
_V1 = {
    "n_layers": "depth",
    "hidden_dim": "embed_dim",
    "num_heads": "num_heads",
    "dropout_rate": "drop_rate",
    "intput_dropout_rate": "embed_drop_rate",  # their spelling
    "attention_dropout_rate": "attn_drop_rate",
    "num_classes": "num_outputs",
    "num_class": "num_outputs",
} | {name: name for name in _TABLES}
#: version -> their name -> ours.
PUBLISHED_NAMES = {"v1": _V1, "v2": _V2}

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


def graphormer_config(version: str, theirs: Mapping[str, Any], **changes: Any) -> GraphormerConfig:
    """Our configuration of a published model.

    Args:
        version: "v2" (`graphormer_base`, `_slim`, `_large` of fairseq) or "v1" (pytorch lightning).
        theirs: their arguments; what is left out has our default. `collator.spatial_pos_max` is read too. For v1,
            num_atoms and num_edges count rows as there, padding included, and dataset_name ZINC has small tables.
        changes: fields of ours that are set in the end.

    Raises:
        ValueError: an unknown argument, or one whose value our model does not have.
    """
    names = PUBLISHED_NAMES[version]
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
