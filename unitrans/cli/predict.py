"""``unitrans predict``."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from unitrans.cli.parser import Parser, UsageError

_EPILOG = """Every row of the input is one row of the output, in the same order, with the predictions added. A row that
cannot be predicted has empty predictions and the reason in the column error, and the exit code is then 1.

examples:
  unitrans predict --checkpoint runs/graph-regression-1 molecules.csv -o predictions.csv
  cat molecules.smi | unitrans predict --checkpoint runs/graph-regression-1
  unitrans predict --checkpoint runs/graph-regression-1 molecules.jsonl --batch-size 1     answers line by line
"""


def make_parser() -> Parser:
    """The flags of ``unitrans predict``."""
    parser = Parser(
        prog="unitrans predict",
        description="Predict the rows of a table (CSV, JSON lines, or one SMILES a line) with a trained model.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument(
        "--checkpoint",
        metavar="DIR",
        required=True,
        help="a run folder, a checkpoint, or the folder of an ensemble",
    )
    parser.add_argument(
        "input", metavar="FILE", nargs="?", default="-", help="the rows (default: standard input)"
    )
    parser.add_argument("-o", "--output", metavar="FILE", help="where they go (default: standard output)")
    parser.add_argument(
        "--column", metavar="NAME", help="the column with the SMILES, where its name does not say so"
    )
    parser.add_argument(
        "--batch-size",
        metavar="N",
        type=int,
        default=256,
        help="rows that are predicted together (default: 256)",
    )
    return parser


def main(arguments: Sequence[str]) -> int:
    """Runs the command; see :func:`unitrans.cli.main` for the exit code."""
    options = make_parser().parse(list(arguments))
    if options.batch_size < 1:
        raise UsageError(f"--batch-size: expected at least 1, got {options.batch_size}")
    # torch and transformers take seconds to import: only now.
    from unitrans.train.errors import ConfigError
    from unitrans.train.predict import predict

    try:
        failed = predict(
            options.checkpoint,
            options.input,
            options.output,
            batch_size=options.batch_size,
            column=options.column,
            stdin=sys.stdin,
            stdout=sys.stdout,
            say=lambda text: print(f"unitrans: {text}", file=sys.stderr),
        )
    except ConfigError as error:
        raise UsageError(str(error)) from error
    return 1 if failed else 0
