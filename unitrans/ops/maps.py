"""Attention probabilities on request: what every layer of a model looks at."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from unitrans.ops import reference
from unitrans.ops.backends import preferred_backend


@dataclass(frozen=True)
class AttentionMap:
    """The attention probabilities of one call of the op, before dropout. G groups, N heads, longest group L.

    Attributes:
        layer: name of the module that made the call, as `model.named_modules()` has it; "" without a model.
        weights: fp32 (fp64 for fp64) [G, N, Lq, Lk]. The row of a query sums to 1 over the keys it may look at (to 0
            where there is none); places behind the end of a group are 0.
        query_rows, key_rows: int64 [G, Lq] and [G, Lk], row of the stream at each place of a group; -1 behind its end.
        num_queries, num_keys: rows of the streams, Tq and Tk.
    """

    layer: str
    weights: Tensor
    query_rows: Tensor
    key_rows: Tensor
    num_queries: int
    num_keys: int

    def group(self, number: int) -> tuple[Tensor, Tensor, Tensor]:
        """Query rows [n], key rows [m] and probabilities [N, n, m] of one group, without the places behind its end."""
        query, key = self.query_rows[number] >= 0, self.key_rows[number] >= 0
        return (
            self.query_rows[number][query],
            self.key_rows[number][key],
            self.weights[number][:, query][:, :, key],
        )

    def dense(self) -> Tensor:
        """[N, Tq, Tk]: the same over the whole stream, 0 where two tokens share no group."""
        found = self.weights.new_zeros(self.weights.shape[1], self.num_queries + 1, self.num_keys + 1)
        query = self.query_rows.where(self.query_rows >= 0, self.num_queries)
        key = self.key_rows.where(self.key_rows >= 0, self.num_keys)
        found[:, query[:, :, None], key[:, None, :]] = self.weights.transpose(0, 1)
        return found[:, :-1, :-1]


@contextmanager
def attention_maps(model: nn.Module | None = None) -> Iterator[list[AttentionMap]]:
    """Collects an `AttentionMap` for every call of the op inside the block, in their order.

    Inside, calls that name no backend take the reference, which is slower and spends G * N * Lq * Lk memory for each
    call; outside, nothing is kept. Not for compiled models.

    Args:
        model: its modules give the maps their names; None: they have none.

    Example:
        >>> with unitrans.attention_maps(model) as maps:
        ...     model(images)
        >>> maps[0].layer, maps[0].weights.shape
        ('encoder.layers.0.blocks.0.attn', torch.Size([64, 3, 49, 49]))
    """
    found: list[AttentionMap] = []
    running: list[str] = []

    def keep(weights: Tensor, row_q: Tensor, row_k: Tensor, num_queries: int, num_keys: int) -> None:
        """Rows behind the end of a group come as the number of rows."""
        query, key = (row.where(row < size, -1) for row, size in ((row_q, num_queries), (row_k, num_keys)))
        layer = running[-1] if running else ""
        found.append(AttentionMap(layer, weights.detach(), query, key, num_queries, num_keys))

    def enter(name: str) -> torch.utils.hooks.RemovableHandle:
        return modules[name].register_forward_pre_hook(lambda *_: running.append(name))

    def leave(name: str) -> torch.utils.hooks.RemovableHandle:
        def pop(*_: object) -> None:
            running.pop()

        return modules[name].register_forward_hook(pop, always_call=True)

    modules = {} if model is None else dict(model.named_modules())
    hooks = [hook(name) for name in modules for hook in (enter, leave)]
    before, reference.observer = reference.observer, keep
    try:
        with preferred_backend("reference"):
            yield found
    finally:
        reference.observer = before
        for handle in hooks:
            handle.remove()
