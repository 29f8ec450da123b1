"""The tutorial's own claims, measured again on small data, as in docs/claims.md.

    python -m benchmarks.claims windows      --output windows.jsonl       how much sliding windows cost beside Swin's
    python -m benchmarks.claims mask-pixels  --output mask-pixels.jsonl   mask ratio x mask unit for images
    python -m benchmarks.claims mask-words   --output mask-words.jsonl    mask ratio for words
    python -m benchmarks.claims prior-images --output prior-images.jsonl  hierarchy, locality, relative position
    python -m benchmarks.claims prior-photos --output prior-photos.jsonl  the same by the class of CIFAR-10's images
    python -m benchmarks.claims prior-graphs --output prior-graphs.jsonl  degree, spatial and edge encodings
    python -m benchmarks.claims prior-atoms  --output prior-atoms.jsonl   the same by predicting hidden atoms
    python -m benchmarks.claims prior-words  --output prior-words.jsonl   order
    python -m benchmarks.claims --summary windows.jsonl ...               the tables of docs/claims.md

A line is written per run; runs that are in the file already are not repeated. Settings were fixed before the first run
and held-out samples choose nothing: the figure is that of the last update.
"""

import argparse
import json
import shutil
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.flop_counter import FlopCounterMode

from benchmarks import sliding
from benchmarks.runs import read_rows
from unitrans.nn import Attention
from unitrans.training.config import RunConfig, resolve
from unitrans.training.data import VALIDATION, Collate, CorruptedSamples
from unitrans.training.random import sample_rng
from unitrans.training.session import Session, make_trainer, open_new_session

CIFAR = "../shared/data/cifar10"
# One judgement, of the last update; no checkpoints.
COMMON = ["train.eval_steps=1000000", "train.save_steps=1000000", "train.logging_steps=100"]
COMMON += ["train.per_device_eval_batch_size=256", "train.early_stopping_patience=null"]
COMMON += ["train.per_device_train_batch_size=32"]
DIGITS = ["data.path=digits", "data.validation=0.2", "train.max_steps=500"]
# CIFAR-10 as 8 x 8 patches: model and schedule of the digits.
PHOTOS = [f"data.path={CIFAR}/train", f"data.validation={CIFAR}/test", "data.image_size=32", "data.flip=true"]
PHOTOS += ["data.channels=3", "data.mean=auto", "data.std=auto", "data.crop_scale=[0.5,1.0]"]
PHOTOS += ["train.max_steps=600", "train.learning_rate=3e-3", "train.lr_scheduler_type=cosine"]
PHOTOS += ["train.warmup_steps=0.05", "train.weight_decay=0.05", "train.max_grad_norm=5.0"]
PHOTOS += ["train.global_batch_size=null", "train.learning_rate_batch_size=null", "train.layer_decay=1.0"]
PHOTOS += ["train.min_learning_rate=1e-5", "objective.label_smoothing=0.1"]
WORDS = ["train.max_steps=600"]
GRAPHS = ["train.num_train_epochs=6", "model.depth=3", "train.per_device_train_batch_size=64"]

SWIN = ["model.name=swin", "model.embed_dim=32", "model.depths=[2,2]", "model.num_heads=[2,4]"]
SWIN += ["model.window_size=4", "model.drop_path_rate=0.0"]
FLAT = ["model.name=vit", "model.embed_dim=32", "model.depth=3", "model.num_heads=2", "model.cls_token=false"]
FLAT += ["model.ape=false", "model.relative_position=per_layer", "model.pooling=mean"]


def image_arms(patch: int) -> dict[str, list[str]]:
    """One prior of Swin taken away at a time; maps of 8 x 8 patches."""
    sizes = [f"model.patch_size={patch}"]
    swin = [*SWIN, *sizes]
    return {
        "Swin": swin,
        "no relative position": [*swin, "model.relative_position=none"],
        "absolute instead of relative": [*swin, "model.relative_position=none", "model.ape=true"],
        "no windows (global)": [*swin, "model.window_size=8"],
        "no hierarchy": [*swin, "model.depths=[4]", "model.num_heads=[2]"],
        "neither (ViT)": [*FLAT, *sizes],
    }


@dataclass(frozen=True)
class Claim:
    """Runs to compare.

    Attributes:
        about: for the table.
        domain, objective, settings: of all runs.
        arms: name -> settings of its own.
        base: the arm that the others are compared with.
        figure, greater: by which they are compared, and whether more of it is better.
        seeds: how many, unless the command says otherwise.
        judge: held-out figures beyond those of the trainer.
        baselines: the simple predictors depend on the arm (masks), not only on the data.
    """

    about: str
    domain: str
    objective: str
    settings: list[str]
    arms: dict[str, list[str]]
    base: str
    figure: str
    greater: bool
    seeds: int
    judge: Callable[[Session, Any], dict[str, float]] | None = None
    baselines: bool = False


