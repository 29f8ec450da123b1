"""A kind of signal that is not part of the package: time series. A model, a domain and an objective for it."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pydantic
import torch
from torch import Tensor, nn
from transformers import PreTrainedConfig, PreTrainedModel

from unitrans import Plan
from unitrans.data.splits import split
from unitrans.domains import Domain, Source, register_domain
from unitrans.models.registry import register_model
from unitrans.nn import Block, RelativePositionBias
from unitrans.objectives import Objective, SignalOutput, register_objective

# ---------------------------------------------------------------- the model: embedding, Blocks, norm; groups and planes


class SeriesConfig(PreTrainedConfig):
    """A series in pieces of equal length.

    Attributes:
        piece: values of one token.
        max_pieces: tokens of the longest series.
        embed_dim: channels.
        depth: blocks.
        num_heads: heads of each block.
    """

    model_type = "toy-series"
    piece: int = 4
    max_pieces: int = 32
    embed_dim: int = 32
    depth: int = 2
    num_heads: int = 2

    @property
    def num_features(self) -> int:
        return self.embed_dim

    def plans(self, lengths: Sequence[int]) -> Plan:
        """One group per series; all of them read the plane of relative positions."""
        return Plan.from_lengths(lengths, bias=self.max_pieces)


class SeriesModel(PreTrainedModel):
    config_class = SeriesConfig
    input_names = ("values", "plans")  # what a batch has for it, the packed rows first

    def __init__(self, config: SeriesConfig) -> None:
        super().__init__(config)
        self.embed = nn.Linear(config.piece, config.embed_dim)
        self.blocks = nn.ModuleList(
            Block(
                config.embed_dim,
                config.num_heads,
                position_bias=RelativePositionBias((config.max_pieces,), config.num_heads),
            )
            for _ in range(config.depth)
        )
        self.norm = nn.LayerNorm(config.embed_dim)
        self.post_init()

    def forward(self, values: Tensor, plans: Plan) -> Tensor:
        """values [T, piece] -> rows [T, C]."""
        x = self.embed(values)
        for block in self.blocks:
            x = block(x, plans)
        return self.norm(x)

    def _init_weights(self, module: nn.Module) -> None:
        """As torch and the Blocks initialise them."""

    def no_weight_decay(self) -> set[str]:
        return set()

    def no_weight_decay_keywords(self) -> tuple[str, ...]:
        return ("relative_position_bias_table",)


register_model("series", config=SeriesConfig, model=SeriesModel)

# ---------------------------------------------------------------- the domain: files -> samples -> packed batches


class SeriesSource(Source):
    """Rows of a table of numbers, each cut into pieces."""

    def __init__(self, rows: dict[str, Tensor]) -> None:
        super().__init__(list(rows))
        self.rows = list(rows.values())
        self.num_tokens = [len(row) for row in self.rows]

    def load(self, index: int) -> dict[str, Any]:
        return {"id": self.ids[index], "values": self.rows[index]}

    def augment(self, sample: dict[str, Any], rng: np.random.Generator, training: bool) -> dict[str, Any]:
        return sample | {"values": sample["values"] * rng.uniform(0.8, 1.2)} if training else sample


@register_domain
class SeriesDomain(Domain):
    name = "series"
    default_objective = "hidden_pieces"

    def open(self, data: Any, model_config: Any, seed: int, label_kinds: Any = ()) -> tuple[Any, Any]:
        if not Path(data.path).is_file():
            raise ValueError(f"data.path: expected a .npy file, got {data.path!r}, which is not there")
        table = torch.from_numpy(np.load(data.path)).float()
        rows = {str(number): values.view(-1, model_config.piece) for number, values in enumerate(table)}
        parts = split(list(rows), data.validation)
        return tuple(SeriesSource({str(number): rows[str(number)] for number in part}) for part in parts)

    def collate(self, samples: Sequence[Any], model_config: Any) -> dict[str, Any] | None:
        good = [sample for sample in samples if sample is not None]
        if not good:
            return None
        return {
            "values": torch.cat([sample["values"] for sample in good]),
            "mask": torch.cat([sample["mask"] for sample in good]),
            "plans": model_config.plans([len(sample["values"]) for sample in good]),
            "sample_ids": [sample["id"] for sample in good],
            "num_skipped": len(samples) - len(good),
        }


# ---------------------------------------------------------------- the objective: hide pieces, predict their values


class Options(pydantic.BaseModel):
    mask_ratio: float = pydantic.Field(0.3, description="The part of the pieces that is hidden.")


@register_objective
class HiddenPieces(Objective):
    name, domains, Options = "hidden_pieces", ("series",), Options
    metric_names, headline = ("error", "of_mean"), "error"
    beside = {"of_mean": "the mean, 0"}

    def corrupt(self, sample: dict[str, Any], rng: np.random.Generator) -> dict[str, Any]:
        n = len(sample["values"])
        mask = torch.zeros(n, dtype=torch.bool)
        mask[rng.permutation(n)[: max(1, round(self.options.mask_ratio * n))]] = True
        return sample | {"mask": mask}

    def build_head(self) -> nn.Module:
        return Head(self.encoder_config.num_features, self.encoder_config.piece)

    def metrics(self, batch: Any, output: SignalOutput, scale: Any) -> dict[str, Tensor]:
        truth, guess = batch["values"][batch["mask"]], output.prediction[batch["mask"]]
        count = torch.tensor(truth.numel())
        return {
            "error": torch.stack([(truth - guess).abs().sum(), count]).double(),
            "of_mean": torch.stack([truth.abs().sum(), count]).double(),
        }


class Head(nn.Module):
    def __init__(self, dim: int, piece: int) -> None:
        super().__init__()
        self.out = nn.Linear(dim, piece)

    def forward(self, encoder: Any, values: Tensor, plans: Plan, mask: Tensor) -> SignalOutput:
        guess = self.out(encoder(torch.where(mask[:, None], 0.0, values), plans))
        loss = (guess - values)[mask].square().sum()
        return SignalOutput(
            loss_sum=loss, num_targets=mask.sum() * values.shape[1], prediction=guess.detach()
        )
