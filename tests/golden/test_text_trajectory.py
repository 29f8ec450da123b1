"""Twenty updates of BertForMaskedLM with the recipe of transformers: rates, losses, gradient norms, weights."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from unitrans.domains.base import Source
from unitrans.domains.text import TextDomain
from unitrans.models.convert import config_from, export_tensors, export_weights, load_weights
from unitrans.objectives import MaskedSignalModel, make_objective
from unitrans.training.config import resolve
from unitrans.training.observers import Observer
from unitrans.training.optim import parameter_groups
from unitrans.training.sampler import Key, UpdateSampler
from unitrans.training.session import Session, make_trainer


class FixedSource(Source):
    """The sentences of the recording without their padding."""

    def __init__(self, inputs: dict[str, torch.Tensor]) -> None:
        fields = {key: inputs[key].flatten(0, 1) for key in ("input_ids", "token_type_ids", "labels")}
        real = inputs["attention_mask"].flatten(0, 1).bool()
        self.samples = [
            {key: x[row][mask].numpy() for key, x in fields.items()} | {"id": str(row)}
            for row, mask in enumerate(real)
        ]
        super().__init__([str(sample["id"]) for sample in self.samples])
        self.num_tokens = [len(sample["input_ids"]) for sample in self.samples]

    def load(self, index: int) -> dict[str, Any]:
        return self.samples[index]

    def augment(self, sample: dict[str, Any], rng: Any, training: bool) -> dict[str, Any]:
        return sample


class FixedBatches(UpdateSampler):
    """The batch of every update as recorded."""

    recorded: list[int]

    def global_batch(self, update: int) -> list[Key]:
        size = self.global_batch_size
        return [(0, self.recorded[update] * size + row) for row in range(size)]


class Rows(Observer):
    def __init__(self) -> None:
        self.rows: list[dict[str, float]] = []

    def on_row(self, trainer: Any, row: dict[str, float]) -> None:
        self.rows.append(row)


@pytest.mark.parametrize("accumulation", [1, 2])
def test_updates_of_transformers(golden: Callable[[str], Any], tmp_path: Path, accumulation: int) -> None:
    """In one micro-batch, and cut by tokens into two."""
    case = golden("23_traj_bert")
    recipe, batch = case.meta["training"], case.inputs["input_ids"].shape[1]
    train = {
        "max_steps": recipe["total_steps"],
        "per_device_train_batch_size": batch // accumulation,
        "gradient_accumulation_steps": accumulation,
        "learning_rate": recipe["base_lr"],
        "lr_scheduler_type": "linear",
        "warmup_steps": recipe["warmup_steps"],
        "warmup_prefix": "true",
        "min_learning_rate": 0,
        "weight_decay": recipe["weight_decay"],
        "max_grad_norm": recipe["clip_grad_norm"],
        "adam_beta1": recipe["betas"][0],
        "adam_beta2": recipe["betas"][1],
        "adam_epsilon": recipe["eps"],
        "logging_steps": 1,
    }
    settings = [f"train.{key}={value}" for key, value in train.items()]
    config = resolve(domain="text", objective="mlm", settings=settings)
    arguments = {k: v for k, v in case.meta["constructor"].items() if k not in ("cls", "attn_implementation")}
    model_config = config_from(
        "hf5", arguments | {"architectures": ["BertForMaskedLM"]}, "bert", mask_token_id=4
    )
    objective = make_objective("mlm", model_config, {})
    objective.corrupt = lambda sample, rng: sample  # what is predicted is in the recording
    model = MaskedSignalModel.create(model_config, objective)
    report = load_weights(model, case.weights, "hf5")
    assert not report.missing and not report.unexpected
    assert decay_groups(model, recipe["weight_decay"]) == case.meta["parameter_groups"]["weight_decay"]

    source = FixedSource(case.inputs)
    batches = FixedBatches(
        len(source),
        per_device_batch_size=batch // accumulation,
        accumulation_steps=accumulation,
        num_tokens=source.num_tokens,
    )
    batches.recorded = case.inputs["batch_index"].tolist()
    session = Session(config, TextDomain(), model_config, objective, source, None, batches, 20, model)
    trainer, log = make_trainer(session, None), Rows()
    trainer.observers.append(log)
    trainer.train()

    rates = torch.tensor([row["learning_rate"] for row in log.rows], dtype=torch.float64)
    torch.testing.assert_close(rates, case.expected["out.lr"], rtol=1e-12, atol=0)
    case.check(
        {
            "out.loss": torch.tensor([row["loss"] for row in log.rows]),
            "out.grad_norm": torch.tensor([row["grad_norm"] for row in log.rows]),
        }
    )
    case.meta["tolerance_advice"]["outputs"] = case.meta["tolerance_advice"]["final_weights_rel"]
    final = {f"out.final.{name}": x for name, x in export_weights(session.model, "hf5").items()}
    recorded = {name for name in case.expected if name.startswith("out.final.")}
    assert recorded and recorded <= final.keys()
    case.check({name: final[name] for name in recorded})


def decay_groups(model: Any, decay: float) -> dict[str, float]:
    """Weight decay of every parameter, by the names of transformers."""
    of_ours = {
        name: group["weight_decay"] for group in parameter_groups(model, decay) for name, _ in group["params"]
    }
    named = dict(model.named_parameters())
    found = {}
    for name, value in of_ours.items():
        for theirs in export_tensors(model, {name: named[name].detach()}, "hf5"):
            found[theirs] = value
    return found
