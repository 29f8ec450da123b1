"""Molecules from files of every kind: what is read, refused, counted, split and packed. Needs the graph extra."""

import itertools
import json
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch

pytest.importorskip("rdkit", reason="needs the graph extra (RDKit)")

from unitrans.data.columns import Column
from unitrans.data.labels import target_columns
from unitrans.data.table import open_table
from unitrans.domains.graph import GraphDomain, chemistry
from unitrans.domains.graph.config import DataConfig
from unitrans.domains.graph.labels import numbers
from unitrans.domains.graph.reading import read_rows, smiles_column
from unitrans.domains.graph.source import open_sources
from unitrans.domains.graph.table import parse_smiles
from unitrans.models import GraphormerConfig

SMILES = [
    "CCO",
    "c1ccccc1",
    "CC(=O)O",
    "CCN",
    "C1CC1",
    "CCCC",
    "c1ccncc1",
    "CC#N",
    "O=C=O",
    "CCCl",
    "C[NH3+]",
    "F/C=C/F",
]


@pytest.fixture(autouse=True)
def _own_cache(tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("UNITRANS_CACHE", str(tmp_path / "cache"))


def table(path: Path, header: str, rows: list[str]) -> str:
    path.write_text("\n".join([header, *rows]) + "\n")
    return str(path)


def numbered(tmp_path: Path, smiles=SMILES) -> str:
    return table(tmp_path / "m.csv", "smiles,y", [f"{s},{n}" for n, s in enumerate(smiles)])


# -- chemistry


@pytest.mark.parametrize(
    "smiles", [*SMILES, "C[C@H](N)C(=O)O", "[Na+].[Cl-]", "C", "[CH3]", "*CC", "F[P](F)(F)(F)F"]
)
def test_features_are_those_of_ogb(smiles) -> None:
    ogb = pytest.importorskip("ogb.utils", reason="needs the ogb extra")
    want = ogb.smiles2graph(smiles)
    read = partial(chemistry.read_smiles, max_nodes=99, largest_fragment=False)
    molecule = read(smiles, featuriser=chemistry.GIVEN)
    assert np.array_equal(molecule.nodes, want["node_feat"])
    assert np.array_equal(molecule.edge_index, want["edge_index"])
    assert np.array_equal(molecule.edge_attr, want["edge_feat"])
    canonical = read(smiles)
    assert np.array_equal(canonical.nodes, ogb.smiles2graph(canonical.smiles)["node_feat"])


@pytest.mark.parametrize(
    ("smiles", "reason"),
    [
        ("", "no SMILES"),
        (None, "no SMILES"),
        ("C1CC", "cannot parse"),
        ("C" * 9, "9 atoms, data.max_nodes is 8"),
    ],
)
def test_bad_molecules_have_a_reason(smiles, reason) -> None:
    with pytest.raises(chemistry.BadMoleculeError, match=reason):
        chemistry.read_smiles(smiles, max_nodes=8, largest_fragment=False)


def test_largest_fragment() -> None:
    molecule = chemistry.read_smiles("[Na+].CC(=O)[O-]", max_nodes=9, largest_fragment=True)
    assert molecule.smiles == "CC(=O)[O-]" and len(molecule.nodes) == 4


def test_parsed_molecules_are_kept_by_content(monkeypatch) -> None:
    texts = [*SMILES, "xx", ""]
    first = parse_smiles(texts, max_nodes=99, largest_fragment=False)

    def never(*args, **kwargs):
        raise AssertionError("parsed again")

    with monkeypatch.context() as patched:
        patched.setattr(chemistry, "read_smiles", never)
        again = parse_smiles(texts, max_nodes=99, largest_fragment=False)
        with pytest.raises(AssertionError, match="parsed again"):
            parse_smiles(texts[1:], max_nodes=99, largest_fragment=False)
    assert again.names == first.names and again.reasons == first.reasons
    assert np.array_equal(again.nodes, first.nodes) and np.array_equal(again.edge_index, first.edge_index)


def test_a_broken_cache_is_made_again(tmp_path) -> None:
    first = parse_smiles(SMILES, max_nodes=99, largest_fragment=False)
    (file,) = (tmp_path / "cache").rglob("*.npz")
    file.write_bytes(b"PK\x03\x04 broken")
    assert parse_smiles(SMILES, max_nodes=99, largest_fragment=False).names == first.names


# -- reading


@pytest.mark.parametrize("delimiter", [",", "\t", ";", "|"])
def test_tables(tmp_path, delimiter) -> None:
    path = tmp_path / "m.csv"
    path.write_text("\ufeff" + f"id{delimiter}SMILES{delimiter}y\n1{delimiter}CCO{delimiter}2.5\n")
    assert open_table(path, "m.csv").columns() == ({"id": ["1"], "SMILES": ["CCO"], "y": ["2.5"]}, {})


def test_smi_files(tmp_path) -> None:
    (tmp_path / "m.smi").write_text("CCO first one\nCCN\n\n")
    rows = read_rows(DataConfig(path=str(tmp_path / "m.smi")))
    assert rows.table.names == ["CCO", "CCN"] and rows.columns["name"] == ["first one", ""]


def test_sdf_files(tmp_path) -> None:
    from rdkit import Chem

    with Chem.SDWriter(str(tmp_path / "m.sdf")) as writer:
        for smiles, value in (("CCO", "1.5"), ("c1ccccc1", "2")):
            mol = Chem.MolFromSmiles(smiles)
            mol.SetProp("y", value)
            writer.write(mol)
    text = (tmp_path / "m.sdf").read_text()
    (tmp_path / "m.sdf").write_text(text + "broken\n  none\n\n  x\nM  END\n$$$$\n")
    rows = read_rows(DataConfig(path=str(tmp_path / "m.sdf")))
    assert rows.table.names == ["CCO", "c1ccccc1", ""] and "SDF" in rows.table.reasons[2]
    train, _ = open_sources(DataConfig(path=str(tmp_path / "m.sdf"), validation=0), ("value",))
    assert train.values[:2, 0].tolist() == [1.5, 2.0]


@pytest.mark.parametrize(
    ("names", "asked", "found"),
    [
        (["id", "Canonical_SMILES"], None, "Canonical_SMILES"),
        (["smiles", "structure"], "structure", "structure"),
        (["smiles", "canonical_smiles"], None, ValueError),
        (["a", "b"], None, ValueError),
        (["a", "b"], "c", ValueError),
    ],
)
def test_the_column_of_smiles(names, asked, found) -> None:
    if found is ValueError:
        with pytest.raises(ValueError, match="data.smiles_column"):
            smiles_column(names, asked, "m.csv")
    else:
        assert smiles_column(names, asked, "m.csv") == found


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("absent.csv", "there is no file 'absent.csv'"),
        ("ncl", "did you mean 'nci'"),
        (".", "is a folder"),
        ("pyg:NoSuchSet:x", "torch_geometric.datasets has no data set 'NoSuchSet'"),
        ("pcqm4mv2:absent", "fetch the data set once with"),
        ("ogbg-molhiv:absent", "fetch the data set once with"),
    ],
)
def test_paths_that_lead_nowhere(path, message) -> None:
    for extra in ("torch_geometric", "ogb"):
        if extra[:3] in path:
            pytest.importorskip(extra, reason=f"needs {extra}")
    with pytest.raises(ValueError, match=message):
        read_rows(DataConfig(path=path))


