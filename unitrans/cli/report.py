"""``unitrans report``."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from unitrans.cli.parser import Parser, UsageError

_EPILOG = """The page is one file that loads nothing: curves, held-out figures beside simple predictors, pictures of
what was masked and predicted, the configuration (of one run against the defaults, of several against each
other), the machine and the model card. What a run folder lacks is named on it.

examples:
  unitrans report runs/vision-mim-1                      writes runs/vision-mim-1/report.html
  unitrans report runs/vision-mim-1 runs/vision-mim-2    writes report.html here, the runs side by side
  unitrans report runs/graph-regression-1 -o page.html
"""


def make_parser() -> Parser:
    """The flags of ``unitrans report``."""
    parser = Parser("report", "Write one HTML page about training runs.", _EPILOG)
    parser.add_argument("runs", metavar="RUN", nargs="+", help="run folders, or the folder of an ensemble")
    parser.add_argument(
        "-o",
        "--output",
        metavar="FILE",
        help="the page (default: report.html, of one run in its folder)",
    )
    return parser


def main(arguments: Sequence[str]) -> int:
    """Runs the command; see :func:`unitrans.cli.main` for the exit code."""
    options = make_parser().parse(list(arguments))
    # torch, transformers and matplotlib take seconds to import: only now.
    from unitrans.cli.pages.runs import open_runs
    from unitrans.cli.pages.training import training_page
    from unitrans.errors import ConfigError
    from unitrans.training.runs import write_text

    try:
        runs = open_runs(options.runs)
    except ConfigError as error:
        raise UsageError(str(error)) from error
    if options.output is not None:
        output = Path(options.output).expanduser()
    else:
        output = Path("report.html") if len(runs) > 1 else runs[0].folder / "report.html"
    if output.is_dir():
        raise UsageError(
            f"--output {output} is a folder: name a file in it, such as {output / 'report.html'}"
        )
    text = training_page(runs)
    try:
        write_text(output, text)
    except OSError as error:
        raise UsageError(
            f"the page {output} cannot be written: {error.strerror}; name another file with --output FILE"
        ) from None
    print(f"{output} ({len(text.encode()) / 1e6:.1f} MB, {len(runs)} run{'s' if len(runs) > 1 else ''})")
    return 0
