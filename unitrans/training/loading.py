"""Weights of whatever kind as a model: ``unitrans.load``."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor
from transformers import PreTrainedModel
from transformers.utils import logging as transformers_logging

from unitrans.data.sources import ask_hub
from unitrans.errors import ConfigError, nearest_name, user_errors
from unitrans.models import registry
from unitrans.models._encoder import encoder_of as encoder_of
from unitrans.models._encoder import keep_measure
from unitrans.models._weights import LoadReport, config_from, formats, load_weights, not_finite, resize_rule
from unitrans.models.classes import with_classes
from unitrans.models.files import (
    FILE_SUFFIXES,
    by_our_names,
    hub_formats,
    load_hf,
    read_config,
    read_file,
    read_weights,
    state_dict_of,
)
from unitrans.models.folders import check_folder
from unitrans.models.recognise import configured, recognise, settled
from unitrans.models.resize import fit_shape
from unitrans.objectives import MaskedSignalModel, get_objective, make_objective
from unitrans.stored import read_json
from unitrans.training.init import init_folder, init_weights

#: What weights of images predict hidden parts of -> the objective.
PRETRAINED = {"masked": "mim", "mae": "mae", "beit": "beit"}


def load(
    weights: str | Path | Mapping[str, Tensor],
    source: str = "auto",
    *,
    strict: bool = True,
    class_map: Sequence[int] | None = None,
    **overrides: Any,
) -> PreTrainedModel:
    """A model from weights of this program or of another one, in evaluation mode.

    Args:
        weights: a run or checkpoint of this program; a folder of transformers or timm; a file of weights
            (.safetensors, or .pth with tensors only) of the published Swin, Swin V2, SimMIM, MAE, BEiT, ViT, BERT,
            RoBERTa, GPT-2 or Graphormer, of timm, torchvision or transformers, or of our own models; a state dict, also
            as other tools wrap it (under state_dict, names with module. in front); else a name on the hub.
        source: whose names these are: "official", "timm", "torchvision", "hf4" (files on the hub), "hf5" (in memory),
            for MAE "mae", for Graphormer "v1" or "v2", our own "unitrans"; "auto": told by the names.
        strict: raise where anything is missing or left over; False warns with the list.
        class_map: for every class of the model that is wanted, the number of the class in these weights (official:
            the 1,000 classes of ImageNet among its 21,841); num_labels follows.
        overrides: settings of the configuration, by our names or by those of the source (image_size, window_size,
            num_heads, num_labels, ...), and options of the objective of a pretraining checkpoint. Tables of positions
            are resized by the rule of the source, a patch embedding is inflated or summed for another in_chans, and a
            classifier of another num_labels starts afresh (0: the model gives pooled rows).

    A warning says where weights hold NaN or infinite numbers.

    Returns:
        The class that the weights are for: an encoder, a classifier, a backbone, a language model, Graphormer; for
        pretraining checkpoints of images and runs of this program a MaskedSignalModel, whose `encoder` is one.

    Raises:
        ValueError: nothing there; weights of no model of ours; a setting that they do not tell and that is not
            given; weights that do not fit.

    Example:
        >>> model = unitrans.load("swin_tiny_patch4_window7_224.pth")
        >>> maps = model.forward_features(images, out_indices=[1, 2, 3])
    """
    report: LoadReport | None
    transformers_logging.disable_progress_bar()
    if isinstance(weights, Mapping):
        tensors = state_dict_of(weights, "weights")
        model, report = load_state(tensors, source, strict=strict, class_map=class_map, **overrides)
    else:
        more = overrides if class_map is None else overrides | {"class_map": class_map}
        with user_errors():
            model, report = _load_path(Path(weights).expanduser(), str(weights), source, strict, more)
    if report is not None and (report.missing or report.unexpected):
        warnings.warn(f"weights that do not fit wholly: {report}", stacklevel=2)
    broken = not_finite(model)
    if broken is not None:
        warnings.warn(f"{'weights' if isinstance(weights, Mapping) else weights}: {broken}", stacklevel=2)
    return model.eval()


def _load_path(
    path: Path, name: str, source: str, strict: bool, overrides: dict[str, Any]
) -> tuple[PreTrainedModel, LoadReport | None]:
    if path.is_file():
        return load_state(read_file(path), source, strict=strict, what=name, **overrides)
    if not path.exists():
        path = from_hub(name)
    check_folder(path)
    theirs = read_config(path)
    if theirs is not None and source in ("auto", "hf4", "hf5"):
        if _is_pretraining(theirs):
            return load_state(
                read_weights(path), source, strict=strict, what=name, theirs=theirs, **overrides
            )
        return load_hf(path, strict=strict, **overrides)
    if is_run(path):
        return load_run(path, overrides), None
    if registry.family_of({"model_type": _model_type(path)}) is not None:
        return _load_own(path, overrides), None
    return load_state(read_weights(path), source, strict=strict, what=name, **overrides)


def is_run(folder: Path) -> bool:
    """Whether this is a run or checkpoint of this program."""
    return (folder / "checkpoints").is_dir() or _model_type(
        folder
    ) == MaskedSignalModel.config_class.model_type


def _model_type(folder: Path) -> str:
    try:
        stored = read_json(folder / "config.json")
    except (OSError, ValueError):
        return ""
    return str(stored.get("model_type") or "") if isinstance(stored, dict) else ""


def from_hub(name: str) -> Path:
    """The folder of a model on the hub, fetched or from the cache.

    Raises:
        ConfigError: no such name here or there, or the hub is out of reach.
    """
    from huggingface_hub import snapshot_download
    from huggingface_hub.constants import ENDPOINT
    from huggingface_hub.errors import HFValidationError

    if name.startswith(("/", "./", "../", "~")) or Path(name).suffix in FILE_SUFFIXES:
        raise ConfigError(f"{name}: there is no such file or folder{_beside(name)}")
    patterns = ["*.json", "*.txt", "*.safetensors", "pytorch_model*.bin", "tokenizer*", "*.model"]
    try:
        return Path(snapshot_download(name, allow_patterns=patterns, etag_timeout=10))
    except HFValidationError:
        raise ConfigError(f"{name}: there is no such file or folder") from None
    except Exception as error:  # whatever requests, httpx and the hub raise
        found, reason, _ = ask_hub(name, None, "model", ENDPOINT)
        reason = reason if found is None else " ".join(str(error).split())[:160]
        raise ConfigError(f"{name}: there is no such file or folder{_beside(name)}, and {reason}") from None


def _beside(name: str) -> str:
    """The nearest name there is where this one should be."""
    path = Path(name).expanduser()
    try:
        others = [str(Path(name).with_name(entry.name)) for entry in path.parent.iterdir()]
    except (OSError, ValueError):
        return ""
    return nearest_name(name, others)


def load_run(folder: Path, overrides: Mapping[str, Any]) -> MaskedSignalModel:
    """The model of a run or checkpoint of this program, with changed settings of its encoder."""
    held = init_folder(str(folder), flag="weights:")
    if not overrides:
        return MaskedSignalModel.from_pretrained(held)
    config = MaskedSignalModel.config_class.from_pretrained(held)
    unknown = [name for name in overrides if name not in (config.encoder or {})]
    if unknown:
        raise ConfigError(
            f"{unknown[0]}: expected a setting of the encoder ({config.encoder_config.model_type}), got an unknown one"
        )
    before = config.encoder_config
    config.encoder = {**(config.encoder or {}), **overrides}
    changed = config.encoder_config
    keep_measure(changed, before, overrides)
    config.encoder = changed.to_dict()
    model = MaskedSignalModel(config)
    init_weights(model, str(folder))
    return model


def _load_own(folder: Path, overrides: dict[str, Any]) -> PreTrainedModel:
    """A model of this program that save_pretrained wrote, with changed settings."""
    stored = read_json(folder / "config.json")
    cls = registry.find_class(str((stored.get("architectures") or [""])[0]))
    if cls is None:
        raise ConfigError(f"{folder}: its config.json names no architecture of this program")
    whole, info = cls.from_pretrained(folder, output_loading_info=True)
    missing = sorted(info["missing_keys"])
    if missing:
        raise ConfigError(
            f"{folder}: {len(missing)} weights of its {cls.__name__} are missing, {missing[0]} first"
        )
    class_map = overrides.pop("class_map", None)
    if class_map is not None:
        overrides = {"num_labels": len(class_map)} | overrides
    if not overrides:
        return cast(PreTrainedModel, whole)
    before = whole.config.to_dict()
    for name in overrides:
        if name not in before and name != "num_labels":
            raise ConfigError(f"{name}: expected a setting of {before['model_type']}, got an unknown one")
    if "num_labels" in overrides:
        before = {key: value for key, value in before.items() if key not in ("id2label", "label2id")}
    config = type(whole.config)(**(before | overrides))
    keep_measure(config, whole.config, overrides)
    model = cls(config)
    weights, fresh = with_classes(model, dict(whole.named_parameters()), None, class_map)
    rule = resize_rule(config)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name in fresh:
                continue
            fitted = (
                fit_shape(name, weights[name], parameter.shape, rule, getattr(config, "grid", None))
                if name in weights
                else None
            )
            if fitted is None:
                raise ConfigError(f"{folder}: its weights do not fit the changed settings, such as {name}")
            parameter.copy_(fitted)
    return cast(PreTrainedModel, model)


def load_state(
    weights: Mapping[str, Tensor],
    source: str = "auto",
    *,
    strict: bool = True,
    class_map: Sequence[int] | None = None,
    what: str = "weights",
    theirs: Mapping[str, Any] | None = None,
    **overrides: Any,
) -> tuple[PreTrainedModel, LoadReport]:
    """A model from a state dict of another code base; as in `load`.

    what: how errors name the weights. theirs: a config.json of transformers that came with them.
    """
    found, overrides = settled(recognise(weights, source, what), overrides)
    if class_map is not None:
        overrides = {"num_labels": len(class_map)} | overrides
    pretraining = PRETRAINED.get(found.kind)
    choices = () if pretraining is None else get_objective(pretraining).Options.model_fields
    if theirs is None:
        config, options = configured(found, overrides, what, choices)
    else:
        told = _options_told(theirs)
        options = {ours: theirs[name] for name, ours in told.items() if name in theirs}
        options |= {name: value for name, value in overrides.items() if name in choices}
        changes = {name: value for name, value in overrides.items() if name not in choices}
        theirs, changes = by_our_names(theirs, changes)
        config = config_from("hf5", theirs, **changes)
        if changes:
            keep_measure(config, config_from("hf5", theirs), changes)
    if pretraining is not None:
        objective = make_objective(pretraining, config, found.options | options)
        model: Any = MaskedSignalModel.create(config, objective)
    else:
        model = registry.resolve(formats()[found.family].classes[found.kind])(config)
    fitting, fresh = with_classes(model, dict(weights), found.layout, class_map)
    report = load_weights(model, fitting, found.layout, strict=False)
    report.missing = [name for name in report.missing if name not in fresh]
    if strict and (report.missing or report.unexpected):
        raise ValueError(f"{what}: {found}, which the model made for it does not explain\n{report}")
    return model, report


def _is_pretraining(theirs: Mapping[str, Any]) -> bool:
    """Whether a config.json of transformers is of a model with the head of an objective of ours."""
    name = str((theirs.get("architectures") or [""])[0])
    return name.endswith("ForMaskedImageModeling") or bool(_options_told(theirs))


def _options_told(theirs: Mapping[str, Any]) -> Mapping[str, str]:
    """Their settings that are options of the objective -> our names."""
    hub = hub_formats()[theirs["model_type"]].hub
    return {} if hub is None else hub.pretraining.get(str((theirs.get("architectures") or [""])[0]), {})
