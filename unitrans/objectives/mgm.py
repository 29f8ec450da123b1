"""Masked graph modelling: hide nodes and the edges at them, predict what they were.

A hidden node keeps its place in the graph (degree, distances) and loses all its features; a hidden edge stays an edge
and loses its features (Hu et al., ICLR 2020, arXiv:1905.12265, section 3.1.2, for attribute masking).
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

from unitrans.models._encoder import GraphEncoder
from unitrans.models.text import draw_head
from unitrans.nn import MASKED, Block, gather_rows
from unitrans.objectives.base import Measure, Objective, SignalOutput

#: Categories of the features of atoms and bonds, as OGB has them.
ATOMS = [119, 5, 12, 12, 10, 6, 6, 2, 2]
BONDS = [5, 6, 2]


class MgmOptions(pydantic.BaseModel):
    """The `objective` section of a run with mgm."""

    model_config = pydantic.ConfigDict(extra="forbid")

    mask_ratio: float = Field(0.15, gt=0, lt=1, description="Share of nodes that are hidden, rounded up.")
    mask_edges: Literal["incident", "none"] = Field(
        "incident", description="incident: edges at hidden nodes lose their features too, and are predicted."
    )
    edge_weight: float = Field(1.0, ge=0, description="Weight of the loss of an edge against that of a node.")
    encoder_tokens: Literal["all", "visible"] = Field(
        "all",
        description="all: the encoder sees hidden nodes without their features. visible: it does not see them at all, "
        "and a decoder of Blocks gets them back (distances and degrees are known in both).",
    )
    decoder_depth: int = Field(1, ge=1, description="Blocks of the decoder with encoder_tokens=visible.")
    node_categories: list[int] = Field(
        ATOMS, min_length=1, description="How many categories each feature of a node has."
    )
    edge_categories: list[int] = Field(
        BONDS, min_length=1, description="How many categories each feature of an edge has."
    )


class MaskedGraphModeling(Objective):
    """Hide nodes and edges of a graph, predict their categories."""

    name = "mgm"
    domains = ("graph",)
    predicts = "nodes"
    loss_unit = "nats a hidden node and edge"
    measures: ClassVar[Mapping[str, Measure]] = {
        "node_accuracy": Measure(
            "share of hidden nodes that are right",
            "Share of hidden nodes whose first feature (of atoms: the element) is predicted right",
        ),
        "edge_accuracy": Measure("share of hidden edges that are right"),
    }
    Options = MgmOptions
    metric_names = ("node_accuracy", "edge_accuracy")
    headline = "node_accuracy"
    greater_is_better = True

    def corrupt(self, sample: dict[str, Any], rng: np.random.Generator) -> dict[str, Any]:
        """Hide ceil(mask_ratio * n) nodes of a graph, and the edges at them.

        Adds `mask` bool [n] and `edge_mask` bool [e], True = hidden and predicted, `node_labels` and `edge_labels`,
        the features as they were; nodes and edge_attr hold MASKED where something is hidden.
        """
        options: MgmOptions = self.options
        nodes, edges = sample["nodes"], sample["edge_attr"]
        _check("node_categories", nodes, options.node_categories, sample["id"])
        _check("edge_categories", edges, options.edge_categories, sample["id"])
        mask = np.zeros(len(nodes), dtype=bool)
        mask[rng.permutation(len(nodes))[: math.ceil(len(nodes) * options.mask_ratio)]] = True
        edge_mask = mask[sample["edge_index"]].any(0)
        if options.mask_edges == "none":
            edge_mask[:] = False
        return sample | {
            "mask": mask,
            "edge_mask": edge_mask,
            "node_labels": nodes,
            "edge_labels": edges,
            "nodes": np.where(mask[:, None], MASKED, nodes),
            "edge_attr": np.where(edge_mask[:, None], MASKED, edges),
            **({"visible": ~mask} if options.encoder_tokens == "visible" else {}),
        }

    def build_head(self) -> "CategoryHead":
        """Classifiers of hidden nodes and edges."""
        options: MgmOptions = self.options
        return CategoryHead(
            self.encoder_config.num_features,
            options.node_categories,
            options.edge_categories,
            edge_weight=options.edge_weight,
            decoder=GraphDecoder(self.encoder_config, options.decoder_depth)
            if options.encoder_tokens == "visible"
            else None,
        )

    def metrics(self, batch: dict[str, Any], output: SignalOutput, scale: Tensor | None) -> dict[str, Tensor]:
        """How often the first feature (the element, the type of bond) of what is hidden is right."""
        assert output.prediction is not None
        nodes, edges = output.prediction, output["edge_prediction"]
        right = {
            "node_accuracy": nodes[batch["mask"]] == batch["node_labels"][batch["mask"], 0],
            "edge_accuracy": edges == batch["edge_labels"][:, 0],
        }
        return {name: torch.tensor([float(r.sum()), float(r.numel())]).double() for name, r in right.items()}


def _check(option: str, values: np.ndarray, categories: list[int], name: str) -> None:
    if values.shape[1] != len(categories):
        raise ValueError(
            f"objective.{option}: expected one number for each of {values.shape[1]} features, got {len(categories)}"
        )
    over = values.max(0, initial=0) >= np.array(categories)
    if over.any():
        feature = int(over.argmax())
        raise ValueError(
            f"objective.{option}: feature {feature} of {name} has the value {values[:, feature].max()}: expected at "
            f"least {values[:, feature].max() + 1} there, got {categories[feature]}"
        )


@dataclass
class GraphSignalOutput(SignalOutput):
    """edge_prediction: int64, the predicted first feature of every hidden edge."""

    edge_prediction: Tensor | None = None


class CategoryHead(nn.Module):
    """Predicts every feature of hidden nodes from their rows, of hidden edges from the rows at both ends.

    Args:
        num_features: C.
        node_categories, edge_categories: of each feature.
        edge_weight: of the loss of an edge.
        decoder: of graphs whose hidden nodes the encoder does not see; None: it sees all.
    """

    def __init__(
        self,
        num_features: int,
        node_categories: list[int],
        edge_categories: list[int],
        *,
        edge_weight: float,
        decoder: "GraphDecoder | None" = None,
    ) -> None:
        super().__init__()
        self.decoder = decoder
        self.node_categories, self.edge_categories = node_categories, edge_categories
        self.edge_weight = edge_weight
        self.node_out = nn.Linear(num_features, sum(node_categories))
        self.edge_out = nn.Linear(2 * num_features, sum(edge_categories))
        for layer in (self.node_out, self.edge_out):
            nn.init.normal_(layer.weight, std=0.02)
            nn.init.zeros_(layer.bias)

    def forward(
        self,
        encoder: GraphEncoder,
        nodes: Tensor,
        plans: Any,
        mask: Tensor | None = None,
        node_labels: Tensor | None = None,
        edge_ends: Tensor | None = None,
        edge_labels: Tensor | None = None,
    ) -> SignalOutput:
        """Encode, predict.

        Args:
            encoder: of graphs.
            nodes: int64 [T, F], MASKED where hidden.
            plans: the encoder's plans of the batch, with the hidden edges.
            mask: bool [T], hidden nodes; None: nothing is hidden, and nothing summed.
            node_labels: int64 [T, F], features as they were.
            edge_ends: int64 [2, M], nodes at both ends of every hidden edge.
            edge_labels: int64 [M, Fe].

        Returns:
            loss_sum: over hidden nodes and edges, for each the mean cross-entropy over its features; num_targets: how
            many there are; prediction: int64 [T], the most likely first feature of every node.
        """
        rows = (
            encoder.encode(self.enter(encoder, nodes, plans), plans)
            if self.decoder is None or plans.visible is None
            else self.decoder(encoder, nodes, plans)
        )
        return self.leave(encoder, rows, plans, mask, node_labels, edge_ends, edge_labels)

    def enter(self, encoder: GraphEncoder, nodes: Tensor, plans: Any) -> Tensor:
        """Rows [T', C] for the encoder; see `forward`."""
        return encoder.embed_kept(nodes, plans)

    @staticmethod
    def count(mask: Tensor | None = None, edge_labels: Tensor | None = None) -> int:
        """num_targets of a batch, before anything is computed."""
        return 0 if mask is None or edge_labels is None else int(mask.sum()) + edge_labels.shape[0]

    def leave(
        self,
        encoder: GraphEncoder,
        rows: Tensor,
        plans: Any,
        mask: Tensor | None = None,
        node_labels: Tensor | None = None,
        edge_ends: Tensor | None = None,
        edge_labels: Tensor | None = None,
    ) -> SignalOutput:
        """What is predicted from last rows [T', C] of whole graphs, and the loss; see `forward`."""
        rows = encoder.pooler(encoder.token_rows(rows, plans))
        logits = self.node_out(rows).float()
        prediction = logits[:, : self.node_categories[0]].argmax(1)
        if mask is None or node_labels is None or edge_ends is None or edge_labels is None:
            loss, count = logits.sum() * 0.0, prediction.new_zeros(())
            return GraphSignalOutput(loss_sum=loss, num_targets=count, prediction=prediction)
        edges = self.edge_out(rows[edge_ends].transpose(0, 1).flatten(1)).float()
        loss = cross_entropy_sum(logits[mask], node_labels[mask], self.node_categories)
        loss = loss + self.edge_weight * cross_entropy_sum(edges, edge_labels, self.edge_categories)
        return GraphSignalOutput(
            loss_sum=loss,
            num_targets=mask.sum() + edge_labels.shape[0],
            prediction=prediction,
            edge_prediction=edges[:, : self.edge_categories[0]].argmax(1),
        )


class GraphDecoder(nn.Module):
    """Blocks on whole graphs behind an encoder that saw the visible nodes: hidden ones come back as their degrees.

    The plan and the bias of pairs are those of the encoder, hidden nodes included.

    Args:
        encoder_config: of a Graphormer; width and heads are the same.
        depth: how many Blocks.
    """

    def __init__(self, encoder_config: Any, depth: int) -> None:
        super().__init__()
        dim, eps = encoder_config.num_features, encoder_config.layer_norm_eps
        self.embed = nn.Linear(dim, dim)
        self.blocks = nn.ModuleList(
            Block(dim, encoder_config.num_heads, mlp_ratio=encoder_config.mlp_ratio, eps=eps)
            for _ in range(depth)
        )
        self.norm = nn.LayerNorm(dim, eps=eps)
        draw_head(self)

    def forward(self, encoder: GraphEncoder, nodes: Tensor, plans: Any) -> Tensor:
        """nodes int64 [T, F], MASKED where hidden -> rows [T', C] of whole graphs."""
        whole = encoder.embed(nodes, plans)
        seen = self.embed(encoder.encode(gather_rows(whole, plans.visible), plans))
        hidden = plans.visible.inverse < 0
        x = torch.where(hidden[:, None], whole, gather_rows(seen, plans.visible.inverted()))
        bias = encoder.bias(plans)
        for block in self.blocks:
            x = block(x, plans.groups, bias)
        return self.norm(x)


def cross_entropy_sum(logits: Tensor, labels: Tensor, categories: list[int]) -> Tensor:
    """Summed over rows, the mean over features. logits: [M, sum of categories]; labels: int64 [M, features]."""
    parts = zip(logits.split(categories, dim=1), labels.unbind(1), strict=True)
    total = sum(
        (F.cross_entropy(part, label, reduction="sum") for part, label in parts), logits.new_zeros(())
    )
    return total / len(categories)
