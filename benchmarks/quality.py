"""What a fixed time of training reaches on small real data, with half of it spent on pretraining and with none.

Data that is there: scikit-learn's digits (which digit?), docstrings of the standard library (which package?), the NCI
molecules of RDKit (how drug-like?). Figures are errors on held-out samples, lower is better, beside what scikit-learn
reaches on the same ones. Time is that of the processor in training, evaluation taken out.
"""

from __future__ import annotations

import ast
import copy
import csv
import hashlib
import sysconfig
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.rows import Curve, Row
from benchmarks.timing import Ratio, clock
from unitrans.training.observers import Observer

PACKAGES = (
    "asyncio",
    "email",
    "logging",
    "xml",
    "multiprocessing",
    "importlib",
    "unittest",
    "http",
    "urllib",
)
EVALUATIONS = 6
PRETRAINED, SCRATCH = "pretrained", "from scratch"
_TEXT = [
    "data.document=line",
    "data.vocab_size=2000",
    "data.max_length=64",
    "model.embed_dim=64",
    "model.depth=2",
]
_TEXT += ["model.num_heads=4", "model.max_position_embeddings=64", "model.initializer_range=0.1"]
_TEXT += ["model.position_init=sinusoidal", "model.type_vocab_size=0"]


@dataclass(frozen=True)
class Task:
    """One question to one domain.

    Attributes:
        pretraining: the objective of the first half of the time.
        settings: shared by both objectives; where the data is and what the model looks like.
        fine, pre: settings of one of them.
        figure: what an evaluation calls it; error: makes an error of it, and says how it is named.
        baseline: name and error of what scikit-learn reaches; a function of the folder with the data.
    """

    name: str
    domain: str
    objective: str
    pretraining: str
    settings: Callable[[Path], list[str]]
    fine: Sequence[str]
    pre: Sequence[str]
    figure: str
    error: tuple[str, Callable[[float], float]]
    baseline: Callable[[Path], tuple[str, float]]


# -- data and baselines


def docstrings() -> list[tuple[str, str]]:
    """(text in one line, package) of the standard library's docstrings with 40 characters or more."""
    root, found = Path(sysconfig.get_paths()["stdlib"]), {}
    documented = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    for package in PACKAGES:
        for file in sorted((root / package).rglob("*.py")):
            for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
                text = (
                    " ".join((ast.get_docstring(node) or "").split()) if isinstance(node, documented) else ""
                )
                if len(text) >= 40 and package not in text.lower():
                    found.setdefault(text[:400], package)
    return list(found.items())


def write_docstrings(folder: Path) -> list[str]:
    """Tables text,label of the two parts, a fifth held out by a hash of the text; the settings that name them."""
    parts: dict[str, list[tuple[str, str]]] = {"train": [], "test": []}
    for text, package in docstrings():
        held_out = int(hashlib.sha256(text.encode()).hexdigest(), 16) % 5 == 0
        parts["test" if held_out else "train"].append((text, package))
    if not parts["train"]:
        raise ValueError("the standard library has no sources here, so there are no docstrings")
    for name, lines in parts.items():
        with (folder / f"{name}.csv").open("w", encoding="utf-8", newline="") as file:
            csv.writer(file).writerows([("text", "label"), *lines])
    return [f"data.path={folder / 'train.csv'}", f"data.validation={folder / 'test.csv'}", *_TEXT]


def _words(folder: Path) -> tuple[str, float]:
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.pipeline import make_pipeline
    from sklearn.svm import LinearSVC

    parts = []
    for name in ("train", "test"):
        with (folder / f"{name}.csv").open(encoding="utf-8", newline="") as file:
            lines = list(csv.DictReader(file))
        parts.append(([line["text"] for line in lines], [line["label"] for line in lines]))
    words = TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True)
    model = make_pipeline(words, LinearSVC(C=1.0)).fit(*parts[0])
    return "tf-idf + linear SVM", 1 - float(model.score(*parts[1]))


