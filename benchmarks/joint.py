"""What sharing one trunk does to each domain: joint pretraining against separate pretraining, and after fine-tuning.

    python -m benchmarks.joint --seeds 0 1 2 --output joint.jsonl
    python -m benchmarks.joint --summary joint.jsonl --pictures docs/images
    python -m benchmarks.joint --predictors --output joint.jsonl

For every seed: one joint run on digits, Python's language reference and NCI molecules; for each domain a run alone with
as many updates of the same samples in the same order with the same masks (`alone`: equal compute of that domain; the
three together cost what the joint run costs), and one with as many counted operations as the whole joint run
(`alone_all`: equal total compute, spent on one domain). All begin with the same fresh weights. Each is then fine-tuned,
and the fresh weights too (`fresh`): which digit, which of ten help topics, how drug-like a molecule. A fifth of every
domain is held out from all of it and chooses nothing: figures are those of the last update. A line is written per run;
runs that are in the file already are not repeated. `benchmarks.joint_views` looks into the models.
"""

import argparse
import csv
import json
import shutil
import time
from collections import Counter
from collections.abc import Callable, Iterable
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.runs import Evaluations, read_rows
from unitrans.data.splits import hash_fraction
from unitrans.domains.text.config import DataConfig
from unitrans.domains.text.documents import EmbeddedText
from unitrans.training.config import RunConfig, resolve
from unitrans.training.data import Collate
from unitrans.training.random import sample_rng
from unitrans.training.sampler import JointSampler
from unitrans.training.session import Session, make_trainer, open_new_session, open_session

DOMAINS = ("vision", "text", "graph")
ARMS = ("joint", "alone", "alone_all", "fresh")
HELD_OUT = 0.2
#: What is judged, by domain: (name, larger is better) in pretraining and after fine-tuning.
FIGURES = {"vision": ("l1", False), "text": ("accuracy", True), "graph": ("node_accuracy", True)}
TUNED = {"vision": ("accuracy", True), "text": ("accuracy", True), "graph": ("mae", False)}
OBJECTIVE = {"vision": "classification", "text": "classification", "graph": "regression"}
#: What no part of a joint model has otherwise and --init leaves to the recipe.
OWN = {
    "vision": ["model.pooling=mean"],
    "text": ["model.drop_rate=0.0", "model.attn_drop_rate=0.0"],
    "graph": ["model.drop_rate=0.0", "model.attn_drop_rate=0.0", "model.final_norm=true"],
}
NO_STOPS = ["train.save_steps=1000000", "train.early_stopping_patience=null", "train.num_train_epochs=1"]
FINETUNE = {
    "vision": ["train.learning_rate=2e-3", "train.per_device_train_batch_size=64"],
    "text": [
        "train.learning_rate=1e-3",
        "train.per_device_train_batch_size=32",
        "objective.head_dropout=0.0",
    ],
    "graph": ["train.learning_rate=1e-3", "train.per_device_train_batch_size=64", "data.test=0"],
}
TOPICS, SHORTEST = 10, 8  # of the text task: the topics with most paragraphs, of so many words at least


def joint_config(seed: int, updates: int, settings: Iterable[str] = ()) -> RunConfig:
    """The joint run: the default with a larger part held out, as many updates and these settings."""
    held_out = [f"data.{domain}.validation={HELD_OUT}" for domain in DOMAINS]
    given = [*held_out, f"train.max_steps={updates}", f"train.seed={seed}", "train.save_steps=1000000"]
    return resolve(
        domain=",".join(DOMAINS),
        objective="msm",
        settings=[*given, f"train.eval_steps={updates}", *settings],
    )


def alone_config(joint: RunConfig, domain: str, start: Path, updates: int, batch: int) -> RunConfig:
    """The same run on one domain, from weights of the joint model: its data, objective and recipe."""
    part = {section: dict(getattr(joint, section)[domain]) for section in ("data", "objective")}
    name = part["objective"].pop("name")
    part["data"].pop("tokenizer", None)  # that of the weights
    part["train"] = {k: v for k, v in joint.train.items() if k not in ("init", "num_train_epochs")}
    part["train"] |= {"max_steps": updates, "eval_steps": updates, "per_device_train_batch_size": batch}
    given = [f"{s}.{key}={json.dumps(value)}" for s, values in part.items() for key, value in values.items()]
    return resolve(domain=domain, objective=name, init=str(start), settings=[*given, *OWN[domain]])


def tuning_config(domain: str, start: Path, root: Path, seed: int, updates: int) -> RunConfig:
    """Fine-tuning of one domain from these weights."""
    settings = [f"data.validation={HELD_OUT}", f"train.max_steps={updates}", f"train.seed={seed}"]
    settings += [f"train.eval_steps={updates}", *NO_STOPS, *FINETUNE[domain], *OWN[domain]]
    data = {"vision": "digits", "graph": "nci", "text": str(root / "train.csv")}[domain]
    if domain == "text":
        write_topics(root)
        settings[0] = f"data.validation={root / 'test.csv'}"
    return resolve(domain=domain, objective=OBJECTIVE[domain], data=data, init=str(start), settings=settings)


