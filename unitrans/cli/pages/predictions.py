"""Sentences from predictions.html on a page: its text and the marks for right and wrong, and nothing else of it."""

from __future__ import annotations

from html.parser import HTMLParser

from unitrans.cli.pages.page import Html, details, escape

SHOWN = 5  # the others are folded away
_CLASSES = {"right", "wrong", "other"}
_SKIPPED = ("style", "script", "title", "head")


class _Sentences(HTMLParser):
    """Collects the paragraphs and the heading; every piece of text is escaped again."""

    def __init__(self) -> None:
        super().__init__()
        self.title = ""
        self.paragraphs: list[str] = []
        self.open: list[str] = []
        self.skipping = 0
        self.in_title = False

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag in _SKIPPED[:3]:
            self.skipping += 1
        elif tag == "h1":
            self.in_title = True
        elif tag == "p":
            self._finish()
            self.paragraphs.append("")
        elif tag in ("span", "s", "small", "br") and self.paragraphs:
            kinds = " ".join(k for k in (dict(attrs).get("class") or "").split() if k in _CLASSES)
            self.paragraphs[-1] += f'<{tag} class="{kinds}">' if kinds else f"<{tag}>"
            if tag != "br":
                self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag in _SKIPPED[:3]:
            self.skipping = max(0, self.skipping - 1)
        elif tag == "h1":
            self.in_title = False
        elif tag == "p":
            self._finish()
        elif self.open and self.open[-1] == tag:
            self.paragraphs[-1] += f"</{self.open.pop()}>"

    def handle_data(self, data: str) -> None:
        if self.skipping:
            return
        if self.in_title:
            self.title += data
        elif self.paragraphs:
            self.paragraphs[-1] += escape(data)

    def _finish(self) -> None:
        while self.open:
            self.paragraphs[-1] += f"</{self.open.pop()}>"


def sentences(text: str) -> tuple[str, list[Html]]:
    """The heading of a predictions.html, and its sentences: the first ones, and the others folded away."""
    reader = _Sentences()
    reader.feed(text)
    reader.close()
    reader._finish()
    parts = [Html(f'<p class="sentence">{one}</p>') for one in reader.paragraphs if one.strip()]
    shown = parts[:SHOWN]
    if len(parts) > SHOWN:
        shown.append(details(f"{len(parts) - SHOWN} more", parts[SHOWN:]))
    return reader.title.strip(), shown