# ---- what is judged beside the trainer's figures --------------------------------------------------------------------


@torch.no_grad()
def features(session: Session, source: Any) -> np.ndarray:
    """The encoder's pooled row of every image, nothing hidden: [n, C]."""
    encoder: Any = session.model.encoder.eval()
    data, collate = session.data(source), Collate(session.domain, session.model_config)
    rows = []
    for start in range(0, len(data), 256):
        keys = [(VALIDATION, index) for index in range(start, min(start + 256, len(data)))]
        batch = collate([data[key] for key in keys])
        inputs = {name: value for name, value in batch.items() if name in encoder.input_names}
        rows.append(encoder.pool(encoder.features(**inputs), inputs["plans"]).float().numpy())
    return np.concatenate(rows)


def classes(config: RunConfig) -> list[np.ndarray]:
    """The classes of the training and the held-out images of a run that does not look at them."""
    domain = config.get_domain()
    parts = domain.open(config.data_config(), config.model_config(), config.train["seed"], ("class",))
    return [np.asarray(part.class_numbers()) for part in parts]


def probes(x: np.ndarray, y: np.ndarray, unseen: np.ndarray, truth: np.ndarray) -> dict[str, float]:
    """Accuracy on unseen vectors [m, C] of logistic regression and of 20 neighbours by cosine, fitted on x [n, C]."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.neighbors import KNeighborsClassifier
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    linear = make_pipeline(StandardScaler(), LogisticRegression(C=0.1, max_iter=200))
    near = KNeighborsClassifier(min(20, len(x)), metric="cosine", weights="distance")
    return {
        name: float(model.fit(x, y).score(unseen, truth))
        for name, model in (("linear", linear), ("knn", near))
    }


def probe_images(session: Session, trainer: Any) -> dict[str, float]:
    """How well simple classifiers tell held-out images apart by the frozen encoder's rows."""
    y, truth = classes(session.config)
    x, unseen = (features(session, part) for part in (session.train_source, session.validation_source))
    return probes(x, y, unseen, truth)


def probe_pixels(session: Session) -> dict[str, float]:
    """The same of the pixels themselves, and of the encoder as it is drawn."""
    parts = (session.train_source, session.validation_source)
    x, unseen = (np.stack([i.numpy().ravel() for i in part.unit_images()]) for part in parts)  # type: ignore[union-attr]
    y, truth = classes(session.config)
    fresh = probe_images(session, None)
    found = {f"{name} probe of pixels": value for name, value in probes(x, y, unseen, truth).items()}
    return found | {f"{name} probe of fresh weights": value for name, value in fresh.items()}


def judge_masks(*shares: float) -> Callable[[Session, Any], dict[str, float]]:
    """Judges held-out texts under the same masks, of these shares, whatever was hidden in training."""

    def judge(session: Session, trainer: Any) -> dict[str, float]:
        found = {}
        for share in shares:
            objective = type(session.objective)(
                session.model_config,
                None,
                **session.objective.options.model_dump() | {"mlm_probability": share},
            )
            data = CorruptedSamples(session.validation_source, objective, session.settings["seed"])  # type: ignore[arg-type]
            metrics = trainer.judge(data)
            found |= {
                f"accuracy_at_{share:g}": metrics["eval_accuracy"],
                f"loss_at_{share:g}": metrics["eval_loss"],
            }
        return found

    return judge


# ---- the claims -----------------------------------------------------------------------------------------------------