def write_topics(root: Path) -> None:
    """train.csv and test.csv of the text task: paragraphs of the language reference and the topic they are from. The
    test has the paragraphs that pretraining holds out."""
    if (root / "test.csv").is_file():
        return
    root.mkdir(parents=True, exist_ok=True)
    documents = EmbeddedText(DataConfig(path="pydoc", document="blank_line"))
    found = [
        (documents.topics[file][0], document)
        for file in range(documents.files)
        for document in documents.of_file(file)
        if len(document.text.split()) >= SHORTEST
    ]
    chosen = {topic for topic, _ in Counter(topic for topic, _ in found).most_common(TOPICS)}
    for name, wanted in (("train", False), ("test", True)):
        with (root / f"{name}.csv").open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            writer.writerow(["text", "label"])
            for topic, document in found:
                if topic in chosen and (hash_fraction(document.key) < HELD_OUT) == wanted:
                    writer.writerow([document.text, topic])


def operations(session: Session, updates: int = 4) -> dict[str, float]:
    """Operations of an update's forward and backward by domain, on average: matrix products and attention. The blocks
    see every row once and no row of another domain, so those of the whole update are their sum."""
    data, model = session.data(session.train_source), session.model.train()
    collate, found = Collate(session.domain, session.model_config), Counter[str]()
    for update in range(updates):
        batch = collate([data[key] for key in session.sampler.global_batch(update)])
        for domain in DOMAINS:
            with FlopCounterMode(display=False) as counter:
                model(**{domain: batch[domain]}).loss_sum.backward()
            assert "unitrans" not in str(counter.get_flop_counts()), "attention is counted here"
            pairs = int(batch[domain]["plans"].groups.cu_seqlens.diff().long().square().sum())
            config = session.model_config
            found[domain] += counter.get_total_flops() + 14 * pairs * config.depth * config.embed_dim
    session.model.zero_grad()
    return {domain: float(found[domain]) / updates for domain in DOMAINS}


def run(config: RunConfig, folder: Path) -> dict[str, float]:
    """Trains and leaves the last weights in the folder; held-out figures after the last update."""
    session = open_new_session(config)
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    if hasattr(session.domain, "keep"):
        session.domain.keep(folder, session.train_source)
    trainer = make_trainer(session, folder)
    evaluations = Evaluations()
    trainer.observers.append(evaluations)
    trainer.train()
    _, found = evaluations.seen[-1]
    return {key.removeprefix("eval_"): value for key, value in found.items() if key != "eval_seconds"}


class Study:
    """The runs of all seeds, those that are not in the file yet; weights stay in the folder beside it."""

    def __init__(self, args: argparse.Namespace) -> None:
        self.args, self.file = args, args.output
        self.root = args.output.with_suffix("")
        self.done = {(row["seed"], row["run"]) for row in read_rows(self.file)}

    def record(self, seed: int, name: str, values: dict[str, Any]) -> None:
        """Adds a line."""
        with self.file.open("a") as file:
            file.write(json.dumps({"seed": seed, "run": name} | values) + "\n")
        self.done.add((seed, name))
        print(seed, name, values, flush=True)

    def one(self, seed: int, name: str, updates: int, config: Callable[[], RunConfig]) -> None:
        """One run, unless it is in the file; config: makes its configuration."""
        if (seed, name) in self.done:
            return
        start = time.process_time()
        figures = run(config(), self.root / str(seed) / name)
        seconds = round(time.process_time() - start, 1)
        self.record(seed, name, {"updates": updates, "seconds": seconds, "figures": figures})

    def fresh(self, seed: int, joint: RunConfig) -> Session:
        """The joint model before its first update, written as a checkpoint."""
        folder = self.root / str(seed) / "fresh"
        session = open_new_session(joint)
        if not (folder / "config.json").is_file():
            folder.mkdir(parents=True, exist_ok=True)
            session.domain.keep(folder, session.train_source)  # type: ignore[attr-defined]
            session.model.save_pretrained(folder)
        return session

    def seed(self, seed: int) -> None:
        """All runs of a seed."""
        args, root = self.args, self.root / str(seed)
        joint = joint_config(seed, args.updates, args.set)
        session = self.fresh(seed, joint)
        joint.train["init"] = str(root / "fresh")
        if (seed, "operations") not in self.done:
            self.record(seed, "operations", operations(session))
        counted = next(r for r in read_rows(self.file) if (r["seed"], r["run"]) == (seed, "operations"))
        total = sum(counted[domain] for domain in DOMAINS)
        assert isinstance(session.sampler, JointSampler)
        batches = session.sampler.counts
        self.one(seed, "joint", args.updates, lambda: joint)
        for arms in (("alone", "joint", "fresh"), ("alone_all",)):  # what takes longest comes last
            for arm, domain in product(arms, DOMAINS):
                if arm in ("alone", "alone_all"):
                    updates = round(args.updates * (total / counted[domain] if arm == "alone_all" else 1))
                    config = partial(alone_config, joint, domain, root / "fresh", updates, batches[domain])
                    self.one(seed, f"{arm}_{domain}", updates, config)
                start = root / (f"{arm}_{domain}" if arm in ("alone", "alone_all") else arm)
                tuned = partial(tuning_config, domain, start, self.root / "topics", seed, args.finetune)
                self.one(seed, f"tuned_{arm}_{domain}", args.finetune, tuned)

    def predictors(self) -> None:
        """What simple predictors reach on the same held-out samples, pretraining and tasks."""
        root = self.root / "0"
        joint = joint_config(0, self.args.updates, self.args.set)
        views: list[tuple[str, Session]] = [
            (f"predictors_{domain}", view) for domain, view in open_session(joint).by_domain().items()
        ]
        for domain in DOMAINS:
            tuning = tuning_config(domain, root / "fresh", self.root / "topics", 0, self.args.finetune)
            views.append((f"predictors_tuned_{domain}", open_session(tuning)))
        for name, view in views:
            found = view.domain.baselines(
                view.train_source,
                view.validation_source,
                view.objective,
                view.model_config,
                lambda sample_id: sample_rng(0, None, sample_id, "mask"),
            )
            self.record(0, name, {"predictors": {b.name: b.value for b in found}})