def test_ragged_rows_are_left_out_and_ragged_tables_refused(tmp_path) -> None:
    path = table(tmp_path / "m.csv", "smiles,y", ["CCO,1", "CCN", "CCC,2"])
    rows = read_rows(DataConfig(path=path))
    assert rows.table.names == ["CCO", "", "CCC"]
    assert rows.table.reasons[1] == "the row has 1 cells, the header has 2"
    path = table(tmp_path / "m.csv", "smiles,y", ["CCO,1", "CCN", "CCC"])
    with pytest.raises(
        ValueError, match="2 of 3 rows cannot be read; row 2: the row has 1 cells, the header has 2"
    ):
        read_rows(DataConfig(path=path))


# -- labels


def test_missing_and_wrong_numbers() -> None:
    values = numbers(["1.5", "", "NA", "-2e3"], Column("y", "number"))
    assert values[0] == 1.5 and np.isnan(values[1:3]).all() and values[3] == -2000
    for wrong in ("many", "inf"):
        with pytest.raises(
            ValueError, match=f"data.target='y': expected numbers or empty cells, got '{wrong}' in row 2"
        ):
            numbers(["1", wrong], Column("y", "number"))


@pytest.mark.parametrize(
    ("columns", "settings", "kinds", "message"),
    [
        ("a,b", {}, ("value",), "name the column to predict.*'a', 'b' can be one"),
        ("a,b", {"target": "c"}, ("value",), "data.target='c' is not a column: expected one of a, b"),
        ("a,b", {"target": "a,a"}, ("value",), "different columns"),
        ("a,b", {"target": "a"}, ("value",), "is 1 for every training sample"),
        ("a,b", {"target": "b"}, ("class", "multi"), "data.label_column='b' holds fractions"),
    ],
)
def test_wrong_targets_are_named(tmp_path, columns, settings, kinds, message) -> None:
    path = table(tmp_path / "m.csv", f"smiles,{columns}", [f"{s},1,{n}.5" for n, s in enumerate(SMILES)])
    with pytest.raises(ValueError, match=message):
        open_sources(DataConfig(path=path, **settings), kinds)


