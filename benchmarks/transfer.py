"""What pretraining on visible tokens only is worth: accuracy after fine-tuning at equal pretraining compute.

    python -m benchmarks.transfer --data ../shared/data/cifar10 --seeds 0 1 2 3 4 --output transfer.jsonl
    python -m benchmarks.transfer --summary transfer.jsonl --picture transfer.png

For every seed: pretrain a small Swin with all tokens and with visible tokens only, the second for as many more updates
as its counted operations are fewer; fine-tune both; train from random weights for as long as the fine-tuning, and for
as many updates as pretraining (all tokens) and fine-tuning together. Held-out images choose nothing: the figure is that
of the last update.
"""

import argparse
import json
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.flop_counter import FlopCounterMode

from unitrans.train.config import resolve
from unitrans.train.session import make_trainer, open_new_session

MODEL = ["model.name=swin", "model.patch_size=4", "model.embed_dim=64", "model.depths=[2,4]"]
MODEL += ["model.num_heads=[2,4]", "model.window_size=4", "model.drop_path_rate=0.0"]
COMMON = ["data.image_size=32", "data.channels=3", "train.bf16=true", "train.per_device_train_batch_size=128"]
COMMON += ["train.per_device_eval_batch_size=125", "train.save_steps=1000000", "train.logging_steps=20"]
COMMON += ["train.global_batch_size=null", "train.learning_rate_batch_size=null", "train.layer_decay=1.0"]
PRETRAIN = ["objective.mask_ratio=0.6", "objective.mask_patch_size=8", "data.validation=none"]
PRETRAIN += ["train.learning_rate=2e-3", "data.crop_scale=[0.5,1.0]"]
FINETUNE = ["train.learning_rate=1e-3", "data.crop_scale=[0.5,1.0]", "objective.label_smoothing=0.1"]


