"""Starting a run from the weights of another one (--init)."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor

from unitrans.models.channels import average_channels, inflate_channels
from unitrans.models.convert import fit_shape
from unitrans.models.files import read_config
from unitrans.train import checkpoint as ckpt
from unitrans.train.errors import ConfigError
from unitrans.train.init_hf import WORD_ROWS, grown_rows, init_hf

WEIGHTS = "model.safetensors"
# Settings of an encoder that may differ between two runs without a word: the weights do not depend on them.
_FREE = {"in_chans", "image_size", "drop_rate", "attn_drop_rate", "drop_path_rate", "architectures", "dtype"}
_FREE |= {"transformers_version", "torch_dtype"}


def init_folder(name: str) -> Path:
    """The folder with the weights: a checkpoint, or the best (else the latest) checkpoint of a run."""
    root = Path(name).expanduser()
    for folder in (root, root / "checkpoints" / "best", root / "checkpoints" / "latest"):
        if (folder / WEIGHTS).is_file():
            return folder.resolve()
    what = "it holds no checkpoint" if root.is_dir() else "there is no such folder"
    raise ConfigError(
        f"--init {name}: {what}: name a run folder or a checkpoint (RUN/checkpoints/step-N with {WEIGHTS})"
    )


def init_weights(model: Any, name: str) -> list[str]:
    """Fills a MaskedSignalModel with the weights of a run and returns what a person should know.

    Everything must fit, except: other input channels (patch embedding and pixel decoder are adapted), other windows
    and image sizes (tables are resized), words added to the vocabulary, another objective (its head starts afresh).
    ConfigError names what differs. A model folder of transformers is taken too; see `init_hf`.
    """
    theirs = read_config(Path(name).expanduser())
    if theirs is not None:
        return init_hf(model, Path(name).expanduser(), theirs)
    folder = init_folder(name)
    if (folder / ckpt.MANIFEST).is_file():
        ckpt.verify(folder)
    try:
        weights = safetensors.torch.load_file(folder / WEIGHTS)
        stored = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        encoder = dict(stored["encoder"])
    except (OSError, ValueError, KeyError, TypeError, SafetensorError) as error:
        raise ConfigError(
            f"--init {name}: {folder} is not a checkpoint of this program ({' '.join(str(error).split())[:200]})"
        ) from None
    config = model.config
    same_head = stored.get("objective") == config.objective
    differences = _differences(encoder, config.encoder)
    notes = [f"weights of {folder}"]
    if not same_head:
        notes.append(
            f"objective {stored.get('objective')} there, {config.objective} here: its head starts afresh"
        )
        weights = {key: tensor for key, tensor in weights.items() if not key.startswith("head.")}
    own = {key: p for key, p in model.state_dict().items() if same_head or not key.startswith("head.")}
    channels = (encoder.get("in_chans", 3), config.encoder.get("in_chans", 3))
    fitted = {key: _fit(key, weights[key], own[key].shape, channels) for key in own.keys() & weights.keys()}
    unfit = sorted(own.keys() ^ weights.keys()) + sorted(
        key for key, tensor in fitted.items() if tensor is None
    )
    if unfit:
        raise ConfigError(
            f"--init {name}: the weights do not fit this model ({'; '.join(differences) or 'the same settings'}): "
            f"{len(unfit)} tensors differ, such as {', '.join(unfit[:3])}; set the model.* keys to those of that run"
        )
    if differences:
        notes.append(f"taken over although {'; '.join(differences)}")
    if channels[0] != channels[1]:
        notes.append(
            f"patch embedding adapted from {channels[0]} to {channels[1]} channels (filters repeated or summed, scaled)"
            + ("; the pixel decoder predicts the mean of the old channels in each" if same_head else "")
        )
    with torch.no_grad():
        for key, tensor in fitted.items():
            assert tensor is not None
            if tensor.shape != weights[key].shape and not _is_of_channels(key):
                notes.append(f"{key} resized from {list(weights[key].shape)} to {list(tensor.shape)}")
            own[key].copy_(tensor)
    return notes


def _is_of_channels(key: str) -> bool:
    return key.endswith("patch_embed.proj.weight") or key.startswith("head.decoder.")


def _fit(key: str, tensor: Tensor, shape: torch.Size, channels: tuple[int, int]) -> Tensor | None:
    """The tensor in this shape; None if it cannot be had."""
    old, new = channels
    if tensor.shape == shape:
        return tensor
    if _is_of_channels(key) and old != new:
        embed = key.endswith("patch_embed.proj.weight")
        if not embed and tensor.shape[0] % old:
            return None
        tensor = inflate_channels(tensor, new) if embed else average_channels(tensor, old, new)
        return tensor if tensor.shape == shape else None
    if key.endswith(WORD_ROWS):
        return grown_rows(tensor, shape)
    return fit_shape(key, tensor, shape)


def _differences(there: dict[str, Any], here: dict[str, Any]) -> list[str]:
    """Settings of the two encoders that differ, in words."""

    def plain(value: Any) -> Any:
        return json.loads(json.dumps(value))

    keys = sorted((there.keys() & here.keys()) - _FREE)
    return [
        f"model.{key} is {there[key]} there, {plain(here[key])} here"
        for key in keys
        if there[key] != plain(here[key])
    ]