def test_regression_labels_know_their_scale(tmp_path) -> None:
    rows = [f"{s},{n},{'' if n % 2 else 3 * n}" for n, s in enumerate(SMILES)]
    path = table(tmp_path / "m.csv", "smiles,a,b", rows)
    train, validation = open_sources(DataConfig(path=path, target="a,b", validation=0.2), ("value",))
    values = train.values[train.rows]
    assert train.labels.kind == "value" and train.labels.names == ("a", "b")
    assert np.allclose(train.labels.mean, np.nanmean(values, 0)) and np.allclose(
        train.labels.std, np.nanstd(values, 0)
    )
    assert validation.labels == train.labels


def test_classes_and_yes_or_no(tmp_path) -> None:
    words = [
        f"{s},{'odd' if n % 2 else 'even'},{n % 2},{'' if n < 3 else n % 2}" for n, s in enumerate(SMILES)
    ]
    path = table(tmp_path / "m.csv", "smiles,w,a,b", words)
    kinds = ("class", "multi")
    train, _ = open_sources(DataConfig(path=path, target="w", validation=0), kinds)
    assert train.labels.kind == "class" and train.labels.names == ("even", "odd")
    both, _ = open_sources(DataConfig(path=path, target="a,b", validation=0), kinds)
    assert both.labels.kind == "multi" and both.labels.known == (12, 9) and both.labels.counts == (6, 5)
    with pytest.raises(ValueError, match="'w' has other values"):
        open_sources(DataConfig(path=path, target="a,w", validation=0), kinds)


def test_a_part_with_one_answer_is_refused(tmp_path) -> None:
    path = table(tmp_path / "m.csv", "smiles,y", [f"{s},{int(s == 'CCO')}" for s in SMILES])
    with pytest.raises(ValueError, match="samples of the .* part have the same answer"):
        open_sources(DataConfig(path=path, target="y", validation=0.2), ("class", "multi"))


# -- the domain


def test_bad_rows_are_listed_and_others_keep_their_names(tmp_path) -> None:
    path = numbered(tmp_path, [*SMILES[:3], "xx", *SMILES[3:], ""])
    train, validation = open_sources(DataConfig(path=path, target="y", validation=0.2), ("value",))
    assert (
        dict(train.skipped).keys() == {"row 4", "row 14"} and "cannot parse" in dict(train.skipped)["row 4"]
    )
    every = [*train.ids, *validation.ids]
    assert len(every) == len(SMILES) and "row 4" not in every
    for source in (train, validation):
        for index, name in enumerate(source.ids):
            sample = source.load(index)
            assert sample["id"] == name and sample["label"][0] == int(name.split()[1]) - 1
            assert source.num_tokens[index] == len(sample["nodes"]) + 1


