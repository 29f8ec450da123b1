"""Weights of other code bases into our models and back: one strict loader for the tables of all families.

What a code base calls things is said by a `Format`, in `weights.py` of the family's folder.
"""

from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field
from re import escape, fullmatch, match, search
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from unitrans.models import registry
from unitrans.models._encoder import encoder_prefix
from unitrans.models.renames import Layout, Target
from unitrans.models.resize import ResizeRule, fit_shape

#: The layout of our own names, which every format has.
OWN = "unitrans"
Fields = tuple[dict[str, Any], dict[str, str]]


def own_layout(prefix: str) -> Layout:
    """Our own names; prefix: where the encoder sits in models with a head."""
    return Layout(renames=(), prefix=prefix, masked_prefix="encoder.")


def _nothing(*_: Any) -> dict[str, Any]:
    return {}


@dataclass(frozen=True)
class Hub:
    """What transformers calls a format's models.

    Attributes:
        model_types: model_type of their config.json -> their class of the bare encoder.
        classes: their class -> ours.
        heads: objective -> their class with its head.
        config: (our configuration, their class) -> their config.json; ValueError for what they cannot compute.
        objective_fields: (their class, our configuration, objective) -> more of it; ValueError likewise.
        pretraining: their class -> their setting -> option of our objective.
        complete: (our configuration, their class, layout) -> tensors that their files have beside our parameters.
        left_out: their class of which the encoder alone is read -> the beginning of the other names.
        same_in_memory: files and transformers 5 name the weights alike.
    """

    model_types: Mapping[str, str]
    classes: Mapping[str, Any]
    heads: Mapping[str, str]
    config: Callable[[Any, str], dict[str, Any]]
    objective_fields: Callable[[str, Any, Any], dict[str, Any]] = _nothing
    pretraining: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    complete: Callable[[Any, str, Layout], dict[str, Tensor]] = _nothing
    left_out: Mapping[str, str] = field(default_factory=dict)
    same_in_memory: bool = False


@dataclass(frozen=True)
class Format:
    """One published kind of weights of a family.

    Attributes:
        name: what its weights are called; `layout_family` of a configuration, else the family's name.
        titles: what errors call it.
        layouts: name -> table of names.
        layout_of: the layout of weights by their names; None: they are none of this kind.
        fields: (tensors by our names of the bare encoder, weights) -> fields of the configuration that the shapes
            tell, and what they do not tell -> a word on what it is.
        classes: kind (see `Recognised`) -> our class.
        sources: layouts whose arguments `config` reads.
        config: (source, their arguments, name or model_type, ** our fields) -> configuration.
        names: source -> their argument that is only called otherwise -> ours.
        kind: what weights predict, by our names.
        claims: whether constructor arguments are those of this kind.
        arguments: (source, what was recognised) -> their arguments that say what the weights cannot.
        configured_as: layout -> the source whose arguments it has, where that is another.
        counts: their number of the same name as ours that counts more -> our field that says how many.
        like: the format whose models it has too.
        own: whether weights have the names of our own models of this kind.
        hub: transformers' side.
    """

    name: str
    titles: tuple[str, ...]
    layouts: Mapping[str, Layout]
    layout_of: Callable[[Mapping[str, Tensor]], str | None]
    fields: Callable[[Mapping[str, Tensor], Mapping[str, Tensor]], Fields]
    classes: Mapping[str, Any]
    sources: tuple[str, ...]
    config: Callable[..., Any]
    names: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    kind: Callable[[Mapping[str, Tensor]], str] = lambda own: kind_of_heads(own)
    claims: Callable[[Mapping[str, Any]], bool] = lambda theirs: False
    arguments: Callable[[str, Any], dict[str, Any]] = _nothing
    configured_as: Mapping[str, str] = field(default_factory=dict)
    counts: Mapping[str, str] = field(default_factory=dict)
    like: str | None = None
    own: Callable[[Mapping[str, Tensor]], bool] = lambda weights: False
    hub: Hub | None = None

    @property
    def base_class(self) -> Any:
        """One of our classes; all have its configuration and its prefix of the encoder."""
        return registry.resolve(next(iter(self.classes.values())))

    def table(self, layout: str) -> Layout:
        """The names of a layout, our own among them."""
        return own_layout(f"{self.base_class.base_model_prefix}.") if layout == OWN else self.layouts[layout]


def formats() -> dict[str, Format]:
    """All formats by name, in the order of the families."""
    found = (registry.resolve(family.formats) for family in registry.families().values() if family.formats)
    return {each.name: each for several in found for each in several}


def not_finite(model: Any) -> str | None:
    """A sentence about parameters that hold NaN or infinite numbers; None: none does."""
    names = [name for name, parameter in model.named_parameters() if not parameter.isfinite().all()]
    if not names:
        return None
    return f"the weights hold NaN or infinite numbers in {len(names)} tensors, such as {', '.join(names[:3])}"


