"""Twenty updates of the official SimMIM code, reproduced by the trainer: rates, losses, gradient norms, weights."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from unitrans.domains.base import Source
from unitrans.models.convert import export_weights, load_weights
from unitrans.training.config import resolve
from unitrans.training.observers import Observer
from unitrans.training.sampler import Key, UpdateSampler
from unitrans.training.session import Session, make_trainer, open_session


class FixedSource(Source):
    """The images and masks of the recording, already normalised."""

    def __init__(self, images: torch.Tensor, masks: torch.Tensor) -> None:
        self.images, self.masks = images.flatten(0, 1), masks.flatten(0, 1).bool()
        super().__init__([str(index) for index in range(len(self.images))])
        self.std = [1.0, 1.0, 1.0]

    def load(self, index: int) -> dict[str, Any]:
        return {"id": self.ids[index], "image": self.images[index], "mask": self.masks[index]}


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


def test_official_simmim_updates(golden: Callable[[str], Any], tmp_path: Path) -> None:
    case = golden("20_traj_simmim_swin")
    how, recipe = case.meta["constructor"], case.meta["training"]
    size, stride = how["img_size"], how["patch_size"] * 2 ** (len(how["depths"]) - 1)
    model = {
        key: how[key]
        for key in ("embed_dim", "depths", "num_heads", "window_size", "mlp_ratio", "patch_size")
    }
    train = {
        "max_steps": recipe["total_steps"],
        "per_device_train_batch_size": case.inputs["x"].shape[1],
        "learning_rate": recipe["base_lr"],
        "warmup_learning_rate": recipe["warmup_lr_init"],
        "min_learning_rate": recipe["min_lr"],
        "warmup_steps": recipe["warmup_steps"],
        "schedule_lag": 1,
        "weight_decay": recipe["weight_decay"],
        "decay_bias_tables": "true",
        "max_grad_norm": recipe["clip_grad_norm"],
        "logging_steps": 1,
    }
    settings = [f"model.{key}={value}" for key, value in model.items()]
    settings += [f"train.{key}={value}" for key, value in train.items()]
    settings += [f"data.image_size={size}", "data.channels=3", f"objective.mask_patch_size={stride}"]
    opened = open_session(resolve(settings=settings))
    source = FixedSource(case.inputs["x"], case.inputs["mask"])
    batches = FixedBatches(len(source), per_device_batch_size=train["per_device_train_batch_size"])
    batches.recorded = case.inputs["batch_index"].tolist()
    objective = opened.objective
    objective.corrupt = lambda sample, rng: sample  # the masks are in the recording
    session = Session(
        opened.config, opened.domain, opened.model_config, objective, source, None, batches, 20, opened.model
    )
    load_weights(session.model, case.weights, "official")
    trainer, log = make_trainer(session, None), Rows()
    trainer.observers.append(log)
    trainer.train()

    assert [row["learning_rate"] for row in log.rows] == case.expected["out.lr"].tolist()
    got = {
        "out.loss": torch.tensor([row["loss"] for row in log.rows]),
        "out.grad_norm": torch.tensor([row["grad_norm"] for row in log.rows]),
    }
    case.check(got)
    case.meta["tolerance_advice"]["outputs"] = case.meta["tolerance_advice"]["final_weights_rel"]
    final = export_weights(session.model, "official")
    names = case.meta["keys"]["final_weights"]
    wanted = {f"out.final.{name}": final[name] for name in names}
    case.check({name: tensor.reshape(case.expected[name].shape) for name, tensor in wanted.items()})
