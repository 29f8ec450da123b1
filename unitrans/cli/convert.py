"""``unitrans convert``: weights of other code bases into ours, and back."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from unitrans.cli.parser import Parser, UsageError, nearest
from unitrans.models.registry import families

_EPILOG = """examples:
  unitrans convert weights.pth ours                                a folder of ours, for --init and unitrans.load
  unitrans convert weights.pth wide image_size=384 window_size=12  position tables resized as published
  unitrans convert OWNER/NAME ours                                 a name on the hub, where there is no such file
  unitrans convert runs/text-mlm-1 theirs --to hf                  from_pretrained("theirs") of transformers opens it
  unitrans convert runs/vision-mim-1 theirs.safetensors --to official
"""


def layouts() -> list[str]:
    """Names of the layouts of all families, those of transformers as "hf"."""
    found = dict.fromkeys(name for family in families().values() for name in family.layouts)
    return ["hf", *sorted(name for name in found if not name.startswith("hf"))]


def make_parser() -> Parser:
    """The flags of ``unitrans convert``."""
    parser = Parser(
        "convert", "Read the weights of one code base, write them under the names of another.", _EPILOG
    )
    parser.add_argument(
        "source", metavar="SRC", help="a run, a checkpoint, a folder or file of weights, or a name on the hub"
    )
    parser.add_argument("output", metavar="DIR", help="the folder or file to write, absent or empty")
    parser.add_argument(
        "--from",
        dest="layout",
        metavar="LAYOUT",
        default="auto",
        help=f"whose names the source has: auto, {', '.join(layouts())} (default: told by the names)",
    )
    parser.add_argument(
        "--to",
        default="unitrans",
        metavar="LAYOUT",
        help="unitrans (default): a folder of ours; hf: a folder that transformers opens; another layout, such as "
        "official, timm, v1 or v2: a file under the names of that code",
    )
    parser.add_argument("--encoder", action="store_true", help="leave the head out")
    parser.add_argument(
        "--lenient", action="store_true", help="list what is missing or left over instead of refusing it"
    )
    parser.add_argument(
        "--class-map",
        metavar="FILE",
        help="a line per class that is wanted: its number among the classes of the source",
    )
    parser.add_argument(
        "settings", metavar="key=value", nargs="*", help="of the model, such as image_size=384 num_heads=12"
    )
    return parser


def main(arguments: Sequence[str]) -> int:
    """Runs the command; see :func:`unitrans.cli.main` for the exit code."""
    options = make_parser().parse(list(arguments))
    known_layouts = layouts()
    for flag, value, known in (
        ("--to", options.to, ["unitrans", *known_layouts]),
        ("--from", options.layout, ["auto", *known_layouts]),
    ):
        if value not in known:
            raise UsageError(f"{flag} {value}: expected one of {', '.join(known)}{nearest(value, known)}")
    output = Path(options.output).expanduser()
    if output.exists() and not (output.is_dir() and not any(output.iterdir())):
        raise UsageError(f"{output} is there already: name a path that is absent, or an empty folder")
    from unitrans.errors import ConfigError, user_errors
    from unitrans.training.config import read_settings
    from unitrans.use.convert import convert

    settings = [text if text.startswith("model.") else f"model.{text}" for text in options.settings]
    try:
        overrides = read_settings(settings).get("model", {})
        with user_errors():
            lines = convert(
                options.source,
                options.to,
                output,
                layout="hf4" if options.layout == "hf" else options.layout,
                encoder_only=options.encoder,
                lenient=options.lenient,
                class_map=None if options.class_map is None else _numbers(options.class_map),
                overrides=overrides,
            )
    except ConfigError as error:
        raise UsageError(str(error)) from error
    for line in lines:
        print(line)
    return 0


def _numbers(name: str) -> list[int]:
    try:
        return [int(line) for line in Path(name).expanduser().read_text().split()]
    except (OSError, ValueError) as error:
        raise UsageError(
            f"--class-map {name}: expected a file with a number in every line ({error})"
        ) from None
