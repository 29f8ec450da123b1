"""Trains 12 updates with two checkouts and demands the same weights, optimizer, generators and log, bit for bit.

    python -m benchmarks.same_updates OLD NEW                      # every objective in every way
    python -m benchmarks.same_updates OLD NEW --only 'text-*/stop*'
    python -m benchmarks.same_updates OLD NEW --work DIR --reuse   # OLD's runs as an earlier call left them in DIR
    python -m benchmarks.same_updates OLD NEW --configurations     # what --print-config prints, byte for byte

In every cell OLD and NEW train, and NEW resumes what a kill of OLD's run leaves behind; in the ways that stop, both
resume their own run, and NEW resumes OLD's. All of them must end as OLD's run that nothing has interrupted.
"""

from __future__ import annotations

import argparse
import fnmatch
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

from benchmarks.commands import CommandLine, Done, Stop
from benchmarks.same_updates.cells import RESUMED, Cell, cells, write_data
from benchmarks.same_updates.compare import checkpoint, differences, steps_of
from benchmarks.same_updates.configurations import compare_configurations

REFUSED = 2  # the exit code of a command whose settings do not go together
STOPPED = 143  # and of one that SIGTERM has stopped
SHOWN = 6  # differences of a cell that are printed

#: Why, by cell, NEW does rightly what OLD did not: NEW must end as OLD's uninterrupted run, and OLD need not.
MENDED: dict[str, str] = {}


class UnequalError(Exception):
    """A command ended otherwise than expected."""


class Checkouts:
    """Both command lines, and the folder in which they work: data, old, new, crossed (OLD's runs resumed by NEW)."""

    def __init__(self, old: CommandLine, new: CommandLine, work: Path, added: list[str], reuse: bool) -> None:
        self.lines = {"old": old, "new": new, "crossed": new}
        self.work, self.added, self.reuse = work, added, reuse

    def run_of(self, who: str, name: str) -> Path:
        """A run folder."""
        return self.work / who / name.replace("/", "_")

    def command(self, who: str, cell: Cell, *, resume: bool = False, stop: Stop | None = None) -> Done:
        """Trains or resumes the run of a cell."""
        run = str(self.run_of(who, cell.name))
        arguments = ["train", "--resume", run] if resume else [*cell.arguments, "--output", run]
        return self.lines[who].run(self.work / "data", arguments, processes=cell.processes, stop=stop)

    def expect(
        self, code: int, who: str, cell: Cell, *, resume: bool = False, stop: Stop | None = None
    ) -> None:
        """The same. UnequalError, with what the command printed, where it ends otherwise."""
        done = self.command(who, cell, resume=resume, stop=stop)
        if done.code != code:
            printed = "\n".join(done.output.splitlines()[-12:])
            raise UnequalError(
                f"{who} {'resumed' if resume else 'trained'}: exit code {done.code}, not {code}\n{printed}"
            )

    def compare(self, expected: Path, got: Path, *, more_steps: bool = False) -> Iterator[str]:
        """Differences, each with the name of the run that has them."""
        for text in differences(expected, got, self.added, more_steps=more_steps):
            yield f"{got.parent.name}: {text}"


def examine(both: Checkouts, cell: Cell) -> list[str]:
    """What is not the same in a cell; an empty list where all is."""
    try:
        return list(_stopped(both, cell) if cell.stop else _trained(both, cell))
    except UnequalError as error:
        return [str(error)]


def _trained(both: Checkouts, cell: Cell) -> Iterator[str]:
    old, new, crossed = (both.run_of(who, cell.name) for who in ("old", "new", "crossed"))
    if not (both.reuse and (old / "summary.json").exists()):
        shutil.rmtree(old, ignore_errors=True)
        done = both.command("old", cell)
        if done.code == REFUSED:
            both.expect(REFUSED, "new", cell)
            return
        if done.code:
            raise UnequalError(f"old trained: exit code {done.code}\n{done.output[-2000:]}")
    both.expect(0, "new", cell)
    yield from both.compare(old, new)
    leave_as_killed(old, crossed)
    both.expect(0, "crossed", cell, resume=True)
    yield from both.compare(old, crossed)


def leave_as_killed(run: Path, copy: Path) -> None:
    """A copy of a finished run as SIGKILL leaves it some updates after a checkpoint: no later checkpoints, no report,
    links that lead nowhere, and rows of the log that will be written again."""
    shutil.copytree(run, copy, symlinks=True)
    for step in steps_of(copy):
        if step > RESUMED:
            shutil.rmtree(checkpoint(copy, step))
    (copy / "summary.json").unlink()


