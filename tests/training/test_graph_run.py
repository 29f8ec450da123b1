"""Whole runs on graphs: learning by heart, going on exactly, predicting rows, ensembles."""

import csv
import io
import json
import signal
from pathlib import Path

import numpy as np
import pytest
import torch

pytest.importorskip("rdkit", reason="needs the graph extra (RDKit)")

from tests.training.stopping import in_update
from tests.warm import launch
from unitrans.cli import main
from unitrans.errors import InterruptedRunError
from unitrans.training.config import resolve
from unitrans.training.run import resume, train
from unitrans.training.session import open_session
from unitrans.use.ensemble import crossed_coverage, fit
from unitrans.use.predict import Predictor, half_width

TINY = [
    "model.embed_dim=16",
    "model.depth=1",
    "model.num_heads=2",
    "train.per_device_train_batch_size=8",
    "train.max_steps=6",
    "train.eval_steps=3",
    "train.save_steps=3",
    "train.logging_steps=2",
]
SMILES = [f"{'C' * k}{end}" for k in range(1, 9) for end in ("O", "N", "Cl", "c1ccccc1", "C#N")]


@pytest.fixture
def molecules(tmp_path, monkeypatch) -> Path:
    """A table of 40 molecules with a number, two classes and a missing label; one row does not parse."""
    monkeypatch.setenv("UNITRANS_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    return write_table(tmp_path)


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> str:
    """A run on those molecules that is there to predict."""
    folder = tmp_path_factory.mktemp("trained")
    return str(run(write_table(folder), "train.max_steps=1", output=str(folder / "run")))


def write_table(folder: Path) -> Path:
    rows = [
        f"{n},{s},{len(s) + 0.5 * n % 3},{n % 2},{'' if n % 4 == 0 else n % 2}" for n, s in enumerate(SMILES)
    ]
    path = folder / "molecules.csv"
    path.write_text("\n".join(["id,smiles,size,odd,some", *rows, "40,xx,1,1,1"]) + "\n")
    return path


def run(
    data: Path,
    *settings: str,
    objective: str = "regression",
    target: str | None = "size",
    output="run",
    init=None,
):
    given = {s.partition("=")[0] for s in settings}
    base = [s for s in TINY if s.partition("=")[0] not in given]
    config = resolve(
        domain="graph",
        objective=objective,
        data=str(data),
        target=target,
        init=init,
        settings=[*base, *settings],
    )
    return train(config, output)


def test_a_run_predicts_what_it_reports(molecules, capsys) -> None:
    folder = run(molecules)
    files = {path.name for path in folder.iterdir()}
    assert {"parity.png", "parity-test.png", "molecules.png", "curves.png", "skipped.txt"} <= files
    assert "row 41" in (folder / "skipped.txt").read_text()
    said = capsys.readouterr().out
    assert (
        "The test part, judged once:" in said and "95 % of resamples" in said and "ridge regression" in said
    )
    summary = json.loads((folder / "summary.json").read_text())
    low, high = summary["test"]["intervals"]["mae"]
    assert low <= summary["test"]["mae"] <= high
    assert summary["test"]["targets"]["size"]["mae"] == pytest.approx(summary["test"]["mae"])

    molecules.rename(molecules.with_name("elsewhere.csv"))  # a checkpoint needs no training data
    assert main(["predict", "--checkpoint", str(folder), "elsewhere.csv", "-o", "out.csv"]) == 1
    with open("out.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["id"] for row in rows] == [str(n) for n in range(41)]
    assert (
        rows[40]["size"] == ""
        and "cannot parse" in rows[40]["error"]
        and not any(r["error"] for r in rows[:40])
    )
    config = resolve(config=str(folder / "config.yaml"), settings=["data.path=elsewhere.csv"])
    source = open_session(config).train_source.test
    errors = [abs(float(rows[row]["size"]) - float(rows[row]["size_given"])) for row in source.rows]
    assert np.mean(errors) == pytest.approx(summary["test"]["mae"], rel=1e-4)


def test_yes_or_no(molecules) -> None:
    """Two targets, one with missing labels."""
    folder = run(
        molecules, "data.test=0", "data.validation=0.3", objective="classification", target="odd,some"
    )
    lines = molecules.read_text().splitlines()[:4]
    Path("few.csv").write_text("\n".join(lines) + "\n")
    assert main(["predict", "--checkpoint", str(folder), "few.csv", "-o", "out.jsonl"]) == 0
    rows = [json.loads(line) for line in Path("out.jsonl").read_text().splitlines()]
    assert all(0 < row[name] < 1 for row in rows for name in ("odd", "some"))


def test_classes(molecules) -> None:
    words = [line.rsplit(",", 2)[0] + f",{'odd' if n % 2 else 'even'}" for n, line in enumerate(SMILES)]
    Path("words.csv").write_text("\n".join(["smiles,kind", *words]) + "\n")
    folder = run(
        Path("words.csv"), "data.test=0", "data.validation=0.3", objective="classification", target="kind"
    )
    assert main(["predict", "--checkpoint", str(folder), "words.csv", "-o", "out.csv"]) == 0
    with open("out.csv", newline="") as file:
        for row in csv.DictReader(file):
            chances = {name: float(row[f"kind_p_{name}"]) for name in ("even", "odd")}
            assert sum(chances.values()) == pytest.approx(1) and row["kind"] == max(chances, key=chances.get)


def test_overfits_32_molecules(molecules) -> None:
    """Near-zero loss on what it was trained on: the whole path from SMILES to gradients is sound."""
    lines = molecules.read_text().splitlines()[:33]
    Path("few.csv").write_text("\n".join(lines) + "\n")
    folder = run(
        Path("few.csv"),
        "data.validation=0",
        "data.test=0",
        "model.embed_dim=32",
        "model.depth=2",
        "model.attn_drop_rate=0",
        "train.weight_decay=0",
        "train.per_device_train_batch_size=32",
        "train.max_steps=300",
        "train.learning_rate=0.003",
        "train.min_learning_rate=0",
    )
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    losses = [row["loss"] for row in rows if "loss" in row]
    assert losses[0] > 0.5 and np.mean(losses[-3:]) < 0.08, losses[-3:]


def test_fine_tuning_after_masked_modelling(molecules, capsys) -> None:
    first = run(molecules, objective="mgm", target=None, output="mgm")
    assert "Share of hidden nodes" in capsys.readouterr().out and (first / "molecules.png").exists()
    run(molecules, init="mgm", output="tuned")
    assert "the head starts afresh" in capsys.readouterr().out
    assert main(["predict", "--checkpoint", "mgm", str(molecules)]) == 2
    assert "predicts no labels" in capsys.readouterr().err


def test_a_stopped_run_goes_on_exactly(molecules) -> None:
    """The weights after a stop in the middle and --resume are those of a run without one, bit for bit."""
    settings = [
        "model.attn_drop_rate=0.2",
        "train.gradient_accumulation_steps=2",
        "train.per_device_train_batch_size=4",
    ]
    whole = run(molecules, *settings, output="whole")
    with in_update(4, lambda: signal.raise_signal(signal.SIGTERM)), pytest.raises(InterruptedRunError):
        run(molecules, *settings, output="half")
    resume("half")
    ends = [
        torch.load(p / "checkpoints/latest/optimizer.pt", weights_only=True) for p in (whole, Path("half"))
    ]
    for a, b in zip(*(end["state"].values() for end in ends), strict=True):
        assert torch.equal(a["exp_avg"], b["exp_avg"]) and torch.equal(a["exp_avg_sq"], b["exp_avg_sq"])


def test_ensemble(molecules, capsys) -> None:
    arguments = [
        "train",
        "--domain",
        "graph",
        "--objective",
        "regression",
        "--data",
        str(molecules),
        "--target",
        "size",
    ]
    assert main([*arguments, "--ensemble", "2", "--output", "both", "data.validation=0.3", *TINY]) == 0
    record = json.loads(Path("both/ensemble.json").read_text())
    assert record["members"] == ["seed-0", "seed-1"] and 0 <= record["targets"]["size"]["coverage_test"] <= 1
    main(["predict", "--checkpoint", "both", str(molecules), "-o", "out.csv"])
    singles = []
    for member in record["members"]:
        main(["predict", "--checkpoint", f"both/{member}", str(molecules), "-o", f"{member}.csv"])
        with open(f"{member}.csv", newline="") as file:
            singles.append([float(r["size"] or "nan") for r in csv.DictReader(file)])
    with open("out.csv", newline="") as file:
        rows = list(csv.DictReader(file))[:40]
    pair = np.array(singles)[:, :40]
    assert np.allclose([float(r["size"]) for r in rows], pair.mean(0))
    assert np.allclose([float(r["size_sd"]) for r in rows], pair.std(0, ddof=1), atol=1e-7)
    assert all(float(r["size_low"]) < float(r["size"]) < float(r["size_high"]) for r in rows)
    assert Predictor("both").columns() == ["size", "size_sd", "size_low", "size_high"]

    # Stopped while it trains its second member; a member has six updates.
    with in_update(6 + 5, lambda: signal.raise_signal(signal.SIGTERM)):
        stopped = [*arguments, "--ensemble", "2", "--output", "cut", "data.validation=0.3", *TINY]
        assert main(stopped) == 128 + 15
    assert main(["predict", "--checkpoint", "cut", str(molecules)]) == 2
    assert "not trained to its end: unitrans train --resume cut" in capsys.readouterr().err
    kept = Path("cut/seed-0/summary.json").stat().st_mtime_ns
    assert main(["train", "--resume", "cut"]) == 0
    assert Path("cut/seed-0/summary.json").stat().st_mtime_ns == kept
    assert json.loads(Path("cut/ensemble.json").read_text()) == record


def test_two_processes(molecules) -> None:
    """A graph run in two processes makes the updates of one, however the micro-batches are cut by tokens."""
    settings = {"train.use_cpu": "true", "train.logging_steps": 1, "train.gradient_accumulation_steps": 2}
    settings |= {"model.attn_drop_rate": 0}
    one = run(molecules, *(f"{k}={v}" for k, v in settings.items()), "train.per_device_train_batch_size=4")
    settings["train.per_device_train_batch_size"] = 2
    given = {key.partition("=")[0] for key in settings}
    rest = [s for s in TINY if s.partition("=")[0] not in given]
    told = ["train", "--domain", "graph", "--objective", "regression", "--data", str(molecules)]
    told += ["--target", "size", "--output", "two", *rest, *(f"{k}={v}" for k, v in settings.items())]
    printed = launch("import sys; from unitrans.cli import main; sys.exit(main())", 2, *told)
    assert "2 per device x 2 accumulation x 2 processes" in printed
    logs = [
        [json.loads(line) for line in Path(folder, "metrics.jsonl").read_text().splitlines()]
        for folder in (one, "two")
    ]
    assert len(logs[0]) == len(logs[1]) > 6
    for row, other in zip(*logs, strict=True):
        for key in row.keys() & {"loss", "grad_norm", "eval_loss", "eval_mae", "learning_rate"}:
            assert other[key] == pytest.approx(row[key], rel=1e-5), (row["step"], key)


def test_intervals_hold_as_often_as_they_say() -> None:
    rng = np.random.default_rng(0)
    spread = rng.uniform(0.1, 2, 4000)
    errors = np.abs(rng.normal(0, spread))
    made = fit(errors[:2000], spread[:2000])
    assert np.mean(errors[2000:] <= half_width(made, spread[2000:])) == pytest.approx(0.9, abs=0.02)
    assert crossed_coverage(errors, spread) == pytest.approx(0.9, abs=0.02)


@pytest.mark.parametrize(
    ("lines", "kind"),
    [
        ("CCO\nxx\n", "smi"),
        ("smiles\nCCO\nxx\n", "csv"),
        ('{"smiles": "CCO"}\n{"smiles": "xx"}\n', "jsonl"),
    ],
)
def test_standard_input(trained, monkeypatch, capsys, lines, kind) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO(lines))
    assert main(["predict", "--checkpoint", trained, "--batch-size", "1"]) == 1
    out = capsys.readouterr().out.splitlines()
    if kind == "jsonl":
        first, second = map(json.loads, out)
        assert isinstance(first["size"], float) and first["error"] is None
        assert second["size"] is None and "cannot parse" in second["error"]
    else:
        rows = list(csv.DictReader(out))
        assert float(rows[0]["size"]) and rows[1]["size"] == "" and "cannot parse" in rows[1]["error"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--checkpoint", "absent", "x.csv"], "--checkpoint absent: there is no such file or folder"),
        (["x.csv"], "required: --checkpoint"),
        (["--checkpoint", "absent", "--batch-size", "0"], "--batch-size: expected at least 1"),
    ],
)
def test_wrong_commands(molecules, capsys, arguments, message) -> None:
    assert main(["predict", *arguments]) == 2
    assert message in capsys.readouterr().err


