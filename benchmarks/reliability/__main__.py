"""See the package."""

from __future__ import annotations

import argparse
import datetime
import sys
import tempfile
import time
import traceback
from collections.abc import Sequence
from pathlib import Path

from benchmarks.reliability import page, shared, warm
from benchmarks.reliability.kinds import HERE, KINDS


def make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.reliability",
        description="Kills, damage, wrong settings, hostile files, full disks.",
    )
    parser.add_argument("--minutes", type=float, default=30.0, help="in all (default: 30)")
    parser.add_argument(
        "--seed", type=int, default=0, help="of what is drawn; a seed goes on where it stopped"
    )
    parser.add_argument(
        "--kinds", nargs="+", choices=HERE, default=HERE, metavar="KIND", help=", ".join(KINDS)
    )
    parser.add_argument("--number", type=int, help="this trial of the one kind alone; its files are kept")
    parser.add_argument(
        "--output",
        type=Path,
        default=Path("build/reliability"),
        help="a results file per seed (default: build/reliability)",
    )
    parser.add_argument(
        "--page", type=Path, default=Path("docs/reliability.md"), help="default: docs/reliability.md"
    )
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Prints a line per kind; 1 where there was a fault."""
    parser = make_parser()
    options = parser.parse_args(arguments)
    if options.number is not None and len(options.kinds) != 1:
        parser.error("--number is one of one kind: give --kinds KIND too")
    options.output.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="reliability-") as temporary:
        work = Path(temporary).resolve()
        if options.number is not None:
            work = (options.output / f"{options.kinds[0]}-{options.seed}-{options.number}").resolve()
            work.mkdir(exist_ok=True)
        warm.load(work)
        if options.number is not None:
            tally = shared.Tally()
            attempt(KINDS[options.kinds[0]](options.seed, work), options.number, tally)
            print(dict(tally.counts), *tally.faults, f"files: {work}", sep="\n")
            return int(bool(tally.faults))
        tallies = campaign(options, work)
    page.write(options.page, options.output)
    print(page.table(tallies))
    return int(any(tally.faults for tally in tallies.values()))


def campaign(options: argparse.Namespace, work: Path) -> dict[str, shared.Tally]:
    """Each kind for its share of the minutes, from where this seed stopped. Results are written as they come."""
    path = options.output / f"seed-{options.seed}.json"
    tallies = shared.read(path)
    head = page.machine() | {"seed": options.seed, "date": datetime.date.today().isoformat()}
    whole = sum(KINDS[name].share for name in options.kinds)
    for name in options.kinds:
        tally = tallies.setdefault(name, shared.Tally())
        begin = last = time.monotonic()
        end = begin + 60 * options.minutes * KINDS[name].share / whole
        kind = KINDS[name](options.seed, work)
        first = True
        while first or time.monotonic() < end:
            first = False
            before = len(tally.faults)
            attempt(kind, tally.next_number, tally)
            for words in tally.faults[before:]:
                print(f"{name}: {words}", flush=True)
            tally.next_number += 1
            now = time.monotonic()
            tally.seconds, last = tally.seconds + now - last, now
            shared.write(path, head, tallies)
        print(f"{name}: {tally.tried} tried, {dict(tally.counts)}", flush=True)
    return tallies


def attempt(kind: shared.Kind, number: int, tally: shared.Tally) -> None:
    """A trial; an error of the campaign itself is a fault as well, so that nobody overlooks it. Faults say how they
    are repeated."""
    before = len(tally.faults)
    try:
        kind.trial(number, tally)
    except Exception:
        tally.add(shared.FAULT, f"the trial itself: {traceback.format_exc()[-600:]}")
    seed = getattr(kind, "seed", 0)
    for place in range(before, len(tally.faults)):
        again = f"python -m benchmarks.reliability --kinds {kind.name} --seed {seed} --number {number}"
        tally.faults[place] = f"{' '.join(tally.faults[place].split())} (again: {again})"


if __name__ == "__main__":
    sys.exit(main())
