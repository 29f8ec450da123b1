"""How other code bases name the weights of our models: one table of templates each, used in both directions; what a
template is, `renames` says."""

from collections.abc import Sequence
from dataclasses import replace

from unitrans.models.renames import Layout, Rename


def _under(theirs: str, ours: str, renames: Sequence[Rename]) -> tuple[Rename, ...]:
    """The renames of a part of a model, where that part sits."""
    return tuple(
        (theirs + their if isinstance(their, str) else tuple(theirs + name for name in their), ours + our)
        for their, our in renames
    )


def _qkv(names: tuple[str, str, str], kind: str) -> Rename:
    return tuple(f"{name}.{kind}" for name in names), f"attn.qkv.{kind}"


_DERIVED = (r"relative_position_index$", r"attn_mask$", r"relative_coords_table$", r"attn\.k_bias$")
_MIM_SIDES = ((r"mask_token$", (None, 0, 1)), (r"decoder\.0\.weight$", (0, 1, None, None)))

_TABLE: Rename = ("attn.relative_position_bias_table", "attn.position_bias.relative_position_bias_table")
_CPB: tuple[Rename, ...] = (
    ("attn.cpb_mlp.{rest}", "attn.position_bias.cpb_mlp.{rest}"),
    ("attn.rpe_mlp.{rest}", "attn.position_bias.cpb_mlp.{rest}"),  # older files
)
_SWIN_BLOCK = "layers.{s}.blocks.{b}."
_OFFICIAL_HEADS: tuple[Rename, ...] = (
    ("encoder.mask_token", "head.mask_token"),
    ("decoder.0.{rest}", "head.decoder.{rest}"),
    ("norm{s}.{rest}", "out_norms.{s}.{rest}"),
)
_TIMM_SWIN_HEADS: tuple[Rename, ...] = (("head.fc.{rest}", "head.{rest}"),)
_TIMM_MERGE: Rename = ("layers.{s+1}.downsample.{rest}", "layers.{s}.downsample.{rest}")


def _official(*block: Rename) -> Layout:
    return Layout(
        renames=_under(_SWIN_BLOCK, _SWIN_BLOCK, block),
        heads=_OFFICIAL_HEADS,
        masked_prefix="encoder.",
        derived=_DERIVED,
        sides=_MIM_SIDES,
    )


def _timm_swin(*block: Rename) -> Layout:
    return Layout(
        renames=(*_under(_SWIN_BLOCK, _SWIN_BLOCK, block), _TIMM_MERGE),
        heads=_TIMM_SWIN_HEADS,
        derived=_DERIVED,
    )


_TORCHVISION_BLOCK = "features.{2s+1}.{b}."


def _torchvision(*block: Rename, fused_bias: bool = False) -> Layout:
    mlp = (("mlp.0.{rest}", "mlp.fc1.{rest}"), ("mlp.3.{rest}", "mlp.fc2.{rest}"))
    return Layout(
        renames=(
            ("features.0.0.{rest}", "patch_embed.proj.{rest}"),
            ("features.0.2.{rest}", "patch_embed.norm.{rest}"),
            *_under(_TORCHVISION_BLOCK, _SWIN_BLOCK, (*block, *mlp)),
            (_TORCHVISION_BLOCK + "{rest}", _SWIN_BLOCK + "{rest}"),
            ("features.{2s+2}.{rest}", "layers.{s}.downsample.{rest}"),
        ),
        derived=_DERIVED,
        fused_bias=fused_bias,
    )


_HF_NORMS: tuple[Rename, ...] = (
    ("layernorm_before.{rest}", "norm1.{rest}"),
    ("layernorm_after.{rest}", "norm2.{rest}"),
)
_HF4_MLP: tuple[Rename, ...] = (
    ("attention.output.dense.{rest}", "attn.proj.{rest}"),
    ("intermediate.dense.{rest}", "mlp.fc1.{rest}"),
    ("output.dense.{rest}", "mlp.fc2.{rest}"),
)
_HF5_QKV: Rename = (
    tuple(f"attention.{part}_proj.{{rest}}" for part in "qkv"),
    "attn.qkv.{rest}",
)
_HF5_BLOCK: tuple[Rename, ...] = (
    *_HF_NORMS,
    _HF5_QKV,
    ("attention.o_proj.{rest}", "attn.proj.{rest}"),
    ("attention.relative_position_bias.{rest}", "attn.position_bias.{rest}"),
)
_HF4_NAMES = ("attention.self.query", "attention.self.key", "attention.self.value")
_HF4_BLOCK: tuple[Rename, ...] = (
    *_HF_NORMS,
    (tuple(name + ".{rest}" for name in _HF4_NAMES), "attn.qkv.{rest}"),
    ("attention.self.relative_position_bias_table", "attn.position_bias.relative_position_bias_table"),
    *_HF4_MLP,
)
_HF_V2_BLOCK: tuple[Rename, ...] = (
    *_HF_NORMS,
    _qkv(_HF4_NAMES, "weight"),
    ("attention.self.query.bias", "attn.q_bias"),
    ("attention.self.value.bias", "attn.v_bias"),
    ("attention.self.logit_scale", "attn.logit_scale"),
    ("attention.self.continuous_position_bias_mlp.{rest}", "attn.position_bias.cpb_mlp.{rest}"),
    *_HF4_MLP,
)
_HF_VIT4_BLOCK: tuple[Rename, ...] = (
    *_HF_NORMS,
    (
        tuple(f"attention.attention.{part}.{{rest}}" for part in ("query", "key", "value")),
        "attn.qkv.{rest}",
    ),
    *_HF4_MLP,
)


