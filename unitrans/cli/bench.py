"""``unitrans bench``: the measurements of ``benchmarks/``, which a checkout has and an installed package has not."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from unitrans.cli.parser import Parser, UsageError, nearest, positive

SUITES = ("attention", "models", "pretrain", "quality", "all")
_EPILOG = """examples:
  unitrans bench --quick                       everything at small sizes, a few minutes on one core
  unitrans bench --suite attention             the op against its peers, scaling, roofline
  unitrans bench --suite models --case CASE --output bench     adds to the results in bench/
"""


def make_parser() -> Parser:
    """The flags of ``unitrans bench``."""
    parser = Parser(
        "bench", "Measure speed, memory and quality side by side with published implementations.", _EPILOG
    )
    parser.add_argument("--suite", metavar="NAME", default="all", help=f"{', '.join(SUITES)} (default: all)")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu", help="default: cpu")
    parser.add_argument("--quick", action="store_true", help="small sizes, few rounds, nothing compiled")
    parser.add_argument(
        "--compile",
        action="store_true",
        help="peers of the op and training steps under torch.compile too: minutes a case",
    )
    parser.add_argument("--case", metavar="NAME", help="only what begins so")
    parser.add_argument("--threads", metavar="N", type=positive, default=1, help="of a CPU (default: 1)")
    parser.add_argument(
        "--output",
        metavar="DIR",
        default="bench",
        help="for results.json, .md and .html; results that are there are kept, those measured again replaced "
        "(default: bench)",
    )
    return parser


def main(arguments: Sequence[str]) -> int:
    """Runs the command; see :func:`unitrans.cli.main` for the exit code. 1: one of our own cases failed."""
    options = make_parser().parse(list(arguments))
    if options.quick and options.compile:
        raise UsageError("--quick and --compile exclude each other: leave one out")
    if options.suite not in SUITES:
        expected = ", ".join(SUITES)
        raise UsageError(
            f"--suite: expected one of {expected}, got {options.suite!r}{nearest(options.suite, SUITES)}"
        )
    suites, write, stored = (_benchmarks(name) for name in ("suites", "write", "rows"))
    import torch

    if options.device == "cuda" and not torch.cuda.is_available():
        raise UsageError("--device cuda: torch sees no GPU; leave it out")
    torch.set_num_threads(options.threads)
    chosen = suites.Options(options.device, options.quick, options.compile)
    wanted = list(suites.chosen(options.suite, chosen, options.case))
    if not wanted:
        names = [entry.name for entry in suites.chosen(options.suite, chosen)]
        raise UsageError(
            f"--case: nothing of suite {options.suite} begins with {options.case!r}"
            f"{nearest(options.case, names)} (it has {', '.join(names)})"
        )
    folder = Path(options.output).expanduser()
    before = folder / "results.json"
    try:
        kept = stored.Results.read(before) if before.exists() else stored.Results({})
    except (ValueError, TypeError, KeyError) as error:
        raise UsageError(
            f"--output: {before} is not a file of unitrans bench ({error}): name another folder"
        ) from None

    latest = kept

    def save(results: Any) -> None:
        nonlocal latest
        latest = kept.updated(results)
        write.write(latest, folder, whole=False)

    try:
        failed = suites.run(wanted, chosen, lambda line: print(line, flush=True), save)
    finally:  # what was measured before Ctrl-C has its page too
        if latest is not kept:
            write.write(latest, folder)
    print(f"written to {folder}: results.html, results.json, results.md")
    return 1 if failed else 0


def _benchmarks(name: str) -> Any:
    """A module of benchmarks/: of this installation's checkout, or of the one in the current folder."""
    root = next(
        (
            place
            for place in (Path(__file__).resolve().parents[2], Path.cwd())
            if (place / "benchmarks" / "suites.py").is_file()
        ),
        None,
    )
    if root is None:
        raise UsageError(
            "bench: the measurements are not part of the installed package; run this in a checkout of unitrans "
            "(git clone), which has them in benchmarks/"
        )
    if str(root) not in sys.path:
        sys.path.insert(0, str(root))
    return importlib.import_module(f"benchmarks.{name}")
