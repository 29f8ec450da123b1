"""Pickles that are programs, behind every door through which a file of the user's is unpickled: none of them runs."""

import gzip
import io
import json
import os
import pickle
import sys
import tarfile
from contextlib import suppress
from pathlib import Path
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest
import torch

from benchmarks.reliability.hostile import Call, exploits
from unitrans.cli import main
from unitrans.domains.foreign import guarded, load

pytestmark = pytest.mark.filterwarnings("ignore:.*(torch.jit|TypedStorage|TorchScript)")


EXPLOITS = tuple(exploits("true"))


@pytest.fixture
def trap(tmp_path):
    """A file that exploits make."""
    place = tmp_path / "ran"
    yield place
    assert not place.exists(), "the file was executed"


def refuse(path: str, capsys) -> None:
    """`unitrans train --data PATH` says in one sentence that it cannot read the data."""
    code = main(["train", "--domain", "graph", "--objective", "regression", "--data", path, "--dry-run"])
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("unitrans: ")]
    assert code == 2 and len(lines) == 1 and lines[0].startswith("unitrans: data.path: "), lines


@pytest.mark.parametrize("name", EXPLOITS)
def test_a_list_of_graphs_that_is_a_program(name, tmp_path, trap, capsys) -> None:
    pytest.importorskip("torch_geometric", reason="needs the graph extra")
    path = tmp_path / "graphs.pt"
    path.write_bytes(exploits(f"touch {trap}")[name])
    refuse(str(path), capsys)


@pytest.mark.parametrize("name", EXPLOITS)
@pytest.mark.parametrize("read", [load, torch.load, "pickle", "numpy", "pandas", "imported"])
def test_every_way_to_unpickle(name, read, tmp_path, trap) -> None:
    """All of them are guarded while loaders of others run, also one that was imported by name before."""
    content = exploits(f"touch {trap}")[name]
    path = tmp_path / "x.pkl"
    path.write_bytes(content)

    def attempt() -> object:
        if read == "pickle":
            return pickle.loads(content)
        if read == "imported":
            return EARLY(io.BytesIO(content)).load()
        if read == "numpy":
            return dict(np.load(path, allow_pickle=True))
        if read == "pandas":
            return pytest.importorskip("pandas").read_pickle(path)
        with path.open("rb") as file:
            return torch.load(file, weights_only=False) if read is torch.load else load(file)

    # The zip files of torch are no .npz, and the first pickle of several is a number.
    is_harmless = "legacy" in name or (read == "numpy" and (name == "program" or name.endswith("zip")))
    refused = pytest.raises(ValueError, match="^it cannot be read")
    with suppress(ValueError) if is_harmless else refused, guarded("it"):
        attempt()


EARLY = pickle.Unpickler


@pytest.mark.parametrize("name", ["reduce", "eval", "legacy", "tar", "program", "reduce in a zip"])
@pytest.mark.parametrize("door", ["pre_transform.pt", "pre_filter.pt", "data_v3.pt"])
def test_processed_files_of_pyg(name, door, tmp_path, trap, capsys) -> None:
    pytest.importorskip("torch_geometric", reason="needs the graph extra")
    for part in ("raw", "processed"):
        (tmp_path / "qm9" / part).mkdir(parents=True)
    for file in ("gdb9.sdf", "gdb9.sdf.csv", "uncharacterized.txt", "qm9_v3.pt"):
        (tmp_path / "qm9" / "raw" / file).write_text("x")
    (tmp_path / "qm9" / "processed" / "data_v3.pt").write_text("x")
    (tmp_path / "qm9" / "processed" / door).write_bytes(exploits(f"touch {trap}")[name])
    refuse(f"pyg:QM9:{tmp_path / 'qm9'}", capsys)


class Graph(SimpleNamespace):
    """What is used of PyG's Data."""

    num_nodes = property(lambda self: len(self.x))

    def to_dict(self) -> dict[str, object]:
        return vars(self)


