"""Predicting rows of a table with a checkpoint, or with several: what ``unitrans predict`` does."""

from __future__ import annotations

import csv
import itertools
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, TextIO

import numpy as np
import torch
from torch.utils import _pytree as pytree
from transformers.utils import logging as transformers_logging

from unitrans.domains.base import Sample, get_domain, get_domain_names
from unitrans.errors import ConfigError, user_errors
from unitrans.objectives import MaskedSignalModel
from unitrans.objectives.answers import answers, choose
from unitrans.objectives.base import Labels
from unitrans.stored import read_json
from unitrans.training.init import init_folder
from unitrans.training.loading import load_run
from unitrans.use.published import Published, is_published, published
from unitrans.use.rows import ReadRow, Record, opened, samples_of
from unitrans.use.whole import writing

ENSEMBLE_FILE = "ensemble.json"


class _Reading(dict[str, Any]):
    """How samples are read, as a config.json has it. ConfigError for what it lacks."""

    def __missing__(self, name: str) -> Any:
        raise ConfigError(
            f"{self['folder']}/config.json: reading: expected {name} in it, got none; use another one"
        )


class Trained:
    """One checkpoint, or the members of an ensemble, and the domain that reads samples for them.

    Args:
        name: a run folder, a checkpoint, or the folder of an ensemble; weights of images of other origin too, which say
            nothing about labels.
        complete: refuse an ensemble that is not trained to its end.
        files: where files start that tables name; None: in the folder of the table.
        image_size: height and width of images in pixels; None: that of training. Tables of positions are resized.

    Raises:
        ConfigError: no such checkpoint or folder, or one that does not say how samples are read.
    """

    def __init__(
        self, name: str, *, complete: bool = True, files: str | None = None, image_size: int | None = None
    ) -> None:
        root = Path(name).expanduser()
        self.calibration: dict[str, Any] | None = None
        members = [name]
        if (root / ENSEMBLE_FILE).is_file():
            record = read_json(root / ENSEMBLE_FILE)
            members = [str(root / member) for member in record["members"]]
            self.calibration = record["targets"] or None  # none where nothing was held out
            if complete and record["targets"] is None:
                raise ConfigError(
                    f"--checkpoint {name}: this ensemble is not trained to its end: unitrans train --resume {name}"
                )
        self.notes: list[str] = []  # what a person should know
        if is_published(root):
            model, note = published(name, image_size)
            self.models: list[Any] = [model]
            self.notes.append(note)
        else:
            self.models = [load_model(member) for member in members]
        stored = self.models[0].config.reading
        if stored is None:
            raise ConfigError(
                f"--checkpoint {name}: it does not say how samples are read, as only checkpoints of unitrans train do"
            )
        if "domain" not in stored:
            names = [name for name in get_domain_names() if name in stored]
            raise ConfigError(
                f"--checkpoint {name}: it is a model of several domains ({', '.join(names)}); fine-tune it on one of "
                f"them first: unitrans train --domain {names[0]} --init {name} ..."
            )
        # A domain may keep more beside the checkpoints, such as a tokenizer.
        held = root if self.notes else init_folder(members[0], flag="--checkpoint")
        self.reading: dict[str, Any] = _Reading(stored | {"folder": str(held)})
        if files is not None:
            if not Path(files).expanduser().is_dir():
                raise ConfigError(f"--image-folder {files}: there is no such folder")
            self.reading["files"] = str(Path(files).expanduser())
        with user_errors():
            self.domain: Any = get_domain(self.reading["domain"])
        if image_size is not None:
            self._see(image_size, [] if self.notes else members)

    def _see(self, image_size: int, members: Sequence[str]) -> None:
        """Reads images in another size, and makes the models of these runs again for it."""
        if "image_size" not in self.domain.DataConfig.model_fields:
            raise ConfigError(f"--image-size: expected a model of images, got one of {self.domain.name}")
        patch = self.models[0].config.encoder_config.patch_size
        if image_size % patch:
            raise ConfigError(
                f"--image-size: expected a multiple of the patch size {patch}, got {image_size}"
            )
        self.reading["image_size"] = image_size
        for place, member in enumerate(members):
            device = next(self.models[place].parameters()).device
            with user_errors():
                other = load_run(Path(member).expanduser(), {"image_size": image_size})
            self.models[place] = other.eval().to(device)

    @property
    def model_config(self) -> Any:
        """The configuration of the encoder."""
        return self.models[0].config.encoder_config

    def batch(self, samples: Sequence[Sample]) -> Any:
        """Samples as a batch where the model is."""
        batch = self.domain.collate(samples, self.model_config)
        device = next(self.models[0].parameters()).device
        return pytree.tree_map_only(torch.Tensor, lambda tensor: tensor.to(device), batch)

    @torch.no_grad()
    def embeddings(self, samples: Sequence[Sample]) -> np.ndarray:
        """The pooled row of every sample, float32 [samples, C]; of an ensemble that of its first member."""
        encoder: Any = self.models[0].encoder
        batch = self.batch(samples)
        inputs = {key: value for key, value in batch.items() if key in encoder.input_names}
        return np.asarray(encoder.pool(encoder.features(**inputs), inputs["plans"]).float().cpu().numpy())