def some(names: Collection[str], pattern: str) -> bool:
    """Whether one of the names has this pattern in it."""
    return any(search(pattern, name) for name in names)


def numbers(own: Collection[str], pattern: str) -> list[int]:
    """The different values of the one number in names that begin with this pattern."""
    return sorted({int(m.group(1)) for name in own if (m := match(pattern, name))})


def set_heads(fields: dict[str, Any], untold: dict[str, str], sizes: Mapping[str, Mapping[str, Any]]) -> None:
    """num_heads, which no shape tells, by the published sizes of this width and depth."""
    width, depth = fields["embed_dim"], fields["depth"]
    same = (size for size in sizes.values() if (size["embed_dim"], size["depth"]) == (width, depth))
    heads = {size["num_heads"] for size in same}
    if len(heads) == 1:
        fields["num_heads"] = heads.pop()
        return
    likely = [str(width // dim) for dim in (32, 64, 80) if width % dim == 0]
    untold["num_heads"] = f"heads, of embed_dim {width}" + (
        f", such as {' or '.join(likely)}" if likely else ""
    )


def kind_of_heads(own: Mapping[str, Tensor]) -> str:
    """What weights predict by the usual names of heads."""
    for name, kind in (
        ("head.decoder.pred.weight", "mae"),
        ("head.decoder.weight", "masked"),
        ("head.classifier.weight", "beit"),
    ):
        if name in own:
            return kind
    if any(name.startswith("out_norms.") for name in own):
        return "backbone"
    return "classifier" if "head.weight" in own else "encoder"


def format_of(config: Any) -> Format:
    """The format of a model's weights. ValueError for a model that has none."""
    family = registry.family_of(config)
    name = getattr(config, "layout_family", None if family is None else family.name)
    known = formats()
    if name not in known:
        raise ValueError(
            f"layout: there is none for {name or config.model_type}: expected one of {', '.join(known)}"
        )
    return known[name]


def config_from(source: str, theirs: Mapping[str, Any], family: str | None = None, **changes: Any) -> Any:
    """Our configuration of a model of another code base.

    Args:
        source: "official", "timm" or "torchvision", whose constructor arguments are given; "hf4" or "hf5", whose
            config.json is; "v1" or "v2", published versions whose arguments are; that of another format; or "unitrans",
            whose are fields of our configuration.
        theirs: their arguments; what is left out has their default.
        family: name of a format, or a model_type of transformers; None: told by model_type, or by arguments that
            only one family has.
        changes: fields of ours that are set in the end.

    Returns:
        A configuration that computes what that code base does. pad_mode and window_clamp of Swin are: official none
        and min (pad_then_roll and never in its backbone for detection and segmentation, which is told by
        pretrain_img_size), timm roll_then_pad and per_axis, transformers pad_then_roll with min (V1),
        per_axis_floor (V2) or never (its backbone of V1), torchvision pad_then_roll and padded. timm and torchvision
        leave out what does not fill a patch: images have to be cut accordingly.

    Raises:
        ValueError: an unknown source, family or argument, or one whose value our models do not have.
    """
    known = formats()
    if source == OWN and family in known:
        return _own_config(known[family], {**theirs, **changes})
    sources = list(dict.fromkeys(source for each in known.values() for source in each.sources))
    if source not in sources:
        raise ValueError(f"source: expected one of {', '.join(map(repr, sorted(sources)))}, got {source!r}")
    fitting = [each for each in known.values() if source in each.sources]
    kind = family or theirs.get("model_type")
    kinds = {
        kind: each for each in fitting for kind in (each.name, *(each.hub.model_types if each.hub else ()))
    }
    if kind is None:
        claimed = (
            fitting[0] if len(fitting) == 1 else next((f for f in known.values() if f.claims(theirs)), None)
        )
        kind = None if claimed is None else claimed.name
    if kind not in kinds:
        raise ValueError(f"family: expected one of {', '.join(map(repr, kinds))}, got {kind!r}")
    return kinds[kind].config(source, theirs, kind, **changes)


def _own_config(format: Format, fields: Mapping[str, Any]) -> Any:
    cls = format.base_class.config_class
    unknown = sorted(fields.keys() - cls().to_dict().keys() - {"num_labels"})
    if unknown:
        raise ValueError(f"{unknown[0]}: expected a setting of {format.name}, got an unknown one")
    return cls(**fields)


def config_to_hf(config: Any, architecture: str) -> dict[str, Any]:
    """The config.json of transformers for a configuration of ours.

    Args:
        config: of an encoder.
        architecture: the name of their class.

    Raises:
        ValueError: a configuration that their models cannot compute.
    """
    hub = format_of(config).hub
    if hub is None:
        raise ValueError(f"transformers has no models like a {type(config).__name__}")
    return hub.config(config, architecture)


@dataclass
class LoadReport:
    """What became of every name.

    Attributes:
        loaded: our parameters that were filled as they came.
        resized: our parameters that were filled after resizing, "name: shape -> shape".
        missing: our parameters that nothing filled.
        unexpected: their names that fit nothing, with the reason.
        derived: their buffers, and parameters without use, that carry no information.
    """

    loaded: list[str] = field(default_factory=list)
    resized: list[str] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)
    unexpected: list[str] = field(default_factory=list)
    derived: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        lines = [
            f"loaded {len(self.loaded)}, resized {len(self.resized)}, derived buffers left {len(self.derived)}"
        ]
        for title in ("resized", "missing", "unexpected"):
            lines += [f"  {title}: {name}" for name in getattr(self, title)]
        return "\n".join(lines)


def load_weights(
    model: PreTrainedModel,
    weights: Mapping[str, Tensor],
    source: str,
    *,
    strict: bool = True,
    resize: ResizeRule | None = None,
) -> LoadReport:
    """Fill a model with the weights of another code base.

    Args:
        model: one of our models; its encoder's family decides the table.
        weights: their state dict.
        source: layout: "official", "timm", "torchvision", "hf4" (files on the hub), "hf5" (transformers 5) or
            "unitrans".
        strict: raise where anything is missing or unexpected.
        resize: the rule for tables of relative positions of another window (`resize_bias_table`); None is that of the
            code base: SimMIM's for its checkpoints (encoder.*) and for ViT, timm's, else Swin's.

    One table of relative positions shared by all blocks is copied into each block of a model with one per block.

    Raises:
        ValueError: unknown layout; or (strict) a report that is not clean, in full.
    """
    layout = layout_for(model, source)
    own = dict(model.named_parameters())
    report, filled = LoadReport(), set()
    config = getattr(model.config, "encoder_config", model.config)
    rule, grid = resize or _rule_of(source, config, weights), getattr(config, "grid", None)
    for names, target, tensor in _joined(model, layout, weights, report):
        shape = own[target].shape
        if target in filled:
            report.unexpected.append(f"{names} {list(tensor.shape)}: {target} has been filled by another one")
            continue
        if not tensor.is_floating_point():
            report.unexpected.append(
                f"{names}: expected floating-point numbers for {target}, got {tensor.dtype}"
            )
            continue
        fitted = fit_shape(target, tensor, shape, rule, grid)
        if fitted is None:
            report.unexpected.append(f"{names} {list(tensor.shape)}: {target} has {list(shape)}")
            continue
        with torch.no_grad():
            own[target].copy_(fitted)
        filled.add(target)
        if fitted.numel() == tensor.numel():
            report.loaded.append(target)
        else:
            report.resized.append(f"{target}: {list(tensor.shape)} -> {list(shape)}")
    unused = getattr(model, "unused_parameters", ())
    report.missing = [name for name in own if name not in filled and name not in unused]
    if strict and (report.missing or report.unexpected):
        raise ValueError(
            f"weights: expected a {source} checkpoint of this {type(model).__name__}, got one that does not fit "
            f"it (strict=False loads what fits)\n{report}"
        )
    return report


def _rule_of(source: str, config: Any, weights: Mapping[str, Tensor]) -> ResizeRule:
    """How this code base resizes tables of relative positions."""
    if source == OWN:
        return resize_rule(config)
    if source == "timm":
        return "geometric-linear"
    simmim = resize_rule(config) == "geometric" or any(name.startswith("encoder.") for name in weights)
    return "geometric" if source == "official" and simmim else "bicubic"


def resize_rule(config: Any) -> ResizeRule:
    """How tables of relative positions of this family are resized: what was pretrained by hiding parts of images
    as SimMIM and BEiT do, else as Swin does."""
    return getattr(config, "resize_rule", "bicubic")


_SHARED_TABLE = "rel_pos_bias.relative_position_bias_table"


def blocks_sharing(name: str, own: Iterable[str]) -> list[str]:
    """Our tables per block that one shared table (`name`, ours) belongs in; none if it is something else."""
    if not name.endswith(_SHARED_TABLE):
        return []
    prefix = escape(name.removesuffix(_SHARED_TABLE))
    pattern = prefix + r"blocks\.\d+\.attn\.position_bias\.relative_position_bias_table"
    return [candidate for candidate in own if fullmatch(pattern, candidate)]


def _joined(
    model: PreTrainedModel, layout: Layout, weights: Mapping[str, Tensor], report: LoadReport
) -> list[tuple[str, str, Tensor]]:
    """(their name or names, our parameter, tensor), parts of one parameter joined; the rest goes to the report."""
    own, prefix = {name for name, _ in model.named_parameters()}, encoder_prefix(model)
    found: list[tuple[str, str, Tensor]] = []
    parts: dict[str, dict[int, tuple[str, Tensor]]] = {}
    for name, tensor in (_split_bias(weights) if layout.fused_bias else weights).items():
        if layout.is_derived(name):
            report.derived.append(name)
            continue
        source = _tied_source(layout, name, weights)
        if source is not None:
            if torch.equal(tensor, weights[source]):
                report.derived.append(name)
            else:
                report.unexpected.append(
                    f"{name} {list(tensor.shape)}: differs from {source}, which it is here"
                )
            continue
        if layout.is_transposed(name):
            tensor = tensor.t()
        target = layout.ours(name, own)
        if target.name not in own:
            target = Target(prefix + target.name, target.part, target.parts)
        if target.name not in own:
            copies = blocks_sharing(target.name, own)
            found += [(name, copy, tensor) for copy in copies]
            if not copies and layout.is_unused(name):
                report.derived.append(name)
            elif not copies:
                report.unexpected.append(f"{name} {list(tensor.shape)}")
            continue
        if target.parts == 1:
            found.append((name, target.name, tensor))
            continue
        group = parts.setdefault(target.name, {})
        group[target.part] = (name, tensor)
        if len(group) == target.parts:
            rows = [group[part] for part in range(target.parts)]
            found.append((" + ".join(n for n, _ in rows), target.name, torch.cat([t for _, t in rows])))
            del parts[target.name]
    for target_name, group in parts.items():
        for name, tensor in group.values():
            report.unexpected.append(f"{name} {list(tensor.shape)}: other parts of {target_name} are missing")
    return found


def _tied_source(layout: Layout, name: str, weights: Mapping[str, Tensor]) -> str | None:
    """The parameter of theirs in these weights that this one of theirs is; None for one of its own."""
    source = layout.tied.get(name)
    for candidate in () if source is None else (source, source.removeprefix(layout.prefix)):
        if candidate in weights:
            return candidate
    return None


def export_weights(model: PreTrainedModel, target: str) -> dict[str, Tensor]:
    """A model's parameters under the names and in the shapes of another code base.

    Raises:
        ValueError: unknown layout.
    """
    return export_tensors(model, {name: p.detach() for name, p in model.named_parameters()}, target)


def export_tensors(model: PreTrainedModel, tensors: Mapping[str, Tensor], target: str) -> dict[str, Tensor]:
    """Tensors that belong to the parameters of a model (by name: weights, gradients) in another layout."""
    layout, prefix = layout_for(model, target), encoder_prefix(model)
    backbone, exported = hasattr(model, "out_norms"), {}
    tokens = hasattr(getattr(model, "head", None), "classifier")
    for name, tensor in tensors.items():
        names = layout.theirs(name, prefix, backbone=backbone, tokens=tokens)
        for their_name, rows in zip(names, tensor.chunk(len(names)), strict=True):
            for pattern, sides in layout.sides:
                if search(pattern, their_name):
                    rows = rows.reshape([1 if side is None else rows.shape[side] for side in sides])
            exported[their_name] = rows.t().contiguous() if layout.is_transposed(their_name) else rows
    return _fuse_bias(exported) if layout.fused_bias else exported


_PARTS = ("q_bias", "k_bias", "v_bias")


def _split_bias(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """One bias of queries, keys and values as three."""
    split: dict[str, Tensor] = {}
    for name, tensor in weights.items():
        if name.endswith("attn.qkv.bias"):
            stem = name.removesuffix("qkv.bias")
            split |= {stem + part: rows for part, rows in zip(_PARTS, tensor.chunk(3), strict=True)}
        else:
            split[name] = tensor
    return split


def _fuse_bias(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Three biases as one, zero for the keys."""
    fused: dict[str, Tensor] = {}
    for name, tensor in weights.items():
        if name.endswith("attn.q_bias"):
            stem = name.removesuffix("q_bias")
            fused[stem + "qkv.bias"] = torch.cat([tensor, torch.zeros_like(tensor), weights[stem + "v_bias"]])
        elif not name.endswith("attn.v_bias"):
            fused[name] = tensor
    return fused


def layout_for(model: PreTrainedModel, name: str) -> Layout:
    """The table for a model; ValueError names the known ones."""
    config = getattr(model.config, "encoder_config", model.config)
    if name == OWN:  # also of models that no other code base has
        return own_layout(encoder_prefix(model))
    format = format_of(config)
    if name not in format.layouts:
        known = ", ".join(map(repr, format.layouts))
        raise ValueError(f"layout: for {format.name} expected one of {known}, got {name!r}")
    return format.layouts[name]
