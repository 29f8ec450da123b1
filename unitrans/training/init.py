"""Starting a run from the weights of another one (--init)."""

from __future__ import annotations

import functools
import json
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor

from unitrans.domains.base import domain_names, several_domains
from unitrans.errors import ConfigError, user_errors
from unitrans.models import registry
from unitrans.models._weights import blocks_sharing, config_from, not_finite
from unitrans.models.channels import average_channels
from unitrans.models.files import read_config
from unitrans.models.folders import check_folder
from unitrans.models.joint.config import PARTS
from unitrans.models.recognise import configured
from unitrans.models.resize import ResizeRule, fit_shape
from unitrans.stored import read_json, verify_model
from unitrans.training.init_foreign import FINAL_NORMS, WORD_ROWS, grown_rows, init_foreign, read_foreign
from unitrans.training.init_joint import JointPart, is_joint, join_settings, leave_settings, left
from unitrans.training.init_own import as_checkpoint, own_encoder
from unitrans.training.parameters import parameters_of

WEIGHTS = "model.safetensors"
PIXEL_DECODER = ("head.decoder.weight", "head.decoder.bias")
OF_CHANNELS = ("patch_embed.proj.weight", *PIXEL_DECODER)
# Settings of an encoder that may differ between two runs without a word: the weights do not depend on them.
_FREE = {"in_chans", "image_size", "drop_rate", "attn_drop_rate", "drop_path_rate", "architectures", "dtype"}
_FREE |= {"transformers_version", "torch_dtype", "act_drop_rate", "embed_drop_rate"}
_FREE |= {"fixed_positions", "init", "pretrained_window_sizes"}


def init_folder(name: str, flag: str = "--init") -> Path:
    """The folder with the weights: a checkpoint, or the best (else the latest) checkpoint of a run.

    Raises:
        ConfigError: there is none, or its files are not as they were written.
    """
    root = Path(name).expanduser()
    for folder in (root, root / "checkpoints" / "best", root / "checkpoints" / "latest"):
        if (folder / WEIGHTS).is_file():
            verify_model(folder)
            check_folder(folder)
            return folder.resolve()
    fix = f"name a run folder or a checkpoint (RUN/checkpoints/step-N with {WEIGHTS})"
    if root.is_file():
        raise ConfigError(
            f"{flag} {name}: it is a file, expected a run of this program: start one from these weights with unitrans "
            f"train --init {name}, or {fix}"
        )
    if flag == "--init":
        fix = f"name a file of weights, a folder of transformers, or {fix[5:]}"
    what = "it holds no checkpoint" if root.is_dir() else "there is no such file or folder"
    raise ConfigError(f"{flag} {name}: {what}: {fix}")


# What a run takes from its own data and recipe, not from the model whose weights it starts with.
_OWN_SETTINGS = {"image_size", "in_chans", "drop_rate", "attn_drop_rate", "drop_path_rate", "act_drop_rate"}
_OWN_SETTINGS |= {
    "embed_drop_rate",
    "out_indices",
    "out_norm",
    "init",
    "fixed_positions",
    "pooling",
    "final_norm",
}


def model_settings(
    name: str, given: Mapping[str, Any], domain: str, image_size: Any = None
) -> dict[str, Any]:
    """The ``model`` section that weights ask for; {} where they are none that can be read (`init_weights` says why).

    Args:
        name: as in `init_weights`.
        given: the section as far as the user has set it, for what weights do not tell.
        domain: of the run, or several with commas between.
        image_size: of the data, which a model of images follows.
    """
    path, overrides = Path(name).expanduser(), {key: value for key, value in given.items() if key != "name"}
    with user_errors():
        foreign = read_foreign(path)
    if foreign is not None and several_domains(domain):
        raise ConfigError(f"--init {name}: for several domains expected a run or checkpoint of this program")
    if foreign is not None:
        theirs = read_config(path)
        if theirs is not None:
            config: Any = config_from("hf5", theirs).to_dict()
        else:
            if "image_size" in foreign[1].untold and image_size is not None:
                overrides.setdefault("image_size", image_size)
            with user_errors():
                config = configured(foreign[1], overrides, f"--init {name}", prefix="model.")[0].to_dict()
    else:
        try:
            stored = read_json(init_folder(name) / "config.json")
        except (OSError, ValueError):
            return {}
        config = (
            stored.get("encoder") if isinstance(stored, dict) and "encoder" in stored else own_encoder(stored)
        )
    if not isinstance(config, dict):
        return {}
    if several_domains(domain):
        own = {key: value for key, value in config.items() if key not in _OWN_SETTINGS}
        return _joint_settings(join_settings(own, domain_names(domain), f"--init {name}"))
    config = leave_settings(config, domain, f"--init {name}")
    family = registry.family_of(config)
    if family is None:
        return {}
    fields = parameters_of(family.config_class).model_fields
    config = config | _kept_settings(family.config_class, config, fields)
    found = {"name": family.name} | {k: config[k] for k in fields if k in config and k not in _OWN_SETTINGS}
    # What has no class token cannot be pooled by it.
    return found | ({"pooling": "mean"} if found.get("cls_token") is False else {})


