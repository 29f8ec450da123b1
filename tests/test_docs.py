"""What the documents say is so: blocks run as written, links lead somewhere, drawings show the plans."""

import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from unitrans.cli import main

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"

pytestmark = pytest.mark.skipif(not DOCS.exists(), reason="not run from a checkout")

#: Put behind every `unitrans train` of a page, and nothing else is changed.
SHORT = "train.max_steps=2"


def blocks(page: str, *languages: str) -> Iterator[tuple[str, str]]:
    """(language, text) of the fenced blocks of a page in these languages, in order."""
    text = (DOCS / page).read_text(encoding="utf-8")
    yield from re.findall(rf"^```({'|'.join(languages)})\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)


def run_commands(text: str, page: str) -> None:
    """The lines of a `sh` block; `unitrans` in this process, since importing torch costs more than the command."""
    for line in text.splitlines():
        words = shlex.split(line, comments=True)
        if not words:
            continue
        assert words[0] == "unitrans", f"{page}: {line!r} is not a command of unitrans"
        short = [SHORT] if words[1] == "train" else []
        assert main([*words[1:], *short]) == 0, f"{page}: {line}"


@pytest.mark.slow
@pytest.mark.parametrize("page", ["start-vision.md", "start-text.md", "start-graph.md"])
def test_a_first_run(page: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if page == "start-graph.md":
        pytest.importorskip("torch_geometric")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("UNITRANS_CACHE", str(tmp_path / "cache"))
    names: dict[str, Any] = {}
    for language, text in blocks(page, "sh", "python"):
        if language == "sh":
            run_commands(text, page)
        else:
            exec(compile(text, page, "exec"), names)
