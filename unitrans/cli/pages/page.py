"""One self-contained HTML page: a title, facts, and sections of text, tables, charts and pictures.

A plain ``str`` is text and is escaped; ``Html`` is markup made here or by ``charts``. A page refers to nothing outside
itself, and its content security policy forbids scripts and the network.
"""

from __future__ import annotations

import base64
import html
import math
import re
from collections.abc import Iterable, Sequence
from pathlib import Path

from unitrans.cli.pages.style import STYLE

_UNSEEN = re.compile(r"[\x00-\x08\x0b-\x1f\x7f\ud800-\udfff\ufffe\uffff\u202a-\u202e\u2066-\u2069]")
_POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:"


class Html(str):
    """Markup that is safe to put into a page as it is."""

    __slots__ = ()


Cell = str | int | float | bool | None


def escape(text: object) -> Html:
    """Text as markup; signs that cannot be shown, or that turn the direction of writing, become U+FFFD."""
    return text if isinstance(text, Html) else Html(html.escape(seen(str(text))))


def seen(text: str) -> str:
    """The text with U+FFFD for what cannot be shown."""
    return _UNSEEN.sub("\ufffd", text)


def number(value: float) -> str:
    """A number to read: whole ones with thousands apart, others with four digits."""
    if isinstance(value, int) or (math.isfinite(value) and value == int(value) and 1000 <= abs(value) < 1e15):
        return f"{int(value):,}"
    if math.isfinite(value) and 1000 <= abs(value) < 1e7:
        return f"{value:,.0f}"
    return f"{value:.4g}"


def join(parts: Iterable[str]) -> Html:
    """Parts one behind the other; each plain text becomes a paragraph."""
    return Html("\n".join(part if isinstance(part, Html) else paragraph(part) for part in parts))


def paragraph(text: str) -> Html:
    """A paragraph."""
    return Html(f"<p>{escape(text)}</p>")


def bullets(texts: Iterable[str]) -> Html:
    """A list."""
    return Html("<ul>" + "".join(f"<li>{escape(text)}</li>" for text in texts) + "</ul>")


def note(text: str) -> Html:
    """What the reader must not miss, such as a piece that is not there."""
    return Html(f'<p class="note">{escape(text)}</p>')


def code(text: str) -> Html:
    """A command, as it is typed, in a line of its own that scrolls."""
    return Html(f'<div class="scroll"><pre class="code">{escape(text)}</pre></div>')


def heading(text: str) -> Html:
    """A heading inside a section."""
    return Html(f"<h3>{escape(text)}</h3>")


def details(summary: str, parts: Iterable[str]) -> Html:
    """Parts that are folded away under a summary."""
    return Html(f"<details><summary>{escape(summary)}</summary>\n{join(parts)}\n</details>")


def table(
    headers: Sequence[str],
    rows: Iterable[Sequence[Cell]],
    caption: str | None = None,
    strong: Iterable[int] = (),
) -> Html:
    """A table that scrolls inside its own box where the screen is narrower.

    Args:
        headers: one for each column; no line of them is written where all are empty.
        rows: cells; numbers stand at the right, formatted by :func:`number`; None is a dash.
        caption: a sentence above it.
        strong: the numbers of the rows to stress.
    """
    rows, stressed = [list(row) for row in rows], set(strong)
    for row in rows:
        if len(row) != len(headers):
            raise ValueError(
                f"a row of a table: expected {len(headers)} cells as {list(headers)}, got {len(row)}"
            )
    columns = [[row[k] for row in rows if row[k] is not None] for k in range(len(headers))]
    right = [
        bool(column) and all(isinstance(c, (int, float)) and not isinstance(c, bool) for c in column)
        for column in columns
    ]
    lengths = [max((len(str(cell)) for cell in column), default=0) for column in columns]
    kinds = [
        ' class="number"' if numeric else ' class="words"' if length > 24 else ""
        for numeric, length in zip(right, lengths, strict=True)
    ]

    def line(tag: str, cells: Sequence[Cell], kind: str = "") -> str:
        inside = "".join(f"<{tag}{k}>{_cell(cell)}</{tag}>" for k, cell in zip(kinds, cells, strict=True))
        return f"<tr{kind}>{inside}</tr>"

    body = "\n".join(
        line("td", row, ' class="strong"' if i in stressed else "") for i, row in enumerate(rows)
    )
    title = "" if caption is None else f"<caption>{escape(caption)}</caption>"
    head = f"<thead>{line('th', headers)}</thead>" if any(headers) else ""
    return Html(f'<div class="scroll"><table>{title}\n{head}\n<tbody>\n{body}\n</tbody></table></div>')


def _cell(value: Cell) -> str:
    if value is None:
        return "–"
    if isinstance(value, (bool, str)):
        return escape(value)
    return escape(number(value))


def figure(content: Html, title: str = "", caption: str = "") -> Html:
    """Content with a title above and a caption below it."""
    above = heading(title) if title else ""
    below = f"<figcaption>{escape(caption)}</figcaption>" if caption else ""
    return Html(f"<figure>{above}{content}{below}</figure>")


def side_by_side(figures: Iterable[Html]) -> Html:
    """Figures in a grid of two columns, of one on a phone."""
    return Html('<div class="charts">\n' + "\n".join(figures) + "\n</div>")


def picture(image: Path | bytes, title: str, caption: str = "") -> Html:
    """A PNG inside the page, with its title for those who do not see it.

    Raises:
        ValueError: it is no PNG.
    """
    content = image if isinstance(image, bytes) else image.read_bytes()
    if content[:8] != b"\x89PNG\r\n\x1a\n" or len(content) < 24:
        name = "the picture" if isinstance(image, bytes) else str(image)
        raise ValueError(f"{name}: expected a PNG, got {content[:8]!r}")
    width = int.from_bytes(content[16:20], "big")
    data = base64.b64encode(content).decode()
    kind = ' class="large"' if width > 900 else ""  # on a phone it scrolls rather than to become too small
    img = f'<img{kind} alt="{escape(title)}" style="--width: {width}px" src="data:image/png;base64,{data}">'
    return figure(Html(f'<div class="scroll picture">{img}</div>'), title, caption)


def page(title: str, facts: Sequence[str], sections: Sequence[tuple[str, Sequence[str]]]) -> str:
    """The whole page.

    Args:
        title: its heading.
        facts: short ones on one line below it: version, processor, date.
        sections: (heading, parts); a part is text, or Html made by the functions of this module and of ``charts``.
    """
    line = "".join(f"<span>{escape(fact)}</span> " for fact in facts)
    links = "".join(f'<a href="#s{i}">{escape(head)}</a> ' for i, (head, _) in enumerate(sections))
    contents = f'<nav class="contents">{links}</nav>' if len(sections) > 2 else ""
    body = "\n".join(
        f'<section id="s{i}">\n<h2>{escape(head)}</h2>\n{join(parts)}\n</section>'
        for i, (head, parts) in enumerate(sections)
    )
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(title)}</title>\n<style>{STYLE}</style>\n</head>\n<body>\n"
        f'<header>\n<h1>{escape(title)}</h1>\n<p class="facts">{line}</p>\n{contents}\n</header>\n'
        f"<main>\n{body}\n</main>\n</body>\n</html>\n"
    )