def flops_per_image(tokens: str) -> float:
    """Operations of one pretraining step (forward and backward) per image, matrix products and attention."""
    from unitrans.domains import get_domain
    from unitrans.models import SwinConfig
    from unitrans.objectives import MaskedSignalModel, get_objective

    config = SwinConfig(
        image_size=32, patch_size=4, embed_dim=64, depths=(2, 4), num_heads=(2, 4), window_size=4
    )
    objective = get_objective("mim")(config, mask_patch_size=8, encoder_tokens=tokens)
    model, domain = MaskedSignalModel.create(config, objective), get_domain("vision")
    samples = [
        objective.corrupt({"id": str(i), "image": torch.randn(3, 32, 32)}, np.random.default_rng(i))
        for i in range(32)
    ]
    batch = domain.collate(samples, config)
    plans = batch["plans"]
    with FlopCounterMode(display=False) as counter:
        model(**{key: batch[key] for key in model.batch_keys() if key in batch}).loss_sum.backward()
    pairs = 0
    for stage, depth in enumerate(config.depths):
        for plan, blocks in ((plans.windows[stage], -(-depth // 2)), (plans.shifted[stage], depth // 2)):
            pairs += int(plan.cu_seqlens.diff().long().square().sum()) * blocks * config.stage_dim(stage)
    if tokens == "visible":
        pairs += int(plans.whole.groups.cu_seqlens.diff().long().square().sum()) * 128
    attention = 0 if "unitrans" in str(counter.get_flop_counts()) else 14 * pairs  # 4 forward, 10 backward
    return (counter.get_total_flops() + attention) / 32


def run(objective: str, settings: list[str], folder: Path, init: Path | None) -> list[tuple[int, float]]:
    """Trains; returns (update, held-out accuracy) pairs, of pretraining none."""
    config = resolve(domain="vision", objective=objective, settings=[*COMMON, *MODEL, *settings])
    if init is not None:
        config.train["init"] = str(init)
    session = open_new_session(config)
    folder.mkdir(parents=True)
    trainer = make_trainer(session, folder, folder)
    curve: list[tuple[int, float]] = []
    judge = trainer.judge

    def recorded(*args: Any) -> dict[str, float]:
        found = judge(*args)
        curve.append((trainer.state.global_step, found.get("eval_accuracy", float("nan"))))
        return found

    trainer.judge = recorded  # type: ignore[method-assign]
    trainer.train()
    return curve


def one_seed(args: argparse.Namespace, seed: int, ratio: float) -> dict[str, Any]:
    """All runs of a seed."""
    data = f"data.path={args.data}/train"
    visible_updates = round(args.pretrain * ratio)
    row: dict[str, Any] = {
        "seed": seed,
        "ratio": ratio,
        "updates": [args.pretrain, visible_updates, args.finetune],
    }
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        for tokens, updates in (("all", args.pretrain), ("visible", visible_updates)):
            start = time.process_time()
            settings = [data, f"objective.encoder_tokens={tokens}", f"train.max_steps={updates}"]
            run("mim", [*PRETRAIN, *settings, f"train.seed={seed}"], root / tokens, None)
            row[f"pretrain_{tokens}_seconds"] = round(time.process_time() - start, 1)
        starts = {"all": (root / "all", args.finetune), "visible": (root / "visible", args.finetune)}
        starts |= {"scratch": (None, args.finetune), "scratch_long": (None, args.pretrain + args.finetune)}
        for what, (init, updates) in starts.items():
            settings = [data, f"data.validation={args.data}/test", f"train.max_steps={updates}"]
            settings += [f"train.eval_steps={max(1, updates // 6)}", f"train.seed={seed}"]
            row[what] = run("classification", [*FINETUNE, *settings], root / f"ft-{what}", init)
    return row


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
        cells = np.zeros((8, 8, 9))
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


def summary(file: Path, picture: Path | None) -> None:
    """Means, the interval of the paired differences (Student's t), and learning curves."""
    from scipy import stats

    rows = [json.loads(line) for line in file.read_text().splitlines()]
    names = ("visible", "all", "scratch", "scratch_long")
    final = {name: np.array([row[name][-1][1] for row in rows]) for name in names}
    print(f"{len(rows)} seeds; updates (all, visible, fine-tuning): {rows[0]['updates']}")
    for name, values in final.items():
        print(f"  {name:<13} {values.mean():.4f}  ({', '.join(f'{value:.3f}' for value in values)})")
    for other in names[1:]:
        difference = final["visible"] - final[other]
        half = stats.t.ppf(0.975, len(rows) - 1) * difference.std(ddof=1) / len(rows) ** 0.5
        print(f"  visible - {other:<13} {difference.mean():+.4f}, 95 % interval +- {half:.4f}")
    if picture is not None:
        _draw(rows, names, picture)


def _draw(rows: list[dict[str, Any]], names: tuple[str, ...], picture: Path) -> None:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6, 4), dpi=150, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    for name in names:
        points = np.array([row[name] for row in rows])  # [seeds, evaluations, 2]
        updates, values = points[0, :, 0], points[:, :, 1]
        (line,) = axes.plot(updates, values.mean(0), marker="o", markersize=3, label=name.replace("_", ", "))
        axes.fill_between(updates, values.min(0), values.max(0), color=line.get_color(), alpha=0.15)
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
    parser.add_argument("--pretrain", type=int, default=800, help="updates with all tokens")
    parser.add_argument("--finetune", type=int, default=300)
    parser.add_argument(
        "--output", type=Path, default=Path("transfer.jsonl"), help="a line per seed is added"
    )
    parser.add_argument("--summary", type=Path)
    parser.add_argument("--picture", type=Path)
    parser.add_argument("--hog", action="store_true", help="only the support vector machine")
    args = parser.parse_args()
    torch.set_num_threads(1)
    if args.summary:
        summary(args.summary, args.picture)
        return
    if args.hog:
        print(f"HOG + SVM: {hog_svm(args.data):.4f}")
        return
    ratio = flops_per_image("all") / flops_per_image("visible")
    print(f"operations of a step, all against visible: {ratio:.3f}", flush=True)
    for seed in args.seeds:
        row = one_seed(args, seed, ratio)
        with args.output.open("a") as file:
            file.write(json.dumps(row) + "\n")


if __name__ == "__main__":
    main()
