"""``unitrans eval``."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from unitrans.cli.parser import Parser, UsageError, add_classes_flag, add_reading_flags

_EPILOG = """examples:
  unitrans eval --checkpoint runs/vision-classification-1 --data photos/test        class folders
  unitrans eval --checkpoint runs/vision-mim-1 --probe knn --fit photos/train --data photos/test
  unitrans eval --checkpoint runs/graph-classification-1 --data molecules.csv --output judged
  unitrans eval --checkpoint runs/text-classification-1 --data reviews.csv --target label
"""


def make_parser() -> Parser:
    """The flags of ``unitrans eval``."""
    parser = Parser(
        "eval",
        "Judge a trained model on labelled data: figures with intervals, a table per class, a picture.",
        _EPILOG,
    )
    parser.add_argument(
        "--checkpoint", metavar="DIR", required=True, help="a run folder, a checkpoint, or an ensemble"
    )
    parser.add_argument(
        "--data",
        metavar="PATH",
        required=True,
        help="class folders or a table of images; a table with labels",
    )
    parser.add_argument(
        "--probe",
        metavar="KIND",
        help="instead of the model's own head a linear classifier (linear) or the 20 nearest neighbours (knn) on the "
        "encoder's vectors, fitted on --fit",
    )
    parser.add_argument("--fit", metavar="PATH", help="with --probe: labelled data to fit it on")
    parser.add_argument(
        "--output", metavar="DIR", help="where the files go, absent or empty (default: eval-N)"
    )
    parser.add_argument("--target", metavar="NAME", help="the column with the labels; several as a,b")
    add_reading_flags(parser)
    add_classes_flag(parser)
    return parser


def main(arguments: Sequence[str]) -> int:
    """Runs the command; see :func:`unitrans.cli.main` for the exit code."""
    options = make_parser().parse(list(arguments))
    output = options.output
    if output is None:
        output = next(name for name in (f"eval-{n}" for n in range(1, 10**6)) if not Path(name).exists())
    if (options.probe is None) != (options.fit is None):
        raise UsageError("--probe and --fit belong together: which classifier, and what it is fitted on")
    if options.probe is not None and options.classes is not None:
        raise UsageError(
            "--classes names the classes of the model's own head, and --probe fits another: leave it out"
        )
    from unitrans.errors import ConfigError
    from unitrans.use.evaluate import evaluate
    from unitrans.use.probe import probe

    folder = Path(output).expanduser()
    shared = {
        "batch_size": options.batch_size,
        "column": options.column,
        "files": options.image_folder,
        "image_size": options.image_size,
        "target": options.target,
        "say": print,
    }
    try:
        if options.probe is None:
            skipped = evaluate(options.checkpoint, options.data, folder, classes=options.classes, **shared)
        else:
            skipped = probe(options.checkpoint, options.probe, options.fit, options.data, folder, **shared)
    except ConfigError as error:
        raise UsageError(str(error)) from error
    print(f"written to {folder}: {', '.join(sorted(path.name for path in folder.iterdir()))}")
    if skipped:
        print(
            f"unitrans: {skipped:,} samples could not be judged: see {folder / 'skipped.txt'}",
            file=sys.stderr,
        )
    return 1 if skipped else 0