def _hf(
    base: str, theirs: str, ours: str, block: Sequence[Rename], *, pos_embed: str, backbone: str | None = None
) -> Layout:
    return Layout(
        renames=(
            *_under(theirs, ours, block),
            (theirs + "{rest}", ours + "{rest}"),
            ("encoder.layers.{s}.downsample.{rest}", "layers.{s}.downsample.{rest}"),
            ("embeddings.patch_embeddings.projection.{rest}", "patch_embed.proj.{rest}"),
            ("embeddings.norm.{rest}", "patch_embed.norm.{rest}"),
            ("embeddings.position_embeddings", pos_embed),
            ("embeddings.cls_token", "cls_token"),
            ("layernorm.{rest}", "norm.{rest}"),
        ),
        heads=(
            (base + "embeddings.mask_token", "head.mask_token"),
            ("decoder.0.{rest}", "head.decoder.{rest}"),
            ("classifier.{rest}", "head.{rest}"),
            ("hidden_states_norms.stage{s+1}.{rest}", "out_norms.{s}.{rest}"),
        ),
        prefix=base,
        backbone_prefix=backbone,
        derived=_DERIVED,
        sides=_MIM_SIDES,
    )


def _hf_swin(base: str, block: Sequence[Rename], backbone: str | None = None) -> Layout:
    theirs, pos_embed = "encoder." + _SWIN_BLOCK, "absolute_pos_embed"
    return _hf(base, theirs, _SWIN_BLOCK, block, pos_embed=pos_embed, backbone=backbone)


_VIT_BLOCK = "blocks.{b}."


def _mae_heads(theirs: str, mask_token: str, layer: str, block: Sequence[Rename] = ()) -> tuple[Rename, ...]:
    """The decoder of MAE; mask_token, layer: their names of the token and in front of a layer."""
    parts = ("decoder_embed", "decoder_norm", "decoder_pred")
    return (
        (mask_token, "head.decoder.mask_token"),
        (theirs + "decoder_pos_embed", "head.decoder.pos_embed"),
        *_under(layer + "{b}.", "head.decoder.blocks.{b}.", (*block, ("{rest}", "{rest}"))),
        *((f"{theirs}{p}.{{rest}}", f"head.decoder.{p.removeprefix('decoder_')}.{{rest}}") for p in parts),
    )


def _hf_vit(theirs: str, block: Sequence[Rename]) -> Layout:
    """ViT, and the decoder of ViTMAE, whose blocks are named alike."""
    plain = _hf("vit.", theirs, _VIT_BLOCK, block, pos_embed="pos_embed")
    mae = _mae_heads("decoder.", "decoder.mask_token", "decoder.decoder_layers.", block)
    # How transformers 5 writes the decoder's layers into files, its rename of "layers" having hit them too.
    saved = _under(
        "decoder.decoder_encoder.layer.{b}.", "head.decoder.blocks.{b}.", (*block, ("{rest}", "{rest}"))
    )
    return replace(plain, heads=(*mae, *saved, *plain.heads))


def _beit_block(attention: str, parts: Sequence[str], position_bias: str) -> tuple[Rename, ...]:
    """A block of BEiT, whose keys have no bias; parts: queries, keys and values."""
    q, _, v = (f"{attention}.{part}.bias" for part in parts)
    return (
        *_HF_NORMS,
        (tuple(f"{attention}.{part}.weight" for part in parts), "attn.qkv.weight"),
        (q, "attn.q_bias"),
        (v, "attn.v_bias"),
        (position_bias + "relative_position_bias.{rest}", "attn.position_bias.{rest}"),
        ("lambda_{s}", "gamma_{s}"),
    )


