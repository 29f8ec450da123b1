"""An objective that is not part of the package: predict the mean brightness of hidden patches."""

from typing import Any

import numpy as np
import pydantic
import torch
from torch import Tensor, nn

from unitrans.objectives import Objective, SignalOutput, register_objective


class Options(pydantic.BaseModel):
    hidden: int = 6


@register_objective
class PatchMeans(Objective):
    name = "patch_means"
    domains = ("vision",)
    Options = Options
    metric_names = ("error", "of_mean")
    headline = "error"
    beside = {"of_mean": "the mean of all pixels"}

    def corrupt(self, sample: dict[str, Any], rng: np.random.Generator) -> dict[str, Any]:
        h, w = (side // self.encoder_config.patch_size for side in sample["image"].shape[1:])
        mask = torch.zeros(h * w, dtype=torch.bool)
        mask[rng.permutation(h * w)[: self.options.hidden]] = True
        return sample | {"mask": mask.view(h, w)}

    def build_head(self) -> nn.Module:
        return Head(self.encoder_config.num_features)

    def metrics(self, batch: dict[str, Any], output: SignalOutput, scale: Tensor | None) -> dict[str, Tensor]:
        truth, guess = batch["patches"].mean(1)[batch["mask"]], output.prediction[batch["mask"]]
        return {
            "error": torch.stack([(truth - guess).abs().sum(), torch.tensor(len(truth))]).double(),
            "of_mean": torch.stack([truth.abs().sum(), torch.tensor(len(truth))]).double(),
        }


class Head(nn.Module):
    def __init__(self, dim: int) -> None:
        super().__init__()
        self.out = nn.Linear(dim, 1)

    def forward(self, encoder: Any, patches: Tensor, plans: Any, mask: Tensor) -> SignalOutput:
        rows = encoder.encode(encoder.embed(torch.where(mask[:, None], 0.0, patches)), plans)
        rows = encoder.token_rows(rows, plans)
        guess = self.out(rows).squeeze(1)
        loss = (guess - patches.mean(1)).square()[mask].sum()
        return SignalOutput(loss_sum=loss, num_targets=mask.sum(), prediction=guess.detach())
