"""Weights of other code bases into our models and back: a table of names per layout, one strict loader."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from re import search

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import PreTrainedModel

from unitrans.models.layouts import LAYOUTS, Layout, Target


@dataclass
class LoadReport:
    """What became of every name.

    Attributes:
        loaded: our parameters that were filled as they came.
        resized: our parameters that were filled after resizing, "name: shape -> shape".
        missing: our parameters that nothing filled.
        unexpected: their names that fit nothing, with the reason.
        derived: their buffers that carry no information.
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
    model: PreTrainedModel, weights: Mapping[str, Tensor], source: str, *, strict: bool = True
) -> LoadReport:
    """Fill a model with the weights of another code base.

    Args:
        model: one of our models; its encoder's family decides the table.
        weights: their state dict.
        source: layout: "official", "timm", "hf4" (files on the hub) or "hf5" (transformers 5).
        strict: raise where anything is missing or unexpected.

    Raises:
        ValueError: unknown layout; or (strict) a report that is not clean, in full.
    """
    layout = layout_for(model, source)
    own = dict(model.named_parameters())
    report, filled = LoadReport(), set()
    for names, target, tensor in _joined(model, layout, weights, report):
        shape = own[target].shape
        fitted = fit_shape(target, tensor, shape)
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
    report.missing = [name for name in own if name not in filled]
    if strict and (report.missing or report.unexpected):
        raise ValueError(
            f"weights: expected a {source} checkpoint of this {type(model).__name__}, got one that does not fit "
            f"it (strict=False loads what fits)\n{report}"
        )
    return report


def _joined(
    model: PreTrainedModel, layout: Layout, weights: Mapping[str, Tensor], report: LoadReport
) -> list[tuple[str, str, Tensor]]:
    """(their name or names, our parameter, tensor), parts of one parameter joined; the rest goes to the report."""
    own, prefix = {name for name, _ in model.named_parameters()}, encoder_prefix(model)
    found: list[tuple[str, str, Tensor]] = []
    parts: dict[str, dict[int, tuple[str, Tensor]]] = {}
    for name, tensor in weights.items():
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
        target = layout.ours(name)
        if target.name not in own:
            target = Target(prefix + target.name, target.part, target.parts)
        if target.name not in own:
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
    exported = {}
    for name, tensor in tensors.items():
        names = layout.theirs(name, prefix)
        for their_name, rows in zip(names, tensor.chunk(len(names)), strict=True):
            for pattern, sides in layout.sides:
                if search(pattern, their_name):
                    rows = rows.reshape([1 if side is None else rows.shape[side] for side in sides])
            exported[their_name] = rows.t().contiguous() if layout.is_transposed(their_name) else rows
    return exported


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


def fit_shape(name: str, tensor: Tensor, shape: torch.Size) -> Tensor | None:
    """The tensor in this shape: as it is, without sides of 1, or a table resized; None if none applies.

    Relative position tables and absolute positions are resized, of square windows and grids only; the rows of
    a class token stay as they are.
    """
    if tensor.shape == shape:
        return tensor
    if [n for n in tensor.shape if n != 1] == [n for n in shape if n != 1]:
        return tensor.reshape(shape)
    if name.endswith("relative_position_bias_table") and tensor.dim() == 2 and tensor.shape[1] == shape[1]:
        for extra in (0, 3):
            sides = _square_sides(tensor.shape[0] - extra, shape[0] - extra)
            if sides:
                places = tensor[: tensor.shape[0] - extra]
                return torch.cat([resize_bias_table(places, *sides), tensor[tensor.shape[0] - extra :]])
    if name.endswith("pos_embed") and tensor.dim() == 3 and tensor.shape[2] == shape[2]:
        for extra in (0, 1):
            sides = _square_sides(tensor.shape[1] - extra, shape[1] - extra)
            if sides:
                places = resize_bias_table(tensor[0, extra:], *sides)
                return torch.cat([tensor[0, :extra], places])[None]
    return None


def _square_sides(old: int, new: int) -> tuple[int, int] | None:
    sides = int(max(old, 0) ** 0.5), int(max(new, 0) ** 0.5)
    return sides if sides[0] ** 2 == old and sides[1] ** 2 == new and min(sides) > 0 else None


def resize_bias_table(table: Tensor, old: int, new: int) -> Tensor:
    """A square table for another size, bicubic per column (the official Swin rule).

    Args:
        table: [old * old, N]; for relative positions old = 2 * window - 1.

    Returns:
        [new * new, N].
    """
    planes = table.t().reshape(1, -1, old, old)
    resized = F.interpolate(planes, size=(new, new), mode="bicubic", align_corners=False)
    return resized.reshape(-1, new * new).t().contiguous()
