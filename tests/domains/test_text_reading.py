"""Text files: boundaries of documents, encodings, compression, lines without end; tables; what is refused."""

import bz2
import gzip
import io
import json
from pathlib import Path
from typing import Any

import pyarrow
import pytest

from unitrans.domains.text import reading
from unitrans.domains.text.config import DataConfig
from unitrans.domains.text.documents import all_documents, open_documents
from unitrans.domains.text.reading import split_documents


def read(path: Path | str, kind: Any = None, **data: Any) -> list[tuple[str, str]]:
    documents = open_documents(str(path), DataConfig(path=str(path), **data), kind)
    return [(d.id, d.text) for d in all_documents(documents)]


TEXT = "One.\nTwo\n\n \nThree.\n\n\nFour\r\nfive.  \n"


@pytest.mark.parametrize(
    ("boundary", "texts"),
    [
        ("line", ["One.", "Two", "Three.", "Four", "five."]),
        ("blank_line", ["One.\nTwo", "Three.", "Four\nfive."]),
        ("file", ["One.\nTwo\n\n \nThree.\n\n\nFour\nfive."]),
    ],
)
def test_boundaries(tmp_path: Path, boundary: str, texts: list[str]) -> None:
    (tmp_path / "a.txt").write_bytes(TEXT.encode())
    (tmp_path / "b.md").write_text("Last")
    found = read(tmp_path, document=boundary)
    assert [text for _, text in found] == [*texts, "Last"]
    assert len({name for name, _ in found}) == len(found)
    assert found[-1][0] == ("b.md" if boundary == "file" else "b.md#0")


def test_compressed_files_read_the_same(tmp_path: Path) -> None:
    plain = tmp_path / "a.txt"
    plain.write_bytes(TEXT.encode())
    (tmp_path / "b.txt.gz").write_bytes(gzip.compress(TEXT.encode()))
    (tmp_path / "c.txt.bz2").write_bytes(bz2.compress(TEXT.encode()))
    with pyarrow.CompressedOutputStream(str(tmp_path / "d.txt.zst"), "zstd") as stream:
        stream.write(TEXT.encode())
    want = [text for _, text in read(plain)]
    for name in ("b.txt.gz", "c.txt.bz2", "d.txt.zst"):
        assert [text for _, text in read(tmp_path / name)] == want
    assert len(read(tmp_path)) == 4 * len(want)


