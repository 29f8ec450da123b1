"""What the documents say is so: blocks run as written, links lead somewhere, names exist, drawings show the plans."""

import re
import runpy
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from unitrans.cli import COMMANDS, main

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"

pytestmark = pytest.mark.skipif(not (ROOT / "mkdocs.yml").exists(), reason="not run from a checkout")

PAGES = [
    *sorted(DOCS.rglob("*.md")),
    *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md")),
]
TEXTS = {page: page.read_text(encoding="utf-8") for page in PAGES if page.exists()}

#: Put behind every `unitrans train` of a page that is run, and nothing else is changed.
SHORT = "train.max_steps=2"
RUN = ["start-vision.md", "start-text.md", "start-graph.md", "moving.md"]


def blocks(page: Path, *languages: str) -> Iterator[tuple[str, str]]:
    """(language, text) of the fenced blocks of a page in these languages, in order."""
    yield from re.findall(rf"^```({'|'.join(languages)})\n(.*?)^```$", TEXTS[page], re.DOTALL | re.MULTILINE)


def run_commands(text: str) -> None:
    """The lines of a `sh` block; `unitrans` in this process, since importing torch costs more than the command."""
    for line in text.splitlines():
        words = shlex.split(line, comments=True)
        assert words and words[0] == "unitrans", f"{line!r} is not a command of unitrans"
        short = [SHORT] if words[1] == "train" else []
        assert main([*words[1:], *short]) == 0, line


@pytest.mark.slow
@pytest.mark.parametrize("name", RUN)
def test_pages_run_as_written(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if "torch_geometric" in TEXTS[DOCS / name]:
        pytest.importorskip("torch_geometric")
        pytest.importorskip("rdkit")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("UNITRANS_CACHE", str(tmp_path / "cache"))
    names: dict[str, Any] = {}
    for language, text in blocks(DOCS / name, "sh", "python"):
        if language == "sh":
            run_commands(text)
        else:
            exec(compile(text, name, "exec"), names)


def test_commands_are_run_on_no_other_page() -> None:
    """`sh` is the mark of blocks that are run."""
    others = [page.name for page in TEXTS if page.name not in RUN and list(blocks(page, "sh"))]
    assert others == []


@pytest.mark.parametrize(("name", "last"), [("architecture.md", 0), ("extending.md", -1)])
def test_examples_with_assertions(name: str, last: int) -> None:
    _, code = list(blocks(DOCS / name, "python"))[last]
    assert "assert" in code
    exec(compile(code, name, "exec"), {})


def test_the_code_of_extending_is_that_of_the_tests() -> None:
    """Signatures are shown without types; every other line of the toy examples stands in a file that is run."""

    def lines(text: str) -> list[str]:
        bare = (line.split("  #")[0].strip() for line in text.splitlines())
        return [line for line in bare if line]

    files = (ROOT / "tests/training/toy_objective.py", ROOT / "tests/training/toy_domain.py")
    run = {line for file in files for line in lines(file.read_text())}
    _, objective, model, domain, _ = (code for _, code in blocks(DOCS / "extending.md", "python"))
    shown = [line for code in (objective, model, domain) for line in lines(code)]
    unknown = [line for line in shown if line not in run and not line.startswith(("def ", "..."))]
    assert len(shown) > 60 and unknown == []


# ---------------------------------------------------------------- links and names


def anchors(text: str) -> set[str]:
    """The anchors that GitHub gives the headings of a page."""
    prose = re.sub(r"^```.*?^```$", "", text, flags=re.DOTALL | re.MULTILINE)
    titles = re.findall(r"^#+ +(.+?) *$", prose, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


@pytest.mark.parametrize("page", TEXTS, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    prose = re.sub(r"^```.*?^```$", "", TEXTS[page], flags=re.DOTALL | re.MULTILINE)
    for link in re.findall(r"\]\(([^)\s]+)\)", prose):
        if link.startswith(("http://", "https://")):
            continue
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        assert target.exists(), f"{link}: there is no such file"
        if anchor:
            assert anchor in anchors(TEXTS[target]), f"{link}: no such heading"


def test_every_command_that_is_written_exists(capsys: pytest.CaptureFixture[str]) -> None:
    """Commands, their options and the recipes they name, on all pages; settings are checked where pages are run."""
    help_of: dict[str, str] = {}
    count = 0
    for page, text in TEXTS.items():
        for line in re.findall(r"^(?: {4}|)(?:\.venv/bin/)?(unitrans [a-z].*)$", text, re.MULTILINE):
            words = line.split("#")[0].split()
            name = words[1]
            if name == "COMMAND" or page.name == "CHANGELOG.md":
                continue
            assert name in COMMANDS, f"{page.name}: {line}"
            if name not in help_of:
                with pytest.raises(SystemExit):
                    main([name, "--help"])
                help_of[name] = capsys.readouterr().out
            for option in re.findall(r"(?<= )--[a-z][a-z.-]*", line.split("#")[0]):
                assert option in help_of[name], f"{page.name}: {line}: no option {option}"
            for recipe in re.findall(r"recipes/[\w-]+", line):
                assert (ROOT / "configs" / f"{recipe}.yaml").is_file(), f"{page.name}: {line}"
            count += 1
    assert count > 60


def test_every_test_that_is_named_exists() -> None:
    files = [*(ROOT / "tests").rglob("*.py")]
    known = {path.stem for path in files} | {
        name for path in files for name in re.findall(r"def (test_\w+)", path.read_text())
    }
    named = {name for text in TEXTS.values() for name in re.findall(r"\btest_\w+", text)} - {"test_x"}
    assert len(named) > 30 and named - known == set()


def test_drawings_show_the_plans_of_today() -> None:
    drawings = runpy.run_path(str(ROOT / "tools/drawings.py"))
    for name, draw in drawings["DRAWINGS"].items():
        kept = (drawings["IMAGES"] / f"plan-{name}.svg").read_text(encoding="utf-8")
        assert kept == draw(), f"{name}: run tools/drawings.py"
