"""An argument parser whose errors are one sentence, with the nearest valid name."""

from __future__ import annotations

import argparse
import difflib
from collections.abc import Iterable
from typing import NoReturn


class UsageError(Exception):
    """The command line cannot be used; the message is one sentence. Exit code 2."""


def nearest(name: str, valid: Iterable[str]) -> str:
    """``"; did you mean 'x'?"``, or nothing. (Not the domains' function: that would import torch for --help.)"""
    close = difflib.get_close_matches(name, list(valid), n=1, cutoff=0.5)
    return f"; did you mean {close[0]!r}?" if close else ""


class Parser(argparse.ArgumentParser):
    """Flags and ``key=value`` settings in any order; unknown flags name the nearest one.

    Args:
        command: its name behind ``unitrans``.
        description: one sentence.
        epilog: examples, shown as they are.
    """

    def __init__(self, command: str, description: str, epilog: str | None = None) -> None:
        super().__init__(
            prog=f"unitrans {command}",
            description=description,
            epilog=epilog,
            formatter_class=argparse.RawDescriptionHelpFormatter,
            allow_abbrev=False,
        )

    def error(self, message: str) -> NoReturn:
        """One sentence instead of the usage text."""
        raise UsageError(f"{message} (see {self.prog} --help)")

    def parse(self, arguments: list[str]) -> argparse.Namespace:
        """Parses everything. UsageError for what is not known."""
        known, rest = self.parse_known_intermixed_args(arguments)
        if rest:
            flags = [
                flag for action in self._actions for flag in action.option_strings if flag.startswith("--")
            ]
            flag = rest[0].partition("=")[0]
            self.error(f"unknown option {flag}{nearest(flag, flags)}")
        return known


def positive(text: str) -> int:
    """The type of a flag that counts something."""
    try:
        value = int(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"expected a whole number, got {text!r}") from None
    if value < 1:
        raise argparse.ArgumentTypeError(f"expected at least 1, got {value}")
    return value


def add_reading_flags(parser: Parser) -> None:
    """What all commands take that read samples for a trained model."""
    parser.add_argument(
        "--column",
        metavar="NAME",
        help="the column with the files, SMILES or texts, where its name does not say so",
    )
    parser.add_argument(
        "--image-folder",
        metavar="DIR",
        help="where files start that a table names (default: the folder of the table)",
    )
    parser.add_argument(
        "--image-size",
        metavar="N",
        type=positive,
        help="height and width of images in pixels (default: that of training); tables of positions are resized",
    )
    parser.add_argument(
        "--batch-size", metavar="N", type=positive, default=64, help="samples computed together (default: 64)"
    )


def add_classes_flag(parser: Parser) -> None:
    """What commands take that predict labels, of weights that are no run of ours."""
    parser.add_argument(
        "--classes",
        metavar="FILE",
        help="of published weights: the names of their classes, a line each, in the order of their numbers (default: "
        "as config.json beside them names them)",
    )
