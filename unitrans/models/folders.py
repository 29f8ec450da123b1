"""Whether a folder of a model can be opened, before the libraries that open it say so in their own words."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from transformers import PreTrainedModel

from unitrans.errors import ConfigError
from unitrans.stored import read_json

CONFIG = "config.json"
WEIGHTS = "model.safetensors"
INDEX = WEIGHTS + ".index.json"


_OF_ANY: dict[str, type] = {"model_type": str, "architectures": list}
#: Of a checkpoint of a run, which has an encoder and an objective.
_OF_RUN: dict[str, type] = dict.fromkeys(("encoder", "objective_options", "labels", "reading"), dict) | {
    "objective": str
}
Weight = tuple[torch.Size, bool]  # its shape, and whether it holds floating-point numbers


def check_folder(folder: Path) -> dict[str, Weight] | None:
    """Reads what a folder says of itself: its config.json and the headers of its weights.

    Returns:
        The weights in safetensors by name; None: there are none.

    Raises:
        ConfigError: one of these files is there and cannot be read, or names what is not there.
    """
    stored = _json(folder / CONFIG)
    kinds = _OF_ANY | (_OF_RUN if stored.keys() >= {"encoder", "objective"} else {})
    for key, kind in kinds.items():
        value = stored.get(key)
        if value is not None and not isinstance(value, kind):
            raise ConfigError(f"{folder / CONFIG}: {key}: expected a {kind.__name__}, got {value!r}")
    labels = stored.get("labels") if "encoder" in stored else None
    if labels and not (isinstance(labels.get("kind"), str) and isinstance(labels.get("names"), list)):
        raise ConfigError(f"{folder / CONFIG}: labels: expected a kind and names, got {labels!r:.100}")
    if (folder / WEIGHTS).exists():
        return _shapes(folder / WEIGHTS)
    parts = _json(folder / INDEX).get("weight_map")
    if not (folder / INDEX).exists():
        return None
    if not isinstance(parts, Mapping) or not all(isinstance(name, str) for name in parts.values()):
        raise ConfigError(
            f"{folder / INDEX}: expected a weight_map from weights to files, got {parts!r:.100}"
        )
    shapes: dict[str, Weight] = {}
    for name in sorted(set(parts.values())):
        shapes |= _shapes(folder / Path(name).name)
    return shapes


def check_fit(cls: type[PreTrainedModel], folder: Path) -> None:
    """What `cls.from_pretrained(folder)` needs: settings that make a model, and weights of its shapes.

    Raises:
        ConfigError: see `check_folder`; settings that make no model; a weight of another shape.
    """
    shapes = check_folder(folder)
    if shapes is None:
        shapes = _pickled(folder / "pytorch_model.bin")
    assert cls.config_class is not None
    try:
        with torch.device("meta"):  # settings that a gigantic model is made of allocate nothing here
            model = cls(cls.config_class.from_pretrained(folder))
    except ConfigError:
        raise
    except Exception as error:  # whatever constructors do with values that nobody checks
        raise unusable(folder, error) from error
    for name, tensor in model.state_dict().items():
        shape, floating = shapes.get(name, (tensor.shape, True))
        if tensor.is_floating_point() and not floating:
            raise ConfigError(
                f"{folder}: {name}: expected floating-point numbers in the weights, got whole numbers: they are "
                "quantised, or of another model"
            )
        if shape != tensor.shape:
            raise ConfigError(
                f"{folder}: {name} is {list(shape)} in the weights and {list(tensor.shape)} by {CONFIG}: "
                "one of the two files is of another model"
            )


def unusable(folder: Path, error: Exception) -> ConfigError:
    """The sentence for settings that no model can be made from."""
    reason = f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
    return ConfigError(f"{folder / CONFIG}: no model can be made from these settings ({reason})")


def _json(file: Path) -> dict[str, Any]:
    """{} where there is no such file."""
    if not file.exists():
        return {}
    try:
        stored = read_json(file)
    except (OSError, ValueError) as error:
        raise ConfigError(
            f"{file}: expected JSON, it cannot be read ({' '.join(str(error).split())[:160]})"
        ) from None
    if not isinstance(stored, dict):
        raise ConfigError(f"{file}: expected a JSON object, got a {type(stored).__name__}")
    return stored


def _pickled(file: Path) -> dict[str, Weight]:
    if not file.is_file():
        raise ConfigError(f"{file.parent}: expected {WEIGHTS} or {file.name} in it, there is neither")
    try:
        stored = torch.load(file, map_location="meta", weights_only=True)
        return {name: (tensor.shape, tensor.is_floating_point()) for name, tensor in stored.items()}
    except Exception as error:  # whatever torch raises for a broken file
        reason = " ".join(str(error).split()).partition(". ")[0][:160]
        raise ConfigError(
            f"{file}: it holds no weights of torch.save, or is not wholly written or copied ({reason})"
        ) from None


def _shapes(file: Path) -> dict[str, Weight]:
    if not file.is_file():
        raise ConfigError(
            f"{file}: expected a file of weights, there is {'a folder' if file.exists() else 'none'}"
        )
    try:
        with safe_open(file, "pt") as opened:
            parts = {name: opened.get_slice(name) for name in opened.keys()}  # noqa: SIM118
            return {
                name: (torch.Size(part.get_shape()), part.get_dtype().startswith(("F", "BF")))
                for name, part in parts.items()
            }
    except Exception as error:  # whatever safetensors raises for a broken file
        reason = " ".join(str(error).split())[:160]
        raise ConfigError(
            f"{file}: it is no file of safetensors, or not wholly written or copied ({reason})"
        ) from None
