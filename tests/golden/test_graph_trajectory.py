"""Twenty updates of the published Graphormer recipe, reproduced by the trainer: rates, losses, gradient norms, weights.

Recordings are found by what their meta.json says. Their graphs come as they were (`raw.*`) or as padded batches of the
published collator; out of these the edges are read back, so that every feature is made by our own code.
"""

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from golden_cases import GOLDEN
from torch import nn

from unitrans.domains.graph import GraphDomain
from unitrans.models.convert import config_from, export_weights, load_weights
from unitrans.objectives import MaskedSignalModel, make_objective
from unitrans.objectives.base import Labels, SignalOutput
from unitrans.objectives.supervised import ValueHead
from unitrans.training.config import resolve
from unitrans.training.observers import Observer
from unitrans.training.sampler import Key, UpdateSampler
from unitrans.training.session import Session, make_trainer

PADDED = ("x", "attn_edge_type", "y")


def cases() -> list[str]:
    """Folders with a training run of Graphormer."""
    found = []
    for path in sorted(GOLDEN.glob("*/meta.json")):
        meta = json.loads(path.read_text())
        if "raphormer" in str(meta.get("reference", "")) and "training" in meta:
            found.append(path.parent.name)
    return found or ["traj_graphormer"]


def first_of(recipe: dict[str, Any], *names: str, default: Any = None) -> Any:
    """The value under the first of these names that is there."""
    return next((recipe[name] for name in names if name in recipe), default)


def edges_of(x: torch.Tensor, types: torch.Tensor) -> dict[str, Any]:
    """A padded graph, x [N, F] and attn_edge_type [N, N, Fe], as categories and edges."""
    n = int((x[:, 0] != 0).sum())
    shift = 2 + 512 * torch.arange(x.shape[1])
    source, target = types[:n, :n].any(-1).nonzero(as_tuple=True)
    attr = types[source, target] - 2 - 512 * torch.arange(types.shape[2])
    return {"nodes": x[:n] - shift, "edge_index": torch.stack([source, target]), "edge_attr": attr}


class Recorded:
    """The graphs of a recording, and which of them every update sees."""

    in_order, notes, skipped = False, (), ()

    def __init__(self, case: Any) -> None:
        self.samples: list[dict[str, Any]] = []
        batches = self._raw(case) if "raw.0.edge_index" in case.expected else self._padded(case)
        index = case.inputs["batch_index"]
        self.batches = batches
        self.updates = index.tolist() if index.dim() == 2 else [batches[b] for b in index.tolist()]
        for number, sample in enumerate(self.samples):
            arrays = {key: np.asarray(value) for key, value in sample.items()}
            arrays["label"] = arrays["label"].reshape(-1).astype(np.float64)
            self.samples[number] = arrays | {"id": str(number)}
        self.ids = [sample["id"] for sample in self.samples]
        self.num_tokens = [len(sample["nodes"]) + 1 for sample in self.samples]
        count = len(self.samples[0]["label"])
        self.labels = Labels(
            "value", tuple(f"y{k}" for k in range(count)), mean=(0.0,) * count, std=(1.0,) * count
        )

    def _raw(self, case: Any) -> list[list[int]]:
        found, number, labels = case.expected, 0, case.inputs.get("y")
        while f"raw.{number}.edge_index" in found:
            sample = {key: found[f"raw.{number}.{key}"] for key in ("edge_index", "edge_attr")}
            label = (
                found[f"raw.{number}.y"] if labels is None else labels.flatten(0, labels.dim() - 2)[number]
            )
            self.samples.append(sample | {"nodes": found[f"raw.{number}.node_attr"], "label": label})
            number += 1
        members = case.inputs.get("graph_index", case.inputs.get("graphs_of_batch"))
        if members is None:  # one batch after the other
            count = int(case.inputs["batch_index"].max()) + 1
            members = torch.arange(number).view(count, -1)
        return members.tolist()

    def _padded(self, case: Any) -> list[list[int]]:
        inputs = case.inputs
        if "x" in inputs and inputs["x"].dim() == 4:
            parts = [{key: inputs[key][b] for key in PADDED} for b in range(len(inputs["x"]))]
        elif "x" in inputs:
            parts = [{key: inputs[key] for key in PADDED}]
        else:
            by_batch: dict[int, dict[str, torch.Tensor]] = {}
            for name, value in inputs.items():
                key = next((k for k in PADDED if k in re.split(r"[._]?\d+[._]?", name)), None)
                if key is not None:
                    by_batch.setdefault(int(re.findall(r"\d+", name)[0]), {})[key] = value
            parts = [by_batch[b] for b in sorted(by_batch)]
        batches = []
        for part in parts:
            first = len(self.samples)
            for x, types, label in zip(*(part[key] for key in PADDED), strict=True):
                self.samples.append(edges_of(x, types) | {"label": label})
            batches.append(list(range(first, len(self.samples))))
        return batches

    def __len__(self) -> int:
        return len(self.samples)

    def load(self, index: int) -> dict[str, Any]:
        return self.samples[index]

    def augment(self, sample: dict[str, Any], rng: Any, training: bool) -> dict[str, Any]:
        return sample


