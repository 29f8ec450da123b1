"""What ``unitrans convert`` does: a run or a model folder in, a folder or file of another code base out."""

from __future__ import annotations

import importlib
import shutil
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from transformers.utils import logging as transformers_logging

from unitrans.domains.text.tokenizer import has_tokenizer, load_tokenizer
from unitrans.domains.vision.processor import PROCESSOR_FILE, processor_of
from unitrans.errors import ConfigError
from unitrans.models import registry
from unitrans.models._encoder import encoder_prefix
from unitrans.models._weights import Format, config_from, export_weights, format_of, formats, layout_for
from unitrans.models.files import FILE_SUFFIXES, read_config, read_file, save_hf
from unitrans.models.recognise import recognise
from unitrans.objectives import MaskedSignalModel
from unitrans.stored import read_json
from unitrans.training.checkpoint import write_tensors
from unitrans.training.init import init_folder
from unitrans.training.loading import PRETRAINED, encoder_of, is_run, load, load_state
from unitrans.training.runs import write_json
from unitrans.use.compare import check_same, random_input
from unitrans.use.whole import writing, written_whole

#: Layouts whose published files of torch.save have the weights under the key model.
_UNDER_MODEL = ("official", "mae", "v1", "v2")


def convert(
    source: str,
    target: str,
    output: Path,
    *,
    layout: str = "auto",
    encoder_only: bool = False,
    lenient: bool = False,
    class_map: Sequence[int] | None = None,
    overrides: Mapping[str, Any] | None = None,
) -> list[str]:
    """Writes a model in the layout of another code base; returns sentences about what was written.

    It is read again as that code base reads it, and compared with the model on a random input; where it says something
    else, or cannot be read, nothing stays behind.

    Args:
        source: what `unitrans.load` takes: a run, a checkpoint, a folder or file of weights, a name on the hub.
        target: "unitrans" or "hf" (a folder), "official", "timm", "v1" or "v2" (a file, whose ending says what it is:
            .safetensors, or .pth, .pt, .bin or .ckpt for torch.save).
        output: absent, or an empty folder.
        layout: of the source; see `unitrans.load`.
        encoder_only: leave the head out.
        lenient: what does not fit is listed instead of refused.
        class_map, overrides: see `unitrans.load`.

    Raises:
        ValueError: a source that is neither, or a model that the other code base cannot compute.
    """
    path = Path(source).expanduser()
    run = not path.is_file() and read_config(path) is None and is_run(path)
    if run and target == "unitrans":
        raise ConfigError(f"{source} is a model of this program already")
    if not run and target == "hf" and read_config(path) is not None:
        raise ConfigError(f"{source} is a folder of transformers already")
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        model = load(source, layout, strict=not lenient, class_map=class_map, **(overrides or {}))
    lines = [str(w.message) for w in caught if str(w.message).startswith("weights that do not fit")]
    lines.append(
        f"read {source}: {type(model).__name__}, {sum(p.numel() for p in model.parameters()):,} parameters"
    )
    whole = model if not encoder_only else encoder_of(model)
    folder = init_folder(source) if run else path
    if target == "unitrans":
        with written_whole(output) as place:
            with writing(output):
                whole.save_pretrained(place)
                told = _tokenizer(folder, place)
            check_same("--to unitrans", whole, random_input(whole), lambda: load(place))
        return [*lines, *told, f"wrote {type(whole).__name__} to {output}"]
    if target == "hf":
        reading = getattr(model.config, "reading", None)
        return [*lines, *_to_hf(whole, folder, output, reading)]
    return [*lines, _to_file(whole, target, output)]


# ---- files of weights -----------------------------------------------------------------------------------------


def _to_file(model: Any, target: str, output: Path) -> str:
    layout_for(model, target)
    given = random_input(model)
    written, target = _of_family(model, target)
    weights = {name: tensor.contiguous() for name, tensor in export_weights(written, target).items()}
    if output.is_dir():
        output = output / "model.safetensors"
    if output.suffix not in FILE_SUFFIXES:
        raise ConfigError(
            f"{output}: expected a file whose ending says what it is, one of {', '.join(FILE_SUFFIXES)}, got "
            f"{output.suffix or 'none'}"
        )
    with written_whole(output) as place:
        with writing(output):
            _save(weights, target, place)
        config = getattr(written.config, "encoder_config", written.config)
        with _opens(target, target):
            other = _read_again(read_file(place), target, written, config)
        theirs = getattr(other.config, "encoder_config", other.config)
        check_same(f"--to {target}", model, given, lambda: other, _differences(config, theirs, target))
    return f"wrote {len(weights)} tensors under {target} names to {output}"


