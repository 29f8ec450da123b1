"""The op against published ways to compute the same attention. `python -m benchmarks.attention --help`"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch

from benchmarks import goals, rows
from benchmarks.cases import CASES, Case, Tensors, case_named
from benchmarks.compare import Effort, Sides, compare
from benchmarks.peers import Peer, Prepared, ours, peers_of
from benchmarks.timm_import import Unavailable

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}


def sides_of(case: Case, dtype: torch.dtype, what: str, peers: list[Peer], device: str = "cpu") -> Sides:
    """One case in one dtype and all peers, forward or forward + backward."""
    t = case.tensors().on(torch.device(device))

    def run_of(prepared: Prepared) -> Callable[[], object]:
        if what == goals.FORWARD:
            return prepared.without_gradients
        if prepared.forward_only:
            raise Unavailable("it has no gradients on a CPU")
        return prepared.with_gradients

    def make(peer: Peer) -> Callable[[], object]:
        with torch.device(device):  # what peers make of their own
            return run_of(peer.prepare(case, t, dtype))

    variants = ["op"] if t.position_bias is None else ["op", "layer"]
    own = {name: partial(_ours, case, t, dtype, name == "layer", run_of) for name in variants}
    counted = dtype == torch.float32 and device == "cpu"
    return Sides(
        str(case.cut),
        own,
        {peer.name: ("layer" if peer.layer else "op", partial(make, peer)) for peer in peers},
        items=t.plan.num_tokens,
        unit="tokens",
        flops=operations(case, what) if counted else 0.0,
        tags={"": sorted(case.tags)},
    )


def _ours(
    case: Case,
    t: Tensors,
    dtype: torch.dtype,
    layer: bool,
    run_of: Callable[[Prepared], Callable[[], object]],
) -> Callable[[], object]:
    return run_of(ours(case, t, dtype, layer=layer))


def operations(case: Case, what: str) -> float:
    """Useful operations: two products forward, and five more backward."""
    return (4 if what == goals.FORWARD else 14) * case.products()


def measure(
    case: Case, dtype: torch.dtype, what: str, peers: list[Peer], seconds: float, device: str = "cpu"
) -> list[rows.Row]:
    """A row for each peer."""
    name = str(dtype).removeprefix("torch.")
    sides = sides_of(case, dtype, what, peers, device)
    return compare(("attention", case.name, what), sides, Effort(seconds), dtype=name, device=device)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.attention", description=__doc__)
    parser.add_argument("--case", action="append", help="a name, or the beginning of names; default: all")
    parser.add_argument("--threads", type=int, nargs="+", default=[1], help="thread counts (default: 1)")
    parser.add_argument("--dtype", nargs="+", choices=list(DTYPES), default=["fp32"])
    parser.add_argument("--seconds", type=float, default=2.0, help="per case, dtype and pass (default: 2)")
    parser.add_argument(
        "--device", choices=["cpu", "cuda"], default="cpu", help="times of a GPU are by events"
    )
    parser.add_argument("--times", type=int, help="this many times the batch (default: 1, on a GPU 16)")
    parser.add_argument("--compile", action="store_true", help="peers under torch.compile too: slow to start")
    parser.add_argument(
        "--add-to", type=Path, help="a results JSON whose rows are kept, measured ones replaced"
    )
    parser.add_argument("--write", action="store_true", help="write benchmarks/results/*.json and .md")
    arguments = parser.parse_args()
    if arguments.device == "cuda" and not torch.cuda.is_available():
        parser.error("--device cuda: torch sees no GPU")
    if arguments.times is None:
        arguments.times = 16 if arguments.device == "cuda" else 1
    return arguments


def main() -> int:
    arguments = _arguments()
    wanted = [c for c in CASES if not arguments.case or any(c.name.startswith(a) for a in arguments.case)]
    if not wanted:
        case_named(arguments.case[0])
    found: list[rows.Row] = []
    for threads in arguments.threads:
        torch.set_num_threads(threads)
        for name in arguments.dtype:
            for case in wanted:
                peers = peers_of(case, DTYPES[name], compiled=arguments.compile, device=arguments.device)
                for what in (goals.FORWARD, goals.BOTH):
                    measured = measure(
                        case.times(arguments.times),
                        DTYPES[name],
                        what,
                        peers,
                        arguments.seconds,
                        arguments.device,
                    )
                    for row in measured:
                        print(rows.line(row), flush=True)
                    found += measured
    aimed_at = goals.gpu_goals if arguments.device == "cuda" else goals.goals
    return rows.finish("attention", "Attention against its peers", found, aimed_at, arguments)


if __name__ == "__main__":
    sys.exit(main())