def _joint_settings(section: dict[str, Any]) -> dict[str, Any]:
    """A section of a joint model without what a run takes from its own data and recipe."""
    for name in PARTS.keys() & section.keys():
        fields = parameters_of(registry.get_family(section[name]["name"]).config_class).model_fields
        section[name] = {
            key: value
            for key, value in section[name].items()
            if key == "name" or (key in fields and key not in _OWN_SETTINGS)
        }
    return section


def init_weights(model: Any, name: str) -> list[str]:
    """Fills a MaskedSignalModel with the weights of a run and returns what a person should know.

    Everything must fit, except: other input channels (patch embedding and pixel decoder are adapted), other windows
    and image sizes (tables are resized), words added to the vocabulary, another objective (its head starts afresh).
    ConfigError names what differs. Weights of other code bases are taken too; see `init_foreign`.
    """
    notes = _taken_over(model, name)
    broken = not_finite(model)
    return notes if broken is None else [*notes, broken]


def _taken_over(model: Any, name: str) -> list[str]:
    with user_errors():
        foreign = read_foreign(Path(name).expanduser())
    if foreign is not None:
        return init_foreign(model, name, *foreign)
    folder = init_folder(name)
    try:
        weights = safetensors.torch.load_file(folder / WEIGHTS)
        stored = read_json(folder / "config.json")
        if own_encoder(stored) is not None:
            stored, weights = as_checkpoint(stored, weights)
        encoder = dict(stored["encoder"])
    except (OSError, ValueError, KeyError, TypeError, SafetensorError) as error:
        raise ConfigError(
            f"--init {name}: {folder} is not a checkpoint of this program ({' '.join(str(error).split())[:200]})"
        ) from None
    config = model.config
    if is_joint(config.encoder) and not is_joint(encoder):
        part = JointPart(model, encoder, f"--init {name}")
        rest = ", ".join(other for other in model.encoder.parts if other != part.domain)
        return [
            *_taken_over(part, name),
            f"they are for {part.domain} and the blocks; {rest} start afresh",
        ]
    if is_joint(encoder) and not is_joint(config.encoder):
        stored, weights = left(stored, weights, config.encoder, f"--init {name}")
        encoder = dict(stored["encoder"])
    here = config.to_dict()
    channels = (encoder.get("in_chans", 3), config.encoder.get("in_chans", 3))
    # A decoder of Blocks starts afresh with other channels; one linear layer is adapted.
    adaptable = channels[0] == channels[1] or "head.decoder.pred.weight" not in weights
    same_head = _targets(stored) == _targets(here) and adaptable
    differences = _differences(encoder, config.encoder)
    notes = [f"weights of {folder}"]
    if not same_head:
        kept = _rows_of_classes(model, weights, stored)
        afresh = "the head starts afresh" + (f", but for the {kept} classes of both" if kept else "")
        notes.append(f"{_head_name(stored)} there, {_head_name(here)} here: {afresh}")
        weights = {key: tensor for key, tensor in weights.items() if not key.startswith("head.")}
    own = {key: p for key, p in model.state_dict().items() if same_head or not key.startswith("head.")}
    weights, more = _regrouped(weights, own)
    notes += more
    own = {key: p for key, p in own.items() if key in weights or not key.startswith(FINAL_NORMS)}
    # What was pretrained by hiding parts of images is resized as SimMIM and BEiT do.
    rule: ResizeRule = stored.get("resize") or ("geometric" if not stored.get("labels") else "bicubic")
    fit = functools.partial(
        _fit, channels=channels, rule=rule, grid=getattr(config.encoder_config, "grid", None)
    )
    fitted = {key: fit(key, weights[key], own[key].shape) for key in own.keys() & weights.keys()}
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
    notes += _other_units(encoder, config.encoder_config)
    if channels[0] != channels[1]:
        notes.append(
            f"patch embedding adapted from {channels[0]} to {channels[1]} channels (filters repeated or summed, scaled)"
            + ("; the pixel decoder predicts the mean of the old channels in each" if same_head else "")
        )
    with torch.no_grad():
        for key, tensor in fitted.items():
            assert tensor is not None
            if tensor.shape != weights[key].shape and not key.endswith(OF_CHANNELS):
                notes.append(f"{key} resized from {list(weights[key].shape)} to {list(tensor.shape)}")
            own[key].copy_(tensor)
    return notes