def _stopped(both: Checkouts, cell: Cell) -> Iterator[str]:
    plain, old, new, crossed = (
        both.run_of("old", f"{cell.objective}/plain"),
        *(both.run_of(who, cell.name) for who in ("old", "new", "crossed")),
    )
    whole = replace(cell, way="plain")
    if not (plain / "summary.json").exists():
        both.expect(0, "old", whole)
    kept = old.with_name(old.name + "_stopped")
    if not (both.reuse and (old / "summary.json").exists() and kept.exists()):
        for folder in (old, kept):
            shutil.rmtree(folder, ignore_errors=True)
        both.expect(STOPPED, "old", cell, stop=cell.stop)
        shutil.copytree(old, kept, symlinks=True)
        both.expect(0, "old", cell, resume=True)
    both.expect(STOPPED, "new", cell, stop=cell.stop)
    mended = cell.name in MENDED
    if not mended:
        yield from both.compare(kept, new)
        yield from both.compare(plain, old, more_steps=True)
    shutil.copytree(kept, crossed, symlinks=True)
    for who, run in (("new", new), ("crossed", crossed)):
        both.expect(0, who, cell, resume=True)
        yield from both.compare(plain, run, more_steps=True)


def interpreter(checkout: Path, given: str | None) -> str:
    """The Python of a checkout: the one given, its own, else this one."""
    own = checkout / ".venv" / "bin" / "python"
    return given or (str(own) if own.exists() else sys.executable)


def make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.same_updates",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("old", type=Path, metavar="OLD", help="a checkout that is right")
    parser.add_argument("new", type=Path, metavar="NEW", help="a checkout to be judged")
    parser.add_argument(
        "--old-python", metavar="FILE", help="its interpreter (default: OLD/.venv/bin/python)"
    )
    parser.add_argument(
        "--new-python", metavar="FILE", help="its interpreter (default: NEW/.venv/bin/python)"
    )
    parser.add_argument("--only", metavar="GLOB", action="append", help="cells of these names; repeatable")
    parser.add_argument("--list", action="store_true", help="print the names of the cells and end")
    parser.add_argument(
        "--configurations", action="store_true", help="compare configurations in place of runs"
    )
    parser.add_argument(
        "--added",
        metavar="KEY",
        action="append",
        default=[],
        help="a key that NEW may add to configurations, rows of the log and summaries; repeatable",
    )
    parser.add_argument(
        "--work", metavar="DIR", type=Path, help="keep the runs there (default: they are removed)"
    )
    parser.add_argument("--reuse", action="store_true", help="take OLD's runs as they are in --work")
    return parser


def examine_all(both: Checkouts, chosen: list[Cell]) -> Iterator[tuple[str, str, list[str]]]:
    """(name, verdict, differences) of every cell."""
    for cell in chosen:
        found = examine(both, cell)
        refused = not both.run_of("old", cell.name).exists()
        yield cell.name, "differs" if found else "refused by both" if refused else "equal", found


def main() -> int:
    parser = make_parser()
    options = parser.parse_args()
    chosen = [c for c in cells() if any(fnmatch.fnmatch(c.name, glob) for glob in options.only or ["*"])]
    if options.list or not chosen:
        print("\n".join(cell.name for cell in chosen or cells()))
        return 0 if options.list else parser.error(f"no cell is named {options.only}; above are all names")
    old, new = options.old.resolve(), options.new.resolve()
    start = begin = time.monotonic()
    unequal = count = 0
    with ExitStack() as stack:
        work = (options.work or Path(stack.enter_context(tempfile.TemporaryDirectory()))).resolve()
        for who in ("new", "crossed", *(() if options.reuse else ("old",))):
            shutil.rmtree(work / who, ignore_errors=True)
        (work / "data").mkdir(parents=True, exist_ok=True)
        write_data(work / "data")
        first, second = (
            stack.enter_context(CommandLine(checkout, interpreter(checkout, python)))
            for checkout, python in ((old, options.old_python), (new, options.new_python))
        )
        results: Iterator[tuple[str, str, list[str]]]
        if options.configurations:
            compared = compare_configurations(first, second, work / "data", options.added)
            results = ((name, "differs" if found else "equal", found) for name, found in compared)
        else:
            results = examine_all(Checkouts(first, second, work, options.added, options.reuse), chosen)
        for name, verdict, found in results:
            print(f"{name:45} {verdict:16} {time.monotonic() - start:5.1f} s", flush=True)
            for line in found[:SHOWN]:
                print(f"    {line}")
            if len(found) > SHOWN:
                print(f"    ... {len(found)} lines in all")
            start, count, unequal = time.monotonic(), count + 1, unequal + bool(found)
    print(f"{count - unequal} of {count} are the same ({time.monotonic() - begin:.0f} s)")
    return 1 if unequal else 0


if __name__ == "__main__":
    sys.exit(main())
