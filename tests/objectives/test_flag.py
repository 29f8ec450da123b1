"""FLAG against its loop written out, with a backward for every pass."""

import numpy as np
import pytest
import torch

from unitrans.models import GraphormerConfig, SwinConfig
from unitrans.objectives import MaskedSignalModel, make_objective
from unitrans.objectives.base import Labels

CONFIG = GraphormerConfig(
    depth=2, embed_dim=16, num_heads=2, drop_rate=0.0, attn_drop_rate=0.0, act_drop_rate=0.0
)
VALUES = Labels("value", ("y",), mean=(0.0,), std=(1.0,))
CLASSES = Labels("class", ("a", "b"), counts=(2, 2))


def batch_of(label: torch.Tensor) -> dict:
    rng = np.random.default_rng(0)
    sizes = [3, 5, 4, 6]
    bonds = [np.stack([np.arange(n - 1), np.arange(1, n)]) for n in sizes]
    ends = np.concatenate([np.concatenate([b, b[::-1]], axis=1) for b in bonds], axis=1)
    plans = CONFIG.plans(sizes, [2 * (n - 1) for n in sizes], ends, rng.integers(0, 3, (ends.shape[1], 2)))
    return {"nodes": torch.from_numpy(rng.integers(0, 9, (sum(sizes), 3))), "plans": plans, "labels": label}


@pytest.mark.parametrize("bound", [0.0, 0.3])
@pytest.mark.parametrize("kind", ["regression", "classification"])
def test_published_loop(kind: str, bound: float) -> None:
    steps, size = 3, 0.2
    options = {"flag_steps": steps, "flag_step_size": size, "flag_bound": bound}
    labels = (
        torch.tensor([[0.5], [-1.0], [2.0], [0.0]]) if kind == "regression" else torch.tensor([0, 1, 1, 0])
    )
    objective = make_objective(kind, CONFIG, options, VALUES if kind == "regression" else CLASSES)
    model = MaskedSignalModel.create(CONFIG, objective)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    batch = batch_of(labels)
    torch.manual_seed(3)
    output = model(**batch)
    output.loss_sum.backward()
    got = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    assert output.num_targets == 4

    model.zero_grad()
    torch.manual_seed(3)
    moved = torch.empty(18, 16).uniform_(-1, 1) * (bound / 16**0.5 if bound else size)
    losses, lengths = [], []
    for _ in range(steps):
        moved = moved.detach().requires_grad_()
        loss = model.head(model.encoder, perturbation=moved, **batch).loss_sum
        (loss / steps).backward()
        losses.append(loss.item())
        lengths.append(moved.norm(dim=1).max().item())
        climbed = moved + size * moved.grad.sign()
        if bound:
            length = climbed.norm(dim=1, keepdim=True)
            climbed = torch.where(length > bound, climbed * bound / length, climbed)
        moved = climbed
    assert output.loss_sum.item() == pytest.approx(np.mean(losses), rel=1e-5)
    assert losses[-1] > losses[0] and (not bound or max(lengths) <= bound * 1.0001)
    assert got.keys() == {name for name, p in model.named_parameters() if p.grad is not None}
    for name, parameter in model.named_parameters():
        if parameter.grad is not None:
            torch.testing.assert_close(got[name], parameter.grad, rtol=1e-4, atol=1e-5, msg=name)

    plain = model.head(model.encoder, **batch).loss_sum
    assert model.eval()(**batch).loss_sum == plain  # no perturbation where nothing is trained


def test_other_models_refuse() -> None:
    with pytest.raises(
        ValueError, match="flag_steps: expected 0 for a model whose features take no perturbation"
    ):
        make_objective("classification", SwinConfig(image_size=64), {"flag_steps": 3}, CLASSES)
