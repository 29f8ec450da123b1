"""What users meet with molecules and graphs: said when they are opened, told in the rows of predictions."""

import csv
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

pytest.importorskip("rdkit", reason="needs the graph extra (RDKit)")

from rdkit import Chem

from unitrans.cli import main

TINY = [
    "model.embed_dim=8", "model.depth=1", "model.num_heads=1", "train.max_steps=2", "train.use_cpu=true",
    "train.report_to=none", "train.per_device_train_batch_size=4",
]  # fmt: skip
PLAIN = [f"{'C' * k}{end}" for k in range(1, 9) for end in ("O", "N")]


@pytest.fixture(autouse=True)
def _folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("UNITRANS_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)


def table(name: str, molecules: list[str]) -> str:
    Path(name).write_text("smiles,y\n" + "".join(f"{text},{n / 4}\n" for n, text in enumerate(molecules)))
    return name


def train(data: str, *settings: str, code: int = 0) -> None:
    arguments = ["train", "--domain", "graph", "--objective", "regression", "--data", data, "--output", "run"]
    assert main([*arguments, *TINY, *settings]) == code
    assert Path("run").exists() == (code == 0)


def predicted(data: str, code: int = 0) -> list[dict[str, str]]:
    assert main(["predict", "--checkpoint", "run", data, "-o", "out.csv"]) == code
    with Path("out.csv").open() as file:
        return list(csv.DictReader(file))


def geometric() -> Any:
    return pytest.importorskip("torch_geometric", reason="needs the graph extra (PyG)")


def graphs(molecules: list[str]) -> list[Any]:
    """As PyG makes them, with labels."""
    made = [geometric().utils.from_smiles(text) for text in molecules]
    for number, graph in enumerate(made):
        graph.y = torch.tensor([number / 4])
    return made


def sdf(name: str, molecules: list[str]) -> str:
    with Chem.SDWriter(name) as writer:
        for number, text in enumerate(molecules):
            mol = Chem.MolFromSmiles(text)
            mol.SetProp("y", str(number / 4))
            writer.write(mol)
    return name


def test_strange_elements_and_isotopes_are_flagged(capsys: pytest.CaptureFixture[str]) -> None:
    train(table("m.csv", [*PLAIN, "[13CH4]"]))
    assert "1 molecules have isotopes, such as [13CH4]" in capsys.readouterr().out
    asked = ["CCO", "[Pt]", "[Fe]", "[U]", "[He]", "*C", "[13CH4]", "CCBr"]
    told = [row["warning"] for row in predicted(table("asked.csv", asked))]
    assert told[0] == "" and told[6] == "isotopes count as ordinary atoms"
    for warning, element in zip([*told[1:6], told[7]], ("Pt", "Fe", "U", "He", "*", "Br"), strict=True):
        assert warning == f"the training data have no {element}"
    assert "7 of 8 predictions are doubtful: the column warning says why" in capsys.readouterr().err


def test_rows_that_the_model_cannot_take_are_named() -> None:
    train(table("m.csv", PLAIN), "model.num_in_degree=5", "model.num_out_degree=5")
    asked = table("asked.csv", ["CCC", "CC(C)(C)C", "CCCC"])
    reason = "model.num_in_degree: expected at least 6, as a node has 4 neighbours, got 5"
    rows = predicted(asked, code=1)
    assert [row["error"] for row in rows] == ["", reason, ""] and rows[0]["y"] and not rows[1]["y"]
    assert main(["eval", "--checkpoint", "run", "--data", asked, "--output", "judged"]) == 1
    assert Path("judged/skipped.txt").read_text() == f"row 2: {reason}\n"
    assert main(["embed", "--checkpoint", "run", asked, "--output", "vectors.npy"]) == 1
    assert np.isnan(np.load("vectors.npy")).any(1).tolist() == [False, True, False]


@pytest.mark.parametrize("kind", ["sdf", "pt"])
def test_files_of_graphs_are_read_by_the_reader_of_training(kind: str) -> None:
    if kind == "sdf":
        data = sdf("m.sdf", PLAIN)
    else:
        torch.save(graphs(PLAIN), data := "m.pt")
    train(data, "--target", "y")
    rows = predicted(data)
    assert len(rows) == len(PLAIN) and all(row["y"] and not row["error"] for row in rows)
    assert main(["eval", "--checkpoint", "run", "--data", data, "--output", "judged"]) == 0
    again = [float(row["y"]) for row in predicted(table("m.csv", PLAIN))]  # the same molecules as SMILES
    np.testing.assert_allclose([float(row["y"]) for row in rows], again, rtol=1e-5)


def test_models_are_not_asked_by_other_categories(capsys: pytest.CaptureFixture[str]) -> None:
    torch.save(graphs(PLAIN), "m.pt")
    train("m.pt")
    assert "features are those of torch_geometric.utils.from_smiles, not OGB's" in capsys.readouterr().out
    main(["predict", "--checkpoint", "run", "m.pt", "-o", "a.csv"])
    Path("run").rename("foreign")
    train(table("m.csv", PLAIN))
    capsys.readouterr()
    assert main(["predict", "--checkpoint", "run", "m.pt"]) == 2
    assert (
        "m.pt: its graphs have the features 'pyg-1', the model was trained on 'ogb-"
        in capsys.readouterr().err
    )


def test_graphs_with_features_of_their_own_are_not_asked_as_smiles(
    capsys: pytest.CaptureFixture[str],
) -> None:
    made = graphs(PLAIN)
    for graph in made:
        graph.x = graph.x[:, :1]
    torch.save(made, "m.pt")
    train("m.pt")
    assert "features are not those that are read from SMILES" in capsys.readouterr().out
    assert main(["predict", "--checkpoint", "run", table("m.csv", PLAIN)]) == 2
    assert "cannot predict rows of SMILES" in capsys.readouterr().err


def data(**fields: Any) -> Any:
    usual = {"x": torch.ones(3, 1).long(), "edge_index": torch.tensor([[0, 1], [1, 0]]), "y": torch.zeros(1)}
    return geometric().data.Data(
        **{name: value for name, value in (usual | fields).items() if value is not None}
    )


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"edge_index": torch.tensor([[0, 1], [1, 3]])}, "graph 7: edge_index names node 3, expected 0 to 2, as it"),
        ({"edge_attr": torch.rand(2, 4)}, "graph 7: edge_attr: expected categories, whole numbers [2, features]"),
        ({"x": torch.full((3, 1), -1)}, "graph 7: x: expected categories from 0 on, got -1"),
        ({"x": torch.rand(3, 1)}, "graph 7: x: expected categories, whole numbers [3, features]"),
        ({"x": None, "z": torch.ones(3), "pos": torch.rand(3, 3)}, "graph 7: it has no x, and pos and z of its nodes"),
        ({"edge_attr": torch.ones(2, 4).long()}, "graph 7: expected 1 features of nodes and 1 of edges as in"),
    ],
)  # fmt: skip
def test_graphs_that_are_none_are_named(
    fields: dict[str, Any], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    made = [data(y=torch.tensor([float(n)])) for n in range(12)]
    made[7] = data(**fields)
    torch.save(made, "m.pt")
    train("m.pt", code=2)
    said = capsys.readouterr().err
    assert message in said and said.count("\n") == 1


def test_what_is_not_read_of_graphs_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    torch.save([data(z=torch.ones(3), y=torch.tensor([float(n)])) for n in range(12)], "z.pt")
    train("z.pt")
    assert "of the nodes x is read, not z" in capsys.readouterr().out
    Path("run").rename("first")
    torch.save([data(x=None, num_nodes=3, y=torch.tensor([float(n)])) for n in range(12)], "bare.pt")
    train("bare.pt")
    assert "the graphs have no x: all their nodes are alike" in capsys.readouterr().out


def test_scaffolds_of_molecules_without_rings(capsys: pytest.CaptureFixture[str]) -> None:
    train(table("m.csv", PLAIN), "data.split=scaffold", code=2)
    said = capsys.readouterr().err
    assert "no graph is left to train on, as a scaffold (all molecules without rings share one)" in said
    assert "use data.split=random, or lower data.validation" in said


def test_mapped_atoms_make_no_other_molecule(capsys: pytest.CaptureFixture[str]) -> None:
    """Every molecule once plain and once with numbers that map its atoms: both are in one part."""
    mapped = []
    for text in PLAIN:
        mol = Chem.MolFromSmiles(text)
        for number, atom in enumerate(mol.GetAtoms(), start=1):
            atom.SetAtomMapNum(number)
        mapped.append(Chem.MolToSmiles(mol))
    train(table("m.csv", [*PLAIN, *mapped]), "data.validation=0.3")
    assert f"{len(PLAIN)} rows repeat a molecule" in capsys.readouterr().out
    rows = [float(row["y"]) for row in predicted(table("asked.csv", [*PLAIN, *mapped]))]
    np.testing.assert_allclose(rows[: len(PLAIN)], rows[len(PLAIN) :], rtol=1e-5)


def test_other_encodings_of_sdf(capsys: pytest.CaptureFixture[str]) -> None:
    text = Path(sdf("m.sdf", PLAIN)).read_text().replace(">  <y>", ">  <name>\nMüller\n\n>  <y>", 1)
    Path("m.sdf").write_bytes(text.encode("latin-1"))
    train("m.sdf", "--target", "y", code=2)
    said = capsys.readouterr().err
    assert "m.sdf: record 1 is not text in UTF-8: name the encoding of the file as data.encoding" in said
    train("m.sdf", "--target", "y", "data.encoding=latin-1")
    assert len(predicted("m.sdf")) == len(PLAIN)


def test_what_was_right_stays_right(capsys: pytest.CaptureFixture[str]) -> None:
    """Salts, dative bonds, V3000, broken blocks, BOM, CRLF, semicolons, duplicates that disagree."""
    odd = ["[Na+].CC(=O)[O-]", "[NH3]->[Cu+2]", "CCO", "OCC", "xx", "C1CC"]
    lines = "\r\n".join(["smiles;y", *(f"{text};{n}" for n, text in enumerate([*PLAIN, *odd]))]) + "\r\n"
    Path("m.csv").write_bytes(b"\xef\xbb\xbf" + lines.encode())
    train("m.csv")
    said = capsys.readouterr().out
    assert "could not be read and left out: 2" in said
    assert "rows repeat a molecule, and 1 molecules have different labels" in said
    rows = predicted("m.csv", code=1)
    assert [bool(row["error"]) for row in rows] == [False] * (len(PLAIN) + 4) + [True] * 2
    blocks = [Chem.MolToV3KMolBlock(Chem.MolFromSmiles("CCO")), "broken\n\n\nnonsense\nM  END\n"]
    Path("v3.sdf").write_text("".join(f"{block}$$$$\n" for block in blocks))
    three, broken = predicted("v3.sdf", code=1)
    assert float(three["y"]) == pytest.approx(float(rows[len(PLAIN) + 2]["y"]), rel=1e-5)
    assert "RDKit cannot read the record 'broken' of the SDF file" in broken["error"]
