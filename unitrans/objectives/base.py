"""What an objective is: corruption, target, head and loss on packed tokens (layer 6).

An objective has two halves. The data half runs in loader workers: `corrupt` decides what is hidden in one
sample, as a pure function of the generator it is given. The model half is an nn.Module that is trained with
the encoder: it hides, runs the encoder and sums the loss. Neither reads files.
"""

from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

import numpy as np
import pydantic
from torch import Tensor, nn
from transformers.utils import ModelOutput


@dataclass
class SignalOutput(ModelOutput):
    """What every objective returns.

    Attributes:
        loss_sum: scalar, summed over targets; the loss of an update is sum(loss_sum) / sum(num_targets) over
            all its micro-batches and ranks.
        num_targets: int64 scalar, how many values were predicted.
        prediction: detached prediction for every row of the input (shape as the objective says).
    """

    loss_sum: Tensor | None = None
    num_targets: Tensor | None = None
    prediction: Tensor | None = None


class Objective(Protocol):
    """The data half of an objective, and the way to its model half.

    Attributes:
        name: as on the command line.
        domains: names of the domains it is made for.
        Options: its section of the configuration; every field has a description.
    """

    name: str
    domains: tuple[str, ...]
    Options: ClassVar[type[pydantic.BaseModel]]

    @property
    def options(self) -> pydantic.BaseModel:
        """The options it was made with."""

    @property
    def note(self) -> str | None:
        """What has to be said beside pictures and errors in data units; None: nothing."""

    def __init__(self, encoder_config: Any, **options: Any) -> None:
        """Raises ValueError where the options do not fit the encoder."""

    def corrupt(self, sample: dict[str, Any], rng: np.random.Generator) -> dict[str, Any]:
        """The sample with what is hidden in it; all randomness comes from `rng`."""

    def build_head(self) -> nn.Module:
        """The model half: called as head(encoder, **batch) -> SignalOutput."""
