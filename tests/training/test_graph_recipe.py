"""Twenty updates of the published Graphormer recipe, against the published formula with fairseq's Adam written out."""

import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch

from unitrans.domains.base import Source
from unitrans.domains.graph import GraphDomain
from unitrans.models.convert import export_weights, load_weights
from unitrans.objectives import MaskedSignalModel, make_objective
from unitrans.objectives.base import Labels
from unitrans.training.config import resolve
from unitrans.training.observers import Observer
from unitrans.training.sampler import UpdateSampler
from unitrans.training.session import Session, make_trainer

sys.path.insert(0, str(Path(__file__).parents[2]))
from benchmarks.graph import random_molecule
from benchmarks.graph_padded import PaddedGraphormer, collate, preprocess

UPDATES, WARMUP, RATE, END, CLIP, DECAY, EPS, BETAS = 20, 5, 2e-3, 1e-9, 0.5, 0.01, 1e-3, (0.9, 0.999)


class Molecules(Source):
    """Random graphs with a standardised label."""

    def __init__(self) -> None:
        rng = np.random.default_rng(0)
        self.graphs = [random_molecule(int(n), rng) for n in rng.integers(4, 12, 24)]
        values = rng.normal(size=24)
        self.labels = Labels("value", ("y",), mean=(float(values.mean()),), std=(float(values.std()),))
        self.values = values[:, None]
        super().__init__([str(index) for index in range(24)])
        self.num_tokens = [len(g["nodes"]) + 1 for g in self.graphs]

    def load(self, index: int) -> dict[str, Any]:
        return {"id": self.ids[index], **self.graphs[index], "label": self.values[index]}


class Rows(Observer):
    def __init__(self) -> None:
        self.rows: list[dict[str, float]] = []

    def on_row(self, trainer: Any, row: dict[str, float]) -> None:
        self.rows.append(row)


def published(network: PaddedGraphormer, source: Molecules, sampler: UpdateSampler) -> dict[str, list[float]]:
    """The loop of fairseq: gradient of the summed loss over the number of graphs, clipped, then its Adam, in fp64."""
    moments = {p: (torch.zeros_like(p), torch.zeros_like(p)) for p in network.parameters()}
    items = [preprocess(hops=5, **graph) for graph in source.graphs]
    truth = (source.values - source.labels.mean[0]) / source.labels.std[0]
    told: dict[str, list[float]] = {"learning_rate": [], "loss": [], "grad_norm": []}
    for update in range(UPDATES):
        chosen = [index for _, index in sampler.global_batch(update)]
        batch = {
            k: v.double() if v.is_floating_point() else v
            for k, v in collate([items[i] for i in chosen]).items()
        }
        loss = (network(batch) - torch.from_numpy(truth[chosen])).abs().sum() / len(chosen)
        network.zero_grad()
        loss.backward()
        parameters = [p for p in network.parameters() if p.grad is not None]
        norm = torch.stack([p.grad.norm() for p in parameters]).norm()
        factor = min(1.0, CLIP / (float(norm) + 1e-6))
        rest = 1 - (update - WARMUP) / (UPDATES - WARMUP)
        rate = RATE * update / WARMUP if update < WARMUP else (RATE - END) * rest + END
        told["learning_rate"].append(rate)
        told["loss"].append(loss.item())
        told["grad_norm"].append(float(norm))
        with torch.no_grad():
            for p in parameters:
                first, second = moments[p]
                gradient = p.grad * factor
                first.mul_(BETAS[0]).add_(gradient, alpha=1 - BETAS[0])
                second.mul_(BETAS[1]).addcmul_(gradient, gradient, value=1 - BETAS[1])
                corrected = (1 - BETAS[1] ** (update + 1)) ** 0.5 / (1 - BETAS[0] ** (update + 1))
                p.mul_(1 - DECAY * rate)
                p.addcdiv_(first, second.sqrt() + EPS, value=-rate * corrected)
    return told


def test_published_recipe(tmp_path: Path) -> None:
    settings = {
        "model.embed_dim": 24,
        "model.depth": 2,
        "model.num_heads": 4,
        "model.attn_drop_rate": 0.0,
        "model.act_drop_rate": 0.0,
        "train.max_steps": UPDATES,
        "train.per_device_train_batch_size": 4,
        "train.global_batch_size": 8,  # two micro-batches: the mean is over both
        "train.learning_rate": RATE,
        "train.warmup_steps": WARMUP,
        "train.min_learning_rate": END,
        "train.weight_decay": DECAY,
        "train.adam_epsilon": EPS,
        "train.max_grad_norm": CLIP,
        "train.logging_steps": 1,
        "train.bf16": "false",
        "train.dataloader_num_workers": 0,
        "data.path": "nci",
    }
    config = resolve(
        config="recipes/graphormer-base-pcqm4mv2", settings=[f"{k}={v}" for k, v in settings.items()]
    )
    source, model_config = Molecules(), config.model_config()
    objective = make_objective("regression", model_config, {"loss": "l1"}, source.labels)
    model = MaskedSignalModel.create(model_config, objective)
    sampler = UpdateSampler(
        24, per_device_batch_size=4, accumulation_steps=2, seed=1, num_tokens=source.num_tokens
    )

    network = PaddedGraphormer(model_config)
    torch.manual_seed(0)
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, 1.0 if parameter.dim() == 1 else 0.0, 0.05)
    for module in network.modules():
        if isinstance(module, torch.nn.Embedding) and module.padding_idx is not None:
            torch.nn.init.zeros_(module.weight[0])
    report = load_weights(model, network.state_dict(), "v2")
    assert not report.missing and not report.unexpected
    want = published(network.double(), source, sampler)

    session = Session(
        config, GraphDomain(), model_config, SimpleNamespace(), source, None, sampler, UPDATES, model
    )
    session.objective = objective
    trainer, log = make_trainer(session, None), Rows()
    trainer.observers.append(log)
    trainer.train()

    for key, values in want.items():
        got = [row[key] for row in log.rows]
        np.testing.assert_allclose(
            got, values, rtol=1e-12 if key == "learning_rate" else 2e-5, atol=1e-12, err_msg=key
        )
    final = export_weights(model, "v2")
    for name, value in network.named_parameters():
        if "k_proj.bias" in name or "masked_lm_pooler" in name:  # rounding noise under Adam; never used
            continue
        error = (final[name].double().view_as(value) - value).abs().max().item()
        assert error <= 2e-5 * max(1.0, value.abs().max().item()), f"{name}: {error:.1e}"


def test_where_eps_is_added_matters(tmp_path: Path) -> None:
    """The same update with corrected eps lands elsewhere, so the test above can fail."""
    from unitrans.training.optim import make_adamw

    ends = []
    for mode in ("corrected", "uncorrected"):
        p = torch.nn.Parameter(torch.ones(3))
        optimizer = make_adamw([{"params": [("p", p)]}], lr=0.1, betas=BETAS, eps=EPS, eps_mode=mode)
        p.grad = torch.full((3,), 1e-3)
        optimizer.step()
        ends.append(p.detach().clone())
    second = 1e-6 * (1 - BETAS[1])
    want = (
        1
        - 0.01 * 0.1
        - 0.1 * (1 - BETAS[1]) ** 0.5 / (1 - BETAS[0]) * (1e-3 * (1 - BETAS[0])) / (second**0.5 + EPS)
    )
    torch.testing.assert_close(ends[1], torch.full((3,), want), rtol=1e-5, atol=1e-6)
    assert (ends[0] - ends[1]).abs().min() > 1e-2