class FixedBatches(UpdateSampler):
    """The graphs of every update as recorded."""

    recorded: list[list[int]]

    def global_batch(self, update: int) -> list[Key]:
        return [(0, index) for index in self.recorded[update]]


class Rows(Observer):
    def __init__(self) -> None:
        self.rows: list[dict[str, float]] = []

    def on_row(self, trainer: Any, row: dict[str, float]) -> None:
        self.rows.append(row)


class PublishedHead(ValueHead):
    """One bias for all outputs, and a loss that is a mean over graphs, not over graphs and targets."""

    def __init__(self, dim: int, outputs: int) -> None:
        super().__init__(dim, outputs, 0.0, loss="l1")
        self.linear.bias = nn.Parameter(torch.zeros(1))
        self.outputs = outputs

    def forward(self, encoder: Any, labels: torch.Tensor | None = None, **inputs: Any) -> SignalOutput:
        found = super().forward(encoder, labels, **inputs)
        return SignalOutput(found.loss_sum, found.num_targets // self.outputs, found.prediction)


def settings_of(recipe: dict[str, Any], batch: int, accumulation: int) -> list[str]:
    """The recipe as settings of the published configuration."""
    train = {
        "max_steps": first_of(recipe, "total_steps", "total_num_update", "steps"),
        "per_device_train_batch_size": batch // accumulation,
        "global_batch_size": batch,
        "learning_rate": first_of(recipe, "base_lr", "peak_lr", "lr"),
        "warmup_steps": first_of(recipe, "warmup_steps", "warmup_updates"),
        "min_learning_rate": first_of(recipe, "end_lr", "min_lr", "end_learning_rate", default=0.0),
        "weight_decay": recipe["weight_decay"],
        "max_grad_norm": first_of(recipe, "clip_grad_norm", "clip_norm"),
        "adam_beta1": recipe["betas"][0],
        "adam_beta2": recipe["betas"][1],
        "adam_epsilon": first_of(recipe, "eps", "adam_eps"),
        "logging_steps": 1,
        "bf16": "false",
        "dataloader_num_workers": 0,
    }
    return ["data.path=nci", *(f"train.{key}={value}" for key, value in train.items())]


@pytest.mark.parametrize("accumulation", [1, 2])
@pytest.mark.parametrize("name", cases())
def test_official_graphormer_updates(golden: Any, tmp_path: Path, name: str, accumulation: int) -> None:
    """In one micro-batch, and cut by tokens into two."""
    case = golden(name)
    source, recipe = Recorded(case), case.meta["training"]
    batch = len(source.updates[0])
    if batch % accumulation:
        pytest.skip(f"batches of {batch} graphs cannot be halved")
    arguments = {k: v for k, v in case.meta["constructor"].items() if k != "cls"}
    off = {"drop_rate": 0.0, "attn_drop_rate": 0.0, "act_drop_rate": 0.0}
    model_config = config_from("v2", arguments, **off)
    config = resolve(
        config="recipes/graphormer-base-pcqm4mv2", settings=settings_of(recipe, batch, accumulation)
    )
    objective = make_objective("regression", model_config, {"loss": "l1"}, source.labels)
    model = MaskedSignalModel.create(model_config, objective)
    model.head = PublishedHead(model_config.num_features, len(source.labels.names))
    report = load_weights(model, case.weights, "v2")
    assert not report.missing and not report.unexpected
    sampler = FixedBatches(
        len(source),
        per_device_batch_size=batch // accumulation,
        accumulation_steps=accumulation,
        num_tokens=source.num_tokens,
    )
    sampler.recorded, updates = source.updates, len(source.updates)
    session = Session(config, GraphDomain(), model_config, objective, source, None, sampler, updates, model)
    trainer, log = make_trainer(session, None), Rows()
    trainer.observers.append(log)
    trainer.train()

    rates = torch.tensor([row["learning_rate"] for row in log.rows], dtype=torch.float64)
    torch.testing.assert_close(rates, case.expected["out.lr"].double(), rtol=1e-12, atol=1e-24)
    losses = torch.tensor([row["loss"] for row in log.rows])
    want = case.expected["out.loss"]
    as_sum = (want[0] - losses[0] * batch).abs() < (
        want[0] - losses[0]
    ).abs()  # summed over graphs, or their mean
    got = {"out.loss": losses * batch if as_sum else losses}
    got["out.grad_norm"] = torch.tensor([row["grad_norm"] for row in log.rows])
    case.check(got)
    case.meta["tolerance_advice"]["outputs"] = case.meta["tolerance_advice"]["final_weights_rel"]
    final = {f"out.final.{key}": value for key, value in export_weights(model, "v2").items()}
    recorded = {key for key in case.expected if key.startswith("out.final.")}
    assert recorded and recorded <= final.keys()
    case.check({key: final[key].view_as(case.expected[key]) for key in recorded})
