"""Training on embedded rows that were moved to where the loss is larger (FLAG: Kong et al. 2020, arXiv:2010.09891), as
in the published recipes of Graphormer for ogbg-molhiv and ogbg-molpcba."""

import math
from collections.abc import Callable

import pydantic
import torch
from pydantic import Field
from torch import Tensor

from unitrans.objectives.base import SignalOutput


class FlagOptions(pydantic.BaseModel):
    """What FLAG adds to the `objective` section of a run."""

    flag_steps: int = Field(
        0,
        ge=0,
        description="Graphs: FLAG, passes over a batch with nodes moved against the model; 0: without.",
    )
    flag_step_size: float = Field(
        1e-3, gt=0, description="FLAG: how far a step moves each channel of a node."
    )
    flag_bound: float = Field(
        1e-3, ge=0, description="FLAG: the longest way of a node from its place; 0: without bound."
    )


def flag(call: Callable[[Tensor], SignalOutput], rows: Tensor, options: FlagOptions) -> SignalOutput:
    """The mean loss over `options.flag_steps` passes; between them the perturbation climbs.

    Args:
        call: a forward pass with this perturbation [T, C] of the embedded rows.
        rows: of the shape, dtype and device of the perturbation.

    Returns:
        loss_sum is the mean over the passes, so that one backward trains on all; the prediction is that of the last.
    """
    size, bound = options.flag_step_size, options.flag_bound
    widest = bound / math.sqrt(rows.shape[1]) if bound else size
    moved = torch.empty_like(rows).uniform_(-widest, widest)
    total = rows.new_zeros((), dtype=torch.float32)
    for step in range(options.flag_steps):
        moved.requires_grad_()
        output = call(moved)
        assert output.loss_sum is not None
        total = total + output.loss_sum / options.flag_steps
        if step + 1 < options.flag_steps:
            (gradient,) = torch.autograd.grad(output.loss_sum, moved, retain_graph=True)
            moved = moved.detach() + size * gradient.sign()
            if bound:
                length = moved.norm(dim=1, keepdim=True)
                moved = moved * (bound / length).clamp(max=1.0)
    return SignalOutput(total, output.num_targets, output.prediction)