def _save(weights: Mapping[str, torch.Tensor], target: str, place: Path) -> None:
    if place.suffix == ".safetensors":
        safetensors.torch.save_file(dict(weights), place, metadata={"format": "pt"})
    else:
        write_tensors({"model": dict(weights)} if target in _UNDER_MODEL else dict(weights), place)


def _of_family(model: Any, target: str) -> tuple[Any, str]:
    """A model as other code bases have it, and the name of the layout: a run that classifies is the classifier of its
    family, MAE has its own names."""
    if not isinstance(model, MaskedSignalModel):
        return model, target
    name, config = model.objective.name, model.encoder.config
    if name in PRETRAINED.values():
        return model, "mae" if target == "official" and name == "mae" else target
    classes = format_of(config).classes
    if name != "classification" or "classifier" not in classes:
        raise ConfigError(
            f"--to {target}: it has no {format_of(config).name} with a head for objective {name}: add --encoder to "
            "write the encoder alone"
        )
    fields = config.to_dict() | _labels(model.objective.labels, name)
    plain = registry.resolve(classes["classifier"])(type(config)(**fields))
    getattr(plain, encoder_prefix(plain).removesuffix(".")).load_state_dict(model.encoder.state_dict())
    head: Any = model.head
    plain.head.load_state_dict(head.linear.state_dict())
    return plain.eval(), target


def _read_again(weights: Mapping[str, Any], target: str, written: Any, config: Any) -> Any:
    """The model of these weights as their code base makes it from the arguments that it has."""
    found = recognise(weights, target)
    format: Format = formats()[found.family]
    base = format.configured_as.get(target, target)
    told = {*format.names.get(base, {}).values(), *found.untold} - {"num_labels"}
    settings = {name: getattr(config, name) for name in told if hasattr(config, name)}
    if isinstance(written, MaskedSignalModel):
        settings |= written.objective.options.model_dump()
    return load_state(weights, target, what="what was written", **settings)[0].eval()


def _differences(config: Any, other: Any, target: str) -> Iterator[str]:
    """Settings in which the models of another code base are not this one."""
    left_out = {
        "model_type",
        "architectures",
        "id2label",
        "label2id",
        "transformers_version",
        "dtype",
        "init",
    }
    ours, theirs = config.to_dict(), other.to_dict()
    for name, value in ours.items():
        same = theirs.get(name) == value or "drop" in name or name in left_out
        if not same and list(_as_list(value)) != list(_as_list(theirs.get(name))):
            yield f"{name} is {value} here and {theirs.get(name)} in {target}"


def _as_list(value: Any) -> Any:
    return value if isinstance(value, (list, tuple)) else [value]


@contextmanager
def _opens(target: str, name: str) -> Iterator[None]:
    """What reading raises, as one sentence."""
    try:
        yield
    except Exception as error:  # whatever transformers and our own loader raise
        reason = " ".join(str(error).split())[:300]
        raise ConfigError(
            f"--to {target}: {name} does not open this model, so nothing is kept ({reason})"
        ) from None


# ---- folders of transformers ----------------------------------------------------------------------------------


def _to_hf(model: Any, folder: Path, output: Path, reading: Mapping[str, Any] | None) -> list[str]:
    config = getattr(model.config, "encoder_config", model.config)
    format = format_of(config)
    if format.hub is None:
        known = ", ".join(each.name for each in formats().values() if each.hub is not None)
        raise ConfigError(f"--to hf: there is no layout for {format.name}: expected one of {known}")
    name, tensors, fields = _as_theirs(model, config, format)
    notes: list[str] = []
    with written_whole(output) as place:
        with writing(output):
            save_hf(place, model, config, name, tensors=tensors, **fields)
            notes += _tokenizer(folder, place)
            if reading is not None and reading.get("domain") == "vision":
                processor, told = processor_of(reading)
                write_json(place / PROCESSOR_FILE, processor)
                notes += told
            elif (folder / PROCESSOR_FILE).is_file():
                shutil.copyfile(folder / PROCESSOR_FILE, place / PROCESSOR_FILE)
        theirs = read_json(place / "config.json")
        with _opens("hf", "transformers"):
            other = _from_pretrained(name, place)
        check_same(
            "--to hf", model, random_input(model), lambda: other,
            _differences(config, config_from("hf5", theirs), "transformers"),
        )  # fmt: skip
    return [*notes, f"wrote {name} to {output}: transformers opens it by from_pretrained"]


