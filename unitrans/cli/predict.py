"""``unitrans predict``."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from unitrans.cli.parser import Parser, UsageError, add_classes_flag, add_reading_flags

_EPILOG = """Every row of the input is one row of the output, in the same order, with the predictions added. A row that
cannot be predicted has empty predictions and the reason in the column error, and the exit code is then 1.

examples:
  unitrans predict --checkpoint runs/graph-regression-1 molecules.csv -o predictions.csv
  cat molecules.smi | unitrans predict --checkpoint runs/graph-regression-1
  unitrans predict --checkpoint runs/graph-regression-1 molecules.jsonl --batch-size 1     answers line by line
  unitrans predict --checkpoint runs/vision-classification-1 photos/ more.jpg -o predictions.csv
  unitrans predict --checkpoint runs/text-classification-1 reviews.csv
  unitrans predict --checkpoint runs/text-mlm-1 --fill-mask "The capital of France is [MASK]."
  unitrans predict --checkpoint runs/text-clm-1 --prompt "Once upon a time" --max-new-tokens 50
"""


def make_parser() -> Parser:
    """The flags of ``unitrans predict``."""
    parser = Parser(
        "predict",
        "Predict images, or the rows of a table (CSV, JSON lines, lines), with a trained model.",
        _EPILOG,
    )
    parser.add_argument(
        "--checkpoint",
        metavar="DIR",
        required=True,
        help="a run folder, a checkpoint, or the folder of an ensemble",
    )
    parser.add_argument(
        "inputs",
        metavar="INPUT",
        nargs="*",
        default=["-"],
        help="a table, or image files and folders (default: standard input)",
    )
    parser.add_argument("-o", "--output", metavar="FILE", help="where they go (default: standard output)")
    parser.add_argument(
        "--fill-mask", metavar="TEXT", help="instead of rows: the likeliest words for every [MASK] of a text"
    )
    parser.add_argument(
        "--prompt", metavar="TEXT", help="instead of rows: what a causal model writes behind a text"
    )
    parser.add_argument(
        "--embed", metavar="TEXT", help="instead of rows: the vector of a text (mean of its tokens)"
    )
    parser.add_argument("--top-k", metavar="N", type=int, help="candidates (default: 5, with --prompt all)")
    parser.add_argument(
        "--max-new-tokens", metavar="N", type=int, default=40, help="with --prompt (default: 40)"
    )
    parser.add_argument(
        "--temperature",
        metavar="X",
        type=float,
        default=1.0,
        help="with --prompt: 0 takes the likeliest token",
    )
    parser.add_argument("--seed", metavar="N", type=int, default=0, help="with --prompt: of what is drawn")
    add_reading_flags(parser)
    add_classes_flag(parser)
    return parser


def main(arguments: Sequence[str]) -> int:
    """Runs the command; see :func:`unitrans.cli.main` for the exit code."""
    options = make_parser().parse(list(arguments))
    # torch and transformers take seconds to import: only now.
    from unitrans.errors import ConfigError
    from unitrans.use.predict import answer, predict

    try:
        asked = [name for name in ("fill_mask", "prompt", "embed") if getattr(options, name) is not None]
        if len(asked) > 1:
            raise UsageError(
                f"--{asked[0].replace('_', '-')} and --{asked[1].replace('_', '-')} exclude each other"
            )
        for name in asked:
            for line in answer(options.checkpoint, name, getattr(options, name), vars(options)):
                print(line)
        if asked:
            return 0
        failed = predict(
            options.checkpoint,
            options.inputs or ["-"],
            options.output,
            batch_size=options.batch_size,
            column=options.column,
            files=options.image_folder,
            image_size=options.image_size,
            classes=options.classes,
            stdin=sys.stdin,
            stdout=sys.stdout,
            say=lambda text: print(f"unitrans: {text}", file=sys.stderr),
        )
    except ConfigError as error:
        raise UsageError(str(error)) from error
    return 1 if failed else 0
