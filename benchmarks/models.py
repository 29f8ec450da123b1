"""Whole models, ours and published ones side by side. `python -m benchmarks.models --help`"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from unittest import mock

import torch
from torch import Tensor

from benchmarks import rows
from benchmarks.compare import Effort, Make, Sides, compare
from benchmarks.contenders import CEILING, INFERENCE, MODELS, TRAINING, Contender, Model, Size
from benchmarks.timm_import import Unavailable

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}

#: (figure, dtype) -> at least this ratio to the best peer.
GOALS = {
    (INFERENCE, "float32"): 1.10,
    (TRAINING, "float32"): 1.15,
    (INFERENCE, "bfloat16"): 1.15,
    (TRAINING, "bfloat16"): 1.10,
}


def _step(
    make: Callable[[], Contender],
    what: str,
    device: str = "cpu",
    *,
    compiled: bool = False,
    attention: bool = True,
) -> Callable[[], object]:
    """One figure's worth of work: the output, or a loss and all gradients (no optimizer)."""
    torch.manual_seed(0)
    net, call = make()
    net.to(device).train(what == TRAINING)
    run = torch.compile(net) if compiled else net

    def infer() -> Tensor:
        with torch.inference_mode():
            return call(run)

    def train() -> None:
        net.zero_grad(set_to_none=True)
        call(run).backward()

    step = infer if what == INFERENCE else train
    return step if attention else _without_attention(step)


def _left_out(reason: str) -> Callable[[], object]:
    raise Unavailable(reason)


def sides_of(
    model: Model,
    size: Size,
    dtype: torch.dtype,
    what: str,
    *,
    compiled: str,
    only: list[str] | None = None,
    device: str = "cpu",
) -> Sides:
    """One model and all its peers.

    Args:
        compiled: which peers are measured under torch.compile too: all, named (those of `Model.compiled`, and ours), or
            none (then the named ones are rows that say so).
        only: parts of the names of peers.
    """
    makers = model.build(size, dtype, what, device)
    peers: dict[str, tuple[str, Make]] = {}
    for name, make in makers.items():
        if name != "unitrans":
            peers[name] = ("model", partial(_step, make, what, device, attention=name != CEILING))
    for name in [n for n in makers if n != CEILING]:
        if compiled == "all" or name in (*model.compiled, "unitrans"):
            run: Make = partial(_step, makers[name], what, device, compiled=True)
            reason = "left out, as compiling takes minutes: unitrans bench --suite models --compile"
            peers[f"{name} compiled"] = ("model", partial(_left_out, reason) if compiled == "none" else run)
    if only is not None:
        peers = {name: peer for name, peer in peers.items() if any(o in name for o in only)}
    return Sides(
        str(size),
        {"model": partial(_step, makers["unitrans"], what, device)},
        peers,
        items=size.batch,
        unit=model.unit,
        tags={CEILING: ["ceiling"]},
    )


def measure(
    model: Model,
    size: Size,
    dtype: torch.dtype,
    what: str,
    effort: Effort,
    *,
    compiled: str = "none",
    only: list[str] | None = None,
    device: str = "cpu",
) -> list[rows.Row]:
    """All contenders in one dtype, interleaved; a row against ours for each."""
    sides = sides_of(model, size, dtype, what, compiled=compiled, only=only, device=device)
    name = str(dtype).removeprefix("torch.")
    return compare(("models", model.title, what), sides, effort, dtype=name, device=device)


def profile(model: Model, dtype: torch.dtype, what: str, batch: int) -> str:
    """Where the time of one step of ours goes, operator by operator, largest first: shares of the whole."""
    step = _step(model.build(Size(batch), dtype, what, "cpu")["unitrans"], what)
    step()
    with torch.profiler.profile() as profiler:
        step()
    events = sorted(profiler.key_averages(), key=lambda e: -e.self_cpu_time_total)
    total = sum(e.self_cpu_time_total for e in events)
    lines = [f"{what}, {dtype}, batch {batch}: {total / 1e6:.2f} s"]
    lines += [f"{e.self_cpu_time_total / total:6.1%}  {e.count:5}  {e.key}" for e in events[:18]]
    return "\n".join(lines)


def _values_alone(qkv: Tensor, *args: object, **kwargs: object) -> Tensor:
    return qkv.select(1, 2)


def _without_attention(step: Callable[[], object]) -> Callable[[], object]:
    """Projections, norms, MLPs stay: what a step would cost if attention took no time."""

    def run() -> object:
        with mock.patch("unitrans.nn.block.attention_qkvpacked", _values_alone):
            return step()

    return run


def goals(found: list[rows.Row]) -> list[rows.Goal]:
    """The best peer of every cell, and how far the ceiling is."""
    summary = []
    for threads in sorted({r.threads for r in found}):
        for (what, dtype), target in GOALS.items():
            key = (MODELS["swin"].title, what, dtype, threads)
            cell = [r for r in found if (r.case, r.what, r.dtype, r.threads) == key and r.ratio]
            peers = {r.peer: r.ratio.median for r in cell if r.ratio and r.is_peer}
            ceiling = [r.ratio.median for r in cell if r.ratio and "ceiling" in r.tags]
            detail = ""
            if peers:
                best = min(peers, key=lambda name: peers[name])
                detail = f"; best peer {best}"
                if ceiling:
                    detail += f"; with attention removed {peers[best] / ceiling[0]:.2f}"
            text = f"Swin-T / best peer: {what}, {dtype}, {threads} threads"
            summary.append(rows.Goal(text, target, min(peers.values()) if peers else None, detail))
    return summary


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.models", description=__doc__)
    parser.add_argument("--model", choices=list(MODELS), default="swin")
    parser.add_argument("--threads", type=int, nargs="+", default=[1], help="thread counts (default: 1)")
    parser.add_argument("--dtype", nargs="+", choices=list(DTYPES), default=["fp32", "bf16"])
    parser.add_argument(
        "--what", nargs="+", choices=["inference", "training"], default=["inference", "training"]
    )
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--only", nargs="+", help="parts of names of contenders (ours is always there)")
    parser.add_argument("--seconds", type=float, default=30.0, help="per dtype and pass, after warming up")
    parser.add_argument("--compile", action="store_true", help="peers under torch.compile too: minutes")
    parser.add_argument("--profile", action="store_true", help="only say where the time of ours goes")
    parser.add_argument(
        "--add-to", type=Path, help="a results JSON whose rows are kept, measured ones replaced"
    )
    parser.add_argument("--write", action="store_true", help="write benchmarks/results/*.json and .md")
    return parser.parse_args()


def main() -> int:
    arguments = _arguments()
    found: list[rows.Row] = []
    model = MODELS[arguments.model]
    size = replace(model.full, batch=arguments.batch, blocks=None)
    for threads in arguments.threads:
        torch.set_num_threads(threads)
        for name in arguments.dtype:
            for what in arguments.what:
                figure = INFERENCE if what == "inference" else TRAINING
                if arguments.profile:
                    print(profile(model, DTYPES[name], figure, arguments.batch), flush=True)
                    continue
                measured = measure(
                    model, size, DTYPES[name], figure, Effort(arguments.seconds, 3, 0.0),
                    compiled="all" if arguments.compile else "none", only=arguments.only,
                )  # fmt: skip
                for row in measured:
                    print(rows.line(row), flush=True)
                found += measured
    if arguments.profile:
        return 0
    return rows.finish("models", "Whole models against published ones", found, goals, arguments)


if __name__ == "__main__":
    sys.exit(main())