class Predictor(Trained):
    """The same of models that predict labels.

    Args:
        classes: of published weights, a file with the names of the classes; None: as config.json has them.

    Raises:
        ConfigError: a model that predicts none, too.
    """

    def __init__(
        self,
        name: str,
        *,
        complete: bool = True,
        files: str | None = None,
        image_size: int | None = None,
        classes: str | None = None,
    ) -> None:
        super().__init__(name, complete=complete, files=files, image_size=image_size)
        if isinstance(self.models[0], Published):
            self.labels = self.models[0].labels(classes)
            return
        config = self.models[0].config
        if config.labels is None:
            raise ConfigError(
                f"--checkpoint {name}: a model of objective {config.objective} predicts no labels; fine-tune it first: "
                f"unitrans train --domain {self.domain.name} --objective classification --init {name} ..."
            )
        if classes is not None:
            raise ConfigError(f"--classes {classes}: --checkpoint {name} knows its classes: leave it out")
        self.labels = Labels.from_dict(config.labels)

    @torch.no_grad()
    def outputs(self, samples: Sequence[Sample]) -> np.ndarray:
        """What the heads say, float64 [members, samples, K]."""
        batch = self.batch(samples)
        outputs = []
        for model in self.models:
            keys = model.batch_keys() - {"labels"}
            inputs = {key: value for key, value in batch.items() if key in keys}
            outputs.append(model(**inputs).prediction.double().cpu().numpy())
        return np.stack(outputs)

    def columns(self) -> list[str]:
        """Names of what `values` gives."""
        if self.labels.kind == "class":
            target = (self.reading.get("targets") or ["class"])[0]
            return [target, *(f"{target}_p_{name}" for name in self.labels.names)]
        names = []
        for name in self.labels.names:
            names.append(name)
            if len(self.models) > 1:
                names.append(f"{name}_sd")
                if self.labels.kind == "value" and self.calibration is not None:
                    names += [f"{name}_low", f"{name}_high"]
        return names

    def values(self, outputs: np.ndarray) -> list[Record]:
        """Of every sample what `columns` names: numbers in the units of the training data with the spread of the
        members and an interval, probabilities of yes, or a class and the probabilities of all."""
        labels, said = self.labels, answers(self.labels, outputs)
        mean = said.mean(0)
        if labels.kind == "class":
            names = self.columns()
            return [dict(zip(names, [choose(labels, row).name, *row.tolist()], strict=True)) for row in mean]
        spread = said.std(0, ddof=1) if len(said) > 1 else None
        rows = []
        for index in range(mean.shape[0]):
            row: Record = {}
            for k, name in enumerate(labels.names):
                row[name] = float(mean[index, k])
                if spread is not None:
                    row[f"{name}_sd"] = float(spread[index, k])
                    if labels.kind == "value" and self.calibration is not None:
                        half = half_width(self.calibration[name], spread[index, k])
                        row |= {f"{name}_low": row[name] - half, f"{name}_high": row[name] + half}
            rows.append(row)
        return rows


def half_width(calibration: Mapping[str, float], spread: Any) -> Any:
    """Half of the 90 % interval of a prediction on which the members spread so much; see ``train.ensemble``."""
    return calibration["factor"] * np.sqrt(np.square(spread) + calibration["floor"] ** 2)


def load_model(name: str) -> MaskedSignalModel:
    """The model of a run (its best checkpoint) or checkpoint, in evaluation mode, on a GPU where there is one."""
    folder = init_folder(name, flag="--checkpoint")
    transformers_logging.disable_progress_bar()
    with user_errors():
        model = MaskedSignalModel.from_pretrained(folder)
    return model.eval().to("cuda" if torch.cuda.is_available() else "cpu")


