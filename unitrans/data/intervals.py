"""How sure a figure is: the bootstrap over held-out samples."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
from torch import Tensor

RESAMPLES = 200


def bootstrap(
    figures: Callable[[dict[str, Tensor]], dict[str, float]],
    collected: Mapping[str, Tensor],
    *,
    level: float = 0.95,
    seed: int = 0,
) -> dict[str, tuple[float, float]]:
    """Percentile intervals of figures of one held-out part (Efron, 1979), over samples drawn with replacement.

    Args:
        figures: what turns collected values into figures.
        collected: values of all samples, [n, ...] each.
        level: share of the resamples inside.

    Returns:
        name -> (low, high). They say how much a figure depends on which samples were held out, not on the seed.
    """
    rng = np.random.Generator(np.random.Philox(seed))
    size = len(next(iter(collected.values())))
    drawn: dict[str, list[float]] = {}
    for _ in range(RESAMPLES):
        rows = rng.integers(0, size, size)
        for name, value in figures({key: tensor[rows] for key, tensor in collected.items()}).items():
            drawn.setdefault(name, []).append(value)
    edges = (50 * (1 - level), 50 * (1 + level))
    return {
        name: (float(low), float(high))
        for name, values in drawn.items()
        for low, high in [np.percentile(values, edges)]
    }
