"""Masked signal modelling: in one batch hide parts of images, texts and graphs, and predict each by its own head.

The loss is the weighted sum of the domains' mean losses, each mean over all targets of the update. As a loss is summed
over micro-batches and divided by all targets afterwards, a target of domain d counts weight_d * N / N_d, where N_d of
the N targets of the update are its own: these numbers have to be known before the first micro-batch is computed.
"""

import inspect
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, ClassVar

import numpy as np
import pydantic
import torch
from pydantic import Field
from torch import Tensor, nn

from unitrans.objectives.base import Labels, Measure, Objective, SignalOutput

#: The objectives whose heads say what goes into the blocks and what comes out of them, by domain; the first by default.
TRAVELLERS = {"vision": ("mim", "mae"), "text": ("mlm", "clm"), "graph": ("mgm",)}


class MsmOptions(pydantic.BaseModel):
    """The `objective` section of a run with msm."""

    model_config = pydantic.ConfigDict(extra="forbid")

    weights: dict[str, float] = Field(
        {},
        description="Weight of every domain's mean loss in the loss, as {text: 2.0}; 1 where none is given.",
    )
    vision: dict[str, Any] | None = Field(None, description="What is hidden in images: its name and options.")
    text: dict[str, Any] | None = Field(None, description="What is hidden in texts: its name and options.")
    graph: dict[str, Any] | None = Field(None, description="What is hidden in graphs: its name and options.")


@dataclass
class JointOutput(SignalOutput):
    """parts: what the head of every domain in the batch returned, losses without their weights."""

    parts: dict[str, SignalOutput] | None = None


class MaskedSignalModeling(Objective):
    """An objective for every domain of a joint model.

    Args:
        encoder_config: a `JointConfig`.
        options: as in `MsmOptions`.

    Attributes:
        parts: the objectives, by domain.
        weights: of their mean losses.

    Raises:
        ValueError: another model; an objective that cannot travel with others; weights that are no weights.
    """

    name = "msm"
    domains = ("vision", "text", "graph")
    joint = True
    loss_unit = "weighted sum over the domains"
    Options: ClassVar[type[pydantic.BaseModel]] = MsmOptions

    def __init__(self, encoder_config: Any, labels: Labels | None = None, **options: Any) -> None:
        from unitrans.objectives.registry import make_objective

        super().__init__(encoder_config, labels, **options)
        if not hasattr(encoder_config, "parts"):
            raise ValueError(
                f"objective msm: expected the model joint, got {encoder_config.model_type.removeprefix('unitrans-')}"
            )
        self.parts: dict[str, Objective] = {}
        for domain, config in encoder_config.parts.items():
            given = dict(getattr(self.options, domain) or {})
            name = given.pop("name", TRAVELLERS[domain][0])
            check_traveller(domain, name, given)
            self.parts[domain] = make_objective(name, config, given)
        self.weights = {domain: float(self.options.weights.get(domain, 1.0)) for domain in self.parts}
        unknown = sorted(self.options.weights.keys() - self.parts.keys())
        if unknown or min(self.weights.values()) < 0 or not any(self.weights.values()):
            raise ValueError(
                f"objective.weights: expected numbers of 0 or more for {', '.join(self.parts)}, not all 0, got "
                f"{self.options.weights}"
            )
        self.metric_names = tuple(
            f"{d}_{name}" for d, part in self.parts.items() for name in part.metric_names
        )

    @classmethod
    def measure(cls, figure: str, options: Mapping[str, Any] = MappingProxyType({})) -> Measure:
        """That of the objective of the domain whose name is in front."""
        from unitrans.objectives.registry import get_objective

        domain, _, own = figure.partition("_")
        if domain not in TRAVELLERS or not own:
            return super().measure(figure, options)
        given = options.get(domain)
        name = given.get("name") if isinstance(given, Mapping) else None
        return get_objective(name or TRAVELLERS[domain][0]).measure(own)

    def corrupt(self, sample: dict[str, Any], rng: np.random.Generator) -> dict[str, Any]:
        """As the objective of the sample's domain."""
        return self.parts[sample["domain"]].corrupt(sample, rng)

    def build_head(self) -> "JointHead":
        """The heads of all domains."""
        heads = {domain: part.build_head() for domain, part in self.parts.items()}
        return JointHead(heads, self.weights)

    def target_weights(self, targets: Mapping[str, int]) -> dict[str, float]:
        """What a target of every domain counts in an update with so many targets: weight_d * N / N_d."""
        total = sum(targets.values())
        return {d: self.weights[d] * total / count for d, count in targets.items() if count}

    def metrics(self, batch: dict[str, Any], output: SignalOutput, scale: Any) -> dict[str, Tensor]:
        """Those of every domain, its name in front; nothing is added up of one that is not in the batch.

        scale: by domain.
        """
        assert isinstance(output, JointOutput) and output.parts is not None
        found = {name: torch.zeros(2, dtype=torch.float64) for name in self.metric_names}
        for domain, part in output.parts.items():
            values = self.parts[domain].metrics(batch[domain], part, (scale or {}).get(domain))
            found |= {f"{domain}_{name}": value for name, value in values.items()}
        return found

    def collect(self, batch: dict[str, Any], output: SignalOutput) -> dict[str, Tensor]:
        """The loss and the targets of every domain in the batch, and what its own objective collects."""
        assert isinstance(output, JointOutput) and output.parts is not None
        found = {}
        for domain, part in output.parts.items():
            assert part.loss_sum is not None and part.num_targets is not None
            sums = torch.stack([part.loss_sum.detach().double(), part.num_targets.double()])
            found[f"{domain}.sums"] = sums[None]
            kept = self.parts[domain].collect(batch[domain], part)
            found |= {f"{domain}.own.{key}": value for key, value in kept.items()}
        return found

    def figures(self, collected: dict[str, Tensor]) -> dict[str, float]:
        """loss: the weighted sum of the mean losses, which are there with the name of their domain in front, as are
        the figures of every domain. A domain without samples is left out."""
        found = {}
        for domain, part in self.parts.items():
            if f"{domain}.sums" not in collected:
                continue
            loss, count = collected[f"{domain}.sums"].sum(0).tolist()
            found[f"{domain}_loss"] = loss / max(count, 1)
            start = f"{domain}.own."
            own = {key.removeprefix(start): v for key, v in collected.items() if key.startswith(start)}
            found |= {f"{domain}_{name}": v for name, v in (part.figures(own) if own else {}).items()}
        losses = (self.weights[d] * found[f"{d}_loss"] for d in self.parts if f"{d}_loss" in found)
        return {"loss": sum(losses)} | found


