"""Tables, whatever they are written in: the one way from files and streams to rows.

A row is {column: cell}, and a sentence where it is no row. Cells of files of text are text, as they stand there; what
they mean is decided once for a whole column (``unitrans.data.columns``).
"""

from __future__ import annotations

import csv
import itertools
import sys
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TextIO

from pydantic import Field

from unitrans.data.columns import cell_text, is_number
from unitrans.data.files import open_text, seekable, suffix_of
from unitrans.errors import ConfigError
from unitrans.stored import parse_json

Record = dict[str, Any]
Rows = Iterator[Record | str]
Kind = Literal["csv", "smi", "text", "json", "parquet", "excel"]

KINDS: dict[str, Kind] = {
    ".csv": "csv",
    ".tsv": "csv",
    ".jsonl": "json",
    ".json": "json",
    ".ndjson": "json",
    ".parquet": "parquet",
    ".xlsx": "excel",
}
#: What a header calls a column of SMILES, without spaces, dashes and capitals.
SMILES_NAMES = {"smiles", "canonicalsmiles", "isomericsmiles", "rdkitsmiles", "smi", "smilesstring"}
DELIMITERS = (",", "\t", ";", "|")
LOOKED_AT = 256  # rows by which columns are told apart
csv.field_size_limit(min(sys.maxsize, 2**31 - 1))  # the default is 128 KiB, less than a long document


# Keys of ``data`` about tables, the same in every domain.
DELIMITER: Any = Field(
    None,
    min_length=1,
    max_length=1,
    description="Between the cells of a table. null: by its first line.",
)
HEADER: Any = Field(
    None,
    description="Whether the first line of a table of text names the columns. false: they are column_1, column_2 and "
    "so on. null: it does, unless it holds a number and no name that is looked for.",
)
ENCODING: Any = Field(
    "auto",
    description="How a table of text is encoded: auto (UTF-8, or UTF-16 and UTF-32 with a mark at the start), or a "
    "name that Python knows such as cp1252.",
)
MISSING: Any = Field(
    None,
    description="What an empty cell of labels may be written as, such as [NA]. null: NA, N/A, NaN, None, null, ? and - "
    "in columns of numbers, nothing in columns of words, where they are classes.",
)


@dataclass(frozen=True)
class Layout:
    """How a table of text is written; None: as the table itself shows.

    known: names by which a header is told from a first row.
    """

    delimiter: str | None = None
    header: bool | None = None
    encoding: str = "auto"
    known: tuple[str, ...] = ()


class Table:
    """The rows of one or several files with the same columns.

    Attributes:
        names: the columns, in their order.
        kind: what the rows are written in.
        parts: files, which can be read one by one, again and again; a stream is one part and is read once.
        where: what it is called in messages.
        size: bytes of the files, 0 of a stream.
    """

    def __init__(
        self,
        names: Sequence[str],
        kind: Kind,
        readers: Sequence[Callable[[], Rows]],
        where: str,
        size: int = 0,
    ) -> None:
        self.names, self.kind, self.where, self.size = list(names), kind, where, size
        self._readers = list(readers)

    @property
    def parts(self) -> int:
        """How many files there are."""
        return len(self._readers)

    def select(self, names: Sequence[str]) -> Table:
        """The same with these columns, where leaving out others saves reading them."""
        return self

    def declared(self, name: str) -> list[str] | None:
        """The names of the classes of a column, where the data set has some."""
        return None

    def rows(self, part: int | None = None) -> Rows:
        """The rows of one file, or of all."""
        chosen = self._readers if part is None else [self._readers[part]]
        return itertools.chain.from_iterable(reader() for reader in chosen)

    def columns(self) -> tuple[dict[str, list[Any]], dict[int, str]]:
        """All cells by column, and why rows (from 0) are none; these have empty cells.

        ValueError where most rows are none, or there are none at all.
        """
        cells: dict[str, list[Any]] = {name: [] for name in self.names}
        wrong: dict[int, str] = {}
        number = -1
        for number, row in enumerate(self.rows()):
            if isinstance(row, str):
                wrong[number] = row
            for name, column in cells.items():
                column.append("" if isinstance(row, str) else row.get(name))
        if number < 0:
            raise ValueError(f"{self.where} has no rows: expected a line with the names of columns, and rows")
        if len(wrong) > (number + 1) / 2:
            place, reason = next(iter(wrong.items()))
            raise ValueError(
                f"{self.where}: {len(wrong):,} of {number + 1:,} rows cannot be read; row {place + 1:,}: {reason}: is "
                "data.delimiter right?"
            )
        return cells, wrong

    def kinds(self) -> dict[str, str]:
        """text, number, list or other for every column, by its first rows."""
        first = [row for row in itertools.islice(self.rows(), LOOKED_AT) if not isinstance(row, str)]
        return {name: _kind_of([row.get(name) for row in first]) for name in self.names}


