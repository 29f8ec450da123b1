"""Graphs that a trained model is asked about: rows of tables, and files of graphs, read as the training data were."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from unitrans.data.files import suffix_of
from unitrans.data.table import Record, Table
from unitrans.domains.base import Sample
from unitrans.domains.graph import chemistry
from unitrans.domains.graph.config import DataConfig
from unitrans.domains.graph.reading import FILES, Rows, read_rows, smiles_column

Read = Callable[[Mapping[str, Any]], Sample]


def molecule_reader(names: Sequence[str], reading: Mapping[str, Any], column: str | None) -> Read:
    """See ``GraphDomain.record_reader``."""
    featuriser = reading.get("featuriser", chemistry.OWN)
    if not reading["molecules"] or featuriser == chemistry.OWN:
        raise ValueError(
            "this model was trained on graphs whose features are not those that are read from SMILES, so it cannot "
            "predict rows of SMILES: give it such graphs in a .pt file, or use it from Python, as in "
            "model.encoder(pyg_batch)"
        )
    if featuriser not in chemistry.FEATURISERS:
        known = " and ".join(map(repr, chemistry.FEATURISERS))
        raise ValueError(
            f"this model reads molecules by the rules {featuriser!r}, this version of unitrans by {known}: use the "
            "version that it was trained with"
        )
    if column is None and reading["smiles_column"] in names:
        column = reading["smiles_column"]
    column = smiles_column(list(names), column, "the input")

    def read(record: Mapping[str, Any]) -> Sample:
        molecule = chemistry.read_smiles(
            record.get(column),
            max_nodes=reading["max_nodes"],
            largest_fragment=reading["largest_fragment"],
            featuriser=featuriser,
        )
        sample = {
            "nodes": molecule.nodes.astype(np.int64),
            "edge_index": molecule.edge_index.astype(np.int64),
            "edge_attr": molecule.edge_attr.astype(np.int64),
        }
        return sample | {"warning": warning(sample, molecule.smiles, reading)}

    return read


class _Row(dict[str, Any]):
    """The columns of a graph in a file, and its place there."""

    def __init__(self, cells: Mapping[str, Any], place: int) -> None:
        super().__init__(cells)
        self.place = place


def file_of_graphs(path: Path, reading: Mapping[str, Any]) -> tuple[Table, Read] | None:
    """The rows of a file of graphs and what makes samples of them; None for any other file. ValueError for graphs
    that the model cannot take."""
    if suffix_of(path) not in FILES:
        return None
    kept = {key: reading[key] for key in ("max_nodes", "largest_fragment", "encoding") if key in reading}
    rows = read_rows(DataConfig(path=str(path), **kept), reading.get("featuriser", chemistry.FEATURISER))
    _check(rows, reading, str(path))
    table, given = rows.table, dict(rows.columns)
    if rows.molecules and "smiles" not in given:
        given = {"smiles": table.names, **given}

    def records() -> Iterator[Record | str]:
        for row, reason in enumerate(table.reasons):
            yield reason or _Row({name: _plain(cells[row]) for name, cells in given.items()}, row)

    def read(record: Mapping[str, Any]) -> Sample:
        assert isinstance(record, _Row)
        sample = table.graph(record.place)
        return sample | {"warning": warning(sample, table.names[record.place], reading)}

    return Table(list(given), "csv", [records], str(path)), read


def _plain(cell: Any) -> Any:
    return cell.item() if isinstance(cell, np.generic) else cell


def _check(rows: Rows, reading: Mapping[str, Any], path: str) -> None:
    widths = [rows.table.nodes.shape[1], rows.table.edge_attr.shape[1]]
    if widths != reading["features"]:
        raise ValueError(
            f"{path}: expected graphs with {reading['features'][0]} features of nodes and {reading['features'][1]} of "
            f"edges as in the training data, got {widths[0]} and {widths[1]}"
        )
    trained = reading.get("featuriser", chemistry.OWN)
    if rows.featuriser != trained and rows.molecules and reading["molecules"]:
        raise ValueError(
            f"{path}: its graphs have the features {rows.featuriser!r}, the model was trained on {trained!r}: give it "
            "the SMILES in a table, or graphs with such features"
        )


def warning(sample: Mapping[str, Any], smiles: str, reading: Mapping[str, Any]) -> str:
    """What makes a prediction for a molecule doubtful; "" where nothing is known to."""
    known = reading.get("elements")  # runs of earlier versions do not say
    found = []
    if known is not None:
        strange = sorted(chemistry.elements(sample["nodes"], reading["featuriser"]) - set(known))
        if strange:
            found.append(f"the training data have no {', '.join(strange)}")
    if chemistry.has_isotopes(smiles):
        found.append("isotopes count as ordinary atoms")
    return "; ".join(found)