def test_a_molecule_is_on_one_side_and_conflicts_are_counted(tmp_path) -> None:
    twice = [*SMILES, "OCC", "C(C)O", "N#CC"]
    path = table(tmp_path / "m.csv", "smiles,y", [f"{s},{n}" for n, s in enumerate(twice)])
    for seed in range(5):
        data = DataConfig(path=path, target="y", validation=0.2, test=0.2, split_seed=seed)
        train, validation = open_sources(data, ("value",))
        sides = [set(source.smiles) for source in (train, validation, train.test)]
        assert not (sides[0] & sides[1] or sides[0] & sides[2] or sides[1] & sides[2])
        assert sum(map(len, (train, validation, train.test))) == len(twice)
        assert any(
            "3 rows repeat a molecule, and 2 molecules have different labels" in n for n in train.notes
        )


def test_scaffold_splits_keep_scaffolds_together(tmp_path) -> None:
    smiles = [
        f"{'C' * k}{ring}" for ring in ("c1ccccc1", "C1CCCCC1", "c1ccncc1", "C1CC1") for k in range(1, 6)
    ]
    path = numbered(tmp_path, smiles)
    for kind in ("scaffold", "scaffold_deepchem"):
        data = DataConfig(path=path, target="y", validation=0.25, test=0.25, split=kind)
        train, validation = open_sources(data, ("value",))
        sides = [{chemistry.scaffold(s) for s in source.smiles} for source in (train, validation, train.test)]
        assert len(set.union(*sides)) == sum(map(len, sides)) == 4


def test_collate_packs_graphs(tmp_path) -> None:
    train, _ = open_sources(DataConfig(path=numbered(tmp_path), target="y", validation=0), ("value",))
    config = GraphormerConfig(embed_dim=8, num_heads=2, depth=1)
    samples = [train.load(i) for i in range(4)]
    batch = GraphDomain().collate([samples[0], None, *samples[1:]], config)
    assert batch["num_skipped"] == 1 and batch["sample_ids"] == [s["id"] for s in samples]
    assert batch["nodes"].shape == (sum(len(s["nodes"]) for s in samples), 9)
    assert batch["plans"].groups.cu_seqlens.diff().tolist() == [len(s["nodes"]) + 1 for s in samples]
    assert batch["labels"].flatten().tolist() == [s["label"][0] for s in samples]
    assert GraphDomain().collate([None], config) is None


# -- data sets of PyG and OGB


def pyg_list():
    geometric = pytest.importorskip("torch_geometric.data", reason="needs the graph extra")
    edge = torch.tensor([[0, 1, 1, 2], [1, 0, 2, 1]])
    return [
        geometric.Data(
            x=torch.tensor([[1, k % 3], [2, 0], [3, 1]]),
            edge_index=edge,
            edge_attr=torch.tensor([0, 0, 1, 1]),
            y=torch.tensor([float(k)]),
        )
        for k in range(10)
    ]


def test_a_saved_list_of_pyg_data(tmp_path) -> None:
    torch.save(pyg_list(), tmp_path / "graphs.pt")
    train, validation = open_sources(DataConfig(path=str(tmp_path / "graphs.pt"), validation=0.2), ("value",))
    assert len(train) == 8 and len(validation) == 2 and train.labels.names == ("y",)
    assert train.load(0)["edge_attr"].tolist() == [[0], [0], [1], [1]]
    with pytest.raises(ValueError, match="scaffolds are of molecules"):
        open_sources(DataConfig(path=str(tmp_path / "graphs.pt"), split="scaffold"), ("value",))


def test_pyg_data_with_smiles_are_molecules_and_keep_their_own_features(tmp_path) -> None:
    listed = pyg_list()
    for data, smiles in zip(
        listed, ["CCO", "OCC", "CCN", "CCC", "CCCl", "CCBr", "COC", "CNC", "CSC", "CC=O"], strict=True
    ):
        data.smiles = smiles
    torch.save(listed, tmp_path / "graphs.pt")
    train, validation = open_sources(DataConfig(path=str(tmp_path / "graphs.pt"), validation=0.2), ("value",))
    assert train.molecules and not set(train.smiles) & set(validation.smiles)
    sample = train.load(0) | {"label": train.load(0)["label"]}
    objective = type("Any", (), {"name": "regression", "labels": train.labels})
    assert GraphDomain().report(tmp_path, train, [sample], [torch.zeros(1)], objective, None) == []


