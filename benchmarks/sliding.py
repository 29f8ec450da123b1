"""Sliding windows beside Swin's: the same number of pairs, computed in every way that serves a CPU.

All take what the projection leaves, qkv [B, H, W, 3, N, D], and give [B, H, W, N, D]. A sliding window is the 7 x 7
square around each token, cut at the borders (as LR-Net and stand-alone self-attention have it). Used by
`python -m benchmarks.claims windows`.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.runs import read_rows
from benchmarks.timing import Ratio, interleave
from unitrans import Plan, attention, attention_qkvpacked
from unitrans.nn import neighbourhood_bias, relative_position_index

SIDE = 7
#: Side of the map and heads of 32 channels of Swin-T's stages at 224 px; in the fourth a window is the whole map.
STAGES = {1: (56, 3), 2: (28, 6), 3: (14, 12)}
DENSE_ROWS = 784  # more rows than this have masks and scores of gigabytes

Attend = Callable[[Tensor, Tensor], Tensor]


def neighbourhoods(grid: int, batch: int) -> Plan:
    """A group for every token: one query, and as keys the tokens in the square around it, at their places in it."""
    square = np.stack(np.meshgrid(*[np.arange(SIDE) - SIDE // 2] * 2, indexing="ij"), -1).reshape(-1, 2)
    at = np.stack(np.meshgrid(np.arange(grid), np.arange(grid), indexing="ij"), -1).reshape(-1, 1, 2)
    y, x = np.moveaxis(at + square, -1, 0)  # [tokens, SIDE * SIDE]
    inside = (y >= 0) & (y < grid) & (x >= 0) & (x < grid)
    maps = np.arange(batch)[:, None] * grid * grid
    tokens = batch * grid * grid
    sizes = np.tile(inside.sum(1), batch)
    as_int = {"dtype": torch.int32}
    return Plan(
        torch.arange(tokens + 1, **as_int),
        num_tokens=tokens,
        max_group_size=1,
        bias_offset=torch.zeros(tokens, dtype=torch.int64),
        bias_row_stride=torch.full((tokens,), SIDE * SIDE, **as_int),
        key_cu_seqlens=torch.from_numpy(np.concatenate([[0], sizes.cumsum()])).int(),
        key_token_index=torch.from_numpy((maps + (y * grid + x)[inside]).ravel()).int(),
        key_position=torch.from_numpy(np.tile(np.nonzero(inside)[1], batch)).int(),
        num_keys=tokens,
        max_key_group_size=SIDE * SIDE,
    )


def by_plan(plan: Plan) -> Attend:
    """unitrans with these groups; bias [N, P] as they address it."""

    def attend(qkv: Tensor, bias: Tensor) -> Tensor:
        rows = qkv.flatten(0, 2)
        if plan.key_cu_seqlens is None:
            out = attention_qkvpacked(rows, plan, bias=bias)
        else:
            out = attention(*rows.unbind(1), plan, bias=bias)
        assert isinstance(out, Tensor)
        return out.view(*qkv.shape[:3], *out.shape[1:])

    return attend


def by_tiles(grid: int, batch: int) -> Attend:
    """unitrans with tiles of queries that share the keys around them. bias: [N, 49], spread over their plane."""
    plan = Plan.neighbourhoods((grid, grid), SIDE).repeat(batch)
    dy, dx = np.meshgrid(*[np.arange(SIDE) - SIDE // 2] * 2, indexing="ij")
    rows = torch.from_numpy(((SIDE - 1 - dy) * (2 * SIDE - 1) + SIDE - 1 - dx).ravel())  # of query - key

    def attend(qkv: Tensor, bias: Tensor) -> Tensor:
        table = bias.new_zeros((2 * SIDE - 1) ** 2, len(bias)).index_copy(0, rows, bias.t())
        plane = neighbourhood_bias(table, (grid, grid), SIDE)
        out = attention(*qkv.flatten(0, 2).unbind(1), plan, bias=plane)
        assert isinstance(out, Tensor)
        return out.view(*qkv.shape[:3], *out.shape[1:])

    return attend


def torch_windows(shift: int) -> Attend:
    """Roll, partition, SDPA with bias (and mask), back: Swin as it is usually written. bias: [N, 49 * 49]."""

    def attend(qkv: Tensor, bias: Tensor) -> Tensor:
        batch, grid, _, _, heads, dim = qkv.shape
        n = grid // SIDE
        if shift:
            qkv = qkv.roll((-shift, -shift), (1, 2))
        x = qkv.view(batch, n, SIDE, n, SIDE, 3, heads, dim).permute(5, 0, 1, 3, 6, 2, 4, 7)
        q, k, v = x.reshape(3, batch * n * n, heads, SIDE * SIDE, dim)
        mask = bias.view(1, heads, SIDE**2, SIDE**2)
        if shift:
            mask = mask + window_mask(grid, shift)[:, None]
            mask = (
                mask.expand(batch, -1, -1, -1, -1).flatten(0, 1)
                if mask.dim() == 5
                else mask.repeat(batch, 1, 1, 1)
            )
        out = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
        out = out.view(batch, n, n, heads, SIDE, SIDE, dim).permute(0, 1, 4, 2, 5, 3, 6)
        out = out.reshape(batch, grid, grid, heads, dim)
        return out.roll((shift, shift), (1, 2)) if shift else out

    return attend


def window_mask(grid: int, shift: int) -> Tensor:
    """[windows, 49, 49]: -inf between regions that the roll brought together."""
    lines = torch.arange(grid)
    region = (lines >= grid - SIDE).int() + (lines >= grid - shift).int()
    places = (region[:, None] * 3 + region).view(grid // SIDE, SIDE, grid // SIDE, SIDE)
    places = places.transpose(1, 2).reshape(-1, SIDE * SIDE)
    return torch.where(places[:, :, None] == places[:, None], 0.0, -torch.inf)


def _outside(grid: int) -> Tensor:
    """[49, H * W]: -inf where a token has no such neighbour, else 0."""
    ones = F.unfold(torch.ones(1, 1, grid, grid), SIDE, padding=SIDE // 2)[0]
    return torch.where(ones > 0, 0.0, -torch.inf)


def unfolded(grid: int) -> Attend:
    """Keys and values copied once per query by unfold (im2col). bias: [N, 49]."""
    outside = _outside(grid)

    def attend(qkv: Tensor, bias: Tensor) -> Tensor:
        batch, _, _, _, heads, dim = qkv.shape
        q, k, v = qkv.permute(3, 0, 4, 5, 1, 2).reshape(3, batch, heads * dim, grid, grid)
        around = [F.unfold(x, SIDE, padding=SIDE // 2).view(batch, heads, dim, SIDE**2, -1) for x in (k, v)]
        q = q.view(batch, heads, dim, 1, -1) * dim**-0.5
        scores = (q * around[0]).sum(2) + bias[:, :, None] + outside  # [B, N, 49, H * W]
        out = (scores.softmax(2)[:, :, None] * around[1]).sum(3)
        return out.view(batch, heads, dim, grid, grid).permute(0, 3, 4, 1, 2)

    return attend


def offset_by_offset(grid: int) -> Attend:
    """One pass over the map for each of the 49 offsets: nothing is copied per query. bias: [N, 49]."""
    outside, pad = _outside(grid).view(-1, grid, grid, 1), SIDE // 2

    def attend(qkv: Tensor, bias: Tensor) -> Tensor:
        dim = qkv.shape[-1]
        q, k, v = qkv.unbind(3)
        k, v = (F.pad(x, (0, 0, 0, 0, pad, pad, pad, pad)) for x in (k, v))
        q = q * dim**-0.5
        places = list(itertools.product(range(SIDE), repeat=2))
        cut = [(slice(None), slice(y, y + grid), slice(x, x + grid)) for y, x in places]
        scores = torch.stack([(q * k[at]).sum(-1) + bias[:, n] + outside[n] for n, at in enumerate(cut)], -1)
        weights = scores.softmax(-1).unbind(-1)
        return torch.stack([w[..., None] * v[at] for w, at in zip(weights, cut, strict=True)]).sum(0)

    return attend


def dense(grid: int) -> Attend:
    """SDPA over the whole map, bias and mask of all pairs: [N, 49] spread over [N, H * W, H * W]."""
    y, x = (axis.flatten() for axis in torch.meshgrid(torch.arange(grid), torch.arange(grid), indexing="ij"))
    dy, dx = (axis[None] - axis[:, None] + SIDE // 2 for axis in (y, x))
    seen = (dy >= 0) & (dy < SIDE) & (dx >= 0) & (dx < SIDE)
    index = (dy * SIDE + dx).clamp(0, SIDE**2 - 1)

    def attend(qkv: Tensor, bias: Tensor) -> Tensor:
        q, k, v = qkv.flatten(1, 2).permute(2, 0, 3, 1, 4)
        mask = bias[:, index].masked_fill(~seen, -torch.inf)
        out = F.scaled_dot_product_attention(q, k, v, attn_mask=mask[None])
        return out.transpose(1, 2).reshape(qkv.shape[0], grid, grid, *qkv.shape[4:])

    return attend


def sides(grid: int, batch: int) -> dict[str, tuple[str, Attend]]:
    """name -> (kind of window, function)."""
    windows = [Plan.windows((grid, grid), (SIDE, SIDE), shift).repeat(batch) for shift in (0, SIDE // 2)]
    found = {
        "unitrans, windows": ("window", by_plan(windows[0])),
        "unitrans, shifted windows": ("window", by_plan(windows[1])),
        "torch, windows": ("window", torch_windows(0)),
        "torch, shifted windows": ("window", torch_windows(SIDE // 2)),
        "unitrans, sliding in tiles": ("sliding", by_tiles(grid, batch)),
        "unitrans, sliding, a group for every token": ("sliding", by_plan(neighbourhoods(grid, batch))),
        "torch, sliding by unfold": ("sliding", unfolded(grid)),
        "torch, sliding offset by offset": ("sliding", offset_by_offset(grid)),
    }
    if grid * grid <= DENSE_ROWS:
        found["torch, sliding as a dense mask"] = ("sliding", dense(grid))
    return found


def inputs(grid: int, heads: int, batch: int) -> tuple[Tensor, dict[str, Tensor]]:
    """qkv and, by kind of window, the bias."""
    generator = torch.Generator().manual_seed(0)
    qkv = torch.randn(batch, grid, grid, 3, heads, 32, generator=generator)
    table = torch.randn((2 * SIDE - 1) ** 2, heads, generator=generator)
    plane = table[relative_position_index((SIDE, SIDE))].permute(2, 0, 1).flatten(1).contiguous()
    around = torch.randn(heads, SIDE * SIDE, generator=generator)
    return qkv.requires_grad_(), {"window": plane.requires_grad_(), "sliding": around.requires_grad_()}


def measure(output: Path, seconds: float, stages: dict[int, tuple[int, int]] = STAGES) -> None:
    """Times every stage and pass that is not in the file yet, all ways in turns."""
    done = {(row["stage"], row["pass"]) for row in read_rows(output)}
    for (stage, (grid, heads)), both in itertools.product(stages.items(), (False, True)):
        name = "forward + backward" if both else "forward"
        if (stage, name) in done:
            continue
        batch = max(1, 56 // grid)
        qkv, bias = inputs(grid, heads, batch)
        gradient = torch.randn(batch, grid, grid, heads, 32)
        runs = {way: _call(attend, qkv, bias[kind], gradient if both else None)
                for way, (kind, attend) in sides(grid, batch).items()}  # fmt: skip
        times = interleave(runs, seconds=seconds)
        with output.open("a") as file:
            for way, found in times.items():
                row: dict[str, Any] = {"claim": "windows", "stage": stage, "pass": name, "run": way}
                row |= {"grid": grid, "heads": heads, "batch": batch, "seconds": float(np.median(found))}
                for own in ("unitrans", "torch"):
                    ratio = Ratio.of(found, times[f"{own}, shifted windows"])
                    row[own] = [ratio.median, ratio.low, ratio.high]
                file.write(json.dumps(row) + "\n")
                print(stage, name, way, f"{row['seconds'] * 1e3:.2f} ms", flush=True)


def _call(attend: Attend, qkv: Tensor, bias: Tensor, gradient: Tensor | None) -> Callable[[], object]:
    def forward() -> object:
        with torch.inference_mode():
            return attend(qkv, bias)

    if gradient is None:
        return forward
    return lambda: torch.autograd.grad(attend(qkv, bias), [qkv, bias], gradient)


def table(rows: list[dict[str, Any]]) -> str:
    """Markdown: time over that of shifted windows, ours and torch's, with quartiles."""
    cases = list(dict.fromkeys((row["stage"], row["pass"]) for row in rows))
    by = {(row["stage"], row["pass"], row["run"]): row for row in rows}
    parts = []
    for own in ("unitrans", "torch"):
        lines = [[f"time over {own}'s shifted windows", *(f"stage {stage}, {name}" for stage, name in cases)]]
        lines.append(["---"] * len(lines[0]))
        for way in dict.fromkeys(row["run"] for row in rows):
            ratios = [by[(*case, way)][own] if (*case, way) in by else None for case in cases]
            cells = ["-" if r is None else f"**{r[0]:.2f}** ({r[1]:.2f}-{r[2]:.2f})" for r in ratios]
            lines.append([way, *cells])
        parts.append("\n".join(f"| {' | '.join(line)} |" for line in lines))
    return "\n\n".join(parts) + "\n"
