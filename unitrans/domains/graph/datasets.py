"""Data sets of PyTorch Geometric and of the Open Graph Benchmark as rows of graphs."""

from __future__ import annotations

import inspect
import itertools
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from unitrans.domains.foreign import guarded, load
from unitrans.domains.graph import chemistry
from unitrans.domains.graph.chemistry import Molecule
from unitrans.domains.graph.config import DataConfig
from unitrans.domains.graph.reading import Rows
from unitrans.domains.graph.splits import Parts
from unitrans.domains.graph.table import GraphTable, parse_smiles
from unitrans.errors import nearest_name

#: Fields of PyG's graphs that are read, or say nothing about their nodes.
_READ = {"x", "edge_index", "edge_attr", "y", "smiles", "batch", "ptr", "idx"}
_LOOKED_AT = 64  # graphs with SMILES, to see how their features were made


def from_pyg(graphs: Iterable[Any], max_nodes: int, official: Parts | None = None) -> Rows:
    """Rows of PyG `Data` objects: x and edge_attr are categories, y the label (one or several numbers).

    ValueError names the graph whose features are not categories, or whose edges lead nowhere.
    """
    read: list[Molecule | str] = []
    labels, names = [], []
    unread: dict[str, None] = {}
    bare = False
    for number, data in enumerate(graphs):
        try:
            graph = _graph(data)
        except ValueError as error:
            raise ValueError(f"data.path: graph {number}: {error}") from None
        unread |= dict.fromkeys(_unread(data))
        bare = bare or data.x is None
        names.append(str(getattr(data, "smiles", "") or ""))
        label = getattr(data, "y", None)
        labels.append(np.zeros(0) if label is None else np.asarray(label, dtype=np.float64).reshape(-1))
        count = len(graph.nodes)
        if count == 0:
            read.append("the graph has no nodes")
        elif count > max_nodes:
            read.append(f"the graph has {count} nodes, data.max_nodes is {max_nodes}")
        else:
            read.append(graph)
    rows = _rows(read, np_stack(labels), official, names)
    if unread:
        rows.notes.append(f"of the nodes x is read, not {', '.join(unread)}")
    if bare:
        rows.notes.append("the graphs have no x: all their nodes are alike")
    return rows


def _graph(data: Any) -> Molecule:
    """The graph of a `Data`. ValueError in one sentence for one that is none."""
    from unitrans.nn.graph import categories

    count = int(data.num_nodes or 0)
    x, attr = getattr(data, "x", None), getattr(data, "edge_attr", None)
    others = _unread(data)
    if x is None and others:
        raise ValueError(
            f"it has no x, and {' and '.join(others)} of its nodes are not read: make them categories in x, such as "
            f"data.x = data.{others[0]}.long().view(data.num_nodes, -1)"
        )
    edges = data.edge_index if data.edge_index is not None else torch.zeros(2, 0, dtype=torch.int64)
    if edges.is_floating_point():
        raise ValueError(f"expected whole numbers in edge_index, got {edges.dtype}")
    if edges.numel() and not 0 <= int(edges.min()) <= int(edges.max()) < count:
        wrong = int(edges.min()) if int(edges.min()) < 0 else int(edges.max())
        raise ValueError(f"edge_index names node {wrong}, expected 0 to {count - 1}, as it has {count} nodes")
    x = categories("x", torch.zeros(count, 1) if x is None else x, count)
    attr = torch.zeros(edges.shape[1], 1) if attr is None else attr
    attr = categories("edge_attr", attr, edges.shape[1])
    for name, values in (("x", x), ("edge_attr", attr)):
        if values.numel() and int(values.min()) < 0:
            raise ValueError(f"{name}: expected categories from 0 on, got {int(values.min())}")
    nodes, index, bonds = (values.numpy().astype(np.int32) for values in (x, edges, attr))
    return Molecule("", nodes, index, bonds)


def _unread(data: Any) -> list[str]:
    """Fields about nodes that are not read."""
    count = int(data.num_nodes or 0)
    return [
        name
        for name, value in data.to_dict().items()
        if name not in _READ and torch.is_tensor(value) and value.dim() > 0 and len(value) == count > 1
    ]


