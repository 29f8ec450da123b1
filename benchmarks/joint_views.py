"""What the models of `benchmarks.joint` are like inside: likeness of their layers, and how far their heads look.

Held-out samples without anything hidden, those of one domain at a time (in a joint model they come out the same in
company). "Layer" 0 is the rows in front of the blocks, layer i those behind block i.

- Two models, one domain: linear CKA (Kornblith et al., ICML 2019, equation 3) of the same rows in both models. Beside
  it the same figure for two seeds of the run alone: how alike two runs are that share neither weights nor masks.
- Two domains, one model: there are no pairs of a digit and a molecule, so rows cannot be compared. What can be is how
  channels go together: linear CKA with channels as the items, that is of the centred C x C covariances of the rows of
  both domains, 1 where both vary along the same directions of the stream. Beside it the same figure for two models of
  one domain each, of one seed (whose fresh weights were the same) and of different seeds (none in common).
- Distance of a head: the mean distance between a row and what it looks at, weighted by attention: px, tokens, bonds of
  a shortest path (graph token and unreachable atoms left out). Beside it that of uniform attention.
"""

from collections.abc import Iterator, Mapping, Sequence
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from benchmarks.joint import DOMAINS, joint_config
from unitrans import attention_maps
from unitrans.objectives import MaskedSignalModel
from unitrans.ops.graphs import UNREACHABLE
from unitrans.training.init import init_folder
from unitrans.training.session import Session, open_session

SAMPLES = 96  # of every domain
UNITS = {"vision": "px", "text": "tokens", "graph": "bonds"}


def cka(x: Tensor, y: Tensor) -> float:
    """Linear CKA of [n, A] and [n, B], rows paired."""
    x, y = (v.double() - v.double().mean(0) for v in (x, y))
    return float((x.T @ y).square().sum() / ((x.T @ x).norm() * (y.T @ y).norm()))


def channel_cka(x: Tensor, y: Tensor) -> float:
    """Linear CKA of [n, C] and [m, C] whose items are the C channels: of the covariances of their rows."""

    def covariance(v: Tensor) -> Tensor:
        v = v.double() - v.double().mean(0)
        return v.T @ v / v.shape[0]

    def centred(k: Tensor) -> Tensor:
        return k - k.mean(0) - k.mean(1, keepdim=True) + k.mean()

    a, b = centred(covariance(x)), centred(covariance(y))
    return float((a * b).sum() / (a.norm() * b.norm()))


def held_out_batches(session: Session) -> dict[str, dict[str, Any]]:
    """Held-out samples of every domain, whole, packed as its own encoder takes them."""
    found: dict[str, dict[str, Any]] = {}
    for domain, view in session.by_domain().items():
        source = view.validation_source
        assert source is not None
        chosen = np.linspace(0, len(source) - 1, min(SAMPLES, len(source))).astype(int)
        samples = [source.augment(source.load(i), np.random.default_rng(0), False) for i in chosen.tolist()]
        packed = view.domain.collate(samples, view.model_config)
        assert packed is not None
        found[domain] = packed
    return found


def layers_of(encoder: Any, batch: Mapping[str, Any], domain: str, joint: bool) -> list[Tensor]:
    """The rows [T, C] of a domain in front of the blocks and behind each of them."""
    part = encoder.parts[domain] if joint else encoder
    x = part.embed_tokens(batch, batch["plans"], None, None)
    first = part.enter(x, batch["plans"]).x
    if joint:
        return [first, *(rows[domain] for rows in encoder.encode_blocks({domain: (x, batch["plans"])}))]
    return [first, *encoder.encode_blocks(x, batch["plans"])]


def distances(batch: Mapping[str, Any], domain: str, config: Any) -> Iterator[tuple[Tensor, Tensor]]:
    """Of every group (an image, a document, a molecule) the distances [n, n] of its rows, and which pairs count."""
    plans = batch["plans"]
    sizes = plans.groups.cu_seqlens.diff().tolist()
    if domain == "vision":
        height, width = config.grid
        place = torch.cartesian_prod(torch.arange(height), torch.arange(width)).float() * config.patch_size
        whole = torch.cdist(place, place)
        assert set(sizes) == {len(place)}, "one row per patch"
        for _ in sizes:
            yield whole, torch.ones_like(whole, dtype=torch.bool)
    elif domain == "text":
        for size in sizes:
            at = torch.arange(size).float()
            away = (at[:, None] - at).abs()
            yield away, torch.ones_like(away, dtype=torch.bool)
    else:
        start = 0
        for size in sizes:
            atoms = size - 1
            bonds = plans.pairs.distance[start : start + atoms * atoms].reshape(atoms, atoms).float()
            start += atoms * atoms
            away = torch.zeros(size, size)
            away[1:, 1:] = bonds
            counts = torch.zeros(size, size, dtype=torch.bool)
            counts[1:, 1:] = bonds < UNREACHABLE
            yield away, counts


def head_distances(
    encoder: Any, batch: Mapping[str, Any], domain: str, joint: bool, config: Any
) -> tuple[list[list[float]], float]:
    """Mean attention distance [layers][heads] over all rows, and that of uniform attention."""
    with attention_maps(encoder) as maps:
        layers_of(encoder, batch, domain, joint)
    sums = torch.zeros(len(maps), maps[0].weights.shape[1], dtype=torch.float64)
    uniform, count = 0.0, 0
    for group, (away, counts) in enumerate(distances(batch, domain, config)):
        asked = counts.any(1)
        even = counts.double() / counts.sum(1, keepdim=True).clamp(min=1)
        uniform += float((even * away).sum())
        count += int(asked.sum())
        for layer, found in enumerate(maps):
            weights = found.group(group)[2].double() * counts
            weights = weights / weights.sum(-1, keepdim=True).clamp(min=1e-12)
            sums[layer] += (weights * away).sum((1, 2))
    return (sums / count).tolist(), uniform / count