def _hf_beit(theirs: str, block: Sequence[Rename], shared: str) -> Layout:
    """BEiT; its model for masked images has the last norm of rows outside of the encoder."""
    plain = _hf("beit.", theirs, _VIT_BLOCK, block, pos_embed="pos_embed")
    heads = (("lm_head.{rest}", "head.classifier.{rest}"), ("layernorm.{rest}", "encoder.norm.{rest}"))
    return replace(
        plain,
        renames=(
            (shared + ".{rest}", "rel_pos_bias.{rest}"),
            ("pooler.layernorm.{rest}", "fc_norm.{rest}"),
            *plain.renames,
        ),
        heads=(*heads, ("layernorm.{rest}", "norm.{rest}"), *plain.heads),
        unused=(r"embeddings\.mask_token$",),
    )


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
        *_under("graph_encoder.layers.{b}.", _VIT_BLOCK, _GRAPH_V2_BLOCK),
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
            *_under("layers.{b}.", _VIT_BLOCK, _GRAPH_V1_BLOCK),
            *((f"{name}.{{rest}}", f"node_embed.{name}.{{rest}}") for name in _GRAPH_NODES),
            *((f"{name}.{{rest}}", f"pair_bias.{name}.{{rest}}") for name in _GRAPH_PAIRS),
            ("final_ln.{rest}", "norm.{rest}"),
        ),
        heads=tuple(
            (f"{name}.{{rest}}", f"{ours}.{{rest}}") for ours in ("out", "head.linear") for name in head
        ),
    )


_BERT_BLOCK: tuple[Rename, ...] = (
    (tuple(name + ".{rest}" for name in _HF4_NAMES), "attn.qkv.{rest}"),
    ("attention.output.LayerNorm.{rest}", "norm1.{rest}"),
    ("output.LayerNorm.{rest}", "norm2.{rest}"),
    *_HF4_MLP,
)


def _bert(base: str, transform: str, norm: str, head: str) -> Layout:
    """BERT or RoBERTa: the encoder's names are the same, those of the masked-language head are not."""
    return Layout(
        renames=(
            *_under("encoder.layer.{b}.", "blocks.{b}.", _BERT_BLOCK),
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
_GPT2 = Layout(
    renames=(
        *_under(
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

#: (model family, layout) -> table. "official" also serves SimMIM checkpoints (encoder.*, decoder.0.*); "hf4" is
#: the layout of the files on the hub, "hf5" what transformers 5 holds in memory.
LAYOUTS: dict[tuple[str, str], Layout] = {
    ("swin", "official"): _official(_TABLE),
    ("swin", "timm"): _timm_swin(_TABLE),
    ("swin", "torchvision"): _torchvision(_TABLE),
    ("swin", "hf4"): _hf_swin("swin.", _HF4_BLOCK),
    ("swin", "hf5"): _hf_swin("swin.", _HF5_BLOCK),
    ("swinv2", "official"): _official(*_CPB),
    ("swinv2", "timm"): _timm_swin(*_CPB),
    ("swinv2", "torchvision"): _torchvision(*_CPB[:1], fused_bias=True),
    ("swinv2", "hf4"): _hf_swin("swinv2.", _HF_V2_BLOCK, backbone=""),
    ("swinv2", "hf5"): _hf_swin("swinv2.", _HF_V2_BLOCK, backbone=""),
    ("vit", "official"): Layout(
        renames=_under(_VIT_BLOCK, _VIT_BLOCK, (_TABLE,)),
        heads=_OFFICIAL_HEADS,
        masked_prefix="encoder.",
        derived=_DERIVED,
        sides=_MIM_SIDES,
    ),
    ("vit", "mae"): Layout(
        renames=(),
        heads=_mae_heads("", "mask_token", "decoder_blocks."),
        masked_prefix="",
        sides=((r"mask_token$", (None, 0, 1)),),
    ),
    ("vit", "timm"): Layout(
        renames=_under(
            _VIT_BLOCK,
            _VIT_BLOCK,
            (("ls1.gamma", "gamma_1"), ("ls2.gamma", "gamma_2"), _TABLE),
        ),
        derived=_DERIVED,
    ),
    ("bert", "hf4"): _BERT,
    ("bert", "hf5"): _BERT,
    ("roberta", "hf4"): _ROBERTA,
    ("roberta", "hf5"): _ROBERTA,
    ("gpt2", "hf4"): _GPT2,
    ("gpt2", "hf5"): _GPT2,
    ("vit", "hf4"): _hf_vit("encoder.layer.{b}.", _HF_VIT4_BLOCK),
    ("vit", "hf5"): _hf_vit("layers.{b}.", _HF5_BLOCK),
    ("beit", "hf4"): _hf_beit(
        "encoder.layer.{b}.",
        (*_beit_block("attention.attention", ("query", "key", "value"), "attention.attention."), *_HF4_MLP),
        "encoder.relative_position_bias",
    ),
    ("beit", "hf5"): _hf_beit(
        "layers.{b}.",
        (
            *_beit_block("attention", ("q_proj", "k_proj", "v_proj"), ""),
            ("attention.o_proj.{rest}", "attn.proj.{rest}"),
        ),
        "shared_position_bias",
    ),
    ("graphormer", "v2"): _GRAPH_V2,
    # transformers up to 4.x, which kept the tree of version 2 under a classifier of its own.
    ("graphormer", "hf4"): replace(
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
    ("graphormer", "v1"): _graph_v1("out_proj", "downstream_out_proj"),
    ("graphormer", "v1-downstream"): _graph_v1("downstream_out_proj", "out_proj"),
}
# Elsewhere a BEiT is a ViT with more parts.
LAYOUTS |= {("beit", name): LAYOUTS["vit", name] for name in ("official", "timm")}
