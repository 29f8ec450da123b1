"""Predicting rows of a table with a checkpoint, or with several: what ``unitrans predict`` does."""

from __future__ import annotations

import csv
import itertools
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

import numpy as np
import torch
from torch.utils import _pytree as pytree
from transformers.utils import logging as transformers_logging

from unitrans.domains.base import Sample, get_domain
from unitrans.domains.rows import open_text, table_lines
from unitrans.objectives import MaskedSignalModel
from unitrans.objectives.base import Labels
from unitrans.train import checkpoint as ckpt
from unitrans.train.errors import ConfigError, user_errors
from unitrans.train.init import init_folder

ENSEMBLE_FILE = "ensemble.json"
Record = dict[str, Any]


@dataclass(frozen=True)
class Table:
    """Rows as they come, one after the other.

    names: their columns. records: the rows; a row that is no row is a sentence. kind: csv or jsonl.
    """

    names: list[str]
    records: Iterator[Record | str]
    kind: str


def read_table(file: TextIO, name: str, domain: Any) -> Table:
    """JSON lines, a table with a header, or one SMILES or text a line.

    What has no suffix (standard input) is told by its first line; see ``Predicts.line_kind``.

    Raises:
        ConfigError: nothing came.
    """
    first = file.readline()
    while first and not first.strip():
        first = file.readline()
    if not first:
        raise ConfigError(f"{name}: expected rows to predict, got nothing")
    first = first.removeprefix("\ufeff")
    lines = itertools.chain([first], file)
    kind = "" if Path(name).suffix else domain.line_kind(first)
    if first.lstrip().startswith("{") and (kind != "text" or isinstance(_json_record(first), dict)):
        return _json_lines(lines, first)
    if kind == "text":
        return Table(["text"], ({"text": line.rstrip("\n")} for line in lines if line.strip()), "csv")
    rows = table_lines(_Lines(lines), f"{name}.{kind}" if kind else name, None)
    names = next(rows)

    def records() -> Iterator[Record | str]:
        for row in rows:
            if len(row) == len(names):
                yield dict(zip(names, row, strict=True))
            else:
                yield f"the row has {len(row)} cells, the header has {len(names)}"

    return Table(names, records(), "csv")


class _Lines:
    """Lines as a file that is read by lines."""

    def __init__(self, lines: Iterator[str]) -> None:
        self.lines = lines

    def readline(self) -> str:
        return next(self.lines, "")

    def __iter__(self) -> Iterator[str]:
        return self.lines


def _json_lines(lines: Iterable[str], first: str) -> Table:
    def records() -> Iterator[Record | str]:
        for line in lines:
            if line.strip():
                yield _json_record(line)

    record = _json_record(first)
    return Table([] if isinstance(record, str) else list(record), records(), "jsonl")


def _json_record(line: str) -> Record | str:
    try:
        record = json.loads(line)
    except ValueError as error:
        return f"the line is no JSON: {error}"
    return record if isinstance(record, dict) else "the line is no JSON object"


class Predictor:
    """One checkpoint, or the members of an ensemble, ready to predict.

    Args:
        name: a run folder, a checkpoint, or the folder of an ensemble.
        complete: refuse an ensemble that is not trained to its end.

    Raises:
        ConfigError: no such checkpoint, or one that predicts no labels.
    """

    def __init__(self, name: str, *, complete: bool = True) -> None:
        root = Path(name).expanduser()
        self.calibration: dict[str, Any] | None = None
        members = [name]
        if (root / ENSEMBLE_FILE).is_file():
            record = json.loads((root / ENSEMBLE_FILE).read_text(encoding="utf-8"))
            members = [str(root / member) for member in record["members"]]
            self.calibration = record["targets"] or None  # none where nothing was held out
            if complete and record["targets"] is None:
                raise ConfigError(
                    f"--checkpoint {name}: this ensemble is not trained to its end: unitrans train --resume {name}"
                )
        self.models = [load_model(member) for member in members]
        config = self.models[0].config
        if config.labels is None or config.reading is None:
            raise ConfigError(
                f"--checkpoint {name}: a model of objective {config.objective} predicts no labels; fine-tune it first: "
                f"unitrans train --objective regression --init {name} ..."
            )
        self.labels = Labels.from_dict(config.labels)
        # A domain may keep more beside the checkpoints, such as a tokenizer.
        self.reading: dict[str, Any] = config.reading | {
            "folder": str(init_folder(members[0], flag="--checkpoint"))
        }
        with user_errors():
            self.domain: Any = get_domain(self.reading["domain"])

    @torch.no_grad()
    def outputs(self, samples: Sequence[Sample]) -> np.ndarray:
        """What the heads say, float64 [members, samples, K]."""
        config = self.models[0].config.encoder_config
        batch = self.domain.collate(samples, config)
        device = next(self.models[0].parameters()).device
        outputs = []
        for model in self.models:
            keys = model.batch_keys() - {"labels"}
            inputs = {key: value for key, value in batch.items() if key in keys}
            inputs = pytree.tree_map_only(torch.Tensor, lambda tensor: tensor.to(device), inputs)
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
        labels = self.labels
        if labels.kind == "class":
            shifted = np.exp(outputs - outputs.max(-1, keepdims=True))
            chances = (shifted / shifted.sum(-1, keepdims=True)).mean(0)
            names = self.columns()
            return [
                dict(zip(names, [labels.names[int(row.argmax())], *row.tolist()], strict=True))
                for row in chances
            ]
        if labels.kind == "value":
            outputs = outputs * np.array(labels.std) + np.array(labels.mean)
        else:
            outputs = 1 / (1 + np.exp(-outputs))
        mean = outputs.mean(0)
        spread = outputs.std(0, ddof=1) if len(outputs) > 1 else None
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
    if (folder / ckpt.MANIFEST).is_file():
        ckpt.verify(folder)
    transformers_logging.disable_progress_bar()
    with user_errors():
        model = MaskedSignalModel.from_pretrained(folder)
    return model.eval().to("cuda" if torch.cuda.is_available() else "cpu")


