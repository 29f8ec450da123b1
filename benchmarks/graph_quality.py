"""What Graphormer reaches on small sets of molecules beside scikit-learn, as in docs/results.md, section Graphs.

    python -m benchmarks.graph_quality esol --data esol.csv --output runs/esol [--init runs/mgm]     10 random splits
    python -m benchmarks.graph_quality compare runs/esol runs/esol-mgm                               paired difference
    python -m benchmarks.graph_quality compare runs/esol                                             to boosting

Every split is one `unitrans train` (its command is in the run folder's config.yaml); gradient boosting on RDKit's
descriptors is fitted on the same training molecules.
"""

import argparse
import json
import math
from pathlib import Path

import numpy as np
from scipy import stats

from unitrans.training.config import resolve
from unitrans.training.run import train

ESOL = ["data.target=measured log solubility in mols per litre", "data.validation=0.1", "data.test=0.1"]


def esol(options: argparse.Namespace) -> None:
    """One run for each random split, and gradient boosting beside it."""
    results = Path(options.output, "splits.json")
    rows = json.loads(results.read_text()) if results.exists() else []
    for split in range(options.first, options.first + options.splits):
        config = resolve(
            domain="graph",
            objective="regression",
            data=options.data,
            init=options.init,
            settings=[*ESOL, f"data.split_seed={split}", *options.settings],
        )
        run = train(config, f"{options.output}/split-{split}")
        test = json.loads((run / "summary.json").read_text())["test"]
        row = {"split": split, "rmse": test["rmse"], "mae": test["mae"]}
        if options.boosting:
            row["boosting_rmse"] = boosting(config)
        rows.append(row)
        results.write_text(json.dumps(rows, indent=2) + "\n")
        print(row, flush=True)
    for key in rows[0]:
        if key != "split":
            values = [row[key] for row in rows]
            print(f"{key}: mean {np.mean(values):.4f}, standard deviation over splits {np.std(values):.4f}")


def boosting(config) -> float:
    """Test RMSE of histogram gradient boosting on RDKit's descriptors, with scikit-learn's settings."""
    from rdkit import Chem
    from rdkit.Chem import Descriptors
    from sklearn.ensemble import HistGradientBoostingRegressor

    source, validation = config.get_domain().open(config.data_config(), config.model_config(), 0, ("value",))
    parts = []
    for part in (source, validation, source.test):
        described = [
            list(Descriptors.CalcMolDescriptors(Chem.MolFromSmiles(s)).values()) for s in part.smiles
        ]
        parts.append((np.nan_to_num(np.array(described, dtype=np.float32)), part.values[part.rows, 0]))
    x, y = (np.concatenate([parts[0][i], parts[1][i]]) for i in (0, 1))  # it needs no validation part
    predicted = HistGradientBoostingRegressor(random_state=0).fit(x, y).predict(parts[2][0])
    return float(np.sqrt(np.square(predicted - parts[2][1]).mean()))


def compare(options: argparse.Namespace) -> None:
    """The paired difference of test RMSE over the splits that both have: of two folders, or of one and boosting."""
    tables = [json.loads(Path(folder, "splits.json").read_text()) for folder in options.folders]
    first, second = ({row["split"]: row for row in rows} for rows in (tables[0], tables[-1]))
    key = "rmse" if len(tables) == 2 else "boosting_rmse"
    splits = sorted(first.keys() & second.keys())
    assert len(splits) > 1, "expected two splits or more that both have"
    pairs = np.array([(first[split]["rmse"], second[split][key]) for split in splits])
    difference = pairs[:, 0] - pairs[:, 1]
    half = stats.t.ppf(0.975, len(splits) - 1) * difference.std(ddof=1) / math.sqrt(len(splits))
    mean = difference.mean()
    names = [options.folders[0], options.folders[1] if len(tables) == 2 else "gradient boosting"]
    print(f"splits {splits}: {names[0]} {pairs[:, 0].mean():.4f}, {names[1]} {pairs[:, 1].mean():.4f}")
    print(f"difference {mean:+.4f}, 95 % interval {mean - half:+.4f} to {mean + half:+.4f}")
    print("no difference found" if abs(mean) <= half else "a difference")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(required=True)
    run = commands.add_parser("esol")
    run.add_argument("--data", required=True)
    run.add_argument("--output", required=True)
    run.add_argument("--init")
    run.add_argument("--splits", type=int, default=10)
    run.add_argument("--first", type=int, default=0)
    run.add_argument("--boosting", action="store_true")
    run.add_argument("settings", nargs="*")
    run.set_defaults(run=esol)
    pair = commands.add_parser("compare")
    pair.add_argument("folders", nargs="+")
    pair.set_defaults(run=compare)
    options = parser.parse_args()
    options.run(options)


if __name__ == "__main__":
    main()