def _kind_of(cells: Sequence[Any]) -> str:
    known = [cell for cell in cells if cell is not None and cell != ""]
    if any(isinstance(cell, (list, dict, bytes)) for cell in known):
        return "list" if all(isinstance(cell, list) for cell in known) else "other"
    return "number" if known and all(is_number(cell_text(cell) or "") for cell in known) else "text"


def layout_of(data: Any, known: Iterable[str | None]) -> Layout:
    """How a table is written, by a section ``data``; known: names that a header may have."""
    return Layout(data.delimiter, data.header, data.encoding, tuple(name for name in known if name))


def is_table(path: Path, others: Iterable[str] = ()) -> bool:
    """Whether the name of a file is that of a table; others: more suffixes that count."""
    return suffix_of(path) in {*KINDS, *others}


def open_table(
    source: Path | Sequence[Path],
    where: str,
    layout: Layout | None = None,
    *,
    tell: Callable[[str], Kind] = lambda first: "csv",
    kind: Kind | None = None,
) -> Table:
    """The table in a file, or in several with the same columns. A pipe is read to its end first.

    Args:
        source: files; what they are follows from their suffixes.
        where: what they are called in messages.
        tell: what a file without a suffix is, by its first line.
        kind: what the files are, whatever they are called.

    Raises:
        ValueError: in one sentence, for what cannot be read as a table.
    """
    layout = layout or Layout()
    paths = [source] if isinstance(source, Path) else list(source)
    with _readable(where):
        paths = [seekable(path) for path in paths]
        size = sum(path.stat().st_size for path in paths)
        opened = [_open_file(path, where, layout, tell, kind) for path in paths]
    first = opened[0]
    for path, other in zip(paths, opened, strict=True):
        if set(other.names) != set(first.names):
            raise ValueError(
                f"{where}: expected the same columns in all files, got {', '.join(first.names)} in {paths[0].name} and "
                f"{', '.join(other.names)} in {path.name}"
            )
    return Table(first.names, first.kind, [table._readers[0] for table in opened], where, size)


def open_stream(
    stream: TextIO, where: str, layout: Layout | None = None, *, tell: Callable[[str], Kind] = lambda _: "csv"
) -> Table:
    """The table that comes through a stream of text, row by row as it comes."""
    with _readable(where):
        lines = iter(stream.readline, "")
        first = next((line for line in lines if line.strip()), "").removeprefix("\ufeff")
        if not first:
            raise ValueError(f"{where}: expected rows, got nothing")
        kind = tell(first)
        if _is_json(first, kind):
            kind = "json"
        names, rows = _parse(itertools.chain([first], lines), first, kind, where, layout or Layout())
    return Table(names, kind, [lambda: _guarded(rows, where)], where)


