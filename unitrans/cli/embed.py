"""``unitrans embed``."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from unitrans.cli.parser import Parser, UsageError, add_reading_flags

_EPILOG = """examples:
  unitrans embed --checkpoint runs/vision-mim-1 photos/ -o photos.npy        float32 [images, channels]
  unitrans embed --checkpoint runs/graph-mgm-1 molecules.csv -o molecules.parquet
  unitrans embed --checkpoint runs/text-mlm-1 texts.csv -o texts.parquet
"""


def make_parser() -> Parser:
    """The flags of ``unitrans embed``."""
    parser = Parser("embed", "Write the encoder's vector of every image, text or molecule.", _EPILOG)
    parser.add_argument("--checkpoint", metavar="DIR", required=True, help="a run folder or a checkpoint")
    parser.add_argument(
        "inputs",
        metavar="INPUT",
        nargs="*",
        default=["-"],
        help="as for unitrans predict (default: standard input)",
    )
    parser.add_argument(
        "-o",
        "--output",
        metavar="FILE",
        required=True,
        help=".npy, or .parquet with the columns of the input",
    )
    add_reading_flags(parser)
    return parser


def main(arguments: Sequence[str]) -> int:
    """Runs the command; see :func:`unitrans.cli.main` for the exit code."""
    options = make_parser().parse(list(arguments))
    from unitrans.errors import ConfigError
    from unitrans.use.embed import embed

    try:
        failed = embed(
            options.checkpoint,
            options.inputs or ["-"],
            Path(options.output).expanduser(),
            batch_size=options.batch_size,
            column=options.column,
            files=options.image_folder,
            image_size=options.image_size,
            stdin=sys.stdin,
            say=lambda text: print(f"unitrans: {text}", file=sys.stderr),
        )
    except ConfigError as error:
        raise UsageError(str(error)) from error
    return 1 if failed else 0
