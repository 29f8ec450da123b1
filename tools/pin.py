"""Writes constraints.txt: the installed versions of all that unitrans[dev] and its build ask for.

Run it in the environment whose tests have just passed:  .venv/bin/python tools/pin.py
"""

import sys
from importlib import metadata
from pathlib import Path

from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[1]
OLDEST_PYTHON = "3.10"
HEADER = """\
# The versions that are tested together; `make` installs exactly these. Written by tools/pin.py.
# A release that has no build for Python 3.10 is left open there.
"""


def closure(name: str, extras: frozenset[str]) -> set[str]:
    """All distributions that `name[extras]` needs here, itself included."""
    found: set[str] = set()
    waiting = [(canonicalize_name(name), extras)]
    seen = set()
    while waiting:
        item = waiting.pop()
        if item in seen:
            continue
        seen.add(item)
        found.add(item[0])
        for line in metadata.requires(item[0]) or []:
            requirement = Requirement(line)
            contexts = [{"extra": extra} for extra in item[1]] or [{"extra": ""}]
            if requirement.marker is None or any(requirement.marker.evaluate(c) for c in contexts):
                waiting.append((canonicalize_name(requirement.name), frozenset(requirement.extras)))
    return found


def pin(name: str) -> str:
    version = metadata.version(name).partition("+")[0]  # a local version names one build, not a release
    supported = SpecifierSet(metadata.metadata(name).get("Requires-Python") or "")
    marker = "" if f"{OLDEST_PYTHON}.99" in supported else f' ; python_version > "{OLDEST_PYTHON}"'
    return f"{name}=={version}{marker}"


def main() -> None:
    names = sorted(closure("unitrans", frozenset({"dev"})) - {"unitrans"})
    (ROOT / "constraints.txt").write_text(HEADER + "".join(pin(name) + "\n" for name in names))
    sys.stdout.write(f"constraints.txt: {len(names)} versions\n")


if __name__ == "__main__":
    main()