def _rows_of_classes(model: Any, weights: Mapping[str, Tensor], stored: Mapping[str, Any]) -> int:
    """Copies the rows of a linear classifier whose classes are called alike there and here; how many those are."""
    there, here = stored.get("labels") or {}, model.config.labels or {}
    layer = getattr(model.head, "linear", None)
    if there.get("kind") != "class" or here.get("kind") != "class" or layer is None:
        return 0
    place = {str(name): number for number, name in enumerate(there["names"])}
    pairs = [(n, place[str(name)]) for n, name in enumerate(here["names"]) if str(name) in place]
    old = weights.get("head.linear.weight")
    if not pairs or old is None or old.shape[1] != layer.weight.shape[1]:
        return 0
    rows, sources = (list(part) for part in zip(*pairs, strict=True))
    with torch.no_grad():
        layer.weight[rows] = old[sources].to(layer.weight.dtype)
        layer.bias[rows] = weights["head.linear.bias"][sources].to(layer.bias.dtype)
    return len(pairs)


def _targets(config: dict[str, Any]) -> tuple[Any, ...]:
    """What the head of a model predicts; heads that predict the same fit each other."""
    labels = config.get("labels") or {}
    return config.get("objective"), labels.get("kind"), [str(name) for name in labels.get("names", ())]


def _head_name(config: dict[str, Any]) -> str:
    """The same in words."""
    labels = config.get("labels")
    if not labels:
        return f"objective {config.get('objective')}"
    names = [str(name) for name in labels["names"]]
    shown = ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")
    return f"objective {config.get('objective')} of {len(names):,} {labels['kind']} labels ({shown})"


def _regrouped(weights: dict[str, Tensor], own: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], list[str]]:
    """The weights as this model holds them, and notes: a shared table in every block, another final norm left out."""
    found: dict[str, Tensor] = {}
    notes = []
    for key, tensor in weights.items():
        copies = [] if key in own else blocks_sharing(key, own)
        found |= dict.fromkeys(copies or [key], tensor)
        if copies:
            notes.append(f"{key} copied into {len(copies)} blocks")
    other = [key for key in found if key.startswith(FINAL_NORMS) and key not in own]
    if other:
        notes.append(
            f"the final norm starts afresh: model.final_norm is not that of the weights ({other[0]})"
        )
    return {key: tensor for key, tensor in found.items() if key not in other}, notes


def _other_units(there: dict[str, Any], here: Any) -> list[str]:
    """Notes where the model would measure offsets by other windows than the weights were trained with."""
    if there.get("model_type") != here.model_type:
        return []
    kept = _kept_settings(type(here), there, there.keys() - {"model_type"})
    own = here.kept_settings() if kept else {}
    return [
        "the weights were trained with other windows: their position biases are kept with "
        f"model.{name}={json.dumps(value, separators=(',', ':'))}"
        for name, value in kept.items()
        if value != own[name]
    ]


def _kept_settings(cls: Any, stored: Mapping[str, Any], fields: Collection[str]) -> dict[str, Any]:
    """What weights of this stored configuration are to be read with whatever the data are; see `keep_measure`."""
    if not hasattr(cls, "kept_settings"):
        return {}
    return dict(cls(**{key: value for key, value in stored.items() if key in fields}).kept_settings())


def _fit(
    key: str,
    tensor: Tensor,
    shape: torch.Size,
    *,
    channels: tuple[int, int],
    rule: ResizeRule,
    grid: tuple[int, int] | None,
) -> Tensor | None:
    """The tensor in this shape; None if it cannot be had."""
    if not tensor.is_floating_point():
        return None
    old, new = channels
    if tensor.shape == shape:
        return tensor
    if key in PIXEL_DECODER and old != new:
        if tensor.shape[0] % old:
            return None
        tensor = average_channels(tensor, old, new)
        return tensor if tensor.shape == shape else None
    if key.endswith(WORD_ROWS):
        return grown_rows(tensor, shape)
    return fit_shape(key, tensor, shape, rule, grid)


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