def stand_in(monkeypatch, read) -> None:
    """In the place of PyG, installed or not, a package with one data set, which reads its one file by `read`."""

    class Folder(list):
        def __init__(self, root: str) -> None:
            for size in read(Path(root) / "sizes"):
                x, edges = torch.zeros(int(size), 1), torch.zeros(2, 0, dtype=torch.int64)
                self.append(Graph(x=x, edge_index=edges, edge_attr=None, y=float(size)))

    content = {"data": {"Dataset": Folder}, "data.separate": {}, "datasets": {"Folder": Folder}}
    whole = ModuleType("torch_geometric")
    monkeypatch.setitem(sys.modules, "torch_geometric", whole)
    for name, fields in content.items():
        module = ModuleType(f"torch_geometric.{name}")
        vars(module).update(fields)
        monkeypatch.setitem(sys.modules, module.__name__, module)
        parent, _, last = name.rpartition(".")
        setattr(getattr(whole, parent) if parent else whole, last, module)


def with_pickle(path: Path) -> object:
    with path.open("rb") as file:
        return pickle.load(file)


WAYS = {
    "torch.load": lambda path: torch.load(path, weights_only=False),
    "pickle.load": with_pickle,
    "pickle.loads": lambda path: pickle.loads(path.read_bytes()),
    "imported before": lambda path: EARLY(io.BytesIO(path.read_bytes())).load(),
    "gzip": lambda path: pickle.loads(gzip.decompress(path.read_bytes())),
}


@pytest.mark.parametrize("name", ["reduce", "eval", "pointers", "gzip", "tar", "program", "reduce in a zip"])
@pytest.mark.parametrize("way", WAYS)
def test_loaders_of_any_pyg(way, name, tmp_path, trap, capsys, monkeypatch) -> None:
    stand_in(monkeypatch, WAYS[way])
    (tmp_path / "sizes").write_bytes(exploits(f"touch {trap}")[name])
    refuse(f"pyg:Folder:{tmp_path}", capsys)


def test_loaders_of_any_pyg_get_their_data(tmp_path, monkeypatch) -> None:
    from unitrans.domains.graph.config import DataConfig
    from unitrans.domains.graph.reading import read_rows

    stand_in(monkeypatch, lambda path: [*WAYS["pickle.load"](path), *WAYS["pickle.loads"](path)])
    (tmp_path / "sizes").write_bytes(pickle.dumps(np.array([1, 2, 3])))
    rows = read_rows(DataConfig(path=f"pyg:Folder:{tmp_path}"))
    assert rows.columns["y"].tolist() == [1, 2, 3, 1, 2, 3]


def zinc(root: Path, content: bytes) -> str:
    (root / "zinc" / "raw").mkdir(parents=True)
    for part in ("train", "val", "test"):
        (root / "zinc" / "raw" / f"{part}.pickle").write_bytes(content)
        (root / "zinc" / "raw" / f"{part}.index").write_text("0,1,2,3\n")
    return f"pyg:ZINC:{root / 'zinc'}"


@pytest.mark.parametrize("name", ["reduce", "getattr", "rebuild", "nested", "forged dtype"])
def test_raw_pickles_of_pyg(name, tmp_path, trap, capsys) -> None:
    pytest.importorskip("torch_geometric", reason="needs the graph extra")
    refuse(zinc(tmp_path, exploits(f"touch {trap}")[name]), capsys)


@pytest.mark.parametrize("name", ["Data", "zinc", "os", "__builtins__", "Entities", "Cornell"])
def test_what_is_no_data_set_that_a_folder_opens(name, tmp_path, capsys) -> None:
    pytest.importorskip("torch_geometric", reason="needs the graph extra")
    for part in ("raw", "processed"):
        (tmp_path / part).mkdir()
    refuse(f"pyg:{name}:{tmp_path}", capsys)


def test_a_real_set_in_its_own_format_is_read(tmp_path) -> None:
    """ZINC as its authors publish it: pickled dictionaries of tensors; then its processed files."""
    pytest.importorskip("torch_geometric", reason="needs the graph extra")
    from unitrans.domains.graph.config import DataConfig
    from unitrans.domains.graph.reading import read_rows

    bonds = torch.tensor([[0, 1, 0], [1, 0, 2], [0, 2, 0]], dtype=torch.int8)
    molecules = [
        {
            "num_atom": 3,
            "atom_type": torch.tensor([0, 1, k], dtype=torch.int8),
            "bond_type": bonds,
            "logP_SA_cycle_normalized": torch.tensor([float(k)]),
        }
        for k in range(4)
    ]
    path = zinc(tmp_path, pickle.dumps(molecules, 3))
    for _ in range(2):
        rows = read_rows(DataConfig(path=path))
        assert len(rows.table) == 12 and rows.columns["y"].tolist() == [0, 1, 2, 3] * 3
        assert rows.table.graph(6)["nodes"].tolist() == [[0], [1], [2]]
        assert rows.table.graph(6)["edge_attr"].tolist() == [[1], [1], [2], [2]]
    assert list((tmp_path / "zinc").rglob("pre_transform.pt"))