def test_a_damaged_archive_is_named(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("good")
    (tmp_path / "b.txt.gz").write_bytes(gzip.compress(b"some text\n" * 1000)[:40])
    documents = open_documents(str(tmp_path), DataConfig(path=str(tmp_path)), None)
    assert "good" in [d.text for d in all_documents(documents)]
    assert "cannot be read further" in documents.skipped["b.txt.gz"]


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32", "cp1252"])
def test_encodings(tmp_path: Path, encoding: str) -> None:
    """Unicode is told by its mark, others by name."""
    file = tmp_path / "a.txt"
    file.write_bytes("Crème brûlée\n\n“quoted”\n".encode(encoding))
    named = {"encoding": "cp1252"} if encoding == "cp1252" else {}
    assert [text for _, text in read(file, **named)] == ["Crème brûlée", "“quoted”"]


def test_wrong_bytes_leave_out_their_document_alone(tmp_path: Path) -> None:
    file = tmp_path / "a.txt"
    file.write_bytes(b"good\n" + "crème\n".encode("cp1252") + b"fine\n" + b"bin\0ary\n" + "also é".encode())
    documents = open_documents(str(file), DataConfig(path=str(file), document="line"), None)
    assert [d.text for d in all_documents(documents)] == ["good", "fine", "also é"]
    assert (
        "byte 0xe8 is not valid" in documents.skipped["a.txt#1"]
        and "data.encoding" in documents.skipped["a.txt#1"]
    )
    assert "NUL" in documents.skipped["a.txt#3"]


@pytest.mark.parametrize("boundary", ["line", "blank_line", "file"])
def test_lines_without_end_come_in_pieces(monkeypatch: pytest.MonkeyPatch, boundary: Any) -> None:
    """In bounded memory, cut at white space, nothing lost; all pieces are held out together."""
    monkeypatch.setattr(reading, "MAX_CHARACTERS", 50)
    words = [f"word{number}" for number in range(100)]
    stream = io.StringIO("short\n\n" + " ".join(words) + "\n\n" + "x" * 120 + "\n")
    found = list(split_documents(stream, "f", boundary))
    assert all(len(d.text) <= 50 for d in found)
    assert (
        "".join(d.text.replace(" ", "").replace("\n", "") for d in found)
        == "short" + "".join(words) + "x" * 120
    )
    assert len({d.id for d in found}) == len(found)
    whole = [w for d in found for w in d.text.split() if w.startswith("word")]
    assert whole == words, "a word was cut"
    if boundary != "file":
        pieces = [d for d in found if d.id.startswith("f#1")]
        assert len(pieces) > 5 and len({d.key for d in pieces}) == 1
    else:
        assert len({d.key for d in found}) == 1


def test_empty_lines_and_files_do_not_count(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("\n\n   \n\t\n")
    (tmp_path / "b.txt").write_text("")
    (tmp_path / "c.txt").write_text("\n\nonly\n\n")
    assert read(tmp_path) == [("c.txt#0", "only")]


def test_only_text_of_a_folder_is_read(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    for name in ("a.txt", "sub/b.rst", "c.png", ".hidden.txt", "d.py"):
        (tmp_path / name).write_text(name)
    documents = open_documents(str(tmp_path), DataConfig(path=str(tmp_path)), None)
    assert [d.text for d in all_documents(documents)] == ["a.txt", "sub/b.rst"]
    assert ".png (1)" in documents.notes[0] and "data.pattern" in documents.notes[0]
    assert [text for _, text in read(tmp_path, pattern="*.py")] == ["d.py"]


ROWS = [
    {"text": "first one", "label": "good"},
    {"text": "", "label": "bad"},
    {"text": "third", "label": None},
]


@pytest.mark.parametrize("suffix", [".csv", ".csv.gz", ".tsv", ".jsonl", ".json", ".parquet", ""])
def test_tables(tmp_path: Path, suffix: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """All kinds through datasets, "" is a data set saved by it; rows without text or label are named."""
    import datasets

    table = datasets.Dataset.from_list(ROWS)
    file = tmp_path / f"t{suffix}"
    if suffix in (".csv", ".csv.gz", ".tsv"):
        table.to_csv(str(file).removesuffix(".gz"), sep="\t" if suffix == ".tsv" else ",", index=False)
        if suffix.endswith(".gz"):
            file.write_bytes(gzip.compress((tmp_path / "t.csv").read_bytes()))
    elif suffix == ".parquet":
        table.to_parquet(str(file))
    elif suffix:
        file.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    else:
        table.save_to_disk(str(file))
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    documents = open_documents(str(file), DataConfig(path=str(file)), "class")
    assert [(d.text, d.label) for d in all_documents(documents)] == [("first one", "good")]
    assert sorted(documents.skipped.values()) == ["it has no label", "it has no text"]
    assert [text for _, text in read(file)] == ["first one", "third"]


@pytest.mark.parametrize(
    ("rows", "data", "kind", "message"),
    [
        (
            [{"a": "x", "b": "y"}],
            {},
            None,
            "expected one column of text, got a .*b .*choose one with data.text_column",
        ),
        ([{"a": "x", "b": "y"}], {"text_column": "c"}, None, "text_column='c' is not a column"),
        ([{"text": "x"}], {}, "class", "expected a column with labels"),
        ([{"text": "x"}], {"label_column": "lable"}, "class", "label_column='lable' is not a column"),
        ([{"text": "x"}], {}, "token", "a column of lists of words"),
        ([{"text": "x"}], {"split": "test"}, None, "data.split='test' is not a split"),
    ],
)
def test_tables_that_do_not_fit(tmp_path: Path, rows: Any, data: Any, kind: Any, message: str) -> None:
    import datasets

    datasets.Dataset.from_list(rows).save_to_disk(str(tmp_path / "t"))
    with pytest.raises(ValueError, match=message):
        read(tmp_path / "t", kind, **data)


def test_what_is_no_text_is_refused(tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "a.png").write_bytes(b"x")
    with pytest.raises(ValueError, match=r"there is no text in it \(it holds .png \(1\)\)"):
        read(tmp_path / "images")
    (tmp_path / "a.txt").write_text("text")
    with pytest.raises(ValueError, match="plain text without labels: expected a table"):
        read(tmp_path / "a.txt", "class")
    with pytest.raises(ValueError, match="nothing/here"):
        read("nothing/here")


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({"encoding": "utf-9"}, "expected auto or an encoding that Python knows, got 'utf-9'"),
        ({"validation": "5%"}, "write 5 % as 0.05"),
        ({"validation": 5}, "for 5 % write 0.05"),
        ({"streaming": True}, "the embedded text is small"),
    ],
)
def test_settings_that_cannot_be(data: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        DataConfig(**data)
