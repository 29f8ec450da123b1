"""Weights of other code bases into our models and back: a table of names per layout, one strict loader."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from re import escape, fullmatch, search
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from unitrans.models.layouts import LAYOUTS
from unitrans.models.renames import Layout, Target
from unitrans.models.resize import ResizeRule, fit_shape


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
        source: layout: "official", "timm", "torchvision", "hf4" (files on the hub) or "hf5" (transformers 5).
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
    if source == "timm":
        return "geometric-linear"
    simmim = config.model_type == "unitrans-vit" or any(name.startswith("encoder.") for name in weights)
    return "geometric" if source == "official" and simmim else "bicubic"


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
    family = getattr(config, "layout_family", config.model_type.removeprefix("unitrans-"))
    if (family, name) not in LAYOUTS:
        known = ", ".join(repr(layout) for kind, layout in LAYOUTS if kind == family)
        raise ValueError(f"layout: for {family} expected one of {known}, got {name!r}")
    return LAYOUTS[family, name]


def encoder_prefix(model: nn.Module) -> str:
    """Where the bare encoder sits inside a model with a head; empty for the bare encoder."""
    for name in ("encoder", "swin", "vit"):
        if isinstance(getattr(model, name, None), PreTrainedModel):
            return name + "."
    return ""