@pytest.mark.parametrize("protocol", range(6))
def test_data_keeps_its_values(protocol) -> None:
    value = {
        "whole": [1, 2.5, None, True, "ä", b"\x80\xff", (1, 2), {3}, 10**30, 1 + 2j],
        "arrays": [
            np.arange(6).astype(dtype).reshape(2, 3, order="F")
            for dtype in ("i8", ">i4", "<u2", "f4", "f8", "c8", "b1", "f2")
        ],
        "text": np.array(["a", "bcd"]),
        "bytes": np.array([b"ab", b"c"]),
        "scalar": np.float32(2.5),
        "tensors": [torch.arange(6).view(2, 3).t(), torch.ones(2, dtype=torch.bfloat16), torch.Size([2])],
    }
    files = [io.BytesIO() for _ in range(2)]
    torch.save(value, files[0], pickle_protocol=max(protocol, 2))
    torch.save(value, files[1], pickle_protocol=max(protocol, 2), _use_new_zipfile_serialization=False)
    read = []
    for file in files:
        file.seek(0)
        read.append(load(file))
    with guarded("it"):
        read.append(pickle.loads(pickle.dumps(value, protocol)))
    for found in read:
        assert found["whole"] == value["whole"] and found["scalar"] == 2.5
        for name in ("arrays", "tensors"):
            for a, b in zip(found[name], value[name], strict=True):
                if isinstance(b, torch.Size):
                    assert a == b
                else:  # NumPy itself turns the bytes of arrays round to the order of the machine
                    assert (a.dtype == b.dtype or b.dtype == np.dtype(">i4")) and (a == b).all()
        assert (found["text"] == value["text"]).all() and (found["bytes"] == value["bytes"]).all()
    assert pickle.loads(pickle.dumps(Path("x"))) == Path("x")  # outside, pickle is as it was


def test_a_tensor_larger_than_its_storage_is_refused() -> None:
    small = np.uint8(129), np.uint8(2)  # 128 * 2 wraps around to 0
    for size, stride in (((1 << 40,), (1,)), ((2,), (-1,)), ((3, 3), (3, 1)), ((small[0],), (small[1],))):
        content = pickle.dumps(
            Call(torch._utils._rebuild_tensor_v2, torch.ones(4).storage(), 0, size, stride, False, None)
        )
        with pytest.raises(ValueError, match="larger than what the file stores"), guarded("it"):
            pickle.loads(content)


def test_members_of_archives_stay_in_their_folder(tmp_path) -> None:
    archive = tmp_path / "raw.tar.gz"
    with tarfile.open(archive, "w:gz") as tar:
        info = tarfile.TarInfo("../outside")
        tar.addfile(info, io.BytesIO(b""))
    (tmp_path / "in").mkdir()
    with pytest.raises(ValueError, match="it cannot be read"), guarded("it"), tarfile.open(archive) as tar:
        tar.extractall(tmp_path / "in")
    assert not (tmp_path / "outside").exists()


def test_expressions_of_tables_are_not_evaluated(tmp_path, trap) -> None:
    """A data set of hypergraphs evaluates a column of its table."""
    datasets = pytest.importorskip("torch_geometric.datasets", reason="needs the graph extra")
    if not hasattr(datasets, "CornellTemporalHyperGraphDataset"):
        pytest.skip("this release of PyG has no data set that evaluates a table")
    cls = datasets.CornellTemporalHyperGraphDataset
    folder = tmp_path / "email-Eu" / "transductive" / "raw"
    folder.mkdir(parents=True)
    for part in ("train", "val", "test"):
        row = f"\"[1] if open({str(trap)!r}, 'w') else []\",0"
        (folder / f"{part}_df.csv").write_text(f"nodes,timestamp\n{row}\n")
    with pytest.raises(ValueError, match="it cannot be read"), guarded("it", "", sys.modules[cls.__module__]):
        cls(str(tmp_path), "email-Eu", setting="transductive")


