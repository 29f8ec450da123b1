"""Many graphs in a few packed arrays, and the cache of parsed molecules."""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np

from unitrans.domains.graph import chemistry
from unitrans.domains.graph.chemistry import BadMoleculeError, Molecule


@dataclass(frozen=True)
class GraphTable:
    """Graphs one after the other.

    Attributes:
        cu_nodes, cu_edges: int64 [G + 1], starts at 0.
        nodes: integers [T, F].
        edge_index: int32 [2, E], node numbers inside their graph.
        edge_attr: integers [E, Fe].
        names: [G], canonical SMILES of molecules, "" for what is no molecule.
        reasons: [G], why a graph cannot be used, "" for one that can; a graph that cannot has no nodes.
    """

    cu_nodes: np.ndarray
    cu_edges: np.ndarray
    nodes: np.ndarray
    edge_index: np.ndarray
    edge_attr: np.ndarray
    names: list[str]
    reasons: list[str]

    def __len__(self) -> int:
        return len(self.names)

    @property
    def sizes(self) -> np.ndarray:
        """Nodes of each graph, int64 [G]."""
        return np.diff(self.cu_nodes)

    def graph(self, index: int) -> dict[str, np.ndarray]:
        """One graph as a model takes it: nodes int64 [n, F], edge_index int64 [2, e], edge_attr int64 [e, Fe]."""
        n, e = slice(*self.cu_nodes[index : index + 2]), slice(*self.cu_edges[index : index + 2])
        return {
            "nodes": self.nodes[n].astype(np.int64),
            "edge_index": self.edge_index[:, e].astype(np.int64),
            "edge_attr": self.edge_attr[e].astype(np.int64),
        }

    def nodes_of(self, rows: Sequence[int]) -> np.ndarray:
        """The nodes of some graphs, one after the other."""
        chosen = np.zeros(len(self), dtype=bool)
        chosen[np.asarray(rows, dtype=np.int64)] = True
        return self.nodes[np.repeat(chosen, self.sizes)]

    def keys(self) -> list[str]:
        """What graphs are known by wherever they stand: of equal molecules one key, of other graphs each its own."""
        seen: Counter[str] = Counter()
        found = []
        for row, name in enumerate(self.names):
            content = name.encode() or b"".join(part.tobytes() for part in self.graph(row).values())
            key = hashlib.blake2b(content, digest_size=8).hexdigest()
            if not name:
                seen[key] += 1
                key += f".{seen[key]}"
            found.append(key)
        return found

    @classmethod
    def cat(cls, tables: Sequence[GraphTable]) -> GraphTable:
        """Tables one after the other."""
        return cls(
            np.concatenate([[0], np.concatenate([t.sizes for t in tables]).cumsum()]),
            np.concatenate([[0], np.concatenate([np.diff(t.cu_edges) for t in tables]).cumsum()]),
            np.concatenate([t.nodes for t in tables]),
            np.concatenate([t.edge_index for t in tables], axis=1),
            np.concatenate([t.edge_attr for t in tables]),
            [name for t in tables for name in t.names],
            [reason for t in tables for reason in t.reasons],
        )

    @classmethod
    def pack(cls, graphs: Sequence[Molecule | str], widths: tuple[int, int]) -> GraphTable:
        """From graphs, or the reasons why there is none; widths: features of nodes and of edges."""
        good = [graph for graph in graphs if isinstance(graph, Molecule)]
        nodes = [len(g.nodes) if isinstance(g, Molecule) else 0 for g in graphs]
        edges = [g.edge_index.shape[1] if isinstance(g, Molecule) else 0 for g in graphs]
        dtype = good[0].nodes.dtype if good else np.uint8
        empty = (np.zeros((0, width), dtype) for width in widths)
        return cls(
            np.cumsum([0, *nodes]),
            np.cumsum([0, *edges]),
            np.concatenate([next(empty), *(g.nodes for g in good)]),
            np.concatenate([np.zeros((2, 0), np.int32), *(g.edge_index for g in good)], axis=1),
            np.concatenate([next(empty), *(g.edge_attr for g in good)]),
            [g.smiles if isinstance(g, Molecule) else "" for g in graphs],
            ["" if isinstance(g, Molecule) else g for g in graphs],
        )


#: From this many molecules on, several processes parse them, this many at a time.
PARALLEL_FROM, CHUNK = 100_000, 10_000

MOLECULE_WIDTHS = (len(chemistry.NODE_CATEGORIES), len(chemistry.EDGE_CATEGORIES))