def test_other_pickles_are_refused(tmp_path) -> None:
    torch.save([Path("x")], tmp_path / "graphs.pt")
    with pytest.raises(ValueError, match="cannot be read as a list of PyG Data"):
        read_rows(DataConfig(path=str(tmp_path / "graphs.pt")))
    torch.save([torch.ones(2)], tmp_path / "graphs.pt")
    with pytest.raises(ValueError, match="expected a list of PyG Data objects"):
        read_rows(DataConfig(path=str(tmp_path / "graphs.pt")))


def test_a_pyg_data_set_with_its_split(tmp_path, monkeypatch) -> None:
    geometric = pytest.importorskip("torch_geometric", reason="needs the graph extra")
    import torch_geometric.datasets as known

    class Small(geometric.data.InMemoryDataset):
        def __init__(self, root: str, split: str = "train") -> None:
            super().__init__(root)
            chosen = {"train": slice(0, 6), "val": slice(6, 8), "test": slice(8, 10)}[split]
            self.data, self.slices = self.collate(pyg_list()[chosen])

    monkeypatch.setattr(known, "Small", Small, raising=False)
    data = DataConfig(path=f"pyg:Small:{tmp_path}", split="official")
    train, validation = open_sources(data, ("value",))
    assert [len(train), len(validation), len(train.test)] == [6, 2, 2]
    assert train.test.values[train.test.rows, 0].tolist() == [8.0, 9.0]


def pcqm_files(root: Path) -> None:
    """PCQM4Mv2 in its own format, small; one molecule does not parse, as some do not in newer RDKit."""
    import pandas as pd

    folder = root / "pcqm4m-v2"
    (folder / "raw").mkdir(parents=True)
    (folder / "RELEASE_v1.txt").write_text("")
    smiles = [*SMILES[:8], "O=C1[N](C)", *SMILES[8:]]
    gaps = [5.0 + 0.1 * n for n in range(len(smiles))]
    gaps[-2:] = [np.nan, np.nan]
    frame = pd.DataFrame({"idx": range(len(smiles)), "smiles": smiles, "homolumogap": gaps})
    frame.to_csv(folder / "raw" / "data.csv.gz", index=False, compression="gzip")
    order = np.arange(len(smiles))
    torch.save(
        {"train": order[:9], "valid": order[9:11], "test-dev": order[11:12], "test-challenge": order[12:]},
        folder / "split_dict.pt",
    )


def test_pcqm4mv2_from_its_own_files(tmp_path) -> None:
    lsc = pytest.importorskip("ogb.lsc", reason="needs the ogb extra")
    pcqm_files(tmp_path)
    data = DataConfig(path=f"pcqm4mv2:{tmp_path}")  # its own split is the default
    train, validation = open_sources(data, ("value",))
    assert [len(train), len(validation), train.test] == [8, 2, None]
    assert list(dict(train.skipped)) == ["row 9"] and "cannot parse" in dict(train.skipped)["row 9"]
    assert train.labels.names == ("homolumogap",)
    truth = validation.values[validation.rows, 0]
    official = lsc.PCQM4Mv2Evaluator().eval({"y_pred": truth + 0.25, "y_true": truth})["mae"]
    from unitrans.objectives import make_objective

    objective = make_objective("regression", GraphormerConfig(), {}, train.labels)
    mean, std = train.labels.mean[0], train.labels.std[0]
    scaled = {"predicted": truth + 0.25, "label": truth}
    ours = objective.figures({k: torch.tensor((v - mean) / std)[:, None] for k, v in scaled.items()})["mae"]
    assert ours == pytest.approx(official)


