"""What an update on several domains needs beside the loss of each."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from unitrans.domains.base import Batch
from unitrans.training import processes


def weigh_domains(model: Any, batches: Sequence[Batch], device: torch.device) -> None:
    """With several domains each micro-batch of an update is told what a target of a domain counts, for which the
    targets of all of them, in all processes, are counted first."""
    objective = model.objective
    if not objective.joint:
        return
    counts = torch.tensor(
        [list(model.head.count(batch).values()) for batch in batches], dtype=torch.int64, device=device
    ).sum(0)
    processes.add_up(counts)
    weights = objective.target_weights(dict(zip(objective.parts, counts.tolist(), strict=True)))
    for batch in batches:
        batch["target_weights"] = {
            d: torch.tensor(w, dtype=torch.float32, device=device) for d, w in weights.items()
        }
