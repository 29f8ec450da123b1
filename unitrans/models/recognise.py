"""What a file of weights is: its family, the code base that named it, and the configuration that its shapes tell."""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from unitrans.models.convert_config import config_from, our_name
from unitrans.models.layouts import LAYOUTS
from unitrans.models.swinv2 import keep_measure

#: Sizes at which the published Swins of a window were trained, where their weights do not tell.
_TRAINED_AT = {7: 224, 8: 256, 12: 384, 16: 256, 24: 384}
#: The window of a stage and, for V2, that of its pretraining.
Window = tuple[tuple[int, int], tuple[int, int] | None]
_ROBERTA_OFFSET = 2  # its pad_token_id is 1 and its positions start behind it


@dataclass(frozen=True)
class Recognised:
    """What `recognise` found.

    Attributes:
        family: as in `LAYOUTS`.
        layout: the same.
        kind: what the model predicts: encoder (nothing), classifier, backbone, masked (SimMIM), mae, beit, mlm,
            pretraining, nsp, tokens, clm or graph.
        fields: of our configuration, as far as the shapes tell.
        untold: of our configuration or objective: what is needed and cannot be told, with a word on what it is.
        options: of the objective of a masked model, mae or beit, as far as the shapes tell.
    """

    family: str
    layout: str
    kind: str
    fields: dict[str, Any]
    untold: dict[str, str] = field(default_factory=dict)
    options: dict[str, Any] = field(default_factory=dict)

    def __str__(self) -> str:
        sizes = ", ".join(f"{name} {self.fields[name]}" for name in _SAID if name in self.fields)
        return f"a {self.family} under {self.layout} names ({sizes})"


_SAID = ("embed_dim", "depths", "depth", "window_size", "num_heads", "patch_size", "vocab_size")