def interval(difference: np.ndarray) -> str:
    """Mean of paired differences and its 95 % t interval."""
    from scipy import stats

    count = len(difference)
    if count < 2:
        return f"{difference.mean():+.4f} (one seed)"
    half = stats.t.ppf(0.975, count - 1) * difference.std(ddof=1) / count**0.5
    return f"{difference.mean():+.4f} +- {half:.4f}"


def summary(file: Path) -> None:
    """Tables in Markdown: means of the seeds, paired differences with intervals, compute, simple predictors. A run
    counts for the seeds that have it."""
    kept = {(row["seed"], row["run"]): row for row in read_rows(file)}
    print("| | arm | seeds | updates | s | figure | loss | joint - this |\n" + "|---" * 8 + "|")
    for tuned, domain in product((False, True), DOMAINS):
        key, _ = (TUNED if tuned else FIGURES)[domain]

        def named(arm: str, tuned: bool = tuned, domain: str = domain) -> tuple[str, str]:
            """The run of an arm, and what stands in front of its figures."""
            if tuned:
                return f"tuned_{arm}_{domain}", ""
            return ("joint", f"{domain}_") if arm == "joint" else (f"{arm}_{domain}", "")

        def values(arm: str, key: str, seeds: list[int], named: Any = named) -> np.ndarray:
            name, prefix = named(arm)
            return np.array([kept[seed, name]["figures"][prefix + key] for seed in seeds])

        for arm in ARMS if tuned else ARMS[:-1]:
            name, first = named(arm)[0], named("joint")[0]
            seeds = sorted(seed for seed, run in kept if run == name and (seed, first) in kept)
            if not seeds:
                continue
            found = values(arm, key, seeds)
            runs = [kept[seed, name] for seed in seeds]
            cells = [f"{domain} {'fine-tuned ' if tuned else ''}{key}", arm, str(len(seeds))]
            cells += [f"{runs[0]['updates']:,}", f"{np.mean([run['seconds'] for run in runs]):.0f}"]
            cells += [f"{found.mean():.4f} ({', '.join(f'{value:.4f}' for value in found)})"]
            cells += [f"{values(arm, 'loss', seeds).mean():.4f}"]
            cells += ["" if arm == "joint" else interval(values("joint", key, seeds) - found)]
            print(f"| {' | '.join(cells)} |")
    for (_, name), row in kept.items():
        if name.startswith("predictors") or name == "operations":
            print(name, {k: v for k, v in row.items() if k not in ("seed", "run")})


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--updates", type=int, default=600, help="of the joint run")
    parser.add_argument("--finetune", type=int, default=200, help="updates of fine-tuning")
    parser.add_argument("--set", nargs="+", default=[], help="settings of the joint run that are changed")
    parser.add_argument("--output", type=Path, default=Path("joint.jsonl"), help="a line per run is added")
    parser.add_argument("--predictors", action="store_true", help="only the simple predictors")
    parser.add_argument("--views", action="store_true", help="only look into the models of the runs")
    parser.add_argument("--summary", type=Path)
    parser.add_argument("--pictures", type=Path, help="with --summary: a folder for the pictures")
    args = parser.parse_args()
    torch.set_num_threads(1)
    if args.summary:
        summary(args.summary)
        if args.pictures:
            from benchmarks.joint_views import draw

            draw(read_rows(args.summary), args.pictures)
        return
    study = Study(args)
    if args.predictors:
        study.predictors()
    elif args.views:
        from benchmarks.joint_views import look

        for seed, values in look(study.root, args.seeds, args.updates, args.set):
            study.record(seed, "views", values)
    else:
        for seed in args.seeds:
            study.seed(seed)


if __name__ == "__main__":
    main()
