"""What figures are measured in."""

from __future__ import annotations

from unitrans.cli.pages.runs import Run

_LOSSES = {
    "mim": "L1 a hidden value, pixels normalised",
    "mae": "squared error a hidden value",
    "beit": "nats a hidden patch",
    "data2vec": "smooth L1 a hidden value",
    "mlm": "nats a hidden token",
    "clm": "nats a token",
    "mgm": "nats a hidden node and edge",
    "msm": "weighted sum over the domains",
    "classification": "nats a sample",
    "token_classification": "nats a word",
}
_REGRESSION = {"l1": "L1", "l2": "squared error", "huber": "Huber"}
_FIGURES = {
    "l1": "mean error of a hidden pixel, 0 black to 1 white",
    "mae": "mean absolute error, in the unit of the target",
    "rmse": "root mean squared error, in the unit of the target",
    "accuracy": "share that is right",
    "node_accuracy": "share of hidden nodes that are right",
    "edge_accuracy": "share of hidden edges that are right",
    "perplexity": "e to the loss",
    "macro_f1": "mean F1 of the classes",
    "roc_auc": "area under the ROC curve",
    "r2": "explained share of the variance",
    "explained": "explained share of the teacher's features",
}
#: Figures of which a smaller one is better; of all others a greater one.
LOWER = ("loss", "l1", "mae", "rmse", "perplexity")


def loss_unit(run: Run) -> str:
    """What the loss of a run counts, "loss" where that is not known."""
    if run.objective == "regression":
        distance = _REGRESSION.get(str(run.value("objective", "loss")), "distance")
        return f"{distance}, in standard deviations of the target"
    return _LOSSES.get(run.objective, "loss")


def figure_unit(name: str, runs: list[Run]) -> str:
    """What a held-out figure (without ``eval_``, with a domain in front in a run of several) is measured in."""
    domain, _, own = name.partition("_")
    if name != "loss" and domain in ("vision", "text", "graph") and own:
        return (
            figure_unit(own, [])
            if own != "loss"
            else {
                "vision": _LOSSES["mim"],
                "text": _LOSSES["mlm"],
                "graph": _LOSSES["mgm"],
            }[domain]
        )
    if name == "loss":
        units = {loss_unit(run) for run in runs}
        return units.pop() if len(units) == 1 else "loss"
    return _FIGURES.get(name, name)