def check_traveller(domain: str, name: Any, options: Mapping[str, Any]) -> None:
    """ValueError for an objective that cannot travel with others."""
    if name not in TRAVELLERS[domain]:
        raise ValueError(
            f"objective.{domain}.name: expected {' or '.join(TRAVELLERS[domain])}, which can travel with others, got "
            f"{name!r}"
        )
    if name == "mgm" and options.get("encoder_tokens", "all") != "all":
        raise ValueError(
            f"objective.{domain}.encoder_tokens: expected all in a joint run, got {options['encoder_tokens']}"
        )


class JointHead(nn.Module):
    """The heads of several domains, in front of and behind the blocks that they share.

    Args:
        heads: by domain; each has enter(encoder, ...) -> rows, leave(encoder, rows, ...) -> SignalOutput
            and count(...).
        weights: of the mean losses.
    """

    def __init__(self, heads: Mapping[str, nn.Module], weights: Mapping[str, float]) -> None:
        super().__init__()
        self.heads: Any = nn.ModuleDict(dict(heads))
        self.weights = dict(weights)

    def forward(
        self, encoder: Any, target_weights: Mapping[str, float] | None = None, **batches: dict[str, Any]
    ) -> JointOutput:
        """Hide, encode together, predict apart.

        Args:
            encoder: a `JointModel`.
            target_weights: see `MaskedSignalModeling.target_weights`; None: the weights of the losses.
            batches: of every domain that is there, what its own head takes.

        Returns:
            loss_sum: of all domains, every target with its weight; num_targets: of all domains.
        """
        weights = self.weights if target_weights is None else target_weights
        entered = {
            d: (self.heads[d].enter(encoder.parts[d], **_taken(self.heads[d].enter, batch)), batch["plans"])
            for d, batch in batches.items()
        }
        rows = encoder.encode(entered)
        parts = {
            d: self.heads[d].leave(encoder.parts[d], rows[d], **_taken(self.heads[d].leave, batch))
            for d, batch in batches.items()
        }
        zero = next(iter(rows.values())).new_zeros(())
        losses = [part.loss_sum * weights.get(d, 0.0) for d, part in parts.items()]
        if self.training:  # processes have to agree on which parameters have gradients
            losses += [
                p.sum() * 0.0
                for d in self.heads
                if d not in batches
                for module in (encoder.parts[d], self.heads[d])
                for p in module.parameters()
                if p.requires_grad
            ]
        count = torch.stack([part.num_targets.long().reshape(()) for part in parts.values()]).sum()
        return JointOutput(loss_sum=sum(losses, zero.float()), num_targets=count, parts=parts)

    def count(self, batches: Mapping[str, dict[str, Any]]) -> dict[str, int]:
        """Targets of every domain in a batch, before anything is computed."""
        heads = self.heads.items()
        return {d: head.count(**_taken(head.count, batches[d])) if d in batches else 0 for d, head in heads}


def _taken(function: Any, batch: Mapping[str, Any]) -> dict[str, Any]:
    """What a function takes of a batch by name."""
    names = inspect.signature(function).parameters
    return {key: value for key, value in batch.items() if key in names}
