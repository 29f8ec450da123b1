"""Masked graph modelling: what is hidden, what still shows, and what the loss counts."""

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from unitrans.domains.graph.domain import GraphDomain
from unitrans.models import GraphormerConfig
from unitrans.nn import MASKED
from unitrans.objectives import MaskedSignalModel, make_objective
from unitrans.objectives.mgm import cross_entropy_sum

CONFIG = GraphormerConfig(embed_dim=16, num_heads=2, depth=1, attn_drop_rate=0, act_drop_rate=0)
OPTIONS = {"node_categories": [5, 3], "edge_categories": [4], "mask_ratio": 0.3}


def sample(name: str = "a", n: int = 7) -> dict:
    rng = np.random.default_rng(n)
    ends = np.stack([np.arange(n - 1), np.arange(1, n)])
    return {
        "id": name,
        "nodes": np.stack([rng.integers(0, 5, n), rng.integers(0, 3, n)], 1),
        "edge_index": np.concatenate([ends, ends[::-1]], 1),
        "edge_attr": np.tile(rng.integers(0, 4, (n - 1, 1)), (2, 1)),
    }


def test_what_is_hidden() -> None:
    objective = make_objective("mgm", CONFIG, OPTIONS)
    whole = sample()
    hidden = objective.corrupt(whole, np.random.default_rng(0))
    assert hidden["mask"].sum() == 3 and (hidden["nodes"][hidden["mask"]] == MASKED).all()
    assert (hidden["nodes"][~hidden["mask"]] == whole["nodes"][~hidden["mask"]]).all()
    touched = hidden["mask"][whole["edge_index"]].any(0)
    assert (hidden["edge_mask"] == touched).all() and (hidden["edge_attr"][touched] == MASKED).all()
    assert (hidden["edge_attr"][~touched] == whole["edge_attr"][~touched]).all()
    assert (hidden["edge_index"] == whole["edge_index"]).all(), "a hidden node keeps its place"
    again = objective.corrupt(whole, np.random.default_rng(0))
    assert (again["mask"] == hidden["mask"]).all()
    alone = make_objective("mgm", CONFIG, OPTIONS | {"mask_edges": "none"}).corrupt(
        whole, np.random.default_rng(0)
    )
    assert not alone["edge_mask"].any() and (alone["edge_attr"] == whole["edge_attr"]).all()


def test_hidden_features_do_not_reach_the_model() -> None:
    """Other true features of what is hidden change the labels and nothing that the encoder sees."""
    objective = make_objective("mgm", CONFIG, OPTIONS)
    model, domain = MaskedSignalModel.create(CONFIG, objective).eval(), GraphDomain()
    one = objective.corrupt(sample(), np.random.default_rng(0))
    other = sample()
    other["nodes"] = np.where(one["mask"][:, None], (other["nodes"] + 1) % 3, other["nodes"])
    other["edge_attr"] = np.where(one["edge_mask"][:, None], (other["edge_attr"] + 1) % 4, other["edge_attr"])
    two = objective.corrupt(other, np.random.default_rng(0))
    first, second = (domain.collate([s], CONFIG) for s in (one, two))
    keys = model.batch_keys()
    outputs = [model(**{k: v for k, v in batch.items() if k in keys}) for batch in (first, second)]
    assert not torch.equal(first["node_labels"], second["node_labels"])
    assert torch.equal(outputs[0].prediction, outputs[1].prediction)
    assert torch.equal(outputs[0].edge_prediction, outputs[1].edge_prediction)
    assert outputs[0].loss_sum != outputs[1].loss_sum


def test_the_loss_is_the_mean_over_features() -> None:
    torch.manual_seed(0)
    logits, labels = torch.randn(6, 8), torch.stack([torch.randint(0, 5, (6,)), torch.randint(0, 3, (6,))], 1)
    want = sum(
        (F.cross_entropy(logits[i, :5], labels[i, 0]) + F.cross_entropy(logits[i, 5:], labels[i, 1])) / 2
        for i in range(6)
    )
    torch.testing.assert_close(cross_entropy_sum(logits, labels, [5, 3]), want)


def test_counts_and_metrics() -> None:
    objective = make_objective("mgm", CONFIG, OPTIONS)
    model, domain = MaskedSignalModel.create(CONFIG, objective).eval(), GraphDomain()
    rng = np.random.default_rng(3)
    samples = [objective.corrupt(sample(n, size), rng) for n, size in (("a", 7), ("b", 1), ("c", 4))]
    batch = domain.collate(samples, CONFIG)
    inputs = {k: v for k, v in batch.items() if k in model.batch_keys()}
    output = model(**inputs)
    hidden = sum(int(s["mask"].sum()) for s in samples), sum(int(s["edge_mask"].sum()) for s in samples)
    assert int(output.num_targets) == sum(hidden) and output.prediction.shape == (12,)
    metrics = objective.metrics(inputs, output, None)
    right = (output.prediction == batch["node_labels"][:, 0])[batch["mask"]].sum()
    assert metrics["node_accuracy"].tolist() == [right, hidden[0]]
    assert metrics["edge_accuracy"][1] == hidden[1]
    output.loss_sum.backward()
    assert all(p.grad is not None for p in model.parameters()), (
        "every parameter learns (several processes need it)"
    )


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"node_categories": [5]},
            "objective.node_categories: expected one number for each of 2 features, got 1",
        ),
        ({"node_categories": [2, 3]}, "objective.node_categories: feature 0 of a has the value"),
        ({"edge_categories": [1]}, "objective.edge_categories: feature 0 of a has the value"),
    ],
)
def test_too_few_categories_are_named(options, message) -> None:
    objective = make_objective("mgm", CONFIG, OPTIONS | options)
    with pytest.raises(ValueError, match=message):
        objective.corrupt(sample(), np.random.default_rng(0))