def _open_file(
    path: Path, where: str, layout: Layout, tell: Callable[[str], Kind], kind: Kind | None
) -> Table:
    kind = kind or KINDS.get(suffix_of(path)) or ("smi" if suffix_of(path) in (".smi", ".smiles") else None)
    if kind == "parquet" or (kind is None and path.open("rb").read(4) == b"PAR1"):
        return _parquet(path, where)
    if kind == "excel":
        return _excel(path, where, layout)

    def read() -> tuple[list[str], Rows, Kind]:
        stream = open_text(path, layout.encoding, errors="strict")
        first = next((line for line in stream if line.strip()), "").removeprefix("\ufeff")
        if not first:
            raise ValueError(f"{where} has no rows: expected rows, got nothing")
        if "\0" in first:
            raise ValueError(f"{where}: expected text in UTF-8, got NUL characters: it is no table")
        found = kind or tell(first)
        if _is_json(first, found):
            found = "json"
        known = layout
        if suffix_of(path) == ".tsv" and layout.delimiter is None:
            known = Layout("\t", layout.header, layout.encoding, layout.known)
        names, rows = _parse(itertools.chain([first], stream), first, found, where, known)
        return names, _closing(stream, rows), found

    names, rows, found = read()
    if found == "json":  # a later row may have more
        looked = itertools.islice(rows, LOOKED_AT)
        names = list(dict.fromkeys(name for row in looked if not isinstance(row, str) for name in row))
    rows.close()  # type: ignore[attr-defined]
    return Table(names, found, [lambda: _guarded(read()[1], where)], where)


def _closing(stream: TextIO, rows: Rows) -> Rows:
    with stream:
        yield from rows


@contextmanager
def _readable(where: str) -> Iterator[None]:
    """What reading may raise, as one sentence."""
    import pyarrow

    try:
        yield
    except ConfigError:
        raise
    except UnicodeDecodeError as error:
        byte = error.object[error.start]
        raise ConfigError(
            f"{where} is not text in UTF-8 (byte {byte:#04x} in it): save the table as that, or name its encoding as "
            "data.encoding, such as cp1252"
        ) from None
    except OSError as error:
        raise ConfigError(f"{where} cannot be read: {error.strerror or error}") from None
    except (EOFError, zlib.error, csv.Error, LookupError, pyarrow.ArrowException) as error:
        raise ConfigError(f"{where} cannot be read as a table: {' '.join(str(error).split())}") from None


def _guarded(rows: Rows, where: str) -> Rows:
    with _readable(where):
        yield from rows


# ---- text -----------------------------------------------------------------------------------------------------


def _parse(
    lines: Iterator[str], first: str, kind: Kind, where: str, layout: Layout
) -> tuple[list[str], Rows]:
    """The columns and the rows of lines, of which the first is known."""
    if kind == "json":
        return _json(lines, first, where)
    if kind == "text":
        return ["text"], ({"text": line.rstrip("\r\n")} for line in lines if line.strip())
    if kind == "smi" and not {token.lower() for token in first.split()} & SMILES_NAMES:
        return ["smiles", "name"], _smiles(lines)
    return _delimited(lines, first, where, layout)


def _smiles(lines: Iterator[str]) -> Rows:
    """Lines without a header: SMILES and, behind a space, a name."""
    for line in lines:
        smiles, _, rest = line.strip().replace("\t", " ").partition(" ")
        if smiles:
            yield {"smiles": smiles, "name": rest.strip()}


def find_delimiter(line: str) -> str:
    """What stands most often between the cells of a line, outside of quotation marks; a comma where nothing does."""
    counts = dict.fromkeys(DELIMITERS, 0)
    quoted = False
    for mark in line:
        quoted ^= mark == '"'
        if not quoted and mark in counts:
            counts[mark] += 1
    return max(counts, key=lambda mark: counts[mark]) if any(counts.values()) else ","


def _delimited(lines: Iterator[str], first: str, where: str, layout: Layout) -> tuple[list[str], Rows]:
    delimiter = layout.delimiter or find_delimiter(first)
    marks = _Marks(lines)
    reader = csv.reader(marks, delimiter=delimiter)
    cells = next(reader)
    if _is_header(cells, layout):
        names = _header([cell.strip() for cell in cells], where)
    else:
        names = _header([""] * len(cells), where)
        reader = itertools.chain([cells], reader)  # type: ignore[assignment]

    def rows() -> Rows:
        for row in reader:
            if not row:
                continue
            if len(row) != len(names):
                yield f"the row has {len(row)} cells, the header has {len(names)}"
            elif "\n" in row[-1] and marks.ended and marks.count % 2:
                yield "a quotation mark in it is not closed, so that it holds all that follows"
            else:
                yield dict(zip(names, row, strict=True))

    return names, rows()