def np_stack(labels: list[np.ndarray]) -> np.ndarray:
    """Labels [G, K]; ValueError where graphs have different numbers of them."""
    widths = {len(label) for label in labels}
    if len(widths) > 1:
        raise ValueError(f"data.path: expected equally many labels y in every graph, got {sorted(widths)}")
    return np.stack(labels) if labels else np.zeros((0, 0))


def _rows(graphs: list[Molecule | str], labels: np.ndarray, official: Parts | None, names: list[str]) -> Rows:
    good = [graph for graph in graphs if isinstance(graph, Molecule)]
    if not good:
        raise ValueError("data.path: expected graphs, got none that can be used")
    widths = (good[0].nodes.shape[1], good[0].edge_attr.shape[1])
    for number, graph in enumerate(graphs):
        if isinstance(graph, Molecule) and (graph.nodes.shape[1], graph.edge_attr.shape[1]) != widths:
            raise ValueError(
                f"data.path: graph {number}: expected {widths[0]} features of nodes and {widths[1]} of edges as in "
                f"the first graph, got {graph.nodes.shape[1]} and {graph.edge_attr.shape[1]}"
            )
    table = GraphTable.pack(graphs, widths)
    columns = {"y" if labels.shape[1] == 1 else f"y{k}": labels[:, k] for k in range(labels.shape[1])}
    rows = Rows(
        table,
        columns,
        official,
        molecules=False,
        default_target=list(columns) or None,
        featuriser=chemistry.OWN,
    )
    _with_smiles(rows, names)
    if any(names):
        _tell_featuriser(rows, names, graphs)
    return rows


