"""Graphs asked for by index, and how the rows of a data set become a training, a validation and a test source."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from unitrans.domains.base import Sample, Source
from unitrans.domains.graph import chemistry, splits
from unitrans.domains.graph.config import DataConfig
from unitrans.domains.graph.labels import Targets, meaning, read_targets, value_meaning
from unitrans.domains.graph.reading import Rows, read_rows
from unitrans.domains.graph.splits import Parts, SplitKind
from unitrans.domains.graph.table import GraphTable
from unitrans.domains.kept import Kept
from unitrans.objectives.base import LabelKind, Labels
from unitrans.stored import read_json

SPLIT_FILE = "split.json"  # of a run: the keys of the graphs that are held out


class GraphSource(Source):
    """Some rows of a data set; see ``unitrans.domains.base.Source``.

    Attributes:
        table, rows: the graphs, and which of them these are.
        num_tokens: nodes of each, and the graph token.
        values: labels of all rows of the data set, as `Targets.values`; None: none were asked for.
        molecules: whether graphs have SMILES.
        split: how graphs are held out.
        reading: what it takes to read other molecules as these were read.
        validation, test: of the training source, the other parts; None where there are none.
    """

    def __init__(
        self, table: GraphTable, rows: Sequence[int], values: np.ndarray | None, labels: Labels | None
    ) -> None:
        self.table, self.rows, self.values, self.labels = (
            table,
            np.asarray(rows, dtype=np.int64),
            values,
            labels,
        )
        super().__init__([f"row {row + 1}" for row in self.rows])
        self.num_tokens = (table.sizes[self.rows] + 1).tolist()
        self.molecules = True
        self.split: SplitKind | None = None
        self.validation: GraphSource | None = None

    def load(self, index: int) -> Sample:
        """{"id", "nodes" int64 [n, F], "edge_index" int64 [2, e], "edge_attr" int64 [e, Fe], "smiles", and "label"}."""
        row = int(self.rows[index])
        sample: Sample = {"id": self.ids[index], "smiles": self.table.names[row], **self.table.graph(row)}
        return sample if self.values is None else sample | {"label": self.values[row]}

    def class_numbers(self) -> list[int]:
        """The class of every sample."""
        assert self.values is not None
        return [int(value) for value in self.values[self.rows]]

    def extremes(self) -> list[int]:
        """Graphs with the largest values of every feature of nodes and edges, and with the largest degrees."""
        table, chosen = self.table, np.zeros(len(self.table), dtype=bool)
        chosen[self.rows] = True
        of_node = np.repeat(np.arange(len(table)), table.sizes)
        of_edge = np.repeat(np.arange(len(table)), np.diff(table.cu_edges))
        starts = table.cu_nodes[:-1][of_edge]
        degrees = [np.bincount(ends + starts, minlength=len(of_node)) for ends in table.edge_index]
        found = set()
        for graph, values in ((of_node, [*table.nodes.T, *degrees]), (of_edge, table.edge_attr.T)):
            for column in values if chosen[graph].any() else ():
                found.add(int(graph[np.where(chosen[graph], column, -1).argmax()]))
        return [index for index, row in enumerate(self.rows) if int(row) in found]

    @property
    def smiles(self) -> list[str]:
        """Canonical SMILES of every sample."""
        return [self.table.names[row] for row in self.rows]


def open_sources(
    data: DataConfig, kinds: Sequence[LabelKind], rows: Rows | None = None, kept: Kept | None = None
) -> tuple[GraphSource, GraphSource | None]:
    """See ``GraphDomain.open``. rows: graphs that are in memory already, instead of data.path. kept: see
    ``GraphDomain.reopen``."""
    rows = read_rows(data) if rows is None else rows
    if data.split is None:
        data = data.model_copy(update={"split": "random" if rows.official is None else "official"})
    targets = read_targets(rows, data, kinds, kept) if kinds else None
    table = rows.table
    usable = np.array([not reason for reason in table.reasons], dtype=bool)
    if not usable.any():
        raise ValueError(
            f"data.path: none of {len(table):,} graphs can be used; the first: {table.reasons[0]}"
        )
    labelled = usable if targets is None else usable & targets.known()
    if not labelled.any():
        raise ValueError(f"data.target: none of {int(usable.sum()):,} graphs has a label")
    units = _units(table)
    held_out = None if kept is None else read_held_out(kept.folder)
    if held_out is None:
        parts = _split(rows, data, np.flatnonzero(labelled), units)
    else:
        parts = splits.kept_split(np.flatnonzero(labelled).tolist(), table.keys(), held_out)
    if not parts.train:
        raise ValueError(_nothing_left(data))
    values = None if targets is None else targets.values
    labels = None
    if targets is not None:
        chosen = np.asarray(parts.train)
        labels = None if kept is None else kept.labels
        if labels is None:
            labels = value_meaning(targets, chosen) if "value" in kinds else meaning(targets, chosen)
    train, validation, test = (GraphSource(table, part, values, labels) if part else None for part in parts)
    assert train is not None
    for source in (train, validation, test):
        if source is not None:
            source.molecules, source.validation, source.test = rows.molecules, validation, test
            source.split = data.split
            source.reading = _reading(rows, data, targets, parts.train)
    for row in np.flatnonzero(~usable):
        train.skip(f"row {row + 1}", table.reasons[row])
    train.notes += _notes(rows, targets, usable, labelled, units, parts, data)
    if targets is not None and "value" not in kinds:
        _check_classes(targets, parts, data)
    return train, validation


def write_held_out(run: Path, source: GraphSource) -> None:
    """Keeps in a run which graphs are held out, where that follows from all graphs that there are."""
    if source.split in ("column", "official"):
        return
    keys = source.table.keys()
    parts = {"validation": source.validation, "test": source.test}
    held_out = {name: [keys[row] for row in part.rows] if part else [] for name, part in parts.items()}
    (run / SPLIT_FILE).write_text(json.dumps(held_out), encoding="utf-8")


def read_held_out(run: Path) -> dict[str, list[str]] | None:
    """The same again; None where nothing was kept."""
    path = run / SPLIT_FILE
    return read_json(path) if path.is_file() else None


def _nothing_left(data: DataConfig) -> str:
    """Why there is no graph to train on."""
    if data.split in ("scaffold", "scaffold_deepchem"):
        return (
            f"data.split={data.split}: no graph is left to train on, as a scaffold (all molecules without rings share "
            "one) is larger than the part to train on and goes to a part that judges: use data.split=random, or lower "
            "data.validation and data.test"
        )
    return f"data.split={data.split}: no graph is left to train on: choose another split"


def _units(table: GraphTable) -> np.ndarray:
    """int64 [R]: equal for equal molecules; graphs without a name are all different."""
    seen: dict[str, int] = {}
    return np.array(
        [seen.setdefault(name or f"#{row}", len(seen)) for row, name in enumerate(table.names)],
        dtype=np.int64,
    )


def _split(rows: Rows, data: DataConfig, chosen: np.ndarray, units: np.ndarray) -> Parts:
    """Rows of every part."""
    if data.split == "official":
        if rows.official is None:
            raise ValueError(
                "data.split=official: this data set has no split of its own; use random or scaffold"
            )
        allowed = set(chosen.tolist())
        return Parts(*([row for row in part if row in allowed] for part in rows.official))
    if data.split == "column":
        if data.split_column not in rows.columns:
            raise ValueError(
                f"data.split_column={data.split_column!r} is not a column: expected one of "
                f"{', '.join(rows.columns) or 'none'}"
            )
        column = [rows.columns[data.split_column][row] for row in chosen]
        parts, _ = splits.column_split(column, units[chosen].tolist(), data.split_column)
        return Parts(*(chosen[part].tolist() if part else [] for part in parts))
    # Units are numbered in the order of the rows; those of rows that are left out do not count.
    different, own = np.unique(units[chosen], return_inverse=True)
    if data.split == "random":
        unit_parts = splits.random_split(len(different), data.validation, data.test, data.split_seed)
    else:
        if not rows.molecules:
            raise ValueError(
                f"data.split={data.split}: scaffolds are of molecules, and these graphs have no SMILES"
            )
        first = {unit: row for row, unit in zip(reversed(chosen), reversed(own), strict=True)}
        sets = splits.scaffold_sets([rows.table.names[first[unit]] for unit in range(len(different))])
        if data.split == "scaffold":
            unit_parts = splits.scaffold_balanced(sets, data.validation, data.test, data.split_seed)
        else:
            unit_parts = splits.scaffold_by_size(sets, data.validation, data.test)
    return splits.rows_of(unit_parts, own.tolist(), chosen.tolist())


def _reading(rows: Rows, data: DataConfig, targets: Targets | None, train: Sequence[int]) -> dict[str, Any]:
    """What a checkpoint has to know to read new molecules as the training ones were read."""
    reading: dict[str, Any] = {"domain": "graph", "molecules": rows.molecules, "featuriser": rows.featuriser}
    if rows.molecules:
        reading["rdkit"] = chemistry.rdkit_version()
    if rows.featuriser in chemistry.FEATURISERS:
        reading["elements"] = sorted(chemistry.elements(rows.table.nodes_of(train), rows.featuriser))
    return reading | {
        "targets": targets.names if targets is not None else [],
        "columns": {column.name: column.kind for column in targets.columns} if targets is not None else {},
        "missing": data.missing,
        "encoding": data.encoding,
        "smiles_column": rows.smiles_column,
        "max_nodes": data.max_nodes,
        "largest_fragment": data.largest_fragment,
        "features": [rows.table.nodes.shape[1], rows.table.edge_attr.shape[1]],
    }


def _notes(
    rows: Rows,
    targets: Targets | None,
    usable: np.ndarray,
    labelled: np.ndarray,
    units: np.ndarray,
    parts: Parts,
    data: DataConfig,
) -> list[str]:
    notes = list(rows.notes)
    isotopes = [name for name in rows.table.names if chemistry.has_isotopes(name)]
    if isotopes:
        notes.append(
            f"{len(isotopes):,} molecules have isotopes, such as {isotopes[0][:60]}, which the features do not tell: "
            "they count as ordinary atoms"
        )
    if targets is not None:
        notes += [f"target {', '.join(targets.names)}", *targets.notes]
        missing = int(usable.sum() - labelled.sum())
        if missing:
            notes.append(f"{missing:,} graphs without a label are left out")
    sizes = f"{len(parts.train):,} / {len(parts.validation):,} / {len(parts.test):,}"
    seed = f", split_seed {data.split_seed}" if data.split in ("random", "scaffold") else ""
    notes.append(f"split {data.split}{seed}: {sizes} rows to train, to choose the checkpoint, to judge it")
    members: defaultdict[int, list[int]] = defaultdict(list)
    for row in np.flatnonzero(labelled):
        members[int(units[row])].append(int(row))
    several = [listed for listed in members.values() if len(listed) > 1]
    if several:
        text = f"{sum(map(len, several)) - len(several):,} rows repeat a molecule"
        if targets is not None:
            different = sum(_differ(targets.values[listed]) for listed in several)
            text += f", and {different:,} molecules have different labels in different rows"
        notes.append(text + "; all are kept, on one side of the split")
    kept = sum(map(len, parts))
    if kept < labelled.sum() and data.split == "column":
        notes.append(
            f"{int(labelled.sum()) - kept:,} rows are left out: their molecule is in a part that judges"
        )
    return notes


def _differ(values: np.ndarray) -> bool:
    """Whether rows of one molecule say different things."""
    if values.ndim == 1:
        return len(set(values.tolist())) > 1
    low, high = np.nan_to_num(values, nan=np.inf).min(0), np.nan_to_num(values, nan=-np.inf).max(0)
    return bool((high > low).any())


def _check_classes(targets: Targets, parts: Parts, data: DataConfig) -> None:
    """ValueError for a part that judges and has one answer only: its figures would mean nothing."""
    for name, part in (("train", parts.train), ("validation", parts.validation), ("test", parts.test)):
        if not part:
            continue
        values = targets.values[np.asarray(part)].reshape(len(part), -1)
        answers = [len(set(column[np.isfinite(column)].tolist())) for column in values.T]
        if max(answers) < 2:
            raise ValueError(
                f"data.split={data.split}: all {len(part)} samples of the {name} part have the same answer, so "
                "nothing can be judged; choose another data.split or data.split_seed, or a larger part"
            )
