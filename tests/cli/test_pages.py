"""The page builder: one file, everything escaped, charts that follow the page's colours."""

from __future__ import annotations

import io
import math
import re

import pytest
from html_reader import Reader
from PIL import Image

from unitrans.cli.pages import charts
from unitrans.cli.pages.page import Html, code, details, note, number, page, picture, table
from unitrans.cli.pages.style import STYLE

HOSTILE = "</svg><script>alert('x')</script>&\"$\\frac{\x00\u202e#010101 id=\"a"


def png(width: int = 3, height: int = 2) -> bytes:
    file = io.BytesIO()
    Image.new("L", (width, height), 128).save(file, "PNG")
    return file.getvalue()


@pytest.fixture(scope="module")
def whole() -> str:
    x = [1, 2, 4, 8]
    line = charts.Line(HOSTILE, x, [3 * v**1.5 for v in x], ([2.0 * v for v in x], [9.0 * v for v in x]))
    parts = [
        HOSTILE,
        note(HOSTILE),
        code(HOSTILE),
        details(HOSTILE, [HOSTILE]),
        table([HOSTILE, "n"], [[HOSTILE, 1.5], [None, 12345]], caption=HOSTILE, strong=[1]),
        charts.lines([line, line], title=HOSTILE, x=HOSTILE, y=HOSTILE, log_x=True, log_y=True, fit=True),
        charts.ratio_bars(
            [charts.Ratio(HOSTILE, 2.0, 1.5, 2.5), charts.Ratio("b", 0.5)], title="r", x="times"
        ),
        charts.roofline([charts.Line("ours", [2, 30], [10, 80])], peak=100, bandwidth=10, title="roof"),
        picture(png(), HOSTILE, HOSTILE),
    ]
    return page(HOSTILE, [HOSTILE, "a fact"], [(HOSTILE, parts), ("second", ["text"]), ("third", [])])


def test_a_page_stands_alone_and_everything_is_escaped(whole: str) -> None:
    read = Reader(whole)
    assert read.tags["script"] == 0
    assert all(target.startswith("data:image/png;base64,") for target in read.outside)
    assert "http:" not in whole
    assert "https:" not in whole
    assert "default-src 'none'" in whole
    assert "\x00" not in whole
    assert "\u202e" not in whole
    assert read.words.count("</svg><script>alert('x')</script>") >= 10
    assert read.tags["svg"] >= 6
    assert "a fact" in read.words
    assert "12,345" in read.words


def test_ids_are_unique_and_every_reference_is_met(whole: str) -> None:
    read = Reader(whole)
    charts_twice = read.ids  # the same chart twice on a page has the same ids, which mean the same
    assert len(set(charts_twice)) == len(charts_twice)
    assert read.references <= set(read.ids)


def test_charts_have_text_and_the_colours_of_the_page(whole: str) -> None:
    drawn = "".join(re.findall(r'<svg class="(?:wide|narrow)".*?</svg>', whole, re.DOTALL))
    assert drawn.count("<svg") == 6  # three charts, for wide and narrow screens
    tags = "".join(re.findall(r'\b(?:style|fill|stroke)="[^"]*"', drawn))
    assert not set(re.findall(r"#[0-9a-f]{6}\b", tags))  # no colour that would not follow into dark mode
    used = set(re.findall(r"var\(--([a-z0-9]+)\)", tags))
    assert {"ink", "line", "soft", "c0", "c1"} <= used
    for name in used:
        assert STYLE.count(f"--{name}:") == 2, name  # for light and dark
    assert ">operations per byte<" in drawn
    assert "times" in drawn


def test_the_exponent_of_a_power_law_is_in_the_legend(whole: str) -> None:
    assert charts.exponent([1, 2, 4], [5, 20, 80]) == pytest.approx(2)
    assert math.isnan(charts.exponent([2, 2], [1, 3]))
    assert "(exponent 1.50)" in Reader(whole).words


def test_points_that_cannot_be_drawn() -> None:
    assert "nothing to draw" in charts.lines([], title="t", x="x", y="y")
    gaps = charts.Line("a", [0, 1, 2, 3], [1.0, math.nan, math.inf, 2.0])
    assert "<path" in charts.lines([gaps], title="t", x="x", y="y")
    assert charts._shown(gaps, False, False).x == [0, 3]
    assert charts._shown(gaps, True, False).x == [3]
    with pytest.raises(ValueError, match="case b: expected a positive ratio, got 0"):
        charts.ratio_bars([charts.Ratio("case b", 0.0)], title="t", x="x")


def test_a_table_says_which_row_does_not_fit() -> None:
    with pytest.raises(ValueError, match="expected 2 cells"):
        table(["a", "b"], [["only one"]])
    written = table(["a", "b"], [["x", 1], ["y", None]])
    assert '<th class="number">b' in written
    assert '<td class="number">–' in written
    assert '<th class="number">a' not in written


def test_only_png_pictures() -> None:
    with pytest.raises(ValueError, match="expected a PNG"):
        picture(b"<svg onload=alert(1)>", "t")


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (3, "3"),
        (12345, "12,345"),
        (0.123456, "0.1235"),
        (1234.56, "1,235"),
        (1e-7, "1e-07"),
        (math.nan, "nan"),
    ],
)
def test_numbers(value: float, text: str) -> None:
    assert number(value) == text


def test_markup_is_only_what_was_made_as_such() -> None:
    assert "&lt;b&gt;" in page("t", [], [("s", ["<b>"])])
    assert "<b>" in page("t", [], [("s", [Html("<b></b>")])])


def test_the_same_page_twice_is_the_same() -> None:
    def made() -> str:
        return charts.lines([charts.Line("a", [1, 2], [3, 4])], title="t", x="x", y="y")

    assert made() == made()