def _tell_featuriser(rows: Rows, names: Sequence[str], graphs: Sequence[Molecule | str]) -> None:
    """Notes by which rules the features were made, where that is not how this program makes them."""
    found = [
        (name, graph)
        for name, graph in zip(names, graphs, strict=True)
        if name and isinstance(graph, Molecule)
    ]
    found = found[:: max(1, len(found) // _LOOKED_AT)]
    rows.featuriser, different = (
        chemistry.recognise(*zip(*found, strict=True)) if found else (chemistry.OWN, 0)
    )
    if rows.featuriser == chemistry.PYG:
        rows.notes.append(
            "features are those of torch_geometric.utils.from_smiles, not OGB's: SMILES that the model is asked about "
            "are read likewise"
        )
    elif rows.featuriser == chemistry.OWN:
        rows.notes.append(
            "features are not those that are read from SMILES: the model can be asked about such graphs (.pt), not "
            "about SMILES"
        )
    elif different:
        rows.notes.append(
            f"{different:,} of {len(found):,} graphs that were looked at differ from what their SMILES give with this "
            "version of RDKit"
        )


def _with_smiles(rows: Rows, names: list[str]) -> None:
    """Names them by canonical SMILES where the data set has SMILES for every graph; else each graph is its own unit."""
    if not names or not all(names):
        return
    try:
        chem = chemistry.require_rdkit()
    except ImportError:
        return
    for row, name in enumerate(names):
        mol = chem.MolFromSmiles(name)
        if mol is not None and not rows.table.reasons[row]:
            chemistry.unmap(mol)
            rows.table.names[row] = chem.MolToSmiles(mol)
    rows.molecules = all(
        name or reason for name, reason in zip(rows.table.names, rows.table.reasons, strict=True)
    )


def saved_list(path: Path, data: DataConfig) -> Rows:
    """A list of `Data`, or an InMemoryDataset's (data, slices), from torch.save. Nothing but tensors and PyG's own
    containers is unpickled."""
    geometric = _geometric()
    with guarded(f"data.path: {path}", "a list of PyG Data"):
        loaded = load(path)
        if isinstance(loaded, tuple) and len(loaded) >= 2:
            fields, slices = loaded[0], loaded[1]
            whole = geometric.data.Data.from_dict(fields) if isinstance(fields, Mapping) else fields
            count = len(next(iter(slices.values()))) - 1
            separate = geometric.data.separate.separate
            loaded = [separate(geometric.data.Data, whole, i, slices, decrement=False) for i in range(count)]
    return from_pyg(_checked(loaded, str(path)), data.max_nodes)


def _containers(geometric: Any) -> list[type]:
    """PyG's classes of data, which are dictionaries with other names."""
    named = (
        (geometric.data.data, "Data DataEdgeAttr DataTensorAttr"),
        (geometric.data.storage, "GlobalStorage BaseStorage NodeStorage EdgeStorage"),
    )
    return [getattr(where, name) for where, names in named for name in names.split() if hasattr(where, name)]


def pyg(data: DataConfig) -> Rows:
    """pyg:NAME:ROOT, a class of torch_geometric.datasets; its own split where its constructor has one.

    Its loaders run guarded (:mod:`unitrans.domains.foreign`): the files below ROOT are read as data.
    """
    _, _, rest = data.path.partition(":")
    name, _, root = rest.partition(":")
    geometric = _geometric()
    import torch_geometric.datasets as known

    cls = getattr(known, name, None)
    if not isinstance(cls, type) or not issubclass(cls, geometric.data.Dataset):
        raise ValueError(
            f"data.path: torch_geometric.datasets has no data set {name!r}; expected pyg:NAME:ROOT"
            f"{nearest_name(name, dir(known))}"
        )
    root = root or str(Path("data") / name.lower())
    parameters = inspect.signature(cls).parameters
    missing = [
        parameter.name
        for parameter in list(parameters.values())[1:]
        if parameter.default is parameter.empty and parameter.kind is parameter.POSITIONAL_OR_KEYWORD
    ]
    if missing:
        raise ValueError(
            f"data.path: pyg:{name}: this class needs {', '.join(missing)} as well, which pyg:NAME:ROOT cannot say; "
            "save its graphs with torch.save(list(dataset), 'graphs.pt') and name that file"
        )
    extra: dict[str, Any] = {"subset": True} if "subset" in parameters else {}
    with guarded(f"data.path: {name} in {root}", "", sys.modules[cls.__module__]):
        if "split" not in parameters:
            whole = list(cls(root))
        else:
            parts = [list(cls(root, split=part, **extra)) for part in ("train", "val", "test")]
    if "split" not in parameters:
        return from_pyg(_checked(whole, root), data.max_nodes)
    ends = np.cumsum([0, *map(len, parts)]).tolist()
    official = Parts(*(list(range(a, b)) for a, b in itertools.pairwise(ends)))
    return from_pyg(_checked([graph for part in parts for graph in part], root), data.max_nodes, official)


def _checked(graphs: Any, where: str) -> list[Any]:
    """A list of Data whose fields are what their names say; ValueError for any other content."""
    if not isinstance(graphs, list) or not all(hasattr(item, "edge_index") for item in graphs):
        raise ValueError(
            f"data.path: {where}: expected a list of PyG Data objects, got {type(graphs).__name__}"
        )
    with guarded(f"data.path: {where}: a graph"):
        for number, graph in enumerate(graphs):
            for field in ("x", "edge_index", "edge_attr", "y"):
                value = getattr(graph, field, None)
                if not (value is None or torch.is_tensor(value) or (field == "y" and np.ndim(value) < 2)):
                    raise ValueError(
                        f"graph {number}: expected a tensor as {field}, got {type(value).__name__}"
                    )
            edges = graph.edge_index
            if edges is not None and (edges.dim() != 2 or edges.shape[0] != 2):
                raise ValueError(f"graph {number}: expected edge_index [2, E], got {list(edges.shape)}")
            int(graph.num_nodes or 0)
    return graphs


def _geometric() -> Any:
    try:
        import torch_geometric
        import torch_geometric.data.separate
    except ImportError as error:
        raise ImportError(
            "PyG data sets need torch-geometric, which is not installed: pip install 'unitrans[graph]'"
        ) from error
    return torch_geometric


def ogb(data: DataConfig) -> Rows:
    """pcqm4mv2[:ROOT] and ogbg-NAME[:ROOT], read by the loaders of the ogb package, with their official splits."""
    try:
        import ogb as package
    except ImportError as error:
        raise ImportError(
            "OGB data sets need the ogb package, which is not installed: pip install 'unitrans[ogb]'"
        ) from error
    del package
    name, _, root = data.path.partition(":")
    return (_pcqm if name.lower() == "pcqm4mv2" else _ogbg)(
        name.lower(), Path(root or "dataset").expanduser(), data
    )


def _pcqm(name: str, root: Path, data: DataConfig) -> Rows:
    """PCQM4Mv2 from its SMILES: the few that do not parse in newer RDKit are listed, where the official processor
    stops. The labels of both test parts are hidden, so there is none."""
    folder = root / "pcqm4m-v2"
    _must_exist(folder / "raw" / "data.csv.gz", "ogb.lsc import PCQM4Mv2Dataset as D; D", root, f"'{root}'")
    from ogb.lsc import PCQM4Mv2Dataset

    with guarded(f"data.path: a file of {folder}"):
        loaded = PCQM4Mv2Dataset(root=str(root), only_smiles=True)
        split = loaded.get_idx_split()
    order = chemistry.ORDERS[data.atom_order]
    table = parse_smiles(
        loaded.graphs, max_nodes=data.max_nodes, largest_fragment=data.largest_fragment, featuriser=order
    )
    labels = np.asarray(loaded.labels, dtype=np.float64)
    official = Parts([int(i) for i in split["train"]], [int(i) for i in split["valid"]], [])
    return Rows(
        table,
        {"homolumogap": labels},
        official,
        smiles_column="smiles",
        default_target=["homolumogap"],
        featuriser=order,
    )


def _ogbg(name: str, root: Path, data: DataConfig) -> Rows:
    """ogbg-mol*: graphs as they are in its files, SMILES from mapping/mol.csv.gz."""
    folder = root / name.replace("-", "_")
    files = [
        folder / "raw" / "edge.csv.gz",
        folder / "raw" / "data.npz",
        folder / "processed" / "data_processed",
    ]
    if not any(file.exists() for file in files):
        _must_exist(
            files[0], "ogb.graphproppred import GraphPropPredDataset as D; D", root, f"'{name}', '{root}'"
        )
    from ogb.graphproppred import GraphPropPredDataset

    with guarded(f"data.path: a file of {folder}"):
        loaded = GraphPropPredDataset(name=name, root=str(root))
        split = loaded.get_idx_split()
    if loaded.task_type not in ("binary classification", "regression"):
        raise ValueError(
            f"data.path: {name} is a task of {loaded.task_type!r}: expected classification or regression"
        )
    read: list[Molecule | str] = []
    for graph in loaded.graphs:
        count = int(graph["num_nodes"])
        if count == 0 or count > data.max_nodes:
            read.append(
                "the graph has no nodes"
                if count == 0
                else f"the graph has {count} nodes, data.max_nodes is {data.max_nodes}"
            )
            continue
        nodes, attr = (
            np.zeros((size, 1), np.int32) if graph[key] is None else np.asarray(graph[key], dtype=np.int32)
            for key, size in (("node_feat", count), ("edge_feat", graph["edge_index"].shape[1]))
        )
        read.append(Molecule("", nodes, graph["edge_index"].astype(np.int32), attr))
    mapping = folder / "mapping" / "mol.csv.gz"
    names: list[str] = []
    if mapping.exists():
        from unitrans.data.table import Layout, open_table

        names = open_table(mapping, str(mapping), Layout(",")).columns()[0].get("smiles", [])
    official = Parts(*([int(i) for i in split[part]] for part in ("train", "valid", "test")))
    labels = np.asarray(loaded.labels, dtype=np.float64).reshape(len(read), -1)
    return _rows(read, labels, official, names)


def _must_exist(file: Path, statement: str, root: Path, arguments: str) -> None:
    """ValueError that says how to fetch what is missing: the loaders would ask on the terminal."""
    if not file.exists():
        raise ValueError(
            f"data.path: there is no {file}; fetch the data set once with: "
            f'python -c "from {statement}({arguments})"'
        )
