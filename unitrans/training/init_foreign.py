"""Starting a run from weights of another code base (--init): a model folder, or a file."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from unitrans.errors import ConfigError, user_errors
from unitrans.models._weights import format_of, formats, layout_for, load_weights
from unitrans.models.files import hub_formats, layout_of_names, read_config, read_file, read_weights
from unitrans.models.recognise import Recognised, recognise

# A ViT has one of the two, on its rows or on what is pooled; they are not each other's.
FINAL_NORMS = ("encoder.norm.", "encoder.fc_norm.")
WORD_ROWS = ("word_embeddings.weight", "output_bias")  # what has a row for every token of the vocabulary


def grown_rows(tensor: Tensor, shape: torch.Size) -> Tensor | None:
    """A table with a row per token, for a vocabulary with more tokens: each new row is the mean of the others
    (Hewitt 2021, "Initializing New Word Embeddings"). None where it is no such table, or would shrink."""
    if tensor.dim() != len(shape) or tensor.shape[1:] != shape[1:] or tensor.shape[0] > shape[0]:
        return None
    new = tensor.float().mean(0, keepdim=True).expand(shape[0] - tensor.shape[0], *tensor.shape[1:])
    return torch.cat([tensor, new.to(tensor.dtype)])


def read_foreign(path: Path) -> tuple[dict[str, Tensor], Recognised] | None:
    """The weights of another code base in a folder or file, and what they are; None for what this program wrote.

    Raises:
        ValueError: they cannot be read, or are those of no model of ours.
    """
    theirs = read_config(path)
    if not path.is_file() and theirs is None:
        return None
    weights = read_file(path) if path.is_file() else read_weights(path)
    found = recognise(weights, what=str(path))
    if theirs is not None:  # says more than the names can
        family = hub_formats()[theirs["model_type"]].name
        layout = layout_of_names(weights, theirs["model_type"])
        found = dataclasses.replace(found, family=family, layout=layout)
    return weights, found


def init_foreign(model: Any, name: str, weights: dict[str, Tensor], found: Recognised) -> list[str]:
    """Fills a MaskedSignalModel with weights of another code base and returns what a person should know.

    The encoder must fit, but for words added to the vocabulary, tables of positions and a classifier's rows; what they
    have for other heads is left, and a head that they do not have starts afresh. ConfigError names what differs.
    """
    where = f"--init {name}"
    config = model.config.encoder_config
    with user_errors():
        here, there = format_of(config), formats()[found.family]
    if (here.like or here.name) != (there.like or there.name):
        raise ConfigError(
            f"{where} holds {found}, and this model is a {here.name}: leave the model.* keys out, they follow from the "
            "weights"
        )
    table = layout_for(model, found.layout)
    own, notes = dict(model.named_parameters()), [f"weights of {name}: {found}"]
    for key, tensor in list(weights.items()):
        target = table.ours(key).name
        target = target if target in own else "encoder." + target
        if target in own and target.endswith(WORD_ROWS) and tensor.shape != own[target].shape:
            grown = grown_rows(tensor, own[target].shape)
            if grown is not None:
                weights[key] = grown
                notes.append(f"{target} grown from {tensor.shape[0]:,} to {grown.shape[0]:,} tokens")
    for key in table.tied:  # copies of what was grown
        weights.pop(key, None)
    with user_errors():
        report = load_weights(model, weights, found.layout, strict=False)
    missing = [name for name in report.missing if name.startswith("encoder.")]
    missing = [name for name in missing if not name.startswith(FINAL_NORMS)]
    unfit = [
        text for text in report.unexpected if ": encoder." in text
    ]  # of the right name and another shape
    if missing or unfit:
        raise ConfigError(
            f"{where}: the weights do not fit this model: {len(missing) + len(unfit)} tensors differ, such as "
            f"{', '.join((missing + unfit)[:3])}; leave the model.* keys out, they follow from the weights"
        )
    fresh = sorted({name.rpartition(".")[0] for name in report.missing})
    if fresh:
        notes.append(f"starts afresh: {', '.join(fresh)}")
    if report.unexpected:
        notes.append(f"left out: {', '.join(text.partition(' ')[0] for text in report.unexpected[:6])}")
    if report.resized:
        notes += report.resized
    return notes