def test_ogbg_from_its_own_files(tmp_path) -> None:
    pytest.importorskip("ogb.graphproppred", reason="needs the ogb extra")
    import pandas as pd

    folder = tmp_path / "ogbg_molhiv"
    for name in ("raw", "mapping", "split/scaffold", "processed"):
        (folder / name).mkdir(parents=True)
    (folder / "RELEASE_v1.txt").write_text("")
    molecules = [chemistry.read_smiles(s, max_nodes=99, largest_fragment=False) for s in SMILES]

    def write(name: str, values) -> None:
        pd.DataFrame(values).to_csv(folder / f"{name}.csv.gz", index=False, header=False, compression="gzip")

    once = [m.edge_index[:, ::2].T for m in molecules]  # its loader adds the other directions
    write("raw/edge", np.concatenate(once))
    write("raw/edge-feat", np.concatenate([m.edge_attr[::2] for m in molecules]))
    write("raw/node-feat", np.concatenate([m.nodes for m in molecules]))
    write("raw/num-node-list", [len(m.nodes) for m in molecules])
    write("raw/num-edge-list", [len(e) for e in once])
    labels = [n % 2 for n in range(len(SMILES))]
    write("raw/graph-label", labels)
    for part, rows in (("train", range(8)), ("valid", range(8, 10)), ("test", range(10, 12))):
        write(f"split/scaffold/{part}", list(rows))
    pd.DataFrame({"HIV_active": labels, "smiles": SMILES, "mol_id": SMILES}).to_csv(
        folder / "mapping/mol.csv.gz", index=False, compression="gzip"
    )
    for _ in range(2):  # the second time from the processed file, which holds pickled arrays
        data = DataConfig(path=f"ogbg-molhiv:{tmp_path}", split="official")
        train, validation = open_sources(data, ("class", "multi"))
        assert [len(train), len(validation), len(train.test)] == [8, 2, 2] and train.molecules
        for index, molecule in enumerate(molecules[:8]):
            sample = train.load(index)
            assert np.array_equal(sample["nodes"], molecule.nodes)
            assert np.array_equal(sample["edge_index"], molecule.edge_index)
            assert np.array_equal(sample["edge_attr"], molecule.edge_attr)


def test_the_embedded_molecules() -> None:
    from rdkit import RDConfig

    if not (Path(RDConfig.RDDataDir) / "NCI" / "first_5K.smi").is_file():
        pytest.skip("this build of RDKit does not carry the NCI's molecules")
    rows, _ = open_table(Path(RDConfig.RDDataDir) / "NCI" / "first_5K.smi", "nci").columns()
    assert len(rows["smiles"]) > 4900 and chemistry.quality("CC(=O)Oc1ccccc1C(=O)O") == pytest.approx(
        0.5501, abs=1e-3
    )


def test_settings_of_data() -> None:
    assert target_columns("a, b", ["a", "b"]) == ["a", "b"]
    assert json.loads(DataConfig().model_dump_json())["path"] == "nci"


# -- tables as users write them


def test_inchi_and_tables_without_a_header(tmp_path) -> None:
    from rdkit import Chem

    inchi = [f'"{Chem.MolToInchi(Chem.MolFromSmiles(s))}",{n}' for n, s in enumerate(SMILES[:6])]
    rows = read_rows(DataConfig(path=table(tmp_path / "i.csv", "InChI,y", inchi)))
    assert rows.smiles_column == "InChI"
    assert rows.table.names == [Chem.CanonSmiles(s) for s in SMILES[:6]] and not any(rows.table.reasons)
    (tmp_path / "n.csv").write_text("".join(f"{n}.5,{s}\n" for n, s in enumerate(SMILES[:6])))
    rows = read_rows(DataConfig(path=str(tmp_path / "n.csv")))
    assert rows.smiles_column == "column_2" and rows.columns == {"column_1": [f"{n}.5" for n in range(6)]}
    rows = read_rows(DataConfig(path=table(tmp_path / "p.csv", "smiles|y", ["CCO|1", "CCN|2"])))
    assert rows.columns == {"y": ["1", "2"]}


def test_classes_written_as_floats_are_the_same_classes(tmp_path) -> None:
    whole = table(tmp_path / "a.csv", "smiles,y", [f"{s},{n % 3}" for n, s in enumerate(SMILES)])
    floats = table(tmp_path / "b.csv", "smiles,y", [f"{s},{n % 3}.0" for n, s in enumerate(SMILES)])
    first, second = (
        open_sources(DataConfig(path=path, validation=0), ("class", "multi"))[0] for path in (whole, floats)
    )
    assert first.labels == second.labels and first.labels.names == ("0", "1", "2")
    assert (first.values == second.values).all() and second.reading["columns"] == {"y": "number"}