def answer(checkpoint: str, question: str, text: str, options: Mapping[str, Any]) -> Iterator[str]:
    """Lines that answer one question about a text, of a domain that knows such questions (``Domain.questions``).

    Args:
        checkpoint: a run folder or a checkpoint.
        question: its name, as fill_mask.
        text: what it is about.
        options: numbers that belong to it; see the domain.
    """
    model, folder = load_model(checkpoint), init_folder(checkpoint, flag="--checkpoint")
    family = str(model.config.encoder_config.model_type).removeprefix("unitrans-")
    domains = model.objective.domains if model.config.reading is None else (model.config.reading["domain"],)
    with user_errors():
        known = get_domain(domains[0]).questions if len(domains) == 1 else {}
        if question not in known:
            raise ConfigError(
                f"--{question.replace('_', '-')}: expected a text model, --checkpoint {checkpoint} is a {family}"
            )
        yield from known[question](model, folder, text, options)


def predict(
    checkpoint: str,
    inputs: Sequence[str],
    output: str | None,
    *,
    batch_size: int,
    column: str | None,
    stdin: TextIO,
    stdout: TextIO,
    say: Callable[[str], None],
    files: str | None = None,
    image_size: int | None = None,
    classes: str | None = None,
) -> int:
    """Predicts row by row, in their order, and writes the rows with the predictions as they come.

    Args:
        checkpoint: see `Predictor`.
        inputs: see `rows.opened`.
        output: a file; None for stdout. It is JSON lines where the input is, or where its name ends in .jsonl.
        batch_size: rows that are read before they are predicted together.
        column: see ``Domain.record_reader``.
        say: where a sentence goes.
        files, image_size: see `Trained`. classes: see `Predictor`.

    Returns:
        How many rows could not be predicted; their predictions are empty and their `error` says why.
    """
    predictor = Predictor(checkpoint, files=files, image_size=image_size, classes=classes)
    for note in predictor.notes:
        say(note)
    with ExitStack() as stack:
        table, read = opened(
            predictor.domain, predictor.reading, inputs, column, stdin, predictor.model_config
        )
        records = table.rows()
        stack.enter_context(writing("the output" if output is None else f"--output {output}"))
        out = (
            stdout if output is None else stack.enter_context(open(output, "w", encoding="utf-8", newline=""))
        )
        as_json = (output or "").endswith(".jsonl") or (
            table.kind == "json" and not (output or "").endswith(".csv")
        )
        warning = ["warning"] if predictor.domain.warns else []
        write = _writer(out, table.names, [*predictor.columns(), *warning, "error"], as_json)
        total = failed = warned = 0
        while chunk := list(itertools.islice(records, batch_size)):
            for record, predicted in zip(chunk, _predicted(predictor, read, chunk), strict=True):
                write({} if isinstance(record, str) else record, predicted)
                failed += bool(predicted["error"])
                warned += bool(predicted.get("warning"))
            total += len(chunk)
            out.flush()
    if warned:
        say(f"{warned:,} of {total:,} predictions are doubtful: the column warning says why")
    if failed:
        say(f"{failed:,} of {total:,} rows could not be predicted: the column error says why")
    return failed


def _predicted(predictor: Predictor, read: ReadRow, chunk: Sequence[Record | str]) -> list[Record]:
    """The predictions of a chunk, or why there are none."""
    good, places, reasons = samples_of(chunk, read)
    results: list[Record] = [{"error": reason} for reason in reasons]
    if good:
        rows = predictor.values(predictor.outputs(good))
        for place, values, sample in zip(places, rows, good, strict=True):
            results[place] = values | {"warning": sample.get("warning", ""), "error": ""}
    return results


def _writer(
    out: TextIO, given: Sequence[str], added: Sequence[str], as_json: bool
) -> Callable[[Record, Record], None]:
    """Writes a row with its predictions. A column of the input that is called like a prediction becomes NAME_given."""
    renamed = {name: f"{name}_given" if name in added else name for name in given}
    if as_json:

        def write_json(record: Record, predicted: Record) -> None:
            kept = {
                renamed.get(name, f"{name}_given" if name in added else name): v for name, v in record.items()
            }
            values = {name: predicted.get(name) for name in added}
            values |= {name: values[name] or None for name in ("warning", "error") if name in values}
            out.write(json.dumps(kept | values, ensure_ascii=False, default=str) + "\n")

        return write_json
    writer: csv.DictWriter[str] = csv.DictWriter(
        out, [*renamed.values(), *added], restval="", lineterminator="\n", extrasaction="ignore"
    )
    writer.writeheader()

    def write_csv(record: Record, predicted: Record) -> None:
        writer.writerow({renamed.get(name, name): value for name, value in record.items()} | predicted)

    return write_csv
