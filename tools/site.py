"""What the site needs beside mkdocs: links to files of the repository, and attributes that are explained together.

Pages may link to files of the repository. On GitHub `../tests/training/toy_objective.py` opens the file; here it is
copied below `repository/`. A link to a file that does not exist stays as it is, and `mkdocs build --strict` refuses it.
"""

import re
from pathlib import Path
from typing import Any

import griffe
from mkdocs.structure.files import File, Files

ROOT = Path(__file__).parents[1]
TOGETHER = re.compile(r"^ *\w+(?:, \w+)+: ", re.MULTILINE)
LINK = re.compile(r"(?<=\]\()(?:\.\./)+(?P<path>[^)#\s]+)(?P<anchor>#[^)\s]*)?(?=\))")


def on_page_markdown(markdown: str, page: Any, config: Any, files: Files) -> str:
    """Redirects the links that leave docs/ to copies of the files they name."""
    folder = (Path(config.docs_dir) / page.file.src_uri).parent

    def redirected(link: re.Match[str]) -> str:
        target = (folder / link[0].partition("#")[0]).resolve()
        if not target.is_relative_to(ROOT) or target.is_relative_to(config.docs_dir) or not target.is_file():
            return link[0]
        name = f"repository/{target.relative_to(ROOT)}" + (".txt" if target.suffix == ".md" else "")
        if files.get_file_from_path(name) is None:
            files.append(File.generated(config, name, abs_src_path=str(target)))
        return "../" * page.file.src_uri.count("/") + name

    return LINK.sub(redirected, markdown)


class AttributesTogether(griffe.Extension):
    """`mean, std: of value` in a list of attributes names two; griffe would take the second for a type."""

    def on_object(self, *, obj: griffe.Object, **kwargs: Any) -> None:
        """Ties such names by spaces that do not part words."""
        before, title, listed = (obj.docstring.value if obj.docstring else "").partition("Attributes:\n")
        if obj.docstring is not None and title:
            tied = TOGETHER.sub(lambda names: names[0].replace(", ", ",\u00a0"), listed)
            obj.docstring.value = before + title + tied
