"""What ``unitrans convert`` does: a run or a model folder in, a folder or file of another code base out."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import safetensors.torch

from unitrans.domains.text.tokenizer import has_tokenizer, load_tokenizer
from unitrans.errors import ConfigError
from unitrans.models import registry
from unitrans.models._weights import export_weights, format_of, formats
from unitrans.models.files import read_config, save_hf
from unitrans.objectives import MaskedSignalModel
from unitrans.training.init import init_folder
from unitrans.training.loading import encoder_of, is_run, load


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

    Args:
        source: what `unitrans.load` takes: a run, a checkpoint, a folder or file of weights, a name on the hub.
        target: "unitrans" or "hf" (a folder), "official", "timm", "v1" or "v2" (a file).
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
    whole = not encoder_only
    if target == "unitrans":
        output.mkdir(parents=True, exist_ok=True)
        written = model if whole else encoder_of(model)
        written.save_pretrained(output)
        return [*lines, *_tokenizer(path, output), f"wrote {type(written).__name__} to {output}"]
    if target != "hf":
        objective: Any = getattr(model, "objective", None)
        if target == "official" and getattr(objective, "name", "") == "mae" and whole:
            target = "mae"
        return [*lines, _write_file(model if whole else encoder_of(model), target, output)]
    if isinstance(model, MaskedSignalModel):
        return [*lines, *_to_hf(model, init_folder(source) if run else path, output, encoder_only)]
    written = model if whole else encoder_of(model)
    config = getattr(model.config, "encoder_config", model.config)
    format = format_of(config)
    theirs = {} if format.hub is None else format.hub.classes
    name = next((n for n, cls in theirs.items() if registry.resolve(cls) is type(written)), None)
    if name is None:
        raise ConfigError(f"--to hf: transformers has no {format.name} like a {type(written).__name__}")
    save_hf(output, written, config, name, **_own_labels(written))
    return [
        *lines,
        *_tokenizer(path, output),
        f"wrote {name} to {output}: transformers opens it by from_pretrained",
    ]


def _write_file(model: Any, target: str, output: Path) -> str:
    weights = {name: tensor.contiguous() for name, tensor in export_weights(model, target).items()}
    if output.is_dir():
        output = output / "model.safetensors"
    output.parent.mkdir(parents=True, exist_ok=True)
    safetensors.torch.save_file(weights, output, metadata={"format": "pt"})
    return f"wrote {len(weights)} tensors under {target} names to {output}"


def _to_hf(model: MaskedSignalModel, folder: Path, output: Path, encoder_only: bool) -> list[str]:
    config, objective = model.encoder.config, model.objective
    format = format_of(config)
    if format.hub is None:
        known = ", ".join(each.name for each in formats().values() if each.hub is not None)
        raise ConfigError(f"--to hf: there is no layout for {format.name}: expected one of {known}")
    bare = next(iter(format.hub.model_types.values()))
    name = None if encoder_only else format.hub.heads.get(objective.name)
    if name is None and not encoder_only:
        raise ConfigError(
            f"--to hf: transformers has no {format.name} with a head for objective {objective.name}: add --encoder to "
            "write the encoder alone"
        )
    more = {} if name is None else format.hub.objective_fields(name, config, objective)
    if objective.name == "mim" and getattr(objective, "decoder_depth", None):
        raise ConfigError(
            f"--to hf: {name} has no decoder of Blocks: add --encoder to write the encoder alone"
        )
    if objective.name == "mim" and getattr(objective.options, "norm_target", False):
        raise ConfigError(
            f"--to hf: {name} has no normalised targets: add --encoder to write the encoder alone"
        )
    fields = _labels(objective.labels, objective.name) | more
    if name is None:
        save_hf(output, model.encoder, config, bare, **fields)
    else:
        # A layer of ours for all domains; theirs is named per class.
        tensors = {n.replace("head.linear.", "head."): p.detach() for n, p in model.named_parameters()}
        save_hf(output, model, config, name, tensors=tensors, **fields)
    lines = _tokenizer(folder, output)
    return [*lines, f"wrote {name or bare} to {output}: transformers opens it by from_pretrained"]


def _labels(labels: Any, objective: str) -> dict[str, Any]:
    if labels is None:
        return {}
    names = dict(enumerate(labels.names))
    fields: dict[str, Any] = {
        "id2label": {str(number): name for number, name in names.items()},
        "label2id": {name: number for number, name in names.items()},
        "num_labels": len(names),
    }
    if objective == "regression":
        fields["problem_type"] = "regression"
    return fields


def _own_labels(model: Any) -> dict[str, Any]:
    """The classes of a classifier that is no run, by the names that its configuration has for them."""
    head = getattr(model, "head", None)
    if "Classification" not in type(model).__name__ or head is None:
        return {}
    given = getattr(model.config, "id2label", None) or {}
    count = int(model.config.num_labels)
    names = {number: str(given.get(number, f"LABEL_{number}")) for number in range(count)}
    return {
        "id2label": {str(number): name for number, name in names.items()},
        "label2id": {name: number for number, name in names.items()},
        "num_labels": count,
    }


def _tokenizer(source: Path, output: Path) -> list[str]:
    """Copies the tokenizer of a run or folder, if there is one."""
    holder = next((p for p in (source.resolve(), *source.resolve().parents[:2]) if has_tokenizer(p)), None)
    if holder is None:
        return []
    load_tokenizer(str(holder)).save(output)
    return [f"copied the tokenizer of {holder}"]
