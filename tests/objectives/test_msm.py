"""Masked signal modelling on several domains: the loss is the weighted sum of theirs, over a whole update."""

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from unitrans.domains.base import get_domain
from unitrans.models import JointConfig
from unitrans.objectives import MaskedSignalModel, make_objective
from unitrans.objectives.msm import JointOutput

WEIGHTS = {"vision": 0.5, "text": 2.0, "graph": 1.5}
PARTS: dict[str, Any] = {
    "vision": {"name": "mim", "mask_patch_size": 1},
    "text": {"name": "mlm", "mlm_probability": 0.4},
    "graph": {"name": "mgm", "node_categories": [9, 9], "edge_categories": [3]},
}


def make(**options: Any) -> MaskedSignalModel:
    torch.manual_seed(0)
    config = JointConfig(
        embed_dim=16,
        depth=2,
        num_heads=2,
        initializer_range=0.2,
        vision={"model_type": "unitrans-vit", "image_size": 4, "patch_size": 1, "in_chans": 1},
        text={
            "model_type": "unitrans-bert",
            "vocab_size": 30,
            "max_position_embeddings": 8,
            "mask_token_id": 3,
        },
        graph={"model_type": "unitrans-graphormer", "num_atoms": 40, "feature_offset": 20},
    )
    return MaskedSignalModel.create(
        config, make_objective("msm", config, PARTS | {"weights": WEIGHTS} | options)
    )


def sample(domain: str, number: int) -> dict[str, Any]:
    rng = np.random.default_rng(number)
    if domain == "vision":
        return {"image": torch.from_numpy(rng.normal(size=(1, 4, 4)).astype(np.float32))}
    if domain == "text":
        ids = rng.integers(4, 30, rng.integers(4, 8))
        return {"input_ids": ids, "special": np.zeros(len(ids), dtype=bool)}
    edges = np.array([[0, 1, 1, 2], [1, 0, 2, 1]])
    return {
        "nodes": rng.integers(0, 9, (3, 2)),
        "edge_index": edges,
        "edge_attr": rng.integers(0, 3, (4, 1)),
    }


def batch(model: MaskedSignalModel, *domains: str, first: int = 0) -> dict[str, Any]:
    """Three samples of each domain, corrupted and packed."""
    samples = []
    for domain in domains:
        for number in range(first, first + 3):
            held = sample(domain, number) | {"id": f"{number}", "domain": domain}
            samples.append(model.objective.corrupt(held, np.random.default_rng(number)))
    packed = get_domain("vision,text,graph").collate(samples, model.config.encoder_config)
    assert packed is not None
    return {key: value for key, value in packed.items() if key in model.batch_keys()}


def gradients(model: MaskedSignalModel, loss: Tensor) -> dict[str, Tensor]:
    model.zero_grad()
    loss.backward()
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def joint(model: MaskedSignalModel, batches: list[dict[str, Any]]) -> Tensor:
    """The loss of an update as the trainer computes it."""
    counts = [model.head.count(one) for one in batches]
    totals = {domain: sum(count[domain] for count in counts) for domain in counts[0]}
    weights = model.objective.target_weights(totals)
    outputs = [model(target_weights=weights, **one) for one in batches]
    for output, count in zip(outputs, counts, strict=True):
        assert int(output.num_targets) == sum(count.values())
    return sum(output.loss_sum for output in outputs) / sum(totals.values())


def test_the_gradient_is_the_weighted_sum_of_those_of_the_domains() -> None:
    model = make()
    together = gradients(model, joint(model, [batch(model, "vision", "text", "graph")]))
    expected: dict[str, Tensor] = {}
    for domain, weight in WEIGHTS.items():
        output = model(**batch(model, domain))
        assert isinstance(output, JointOutput) and output.parts is not None
        own = output.parts[domain]
        assert own.loss_sum is not None and own.num_targets is not None
        for name, gradient in gradients(model, weight * own.loss_sum / own.num_targets).items():
            expected[name] = expected.get(name, torch.zeros_like(gradient)) + gradient
    assert together.keys() == expected.keys()
    for name, gradient in expected.items():
        torch.testing.assert_close(
            together[name], gradient, rtol=1e-5, atol=1e-5 * float(gradient.abs().max())
        )


def test_micro_batches_and_missing_domains_do_not_change_the_loss() -> None:
    model = make()
    whole = batch(model, "vision", "text", "graph")
    once = gradients(model, joint(model, [whole]))
    parts = [batch(model, "graph"), batch(model, "text", "vision")]
    torch.testing.assert_close(joint(model, parts), joint(model, [whole]), rtol=1e-6, atol=0)
    for name, gradient in gradients(model, joint(model, parts)).items():
        torch.testing.assert_close(once[name], gradient, rtol=1e-5, atol=1e-5 * float(gradient.abs().max()))


def test_a_missing_domain_gets_gradients_of_zero_in_training_and_no_loss() -> None:
    model = make().train()
    found = gradients(model, joint(model, [batch(model, "text")]))
    names = {name for name, p in model.named_parameters() if p.requires_grad}
    assert {name for name in names if "vision" in name or "graph" in name} <= found.keys()
    assert not found["encoder.parts.vision.patch_embed.proj.weight"].any()
    assert found["encoder.parts.text.embeddings.word_embeddings.weight"].any()


def test_figures_are_those_of_the_domains_and_their_weighted_loss() -> None:
    model = make().eval()
    collected: dict[str, list[Tensor]] = {}
    sums: dict[str, Tensor] = {}
    for one in (batch(model, "vision", "text"), batch(model, "text", "graph", first=3)):
        output = model(**one)
        for key, value in model.objective.collect(one, output).items():
            collected.setdefault(key, []).append(value)
        for key, value in model.objective.metrics(one, output, None).items():
            sums[key] = sums.get(key, torch.zeros(2, dtype=torch.float64)) + value
    figures = model.objective.figures({key: torch.cat(values) for key, values in collected.items()})
    assert set(sums) == {"vision_l1", "text_accuracy", "graph_node_accuracy", "graph_edge_accuracy"}
    assert all(count > 0 for _, count in sums.values())
    assert figures["loss"] == pytest.approx(sum(w * figures[f"{d}_loss"] for d, w in WEIGHTS.items()))
    assert figures["text_perplexity"] == pytest.approx(np.exp(figures["text_loss"]))


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"vision": {"name": "beit"}}, "objective.vision.name: expected mim or mae"),
        ({"graph": PARTS["graph"] | {"encoder_tokens": "visible"}}, "objective.graph.encoder_tokens"),
        ({"weights": {"text": -1.0}}, "objective.weights: expected numbers of 0 or more"),
        ({"weights": {"sound": 1.0}}, "objective.weights: expected numbers of 0 or more for vision, text"),
    ],
)
def test_what_cannot_travel_is_refused(options: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        make(**options)


@pytest.mark.parametrize(
    "part", [{"name": "mae"}, {"name": "mim", "mask_patch_size": 1, "encoder_tokens": "visible"}]
)
def test_images_of_visible_patches_travel_too(part: dict[str, Any]) -> None:
    model = make(vision=part)
    assert torch.isfinite(joint(model, [batch(model, "vision", "text", "graph")]))
