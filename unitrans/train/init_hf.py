"""Starting a run from a model folder of transformers (--init)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from unitrans.models.convert import layout_for, load_weights
from unitrans.models.files import layout_of_names, read_weights
from unitrans.train.errors import ConfigError, user_errors

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


def init_hf(model: Any, folder: Path, theirs: dict[str, Any]) -> list[str]:
    """Fills a MaskedSignalModel with the weights of a folder and returns what a person should know.

    The encoder must fit, but for words added to the vocabulary and an image size; what the file has for other heads is
    left, and a head that the file does not have starts afresh. ConfigError names what differs.
    """
    where = f"--init {folder}"
    with user_errors():
        weights = read_weights(folder)
        layout = layout_of_names(weights, theirs["model_type"])
        table = layout_for(model, layout)
    own, notes = (
        dict(model.named_parameters()),
        [f"weights of {folder} ({theirs['model_type']} of transformers)"],
    )
    for name, tensor in list(weights.items()):
        target = table.ours(name).name
        target = target if target in own else "encoder." + target
        if target in own and target.endswith(WORD_ROWS) and tensor.shape != own[target].shape:
            grown = grown_rows(tensor, own[target].shape)
            if grown is not None:
                weights[name] = grown
                notes.append(f"{target} grown from {tensor.shape[0]:,} to {grown.shape[0]:,} tokens")
    for name in table.tied:  # copies of what was grown
        if name in weights:
            del weights[name]
    with user_errors():
        report = load_weights(model, weights, layout, strict=False)
    missing = [name for name in report.missing if name.startswith("encoder.")]
    missing = [name for name in missing if not name.startswith(FINAL_NORMS)]
    unfit = [text for text in report.unexpected if ": " in text]  # of the right name and another shape
    if missing or unfit:
        raise ConfigError(
            f"{where}: the weights do not fit this model: {len(missing) + len(unfit)} tensors differ, such as "
            f"{', '.join((missing + unfit)[:3])}; leave the model.* keys out, they follow from the folder"
        )
    fresh = sorted({name.rpartition(".")[0] for name in report.missing})
    if fresh:
        notes.append(f"starts afresh: {', '.join(fresh)}")
    if report.unexpected:
        notes.append(f"left out: {', '.join(text.partition(' ')[0] for text in report.unexpected[:6])}")
    if report.resized:
        notes += report.resized
    return notes
