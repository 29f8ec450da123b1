"""Model folders of transformers: read into our models, written from them."""

import json
import pickle
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import Tensor
from transformers import GenerationConfig, PreTrainedModel

from unitrans.models import registry
from unitrans.models._encoder import keep_measure
from unitrans.models._weights import (
    Format,
    LoadReport,
    config_from,
    config_to_hf,
    export_tensors,
    format_of,
    formats,
    load_weights,
)
from unitrans.models.classes import with_classes
from unitrans.models.folders import unusable
from unitrans.stored import read_json

WEIGHTS = "model.safetensors"


def hub_formats() -> dict[str, Format]:
    """model_type of transformers -> format."""
    return {
        kind: each for each in formats().values() if each.hub is not None for kind in each.hub.model_types
    }


def read_config(folder: Path) -> dict[str, Any] | None:
    """config.json of a model folder of transformers whose family we have; None for any other folder."""
    try:
        stored = read_json(folder / "config.json")
    except (OSError, ValueError):
        return None
    kind = stored.get("model_type") if isinstance(stored, dict) else None
    return stored if isinstance(kind, str) and kind in hub_formats() else None


def read_weights(folder: Path) -> dict[str, Tensor]:
    """The weights in a folder: model.safetensors, its parts, or pytorch_model.bin (nothing else is unpickled).

    Raises:
        ValueError: there is no such file, or it cannot be read.
    """
    try:
        stored = _stored_weights(folder)
    except Exception as error:  # whatever safetensors, json and torch raise for a broken file
        raise ValueError(
            f"{folder}: its weights cannot be read ({' '.join(str(error).split())[:200]})"
        ) from None
    if stored is None:
        raise ValueError(f"{folder}: expected {WEIGHTS} or pytorch_model.bin in it, there is neither")
    return state_dict_of(stored, str(folder))


def _stored_weights(folder: Path) -> Any:
    if (folder / WEIGHTS).is_file():
        return safetensors.torch.load_file(folder / WEIGHTS)
    index = folder / (WEIGHTS + ".index.json")
    if index.is_file():
        weights: dict[str, Tensor] = {}
        for name in sorted(set(read_json(index)["weight_map"].values())):
            weights |= safetensors.torch.load_file(folder / Path(name).name)
        return weights
    if (folder / "pytorch_model.bin").is_file():
        return torch.load(folder / "pytorch_model.bin", map_location="cpu", weights_only=True)
    return None


FILE_SUFFIXES = (".safetensors", ".pth", ".pt", ".bin", ".ckpt")
_NESTED = ("model", "state_dict", "model_state_dict", "module")
_WRAPPERS = ("module.", "_orig_mod.", "model.")  # DistributedDataParallel, torch.compile, Lightning


def _broken(file: Path, error: Exception) -> str:
    """Why a file of weights cannot be read."""
    if file.stat().st_size == 0:
        return "it is empty"
    kind = "safetensors" if file.suffix == ".safetensors" else "torch.save"
    reason = " ".join(str(error).split()).partition(". ")[0][:120]
    return f"it is no file of {kind}, or not wholly written or copied ({type(error).__name__}: {reason})"


