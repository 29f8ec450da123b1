"""What ``--print-config`` prints of every shipped configuration and every default, with two checkouts."""

from __future__ import annotations

import difflib
from collections.abc import Collection, Iterator
from pathlib import Path

from benchmarks.commands import CommandLine
from benchmarks.same_updates.cells import OBJECTIVES


def printed_configurations(checkout: Path) -> Iterator[tuple[str, list[str]]]:
    """Name and flags of everything that is printed."""
    folder = checkout / "configs"
    for file in sorted(folder.rglob("*.yaml")):
        name = str(file.relative_to(folder).with_suffix(""))
        yield name, ["--config", name]
    for name, (flags, _) in OBJECTIVES.items():
        yield f"the default of {name} with data", flags
        bare = [] if name.startswith("joint") else flags[:4]
        yield f"the default of {name} without", bare or ["--domain", "vision,text,graph"]


def without(text: str, added: Collection[str]) -> list[str]:
    """The lines of a configuration but for these keys, their comments and what is beneath them."""
    kept: list[str] = []
    comment: list[str] = []
    dropped: int | None = None  # the indentation of a key that is left out
    for line in text.splitlines():
        indent = len(line) - len(line.lstrip())
        if line.lstrip().startswith("#"):
            comment.append(line)
            continue
        if dropped is not None and line.strip() and indent > dropped:
            comment = []
            continue
        dropped = indent if line.partition(":")[0].strip() in added else None
        if dropped is None:
            kept += [*comment, line]
        comment = []
    return kept + comment


def compare_configurations(
    old: CommandLine, new: CommandLine, folder: Path, added: Collection[str]
) -> Iterator[tuple[str, list[str]]]:
    """(name, lines that differ) of every configuration, run in the folder with the data."""
    for name, flags in printed_configurations(old.checkout):
        arguments = ["train", *flags, "--print-config"]
        first, second = (line.run(folder, arguments) for line in (old, new))
        differing = []
        if first.code != second.code:
            differing = [f"exit code {first.code} became {second.code}", *second.output.splitlines()[-3:]]
        elif first.output != second.output:
            lines = first.output.splitlines(), without(second.output, added)
            differing = list(difflib.unified_diff(*lines, "old", "new", lineterm="", n=0))
        yield name, differing
