"""Molecules as graphs: SMILES and RDKit molecules to categories of atoms and bonds. Needs RDKit (the graph extra).

Features, their order and their categories are those of OGB (Hu et al., NeurIPS 2020, arXiv:2005.00687), which
Graphormer's published weights were trained on. The last category of a list takes what the others do not.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

#: Part of every cache key and of every checkpoint: raise it when a molecule would become another graph.
FEATURISER = "ogb-1"
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


def read_smiles(text: Any, *, max_nodes: int, largest_fragment: bool) -> Molecule:
    """The molecule of a SMILES, or of an InChI.

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
    return to_graph(mol, max_nodes=max_nodes, largest_fragment=largest_fragment)


def is_molecule(text: Any) -> bool:
    """Whether a cell is a SMILES or an InChI."""
    try:
        read_smiles(text, max_nodes=2**31, largest_fragment=False)
    except BadMoleculeError:
        return False
    return True


def to_graph(mol: Any, *, max_nodes: int, largest_fragment: bool = False) -> Molecule:
    """The graph of an RDKit molecule, hydrogens as they are in it.

    Raises:
        BadMoleculeError: it has no atoms, or more than max_nodes.
    """
    chem = require_rdkit()
    if largest_fragment:
        parts = chem.GetMolFrags(mol, asMols=True)
        if len(parts) > 1:
            mol = max(parts, key=lambda part: (part.GetNumHeavyAtoms(), chem.MolToSmiles(part)))
    count = mol.GetNumAtoms()
    if count == 0:
        raise BadMoleculeError("the molecule has no atoms")
    if count > max_nodes:
        raise BadMoleculeError(f"the molecule has {count} atoms, data.max_nodes is {max_nodes}")
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