def recognise(weights: Mapping[str, Tensor], source: str = "auto", what: str = "weights") -> Recognised:
    """Family, layout, kind and configuration of weights.

    Args:
        weights: a state dict of another code base.
        source: its layout, or "auto".
        what: how errors name the weights.

    Raises:
        ValueError: weights of none of our models, or not of this layout.
    """
    family, layout = _family_and_layout(set(weights), weights, what)
    if source != "auto":
        known = [name for kind, name in LAYOUTS if kind == family]
        if source not in known:
            raise ValueError(
                f"source: expected one of {', '.join(map(repr, ['auto', *known]))} for weights of a {family}, "
                f"got {source!r}"
            )
        layout = source
    own = _as_ours(weights, family, layout)
    fields, untold = _READERS[family](own, weights)
    kind, options = _kind(family, own), {}
    if kind == "mae":
        options = _decoder(own, untold)
    elif kind == "beit":
        options = {"vocab_size": own["head.classifier.weight"].shape[0]}
    elif kind == "masked":  # rows are in_chans times the square of the stride
        options = {"mask_patch_size": math.isqrt(own["head.decoder.weight"].shape[0] // fields["in_chans"])}
    return Recognised(family, layout, kind, fields, untold, options)


def _family_and_layout(names: set[str], weights: Mapping[str, Tensor], what: str) -> tuple[str, str]:
    def some(pattern: str) -> bool:
        return any(re.search(pattern, name) for name in names)

    v2 = some(r"logit_scale$")
    swin = "swinv2" if v2 else "swin"
    if some(r"graph_encoder\.layers\.\d+\."):
        return "graphormer", "hf4" if "classifier.classifier.weight" in names else "v2"
    if some(r"layers\.\d+\.self_attention\.linear_q\."):
        return "graphormer", "v1"
    if some(r"^features\.1\.0\.attn\."):
        return swin, "torchvision"
    if some(r"layers\.\d+\.blocks\.\d+\.(attention|layernorm_before)\."):
        return swin, "hf5" if some(r"attention\.q_proj\.") else "hf4"
    if some(r"^(encoder\.)?layers\.\d+\.blocks\.\d+\.attn\."):
        stages = {int(m.group(1)) for name in names if (m := re.search(r"layers\.(\d+)\.blocks\.", name))}
        last = f"layers.{max(stages)}.downsample."
        timm = "head.fc.weight" in names or (max(stages) > 0 and some(r"^" + re.escape(last)))
        return swin, "timm" if timm else "official"
    if some(r"(^|\.)h\.\d+\.attn\.c_attn\."):
        return "gpt2", "hf4"
    if some(r"embeddings\.word_embeddings\.weight$") and some(r"encoder\.layer\.\d+\.attention\.self\."):
        segments = next(
            (t for name, t in weights.items() if name.endswith("token_type_embeddings.weight")), None
        )
        theirs = some(r"^roberta\.|^lm_head\.dense") or (segments is not None and len(segments) == 1)
        return "roberta" if theirs else "bert", "hf4"
    plain = "vit" if some(r"\.(k_proj|key)\.bias$") or not some(r"\.(q_proj|query)\.bias$") else "beit"
    if some(r"encoder\.layer\.\d+\.attention\.attention\.") and some(r"patch_embeddings\."):
        return plain, "hf4"
    if some(r"(^|\.)layers\.\d+\.attention\.q_proj\.") and some(r"patch_embeddings\."):
        return plain, "hf5"
    if some(r"^(encoder\.)?blocks\.\d+\.attn\."):
        if some(r"^decoder_blocks\."):
            return "vit", "mae"
        beit = some(r"gamma_1$|attn\.q_bias$|relative_position_bias_table$|^encoder\.blocks\.")
        return "vit", "official" if beit else "timm"
    shown = ", ".join(sorted(names)[:3]) or "none"
    raise ValueError(
        f"{what}: expected weights of a Swin, Swin V2, ViT, MAE, BEiT, SimMIM, BERT, RoBERTa, GPT-2 or Graphormer, got "
        f"tensors of other names ({shown})"
    )


def _as_ours(weights: Mapping[str, Tensor], family: str, layout: str) -> dict[str, Tensor]:
    """Tensors under our names of the bare encoder, its head's as head.*; of parts of one tensor the first."""
    table = LAYOUTS[family, layout]
    own: dict[str, Tensor] = {}
    for name, tensor in weights.items():
        if not table.is_derived(name):
            target = table.ours(name)
            own.setdefault(target.name, tensor.t() if table.is_transposed(name) else tensor)
    return own


def _kind(family: str, own: Mapping[str, Tensor]) -> str:
    if family == "graphormer":
        return "graph"
    if "nsp.weight" in own:
        return "pretraining" if "head.dense.weight" in own else "nsp"
    if "head.dense.weight" in own:
        return "mlm"
    if family == "gpt2":
        return "clm"
    if "head.decoder.pred.weight" in own:
        return "mae"
    if "head.decoder.weight" in own:
        return "masked"
    if "head.classifier.weight" in own:
        return "beit"
    if any(name.startswith("out_norms.") for name in own):
        return "backbone"
    if "head.weight" in own:
        text = family in ("bert", "roberta")
        return "tokens" if text and "pooler.weight" not in own else "classifier"
    return "encoder"


def _numbers(own: Mapping[str, Tensor], pattern: str) -> list[int]:
    """The different values of the one number in names of this pattern."""
    return sorted({int(m.group(1)) for name in own if (m := re.match(pattern, name))})


def _image_fields(own: Mapping[str, Tensor]) -> dict[str, Any]:
    proj = own["patch_embed.proj.weight"]
    fields: dict[str, Any] = {
        "embed_dim": proj.shape[0],
        "in_chans": proj.shape[1],
        "patch_size": proj.shape[2],
    }
    if "head.weight" in own:
        fields["num_labels"] = own["head.weight"].shape[0]
    return fields


def _swin(own: Mapping[str, Tensor], weights: Mapping[str, Tensor]) -> tuple[dict[str, Any], dict[str, str]]:
    fields = _image_fields(own)
    untold: dict[str, str] = {}
    stages = _numbers(own, r"layers\.(\d+)\.")
    blocks = "layers.{}.blocks.{}."
    depths = [len(_numbers(own, rf"layers\.{stage}\.blocks\.(\d+)\.")) for stage in stages]
    first = own[blocks.format(0, 0) + "mlp.fc1.weight"]
    fields |= {"depths": depths, "mlp_ratio": first.shape[0] / first.shape[1]}
    attn = blocks.format(0, 0) + "attn."
    fields["qkv_bias"] = attn + "qkv.bias" in own or attn + "q_bias" in own
    fields["patch_norm"] = "patch_embed.norm.weight" in own
    v2 = attn + "logit_scale" in own
    heads = "attn.logit_scale" if v2 else "attn.position_bias.relative_position_bias_table"
    fields["num_heads"] = [own[blocks.format(s, 0) + heads].shape[0 if v2 else 1] for s in stages]
    if v2:
        norm = blocks.format(0, 0) + "norm3.weight"
        if norm in own or any(name.endswith(".norm3.weight") for name in own):
            fields["extra_norm_period"] = 1 + _numbers(own, r"layers\.\d+\.blocks\.(\d+)\.norm3\.")[0]
    windows = _windows_of_coordinates(weights) if v2 else _windows_of_tables(own, weights, stages)
    if not windows:
        untold["window_size"] = "side of a window in patches"
        return fields, untold
    sizes = [window for window, _ in windows]
    fields["window_size"] = _plain(sizes[0])
    if v2:
        fields["pretrained_window_sizes"] = [_plain(trained or (0, 0)) for _, trained in windows]
    if "absolute_pos_embed" in own:
        fields["ape"] = True
        _set_square(fields, untold, own["absolute_pos_embed"].shape[1], fields["patch_size"])
    else:
        _swin_image(fields, untold, sizes, weights)
    norms = _numbers(own, r"out_norms\.(\d+)\.")
    if norms:
        fields["out_indices"] = norms
    return fields, untold


def _plain(window: tuple[int, int]) -> int | list[int]:
    return window[0] if window[0] == window[1] else list(window)


def _windows_of_tables(
    own: Mapping[str, Tensor], weights: Mapping[str, Tensor], stages: list[int]
) -> list[Window]:
    """The windows of all stages by the rows of their tables, (2h - 1)(2w - 1); an index, where it is there, tells
    sides that differ."""
    found: list[Window] = []
    indices = {name: tensor for name, tensor in weights.items() if name.endswith("relative_position_index")}
    for stage in stages:
        rows = own[f"layers.{stage}.blocks.0.attn.position_bias.relative_position_bias_table"].shape[0]
        side = math.isqrt(rows)
        if side * side == rows:
            found.append((((side + 1) // 2,) * 2, None))
            continue
        index = next((t for n, t in indices.items() if re.search(rf"layers\.{stage}\.", n)), None)
        if index is None:
            return []
        width = _width_of_index(index)
        found.append((((rows // (2 * width - 1) + 1) // 2, width), None))
    return found


def _width_of_index(index: Tensor) -> int:
    """Columns of a window, by the places in the table of the offsets from its first position: they fall by one along
    a row."""
    row = index.flatten()[: math.isqrt(index.numel())].tolist()
    width = 1
    while width < len(row) and row[width] == row[width - 1] - 1:
        width += 1
    return width


def _windows_of_coordinates(weights: Mapping[str, Tensor]) -> list[Window]:
    """(window, window of pretraining) of all stages, by V2's tables of coordinates: sign(x) log2(1 + 8 |x|) / 3 with
    x = offset / (window of pretraining - 1). None where the weights hold no such tables."""
    tables = {
        int(m.group(1)): tensor
        for name, tensor in weights.items()
        if (m := re.search(r"(?:layers|features)\.(\d+)\.(?:blocks\.)?0\.att.*relative_coords_table$", name))
    }
    found: list[Window] = []
    for stage in sorted(tables):
        table = tables[stage].double()
        window = ((table.shape[1] + 1) // 2, (table.shape[2] + 1) // 2)
        trained = []
        for axis, size in enumerate(window):
            largest = (2 ** (3 * float(table[..., axis].max())) - 1) / 8
            trained.append(size if size == 1 else round((size - 1) / largest) + 1)
        same = tuple(trained) == window
        found.append((window, (0, 0) if same else (trained[0], trained[1])))
    return found


def _swin_image(
    fields: dict[str, Any],
    untold: dict[str, str],
    sizes: list[tuple[int, int]],
    weights: Mapping[str, Tensor],
) -> None:
    """image_size, which decides where windows are shifted: by the masks of shifted windows, by windows cut to smaller
    maps, or as published."""
    patch, (height, width) = fields["patch_size"], sizes[0]
    for stage, size in enumerate(sizes):
        if size != sizes[0]:  # a map that is smaller than a window is one window
            sides = [side * patch * 2**stage for side in size]
            fields["image_size"] = sides[0] if sides[0] == sides[1] else sides
            return
    mask = next(
        (t for name, t in weights.items() if re.search(r"layers\.0\.blocks\.\d+\.attn_mask$", name)), None
    )
    count = 0 if mask is None else math.isqrt(mask.shape[0])
    if mask is not None and count**2 == mask.shape[0] and height == width:
        fields["image_size"] = count * height * patch
    elif height == width and height in _TRAINED_AT and (len(sizes), patch) == (4, 4):
        fields["image_size"] = _TRAINED_AT[height]
    else:
        untold["image_size"] = (
            "pixels per side, or [height, width], by which it is known where windows are shifted"
        )


def _set_square(fields: dict[str, Any], untold: dict[str, str], places: int, patch: int) -> None:
    side = math.isqrt(places)
    if side * side == places:
        fields["image_size"] = side * patch
    else:
        untold["image_size"] = f"[height, width] of {places} patches of {patch} pixels"


def _vit(own: Mapping[str, Tensor], weights: Mapping[str, Tensor]) -> tuple[dict[str, Any], dict[str, str]]:
    fields = _image_fields(own)
    untold: dict[str, str] = {}
    hidden = own["blocks.0.mlp.fc1.weight"]
    fields |= {
        "depth": len(_numbers(own, r"blocks\.(\d+)\.")),
        "mlp_ratio": hidden.shape[0] / hidden.shape[1],
    }
    fields["cls_token"] = "cls_token" in own
    fields["qkv_bias"] = "blocks.0.attn.qkv.bias" in own or "blocks.0.attn.q_bias" in own
    fields["key_bias"] = "blocks.0.attn.q_bias" not in own
    fields["layer_scale"] = 0.1 if "blocks.0.gamma_1" in own else None  # the weights replace it
    fields["ape"] = "pos_embed" in own
    shared = own.get("rel_pos_bias.relative_position_bias_table")
    table = own.get("blocks.0.attn.position_bias.relative_position_bias_table", shared)
    patch, cls = fields["patch_size"], int(fields["cls_token"])
    if table is not None:
        fields["relative_position"] = "per_layer" if shared is None else "shared"
        fields["num_heads"] = table.shape[1]
        _image_of_table(fields, untold, table.shape[0] - 3 * cls, cls, weights)
    if fields["ape"]:
        _set_square(fields, untold, own["pos_embed"].shape[1] - cls, patch)
    elif table is None:
        untold["image_size"] = "pixels per side"
    if "num_heads" not in fields:
        _set_heads(fields, untold)
    pooled = any(name.startswith("fc_norm.") for name in own)
    fields["final_norm"] = "pooled" if pooled else "rows"
    fields["pooling"] = "mean" if pooled or not cls else "cls"
    decoder = own.get("head.decoder.pos_embed")
    if decoder is not None:
        fields |= {"fixed_positions": True, "init": "mae"}
    return fields, untold


def _image_of_table(
    fields: dict[str, Any], untold: dict[str, str], rows: int, cls: int, weights: Mapping[str, Tensor]
) -> None:
    """image_size by a table of the relative positions in a whole image, (2h - 1)(2w - 1) rows."""
    patch, side = fields["patch_size"], math.isqrt(rows)
    if side * side == rows:
        fields["image_size"] = (side + 1) // 2 * patch
        return
    index = next((t for name, t in weights.items() if name.endswith("relative_position_index")), None)
    if index is None:
        untold["image_size"] = f"[height, width] with {rows} relative positions of patches of {patch} pixels"
        return
    width = _width_of_index(index[cls:, cls:].contiguous())
    fields["image_size"] = [(rows // (2 * width - 1) + 1) // 2 * patch, width * patch]


def _set_heads(fields: dict[str, Any], untold: dict[str, str], width: int = 64) -> None:
    """Heads of 64 channels, as in all published sizes; other widths have to be said."""
    if fields["embed_dim"] % width == 0:
        fields["num_heads"] = fields["embed_dim"] // width
    else:
        untold["num_heads"] = f"heads, of embed_dim {fields['embed_dim']}, which is not cut into {width}s"


def _decoder(own: Mapping[str, Tensor], untold: dict[str, str]) -> dict[str, Any]:
    """Options of MAE; its decoder's heads have 32 channels in all published sizes."""
    hidden = own["head.decoder.blocks.0.mlp.fc1.weight"]
    width = hidden.shape[1]
    options = {
        "decoder_embed_dim": width,
        "decoder_depth": len(_numbers(own, r"head\.decoder\.blocks\.(\d+)\.")),
        "decoder_mlp_ratio": hidden.shape[0] / width,
    }
    if width % 32 == 0:
        options["decoder_num_heads"] = width // 32
    else:
        untold["decoder_num_heads"] = f"heads of the decoder, which is {width} wide"
    return options


def _text(own: Mapping[str, Tensor], weights: Mapping[str, Tensor]) -> tuple[dict[str, Any], dict[str, str]]:
    words, hidden = own["embeddings.word_embeddings.weight"], own["blocks.0.mlp.fc1.weight"]
    fields: dict[str, Any] = {
        "vocab_size": words.shape[0],
        "embed_dim": words.shape[1],
        "depth": len(_numbers(own, r"blocks\.(\d+)\.")),
        "mlp_ratio": hidden.shape[0] / hidden.shape[1],
        "max_position_embeddings": own["embeddings.position_embeddings.weight"].shape[0],
    }
    untold: dict[str, str] = {}
    _set_heads(fields, untold)
    segments = own.get("embeddings.token_type_embeddings.weight")
    if segments is not None:
        fields["type_vocab_size"] = segments.shape[0]
        fields["pooling"] = "pooler" if "pooler.weight" in own else "first"
    if "head.weight" in own:
        fields["num_labels"] = own["head.weight"].shape[0]
    return fields, untold


def _roberta(
    own: Mapping[str, Tensor], weights: Mapping[str, Tensor]
) -> tuple[dict[str, Any], dict[str, str]]:
    fields, untold = _text(own, weights)
    fields["max_position_embeddings"] -= _ROBERTA_OFFSET
    return fields | {"pad_token_id": 1, "position_offset": _ROBERTA_OFFSET}, untold


def _graphormer(
    own: Mapping[str, Tensor], weights: Mapping[str, Tensor]
) -> tuple[dict[str, Any], dict[str, str]]:
    heads = own["pair_bias.spatial_pos_encoder.weight"].shape[1]
    hidden = own["blocks.0.mlp.fc1.weight"]
    hops = own.get("pair_bias.edge_dis_encoder.weight")
    fields: dict[str, Any] = {
        "embed_dim": hidden.shape[1],
        "depth": len(_numbers(own, r"blocks\.(\d+)\.")),
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
    if "unused_norm.weight" in own:
        fields["norm"] = "pre"
    for name in ("out.weight", "head.linear.weight"):
        if name in own:
            fields["num_outputs"] = own[name].shape[0]
    return fields, {}


_READERS = {
    "swin": _swin,
    "swinv2": _swin,
    "vit": _vit,
    "beit": _vit,
    "bert": _text,
    "roberta": _roberta,
    "gpt2": _text,
    "graphormer": _graphormer,
}


#: MAE is built on timm's ViT; transformers' Graphormer on the published one.
_CONFIGURED_AS = {("vit", "mae"): "timm", ("graphormer", "hf4"): "v2"}


def configured(
    found: Recognised,
    overrides: Mapping[str, Any],
    what: str,
    choices: Collection[str] = (),
    prefix: str = "",
) -> tuple[Any, dict[str, Any]]:
    """The configuration of a model for weights, and those overrides that belong to its objective.

    Args:
        found: what they are.
        overrides: settings by our names or by those of the code base.
        what: how errors name the weights.
        choices: names of options of the objective.
        prefix: of our names where the user gives them.

    Raises:
        ValueError: a setting that the weights do not tell and that is not given, or an unknown one.
    """
    base = _CONFIGURED_AS.get((found.family, found.layout), found.layout)
    theirs: dict[str, Any] = {}
    if (found.family, base) == ("vit", "official"):
        theirs = {"norm_eps": 1e-6}  # of all published models; their class has another default
    if found.kind == "backbone" and base == "official":
        theirs["pretrain_img_size"] = found.fields.get("image_size", 224)
    known = {*config_from(base, theirs, found.family).to_dict(), "num_labels"}
    changes: dict[str, Any] = {}
    options: dict[str, Any] = {}
    for name, value in overrides.items():
        if name in known:
            changes[name] = value
        elif name in choices:
            options[name] = value
        else:
            theirs[name] = value  # what is no such argument is named as an error there
            ours = our_name(base, found.family, name)
            if ours is not None:
                changes[ours] = value
    untold = [name for name in found.untold if name not in changes and name not in options]
    if untold:
        raise ValueError(
            f"{what}: {found} whose weights do not tell {untold[0]}: give {prefix}{untold[0]}= "
            f"({found.untold[untold[0]]})"
        )
    fields = found.fields | changes
    if found.kind not in ("classifier", "tokens"):
        fields.pop("num_labels", None)
    config = config_from(base, theirs, found.family, **fields)
    if "pretrained_window_sizes" in found.fields and "pretrained_window_sizes" not in changes:
        needed = {name: changes[name] for name in found.untold if name in changes}
        keep_measure(config, config_from(base, {}, found.family, **(found.fields | needed)))
    return config, options