def answer(checkpoint: str, question: str, text: str, options: Mapping[str, Any]) -> Iterator[str]:
    """Lines that answer one question about a text, of a domain that knows such questions (``Predicts.questions``).

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
        known = getattr(get_domain(domains[0]), "questions", {}) if len(domains) == 1 else {}
        if question not in known:
            raise ConfigError(
                f"--{question.replace('_', '-')}: expected a text model, --checkpoint {checkpoint} is a {family}"
            )
        yield from known[question](model, folder, text, options)


def predict(
    checkpoint: str,
    source: str,
    output: str | None,
    *,
    batch_size: int,
    column: str | None,
    stdin: TextIO,
    stdout: TextIO,
    say: Callable[[str], None],
) -> int:
    """Predicts a table row by row, in its order, and writes it with the predictions as they come.

    Args:
        checkpoint: see `Predictor`.
        source: a file, or "-" for stdin.
        output: a file; None for stdout. It is JSON lines where the input is, or where its name ends in .jsonl.
        batch_size: rows that are read before they are predicted together.
        column: see ``Predicts.record_reader``.
        say: where a sentence goes.

    Returns:
        How many rows could not be predicted; their predictions are empty and their `error` says why.
    """
    predictor = Predictor(checkpoint)
    if not hasattr(predictor.domain, "record_reader"):
        raise ConfigError(f"the domain {predictor.domain.name} cannot predict rows of a table yet")
    with ExitStack() as files:
        if source == "-":
            file = stdin
        else:
            try:
                file = files.enter_context(open_text(Path(source).expanduser()))
            except OSError as error:
                raise ConfigError(f"{source} cannot be read: {error.strerror or error}") from None
        with user_errors():
            table = read_table(file, "standard input" if source == "-" else source, predictor.domain)
            read = predictor.domain.record_reader(table.names, predictor.reading, column)
        try:
            out = (
                stdout
                if output is None
                else files.enter_context(open(output, "w", encoding="utf-8", newline=""))
            )
        except OSError as error:
            raise ConfigError(f"--output {output} cannot be written: {error.strerror}") from None
        as_json = (output or "").endswith(".jsonl") or (
            table.kind == "jsonl" and not (output or "").endswith(".csv")
        )
        write = _writer(out, table.names, [*predictor.columns(), "error"], as_json)
        total = failed = 0
        while chunk := list(itertools.islice(table.records, batch_size)):
            for record, predicted in zip(chunk, _predicted(predictor, read, chunk), strict=True):
                write({} if isinstance(record, str) else record, predicted)
                failed += bool(predicted["error"])
            total += len(chunk)
            out.flush()
    if failed:
        say(f"{failed:,} of {total:,} rows could not be predicted: the column error says why")
    return failed


def _predicted(
    predictor: Predictor, read: Callable[[Mapping[str, Any]], Sample], chunk: Sequence[Record | str]
) -> list[Record]:
    """The predictions of a chunk, or why there are none."""
    results: list[Record] = [{"error": ""} for _ in chunk]
    good: list[Sample] = []
    places: list[int] = []
    for place, record in enumerate(chunk):
        try:
            if isinstance(record, str):
                raise ValueError(record)
            good.append({"id": str(place), **read(record)})
            places.append(place)
        except ValueError as error:
            results[place]["error"] = " ".join(str(error).split())
    if good:
        for place, values in zip(places, predictor.values(predictor.outputs(good)), strict=True):
            results[place] = values | {"error": ""}
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
            values["error"] = values["error"] or None
            out.write(json.dumps(kept | values, ensure_ascii=False) + "\n")

        return write_json
    writer = csv.DictWriter(
        out, [*renamed.values(), *added], restval="", lineterminator="\n", extrasaction="ignore"
    )
    writer.writeheader()

    def write_csv(record: Record, predicted: Record) -> None:
        writer.writerow({renamed.get(name, name): value for name, value in record.items()} | predicted)

    return write_csv
