"""Settings that follow from others: a tokenizer fixes the vocabulary, --init fixes the model and the tokenizer."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from unitrans.domains.text.config import DataConfig
from unitrans.domains.text.tokenizer import has_tokenizer, load_tokenizer
from unitrans.models.convert import config_from
from unitrans.models.files import hub_formats
from unitrans.models.joint.config import domain_of, part_of
from unitrans.models.text import TextConfig
from unitrans.stored import read_json

_FIELDS = [f.name for f in dataclasses.fields(TextConfig) if f.name in TextConfig.__annotations__]


def settings_from(layers: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of the sections data and model that those given so far decide.

    layers: sections as far as they are known, defaults included.
    """
    data, train = dict(layers.get("data", {})), layers.get("train", {})
    found: dict[str, Any] = {}
    if isinstance(train.get("init"), str):
        found = _of_folder(train["init"])
    if data.get("tokenizer") is None and "tokenizer" in found.get("data", {}):
        data["tokenizer"] = found["data"]["tokenizer"]
    model = found.get("model", {})
    objective = layers.get("objective", {}).get("name")
    if model.get("pooling") == "pooler" and objective in ("mlm", "clm", "token_classification"):
        model = model | {"pooling": "mean"}  # these pool nothing: a pooler would never be trained
    if data.get("tokenizer") is None:
        size = data.get("vocab_size", DataConfig.model_fields["vocab_size"].default)
        return found | {"model": {"vocab_size": size} | model}
    added = data.get("added_tokens") or []
    if not isinstance(data["tokenizer"], str) or not all(isinstance(word, str) for word in added):
        return found  # a mistake that the check of the section names
    tokenizer = load_tokenizer(data["tokenizer"], tuple(added))
    vocabulary = max(len(tokenizer), model.get("vocab_size", 0))
    ids = {"vocab_size": vocabulary, "mask_token_id": tokenizer.mask_token_id}
    return found | {"model": model | ids}


def _of_folder(name: str) -> dict[str, Any]:
    """What a run, a checkpoint or a model folder of transformers says; {} for a folder that says nothing."""
    root = Path(os.path.expanduser(name))
    for folder in (root, root / "checkpoints" / "best", root / "checkpoints" / "latest"):
        try:
            stored = read_json(folder / "config.json")
        except (OSError, ValueError):
            continue
        if stored.get("model_type") in hub_formats():
            config = config_from("hf5", stored).to_dict()
        elif isinstance(stored.get("encoder"), dict):
            config = part_of(stored["encoder"], "text") or {}
        else:
            return {}
        if domain_of(config) != "text":
            return {}
        layer: dict[str, Any] = {"model": _section(config)}
        holder = next(
            (p for p in (folder.resolve(), *folder.resolve().parents[:2]) if has_tokenizer(p)), None
        )
        if holder is not None:
            layer["data"] = {"tokenizer": str(holder)}
        return layer
    return {}


def _section(config: Mapping[str, Any]) -> dict[str, Any]:
    """A stored configuration of an encoder as a ``model`` section."""
    name = str(config["model_type"]).removeprefix("unitrans-")
    return {"name": name} | {key: config[key] for key in _FIELDS if key in config}
