"""From what `data.path` names to graphs, columns and, where there is one, a split."""

from __future__ import annotations

import io
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from unitrans.domains.base import nearest_name
from unitrans.domains.graph import chemistry
from unitrans.domains.graph.config import DataConfig
from unitrans.domains.graph.splits import Parts
from unitrans.domains.graph.table import GraphTable, cached_values, content_key, parse, parse_smiles
from unitrans.domains.places import settled
from unitrans.domains.rows import SMILES_NAMES, open_bytes, open_text, table_lines

EMBEDDED = ("nci",)
_TABLES = (".csv", ".tsv", ".smi", ".txt", ".smiles")


@dataclass
class Rows:
    """Everything a data set holds.

    Attributes:
        table: a graph for each row.
        columns: values by name, one for each row: text of a table, numbers of other sources.
        official: rows of the parts of its own split; None: it has none.
        molecules: whether graphs are molecules with a SMILES (baselines, scaffolds and pictures need one).
        smiles_column: of a table.
        default_target: what is predicted where nothing else was asked for.
    """

    table: GraphTable
    columns: dict[str, Any] = field(default_factory=dict)
    official: Parts | None = None
    molecules: bool = True
    smiles_column: str | None = None
    default_target: list[str] | None = None


def read_rows(data: DataConfig) -> Rows:
    """The rows of data.path. ValueError in one sentence for what cannot be used."""
    from unitrans.domains.graph import datasets

    if data.path in EMBEDDED:
        return _nci(data)
    kind = data.path.partition(":")[0].lower()
    if kind == "pyg":
        return datasets.pyg(data)
    if kind == "pcqm4mv2" or kind.startswith("ogbg-"):
        return datasets.ogb(data)
    path = Path(data.path).expanduser()
    if not path.exists():
        raise ValueError(
            f"data.path: there is no file {data.path!r}; expected a table of molecules, an SDF or .pt file, "
            f"pyg:NAME:ROOT, ogbg-NAME:ROOT, pcqm4mv2:ROOT or {', '.join(EMBEDDED)}{nearest_name(data.path, EMBEDDED)}"
        )
    path = settled(path, "data.path")
    if path.is_dir():
        raise ValueError(f"data.path: {data.path!r} is a folder, expected a file such as molecules.csv")
    suffix = Path(path.stem).suffix if path.suffix == ".gz" else path.suffix
    if suffix.lower() == ".sdf":
        return _sdf(path, data)
    if suffix.lower() == ".pt":
        return datasets.saved_list(path, data)
    if suffix.lower() not in _TABLES:
        raise ValueError(
            f"data.path: {data.path!r} is of a kind that is not known: expected {', '.join(_TABLES)}, .sdf or .pt"
        )
    columns = read_table(path, data.delimiter)
    name = smiles_column(list(columns), data.smiles_column, str(path))
    table = parse_smiles(columns[name], max_nodes=data.max_nodes, largest_fragment=data.largest_fragment)
    return Rows(table, {c: v for c, v in columns.items() if c != name}, smiles_column=name)


def read_table(path: Path, delimiter: str | None) -> dict[str, list[str]]:
    """The columns of a table as text. ValueError for one that is empty or ragged."""
    with open_text(path) as file:
        try:
            lines = list(table_lines(file, path.name, delimiter))
        except UnicodeDecodeError as error:
            raise ValueError(f"{path}: expected text in UTF-8 ({error.reason})") from None
    if len(lines) < 2:
        raise ValueError(f"{path}: expected a header and rows, got {len(lines)} lines")
    header = lines[0]
    for number, row in enumerate(lines[1:], start=1):
        if len(row) != len(header):
            raise ValueError(
                f"{path}: row {number} has {len(row)} cells, the header has {len(header)}: is data.delimiter right?"
            )
    return {name: [row[i] for row in lines[1:]] for i, name in enumerate(header)}


def smiles_column(names: Sequence[str], asked: str | None, where: str) -> str:
    """The column with SMILES: the one asked for, or the only one that is named like it."""
    if asked is not None:
        if asked not in names:
            raise ValueError(
                f"data.smiles_column={asked!r} is not a column of {where}: expected one of {', '.join(names)}"
                f"{nearest_name(asked, names)}"
            )
        return asked
    found = [n for n in names if n.lower().replace("_", "").replace(" ", "").replace("-", "") in SMILES_NAMES]
    if len(found) != 1:
        what = "no column named like SMILES" if not found else f"several ({', '.join(found)})"
        raise ValueError(
            f"{where}: expected one column with SMILES, got {what} among {', '.join(names)}; "
            "choose one with data.smiles_column"
        )
    return found[0]


#: The line behind a record.
_SDF_END = re.compile(rb"^\$\$\$\$[^\n]*\n?", re.MULTILINE)


def _sdf(path: Path, data: DataConfig) -> Rows:
    """Molecules and their properties."""
    chem = chemistry.require_rdkit()
    with open_bytes(path) as file:
        content = file.read()  # RDKit cannot tell what goes wrong while a file is unpacked
    # RDKit drops a record that it cannot read with its title, which is the first line.
    titles = [block.partition(b"\n")[0].strip() for block in _SDF_END.split(content)]
    records, properties = [], []
    for number, mol in enumerate(chem.ForwardSDMolSupplier(io.BytesIO(content)), start=1):
        records.append((titles[number - 1] if number <= len(titles) else b"", mol))
        try:
            properties.append({} if mol is None else mol.GetPropsAsDict(includePrivate=False))
        except UnicodeDecodeError as error:
            raise ValueError(f"{path}: record {number}: expected text in UTF-8 ({error.reason})") from None

    def read(record: tuple[bytes, Any]) -> chemistry.Molecule:
        title, mol = record
        if mol is None:
            named = f" {title.decode('utf-8', 'replace')[:80]!r}" if title else ""
            raise chemistry.BadMoleculeError(f"RDKit cannot read the record{named} of the SDF file")
        return chemistry.to_graph(mol, max_nodes=data.max_nodes, largest_fragment=data.largest_fragment)

    if not records:
        raise ValueError(f"{path}: expected molecules, got none")
    names = dict.fromkeys(name for row in properties for name in row)
    columns = {name: [str(row.get(name, "")) for row in properties] for name in names}
    return Rows(parse(records, read), columns)


def _nci(data: DataConfig) -> Rows:
    """The first 5,000 molecules of the NCI's open database as they come with RDKit, and their QED."""
    chemistry.require_rdkit()
    from rdkit import RDConfig

    path = Path(RDConfig.RDDataDir) / "NCI" / "first_5K.smi"
    if not path.is_file():
        raise ValueError(
            f"data.path=nci: this build of RDKit does not carry {path.name}; name a table of your own"
        )
    smiles = read_table(path, None)["smiles"]
    table = parse_smiles(smiles, max_nodes=data.max_nodes, largest_fragment=data.largest_fragment)
    key = content_key(table.names, "qed", chemistry.rdkit_version())
    qed = cached_values(
        key, lambda: np.array([chemistry.quality(name) if name else np.nan for name in table.names])
    )
    return Rows(table, {"qed": qed}, smiles_column="smiles", default_target=["qed"])
