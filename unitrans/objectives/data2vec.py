"""Features of a teacher as targets, as in data2vec (Baevski et al., ICML 2022, arXiv:2202.03555).

The student sees a sample with parts hidden; the teacher, an exponential moving average of it, sees all. For hidden
tokens the student predicts the mean of the teacher's last blocks, each normalised. The same code serves images, text
and graphs.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np
import pydantic
import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from unitrans.models import registry
from unitrans.models._encoder import BlockEncoder
from unitrans.objectives.base import (
    CollapseError,
    Labels,
    Measure,
    Objective,
    SignalOutput,
    check_one_row_per_patch,
)
from unitrans.objectives.beit import block_mask

PATIENCE = 20  # updates in a row with flat targets after which a run ends


class Data2VecOptions(pydantic.BaseModel):
    """The `objective` section of a run with data2vec."""

    model_config = pydantic.ConfigDict(extra="forbid")

    mask_ratio: float = Field(
        0.6,
        gt=0,
        lt=1,
        description="Share of tokens that are hidden (published: 0.6 of patches, 0.15 of text).",
    )
    mask_shape: Literal["random", "blocks"] = Field(
        "random", description="random: single tokens. blocks: rectangles of patches as in beit (images only)."
    )
    min_block: int = Field(16, ge=1, description="Patches of the smallest block with mask_shape=blocks.")
    top_k: int = Field(6, ge=1, description="How many of the teacher's last blocks make the target.")
    norm_mean: bool = Field(False, description="Their mean is normalised again (published for images).")
    beta: float = Field(
        2.0, ge=0, description="Errors below it count squared, above it linearly (smooth L1); 0: L1."
    )
    ema_start: float = Field(
        0.999, ge=0, le=1, description="How much of the teacher stays in the first update."
    )
    ema_end: float = Field(0.9999, ge=0, le=1, description="And from update ema_updates on.")
    ema_updates: int = Field(30000, ge=1, description="Updates over which it rises, linearly.")
    min_target_variance: float = Field(
        0.01,
        ge=0,
        description="A run ends when the targets of different tokens vary less than this for 20 updates in a row: the "
        "teacher then says the same of everything. 0: never.",
    )


class TeacherFeatures(Objective):
    """Hide tokens, predict a teacher's features of them.

    Raises:
        ValueError: an encoder with merges, more layers than it has, or blocks of something else than images.
    """

    name = "data2vec"
    domains = ("vision", "text", "graph")
    Options = Data2VecOptions
    predicts = "features"
    loss_unit = "smooth L1 a hidden value"
    measures: ClassVar[Mapping[str, Measure]] = {
        "explained": Measure(
            "explained share of the teacher's features", "Explained share of the teacher's features"
        )
    }
    headline = "explained"
    greater_is_better = True
    best = "explained"
    beside = {"mean_of_targets": "the mean of the targets"}

    def __init__(self, encoder_config: Any, labels: Labels | None = None, **options: Any) -> None:
        super().__init__(encoder_config, labels, **options)
        images = hasattr(encoder_config, "patch_size")
        if images:
            check_one_row_per_patch(self.name, encoder_config)
        elif self.options.mask_shape == "blocks":
            raise ValueError("objective.mask_shape: blocks are of patches; expected random, got blocks")
        if self.options.top_k > encoder_config.depth:
            raise ValueError(
                f"objective.top_k: expected at most the {encoder_config.depth} blocks of the encoder, got "
                f"{self.options.top_k}"
            )
        if self.options.ema_end < self.options.ema_start:
            raise ValueError(
                f"objective.ema_end: expected at least ema_start {self.options.ema_start}, got {self.options.ema_end}"
            )

    @property
    def note(self) -> str | None:
        """What has to be said beside pictures and figures."""
        return (
            "data2vec predicts features of a moving teacher: there is nothing to view, and the loss of one run cannot "
            "be compared with that of another; explained is the share of the variance of the targets"
        )

    def corrupt(self, sample: dict[str, Any], rng: np.random.Generator) -> dict[str, Any]:
        """Add `mask` bool, True = hidden and predicted: [h, w] over patches, [n] over tokens or nodes.

        Special tokens of text are never hidden; at least one token is, where there is one to hide.
        """
        options: Data2VecOptions = self.options
        if "image" in sample:
            p = self.encoder_config.patch_size
            grid = sample["image"].shape[1] // p, sample["image"].shape[2] // p
            if options.mask_shape == "blocks":
                count = int(math.prod(grid) * options.mask_ratio)
                mask = block_mask(grid, count, min(options.min_block, count), rng)
            else:
                mask = random_mask(np.ones(math.prod(grid), dtype=bool), options.mask_ratio, rng).reshape(
                    grid
                )
            return sample | {"mask": torch.from_numpy(mask)}
        may = ~sample["special"] if "special" in sample else np.ones(len(sample["nodes"]), dtype=bool)
        return sample | {"mask": random_mask(may, options.mask_ratio, rng)}

    def build_head(self) -> "TeacherHead":
        """The teacher and the layer that predicts its features."""
        return TeacherHead(self.encoder_config, self.options)

    def collect(self, batch: dict[str, Any], output: SignalOutput) -> dict[str, Tensor]:
        """Sums that `figures` needs: of squared errors, and of targets and their squares per feature."""
        assert output.prediction is not None
        error, target = output["squared_error"], output["target"].double()
        sums = torch.stack([target.sum(0), target.square().sum(0)])
        count = torch.full((1, 1), len(target), device=target.device).double()
        return {"sums": sums[None], "squared_error": error.double().view(1), "count": count}

    def figures(self, collected: dict[str, Tensor]) -> dict[str, float]:
        """explained: 1 - squared error / variance of the targets about their mean, which explains 0; target_std: the
        mean deviation of a feature over tokens."""
        total, square = collected["sums"].sum(0)
        count = float(collected["count"].sum())
        spread = square - total.square() / max(count, 1)
        variance = float(spread.clamp(min=0).sum())
        explained = 1 - float(collected["squared_error"].sum()) / max(variance, 1e-12)
        deviation = float((spread.clamp(min=0) / max(count, 1)).sqrt().mean())
        return {"explained": explained, "mean_of_targets": 0.0, "target_std": deviation}


def random_mask(may: np.ndarray, ratio: float, rng: np.random.Generator) -> np.ndarray:
    """bool [n]: this share, rounded, of the tokens that may be hidden (bool [n]), at least one if there is any."""
    places = np.flatnonzero(may)
    mask = np.zeros(len(may), dtype=bool)
    mask[rng.permutation(places)[: max(1, round(len(places) * ratio))]] = True
    return mask


@dataclass
class TeacherOutput(SignalOutput):
    """squared_error: scalar, summed over target values; target: [M, C] (both in eval mode only)."""

    squared_error: Tensor | None = None
    target: Tensor | None = None


class TeacherHead(nn.Module):
    """A teacher beside the encoder, and a linear layer behind it.

    Args:
        encoder_config: of both.
        options: `Data2VecOptions`.
    """

    updates: Tensor
    flat_updates: Tensor

    def __init__(self, encoder_config: Any, options: Data2VecOptions) -> None:
        super().__init__()
        self.options = options
        self.teacher = registry.make_encoder(encoder_config).requires_grad_(False)
        dim = encoder_config.num_features
        by_vector = bool(self.teacher.hides_by_vector)
        self.mask_token = nn.Parameter(torch.zeros(1, dim)) if by_vector else None
        self.predictor = nn.Linear(dim, dim)
        self.register_buffer("updates", torch.tensor(0))
        self.register_buffer("flat_updates", torch.tensor(0))
        self.variance: Tensor | None = None  # of the last training batch
        if self.mask_token is not None:
            nn.init.trunc_normal_(self.mask_token, std=0.02)
        nn.init.trunc_normal_(self.predictor.weight, std=0.02)
        nn.init.zeros_(self.predictor.bias)
        self._begun = False

    def forward(
        self, encoder: BlockEncoder, plans: Any, mask: Tensor | None = None, **inputs: Any
    ) -> SignalOutput:
        """Encode with parts hidden, predict what the teacher makes of them.

        Args:
            encoder: the student.
            plans: the encoder's plans of the batch.
            mask: bool [T] over tokens, True = hidden and predicted; None hides nothing and sums nothing.
            inputs: what the encoder embeds.

        Returns:
            loss_sum: smooth L1 summed over values; num_targets: how many; prediction: [T, 1], the mean squared error of
            every hidden token, 0 elsewhere; in eval mode also squared_error and target.
        """
        self._begin(encoder)
        x = encoder.embed_tokens(inputs, plans, mask, self.mask_token)
        rows = encoder.token_rows(encoder.encode(x, plans), plans)
        places = torch.arange(0, device=rows.device) if mask is None else mask.nonzero().squeeze(1)
        guess = self.predictor(rows.index_select(0, places)).float()
        target = self.target(plans, places, inputs)
        if self.training and len(target) > 1:
            self.variance = target.var(0, correction=0).mean()
        beta = self.options.beta
        loss = F.smooth_l1_loss(guess, target, reduction="sum", beta=beta)
        error = (guess.detach() - target).square()
        shown = error.new_zeros(len(rows), 1).index_copy(0, places, error.mean(1, keepdim=True))
        output = TeacherOutput(
            loss_sum=loss, num_targets=torch.tensor(target.numel(), device=loss.device), prediction=shown
        )
        if not self.training:
            output.squared_error, output.target = error.sum(), target
        return output

    @torch.no_grad()
    def target(self, plans: Any, places: Tensor, inputs: dict[str, Any]) -> Tensor:
        """fp32 [M, C]: the mean of the teacher's last top_k blocks at these tokens, each row normalised first, and
        their mean once more with norm_mean."""
        self.teacher.eval()
        x = self.teacher.embed_tokens(inputs, plans, None, None)
        last = self.teacher.encode_blocks(x, plans)[-self.options.top_k :]
        rows = (self.teacher.token_rows(block, plans).index_select(0, places).float() for block in last)
        mean = torch.stack([F.layer_norm(row, row.shape[1:]) for row in rows]).mean(0)
        return F.layer_norm(mean, mean.shape[1:]) if self.options.norm_mean else mean

    def _begin(self, encoder: BlockEncoder) -> None:
        """The teacher starts as the student, whatever weights that started from."""
        if not self._begun:
            if int(self.updates) == 0:
                self._follow(encoder, 0.0)
            self._begun = int(self.updates) > 0

    @torch.no_grad()
    def _follow(self, encoder: BlockEncoder, stays: float) -> None:
        torch._foreach_lerp_(
            list(self.teacher.parameters()), [p.detach() for p in encoder.parameters()], 1 - stays
        )

    @torch.no_grad()
    def after_update(self, encoder: BlockEncoder) -> None:
        """Moves the teacher towards the student after an update of the optimizer.

        Raises:
            CollapseError: the targets have been the same for all tokens for PATIENCE updates.
        """
        options = self.options
        done = int(self.updates)
        part = min(done / options.ema_updates, 1.0)
        self._follow(encoder, options.ema_start + (options.ema_end - options.ema_start) * part)
        self.updates += 1
        if self.variance is None:
            return
        flat = float(self.variance) < options.min_target_variance
        self.flat_updates.fill_(int(self.flat_updates) + 1 if flat else 0)
        if int(self.flat_updates) >= PATIENCE:
            raise CollapseError(
                f"update {done + 1}: the targets have collapsed: the teacher's features of different tokens vary by "
                f"{float(self.variance):.2g}, less than objective.min_target_variance={options.min_target_variance:g}, "
                f"in the last {PATIENCE} updates, so there is nothing to learn; lower train.learning_rate, raise "
                "objective.ema_start, or lengthen the warm-up"
            )
