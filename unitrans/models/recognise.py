"""What a file of weights is: its family, the code base that named it, and the configuration that its shapes tell."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from torch import Tensor

from unitrans.models import registry
from unitrans.models._encoder import keep_measure
from unitrans.models._weights import OWN, Format, config_from, formats, numbers


@dataclass(frozen=True)
class Recognised:
    """What `recognise` found.

    Attributes:
        family: name of the `Format`.
        layout: one of its layouts.
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
        names = "our own" if self.layout == OWN else self.layout
        return f"a {self.family} under {names} names ({sizes})"


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
    format, layout = _format_and_layout(weights, what)
    family = format.name
    if source != "auto":
        known = [*format.layouts, OWN]
        if source not in known:
            raise ValueError(
                f"source: expected one of {', '.join(map(repr, ['auto', *known]))} for weights of a {family}, "
                f"got {source!r}"
            )
        layout = source
    own = _as_ours(weights, format, layout)
    try:
        fields, untold = format.fields(own, weights)
        kind, options = format.kind(own), {}
        if kind == "mae":
            options = _decoder(own, untold)
        elif kind == "beit":
            options = {"vocab_size": own["head.classifier.weight"].shape[0]}
        elif kind == "masked":  # rows are in_chans times the square of the stride
            options = {
                "mask_patch_size": math.isqrt(own["head.decoder.weight"].shape[0] // fields["in_chans"])
            }
    except KeyError as error:
        raise ValueError(
            f"{what}: expected weights of a {family} under {layout} names, got ones without {error.args[0]} (our name "
            "of it): they are not whole, or are called otherwise"
        ) from None
    return Recognised(family, layout, kind, fields, untold, options)


def _format_and_layout(weights: Mapping[str, Tensor], what: str) -> tuple[Format, str]:
    known = formats()
    for each in known.values():
        if each.own(weights):
            return each, OWN
    for each in known.values():
        layout = each.layout_of(weights)
        if layout is not None:
            return each, layout
    shown = ", ".join(sorted(weights)[:3]) or "none"
    *most, last = [title for each in known.values() for title in each.titles]
    raise ValueError(
        f"{what}: expected weights of a {', '.join(most)} or {last}, got tensors of other names ({shown})"
    )


def _as_ours(weights: Mapping[str, Tensor], format: Format, layout: str) -> dict[str, Tensor]:
    """Tensors under our names of the bare encoder, its head's as head.*; of parts of one tensor the first."""
    table = format.table(layout)
    own: dict[str, Tensor] = {}
    for name, tensor in weights.items():
        if not table.is_derived(name):
            target = table.ours(name)
            own.setdefault(target.name, tensor.t() if table.is_transposed(name) else tensor)
    return own


def _decoder(own: Mapping[str, Tensor], untold: dict[str, str]) -> dict[str, Any]:
    """Options of MAE; its decoder's heads have 32 channels in all published sizes."""
    hidden = own["head.decoder.blocks.0.mlp.fc1.weight"]
    width = hidden.shape[1]
    options = {
        "decoder_embed_dim": width,
        "decoder_depth": len(numbers(own, r"head\.decoder\.blocks\.(\d+)\.")),
        "decoder_mlp_ratio": hidden.shape[0] / width,
    }
    if width % 32 == 0:
        options["decoder_num_heads"] = width // 32
    else:
        untold["decoder_num_heads"] = f"heads of the decoder, which is {width} wide"
    return options


def settled(found: Recognised, overrides: Mapping[str, Any]) -> tuple[Recognised, dict[str, Any]]:
    """What weights are by what is given, where names alone do not say it: pooling tells a classifier of texts from one
    of tokens (pooling=tokens)."""
    rest = dict(overrides)
    if "pooling" not in found.untold or "pooling" not in rest:
        return found, rest
    untold = {name: word for name, word in found.untold.items() if name != "pooling"}
    if rest["pooling"] == "tokens":
        del rest["pooling"]
        return replace(found, kind="tokens", untold=untold), rest
    return replace(found, kind="classifier"), rest


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
    format = formats()[found.family]
    base = format.configured_as.get(found.layout, found.layout)
    theirs = format.arguments(base, found)
    known = {*config_from(base, theirs, found.family).to_dict(), "num_labels"}
    changes: dict[str, Any] = {}
    options: dict[str, Any] = {}
    for name, value in overrides.items():
        if found.layout != OWN and name in format.counts:
            changes[name] = value - found.fields[format.counts[name]]
        elif name in known:
            changes[name] = value
        elif name in choices:
            options[name] = value
        else:
            theirs[name] = value  # what is no such argument is named as an error there
            ours = format.names.get(base, {}).get(name)
            if ours is not None:
                changes[ours] = value
    named = {key: value for key, value in _named_size(found, what).items() if key in found.untold}
    untold = [name for name in found.untold if name not in {*named, *changes, *options}]
    if untold:
        needed = ", ".join(f"{prefix}{name}= ({found.untold[name]})" for name in untold)
        raise ValueError(f"{what}: {found} whose weights do not tell {' and '.join(untold)}: give {needed}")
    fields = found.fields | named | changes
    if found.kind not in ("classifier", "tokens"):
        fields.pop("num_labels", None)
    config = config_from(base, theirs, found.family, **fields)
    told = named | {name: changes[name] for name in found.untold if name in changes}
    if changes.keys() - told.keys():
        keep_measure(config, config_from(base, {}, found.family, **(found.fields | told)), changes)
    return config, options


def _named_size(found: Recognised, what: str) -> Mapping[str, Any]:
    """The fields of the published size whose name these weights have, if it explains their shapes."""
    stem = Path(what).name
    for name, family in sorted(registry.sizes().items(), key=lambda each: -len(each[0])):
        official = name.replace("_window", "_patch4_window")  # of Swin V2
        size = family.sizes[name]
        if stem.startswith((name, official)) and formats()[found.family] in registry.resolve(family.formats):
            agrees = all(
                _plain(found.fields.get(key, value)) == _plain(value)
                for key, value in size.items()
                if key in _SAID
            )
            return size if agrees else {}
    return {}


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value