SHARES = (0.15, 0.4, 0.75)
GRAPH_ARMS = {
    "Graphormer": [],
    "no degree": ["model.degree_encoding=false"],
    "no distance": ["model.spatial_encoding=false"],
    "no edges": ["model.edge_encoding=false"],
    "none of them": [f"model.{name}_encoding=false" for name in ("degree", "spatial", "edge")],
}
CLAIMS = {
    "mask-pixels": Claim(
        "linear probe of frozen features, digits", "vision", "mim", [*DIGITS, *SWIN],
        {f"{share:.0%} of {unit} px": [f"objective.mask_ratio={share}", f"objective.mask_patch_size={unit}"]
         for unit in (1, 2, 4) for share in SHARES},
        "15% of 1 px", "linear", True, 3, probe_images, baselines=True,
    ),
    "mask-words": Claim(
        "accuracy of hidden words under masks of 15 %", "text", "mlm", WORDS,
        {f"{share:.0%}": [f"objective.mlm_probability={share}"] for share in SHARES},
        "15%", "accuracy_at_0.15", True, 3, judge_masks(0.15, 0.4), baselines=True,
    ),
    "prior-images": Claim(
        "error per hidden pixel, digits", "vision", "mim", DIGITS, image_arms(1), "Swin", "l1", False, 3
    ),
    "prior-photos": Claim(
        "accuracy, CIFAR-10", "vision", "classification", PHOTOS, image_arms(4), "Swin", "accuracy", True, 2
    ),
    "prior-graphs": Claim(
        "test MAE of QED", "graph", "regression", GRAPHS, GRAPH_ARMS, "Graphormer", "mae", False, 3
    ),
    "prior-atoms": Claim(
        "accuracy of hidden atoms", "graph", "mgm", [*GRAPHS, "data.validation=0.1"],
        GRAPH_ARMS, "Graphormer", "node_accuracy", True, 2,
    ),
    "prior-words": Claim(
        "accuracy of hidden words", "text", "mlm", WORDS,
        {"BERT": [], "no positions": ["model.ape=false"]}, "BERT", "accuracy", True, 2,
    ),
}  # fmt: skip


# ---- running --------------------------------------------------------------------------------------------------------


def configured(claim: Claim, arm: str, seed: int, settings: list[str]) -> RunConfig:
    """The configuration of a run; of settings of one name the last counts."""
    every = [*COMMON, *claim.settings, *claim.arms[arm], f"train.seed={seed}", *settings]
    last = {setting.partition("=")[0]: setting for setting in every}
    return resolve(domain=claim.domain, objective=claim.objective, settings=list(last.values()))


def operations(session: Session, samples: int = 16) -> float:
    """Operations of a forward pass per sample: matrix products, and attention by the pairs that its plans list."""
    pairs, model, data = [0.0], session.model.eval(), session.data(session.train_source)
    batch = Collate(session.domain, session.model_config)([data[0, i] for i in range(samples)])

    def attends(module: Attention, inputs: tuple[Any, ...]) -> None:
        squares = float(inputs[1].cu_seqlens.diff().double().square().sum())
        pairs[0] += 4 * squares * module.num_heads * module.head_dim

    hooks = [m.register_forward_pre_hook(attends) for m in model.modules() if isinstance(m, Attention)]
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(**{key: batch[key] for key in model.batch_keys() if key in batch})
    for hook in hooks:
        hook.remove()
    return (counter.get_total_flops() + pairs[0]) / samples


def run(claim: Claim, arm: str, seed: int, settings: list[str], first: bool) -> dict[str, Any]:
    """Trains and judges once; the first seed brings the simple predictors along."""
    begin = time.process_time()
    session = open_new_session(configured(claim, arm, seed, settings))
    held_out: Any = getattr(session.train_source, "test", None) or session.validation_source
    row: dict[str, Any] = {"updates": session.max_steps, "operations": operations(session)}
    row |= {"parameters": sum(p.numel() for p in session.model.parameters()), "held_out": len(held_out)}
    if first and (claim.baselines or arm == claim.base):
        found = session.domain.baselines(
            session.train_source, held_out, session.objective, session.model_config,
            lambda name: sample_rng(seed, None, name, "mask"),
        )  # fmt: skip
        row["predictors"] = {b.name: b.value for b in found if b.value is not None}
        if claim.judge is probe_images and arm == claim.base:
            row["predictors"] |= probe_pixels(session)
    folder = Path(tempfile.mkdtemp())
    try:
        trainer = make_trainer(session, folder)
        trainer.train()
        metrics = trainer.judge(session.data(held_out))
        row |= {name.removeprefix("eval_"): v for name, v in metrics.items() if name != "eval_seconds"}
        row |= claim.judge(session, trainer) if claim.judge else {}
    finally:
        shutil.rmtree(folder)
    return row | {"seconds": round(time.process_time() - begin, 1)}


def measure(name: str, seeds: list[int], settings: list[str], output: Path, only: list[str]) -> None:
    """All runs of a claim that are not in the file yet, seed by seed."""
    claim = CLAIMS[name]
    done = {(row["seed"], row["run"]) for row in read_rows(output)}
    for seed in seeds:
        for arm in claim.arms:
            if (seed, arm) in done or (only and arm not in only):
                continue
            row = {
                "claim": name,
                "seed": seed,
                "run": arm,
                **run(claim, arm, seed, settings, seed == seeds[0]),
            }
            with output.open("a") as file:
                file.write(json.dumps(row) + "\n")
            print(arm, seed, row[claim.figure], f"{row['seconds']} s", flush=True)


