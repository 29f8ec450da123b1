"""What pretraining on visible tokens only is worth: accuracy after fine-tuning at equal pretraining compute.

    python -m benchmarks.transfer --data cifar10 --seeds 0 1 2 3 4 --output transfer.jsonl
    python -m benchmarks.transfer --data cifar10 --hog
    python -m benchmarks.transfer --summary transfer.jsonl --picture transfer.png --baseline 0.512

For every seed: pretrain a small Swin with all tokens and with visible tokens only, the second for as many more updates
as its counted operations are fewer; fine-tune both; train from random weights for as long as the fine-tuning, and for
as many updates as pretraining (all tokens) and fine-tuning together. Held-out images choose nothing: the figure is that
of the last update. A line is written per run, and runs that are in the file already are not repeated. Recipes were
tuned with --holdout, which does not look at the test images.
"""

import argparse
import json
import shutil
import time
from pathlib import Path

import numpy as np
import torch
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.runs import Evaluations, read_rows
from unitrans.training.config import RunConfig, resolve
from unitrans.training.data import Collate
from unitrans.training.session import make_trainer, open_new_session

MODEL = ["model.name=swin", "model.patch_size=2", "model.embed_dim=32", "model.depths=[1,4]"]
MODEL += ["model.num_heads=[2,4]", "model.window_size=8", "model.drop_path_rate=0.0"]
COMMON = ["data.image_size=32", "data.channels=3", "data.flip=true", "train.bf16=true"]
COMMON += ["train.save_steps=1000000", "train.logging_steps=20", "train.per_device_eval_batch_size=125"]
COMMON += ["train.global_batch_size=null", "train.learning_rate_batch_size=null"]
PRETRAIN = ["objective.mask_ratio=0.75", "objective.mask_patch_size=4", "data.crop_scale=[0.5,1.0]"]
PRETRAIN += ["objective.norm_target=true", "objective.norm_target_window=9"]
PRETRAIN += ["train.learning_rate=1.5e-3", "train.per_device_train_batch_size=64"]
FINETUNE = ["data.crop_scale=[0.5,1.0]", "objective.label_smoothing=0.1", "train.layer_decay=1.0"]
FINETUNE += ["train.learning_rate=2e-3", "train.per_device_train_batch_size=64"]
ARMS = {
    "visible": "after visible tokens",
    "all": "after all tokens",
    "scratch": "from random weights",
    "scratch_long": "from random weights, for all updates",
}


def configured(objective: str, settings: list[str]) -> RunConfig:
    """The configuration of a run; of settings of one name the last counts."""
    last = {setting.partition("=")[0]: setting for setting in (*COMMON, *MODEL, *settings)}
    return resolve(domain="vision", objective=objective, settings=list(last.values()))


