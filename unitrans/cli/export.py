"""``unitrans export``."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from unitrans.cli.parser import Parser, UsageError

_EPILOG = """examples:
  unitrans export --checkpoint runs/vision-classification-1 --to onnx -o model.onnx
  unitrans export --checkpoint runs/vision-mim-1 --to torch-export -o encoder.pt2

The model takes images in [0, 1] of its own size, in batches of any length, and normalises them itself; the .json file
beside it says which size and which classes.
"""


def make_parser() -> Parser:
    """The flags of ``unitrans export``."""
    parser = Parser(
        "export", "Write an image model for onnxruntime (standard operators only) or torch.export.", _EPILOG
    )
    parser.add_argument(
        "--checkpoint",
        metavar="DIR",
        required=True,
        help="a run, a checkpoint, or weights that convert reads",
    )
    parser.add_argument("--to", metavar="FORMAT", required=True, help="onnx or torch-export")
    parser.add_argument("-o", "--output", metavar="FILE", required=True, help="the file, absent")
    parser.add_argument(
        "--encoder",
        action="store_true",
        help="the encoder's vector of an image instead of a classifier's logits",
    )
    return parser


def main(arguments: Sequence[str]) -> int:
    """Runs the command; see :func:`unitrans.cli.main` for the exit code."""
    options = make_parser().parse(list(arguments))
    from unitrans.errors import ConfigError, user_errors
    from unitrans.use.export import export

    try:
        with user_errors():
            lines = export(
                options.checkpoint,
                options.to,
                Path(options.output).expanduser(),
                encoder_only=options.encoder,
            )
    except ConfigError as error:
        raise UsageError(str(error)) from error
    for line in lines:
        print(line)
    return 0