def test_minus_one_is_no_among_several_targets(tmp_path) -> None:
    rows = [f"{s},{(-1, 1)[n % 2]},{n % 2}" for n, s in enumerate(SMILES)]
    path = table(tmp_path / "m.csv", "smiles,a,b", rows)
    train, _ = open_sources(DataConfig(path=path, target="a,b", validation=0), ("class", "multi"))
    assert train.labels.kind == "multi" and (train.values[:, 0] == train.values[:, 1]).all()
    assert train.reading["columns"] == {"a": "sign", "b": "number"}
    one, _ = open_sources(DataConfig(path=path, target="a", validation=0), ("class", "multi"))
    assert one.labels.kind == "class" and one.labels.names == ("-1", "1")


def test_a_target_with_a_comma(tmp_path) -> None:
    rows = [f"{s},{n}" for n, s in enumerate(SMILES)]
    path = table(tmp_path / "m.csv", 'smiles,"logD, pH 7.4"', rows)
    train, _ = open_sources(DataConfig(path=path, target="logD, pH 7.4", validation=0), ("value",))
    assert train.labels.names == ("logD, pH 7.4",)


def test_columns_of_parquet_and_json(tmp_path) -> None:
    import pyarrow
    from pyarrow import parquet

    parquet.write_table(pyarrow.table({"smiles": SMILES, "y": list(range(12))}), tmp_path / "m.parquet")
    (tmp_path / "m.jsonl").write_text(
        "".join(f'{{"smiles": "{s}", "y": {n}}}\n' for n, s in enumerate(SMILES))
    )
    for name in ("m.parquet", "m.jsonl"):
        train, _ = open_sources(DataConfig(path=str(tmp_path / name), validation=0), ("value",))
        assert train.values[:, 0].tolist() == list(range(12))


SPELLED = (
    "C1(C(CCCC)(CC)C(NC(N1)=O)=O)=O",
    "C[C@H](N)C(=O)O",
    "C[C@@H]1CC[C@H](C(C)C)C[C@H]1O",
    "F/C=C/C(=O)[O-].[Na+]",
    "c1ccc2[nH]ccc2c1",
    "C[N+](C)(C)CC(=O)[O-]",
    "[13CH4]",
    "O=C1CC2(CCC1)OCCO2",
    "CC(=O)Oc1ccccc1C(=O)O",
    "[H][H]",
    "C1CC2CCC1CC2",
    "N[C@@H](Cc1c[nH]cn1)C(=O)N[C@H](C)C(=O)O",
)


@pytest.mark.parametrize("smiles", SPELLED)
def test_a_molecule_is_one_graph_however_it_is_spelled(smiles: str) -> None:
    from rdkit import Chem

    mol = Chem.MolFromSmiles(smiles)
    read = partial(chemistry.read_smiles, max_nodes=99, largest_fragment=False)
    want = read(smiles)
    spellings = [
        Chem.MolToRandomSmilesVect(mol, 10, randomSeed=3),
        [Chem.MolToInchi(mol)] * ("." not in smiles),
    ]
    for text in itertools.chain(*spellings):
        got = read(text)
        if text.startswith("InChI=") and got.smiles != want.smiles:
            continue  # another tautomer
        assert got.smiles == want.smiles
        for name in ("nodes", "edge_index", "edge_attr"):
            assert np.array_equal(getattr(got, name), getattr(want, name)), (text, name)
    block = chemistry.to_graph(Chem.MolFromMolBlock(Chem.MolToMolBlock(mol)), max_nodes=99)
    assert block.smiles != want.smiles or np.array_equal(block.nodes, want.nodes)
    given = chemistry.read_smiles(smiles, max_nodes=99, largest_fragment=False, featuriser=chemistry.GIVEN)
    assert sorted(map(tuple, given.nodes[:, [0, 2, 3]])) == sorted(map(tuple, want.nodes[:, [0, 2, 3]]))