@torch.no_grad()
def look(
    root: Path, seeds: Sequence[int], updates: int, settings: Sequence[str]
) -> Iterator[tuple[int, dict[str, Any]]]:
    """(seed, what `draw` shows) of the pretrained models of these seeds."""
    session = open_session(joint_config(seeds[0], updates, settings))
    batches = held_out_batches(session)
    models: dict[tuple[int, str], Any] = {}
    for seed in seeds:
        for name in ("joint", *(f"alone_{domain}" for domain in DOMAINS)):
            folder = init_folder(str(root / str(seed) / name))
            models[seed, name] = MaskedSignalModel.from_pretrained(folder).encoder.eval()
    rows = {
        (seed, kind, domain): layers_of(
            models[seed, "joint" if kind == "joint" else f"alone_{domain}"],
            batches[domain],
            domain,
            kind == "joint",
        )
        for seed in seeds
        for kind in ("joint", "alone")
        for domain in DOMAINS
    }
    for number, seed in enumerate(seeds):
        other = seeds[(number + 1) % len(seeds)]
        values: dict[str, Any] = {"same": {}, "between": {}, "distance": {}}
        for domain in DOMAINS:
            mine, alone = rows[seed, "joint", domain], rows[seed, "alone", domain]
            values["same"][domain] = {
                "joint and alone": [cka(a, b) for a, b in zip(mine, alone, strict=True)]
            }
            if other != seed:
                theirs = rows[other, "alone", domain]
                found = [cka(a, b) for a, b in zip(alone, theirs, strict=True)]
                values["same"][domain]["alone, two seeds"] = found
            values["distance"][domain] = {}
            for kind, name in (("joint", "joint"), ("alone", f"alone_{domain}")):
                found, even = head_distances(
                    models[seed, name],
                    batches[domain],
                    domain,
                    kind == "joint",
                    session.model_config.parts[domain],
                )
                values["distance"][domain] |= {kind: found, "uniform": even}
        for first, second in combinations(DOMAINS, 2):
            pairs = {
                "joint": (rows[seed, "joint", first], rows[seed, "joint", second]),
                "alone, same fresh weights": (rows[seed, "alone", first], rows[seed, "alone", second]),
            }
            if other != seed:
                pairs["alone, two seeds"] = (rows[seed, "alone", first], rows[other, "alone", second])
            values["between"][f"{first} and {second}"] = {
                name: [channel_cka(a, b) for a, b in zip(*pair, strict=True)] for name, pair in pairs.items()
            }
        yield seed, values


def draw(found: Sequence[Mapping[str, Any]], folder: Path) -> None:
    """joint-cka.png and joint-attention-distance.png from the rows of a result file."""
    views = [row for row in found if row["run"] == "views"]
    if not views:
        raise SystemExit("no views in this file: run python -m benchmarks.joint --views first")
    _draw_cka(views, folder / "joint-cka.png")
    _draw_distances(views, folder / "joint-attention-distance.png")


def _figure(rows: int, height: float) -> tuple[Any, Any]:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, height), dpi=130, layout="constrained")
    FigureCanvasAgg(figure)
    return figure, figure.subplots(rows, 3, sharey="row" if rows > 1 else False, squeeze=False)


def _draw_cka(views: Sequence[Mapping[str, Any]], file: Path) -> None:
    figure, axes = _figure(2, 5.6)
    for row, (kind, label) in enumerate(
        (
            ("same", "two models, one domain:\nCKA over rows"),
            ("between", "one model, two domains:\nCKA over channels"),
        )
    ):
        for column, (axis, name) in enumerate(zip(axes[row], views[0][kind], strict=True)):
            for line in views[0][kind][name]:
                values = np.array([view[kind][name][line] for view in views])
                layers = np.arange(values.shape[1])
                (drawn,) = axis.plot(layers, values.mean(0), marker="o", markersize=4, label=line)
                axis.fill_between(layers, values.min(0), values.max(0), color=drawn.get_color(), alpha=0.15)
            axis.set_title(name)
            axis.set_ylim(0, 1.02)
            axis.set_xticks(layers, ["rows in", *(f"block {n}" for n in layers[1:])])
            if column == 0:
                axis.set_ylabel(label)
        axes[row][0].legend(fontsize=8, loc="lower left" if kind == "same" else "upper right")
    figure.savefig(file)


def _draw_distances(views: Sequence[Mapping[str, Any]], file: Path) -> None:
    figure, axes = _figure(1, 3.4)
    for axis, domain in zip(axes[0], DOMAINS, strict=True):
        for side, kind in ((-0.12, "joint"), (0.12, "alone")):
            values = np.array([view["distance"][domain][kind] for view in views])  # [seeds, layers, heads]
            layers = values.shape[1]
            at = np.broadcast_to(np.arange(1, layers + 1)[None, :, None] + side, values.shape)
            axis.scatter(at, values, s=16, alpha=0.7, label=f"{kind} (a dot: a head of a seed)")
        even = float(np.mean([view["distance"][domain]["uniform"] for view in views]))
        axis.axhline(even, color="grey", linestyle="--", linewidth=1, label="uniform attention")
        axis.set_title(domain)
        axis.set_ylabel(f"mean attention distance, {UNITS[domain]}")
        axis.set_xticks(range(1, layers + 1), [f"block {n}" for n in range(1, layers + 1)])
        axis.set_xlim(0.5, layers + 0.5)
        axis.set_ylim(bottom=0)
    axes[0][0].legend(fontsize=7, loc="lower left")
    figure.savefig(file)
