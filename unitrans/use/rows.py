"""What a trained model is asked about: rows of tables, files, lines of standard input, all as rows."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

from unitrans.data.table import open_text, table_lines
from unitrans.domains.base import Sample
from unitrans.errors import ConfigError, user_errors

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


ReadRow = Callable[[Mapping[str, Any]], Sample]


@contextmanager
def opened(
    domain: Any, reading: Mapping[str, Any], inputs: Sequence[str], column: str | None, stdin: TextIO
) -> Iterator[tuple[Table, ReadRow]]:
    """The rows that the inputs stand for, and what makes a sample of a row.

    Args:
        domain: of the checkpoint.
        reading: of the checkpoint, with the folder of files as in ``Predicts.record_reader`` where it was asked for;
            else that is the folder of the table.
        inputs: one table, "-" for stdin, or for a domain that lists them files and folders.
        column: see ``Predicts.record_reader``.
    """
    if not hasattr(domain, "record_reader"):
        raise ConfigError(f"the domain {domain.name} cannot read rows of a table yet")
    with user_errors():
        listed = domain.listed(inputs) if hasattr(domain, "listed") and list(inputs) != ["-"] else None
    if listed is not None:
        table = Table(list(listed[0]), iter([dict(row) for row in listed]), "csv")
        as_typed = {key: value for key, value in reading.items() if key != "files"}
        yield table, domain.record_reader(table.names, as_typed, column)
        return
    if len(inputs) != 1:
        raise ConfigError(f"expected one table, got {len(inputs)} inputs ({', '.join(inputs[:3])})")
    name = inputs[0]
    try:
        file = stdin if name == "-" else open_text(Path(name).expanduser())
    except OSError as error:
        raise ConfigError(f"{name} cannot be read: {error.strerror or error}") from None
    try:
        with user_errors():
            table = read_table(file, "standard input" if name == "-" else name, domain)
            folder = {} if name == "-" else {"files": str(Path(name).expanduser().parent)}
            read = domain.record_reader(table.names, {**folder, **reading}, column)
        yield table, read
    finally:
        if file is not stdin:
            file.close()


def samples_of(chunk: Sequence[Record | str], read: ReadRow) -> tuple[list[Sample], list[int], list[str]]:
    """The samples of rows, the places of those rows, and for every row why there is none ("" where there is)."""
    good: list[Sample] = []
    places: list[int] = []
    reasons = [""] * len(chunk)
    for place, record in enumerate(chunk):
        try:
            if isinstance(record, str):
                raise ValueError(record)
            good.append({"id": str(place), **read(record)})
            places.append(place)
        except ValueError as error:
            reasons[place] = " ".join(str(error).split())
    return good, places, reasons
