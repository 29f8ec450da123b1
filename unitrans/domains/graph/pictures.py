"""Predictions as pictures: predicted against true values, and molecules with what was hidden and predicted."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from unitrans.domains.base import Sample
from unitrans.domains.graph import chemistry
from unitrans.domains.sheet import draw_tiles

_SIDE = (300, 240)  # pixels of a molecule
_RIGHT, _WRONG, _HIDDEN = (0.75, 0.93, 0.75), (1.0, 0.75, 0.72), (0.8, 0.85, 1.0)


def draw_parity(
    path: Path, names: Sequence[str], predicted: np.ndarray, truth: np.ndarray, figures: Sequence[str]
) -> None:
    """Predicted against true values [n, K], one panel a target, with a line of figures each."""
    count = len(names)
    figure = Figure(figsize=(4.6 * min(count, 3), 4.6 * -(-count // 3)), dpi=120, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(-(-count // 3), min(count, 3), squeeze=False).ravel()
    for axis in axes[count:]:
        axis.set_visible(False)
    for k, name in enumerate(names):
        known = np.isfinite(truth[:, k])
        x, y = truth[known, k], predicted[known, k]
        axes[k].scatter(x, y, s=9, alpha=0.4, linewidths=0)
        low, high = float(min(x.min(), y.min())), float(max(x.max(), y.max()))
        axes[k].plot([low, high], [low, high], color="black", linewidth=0.8)
        axes[k].set(xlabel=f"{name}, true", ylabel=f"{name}, predicted", title=figures[k], aspect="equal")
        axes[k].grid(alpha=0.3)
        axes[k].spines[["top", "right"]].set_visible(False)
    figure.savefig(path)


def draw_molecules(path: Path, pictures: Sequence[np.ndarray], captions: Sequence[str]) -> None:
    """Molecules on one sheet, four in a row."""
    draw_tiles(path, pictures, captions, columns=4, box=(3.1, 2.5), size=8, dpi=110)


def molecule_picture(
    mol: Any,
    colours: dict[int, tuple[float, float, float]] | None = None,
    notes: dict[int, str] | None = None,
) -> np.ndarray:
    """uint8 [height, width, 4]: a molecule with coloured atoms and words beside them."""
    require = chemistry.require_rdkit()
    from PIL import Image
    from rdkit.Chem.Draw import rdMolDraw2D

    mol = require.Mol(mol)
    for atom, note in (notes or {}).items():
        mol.GetAtomWithIdx(atom).SetProp("atomNote", note)
    canvas = rdMolDraw2D.MolDraw2DCairo(*_SIDE)
    options: Any = canvas.drawOptions()
    options.annotationFontScale = 0.9
    marked = list(colours or {})
    rdMolDraw2D.PrepareAndDrawMolecule(
        canvas, mol, highlightAtoms=marked, highlightAtomColors=colours or {}, highlightBonds=[]
    )
    canvas.FinishDrawing()
    return np.asarray(Image.open(io.BytesIO(canvas.GetDrawingText())).convert("RGBA"))


def molecule_of(sample: Sample) -> Any:
    """An RDKit molecule with the atoms of a sample in its order, without hydrogens of its own; None for a graph that
    has no molecule's features."""
    chem = chemistry.require_rdkit()
    hidden = "mask" in sample
    nodes = sample["node_labels" if hidden else "nodes"]
    edges = sample["edge_labels" if hidden else "edge_attr"]
    kinds = [chem.BondType.SINGLE, chem.BondType.DOUBLE, chem.BondType.TRIPLE, chem.BondType.AROMATIC]
    mol = chem.RWMol()
    for features in nodes:
        atom = chem.Atom(int(features[0]) + 1 if features[0] < 118 else 0)
        atom.SetFormalCharge(int(features[3]) - 5)
        atom.SetNoImplicit(True)
        atom.SetNumExplicitHs(int(min(features[4], 8)))
        atom.SetIsAromatic(bool(features[7]))
        mol.AddAtom(atom)
    for (i, j), features in zip(sample["edge_index"].T.tolist(), edges, strict=True):
        if i < j:
            mol.AddBond(i, j, kinds[min(int(features[0]), 3)])
    mol.UpdatePropertyCache(strict=False)
    return mol


def symbol(category: int) -> str:
    """The element of an atom's first category."""
    chem = chemistry.require_rdkit()
    return str(chem.GetPeriodicTable().GetElementSymbol(category + 1)) if category < 118 else "*"


def masked_pictures(
    samples: Sequence[Sample], predictions: Sequence[np.ndarray]
) -> tuple[list[np.ndarray], list[str]]:
    """Molecules with hidden atoms in green (predicted right) or red, with what was predicted beside those."""
    pictures, captions = [], []
    for sample, predicted in zip(samples, predictions, strict=True):
        hidden = np.flatnonzero(sample["mask"]).tolist()
        right = {a: int(predicted[a]) == int(sample["node_labels"][a, 0]) for a in hidden}
        colours = {a: _RIGHT if right[a] else _WRONG for a in hidden}
        notes = {a: f"{symbol(int(predicted[a]))}?" for a in hidden if not right[a]}
        pictures.append(molecule_picture(molecule_of(sample), colours, notes))
        captions.append(f"{sum(right.values())} of {len(hidden)} hidden atoms right")
    return pictures, captions
