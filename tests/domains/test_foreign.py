"""Files of a data set run nothing, whichever reader of whichever library meets them."""

import gzip
import io
import os
import pickle
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from unitrans.cli import main
from unitrans.domains.foreign import arrays_only


class Exploit:
    """Unpickled by a trusting reader it makes a file."""

    def __init__(self, marker: Path, way: str = "system") -> None:
        self.marker, self.way = marker, way

    def __reduce__(self) -> Any:
        if self.way == "system":
            return os.system, (f"touch {self.marker}",)
        if self.way == "eval":
            return eval, (f"open({str(self.marker)!r}, 'w').close()",)
        if self.way == "open":
            return open, (str(self.marker), "w")
        if self.way == "getattr":
            return getattr, (self.marker, "touch")
        return dict, ([("x", Exploit(self.marker))],)  # a harmless constructor around a harmful argument


WAYS = ["system", "eval", "open", "getattr", "inside"]


def as_npz(x: Any) -> bytes:
    file = io.BytesIO()
    np.savez(file, x=np.array([x], dtype=object))
    return file.getvalue()


def as_torch(x: Any, **options: Any) -> bytes:
    file = io.BytesIO()
    torch.save(x, file, **options)
    return file.getvalue()


READERS: dict[str, tuple[Callable[[Any], bytes], Callable[[bytes], Any]]] = {
    **{
        f"pickle {protocol}": (lambda x, p=protocol: pickle.dumps(x, p), pickle.loads)  # type: ignore[misc]
        for protocol in range(6)
    },
    "pickle.load": (pickle.dumps, lambda b: pickle.load(io.BytesIO(b))),
    "pickle.Unpickler": (pickle.dumps, lambda b: pickle.Unpickler(io.BytesIO(b)).load()),
    "the unpickler in Python": (pickle.dumps, lambda b: pickle._Unpickler(io.BytesIO(b)).load()),  # type: ignore[attr-defined]
    "gzip": (lambda x: gzip.compress(pickle.dumps(x)), lambda b: pickle.loads(gzip.decompress(b))),
    "numpy": (as_npz, lambda b: np.load(io.BytesIO(b), allow_pickle=True)["x"]),
    "torch": (as_torch, lambda b: torch.load(io.BytesIO(b), weights_only=False)),
    "torch, old files": (
        lambda x: as_torch(x, _use_new_zipfile_serialization=False),
        lambda b: torch.load(io.BytesIO(b), weights_only=False),
    ),
    "a tensor in a pickle": (
        lambda x: pickle.dumps({"good": torch.ones(3), "bad": x}),
        lambda b: pickle.loads(b),
    ),
}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("reader", READERS)
def test_no_unpickler_calls_anything(reader: str, way: str, tmp_path: Path) -> None:
    write, read = READERS[reader]
    harmful = write(Exploit(tmp_path / "marker", way))
    refusal = "data.path: a file of the data set is not read: it holds"
    with pytest.raises(ValueError, match=refusal), arrays_only("data.path"):
        read(harmful)
    assert not (tmp_path / "marker").exists()


def test_a_reader_of_pandas(tmp_path: Path) -> None:
    pandas = pytest.importorskip("pandas", reason="needs pandas")
    (tmp_path / "x.pkl").write_bytes(pickle.dumps(Exploit(tmp_path / "marker")))
    with pytest.raises(ValueError, match=r"it holds posix.system"), arrays_only("data.path"):
        pandas.read_pickle(tmp_path / "x.pkl")
    assert not (tmp_path / "marker").exists()


def test_a_library_that_goes_on_is_stopped(tmp_path: Path) -> None:
    harmful = pickle.dumps(Exploit(tmp_path / "marker"))
    with (
        pytest.raises(ValueError, match=r"it holds posix.system"),
        arrays_only("data.path"),
        suppress(Exception),
    ):
        pickle.loads(harmful)
    with pytest.raises(ValueError, match="the data set cannot be read: cut off"), arrays_only("data.path"):
        raise EOFError("cut off")


GOOD = {
    "array": np.arange(6.0).reshape(2, 3),
    "objects": [{"a": 1, 2: (3, None)}, {1, 2}, 1.5j, b"bytes", slice(1, 2)],
    "numbers": np.float32(3),
    "tensor": torch.arange(4),
    "half": torch.ones(2, dtype=torch.bfloat16),
}


@pytest.mark.parametrize("reader", READERS)
def test_arrays_and_plain_containers_pass(reader: str) -> None:
    write, read = READERS[reader]
    with arrays_only("data.path"):
        again = read(write(GOOD))
    again = again["good"] if reader == "a tensor in a pickle" else again
    again = again[0] if reader == "numpy" else again
    if reader != "a tensor in a pickle":
        assert np.array_equal(again["array"], GOOD["array"]) and torch.equal(again["tensor"], GOOD["tensor"])


