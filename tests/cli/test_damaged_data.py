"""Tables that are cut, packed badly or no tables, pipes, and what is no place for data: one sentence each."""

import bz2
import gzip
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from unitrans.cli import main
from unitrans.domains import places

HEADERS = {"graph": "smiles,y", "text": "text,label", "vision": "image,label"}
OBJECTIVES = {"graph": "regression", "text": "classification", "vision": "classification"}
ROWS = {
    "graph": [f"C{'C' * (n % 9)}O,{n}.5" for n in range(2000)],
    "text": [f"the text of row {n} {n * 7919 % 1000},{'ab'[n % 2]}" for n in range(2000)],
    "vision": [f"{n}.png,{'ab'[n % 2]}" for n in range(2000)],
}


def table(domain: str) -> bytes:
    return "\n".join([HEADERS[domain], *ROWS[domain]]).encode() + b"\n"


def damaged(kind: str, content: bytes) -> tuple[str, bytes]:
    packed = gzip.compress(content)
    flipped = bytearray(packed)
    flipped[len(packed) // 2] ^= 0xFF
    return {
        "cut.csv.gz": ("x.csv.gz", packed[: len(packed) // 2]),
        "head.csv.gz": ("x.csv.gz", packed[:12]),
        "flipped.csv.gz": ("x.csv.gz", bytes(flipped)),
        "end.csv.gz": ("x.csv.gz", packed[:-4]),
        "plain.csv.gz": ("x.csv.gz", content),
        "empty.csv.gz": ("x.csv.gz", b""),
        "tsv.gz": ("x.tsv.gz", packed[:100]),
        "binary.csv": ("x.csv", b"\x89PNG\r\n\x1a\n" + bytes(range(128, 256)) * 20),
        "nul.csv": ("x.csv", b"\0" * 5000),
        "long.csv": ("x.csv", content + b'"' + b"x" * 200_000 + b'",1\n'),
        "empty.csv": ("x.csv", b""),
        "smi.gz": ("x.smi.gz", packed[:100]),
        "parquet": ("x.parquet", b"PAR1" + packed),
        "empty.parquet": ("x.parquet", b""),
        "jsonl.gz": ("x.jsonl.gz", gzip.compress(b'{"text": "a", "label": "b"}\n' * 5000)[:-20]),
        "csv.bz2": ("x.csv.bz2", bz2.compress(content)[:-20]),
        "csv.zst": ("x.csv.zst", b"\x28\xb5\x2f\xfd" + packed),
        "deep.jsonl": ("x.jsonl", b'{"text": ' + b"[" * 100_000 + b"\n"),
    }[kind]


KINDS = [
    *("cut.csv.gz", "head.csv.gz", "flipped.csv.gz", "end.csv.gz", "plain.csv.gz", "empty.csv.gz", "tsv.gz"),
    *("binary.csv", "nul.csv", "long.csv", "empty.csv", "smi.gz", "parquet", "empty.parquet", "jsonl.gz"),
    *("csv.bz2", "csv.zst", "deep.jsonl"),
]


def refuse(arguments: list[str], capsys) -> str:
    code = main(arguments)
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("unitrans: ")]
    assert code == 2 and len(lines) == 1 and len(lines[0]) < 1500, (code, lines)
    return lines[0]


def train(domain: str, path: object) -> list[str]:
    target = ["--target", "y"] if domain == "graph" else []
    return [
        "train",
        "--domain",
        domain,
        "--objective",
        OBJECTIVES[domain],
        "--data",
        str(path),
        "--dry-run",
        *target,
    ]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("domain", list(HEADERS))
def test_a_damaged_table(domain, kind, tmp_path, capsys, monkeypatch) -> None:
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    name, content = damaged(kind, table(domain))
    (tmp_path / name).write_bytes(content)
    if domain != "vision" and kind == "long.csv":  # cells have no limit: a long one is a text, or no molecule
        assert main(train(domain, tmp_path / name)) == 0
        return
    said = refuse(train(domain, tmp_path / name), capsys)
    assert name in said


@pytest.mark.parametrize("place", ["/proc", "/sys", "/proc/version", "/dev/zero", "/dev/null"])
@pytest.mark.parametrize("domain", list(HEADERS))
def test_no_place_for_data(domain, place, capsys) -> None:
    if not os.path.exists(place):
        pytest.skip(f"there is no {place}")
    start = time.monotonic()
    said = refuse(train(domain, place), capsys)
    assert place in said and time.monotonic() - start < 10


def test_folders_of_the_kernel_are_not_walked(tmp_path, monkeypatch, capsys) -> None:
    (tmp_path / "a" / "kernel").mkdir(parents=True)
    monkeypatch.setattr(places, "_kernel_devices", lambda: frozenset([os.stat("/proc").st_dev]))
    from unitrans.domains.vision.reading import find_images

    (tmp_path / "link").symlink_to("/proc")
    assert find_images(tmp_path).unreadable == [("link", "a file system of the kernel")]


def feed(pipe: Path, content: bytes, wait: float = 0.0) -> threading.Thread:
    def write() -> None:
        time.sleep(wait)
        with pipe.open("wb") as file:
            file.write(content)

    os.mkfifo(pipe)
    writer = threading.Thread(target=write, daemon=True)
    writer.start()
    return writer


@pytest.mark.parametrize("name", ["x.csv", "x", "x.csv.gz", "63"])
@pytest.mark.parametrize("domain", ["graph", "text"])
def test_a_pipe_is_read_once_and_used_like_a_file(domain, name, tmp_path, capsys, monkeypatch) -> None:
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    content = table(domain)
    feed(tmp_path / name, gzip.compress(content) if name.endswith(".gz") else content)
    assert main([*train(domain, tmp_path / name), "train.max_steps=1"]) == 0, capsys.readouterr().err
    capsys.readouterr()


def test_a_pipe_that_brings_nothing_says_so(tmp_path, capsys, monkeypatch) -> None:
    monkeypatch.setattr(places, "PATIENCE", 0.1)
    feed(tmp_path / "x.csv", table("graph"), wait=1.0)
    assert main([*train("graph", tmp_path / "x.csv"), "train.max_steps=1"]) == 0
    assert f"still waiting for what {tmp_path / 'x.csv'} brings" in capsys.readouterr().err


def test_the_shell_gives_a_table_by_process_substitution(tmp_path) -> None:
    (tmp_path / "x.csv.gz").write_bytes(gzip.compress(table("graph")))
    words = " ".join(train("graph", f"<(zcat {tmp_path / 'x.csv.gz'})"))
    command = f"{Path(sys.executable).with_name('unitrans')} {words} train.max_steps=1"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr[-500:]


def records(bad: tuple[int, ...]) -> bytes:
    """An SDF file of ethanols with a title each; those in `bad` are of a version that there is not."""
    atoms = "".join(f"    {n}.0000    0.0000    0.0000 {kind}   0  0\n" for n, kind in enumerate("CCO"))
    record = "{title}\n  x\n\n  3  2  0  0  0  0  0  0  0  0999 {version}\n" + atoms
    record += "  1  2  1  0\n  2  3  1  0\nM  END\n> <y>\n{title}.5\n\n$$$$\n"
    titles = ((n, "V9999" if n in bad else "V2000") for n in range(40))
    return "".join(record.format(title=n, version=version) for n, version in titles).encode()


def test_records_that_cannot_be_read_are_named(tmp_path) -> None:
    from unitrans.domains.graph.config import DataConfig
    from unitrans.domains.graph.reading import read_rows

    path = tmp_path / "x.sdf.gz"
    path.write_bytes(gzip.compress(records((3, 39))))
    reasons = read_rows(DataConfig(path=str(path))).table.reasons
    named = {row: f"RDKit cannot read the record '{row}' of the SDF file" for row in (3, 39)}
    assert reasons == [named.get(row, "") for row in range(40)]


@pytest.mark.parametrize("kind", ["cut", "latin1"])
def test_a_damaged_sdf_file(kind, tmp_path, capsys) -> None:
    path = tmp_path / "x.sdf.gz"
    packed = gzip.compress(records(()))
    path.write_bytes(packed[:-30] if kind == "cut" else gzip.compress(records(()).replace(b"7.5", b"7\xfc")))
    assert (
        main(["train", "--domain", "graph", "--objective", "regression", "--data", str(path), "--dry-run"])
        == 2
    )
    said = capsys.readouterr().err.strip().splitlines()[-1]
    assert (
        said.startswith(f"unitrans: {path}: ")
        and ("cut or damaged" if kind == "cut" else "record 8 is not text in UTF-8") in said
    )
