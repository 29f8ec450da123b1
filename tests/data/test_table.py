"""Tables of every kind: names, rows, and what is wrong with them in one sentence."""

import gzip
import io
import json
import os
import threading
from pathlib import Path

import pyarrow
import pytest
from pyarrow import parquet

from unitrans.data.table import Layout, find_delimiter, open_stream, open_table

ROWS = [
    {"text": "a, \u00fc", "label": "1"},
    {"text": "line\nbreak", "label": "NA"},
    {"text": "", "label": ""},
]
CSV = 'text,label\n"a, \u00fc",1\n"line\nbreak",NA\n"",\n'


def rows_of(path: Path, **options: object) -> list:
    table = open_table(path, path.name, **options)
    assert list(table.rows()) == list(table.rows())  # again and again
    return list(table.rows())


def packed(path: Path, content: bytes) -> Path:
    if path.suffix == ".gz":
        content = gzip.compress(content)
    elif path.suffix in (".zst", ".bz2"):
        content = pyarrow.compress(content, path.suffix[1:].replace("zst", "zstd"), asbytes=True)
    path.write_bytes(content)
    return path


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.csv", CSV.encode()),
        ("bom.csv", b"\xef\xbb\xbf" + CSV.encode()),
        ("utf16.csv", CSV.encode("utf-16")),
        ("a.csv.gz", CSV.encode()),
        ("a.jsonl", "".join(json.dumps(row) + "\n" for row in ROWS).encode()),
        ("list.json", json.dumps(ROWS).encode()),
    ],
)
def test_the_same_rows_in_every_form(tmp_path: Path, name: str, content: bytes) -> None:
    assert rows_of(packed(tmp_path / name, content)) == ROWS


def test_zstandard_and_parquet(tmp_path: Path) -> None:
    with pyarrow.CompressedOutputStream(str(tmp_path / "a.csv.zst"), "zstd") as stream:
        stream.write(CSV.encode())
    assert rows_of(tmp_path / "a.csv.zst") == ROWS
    parquet.write_table(pyarrow.Table.from_pylist(ROWS), tmp_path / "a.parquet")
    assert rows_of(tmp_path / "a.parquet") == ROWS


def test_excel(tmp_path: Path) -> None:
    openpyxl = pytest.importorskip("openpyxl")
    book = openpyxl.Workbook()
    for row in (["text", "y"], ["a", 1.0], ["b", None], ["007", 2.5]):
        book.active.append(row)
    book.save(tmp_path / "a.xlsx")
    assert rows_of(tmp_path / "a.xlsx") == [
        {"text": "a", "y": "1"},
        {"text": "b", "y": ""},
        {"text": "007", "y": "2.5"},
    ]


def test_line_ends_of_windows_and_blank_lines(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_bytes(b"a,b\r\n1,2\r\n\r\n3,4\r\n")
    assert rows_of(tmp_path / "a.csv") == [{"a": "1", "b": "2"}, {"a": "3", "b": "4"}]


@pytest.mark.parametrize(
    ("line", "delimiter"),
    [("a,b", ","), ("a;b,c;d", ";"), ("a|b", "|"), ("a\tb", "\t"), ('smiles;"a, b, c"', ";"), ("alone", ",")],
)
def test_delimiters(line: str, delimiter: str) -> None:
    assert find_delimiter(line) == delimiter


def test_headers(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text("CCO,3.5\nCCN,1\n")
    assert rows_of(path) == [{"column_1": "CCO", "column_2": "3.5"}, {"column_1": "CCN", "column_2": "1"}]
    path.write_text("smiles,2\nCCN,1\n")
    assert rows_of(path, layout=Layout(known=("SMILES",))) == [{"smiles": "CCN", "2": "1"}]
    path.write_text("a,b\n1,2\n")
    assert len(rows_of(path, layout=Layout(header=False))) == 2
    path.write_text(",text\n0,x\n")  # as pandas writes an index
    assert rows_of(path) == [{"column_1": "0", "text": "x"}]


def test_ragged_rows_and_marks_that_are_not_closed(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text('a,b\n1,2\n3\n4,5,6\n7,"8\n9,10\n')
    good, short, long, last = rows_of(path)
    assert good == {"a": "1", "b": "2"}
    assert short == "the row has 1 cells, the header has 2" and "3 cells" in long and "is not closed" in last


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"a,a\n1,2\n", "two columns are called 'a': rename one"),
        (
            "text,label\ncaf\u00e9,1\n".encode("latin-1"),
            "is not text in UTF-8 .byte 0xe9 in it.: save .*encoding",
        ),
        (b"", "got nothing"),
        (b"\n\n", "got nothing"),
    ],
)
def test_what_is_wrong_with_a_table(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "a.csv").write_bytes(content)
    with pytest.raises(ValueError, match=message):
        rows_of(tmp_path / "a.csv")


def test_other_encodings_and_cut_files(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_bytes("text,label\ncaf\u00e9,1\n".encode("cp1252"))
    assert rows_of(tmp_path / "a.csv", layout=Layout(encoding="cp1252")) == [
        {"text": "caf\u00e9", "label": "1"}
    ]
    content = gzip.compress(b"text,label\n" + os.urandom(100_000).hex().encode() + b",1\n")
    (tmp_path / "cut.csv.gz").write_bytes(content[: len(content) // 2])
    with pytest.raises(ValueError, match="cut.csv.gz: it is cut or damaged and cannot be unpacked"):
        rows_of(tmp_path / "cut.csv.gz")


def test_a_pipe_is_read_once(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    writer = threading.Thread(target=lambda: (tmp_path / "pipe").write_text(CSV))
    writer.start()
    assert rows_of(tmp_path / "pipe") == ROWS
    writer.join()
    assert rows_of(tmp_path / "pipe") == ROWS


def test_a_stream_comes_row_by_row() -> None:
    given: list[str] = []

    class Slow(io.StringIO):
        def readline(self, *args: int) -> str:
            given.append(super().readline(*args))
            return given[-1]

    table = open_stream(Slow("a,b\n1,2\n3,4\n5,6\n"), "standard input")
    rows = table.rows()
    assert next(rows) == {"a": "1", "b": "2"} and len(given) == 2
    assert [row["a"] for row in rows] == ["3", "5"]


def test_several_files_have_the_same_columns(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("x,y\n1,2\n")
    (tmp_path / "b.csv").write_text("y,x\n3,4\n")
    table = open_table([tmp_path / "a.csv", tmp_path / "b.csv"], "both")
    assert table.parts == 2 and [row["x"] for row in table.rows()] == ["1", "4"]
    (tmp_path / "c.csv").write_text("x,z\n3,4\n")
    with pytest.raises(
        ValueError, match="expected the same columns in all files, got x, y in a.csv and x, z in c.csv"
    ):
        open_table([tmp_path / "a.csv", tmp_path / "c.csv"], "both")