class _Marks:
    """Lines, and how many quotation marks they had so far."""

    def __init__(self, lines: Iterator[str]) -> None:
        self.lines, self.count, self.ended = lines, 0, False

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        line = next(self.lines, None)
        if line is None:
            self.ended = True
            raise StopIteration
        self.count += line.count('"')
        return line


def _is_header(cells: Sequence[str], layout: Layout) -> bool:
    """Whether a first row names the columns: it has a name that is looked for, or no number."""
    if layout.header is not None:
        return layout.header
    known = {plain_name(name) for name in layout.known}
    return any(plain_name(cell) in known for cell in cells) or not any(
        is_number(cell.strip()) for cell in cells
    )


def plain_name(name: str) -> str:
    """A name without capitals, spaces and dashes."""
    return name.strip().lower().replace("_", "").replace(" ", "").replace("-", "")


def _header(cells: Sequence[str], where: str) -> list[str]:
    """Names of columns; one without is called by its place. ValueError for a name that is there twice."""
    names = [cell or f"column_{place}" for place, cell in enumerate(cells, start=1)]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise ValueError(f"{where}: two columns are called {twice!r}: rename one")
    return names


def _is_json(first: str, kind: Kind) -> bool:
    """Whether a first line is that of JSON; a line of text must be a whole object."""
    if kind == "text":
        return first.lstrip().startswith("{") and isinstance(_json_record(first), dict)
    return first.lstrip().startswith("{")


def _json(lines: Iterator[str], first: str, where: str) -> tuple[list[str], Rows]:
    if first.lstrip().startswith("["):
        try:
            records = parse_json("".join(lines))
        except ValueError as error:
            raise ValueError(f"{where} is no JSON: {error}") from None
        rows = [row if isinstance(row, dict) else "the row is no JSON object" for row in records]
        return _names_of(rows), iter(rows)
    records = (_json_record(line) for line in lines if line.strip())
    record = next(records)
    return _names_of([record]), itertools.chain([record], records)


def _names_of(rows: Sequence[Record | str]) -> list[str]:
    return list(dict.fromkeys(name for row in rows if not isinstance(row, str) for name in row))


def _json_record(line: str) -> Record | str:
    try:
        record = parse_json(line)
    except ValueError as error:
        return f"the line is no JSON: {error}"
    return record if isinstance(record, dict) else "the line is no JSON object"


# ---- with types of their own ----------------------------------------------------------------------------------


def _parquet(path: Path, where: str) -> Table:
    from pyarrow import parquet

    with parquet.ParquetFile(path) as file:
        names = _header(list(file.schema_arrow.names), where)

    def rows() -> Rows:
        with parquet.ParquetFile(path) as file:
            for batch in file.iter_batches(batch_size=LOOKED_AT):
                yield from batch.to_pylist()

    return Table(names, "parquet", [lambda: _guarded(rows(), where)], where)


def _excel(path: Path, where: str, layout: Layout) -> Table:
    """The first sheet of a workbook; what formulas gave when it was saved."""
    try:
        from openpyxl import load_workbook
    except ImportError:
        raise ValueError(
            f"{where}: tables of Excel need the package openpyxl: pip install openpyxl"
        ) from None

    def cells() -> Iterator[list[Any]]:
        book = load_workbook(path, read_only=True, data_only=True)
        try:
            for row in book.worksheets[0].iter_rows(values_only=True):
                if any(cell is not None for cell in row):
                    yield list(row)
        finally:
            book.close()

    first = next(cells(), None)
    if first is None:
        raise ValueError(f"{where} has no rows: expected rows, got nothing")
    texts = [cell_text(cell) or "" for cell in first]
    named = _is_header(texts, layout)
    names = _header(texts if named else [""] * len(texts), where)

    def rows() -> Rows:
        for row in itertools.islice(cells(), int(named), None):
            padded = row[: len(names)] + [None] * (len(names) - len(row))
            yield {name: cell_text(cell) or "" for name, cell in zip(names, padded, strict=True)}

    return Table(names, "excel", [lambda: _guarded(rows(), where)], where)