def test_outside_the_guard_python_is_as_it_was() -> None:
    with arrays_only("data.path"):
        pass
    assert pickle.loads(pickle.dumps(os.getcwd)) is os.getcwd


def train(reference: str) -> int:
    return main(
        [
            "train",
            "--domain",
            "graph",
            "--objective",
            "regression",
            "--data",
            reference,
            "--dry-run",
            "train.max_steps=1",
        ]
    )


def hostile_qm9(root: Path, marker: Path) -> None:
    (root / "raw").mkdir(parents=True)
    (root / "processed").mkdir()
    for name in ("gdb9.sdf", "gdb9.sdf.csv", "uncharacterized.txt", "qm9_v3.pt"):
        (root / "raw" / name).write_text("x")
    (root / "processed" / "data_v3.pt").write_text("x")
    torch.save(Exploit(marker), root / "processed" / "pre_transform.pt")


def hostile_processed(root: Path, marker: Path) -> None:
    hostile_qm9(root, marker)
    (root / "processed" / "pre_transform.pt").unlink()
    torch.save(Exploit(marker), root / "processed" / "data_v3.pt")


def hostile_zinc(root: Path, marker: Path) -> None:
    (root / "raw").mkdir(parents=True)
    for name in ("train", "val", "test"):
        (root / "raw" / f"{name}.pickle").write_bytes(pickle.dumps(Exploit(marker)))
        (root / "raw" / f"{name}.index").write_text("0")


def hostile_expression(root: Path, marker: Path) -> None:
    """A data set of hypergraphs evaluates a column of its table."""
    folder = root / "email-Eu" / "transductive" / "raw"
    folder.mkdir(parents=True)
    for part in ("train", "val", "test"):
        row = f"\"[1] if open({str(marker)!r}, 'w') else []\",0"
        (folder / f"{part}_df.csv").write_text(f"nodes,timestamp\n{row}\n")


@pytest.mark.parametrize(
    ("name", "prepare"),
    [("QM9", hostile_qm9), ("QM9", hostile_processed), ("ZINC", hostile_zinc)],
    ids=["pre_transform", "processed", "raw"],
)
def test_data_sets_of_pyg(
    name: str, prepare: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("torch_geometric", reason="needs the graph extra")
    prepare(tmp_path / "root", tmp_path / "marker")
    assert train(f"pyg:{name}:{tmp_path / 'root'}") == 2
    assert not (tmp_path / "marker").exists()
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith("unitrans: data.path: a file of the data set is not read: it holds posix.system")


def test_expressions_of_tables_are_not_evaluated(tmp_path: Path) -> None:
    datasets = pytest.importorskip("torch_geometric.datasets", reason="needs the graph extra")
    if not hasattr(datasets, "CornellTemporalHyperGraphDataset"):
        pytest.skip("this release of PyG has no data set that evaluates a table")
    hostile_expression(tmp_path, tmp_path / "marker")
    with pytest.raises(ValueError, match="it holds an expression of Python"), arrays_only("data.path"):
        datasets.CornellTemporalHyperGraphDataset(str(tmp_path), "email-Eu", setting="transductive")
    assert not (tmp_path / "marker").exists()


@pytest.mark.parametrize(
    ("reference", "sentence"),
    [
        ("pyg:MoleculeNet:x", "pyg:MoleculeNet: this class needs name as well"),
        ("pyg:os:x", "torch_geometric.datasets has no data set 'os'"),
        ("pyg:__builtins__:x", "has no data set '__builtins__'"),
        ("pyg:QM7:x", "has no data set 'QM7'"),
    ],
)
def test_names_that_are_no_data_set(
    reference: str, sentence: str, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("torch_geometric", reason="needs the graph extra")
    assert train(reference) == 2
    assert sentence in capsys.readouterr().err


def test_real_pickles_of_pyg_are_read(tmp_path: Path) -> None:
    """ZINC's raw files as its authors wrote them: dictionaries of tensors."""
    datasets = pytest.importorskip("torch_geometric.datasets", reason="needs the graph extra")
    (tmp_path / "raw").mkdir()
    rng = np.random.default_rng(0)
    for name in ("train", "val", "test"):
        mols = [
            {
                "atom_type": torch.from_numpy(rng.integers(0, 20, 5)),
                "bond_type": torch.triu(torch.ones(5, 5, dtype=torch.int64), 1),
                "logP_SA_cycle_normalized": torch.tensor(float(n)),
            }
            for n in range(4)
        ]
        (tmp_path / "raw" / f"{name}.pickle").write_bytes(pickle.dumps(mols))
        (tmp_path / "raw" / f"{name}.index").write_text("0,1,2,3\n")
    from unitrans.domains.graph.config import DataConfig
    from unitrans.domains.graph.datasets import pyg

    for _ in range(2):  # from the raw files, then from the processed ones
        rows = pyg(DataConfig(path=f"pyg:ZINC:{tmp_path}"))
        assert len(rows.table) == 12 and rows.official is not None
    assert datasets and sys.modules["torch_geometric"]