def read_file(file: Path) -> dict[str, Tensor]:
    """The state dict in a file: safetensors, or what torch.save wrote, of which only tensors are read.

    It is taken out of what is around it; see `state_dict_of`.

    Raises:
        ValueError: it cannot be read, holds more than tensors, or no state dict.
    """
    if file.suffix not in FILE_SUFFIXES:
        raise ValueError(
            f"{file}: expected a file of weights ({', '.join(FILE_SUFFIXES)}), got one of another kind"
        )
    try:
        if file.suffix == ".safetensors":
            return state_dict_of(safetensors.torch.load_file(file), str(file))
        stored = torch.load(file, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError:
        raise ValueError(
            f"{file}: it carries more than tensors, and reading that can run code of whoever made it; where you trust "
            f'it, strip it once: torch.save(torch.load("{file.name}", weights_only=False)["model"], "weights.pth")'
        ) from None
    except Exception as error:  # whatever safetensors and torch raise for a broken file
        raise ValueError(f"{file}: {_broken(file, error)}") from None
    return state_dict_of(stored, str(file))


def state_dict_of(stored: Any, what: str) -> dict[str, Tensor]:
    """The tensors by name in what was stored: also under the key model, state_dict, model_state_dict or module, and
    with "module.", "_orig_mod." or "model." in front of all names.

    Args:
        stored: a mapping.
        what: how errors name it.

    Raises:
        ValueError: it is none of tensors.
    """
    while isinstance(stored, Mapping):
        inner = next((stored[key] for key in _NESTED if isinstance(stored.get(key), Mapping)), None)
        if inner is None:
            break
        stored = inner
    tensors = dict(stored) if isinstance(stored, Mapping) else {}
    if not tensors or not all(isinstance(value, Tensor) for value in tensors.values()):
        got = type(stored).__name__
        got = f"keys {', '.join(map(str, list(stored)[:4]))}" if isinstance(stored, Mapping) else got
        raise ValueError(
            f"{what}: expected a dict of tensors, or one under the key {' or '.join(_NESTED)}, got {got}"
        )
    while wrapper := next((w for w in _WRAPPERS if all(name.startswith(w) for name in tensors)), None):
        tensors = {name.removeprefix(wrapper): value for name, value in tensors.items()}
    return tensors


def load_hf(
    folder: Path, *, strict: bool = True, class_map: Sequence[int] | None = None, **changes: Any
) -> tuple[PreTrainedModel, LoadReport]:
    """The model of a folder of transformers as ours.

    Args:
        folder: with config.json and weights.
        strict: raise where the file lacks weights or has some that fit nothing.
        class_map: see `with_classes`.
        changes: settings in place of those of the folder, by our names or by theirs.

    Raises:
        ValueError: a family, class or setting that we do not have, or weights that do not fit.
    """
    theirs = read_config(folder)
    if theirs is None:
        raise ValueError(
            f"{folder}: expected a model folder of transformers of one of {', '.join(hub_formats())}"
        )
    hub = hub_formats()[theirs["model_type"]].hub
    assert hub is not None
    name = str((theirs.get("architectures") or [hub.model_types[theirs["model_type"]]])[0])
    if name not in hub.classes:
        known = [each for format in hub_formats().values() if format.hub for each in format.hub.classes]
        raise ValueError(f"{folder}: expected one of {', '.join(dict.fromkeys(known))}, got a {name}")
    weights = read_weights(folder)
    if name in hub.left_out:
        weights = {key: value for key, value in weights.items() if not key.startswith(hub.left_out[name])}
    cls = registry.resolve(hub.classes[name])
    try:
        theirs, changes = by_our_names(theirs, changes)
        if class_map is not None:
            changes = {"num_labels": len(class_map)} | changes
        config = config_from("hf5", theirs, **changes)
        with torch.device("meta"):  # settings that a gigantic model is made of allocate nothing here
            cls(config)
    except ValueError as error:
        raise ValueError(f"{folder}: {error}") from error
    except Exception as error:  # whatever constructors do with values that nobody checks
        raise unusable(folder, error) from error
    if changes:
        keep_measure(config, config_from("hf5", theirs), changes)
    model = cls(config)
    layout = layout_of_names(weights, theirs["model_type"])
    fresh: set[str] = set()
    if "num_labels" in changes:
        weights, fresh = with_classes(model, weights, layout, class_map)
    report = load_weights(model, weights, layout, strict=False)
    report.missing = [key for key in report.missing if key not in fresh]
    if strict and (report.missing or report.unexpected):
        raise ValueError(
            f"{folder}: weights that do not fit a {type(model).__name__} of its config.json\n{report}"
        )
    if model.can_generate():
        told = (folder / "generation_config.json").is_file()
        model.generation_config = GenerationConfig.from_pretrained(folder) if told else _generation(theirs)
    return model.eval(), report


def by_our_names(
    theirs: Mapping[str, Any], changes: Mapping[str, Any]
) -> tuple[dict[str, Any], dict[str, Any]]:
    """A config.json of transformers and changes by either names -> it with those that are theirs alone, and the others
    by our names. ValueError for a setting that neither has."""
    format = hub_formats()[theirs["model_type"]]
    config, names = config_from("hf5", theirs), format.names["hf5"]
    known = config.to_dict().keys() | {"num_labels"}
    told, ours = dict(theirs), {}
    for name, value in changes.items():
        if name in format.counts:
            ours[name] = value - getattr(config, format.counts[name])
        elif name in known:
            ours[name] = value
        elif name in names:
            ours[names[name]] = value
        elif name in theirs:
            told[name] = value
        else:
            raise ValueError(f"{name}: expected a setting of {format.name}, got an unknown one")
    return told, ours


def _generation(theirs: Mapping[str, Any]) -> GenerationConfig:
    """When texts begin and end, as older folders of transformers say it."""
    return GenerationConfig(
        **{name: theirs.get(name) for name in ("bos_token_id", "eos_token_id", "pad_token_id")}
    )


def layout_of_names(weights: Mapping[str, Tensor], family: str) -> str:
    """ "hf4" or "hf5", by the names themselves, where they differ; family: a model_type of transformers."""
    in_memory = any(".q_proj." in name or "attention.o_proj" in name for name in weights)
    hub = hub_formats()[family].hub
    return "hf5" if in_memory or (hub is not None and hub.same_in_memory) else "hf4"


def save_hf(
    folder: Path,
    model: PreTrainedModel,
    config: Any,
    architecture: str,
    *,
    tensors: Mapping[str, Tensor] | None = None,
    **fields: Any,
) -> None:
    """Writes a folder that transformers opens: config.json and model.safetensors under the names of hub files.

    Args:
        folder: made where it is absent.
        model: one of ours, or a MaskedSignalModel.
        config: of its encoder.
        architecture: the name of their class.
        tensors: parameters by our names; None: those of the model.
        fields: more of their config.json (id2label, ...).

    Raises:
        ValueError: a configuration that their models cannot compute.
    """
    theirs = config_to_hf(config, architecture) | fields
    if tensors is None:
        tensors = {name: parameter.detach() for name, parameter in model.named_parameters()}
    weights = export_tensors(model, tensors, "hf4")
    format = format_of(config)
    if format.hub is not None:
        weights |= format.hub.complete(config, architecture, format.layouts["hf4"])
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(theirs, indent=2) + "\n", encoding="utf-8")
    contiguous = {name: tensor.contiguous() for name, tensor in weights.items()}
    safetensors.torch.save_file(contiguous, folder / WEIGHTS, metadata={"format": "pt"})
