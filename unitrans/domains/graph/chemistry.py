"""Molecules as graphs: SMILES and RDKit molecules to categories of atoms and bonds. Needs RDKit (the graph extra).

Features, their order and their categories are those of OGB (Hu et al., NeurIPS 2020, arXiv:2005.00687), which
Graphormer's published weights were trained on. The last category of a list takes what the others do not.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

#: Part of every cache key and of every checkpoint: raise it when a molecule would become another graph.
FEATURISER = "ogb-2"  # of the molecule as its canonical SMILES spells it
GIVEN = "ogb-1"  # of its atoms as they were given, as OGB's smiles2graph makes them
PYG = "pyg-1"  # of torch_geometric.utils.from_smiles
FEATURISERS = (FEATURISER, GIVEN, PYG)
#: data.atom_order -> featuriser.
ORDERS = {"canonical": FEATURISER, "given": GIVEN}
OWN = "own"  # of graphs whose features are neither of these
INCHI = "InChI="  # how one begins

NODE_CATEGORIES = (119, 5, 12, 12, 10, 6, 6, 2, 2)
EDGE_CATEGORIES = (5, 6, 2)

_CHIRALITY = {"CHI_UNSPECIFIED": 0, "CHI_TETRAHEDRAL_CW": 1, "CHI_TETRAHEDRAL_CCW": 2, "CHI_OTHER": 3}
_HYBRIDISATION = {"SP": 0, "SP2": 1, "SP3": 2, "SP3D": 3, "SP3D2": 4}
_BOND = {"SINGLE": 0, "DOUBLE": 1, "TRIPLE": 2, "AROMATIC": 3}
_STEREO = {name: n for n, name in enumerate("NONE Z E CIS TRANS ANY".split())}


@dataclass(frozen=True)
class Molecule:
    """A molecule as a graph.

    Attributes:
        smiles: canonical.
        nodes: uint8 [n, 9], categories of atoms.
        edge_index: int32 [2, e], both directions of a bond one after the other.
        edge_attr: uint8 [e, 3], categories of bonds.
    """

    smiles: str
    nodes: np.ndarray
    edge_index: np.ndarray
    edge_attr: np.ndarray


class BadMoleculeError(ValueError):
    """A molecule that cannot be used; the message is the reason."""


def require_rdkit() -> Any:
    """RDKit's Chem module, quiet. ImportError in one sentence where it is missing."""
    try:
        from rdkit import Chem, RDLogger
    except ImportError as error:
        raise ImportError(
            "molecules need RDKit, which is not installed: pip install 'unitrans[graph]' (or pip install rdkit)"
        ) from error
    RDLogger.DisableLog("rdApp.*")  # type: ignore[attr-defined]
    return Chem


def rdkit_version() -> str:
    """The version of RDKit, which decides what parses and what SMILES are canonical."""
    require_rdkit()
    import rdkit

    return str(rdkit.__version__)


def read_smiles(
    text: Any, *, max_nodes: int, largest_fragment: bool, featuriser: str = FEATURISER
) -> Molecule:
    """The molecule of a SMILES, or of an InChI, with the features of one of FEATURISERS.

    Raises:
        BadMoleculeError: it is empty, does not parse, or has more than max_nodes atoms.
    """
    if not isinstance(text, str) or not text.strip():
        raise BadMoleculeError("there is no SMILES")
    chem, text = require_rdkit(), text.strip()
    is_inchi = text.startswith(INCHI)
    mol = chem.MolFromInchi(text, logLevel=None) if is_inchi else chem.MolFromSmiles(text)
    if mol is None:
        kind = "InChI" if is_inchi else "SMILES"
        raise BadMoleculeError(f"RDKit cannot parse the {kind} {text[:200]!r}")
    return to_graph(mol, max_nodes=max_nodes, largest_fragment=largest_fragment, featuriser=featuriser)


def is_molecule(text: Any) -> bool:
    """Whether a cell is a SMILES or an InChI."""
    try:
        read_smiles(text, max_nodes=2**31, largest_fragment=False)
    except BadMoleculeError:
        return False
    return True


def to_graph(
    mol: Any, *, max_nodes: int, largest_fragment: bool = False, featuriser: str = FEATURISER
) -> Molecule:
    """The graph of an RDKit molecule, hydrogens as they are in it. Numbers that map atoms are taken away from it.

    With FEATURISER it does not depend on how the molecule was spelled. In the order in which atoms were given it does:
    a tag of chirality counts the neighbours as they stand there, and of two shortest paths the first is taken.

    Raises:
        BadMoleculeError: it has no atoms, more than max_nodes, or an atom that the featuriser does not know.
    """
    chem = require_rdkit()
    if largest_fragment:
        parts = chem.GetMolFrags(mol, asMols=True)
        if len(parts) > 1:
            mol = max(parts, key=lambda part: (part.GetNumHeavyAtoms(), chem.MolToSmiles(part)))
    unmap(mol)
    count = mol.GetNumAtoms()
    if count == 0:
        raise BadMoleculeError("the molecule has no atoms")
    if count > max_nodes:
        raise BadMoleculeError(f"the molecule has {count} atoms, data.max_nodes is {max_nodes}")
    if featuriser == FEATURISER:
        mol = _canonical(mol)
    if featuriser == PYG:
        return _pyg_graph(mol)
    ends, bonds = [], []
    for bond in mol.GetBonds():
        i, j = bond.GetBeginAtomIdx(), bond.GetEndAtomIdx()
        ends += [(i, j), (j, i)]
        bonds += [_bond_features(bond)] * 2
    return Molecule(
        chem.MolToSmiles(mol),
        np.array([_atom_features(atom) for atom in mol.GetAtoms()], dtype=np.uint8),
        np.ascontiguousarray(np.array(ends, dtype=np.int32).reshape(-1, 2).T),
        np.array(bonds, dtype=np.uint8).reshape(-1, len(EDGE_CATEGORIES)),
    )