def _session(task: Task, objective: str, settings: Sequence[str], init: Path | None = None) -> Any:
    from unitrans.training.config import resolve
    from unitrans.training.session import open_new_session

    last = {setting.partition("=")[0]: setting for setting in settings}
    given = resolve(
        domain=task.domain,
        objective=objective,
        init=None if init is None else str(init),
        settings=list(last.values()),
    )
    return open_new_session(given)


def _pixels(folder: Path) -> tuple[str, float]:
    """On the same split as the runs."""
    from sklearn.svm import SVC

    session = _session(DIGITS, "classification", DIGITS.settings(folder))
    parts = []
    for source in (session.train_source, session.validation_source):
        images = [source[i]["image"] for i in range(len(source))]
        parts.append((np.stack([np.asarray(x).ravel() for x in images]), source.class_numbers()))
    model = SVC(C=10.0, gamma="scale").fit(*parts[0])
    return "SVM on pixels", 1 - float(model.score(*parts[1]))


def _fingerprints(folder: Path) -> tuple[str, float]:
    from unitrans.domains.graph.baselines import regression

    session = _session(MOLECULES, "regression", MOLECULES.settings(folder))
    found = regression(session.train_source, session.validation_source)
    best = min(found, key=lambda baseline: baseline.value)
    return best.name, float(best.value)


DIGITS = Task(
    "digits", "vision", "classification", "mim",
    lambda folder: ["data.path=digits", "data.validation=0.2"],
    (),
    (
        *("model.name=vit", "model.patch_size=2", "model.embed_dim=64", "model.depth=4", "model.num_heads=4"),
        *("model.mlp_ratio=4.0", "objective.mask_patch_size=2", "objective.mask_ratio=0.5"),
    ),
    "eval_accuracy", ("error rate", lambda accuracy: 1 - accuracy), _pixels,
)  # fmt: skip
DOCSTRINGS = Task(
    "docstrings", "text", "classification", "mlm", write_docstrings,
    ("train.per_device_train_batch_size=32", "train.learning_rate=1e-3"),
    ("train.per_device_train_batch_size=64", "train.learning_rate=3e-3"),
    "eval_accuracy", ("error rate", lambda accuracy: 1 - accuracy), _words,
)  # fmt: skip
MOLECULES = Task(
    "molecules", "graph", "regression", "mgm", lambda folder: ["data.path=nci", "data.validation=0.2"],
    (), (), "eval_mae", ("MAE", lambda mae: mae), _fingerprints,
)  # fmt: skip
TASKS = (DIGITS, DOCSTRINGS, MOLECULES)


# -- training for a time


def _now() -> float:
    """Processor time of one thread; wall time where several, or a GPU, are at work."""
    return clock()()


def _updates(session: Any, seconds: float) -> int:
    """How many updates of this run take so long, by a few of a copy of its model."""
    from benchmarks.objectives import Signal, training
    from unitrans.training.data import Collate

    data, collate = session.data(session.train_source), Collate(session.domain, session.model_config)
    batch = session.settings["per_device_train_batch_size"]

    def samples(number: int) -> list[Any]:
        return [data[number, (number * batch + i) % len(data)] for i in range(batch)]

    model = copy.deepcopy(session.model)
    device = "cpu" if session.settings["use_cpu"] or not torch.cuda.is_available() else "cuda"
    step = training(model, Signal(model, samples, collate, device).loss, device)
    step()
    times = []
    for _ in range(6):
        begin = _now()
        step()
        times.append(_now() - begin)
    return max(EVALUATIONS, int(seconds / float(np.median(times))))