def test_a_class_that_needs_more_than_a_folder(tmp_path, capsys) -> None:
    pytest.importorskip("torch_geometric", reason="needs the graph extra")
    code = main(
        [
            *"train --domain graph --objective regression --dry-run --data".split(),
            f"pyg:MoleculeNet:{tmp_path}",
        ]
    )
    assert code == 2 and "this class needs name as well" in capsys.readouterr().err


@pytest.mark.parametrize("name", EXPLOITS)
def test_weights_and_checkpoints_that_are_programs(name, tmp_path, trap) -> None:
    """Weights hold tensors alone: torch's own list of what a pickle may name is enough, and shorter."""
    from unitrans.models.files import read_file, read_weights
    from unitrans.training.checkpoint import read_tensors

    path = tmp_path / "pytorch_model.bin"
    path.write_bytes(exploits(f"touch {trap}")[name])
    for read, given in ((read_file, path), (read_weights, tmp_path), (read_tensors, path)):
        if read is read_tensors and name == "legacy in a zip":
            continue  # its first pickle is a number
        with pytest.raises(ValueError) as told:
            read(given)
        assert str(path if read is read_file else tmp_path) in str(told.value)
        assert "\n" not in str(told.value)


@pytest.mark.parametrize("name", ["reduce in a zip", "eval", "legacy", "tar", "program", "cut"])
@pytest.mark.parametrize("command", ["train", "predict", "convert", "export"])
def test_weights_that_are_programs_on_the_command_line(command, name, tmp_path, trap, capsys) -> None:
    path = tmp_path / "weights.pth"
    path.write_bytes(exploits(f"touch {trap}")[name])
    rest = {
        "train": ["--domain", "vision", "--objective", "mim", "--data", "synthetic:8", "--dry-run", "--init"],
        "predict": [str(tmp_path), "--checkpoint"],
        "convert": ["--to", "hf", str(tmp_path / "out")],
        "export": ["--to", "onnx", "-o", str(tmp_path / "m.onnx"), "--checkpoint"],
    }[command]
    code = main([command, *([str(path), *rest] if command == "convert" else [*rest, str(path)])])
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("unitrans: ")]
    assert code == 2 and len(lines) == 1, lines


@pytest.mark.parametrize("name", EXPLOITS)
def test_arrays_as_images_that_are_programs(name, tmp_path, trap) -> None:
    from unitrans.domains.vision.reading import BrokenImageError, read_image

    objects = io.BytesIO()
    np.save(objects, np.array([Call(os.system, f"touch {trap}")], dtype=object))
    for content in (exploits(f"touch {trap}")[name], objects.getvalue()):
        path = tmp_path / "x.npy"
        path.write_bytes(content)
        with pytest.raises(BrokenImageError):
            read_image(path, 3, "dtype")


@pytest.mark.parametrize("kind", ["musicgen_decoder", "encodec", "unitrans-swin", "nothing"])
@pytest.mark.parametrize("command", ["train", "predict", "export"])
def test_code_beside_weights_is_not_even_offered(command, kind, tmp_path, trap, capsys, monkeypatch) -> None:
    """transformers would ask on the terminal whether to run what auto_map names, and read the answer from a table."""
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "evil.py").write_text(f"open({str(trap)!r}, 'w')\nclass Model: ...\n")
    code = {
        "AutoModel": "evil.Model",
        "AutoConfig": "evil.Model",
        "AutoTokenizer": ["evil.Model", "evil.Model"],
    }
    stored = {"model_type": "unitrans-masked-signal", "objective": "mim", "auto_map": code}
    stored["encoder"] = {"model_type": kind, "auto_map": code}
    for name in ("config.json", "tokenizer_config.json"):
        (folder / name).write_text(json.dumps(stored))
    (folder / "model.safetensors").write_bytes(b"\x02\0\0\0\0\0\0\0{}")
    monkeypatch.setattr("builtins.input", lambda *_: pytest.fail("asked"))
    rest = {
        "train": ["--domain", "vision", "--objective", "mim", "--data", "x", "--dry-run", "--init"],
        "predict": [str(tmp_path), "--checkpoint"],
        "export": ["--to", "onnx", "-o", str(tmp_path / "m.onnx"), "--checkpoint"],
    }[command]
    assert main([command, *rest, str(folder)]) == 2
    said = capsys.readouterr()
    assert "custom code" not in said.out + said.err