def test_inputs_that_cannot_be_predicted(trained, molecules, capsys) -> None:
    Path("empty.csv").write_text("")
    Path("other.csv").write_text("a,b\n1,2\n")
    for name, message in (
        ("absent.csv", "absent.csv cannot be read"),
        ("empty.csv", "expected rows, got nothing"),
        ("other.csv", "expected one column with SMILES"),
    ):
        assert main(["predict", "--checkpoint", trained, name]) == 2
        assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (["model.num_in_degree=4"], "model.num_in_degree: expected at least"),
        (["model.num_edges=1000"], "model.num_edges: expected at least"),
        (["model.num_atoms=100"], "model.num_atoms: expected at least"),
        (["model.num_spatial=5"], "model.num_spatial: expected at least"),
        (
            ["objective.node_categories=[30,4,12,12,10,6,6,2,2]"],
            "objective.node_categories: feature 0 of row",
        ),
        (["objective.edge_categories=[2,6,2]"], "objective.edge_categories: feature 0 of row"),
        (
            ["objective.node_categories=[9]"],
            "objective.node_categories: expected one number for each of 9 features",
        ),
    ],
)
def test_what_does_not_fit_is_said_before_the_run_begins(
    settings: list[str], message: str, molecules: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """One molecule among many, the last to be met, is of bromine, triply bonded, branched and long."""
    with molecules.open("a") as file:
        file.write(f"41,C#C{'C' * 12}C(C)(C)CBr,1,1,1\n")
    arguments = [
        "train",
        "--domain",
        "graph",
        "--objective",
        "mgm",
        "--data",
        str(molecules),
        "--output",
        "run",
    ]
    assert main([*arguments, *TINY, *settings]) == 2
    said = capsys.readouterr().err
    assert message in said and said.count("\n") == 1
    assert not Path("run").exists()
