"""What simple predictors reach on the same molecules: the mean or the most frequent answer, and linear models on
counts of atom environments (Morgan fingerprints)."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable
from typing import Any

import numpy as np

from unitrans.domains.base import Baseline
from unitrans.domains.graph import chemistry
from unitrans.domains.graph.source import GraphSource

BITS = 2048
RADII = (0, 1, 2)
ALPHAS = (0.1, 1.0, 10.0, 100.0)
INVERSE_ALPHAS = (0.01, 0.1, 1.0)
MAX_TRAIN = 50_000  # molecules that a linear model is fitted on in about a minute

Predict = Callable[[np.ndarray], np.ndarray]
Figure = Callable[[np.ndarray], float]


def morgan_counts(source: GraphSource, radius: int) -> np.ndarray:
    """float32 [n, BITS]: how often each atom environment up to this radius occurs, hashed."""
    chem = chemistry.require_rdkit()
    from rdkit.Chem import rdFingerprintGenerator

    generator = rdFingerprintGenerator.GetMorganGenerator(radius=radius, fpSize=BITS)
    found = [generator.GetCountFingerprintAsNumPy(chem.MolFromSmiles(text)) for text in source.smiles]
    return np.stack(found).astype(np.float32)


def labels_of(source: GraphSource) -> np.ndarray:
    """float64 [n, K], or int64 [n] of classes."""
    assert source.values is not None
    return source.values[source.rows]


def regression(train: GraphSource, held_out: GraphSource) -> list[Baseline]:
    """MAE of the mean of the training labels and of ridge regression, the mean over the targets."""
    truth, known = labels_of(held_out), labels_of(train)

    def mae(predicted: np.ndarray) -> float:
        return float(np.mean([np.nanmean(np.abs(p - t)) for p, t in zip(predicted.T, truth.T, strict=True)]))

    # The best constant for MAE is the median.
    found = [
        Baseline("mean", mae(np.broadcast_to(np.nanmean(known, axis=0), truth.shape))),
        Baseline("median", mae(np.broadcast_to(np.nanmedian(known, axis=0), truth.shape))),
    ]
    if train.molecules:
        found.append(_ridge(train, held_out, mae))
    return found


def _ridge(train: GraphSource, held_out: GraphSource, mae: Figure) -> Baseline:
    """Ridge regression on Morgan counts; radius and penalty are those best on the validation part."""
    chosen_on = train.validation or held_out
    targets, judge = labels_of(train), labels_of(chosen_on)
    rows = np.arange(len(train))[:MAX_TRAIN]
    best: tuple[float, int, float, np.ndarray] | None = None
    for radius in RADII:
        x, chooser = morgan_counts(train, radius)[rows], morgan_counts(chosen_on, radius)
        other = chooser if chosen_on is held_out else morgan_counts(held_out, radius)
        for alpha, predict in _ridge_fits(x.astype(np.float64), targets[rows]):
            error = float(np.nanmean(np.abs(predict(chooser) - judge) / np.nanstd(targets, axis=0)))
            if best is None or error < best[0]:
                best = (error, radius, alpha, predict(other))
    assert best is not None
    note = (
        f"radius {best[1]}, penalty {best[2]:g}, chosen on the validation part of radius 0-2, penalty 0.1-100"
    )
    return Baseline("ridge regression on Morgan counts", mae(best[3]), note)


def _ridge_fits(x: np.ndarray, targets: np.ndarray) -> list[tuple[float, Predict]]:
    """A fit for every penalty."""
    known = np.isfinite(targets)  # targets without missing labels share one system
    fits: list[tuple[float, Predict]] = []
    whole = known.all()
    groups = [slice(None)] if whole else [slice(k, k + 1) for k in range(targets.shape[1])]
    parts = []
    for group in groups:
        rows = known[:, group].all(1)
        a, b = x[rows], targets[rows, group]
        mean_a, mean_b = a.mean(0), b.mean(0)
        a, b = a - mean_a, b - mean_b
        # The smaller of the two systems: of the bits, or of the molecules.
        parts.append((a, b, a.T @ a if len(a) > a.shape[1] else a @ a.T, mean_a, mean_b))
    for alpha in ALPHAS:
        solved = []
        for a, b, gram, mean_a, mean_b in parts:
            system = gram + alpha * np.eye(len(gram))
            by_bits = len(a) > a.shape[1]
            weights = np.linalg.solve(system, a.T @ b) if by_bits else a.T @ np.linalg.solve(system, b)
            solved.append((weights, mean_a, mean_b))

        def predict(values: np.ndarray, solved: Any = solved) -> np.ndarray:
            return np.concatenate([(values - m) @ w + b for w, m, b in solved], axis=1)

        fits.append((alpha, predict))
    return fits


def classification(train: GraphSource, held_out: GraphSource, headline: str) -> list[Baseline]:
    """Accuracy (classes) or ROC-AUC (yes or no, the mean over the targets) of the most frequent answer and of logistic
    regression on Morgan counts; radius and penalty are those best on the validation part."""
    from sklearn.linear_model import LogisticRegression

    chosen_on = train.validation or held_out
    known, judge, truth = labels_of(train), labels_of(chosen_on), labels_of(held_out)
    constant = (
        0.5
        if headline == "roc_auc"
        else float((truth == Counter(known.tolist()).most_common(1)[0][0]).mean())
    )
    found = [Baseline("most frequent answer", constant)]
    if not train.molecules:
        return found

    def scores(x: np.ndarray, others: list[np.ndarray], c: float) -> list[np.ndarray]:
        if known.ndim == 1:
            model = LogisticRegression(C=c, max_iter=500).fit(x, known)
            return [model.predict(other) for other in others]
        columns = []
        for label in known.T:
            rows = np.isfinite(label)
            if len(set(label[rows].tolist())) < 2:
                columns.append([np.zeros(len(other)) for other in others])
                continue
            model = LogisticRegression(C=c, max_iter=500).fit(x[rows], label[rows])
            columns.append([model.decision_function(other) for other in others])
        return [np.stack(parts, axis=1) for parts in zip(*columns, strict=True)]

    best: tuple[float, int, float, np.ndarray] | None = None
    for radius in RADII:
        x, chooser, other = (np.log1p(morgan_counts(s, radius)) for s in (train, chosen_on, held_out))
        for c in INVERSE_ALPHAS:
            chosen, predicted = scores(x[:MAX_TRAIN], [chooser, other], c)
            figure = answer_figure(chosen, judge)
            if figure is not None and (best is None or figure > best[0]):
                best = (figure, radius, c, predicted)
    if best is None:
        return found
    note = f"radius {best[1]}, C {best[2]:g}, chosen on the validation part of radius 0-2, C 0.01-1"
    return [*found, Baseline("logistic regression on Morgan counts", answer_figure(best[3], truth), note)]


def answer_figure(predicted: np.ndarray, truth: np.ndarray) -> float | None:
    """Accuracy of classes [n], or the mean ROC-AUC of scores [n, K]; None where no target has both answers."""
    from sklearn.metrics import roc_auc_score

    if truth.ndim == 1:
        return float((predicted == truth).mean())
    areas = []
    for score, label in zip(predicted.T, truth.T, strict=True):
        rows = np.isfinite(label)
        if len(set(label[rows].tolist())) == 2:
            areas.append(roc_auc_score(label[rows], score[rows]))
    return float(np.mean(areas)) if areas else None


def hidden_nodes(
    train: GraphSource, held_out: GraphSource, objective: Any, rng_for: Callable[[str], np.random.Generator]
) -> list[Baseline]:
    """How often the first feature of hidden nodes is right when it is told by what is left in the graph: not at all,
    by the degree, by the degree and the visible neighbours. Training graphs fill the tables."""
    keys: dict[str, Callable[[Any, int], Any]] = {
        "most frequent node": lambda around, node: None,
        "most frequent node of that degree": lambda around, node: around[node][0],
        "most frequent node of that degree and those neighbours": lambda around, node: around[node],
    }
    tables: dict[str, defaultdict[Any, Counter[int]]] = {name: defaultdict(Counter) for name in keys}
    rng = np.random.Generator(np.random.Philox(0))
    for index in range(min(len(train), MAX_TRAIN)):
        sample = objective.corrupt(train.load(index), rng)
        around = _surroundings(sample)
        for node in np.flatnonzero(sample["mask"]).tolist():
            for name, key in keys.items():
                tables[name][key(around, node)][int(sample["node_labels"][node, 0])] += 1
    right, total = Counter[str](), 0
    for index in range(len(held_out)):
        sample = held_out.load(index)
        sample = objective.corrupt(sample, rng_for(sample["id"]))
        around = _surroundings(sample)
        for node in np.flatnonzero(sample["mask"]).tolist():
            total += 1
            for name, key in keys.items():
                counts = tables[name].get(key(around, node)) or tables["most frequent node"][None]
                right[name] += counts.most_common(1)[0][0] == int(sample["node_labels"][node, 0])
    return [Baseline(name, right[name] / max(total, 1)) for name in keys]


def _surroundings(sample: dict[str, Any]) -> list[tuple[int, tuple[int, ...]]]:
    """Of every node its degree and the sorted first features of its neighbours, as they are left to be seen."""
    neighbours: list[list[int]] = [[] for _ in sample["nodes"]]
    for i, j in sample["edge_index"].T:
        neighbours[i].append(int(sample["nodes"][j, 0]))
    return [(len(listed), tuple(sorted(listed))) for listed in neighbours]
