"""The op against published ways to compute the same attention. `python -m benchmarks.attention --help`"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from benchmarks import goals, report
from benchmarks.cases import CASES, Case, Tensors, case_named
from benchmarks.peers import Peer, Prepared, ours, peers_of
from benchmarks.timing import Ratio, interleave
from benchmarks.timm_import import Unavailable

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}
_SGEMM = 1024


def _sgemm() -> Callable[[], object]:
    a, b = torch.randn(_SGEMM, _SGEMM), torch.randn(_SGEMM, _SGEMM)
    out = torch.empty(_SGEMM, _SGEMM)
    return lambda: torch.mm(a, b, out=out)


def _prepare(
    case: Case, t: Tensors, dtype: torch.dtype, peers: list[Peer]
) -> tuple[dict[str, tuple[str, Prepared]], dict[str, str]]:
    """What can be measured, by name (with the variant of ours it is measured against), and reasons for the rest."""
    ready: dict[str, tuple[str, Prepared]] = {}
    reasons: dict[str, str] = {}
    for peer in peers:
        try:
            ready[peer.name] = ("layer" if peer.layer else "op", peer.prepare(case, t, dtype))
        except Unavailable as error:
            reasons[peer.name] = str(error)
    return ready, reasons


def _works(run: Callable[[], object]) -> str:
    """Empty, or in words why this cannot be run."""
    try:
        run()
    except Exception as error:
        return f"{type(error).__name__}: {str(error).splitlines()[0][:120] if str(error) else ''}"
    return ""


def measure(
    case: Case, dtype: torch.dtype, what: str, peers: list[Peer], seconds: float, device: str = "cpu"
) -> list[report.Row]:
    """One case in one dtype against all peers, forward or forward + backward."""
    t = case.tensors().on(torch.device(device))
    with torch.device(device):  # what peers make of their own
        ready, reasons = _prepare(case, t, dtype, peers)
    own = {name: ours(case, t, dtype, layer=name == "layer") for name in ("op", "layer")}
    if t.position_bias is None:
        del own["layer"]

    def run_of(p: Prepared) -> Callable[[], object]:
        return p.without_gradients if what == goals.FORWARD else p.with_gradients

    runs: dict[str, Callable[[], object]] = {f"ours {name}": run_of(p) for name, p in own.items()}
    for name, (_, prepared) in ready.items():
        if what == goals.BOTH and prepared.forward_only:
            reasons[name] = "it has no gradients on a CPU"
        elif problem := _works(run_of(prepared)):
            reasons[name] = problem
        else:
            runs[name] = run_of(prepared)
    if dtype == torch.float32 and device == "cpu":
        runs["sgemm"] = _sgemm()
    times = interleave(runs, seconds=seconds, device=device)

    flops = (4 if what == goals.FORWARD else 14) * case.products()
    share = 0.0
    if "sgemm" in times:
        share = Ratio.of(times["sgemm"], times["ours op"]).median * flops / (2 * _SGEMM**3)
    rows = []
    for peer in peers:
        variant = "layer" if peer.layer else "op"
        row = report.Row(
            case.name, str(case.cut), str(dtype).removeprefix("torch."), torch.get_num_threads(), what,
            variant, peer.name, sorted(case.tags), reason=reasons.get(peer.name, ""), share=share,
        )  # fmt: skip
        if peer.name in times:
            mine = times[f"ours {variant}"]
            row.ratio = Ratio.of(times[peer.name], mine)
            row.seconds = float(np.median(mine))
            row.peer_seconds = float(np.median(times[peer.name]))
        rows.append(row)
    return rows


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
    rows: list[report.Row] = []
    for threads in arguments.threads:
        torch.set_num_threads(threads)
        for name in arguments.dtype:
            for case in wanted:
                peers = peers_of(case, DTYPES[name], compiled=arguments.compile, device=arguments.device)
                for what in (goals.FORWARD, goals.BOTH):
                    found = measure(
                        case.times(arguments.times),
                        DTYPES[name],
                        what,
                        peers,
                        arguments.seconds,
                        arguments.device,
                    )
                    for row in found:
                        print(report.line(row), flush=True)
                        rows.append(row)
    aimed_at = goals.gpu_goals if arguments.device == "cuda" else goals.goals
    return report.finish("attention", "Attention against its peers", rows, aimed_at, arguments)


if __name__ == "__main__":
    sys.exit(main())