def run(
    task: Task, objective: str, settings: list[str], folder: Path, init: Path | None, seconds: float
) -> list[tuple[float, float]]:
    """Trains for about so long; (processor seconds in training, error) of every evaluation, none of pretraining."""
    from unitrans.training.session import make_trainer

    judged = objective == task.objective
    session = _session(task, objective, [*settings, "train.max_steps=10"], init)
    session.max_steps = _updates(session, seconds)
    every = -(-session.max_steps // EVALUATIONS)
    session.settings.update(eval_steps=every, save_steps=10**6, logging_steps=10**6)
    folder.mkdir(parents=True)
    if hasattr(session.domain, "keep"):
        session.domain.keep(folder, session.train_source)
    (folder / "config.yaml").write_text(session.config.to_yaml(), encoding="utf-8")
    if not judged:
        session.validation_source = None
    trainer = make_trainer(session, folder)
    watch = _Clock()
    trainer.observers.append(watch)
    trainer.train()
    if not judged:
        return [(watch.end - watch.begin, float("nan"))]
    curve = [(at, task.error[1](found[task.figure])) for at, found in watch.seen if task.figure in found]
    if not curve:
        raise RuntimeError(f"{task.name}: no evaluation has {task.figure}")
    return curve


class _Clock(Observer):
    """Processor time when the first update began and when the last one ended, and the figures of every evaluation.

    Attributes:
        begin: moved on by what evaluations take, which do not count.
        seen: (processor seconds in training so far, figures).
    """

    def __init__(self) -> None:
        self.begin = self.end = 0.0
        self.seen: list[tuple[float, dict[str, float]]] = []

    def on_begin(self, trainer: Any) -> None:
        self.begin = _now()

    def on_update(self, trainer: Any) -> None:
        self.end = _now()

    def on_evaluation(self, trainer: Any, metrics: dict[str, float], best: bool) -> None:
        self.seen.append((self.end - self.begin, dict(metrics)))
        self.begin += _now() - self.end


def measure(task: Task, seconds: float, seeds: Sequence[int], device: str = "cpu") -> tuple[list[Row], Curve]:
    """Both arms for so many processor seconds each, for every seed; rows against training from scratch, and against
    scikit-learn."""
    arms: dict[str, list[list[tuple[float, float]]]] = {PRETRAINED: [], SCRATCH: []}
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        shared = [*task.settings(folder), f"train.use_cpu={str(device == 'cpu').lower()}"]
        baseline = _baseline(task, folder)
        for seed in seeds:
            seeded = [*shared, f"train.seed={seed}"]
            pre = run(
                task,
                task.pretraining,
                [*seeded, *task.pre],
                folder / f"pre-{seed}",
                None,
                seconds / 2,
            )
            fine = [*seeded, *task.fine]
            scratch = run(task, task.objective, fine, folder / f"scratch-{seed}", None, seconds)
            tuned = run(
                task, task.objective, fine, folder / f"fine-{seed}", folder / f"pre-{seed}", seconds / 2
            )
            arms[SCRATCH].append(scratch)
            arms[PRETRAINED].append([(pre[0][0] + at, error) for at, error in tuned])
    return _rows(task, seconds, arms, baseline), Curve(task.name, task.error[0], arms, baseline)


@cache
def _baseline(task: Task, folder: Path) -> tuple[str, float]:
    return task.baseline(folder)


def _rows(
    task: Task,
    seconds: float,
    arms: dict[str, list[list[tuple[float, float]]]],
    baseline: tuple[str, float],
) -> list[Row]:
    last = {arm: [curve[-1][1] for curve in curves] for arm, curves in arms.items()}
    taken = {arm: float(np.median([curve[-1][0] for curve in curves])) for arm, curves in arms.items()}
    theirs = {
        "unitrans from scratch": (last[SCRATCH], taken[SCRATCH]),
        f"scikit-learn: {baseline[0]}": ([baseline[1]] * len(last[SCRATCH]), 0.0),
    }
    rows = []
    for peer, (errors, peer_seconds) in theirs.items():
        row = Row(task.name, f"{len(errors)} seeds", "float32", torch.get_num_threads(), f"after {seconds:g} s",
                  f"{task.pretraining} {PRETRAINED}", peer, suite="quality", metric=task.error[0])  # fmt: skip
        row.seconds, row.peer_seconds = taken[PRETRAINED], peer_seconds
        row.score, row.peer_score = float(np.mean(last[PRETRAINED])), float(np.mean(errors))
        if min(*errors, *last[PRETRAINED]) > 0:
            row.ratio = Ratio.of(errors, last[PRETRAINED])
        rows.append(row)
    return rows