# ---- tables ---------------------------------------------------------------------------------------------------------


def difference(first: np.ndarray, second: np.ndarray) -> str:
    """The mean of paired differences [n], with the 95 % interval of Student's t, in words where it holds 0."""
    from scipy import stats

    pairs = first - second
    if len(pairs) < 2:
        return f"{pairs.mean():+.4f} (one seed)"
    half = stats.t.ppf(0.975, len(pairs) - 1) * pairs.std(ddof=1) / len(pairs) ** 0.5
    verdict = "" if abs(pairs.mean()) > half else ", no difference found"
    return f"{pairs.mean():+.4f} +- {half:.4f}{verdict}"


def table(rows: list[dict[str, Any]]) -> str:
    """Markdown: every arm with its figure, seed by seed, and the paired difference to the first one."""
    if rows[0]["claim"] == "windows":
        return sliding.table(rows)
    claim = CLAIMS[rows[0]["claim"]]
    by = {(row["run"], row["seed"]): row for row in rows}
    own = "l1" if claim.objective == "mim" else "accuracy"
    extra = [key for key in ("knn", "accuracy_at_0.4", own) if key in rows[0] and key != claim.figure]
    head = ["", f"{claim.about} (seeds)", f"minus {claim.base}, 95 % interval"]
    lines = [[*head, *(EXTRA[key] for key in extra), "operations", "parameters", "seconds"]]
    for arm in claim.arms:
        seeds = sorted(seed for name, seed in by if name == arm and (claim.base, seed) in by)
        if not seeds:
            continue
        found = [by[arm, seed] for seed in seeds]
        values, base = (np.array([by[a, s][claim.figure] for s in seeds]) for a in (arm, claim.base))
        cells = [arm, f"**{values.mean():.4f}** ({', '.join(f'{value:.4f}' for value in values)})"]
        cells.append("" if arm == claim.base else difference(values, base))
        cells += [f"{np.mean([row[key] for row in found]):.4f}" for key in extra]
        if own in extra and "predictors" in found[0]:
            ours = [value for name, value in found[0]["predictors"].items() if "probe" not in name]
            cells[-1] += f" / {(min if own == 'l1' else max)(ours):.4f}"
        cells.append(f"{found[0]['operations'] / by[claim.base, seeds[0]]['operations']:.2f}x")
        cells.append(f"{found[0]['parameters']:,}")
        lines.append([*cells, f"{np.mean([row['seconds'] for row in found]):.0f}"])
    first = min((row for row in rows if row["run"] == claim.base), key=lambda row: int(row["seed"]))
    simple = first.get("predictors", {})
    beside = ", ".join(f"{name} {value:.4f}" for name, value in simple.items())
    note = f"{first['updates']:,} updates, {first['held_out']:,} held-out samples."
    body = "\n".join(f"| {' | '.join(line)} |" for line in [lines[0], ["---"] * len(lines[0]), *lines[1:]])
    return f"{body}\n\n{note} Simple predictors{' of the first row' if claim.baselines else ''}: {beside}.\n"


EXTRA = {
    "knn": "20 neighbours",
    "accuracy_at_0.4": "under masks of 40 %",
    "l1": "error per hidden pixel under its own masks / best simple predictor",
    "accuracy": "under its own masks / best table",
}


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("claim", nargs="?", choices=["windows", *CLAIMS])
    parser.add_argument("--seeds", nargs="+", type=int, help="default: 0 to 2 (0 and 1 of the slower claims)")
    parser.add_argument("--set", nargs="+", default=[], help="settings of all runs that are changed")
    parser.add_argument("--only", nargs="+", default=[], help="of the runs, those to do now")
    parser.add_argument("--output", type=Path, help="a line per run is added (default: CLAIM.jsonl)")
    parser.add_argument("--seconds", type=float, default=6.0, help="windows: per case, wall time")
    parser.add_argument("--summary", nargs="+", type=Path, help="prints the tables of these files")
    args = parser.parse_args()
    torch.set_num_threads(1)
    if args.summary:
        for file in args.summary:
            print(table(read_rows(file)))
    elif args.claim is None:
        parser.error("name a claim, or files with --summary")
    else:
        output = args.output or Path(f"{args.claim}.jsonl")
        if args.claim == "windows":
            sliding.measure(output, args.seconds)
        else:
            seeds = list(range(CLAIMS[args.claim].seeds)) if args.seeds is None else args.seeds
            measure(args.claim, seeds, args.set, output, args.only)


if __name__ == "__main__":
    main()
