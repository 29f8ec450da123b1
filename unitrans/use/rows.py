"""What a trained model is asked about: rows of tables, files, lines of standard input, all as rows."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from copy import copy
from pathlib import Path
from typing import Any, TextIO

from unitrans.data.table import (
    Kind,
    Layout,
    Record,
    Table,
    find_delimiter,
    open_stream,
    open_table,
    plain_name,
)
from unitrans.domains.base import Sample
from unitrans.errors import ConfigError, user_errors

ReadRow = Callable[[Mapping[str, Any]], Sample]


def opened(
    domain: Any,
    reading: Mapping[str, Any],
    inputs: Sequence[str],
    column: str | None,
    stdin: TextIO,
    model_config: Any,
) -> tuple[Table, ReadRow]:
    """The rows that the inputs stand for, and what makes a sample of a row that the model can take.

    Args:
        domain: of the checkpoint.
        reading: of the checkpoint, with the folder of files as in ``Domain.record_reader`` where it was asked for;
            else that is the folder of the table.
        inputs: one table, "-" for stdin, or for a domain that lists them files and folders.
        column: see ``Domain.record_reader``.
        model_config: of the encoder.
    """
    table, read = _opened(domain, reading, inputs, column, stdin)

    def fitting(record: Mapping[str, Any]) -> Sample:
        sample = read(record)
        domain.check_sample(sample, model_config)
        return sample

    return table, fitting


def _opened(
    domain: Any, reading: Mapping[str, Any], inputs: Sequence[str], column: str | None, stdin: TextIO
) -> tuple[Table, ReadRow]:
    with user_errors():
        listed = domain.listed(inputs) if list(inputs) != ["-"] else None
        if listed is not None:
            as_typed: Any = copy(reading)  # of its class, which names what it lacks
            as_typed.pop("files", None)
            table = Table(list(listed[0]), "csv", [lambda: iter([dict(row) for row in listed])], "the files")
            return table, domain.record_reader(table.names, as_typed, column)
        if len(inputs) != 1:
            raise ConfigError(f"expected one table, got {len(inputs)} inputs ({', '.join(inputs[:3])})")
        path = Path(inputs[0]).expanduser()
        own = domain.opened(path, reading) if inputs[0] != "-" and path.is_file() else None
        if own is not None:
            return own
        table = table_of(domain, reading, inputs[0], column, stdin)
        beside: Any = copy(reading)
        if inputs[0] != "-":
            beside.setdefault("files", str(Path(inputs[0]).expanduser().parent))
        return table, domain.record_reader(table.names, beside, column)


def table_of(domain: Any, reading: Mapping[str, Any], name: str, column: str | None, stdin: TextIO) -> Table:
    """A table or stdin (-), read as the training data were. ConfigError in one sentence where it cannot be."""
    known = [column, *domain.known_columns(reading)]
    names = {plain_name(one) for one in known if one}

    def tell(first: str) -> Kind:
        """What has no suffix is a table where its first line names columns that are looked for."""
        cells = [plain_name(cell.strip('"')) for cell in first.strip().split(find_delimiter(first))]
        return "csv" if len(cells) > 1 and names & set(cells) else domain.line_kind(first)

    layout = Layout(encoding=reading.get("encoding") or "auto", known=tuple(one for one in known if one))
    with user_errors():
        if name == "-":
            return open_stream(stdin, "standard input", layout, tell=tell)
        path = Path(name).expanduser()
        if not path.exists():
            raise ConfigError(f"{name} cannot be read: there is no such file")
        if path.is_dir():
            raise ConfigError(f"{name} cannot be read: it is a folder, expected a table")
        return open_table(path, name, layout, tell=tell)


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
