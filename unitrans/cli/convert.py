"""``unitrans convert``: models of this program into other layouts, and folders of transformers into ours."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from unitrans.cli.parser import Parser, UsageError

_EPILOG = """examples:
  unitrans convert runs/text-mlm-1 --to hf --output bert       BertForMaskedLM.from_pretrained("bert") opens it
  unitrans convert runs/vision-mim-1 --to official --output swin.safetensors
  unitrans convert bert-folder --to unitrans --output ours     a model folder of this program
"""
TARGETS = ("hf", "official", "timm", "unitrans")


def make_parser() -> Parser:
    """The flags of ``unitrans convert``."""
    parser = Parser(
        prog="unitrans convert",
        description="Write a model under the names of another code base.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument(
        "source", metavar="DIR", help="a run, a checkpoint, or a model folder of transformers"
    )
    parser.add_argument(
        "--to",
        required=True,
        metavar="LAYOUT",
        help="hf: a folder that transformers opens; official, timm: a file of weights; unitrans: a folder of ours",
    )
    parser.add_argument("--output", required=True, metavar="PATH", help="the folder or file, absent or empty")
    parser.add_argument(
        "--encoder", action="store_true", help="leave the head out, where theirs has none like it"
    )
    return parser


def main(arguments: Sequence[str]) -> int:
    """Runs the command; see :func:`unitrans.cli.main` for the exit code."""
    options = make_parser().parse(list(arguments))
    if options.to not in TARGETS:
        raise UsageError(f"--to {options.to}: expected one of {', '.join(TARGETS)}")
    source, output = Path(options.source).expanduser(), Path(options.output).expanduser()
    if output.exists() and not (output.is_dir() and not any(output.iterdir())):
        raise UsageError(
            f"--output {output} is there already: name a path that is absent, or an empty folder"
        )
    from unitrans.train.convert import convert
    from unitrans.train.errors import ConfigError, user_errors

    try:
        with user_errors():
            lines = convert(source, options.to, output, encoder_only=options.encoder)
    except ConfigError as error:
        raise UsageError(str(error)) from error
    for line in lines:
        print(line)
    return 0
