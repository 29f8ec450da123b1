"""``unitrans train``."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence

from unitrans.cli.parser import Parser, UsageError

_EPILOG = """settings:
  key=value beats the --config file, and the file beats the defaults. The keys are data.*, model.*,
  objective.* and train.* (the names of transformers.TrainingArguments); --print-config explains them all.

examples:
  unitrans train                                        embedded digits, minutes on two CPU cores
  unitrans train --data photos train.max_steps=3        a quick look at your own images
  unitrans train --data photos --dry-run                what a whole run would cost
  unitrans train --data photos model.embed_dim=128 train.learning_rate=1e-3
  unitrans train --domain vision,text,graph             three kinds of signal in one batch, one trunk
  unitrans train --print-config --data photos > my.yaml
  unitrans train --config my.yaml                       the settings of a file
  unitrans train --config runs/vision-mim-1/config.yaml the same run again
  unitrans train --resume runs/vision-mim-1             go on where it stopped
"""


def make_parser() -> Parser:
    """The flags of ``unitrans train``."""
    parser = Parser("train", "Train a model by hiding part of each sample and predicting it.", _EPILOG)
    parser.add_argument(
        "--domain",
        metavar="NAME[,NAME]",
        help="what kind of data: vision (the default), text or graph; several of them in one batch with commas between",
    )
    parser.add_argument(
        "--objective", metavar="NAME", help="what is hidden and predicted, as mim, mlm, clm, classification"
    )
    parser.add_argument(
        "--data",
        metavar="PATH|NAME",
        help="a folder, a parquet file, a saved data set, a hub name, or an embedded set: digits (the default)",
    )
    for name in ("vision", "text", "graph"):
        parser.add_argument(
            f"--data.{name}", metavar="PATH|NAME", help=f"the same for {name} in a run on several domains"
        )
    parser.add_argument(
        "--target",
        metavar="COLUMN",
        help="the column with what is predicted, several as a,b (data.target of graphs, data.label_column of others)",
    )
    parser.add_argument(
        "--tokenizer",
        metavar="NAME|DIR",
        help="texts: a tokenizer of the hub or in a folder (data.tokenizer; without it one is trained)",
    )
    parser.add_argument(
        "--init",
        metavar="DIR",
        help="start from the weights of a run or checkpoint (images of other channels too), or for texts from a model "
        "folder of transformers",
    )
    parser.add_argument("--config", metavar="FILE", help="a YAML file of settings, or a shipped one by name")
    parser.add_argument(
        "--output", metavar="DIR", help="the run folder, absent or empty (default: runs/DOMAIN-OBJECTIVE-N)"
    )
    parser.add_argument(
        "--resume",
        metavar="DIR",
        nargs="?",
        const="",
        help="go on with a run or an ensemble (without DIR: the newest in runs/)",
    )
    parser.add_argument(
        "--accept-changed-data",
        action="store_true",
        help="with --resume: go on although the data are others than when the run began; its classes, scales and "
        "normalisation stay",
    )
    parser.add_argument(
        "--ensemble",
        metavar="K",
        type=int,
        help="train K runs that differ in their seed, for the spread of their predictions",
    )
    parser.add_argument(
        "--dry-run", action="store_true", help="time a few updates, say what a run costs; writes nothing"
    )
    parser.add_argument("--print-config", action="store_true", help="print every setting, explained, as YAML")
    parser.add_argument(
        "settings", metavar="key=value", nargs="*", help="settings, such as train.max_steps=100"
    )
    return parser


def _check(options: argparse.Namespace) -> None:
    for flag in ("data", "data.vision", "data.text", "data.graph", "config", "output"):
        if getattr(options, flag) == "":
            raise UsageError(f"--{flag} is empty: give it a value or leave it out")
    if options.resume is None:
        return
    if "=" in options.resume:
        options.settings.insert(0, options.resume)
    parts = ("data.vision", "data.text", "data.graph")
    for flag in ("domain", "objective", "data", *parts, "target", "tokenizer", "config", "init", "output"):
        if getattr(options, flag) is not None:
            raise UsageError(
                f"--resume goes on with the run as it was: leave --{flag} out, or start a new run"
            )
    for flag in ("dry_run", "print_config", "ensemble"):
        if getattr(options, flag):
            raise UsageError(f"--resume and --{flag.replace('_', '-')} exclude each other")
    if options.settings:
        raise UsageError(
            f"--resume goes on with the run as it was: leave {options.settings[0]} out, or start a new run with "
            "--config RUN/config.yaml and the settings"
        )


def main(arguments: Sequence[str]) -> int:
    """Runs the command; see :func:`unitrans.cli.main` for the exit code."""
    options = make_parser().parse(list(arguments))
    _check(options)
    # torch and transformers take seconds to import: only now.
    from unitrans.training.config import resolve

    if options.resume is not None:
        from unitrans.training.run import resume
        from unitrans.training.runs import find_run
        from unitrans.use.ensemble import is_ensemble, resume_ensemble

        run = find_run(options.resume)
        go_on = resume_ensemble if is_ensemble(run) else resume
        go_on(run, options.accept_changed_data)
        return 0
    if options.accept_changed_data:
        raise UsageError(
            "--accept-changed-data is for a run that goes on: give --resume DIR too, or leave it out"
        )
    parts = {name: getattr(options, f"data.{name}") for name in ("vision", "text", "graph")}
    settings = [f"data.{name}.path={json.dumps(path)}" for name, path in parts.items() if path is not None]
    config = resolve(
        domain=options.domain,
        objective=options.objective,
        data=options.data,
        config=options.config,
        init=options.init,
        target=options.target,
        tokenizer=options.tokenizer,
        settings=[*settings, *options.settings],
    )
    if options.print_config:
        print(config.to_yaml(), end="")
        return 0
    from unitrans.training.cost import dry_run
    from unitrans.training.run import train

    if options.dry_run:
        dry_run(config)
    elif options.ensemble is not None:
        from unitrans.use.ensemble import train_ensemble

        train_ensemble(config, options.output, options.ensemble)
    else:
        train(config, options.output)
    return 0
