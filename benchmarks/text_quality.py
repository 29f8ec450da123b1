"""Sentiment of film reviews (SST-2): what masked pretraining on the training sentences alone is worth.

    python -m benchmarks.text_quality --data DATA                 five seeds of three runs, and the linear model
    python -m benchmarks.text_quality --data DATA --init FOLDER   one epoch from a model folder of transformers

DATA holds sst2.train.csv, sst2.dev.csv and sst2.test.csv (text,label). Runs: `scratch` (fine-tuning steps from fresh
weights), `scratch-long` (as many updates as the third in all) and `mlm` (masked language modelling on the training
sentences without their labels, then the same fine-tuning). The checkpoint is chosen by accuracy on dev; the figures are
of test. Rows are appended to OUTPUT as they come; seeds that are there are not run again, so that a stopped measurement
can go on. In the end it gives the differences, paired by seed, with 95 % t intervals: how much they depend on the seed.
"""

from __future__ import annotations

import argparse
import csv
import json
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from unitrans.domains.text.predict import TextPredictor, tokenizer_of
from unitrans.objectives import MaskedSignalModel
from unitrans.training.config import resolve
from unitrans.training.run import train

MODEL = {
    "model.embed_dim": 64,
    "model.depth": 2,
    "model.num_heads": 4,
    "model.max_position_embeddings": 64,
    "model.initializer_range": 0.1,
    "model.position_init": "sinusoidal",
    "model.type_vocab_size": 0,
    "data.document": "line",
    "data.vocab_size": 4000,
}
MLM = {"train.per_device_train_batch_size": 64, "train.learning_rate": 3e-3}
FINE = {"train.num_train_epochs": 3, "train.per_device_train_batch_size": 32, "train.learning_rate": 1e-3}


def run(
    objective: str, data: Path, validation: Path, output: Path, init: str | None, **settings: Any
) -> Path:
    """One run of the trainer."""
    given = [f"{key}={json.dumps(value)}" for key, value in settings.items()]
    given += [f"data.validation={validation}", "train.eval_steps=0.25", "train.save_total_limit=1"]
    config = resolve(domain="text", objective=objective, data=str(data), init=init, settings=given)
    return train(config, str(output))


def accuracy(folder: Path, table: Path) -> float:
    """Of the best checkpoint of a run."""
    with table.open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    model = MaskedSignalModel.from_pretrained(folder / "checkpoints" / "best")
    answers = TextPredictor(model, tokenizer_of(folder)).classify([row["text"] for row in rows])
    return float(
        np.mean([answer["label"] == row["label"] for answer, row in zip(answers, rows, strict=True)])
    )


def linear(data: Path) -> float:
    """Logistic regression on tf-idf of words and pairs of words, of the same test sentences."""
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline

    def read(name: str) -> tuple[list[str], list[str]]:
        with (data / f"sst2.{name}.csv").open(encoding="utf-8") as file:
            rows = list(csv.DictReader(file))
        return [row["text"] for row in rows], [row["label"] for row in rows]

    words = TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True, token_pattern=r"\S+")
    model = make_pipeline(words, LogisticRegression(C=10.0, max_iter=1000)).fit(*read("train"))
    return float(model.score(*read("test")))


def differences(rows: Sequence[dict[str, Any]]) -> list[str]:
    """Accuracy after pretraining minus that of the other arms: one line for each."""
    from scipy import stats

    found = {(row["arm"], row["seed"]): row["accuracy"] for row in rows if "seed" in row}
    lines = []
    for other in ("scratch", "scratch-long"):
        seeds = sorted(seed for arm, seed in found if arm == "mlm" and (other, seed) in found)
        gains = np.array([found["mlm", seed] - found[other, seed] for seed in seeds])
        if len(gains) < 2:
            continue
        half = stats.t.ppf(0.975, len(gains) - 1) * gains.std(ddof=1) / len(gains) ** 0.5
        low, high = gains.mean() - half, gains.mean() + half
        lines.append(
            f"mlm - {other}: {gains.mean():+.4f} ({low:+.4f} to {high:+.4f}, {len(gains)} seeds), "
            + ", ".join(f"{gain:+.4f}" for gain in gains)
        )
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--init", help="a model folder of transformers")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    parser.add_argument("--output", type=Path, default=Path("text_quality.jsonl"))
    parser.add_argument("--epochs", type=int, default=40, help="of masked language modelling")
    options = parser.parse_args()
    paths = {name: options.data / f"sst2.{name}.csv" for name in ("train", "dev", "test")}

    rows: list[dict[str, Any]] = []
    if options.output.is_file():
        rows = [json.loads(line) for line in options.output.read_text(encoding="utf-8").splitlines()]

    def note(**row: Any) -> None:
        rows.append(row)
        with options.output.open("a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")
        print(row, flush=True)

    if options.init is not None:
        for seed in options.seeds[:1]:
            with tempfile.TemporaryDirectory() as folder:
                fine = {"train.num_train_epochs": 1, "train.learning_rate": 1e-4, "model.pooling": "mean"}
                fine |= {"train.per_device_train_batch_size": 32, "train.seed": seed}
                made = run(
                    "classification", paths["train"], paths["dev"], Path(folder) / "run", options.init, **fine
                )
                note(arm="init", seed=seed, accuracy=accuracy(made, paths["test"]))
        return
    if not any(row["arm"] == "tf-idf" for row in rows):
        note(arm="tf-idf", accuracy=linear(options.data))
    pretraining = MLM | {"train.num_train_epochs": options.epochs}
    # As many updates as both parts of the first arm have: those of pretraining are of twice the size.
    epochs = FINE["train.num_train_epochs"] + options.epochs * 32 / 64
    for seed in options.seeds:
        done = {row["arm"] for row in rows if row.get("seed") == seed}
        both, fine = MODEL | {"train.seed": seed}, FINE | {"train.seed": seed}
        for arm in ("mlm", "scratch", "scratch-long"):
            if arm in done:
                continue
            with tempfile.TemporaryDirectory() as folder:
                root = Path(folder)
                init, settings = None, both | FINE
                if arm == "mlm":
                    masked = run(
                        "mlm", paths["train"], paths["dev"], root / "mlm", None, **both | pretraining
                    )
                    init, settings = str(masked), fine
                elif arm == "scratch-long":
                    settings = settings | {"train.num_train_epochs": epochs}
                made = run("classification", paths["train"], paths["dev"], root / "run", init, **settings)
                note(arm=arm, seed=seed, accuracy=accuracy(made, paths["test"]))
    print("\n".join(differences(rows)))


if __name__ == "__main__":
    main()