def flops_per_image(tokens: str, settings: list[str], images: int = 32) -> float:
    """Operations of one pretraining step (forward and backward) per image: matrix products and attention."""
    config = configured("mim", [*PRETRAIN, *settings, f"objective.encoder_tokens={tokens}"])
    session = open_new_session(config)
    model, data = session.model, session.data(session.train_source)
    batch = Collate(session.domain, session.model_config)([data[0, i] for i in range(images)])
    with FlopCounterMode(display=False) as counter:
        model(**{key: batch[key] for key in model.batch_keys() if key in batch}).loss_sum.backward()
    assert "unitrans" not in str(counter.get_flop_counts()), "attention is counted here"
    encoder, plans, pairs = session.model_config, batch["plans"], 0
    for stage, depth in enumerate(encoder.depths):
        for plan, blocks in ((plans.windows[stage], -(-depth // 2)), (plans.shifted[stage], depth // 2)):
            pairs += int(plan.cu_seqlens.diff().long().square().sum()) * blocks * encoder.stage_dim(stage)
    if tokens == "visible":
        pairs += int(plans.whole.groups.cu_seqlens.diff().long().square().sum()) * encoder.num_features
    return float(counter.get_total_flops() + 14 * pairs) / images  # 4 forward, 10 backward


def run(objective: str, settings: list[str], folder: Path, init: Path | None) -> list[tuple[int, float]]:
    """Trains; returns (update, held-out accuracy) pairs, of pretraining none."""
    config = configured(objective, settings)
    if init is not None:
        config.train["init"] = str(init)
    session = open_new_session(config)
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    trainer = make_trainer(session, folder)
    evaluations = Evaluations()
    trainer.observers.append(evaluations)
    trainer.train()
    return [(update, figures.get("eval_accuracy", float("nan"))) for update, figures in evaluations.seen]


def one_seed(args: argparse.Namespace, seed: int, ratio: float) -> None:
    """All runs of a seed that are not in the file yet; pretrained weights stay in the folder beside it."""
    root = args.output.with_suffix("") / str(seed)
    done = {row["run"] for row in read_rows(args.output) if row["seed"] == seed}
    pretraining = {"pretrain_all": args.pretrain, "pretrain_visible": round(args.pretrain * ratio)}
    tuning = {"all": "pretrain_all", "visible": "pretrain_visible", "scratch": None, "scratch_long": None}
    for name, updates in pretraining.items():
        tokens = name.removeprefix("pretrain_")
        settings = [*PRETRAIN, f"objective.encoder_tokens={tokens}"]
        settings += [f"data.validation={args.holdout or 'none'}"]
        _recorded(args, seed, name, done, updates, "mim", settings, root, None)
    for name, source in tuning.items():
        updates = args.finetune + (args.pretrain if name == "scratch_long" else 0)
        settings = [*FINETUNE, f"train.eval_steps={max(1, updates // 6)}"]
        settings += [f"data.validation={args.holdout or args.data + '/test'}"]
        init = None if source is None else root / source
        _recorded(args, seed, name, done, updates, "classification", settings, root, init)


def _recorded(
    args: argparse.Namespace,
    seed: int,
    name: str,
    done: set[str],
    updates: int,
    objective: str,
    settings: list[str],
    root: Path,
    init: Path | None,
) -> None:
    if name in done or (args.only and name not in args.only):
        return
    start = time.process_time()
    settings = [f"data.path={args.data}/train", *settings, *args.set]
    settings += [f"train.max_steps={updates}", f"train.seed={seed}"]
    curve = run(objective, settings, root / name, init)
    row = {"seed": seed, "run": name, "updates": updates, "seconds": round(time.process_time() - start, 1)}
    if objective == "classification":
        row["curve"] = curve
    with args.output.open("a") as file:
        file.write(json.dumps(row) + "\n")


def hog_svm(data: str) -> float:
    """Accuracy of a support vector machine (RBF) on histograms of oriented gradients, 4 x 4 px cells, 9 bins."""
    from PIL import Image
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler
    from sklearn.svm import SVC

    def features(path: Path) -> np.ndarray:
        grey = np.asarray(Image.open(path).convert("L"), dtype=float) / 255
        dy, dx = np.gradient(grey)
        angle, size = np.arctan2(dy, dx) % np.pi, np.hypot(dx, dy)
        share = angle / np.pi * 9 - 0.5
        low = np.floor(share).astype(int)
        cells = np.zeros((grey.shape[0] // 4, grey.shape[1] // 4, 9))
        y, x = np.divmod(np.arange(grey.size), grey.shape[1])
        for bins, weight in ((low % 9, 1 - (share - low)), ((low + 1) % 9, share - low)):
            np.add.at(cells, (y // 4, x // 4, bins.ravel()), (size * weight).ravel())
        blocks = np.concatenate([cells[:-1, :-1], cells[1:, :-1], cells[:-1, 1:], cells[1:, 1:]], -1)
        return (blocks / np.sqrt(np.square(blocks).sum(-1, keepdims=True) + 1e-4)).ravel()

    parts = []
    for part in ("train", "test"):
        files = sorted(Path(data, part).glob("*/*.png"))
        parts.append((np.stack([features(file) for file in files]), [file.parent.name for file in files]))
    model = make_pipeline(StandardScaler(), SVC(C=10.0)).fit(*parts[0])
    return float(model.score(*parts[1]))


def summary(file: Path, picture: Path | None, baseline: float | None) -> None:
    """Means, the interval of the paired differences (Student's t), and learning curves."""
    from scipy import stats

    rows = {(row["seed"], row["run"]): row for row in read_rows(file)}
    seeds = sorted({seed for seed, _ in rows if all((seed, arm) in rows for arm in ARMS)})
    curves = {arm: np.array([rows[seed, arm]["curve"] for seed in seeds]) for arm in ARMS}
    final = {arm: points[:, -1, 1] for arm, points in curves.items()}
    print(f"{len(seeds)} seeds; updates and minutes of processor time on average:")
    for name in ("pretrain_all", "pretrain_visible", *ARMS):
        found = [rows[seed, name] for seed in seeds if (seed, name) in rows]
        minutes = np.mean([row.get("seconds", np.nan) for row in found]) / 60
        print(f"  {name:<17} {found[0]['updates']:6,} {minutes:6.1f}")
    for arm, values in final.items():
        print(f"  {arm:<13} {values.mean():.4f}  ({', '.join(f'{value:.3f}' for value in values)})")
    for first, second in (
        ("visible", "all"),
        ("visible", "scratch"),
        ("visible", "scratch_long"),
        ("all", "scratch"),
    ):
        difference = final[first] - final[second]
        half = stats.t.ppf(0.975, len(seeds) - 1) * difference.std(ddof=1) / len(seeds) ** 0.5
        print(f"  {first} - {second:<13} {difference.mean():+.4f}, 95 % interval +- {half:.4f}")
    if picture is not None:
        _draw(curves, picture, baseline)


def _draw(curves: dict[str, np.ndarray], picture: Path, baseline: float | None) -> None:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.ticker import ScalarFormatter

    figure = Figure(figsize=(6, 4), dpi=150, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    for name, points in curves.items():  # [seeds, evaluations, 2]
        updates, values = points[0, :, 0], points[:, :, 1]
        (line,) = axes.plot(updates, values.mean(0), marker="o", markersize=3, label=ARMS[name])
        axes.fill_between(updates, values.min(0), values.max(0), color=line.get_color(), alpha=0.15)
    if baseline is not None:
        axes.axhline(baseline, color="grey", linestyle="--", label="HOG + SVM")
    axes.set_xscale("log", base=2)
    axes.xaxis.set_major_formatter(ScalarFormatter())
    axes.set_xlabel("update of fine-tuning")
    axes.set_ylabel("held-out accuracy (mean and range of seeds)")
    axes.legend()
    figure.savefig(picture)


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", default="../shared/data/cifar10")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2, 3, 4])
    parser.add_argument("--pretrain", type=int, default=1800, help="updates with all tokens")
    parser.add_argument("--finetune", type=int, default=1000)
    parser.add_argument("--set", nargs="+", default=[], help="settings of all runs that are changed")
    parser.add_argument("--only", nargs="+", default=[], help="of the runs of a seed, those to do now")
    parser.add_argument(
        "--holdout", type=float, help="for tuning: this part of the training images is held out"
    )
    parser.add_argument("--output", type=Path, default=Path("transfer.jsonl"), help="a line per run is added")
    parser.add_argument("--summary", type=Path)
    parser.add_argument("--picture", type=Path)
    parser.add_argument("--baseline", type=float, help="a line in the picture: what --hog says")
    parser.add_argument("--hog", action="store_true", help="only the support vector machine")
    args = parser.parse_args()
    torch.set_num_threads(1)
    if args.summary:
        summary(args.summary, args.picture, args.baseline)
        return
    if args.hog:
        print(f"HOG + SVM: {hog_svm(args.data):.4f}")
        return
    settings = [f"data.path={args.data}/train", "data.validation=none", *args.set]
    ratio = flops_per_image("all", settings) / flops_per_image("visible", settings)
    print(f"operations of a step, all against visible: {ratio:.3f}", flush=True)
    for seed in args.seeds:
        one_seed(args, seed, ratio)


if __name__ == "__main__":
    main()
