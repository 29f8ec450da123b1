"""What stands in front of a step: graphs made ready, texts packed. Ours against the published way."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from benchmarks.compare import Make, Sides
from benchmarks.timm_import import Unavailable

PREPARING = "preparing a batch"


def graph_preprocessing(count: int, official: str | None = None) -> Sides:
    """From edges to a packed batch: degrees, distances, edges on paths, collation.

    official: a checkout of microsoft/Graphormer with its Cython compiled (see `benchmarks.graph`).
    """
    from benchmarks.graph import official_preprocessing, packed, zinc_like
    from benchmarks.graph_padded import collate, preprocess
    from unitrans.models import GraphormerConfig

    config, graphs = GraphormerConfig(), zinc_like(count, 0, outlier=False)

    def transcribed() -> object:
        return collate([preprocess(hops=config.multi_hop_max_dist, **graph) for graph in graphs])

    def compiled() -> Callable[[], object]:
        if official is None:
            raise Unavailable("it needs a checkout: python -m benchmarks.graph --official DIR")
        theirs = official_preprocessing(official)
        return lambda: theirs(graphs)

    peers: dict[str, tuple[str, Make]] = {
        "published, in NumPy": ("loader", lambda: transcribed),
        "published, Cython": ("loader", compiled),
    }
    ours: dict[str, Make] = {"loader": lambda: partial(packed, config, graphs)}
    return Sides(f"{count} molecules of ZINC's shape", ours, peers, count, "molecules")


def text_packing(count: int) -> Sides:
    """From token lists to a batch: ours joins them and makes the plan, theirs pads to the longest."""
    import torch

    from benchmarks.text import lengths_of, padded, texts_of
    from unitrans.models import BertConfig

    config = BertConfig()
    lengths = lengths_of(0, count)
    texts = texts_of(0, lengths.tolist(), config.vocab_size)

    def pack() -> object:
        ids, labels = (torch.cat(column) for column in zip(*texts, strict=True))
        return ids, labels, config.plans([len(x) for x, _ in texts])

    peers: dict[str, tuple[str, Make]] = {"padded": ("loader", lambda: lambda: padded(texts))}
    full = lengths.sum() / (lengths.max() * count)
    return Sides(
        f"{count} texts, {full:.2f} full when padded", {"loader": lambda: pack}, peers, count, "texts"
    )


#: Name of the case -> its sides for so many samples.
INPUTS: dict[str, Callable[[int], Sides]] = {
    "graph preprocessing": graph_preprocessing,
    "text packing": text_packing,
}