def parse(molecules: Iterable[Any], read: Callable[[Any], Molecule]) -> GraphTable:
    """Molecules as `read` makes them, in order; what it refuses is kept with the reason."""
    graphs: list[Molecule | str] = []
    for molecule in molecules:
        try:
            graphs.append(read(molecule))
        except BadMoleculeError as error:
            graphs.append(str(error))
    return GraphTable.pack(graphs, MOLECULE_WIDTHS)


def parse_smiles(
    smiles: Sequence[Any],
    *,
    max_nodes: int,
    largest_fragment: bool,
    featuriser: str = chemistry.FEATURISER,
) -> GraphTable:
    """Parsed molecules, from the cache where the same ones have been parsed in the same way before."""

    def make() -> GraphTable:
        read = partial(
            chemistry.read_smiles,
            max_nodes=max_nodes,
            largest_fragment=largest_fragment,
            featuriser=featuriser,
        )
        workers = len(os.sched_getaffinity(0))
        if len(smiles) < PARALLEL_FROM or workers < 2:
            return parse(smiles, read)
        chunks = [smiles[start : start + CHUNK] for start in range(0, len(smiles), CHUNK)]
        with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
            return GraphTable.cat(list(pool.map(partial(parse, read=read), chunks)))

    key = content_key(
        [text if isinstance(text, str) else "" for text in smiles],
        featuriser,
        chemistry.rdkit_version(),
        *_kinds(smiles),
        max_nodes,
        largest_fragment,
    )
    return cached(key, make)


def _kinds(smiles: Sequence[Any]) -> list[str]:
    """What texts hold that was read otherwise before, so that caches of then do not serve."""
    texts = [text for text in smiles if isinstance(text, str)]
    found = {"inchi": any(text.startswith(chemistry.INCHI) for text in texts)}
    found["unmapped"] = any(":" in text for text in texts)
    return [kind for kind, there in found.items() if there]


def content_key(texts: Iterable[str], *settings: object) -> str:
    """A name for the content of a column and how it was read."""
    digest = hashlib.blake2b(repr(settings).encode(), digest_size=16)
    for text in texts:
        digest.update(text.encode("utf-8", "surrogateescape") + b"\n")
    return digest.hexdigest()


def cache_folder() -> Path:
    """UNITRANS_CACHE, else a folder in XDG_CACHE_HOME or ~/.cache."""
    base = os.environ.get("UNITRANS_CACHE")
    if base:
        return Path(base) / "graph"
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "unitrans" / "graph"


def cached(key: str, make: Callable[[], GraphTable]) -> GraphTable:
    """The table of that key; made and kept where it is not there yet."""
    return _from_arrays(_cached_arrays(key, lambda: _to_arrays(make())))


def cached_values(key: str, make: Callable[[], np.ndarray]) -> np.ndarray:
    """The same for one array."""
    return _cached_arrays(key, lambda: {"values": make()})["values"]


def _cached_arrays(key: str, make: Callable[[], dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
    """A file that cannot be read is made again; where the cache cannot be written there is none."""
    path = cache_folder() / f"{key}.npz"
    try:
        with np.load(path, allow_pickle=False) as arrays:
            return dict(arrays)
    except (OSError, ValueError, KeyError, EOFError, BadZipFile):
        pass
    arrays = make()
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=path.parent, suffix=".tmp", delete=False) as file:
            np.savez(file, **arrays)  # type: ignore[arg-type]
        os.replace(file.name, path)
    except OSError:
        pass
    return arrays


def _to_arrays(table: GraphTable) -> dict[str, np.ndarray]:
    arrays = {name: getattr(table, name) for name in "cu_nodes cu_edges nodes edge_index edge_attr".split()}
    for name in ("names", "reasons"):
        text = "\n".join(value.replace("\n", " ") for value in getattr(table, name))
        arrays[name] = np.frombuffer(text.encode("utf-8", "surrogateescape"), dtype=np.uint8)
    return arrays


def _from_arrays(arrays: dict[str, np.ndarray]) -> GraphTable:
    count = len(arrays["cu_nodes"]) - 1
    texts = {}
    for name in ("names", "reasons"):
        lines = arrays.pop(name).tobytes().decode("utf-8", "surrogateescape").split("\n")
        texts[name] = lines if count else []
        assert len(texts[name]) == count, f"{name}: {len(texts[name])} lines for {count} graphs"
    return GraphTable(**arrays, names=texts["names"], reasons=texts["reasons"])
