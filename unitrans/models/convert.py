"""Weights of other code bases into our models: one table of renames per layout, one strict loader.

A rename is a pair of templates, theirs and ours; `{s}` stands for a number, `{s+1}` for that number plus one,
`{rest}` for anything. The first template that fits a name is used; a name that fits none keeps its name, and
is reported if the model does not know it either. Templates work in both directions.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import PreTrainedModel

Rename = tuple[str, str]


@dataclass(frozen=True)
class Layout:
    """How one code base names the parameters of one family of models.

    Attributes:
        renames: (theirs, ours) templates, the most specific first.
        derived: regular expressions of their buffers that we compute ourselves.
    """

    renames: Sequence[Rename]
    derived: Sequence[str] = ()

    def ours(self, name: str) -> str:
        """Our name of their parameter."""
        return _rename(name, self.renames)

    def theirs(self, name: str) -> str:
        """Their name of our parameter."""
        return _rename(name, [(ours, theirs) for theirs, ours in self.renames])

    def is_derived(self, name: str) -> bool:
        """Whether this is a buffer of theirs that carries no information."""
        return any(re.search(pattern, name) for pattern in self.derived)


_FIELD = re.compile(r"\{(\w+)([+-]\d+)?\}")


def _rename(name: str, renames: Sequence[Rename]) -> str:
    for source, target in renames:
        pattern, offsets, end = "", {}, 0
        for found in _FIELD.finditer(source):
            key, offset = found.group(1), int(found.group(2) or 0)
            pattern += re.escape(source[end : found.start()])
            pattern += f"(?P<{key}>.*)" if key == "rest" else f"(?P<{key}>\\d+)"
            offsets[key], end = offset, found.end()
        match = re.fullmatch(pattern + re.escape(source[end:]), name)
        if match is None:
            continue
        values = match.groupdict()

        def fill(
            found: re.Match[str], values: dict[str, str] = values, offsets: dict[str, int] = offsets
        ) -> str:
            key, offset = found.group(1), int(found.group(2) or 0)
            return values[key] if key == "rest" else str(int(values[key]) - offsets[key] + offset)

        return _FIELD.sub(fill, target)
    return name


_SWIN_DERIVED = (r"relative_position_index$", r"attn_mask$", r"relative_coords_table$")
_SWIN_TABLE = (
    "layers.{s}.blocks.{b}.attn.relative_position_bias_table",
    "layers.{s}.blocks.{b}.attn.position_bias.relative_position_bias_table",
)

#: (model family, layout) -> table. "official" also serves the official SimMIM checkpoints (encoder.*, decoder.0.*).
LAYOUTS: dict[tuple[str, str], Layout] = {
    ("swin", "official"): Layout(
        renames=(
            _SWIN_TABLE,
            ("encoder." + _SWIN_TABLE[0], "encoder." + _SWIN_TABLE[1]),
            ("encoder.mask_token", "head.mask_token"),
            ("decoder.0.{rest}", "head.decoder.{rest}"),
        ),
        derived=_SWIN_DERIVED,
    ),
    ("swin", "timm"): Layout(
        renames=(
            _SWIN_TABLE,
            ("layers.{s+1}.downsample.{rest}", "layers.{s}.downsample.{rest}"),
            ("head.fc.{rest}", "head.{rest}"),
        ),
        derived=_SWIN_DERIVED,
    ),
}


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
        source: layout, e.g. "official" or "timm".
        strict: raise where anything is missing or unexpected.

    Raises:
        ValueError: unknown layout; or (strict) a report that is not clean, in full.
    """
    layout = layout_for(model, source)
    own = dict(model.named_parameters())
    prefix = _encoder_prefix(model)
    report = LoadReport()
    filled = set()
    for name, tensor in weights.items():
        if layout.is_derived(name):
            report.derived.append(name)
            continue
        target = layout.ours(name)
        if target not in own:
            target = prefix + target
        if target not in own:
            report.unexpected.append(f"{name} {list(tensor.shape)}")
            continue
        fitted = fit_shape(target, tensor, own[target].shape)
        if fitted is None:
            report.unexpected.append(f"{name} {list(tensor.shape)}: {target} has {list(own[target].shape)}")
            continue
        with torch.no_grad():
            own[target].copy_(fitted)
        filled.add(target)
        if fitted.numel() == tensor.numel():
            report.loaded.append(target)
        else:
            report.resized.append(f"{target}: {list(tensor.shape)} -> {list(fitted.shape)}")
    report.missing = [name for name in own if name not in filled]
    if strict and (report.missing or report.unexpected):
        raise ValueError(
            f"weights: expected a {source} checkpoint of this {type(model).__name__}, got one that does not fit "
            f"it (strict=False loads what fits)\n{report}"
        )
    return report


def export_weights(model: PreTrainedModel, target: str) -> dict[str, Tensor]:
    """A model's parameters under the names of another code base, in our shapes.

    Raises:
        ValueError: unknown layout.
    """
    layout, prefix = layout_for(model, target), _encoder_prefix(model)
    if isinstance(getattr(model, "head", None), nn.Module) and prefix == "encoder.":
        prefix = ""  # the official SimMIM names keep the prefix
    return {layout.theirs(n.removeprefix(prefix)): p.detach() for n, p in model.named_parameters()}


def layout_for(model: PreTrainedModel, name: str) -> Layout:
    """The table for a model; ValueError names the known ones."""
    config = getattr(model.config, "encoder_config", model.config)
    family = config.model_type.removeprefix("unitrans-")
    if (family, name) not in LAYOUTS:
        known = ", ".join(repr(layout) for kind, layout in LAYOUTS if kind == family)
        raise ValueError(f"layout: for {family} expected one of {known}, got {name!r}")
    return LAYOUTS[family, name]


def _encoder_prefix(model: nn.Module) -> str:
    """Where the bare encoder sits inside a model with a head."""
    for name in ("encoder", "swin"):
        if isinstance(getattr(model, name, None), PreTrainedModel):
            return name + "."
    return ""


def fit_shape(name: str, tensor: Tensor, shape: torch.Size) -> Tensor | None:
    """The tensor in this shape: as it is, without sides of 1, or a bias table resized; None if none applies."""
    if tensor.shape == shape:
        return tensor
    if [n for n in tensor.shape if n != 1] == [n for n in shape if n != 1]:
        return tensor.reshape(shape)
    if name.endswith("relative_position_bias_table") and tensor.dim() == 2 and tensor.shape[1] == shape[1]:
        old, new = int(tensor.shape[0] ** 0.5), int(shape[0] ** 0.5)
        if old**2 == tensor.shape[0] and new**2 == shape[0]:
            return resize_bias_table(tensor, old, new)
    return None


def resize_bias_table(table: Tensor, old: int, new: int) -> Tensor:
    """A square relative position table for another window, bicubic per head (the official Swin rule).

    Args:
        table: [old * old, N], old = 2 * window - 1.

    Returns:
        [new * new, N].
    """
    planes = table.t().reshape(1, -1, old, old)
    resized = F.interpolate(planes, size=(new, new), mode="bicubic", align_corners=False)
    return resized.reshape(-1, new * new).t().contiguous()