def _canonical(mol: Any) -> Any:
    """The molecule as its canonical SMILES spells it, with the hydrogens that are atoms in it; itself where RDKit does
    not read what it has written."""
    chem = require_rdkit()
    keep = chem.SmilesParserParams()
    keep.removeHs = False
    return chem.MolFromSmiles(chem.MolToSmiles(mol), keep) or mol


def _pyg_graph(mol: Any) -> Molecule:
    """The graph as ``torch_geometric.utils.from_smiles`` makes it."""
    from torch_geometric.utils.smiles import from_rdmol

    try:
        data = from_rdmol(mol)
    except ValueError as error:
        raise BadMoleculeError(f"PyG has no category for an atom or a bond ({error})") from None
    nodes, edges, bonds = (
        x.numpy().astype(kind)
        for x, kind in ((data.x, np.uint8), (data.edge_index, np.int32), (data.edge_attr, np.uint8))
    )
    return Molecule(require_rdkit().MolToSmiles(mol), nodes, edges, bonds)


def unmap(mol: Any) -> None:
    """Takes the numbers away that map atoms: with and without them it is the same molecule."""
    mapped = [atom for atom in mol.GetAtoms() if atom.GetAtomMapNum()]
    for atom in mapped:
        atom.SetAtomMapNum(0)
    if mapped:  # what was told apart by its number alone is no stereocentre
        require_rdkit().AssignStereochemistry(mol, cleanIt=True, force=True)


def recognise(smiles: Sequence[str], graphs: Sequence[Any]) -> tuple[str, int]:
    """By which rules graphs (with nodes, edge_index and edge_attr) were made from SMILES, and how many differ from what
    these rules give now. Of other rules than FEATURISERS it is OWN; a tenth may differ, as versions of RDKit do."""
    best, least = OWN, len(smiles) // 10 + 1
    for name in (GIVEN, PYG):  # nobody else orders atoms as FEATURISER does
        different = 0
        for text, graph in zip(smiles, graphs, strict=True):
            try:
                made = read_smiles(text, max_nodes=2**31, largest_fragment=False, featuriser=name)
            except (BadMoleculeError, ImportError):
                different += 1
                continue
            different += not _same(made, graph)
        if different < least:
            best, least = name, different
    return best, 0 if best == OWN else least


def _same(one: Any, other: Any) -> bool:
    """Whether two graphs are equal, whatever the order of their edges."""
    if not np.array_equal(one.nodes, other.nodes) or one.edge_attr.shape != other.edge_attr.shape:
        return False
    first, second = (np.concatenate([graph.edge_index, graph.edge_attr.T]) for graph in (one, other))
    return np.array_equal(first[:, np.lexsort(first)], second[:, np.lexsort(second)])


_ISOTOPE = re.compile(r"\[[0-9]")


def has_isotopes(smiles: str) -> bool:
    """Whether a canonical SMILES names isotopes, which no feature tells."""
    return _ISOTOPE.search(smiles) is not None


def elements(nodes: np.ndarray, featuriser: str) -> set[str]:
    """The symbols of the elements among the nodes [n, F] of molecules; * is an atom without one."""
    table = require_rdkit().GetPeriodicTable()
    numbers = np.unique(np.asarray(nodes)[:, 0]).astype(int)
    if featuriser in ORDERS.values():
        numbers = np.where(numbers == NODE_CATEGORIES[0] - 1, 0, numbers + 1)
    return {"*" if number == 0 else str(table.GetElementSymbol(number)) for number in numbers.tolist()}


def _up_to(value: int, last: int) -> int:
    """value where it is one of 0 ... last - 1, else the last category."""
    return value if 0 <= value < last else last


def _atom_features(atom: Any) -> tuple[int, ...]:
    return (
        _up_to(atom.GetAtomicNum() - 1, 118),
        _CHIRALITY.get(atom.GetChiralTag().name, 4),
        _up_to(atom.GetTotalDegree(), 11),
        _up_to(atom.GetFormalCharge() + 5, 11),
        _up_to(atom.GetTotalNumHs(), 9),
        _up_to(atom.GetNumRadicalElectrons(), 5),
        _HYBRIDISATION.get(atom.GetHybridization().name, 5),
        int(atom.GetIsAromatic()),
        int(atom.IsInRing()),
    )


def _bond_features(bond: Any) -> tuple[int, ...]:
    return (
        _BOND.get(bond.GetBondType().name, 4),
        _STEREO.get(bond.GetStereo().name.removeprefix("STEREO"), len(_STEREO) - 1),
        int(bond.GetIsConjugated()),
    )


def scaffold(smiles: str) -> str:
    """The Bemis-Murcko scaffold of a molecule as SMILES without chirality; "" without rings."""
    require_rdkit()
    from rdkit.Chem.Scaffolds import MurckoScaffold

    return str(MurckoScaffold.MurckoScaffoldSmiles(smiles=smiles, includeChirality=False))


def quality(smiles: str) -> float:
    """QED, the quantitative estimate of drug-likeness (Bickerton et al., 2012)."""
    chem = require_rdkit()
    from rdkit.Chem import QED

    return float(QED.qed(chem.MolFromSmiles(smiles)))