def _as_theirs(model: Any, config: Any, format: Format) -> tuple[str, dict[str, Any] | None, dict[str, Any]]:
    """The name of their class, the tensors by our names (None: those of the model) and more of their config.json."""
    hub = format.hub
    assert hub is not None
    if not isinstance(model, MaskedSignalModel):
        found = next((n for n, cls in hub.classes.items() if registry.resolve(cls) is type(model)), None)
        if found is None:
            raise ConfigError(f"--to hf: transformers has no {format.name} like a {type(model).__name__}")
        return found, None, _own_labels(model)
    objective = model.objective
    name = hub.heads.get(objective.name)
    if name is None:
        raise ConfigError(
            f"--to hf: transformers has no {format.name} with a head for objective {objective.name}: add --encoder to "
            "write the encoder alone"
        )
    more = hub.objective_fields(name, config, objective)
    for option, what in (("decoder_depth", "decoder of Blocks"), ("norm_target", "normalised targets")):
        if objective.name == "mim" and getattr(objective.options, option, None):
            raise ConfigError(f"--to hf: {name} has no {what}: add --encoder to write the encoder alone")
    if objective.name == "regression":
        _in_units(model)
    # A layer of ours for all domains; theirs is named per class.
    tensors = {n.replace("head.linear.", "head."): p.detach() for n, p in model.named_parameters()}
    return name, tensors, _labels(objective.labels, objective.name) | more


def _in_units(model: Any) -> None:
    """Lets the last layer say numbers in the units of the data, as nothing there knows their mean and deviation."""
    layer, labels = model.head.linear, model.objective.labels
    std, mean = torch.tensor(labels.std), torch.tensor(labels.mean)
    with torch.no_grad():
        layer.weight.mul_(std[:, None])
        layer.bias.mul_(std).add_(mean)


def _from_pretrained(name: str, folder: Path) -> Any:
    """The model that transformers opens. ValueError for a tensor that has another size there."""
    verbosity = transformers_logging.get_verbosity()
    transformers_logging.set_verbosity_error()
    try:
        model, info = getattr(importlib.import_module("transformers"), name).from_pretrained(
            folder, output_loading_info=True, ignore_mismatched_sizes=True
        )
    finally:
        transformers_logging.set_verbosity(verbosity)
    for tensor, here, there in sorted(info["mismatched_keys"])[:1]:
        raise ValueError(f"{tensor} is {list(here)} here and {list(there)} in its {name}")
    return model.eval()


def _labels(labels: Any, objective: str) -> dict[str, Any]:
    if labels is None:
        return {}
    fields = _named(dict(enumerate(labels.names)))
    if objective == "regression":
        fields["problem_type"] = "regression"
    elif labels.kind == "multi":
        fields["problem_type"] = "multi_label_classification"
    return fields


def _own_labels(model: Any) -> dict[str, Any]:
    """The classes of a classifier that is no run, by the names that its configuration has for them."""
    if "Classification" not in type(model).__name__ or getattr(model, "head", None) is None:
        return {}
    given = getattr(model.config, "id2label", None) or {}
    count = int(model.config.num_labels)
    return _named({number: str(given.get(number, f"LABEL_{number}")) for number in range(count)})


def _named(names: Mapping[int, str]) -> dict[str, Any]:
    return {
        "id2label": {str(number): name for number, name in names.items()},
        "label2id": {name: number for number, name in names.items()},
        "num_labels": len(names),
    }


def _tokenizer(source: Path, output: Path) -> list[str]:
    """Copies the tokenizer of a run or folder, if there is one."""
    holder = next((p for p in (source.resolve(), *source.resolve().parents[:2]) if has_tokenizer(p)), None)
    if holder is None:
        return []
    load_tokenizer(str(holder)).save(output)
    return [f"copied the tokenizer of {holder}"]
