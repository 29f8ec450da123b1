"""Graphs: molecules from tables and SDF files, data sets of PyG and OGB, packed into one stream of nodes."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from unitrans.data.intervals import bootstrap
from unitrans.data.table import Kind, Table
from unitrans.domains.base import Baseline, Batch, Domain, Sample, stack_labels, summarise
from unitrans.domains.graph import baselines as predictors
from unitrans.domains.graph import chemistry, config
from unitrans.domains.graph.reading import EMBEDDED, MOLECULE_NAMES, line_kind
from unitrans.domains.graph.source import GraphSource, open_sources, write_held_out
from unitrans.domains.graph.unseen import Read, file_of_graphs, molecule_reader
from unitrans.domains.kept import Kept
from unitrans.objectives.answers import answers, choose, in_units
from unitrans.objectives.base import LabelKind
from unitrans.ops.graphs import UNREACHABLE

MAX_PICTURES = 16


class GraphDomain(Domain):
    """Graphs. A token is a node, or the token of a graph; see ``unitrans.domains.base.Domain``."""

    name = "graph"
    default_objective = "mgm"
    DataConfig = config.DataConfig
    embedded = frozenset(EMBEDDED)
    warns = True
    judges = frozenset({"nodes", "classes", "answers", "values"})

    def open(
        self, data: config.DataConfig, model_config: Any, seed: int, label_kinds: Sequence[LabelKind] = ()
    ) -> tuple[GraphSource, GraphSource | None]:
        """The graphs to train on and those that choose the checkpoint; those that judge it are the `test` of both.

        The split follows from data.split_seed, not from ``seed``.
        """
        return self.reopen(data, model_config, seed, label_kinds, None)

    def reopen(
        self,
        data: config.DataConfig,
        model_config: Any,
        seed: int,
        label_kinds: Sequence[LabelKind],
        kept: Kept | None,
    ) -> tuple[GraphSource, GraphSource | None]:
        """See ``unitrans.domains.base.Domain``: with the labels it had, and the molecules held out that were."""
        train, validation = open_sources(data, label_kinds, kept=kept)
        nodes = train.table.nodes
        model_config.check_nodes(torch.from_numpy(np.stack([nodes.min(0), nodes.max(0)]).astype(np.int64)))
        return train, validation

    def extremes(self, source: GraphSource, model_config: Any) -> Sequence[int]:
        """The graphs with the largest categories and degrees; all, where the model's table of distances is small."""
        if model_config.num_spatial < UNREACHABLE + 2:
            return range(len(source))
        return source.extremes()

    def resumed(
        self, data: Mapping[str, Any], model: Mapping[str, Any], run: Path
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        """The sections ``data`` and ``model`` of a run that goes on: atoms as they were given, where the run is of an
        earlier version, which knew no other order."""
        told = "atom_order:" in (run / "config.yaml").read_text(encoding="utf-8")
        return dict(data) if told else {**data, "atom_order": "given"}, dict(model)

    def check_sample(self, sample: Sample, model_config: Any) -> None:
        """See ``unitrans.domains.base.Domain``: its atoms, bonds, degrees and distances have rows in the tables."""
        model_config.check_graph(sample["nodes"], sample["edge_index"], sample["edge_attr"])

    def keep(self, run: Path, source: GraphSource) -> None:
        """Writes which graphs are held out, where that follows from all that there are."""
        write_held_out(run, source)

    def collate(self, samples: Sequence[Sample | None], model_config: Any) -> Batch | None:
        """Packs graphs into one stream of nodes.

        Returns {"nodes": int64 [T, F], "plans", "sample_ids", "num_skipped", "labels" of samples with labels, and of
        corrupted ones "mask" bool [T], "node_labels" int64 [T, F], "edge_ends" int64 [2, M] and "edge_labels" int64
        [M, Fe] of hidden edges}, or None when no sample is left.
        """
        good = [sample for sample in samples if sample is not None]
        if not good:
            return None
        sizes = [len(sample["nodes"]) for sample in good]
        nodes = torch.from_numpy(np.concatenate([sample["nodes"] for sample in good]))
        model_config.check_nodes(nodes)
        batch: Batch = {
            "nodes": nodes,
            "plans": model_config.plans(
                sizes,
                [sample["edge_index"].shape[1] for sample in good],
                np.concatenate([sample["edge_index"] for sample in good], axis=1),
                np.concatenate([sample["edge_attr"] for sample in good]),
            ),
            "sample_ids": [sample["id"] for sample in good],
            "num_skipped": len(samples) - len(good),
            **stack_labels(good),
        }
        if "visible" in good[0]:
            seen = torch.from_numpy(np.concatenate([sample["visible"] for sample in good]))
            batch["plans"] = batch["plans"].keeping(seen)
        if "mask" in good[0]:
            batch["mask"] = torch.from_numpy(np.concatenate([sample["mask"] for sample in good]))
        if "node_labels" in good[0]:
            starts = np.cumsum([0, *sizes[:-1]])
            ends = [
                (sample["edge_index"] + start)[:, sample["edge_mask"]]
                for sample, start in zip(good, starts, strict=True)
            ]
            parts = {
                "node_labels": np.concatenate([sample["node_labels"] for sample in good]),
                "edge_ends": np.concatenate(ends, axis=1),
                "edge_labels": np.concatenate([s["edge_labels"][s["edge_mask"]] for s in good]),
            }
            batch |= {key: torch.from_numpy(value) for key, value in parts.items()}
        return batch

    def baselines(
        self,
        train_source: GraphSource,
        validation_source: GraphSource,
        objective: Any,
        model_config: Any,
        rng_for: Callable[[str], np.random.Generator],
    ) -> list[Baseline]:
        """Simple predictors of the label, or of hidden nodes; see ``unitrans.domains.graph.baselines``."""
        if objective.predicts == "nodes":
            return predictors.hidden_nodes(train_source, validation_source, objective, rng_for)
        if objective.predicts == "values":
            return predictors.regression(train_source, validation_source)
        return predictors.classification(train_source, validation_source, objective.headline)

    def report(
        self,
        directory: Path,
        source: GraphSource,
        samples: Sequence[Sample],
        predictions: Sequence[torch.Tensor],
        objective: Any,
        model_config: Any,
    ) -> list[Path]:
        """molecules.png: held-out molecules with what was predicted of them, or of their hidden atoms."""
        if (
            not source.molecules
            or source.reading["featuriser"] not in chemistry.ORDERS.values()
            or not samples
        ):
            return []  # nothing that RDKit could draw
        from unitrans.domains.graph import pictures

        path = Path(directory) / "molecules.png"
        chosen = list(zip(samples, predictions, strict=True))[:MAX_PICTURES]
        if objective.predicts == "nodes":
            drawn, captions = pictures.masked_pictures(
                [sample for sample, _ in chosen], [predicted.numpy() for _, predicted in chosen]
            )
        else:
            drawn = [pictures.molecule_picture(pictures.molecule_of(sample)) for sample, _ in chosen]
            captions = [_caption(sample, predicted, objective) for sample, predicted in chosen]
        pictures.draw_molecules(path, drawn, captions)
        return [path]

    def details(
        self, directory: Path, part: str, collected: Mapping[str, torch.Tensor], objective: Any
    ) -> tuple[list[Path], dict[str, Any]]:
        """Of all predictions for a held-out part: 95 % intervals of the figures, and for numbers those of every target
        and a parity plot.

        Args:
            part: "validation" or "test".
            collected: what `objective.collect` gave, all samples together.
        """
        if not collected:
            return [], {}
        intervals = bootstrap(objective.figures, collected)
        if objective.predicts != "values":
            return [], {"intervals": intervals}
        from unitrans.domains.graph.pictures import draw_parity

        labels = objective.labels
        predicted, truth = (in_units(labels, collected[key]) for key in ("predicted", "label"))
        lines, targets = [], {}
        for k, name in enumerate(labels.names):
            known = np.isfinite(truth[:, k])
            error = predicted[known, k] - truth[known, k]
            mae, rmse = float(np.abs(error).mean()), float(np.sqrt(np.square(error).mean()))
            targets[name] = {"mae": mae, "rmse": rmse, "samples": int(known.sum())}
            lines.append(f"MAE {mae:.4g}, RMSE {rmse:.4g}, {known.sum():,} {part}")
        path = Path(directory) / ("parity.png" if part == "validation" else f"parity-{part}.png")
        draw_parity(path, labels.names, predicted, truth, lines)
        return [path], {"intervals": intervals, "targets": targets}

    def record_reader(
        self, names: Sequence[str], reading: Mapping[str, Any], column: str | None
    ) -> Callable[[Mapping[str, Any]], Sample]:
        """How rows of a table become samples to predict.

        Args:
            names: columns of the table.
            reading: of the checkpoint; see `MaskedSignalConfig`.
            column: with the SMILES; None: that of the training data, else the one named like it.

        Returns:
            A function from a row to a sample without id; it raises ValueError with the reason for a row that cannot be
            read.
        """
        return molecule_reader(names, reading, column)

    def opened(self, path: Path, reading: Mapping[str, Any]) -> tuple[Table, Read] | None:
        """See ``unitrans.domains.base.Domain``: SDF files and saved lists of PyG graphs."""
        return file_of_graphs(path, reading)

    def line_kind(self, first: str) -> Kind:
        """See ``unitrans.domains.base.Domain``: a header names a column of SMILES."""
        return line_kind(first)

    def known_columns(self, reading: Mapping[str, Any]) -> list[str | None]:
        """Names that the header of a table has which is read as the training data were."""
        return [*MOLECULE_NAMES, reading["smiles_column"], *reading["targets"]]

    def summary(self, metrics: Mapping[str, float], baselines: Sequence[Baseline], objective: Any) -> str:
        """The model beside the simple predictors, as a table and one sentence."""
        return summarise(metrics, baselines, objective, "graphs")


def _caption(sample: Sample, predicted: torch.Tensor, objective: Any) -> str:
    """What was predicted, and what is true, of one molecule."""
    labels = objective.labels
    said = answers(labels, predicted.reshape(-1))
    if labels.kind == "class":
        best = choose(labels, said)
        return f"{best.name} ({best.probability:.0%}), true {labels.names[int(sample['label'])]}"
    truths = np.asarray(sample["label"], dtype=float).reshape(-1)
    truths, shown = in_units(labels, truths) if labels.kind == "value" else truths, said.tolist()
    first = list(zip(labels.names, shown, truths, strict=True))[:2]
    return "\n".join(f"{name[:24]}: {value:.3g}, true {truth:.3g}" for name, value, truth in first)
