"""Figures of a model on samples that it was not trained on."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from unitrans.domains.base import Batch
from unitrans.errors import RunError
from unitrans.training import processes
from unitrans.training.data import Collate, CorruptedSamples, make_loader, validation_batches

Collected = dict[str, Tensor]


@torch.no_grad()
def judge(
    model: Any,
    data: CorruptedSamples,
    *,
    run_model: Callable[[Any, Batch], tuple[Batch, Any]],
    note_skipped: Callable[[Batch], None],
    collate: Collate,
    settings: dict[str, Any],
    scale: Any,
    device: torch.device,
    is_stopped: Callable[[], bool],
) -> tuple[dict[str, float], Collected]:
    """Sums over all samples for the model as it is, with masks that never change. Called by all processes.

    Args:
        model: what is judged; it is left in the mode of evaluation.
        data: the samples.
        run_model: the batch on the device and what the model makes of it.
        note_skipped: takes down which samples of a batch cannot be read.
        collate: packs samples of training; mixing is left out.
        settings: the ``train`` section.
        scale: see ``Domain.data_unit_scale``.
        device: of the model.
        is_stopped: whether to break off, asked before every batch.

    Returns:
        ``eval_loss`` in the unit of the loss, the metrics and figures of the objective, and what the figures were made
        of. Two empty ones when it was broken off.
    """
    start = time.perf_counter()
    # With FSDP all processes must call the model equally often: each judges everything.
    shared = processes.world_size() > 1 and not settings["fsdp"]
    rank, world_size = (processes.rank(), processes.world_size()) if shared else (0, 1)
    batches = validation_batches(len(data), settings["per_device_eval_batch_size"], rank, world_size)
    workers = settings["dataloader_num_workers"]
    loader = make_loader(data, batches, collate.for_validation(), seed=settings["seed"], num_workers=workers)
    model.eval()
    objective = model.objective
    names = objective.metric_names
    totals = torch.zeros(2 * len(names) + 3, dtype=torch.float64, device=device)
    parts: list[Collected] = []
    for batch in loader:
        if is_stopped():
            return {}, {}
        if not batch.get("sample_ids"):  # nothing in it can be read
            note_skipped(batch)
            continue
        inputs, output = run_model(model, batch)
        kept = objective.collect(inputs, output)
        if kept:
            parts.append({key: tensor.cpu() for key, tensor in kept.items()})
        totals += _sums(objective, inputs, output, len(batch["sample_ids"]), scale, device)
    if shared:
        processes.add_up(totals)
        parts = [part for parts_of_one in processes.gather_objects(parts) for part in parts_of_one]
    loss, targets, samples, *sums = totals.tolist()
    if not samples:
        raise RunError(f"none of the {len(data):,} held-out samples can be read")
    metrics = {"eval_loss": loss / max(targets, 1)}
    for name, total, count in zip(names, sums[::2], sums[1::2], strict=True):
        metrics[f"eval_{name}"] = total / max(count, 1)
    keys = dict.fromkeys(key for part in parts for key in part)
    collected = {key: torch.cat([part[key] for part in parts if key in part]) for key in keys}
    if parts:
        metrics |= {f"eval_{name}": value for name, value in objective.figures(collected).items()}
    seconds = round(time.perf_counter() - start, 3)
    return metrics | {"eval_samples": int(samples), "eval_seconds": seconds}, collected


def _sums(
    objective: Any, inputs: Batch, output: Any, samples: int, scale: Any, device: torch.device
) -> Tensor:
    """[sum of the loss, targets, samples, then sum and count of each metric] of a batch."""
    head = (output["loss_sum"], output["num_targets"], torch.tensor(samples))
    first = torch.stack([part.double().to(device) for part in head])
    metrics = objective.metrics(inputs, output, scale)
    return torch.cat([first, *(metrics[name].double().to(device) for name in objective.metric_names)])
