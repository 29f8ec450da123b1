"""Instruction counts of the torch-free benchmark under callgrind: the same on every run of one build.

`python -m benchmarks.instructions` compares with benchmarks/instructions.json; `--update` writes it. valgrind has
no AVX-512, so what is counted are the AVX2 kernels (x86-64-v3).
"""

from __future__ import annotations

import argparse
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
#: Of the newest build of a checkout; where there is none, the path says what is missing.
PROGRAM = max(
    ROOT.glob("build/cp3*/cpp/tests/bench_attention"),
    key=lambda program: program.stat().st_mtime,
    default=ROOT / "build/cp3*/cpp/tests/bench_attention",
)
BASELINE = Path(__file__).with_name("instructions.json")

#: Compilers differ; a change of the algorithm that matters is larger.
BOUND = 1.25

SHAPES = (
    "windows 49, d 32, in cache",
    "visible 20 of 49, in cache",
    "packed 96, in cache",
    "molecules, in cache",
)


def missing(program: Path = PROGRAM) -> str | None:
    """Why nothing can be counted here, in words; None if it can."""
    if shutil.which("valgrind") is None:
        return "valgrind is not installed"
    if not program.exists():
        return f"{program} is not there; `make test` builds it"
    return None


def count(shape: str, dtype: str, which: str, program: Path = PROGRAM) -> int:
    """Instructions of one call of the core."""
    command = [
        *("valgrind", "--tool=callgrind", "--callgrind-out-file=/dev/null", "--collect-atstart=no"),
        f"--toggle-collect=unitrans::attention_{which}*",
        *(str(program), "--ms", "0", "--isa", "avx2", "--shape", shape, "--dtype", dtype, "--pass", which),
    ]
    result = subprocess.run(command, capture_output=True, text=True, check=True)
    found = re.search(r"Collected : (\d+)", result.stderr)
    if found is None or int(found.group(1)) == 0:
        raise RuntimeError(f"callgrind counted nothing for {shape}, {dtype}, {which}: {result.stderr[-300:]}")
    return int(found.group(1))


def counts(program: Path = PROGRAM) -> dict[str, int]:
    """Of every shape, dtype and pass."""
    return {
        f"{shape} / {dtype} / {which}": count(shape, dtype, which, program)
        for shape in SHAPES
        for dtype in ("float32", "bfloat16")
        for which in ("forward", "backward")
    }


def exceeding(measured: dict[str, int], baseline: dict[str, int]) -> list[str]:
    """What takes more instructions than the bound allows, in words."""
    return [
        f"{name}: {number} instructions, {number / baseline[name]:.2f} of the {baseline[name]} noted"
        for name, number in measured.items()
        if number > BOUND * baseline[name]
    ]


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.instructions", description=__doc__)
    parser.add_argument("--update", action="store_true", help="write the counts as the new baseline")
    arguments = parser.parse_args()
    if (reason := missing()) is not None:
        print(reason, file=sys.stderr)
        return 2
    measured = counts()
    if arguments.update:
        BASELINE.write_text(json.dumps(measured, indent=1) + "\n")
    baseline = json.loads(BASELINE.read_text())
    for name, number in measured.items():
        print(f"{name:55} {number:12,}  {number / baseline[name]:.3f}")
    problems = exceeding(measured, baseline)
    print("\n".join(problems))
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
