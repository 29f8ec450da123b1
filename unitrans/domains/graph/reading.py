"""From what `data.path` names to graphs, columns and, where there is one, a split."""

from __future__ import annotations

import io
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from unitrans.data.files import is_pipe, open_bytes, suffix_of
from unitrans.data.table import KINDS, SMILES_NAMES, Kind, find_delimiter, layout_of, open_table, plain_name
from unitrans.domains.graph import chemistry
from unitrans.domains.graph.config import DataConfig
from unitrans.domains.graph.splits import Parts
from unitrans.domains.graph.table import GraphTable, cached_values, content_key, parse, parse_smiles
from unitrans.domains.places import settled
from unitrans.errors import nearest_name

EMBEDDED = ("nci",)
FILES = (".sdf", ".pt")  # of graphs, which are no tables
_TABLES = (*KINDS, ".smi", ".smiles", ".txt")
INCHI_NAMES = {"inchi", "standardinchi", "inchistring"}
MOLECULE_NAMES = {*SMILES_NAMES, *INCHI_NAMES}
LOOKED_AT = 5  # cells of a column without a name, to see whether it is of molecules


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
        featuriser: by which rules the features were made of molecules; see ``chemistry.FEATURISERS``.
        notes: sentences a person should see.
    """

    table: GraphTable
    columns: dict[str, Any] = field(default_factory=dict)
    official: Parts | None = None
    molecules: bool = True
    smiles_column: str | None = None
    default_target: list[str] | None = None
    featuriser: str = chemistry.FEATURISER
    notes: list[str] = field(default_factory=list)


def read_rows(data: DataConfig, featuriser: str | None = None) -> Rows:
    """The rows of data.path. ValueError in one sentence for what cannot be used.

    featuriser: what features molecules of an SDF file get; None: those of data.atom_order.
    """
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
    suffix = suffix_of(path)
    if suffix == ".sdf":
        return _sdf(path, data, featuriser)
    if suffix == ".pt":
        return datasets.saved_list(path, data)
    if suffix not in _TABLES and not is_pipe(path):
        raise ValueError(
            f"data.path: {data.path!r} is of a kind that is not known: expected {', '.join(_TABLES)}, .sdf or .pt"
        )
    return _table(path, data)


def _table(path: Path, data: DataConfig) -> Rows:
    """The molecules of a table, and its other columns."""
    named = data.target if isinstance(data.target, list) else [data.target]
    known = [*MOLECULE_NAMES, data.smiles_column, *named]
    columns, wrong = open_table(path, str(path), layout_of(data, known), tell=line_kind).columns()
    name = molecule_column(columns, data.smiles_column, str(path))
    table = _parsed(columns[name], data)
    for row, reason in wrong.items():
        table.reasons[row] = reason
    others = {c: v for c, v in columns.items() if c != name}
    return Rows(table, others, smiles_column=name, featuriser=chemistry.ORDERS[data.atom_order])


def _parsed(smiles: Sequence[Any], data: DataConfig) -> GraphTable:
    return parse_smiles(
        smiles,
        max_nodes=data.max_nodes,
        largest_fragment=data.largest_fragment,
        featuriser=chemistry.ORDERS[data.atom_order],
    )


def line_kind(first: str) -> Kind:
    """What a stream without a name is whose first line this is: a header names a column of molecules."""
    cells = first.split(find_delimiter(first))
    return "csv" if any(plain_name(cell.strip('" \r\n')) in MOLECULE_NAMES for cell in cells) else "smi"


def molecule_column(columns: Mapping[str, Sequence[Any]], asked: str | None, where: str) -> str:
    """The column with molecules; of columns without names the first whose cells are molecules."""
    if asked is None and all(name == f"column_{place}" for place, name in enumerate(columns, start=1)):
        for name, cells in columns.items():
            first = [cell for cell in cells if cell][:LOOKED_AT]
            if first and all(chemistry.is_molecule(cell) for cell in first):
                return name
    return smiles_column(list(columns), asked, where)


def smiles_column(names: Sequence[str], asked: str | None, where: str) -> str:
    """The column with SMILES or InChI: the one that is named, or the only one that is called like it."""
    if asked is not None:
        if asked not in names:
            raise ValueError(
                f"data.smiles_column={asked!r} is not a column of {where}: expected one of {', '.join(names)}"
                f"{nearest_name(asked, names)}"
            )
        return asked
    for wanted in (SMILES_NAMES, INCHI_NAMES):
        found = [name for name in names if plain_name(name) in wanted]
        if found:
            break
    if len(found) != 1:
        what = "no column named like SMILES" if not found else f"several ({', '.join(found)})"
        raise ValueError(
            f"{where}: expected one column with SMILES, got {what} among {', '.join(names)}; "
            "choose one with data.smiles_column"
        )
    return found[0]


#: The line behind a record.
_SDF_END = re.compile(rb"^\$\$\$\$[^\n]*\n?", re.MULTILINE)


def _sdf(path: Path, data: DataConfig, featuriser: str | None) -> Rows:
    """Molecules and their properties."""
    if featuriser in (None, chemistry.OWN):
        featuriser = chemistry.ORDERS[data.atom_order]
    chem = chemistry.require_rdkit()
    with open_bytes(path) as file:
        content = file.read()  # RDKit cannot tell what goes wrong while a file is unpacked
    if data.encoding != "auto":
        content = content.decode(data.encoding).encode()
    # RDKit drops a record that it cannot read with its title, which is the first line.
    titles = [block.partition(b"\n")[0].strip() for block in _SDF_END.split(content)]
    records, properties = [], []
    for number, mol in enumerate(chem.ForwardSDMolSupplier(io.BytesIO(content)), start=1):
        records.append((titles[number - 1] if number <= len(titles) else b"", mol))
        try:
            properties.append({} if mol is None else mol.GetPropsAsDict(includePrivate=False))
        except UnicodeDecodeError:
            raise ValueError(
                f"{path}: record {number:,} is not text in UTF-8: name the encoding of the file as data.encoding, "
                "such as cp1252"
            ) from None

    def read(record: tuple[bytes, Any]) -> chemistry.Molecule:
        title, mol = record
        if mol is None:
            named = f" {title.decode('utf-8', 'replace')[:80]!r}" if title else ""
            raise chemistry.BadMoleculeError(f"RDKit cannot read the record{named} of the SDF file")
        return chemistry.to_graph(
            mol, max_nodes=data.max_nodes, largest_fragment=data.largest_fragment, featuriser=featuriser
        )

    if not records:
        raise ValueError(f"{path}: expected molecules, got none")
    names = dict.fromkeys(name for row in properties for name in row)
    columns = {name: [str(row.get(name, "")) for row in properties] for name in names}
    assert featuriser is not None
    return Rows(parse(records, read), columns, featuriser=featuriser)


def _nci(data: DataConfig) -> Rows:
    """The first 5,000 molecules of the NCI's open database as they come with RDKit, and their QED."""
    chemistry.require_rdkit()
    from rdkit import RDConfig

    path = Path(RDConfig.RDDataDir) / "NCI" / "first_5K.smi"
    if not path.is_file():
        raise ValueError(
            f"data.path=nci: this build of RDKit does not carry {path.name}; name a table of your own"
        )
    smiles = open_table(path, str(path)).columns()[0]["smiles"]
    table = _parsed(smiles, data)
    key = content_key(table.names, "qed", chemistry.rdkit_version())
    qed = cached_values(
        key, lambda: np.array([chemistry.quality(name) if name else np.nan for name in table.names])
    )
    order = chemistry.ORDERS[data.atom_order]
    return Rows(table, {"qed": qed}, smiles_column="smiles", default_target=["qed"], featuriser=order)
