"""Charts for pages: matplotlib's SVG with text as text and colours as CSS variables, so that they follow the page
into dark mode. Every chart is drawn twice, for a wide screen and for a phone."""

from __future__ import annotations

import hashlib
import io
import math
import re
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, LogLocator, MaxNLocator, NullLocator

from unitrans.cli.pages.page import Html, escape, figure, note, number, seen
from unitrans.cli.pages.style import SERIES

_WIDE, _NARROW = 520, 340  # px; one unit of the SVG each
_TEXT = 12  # px
# What is drawn in these colours gets the CSS variable.
_INK, _SOFT, _LINE, _PAPER = "#010101", "#010102", "#010103", "#010104"
_VARIABLES = {_INK: "ink", _SOFT: "soft", _LINE: "line", _PAPER: "paper"} | {
    f"#0102{k:02x}": f"c{k}" for k in range(SERIES)
}
_DASHES: tuple[tuple[float, ...], ...] = ((), (5, 2.5), (1.5, 2), (7, 2, 1.5, 2))
_MARKERS = "osD^vP*X"
_RC = {
    "svg.fonttype": "none",
    "svg.hashsalt": "unitrans",
    "text.parse_math": False,
    "font.size": _TEXT,
    "axes.edgecolor": _LINE,
    "axes.labelcolor": _SOFT,
    "text.color": _INK,
    "xtick.color": _LINE,
    "ytick.color": _LINE,
    "xtick.labelcolor": _SOFT,
    "ytick.labelcolor": _SOFT,
    "grid.color": _LINE,
    "grid.linewidth": 0.8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "lines.linewidth": 1.8,
}


@dataclass(frozen=True)
class Line:
    """A series: its name, and points in order. spread: (low, high) of every y, drawn as a band."""

    name: str
    x: Sequence[float]
    y: Sequence[float]
    spread: tuple[Sequence[float], Sequence[float]] | None = None


@dataclass(frozen=True)
class Ratio:
    """A bar: its name, the ratio, and where known the ends of its spread."""

    name: str
    value: float
    low: float | None = None
    high: float | None = None


def colour(k: int) -> str:
    """The colour of series k, for matplotlib."""
    return f"#0102{k % SERIES:02x}"


def svg(draw: Callable[[Axes, bool], None], height: Callable[[bool], float], label: str) -> Html:
    """Both drawings of a chart.

    Args:
        draw: draws on axes; told whether they are narrow.
        height: in px, of the narrow drawing or the wide one.
        label: what the chart shows, for those who do not see it.
    """
    return Html("".join(_svg(draw, height(narrow), narrow, label) for narrow in (False, True)))


def _svg(draw: Callable[[Axes, bool], None], height: float, narrow: bool, label: str) -> str:
    width = _NARROW if narrow else _WIDE
    with matplotlib.rc_context(_RC), warnings.catch_warnings():  # type: ignore[arg-type]
        warnings.filterwarnings("ignore", message="Glyph .* missing")  # the browser has other fonts
        drawing = Figure(figsize=(width / 72, height / 72), layout="constrained")
        drawing.get_layout_engine().set(w_pad=0.02, h_pad=0.03)  # type: ignore[union-attr,call-arg]
        FigureCanvasSVG(drawing)
        draw(drawing.subplots(), narrow)
        file = io.StringIO()
        empty = dict.fromkeys(("Date", "Creator", "Format", "Type"))
        drawing.savefig(file, format="svg", transparent=True, metadata=empty)
    text = seen(file.getvalue())
    text = text[text.index("<svg") :]
    text = re.sub(r"<!--.*?-->|<metadata>.*?</metadata>|<style[ >].*?</style>", "", text, flags=re.DOTALL)
    text = text[text.index(">") + 1 :].strip()
    mark = "g" + hashlib.sha256(text.encode()).hexdigest()[:8] + "-"  # ids are unique in the whole page
    text = re.sub(r"<[^<>]*>", lambda tag: _for_page(tag.group(), mark), text)
    kind = "narrow" if narrow else "wide"
    return (
        f'<svg class="{kind}" role="img" aria-label="{escape(label)}" viewBox="0 0 {width} {height:g}">{text}'
    )


def _for_page(tag: str, mark: str) -> str:
    """A tag of matplotlib's with the colours and the type of the page, and its own ids."""
    for sentinel, name in _VARIABLES.items():
        tag = tag.replace(sentinel, f"var(--{name})")
    tag = re.sub(r"font: (\d[\d.]*px) [^;\"]*", r"font-size: \1", tag.replace("xlink:href", "href"))
    return re.sub(r'(\bid="|href="#|url\(#)', rf"\g<1>{mark}", tag)


def keys(series: Sequence[Line], names: Sequence[str], line: bool = True) -> Html:
    """The legend of series that have points: markup beside the drawing, so that long names wrap."""
    items = []
    for k, (one, name) in enumerate(zip(series, names, strict=True)):
        if not one.x:
            continue
        dash = ",".join(map(str, _DASHES[k // SERIES % len(_DASHES)]))
        stroke = f'stroke="var(--c{k % SERIES})" stroke-width="2.5" stroke-dasharray="{dash}"'
        path = f'<path d="M0 6H24" fill="none" {stroke}/>'
        sign = path if line else f'<circle cx="12" cy="6" r="5" fill="var(--c{k % SERIES})"/>'
        items.append(f'<li><svg viewBox="0 0 24 12" aria-hidden="true">{sign}</svg>{escape(name)}</li>')
    return Html(f'<ul class="keys">{"".join(items)}</ul>')


def exponent(x: Sequence[float], y: Sequence[float]) -> float:
    """The exponent of the power law that fits positive points best in the logarithms; nan below two different x."""
    pairs = [(a, b) for a, b in zip(x, y, strict=True) if a > 0 and b > 0]
    if len({a for a, _ in pairs}) < 2:
        return math.nan
    logs = np.log(np.array(pairs, dtype=float))
    u, v = (logs - logs.mean(0)).T
    return float(u @ v / (u @ u))


def lines(
    series: Sequence[Line],
    *,
    title: str,
    x: str,
    y: str,
    caption: str = "",
    log_x: bool = False,
    log_y: bool = False,
    markers: bool = True,
    smooth: bool = False,
    fit: bool = False,
    zero: bool = False,
    legend: bool = True,
    level: float | None = None,
) -> Html:
    """Series as lines.

    Args:
        series: non-finite points are left out, and those that are not positive on a logarithmic axis.
        title, x, y, caption: words; y is what is counted.
        log_x, log_y: logarithmic axes.
        markers: a mark at every point.
        smooth: where there are many points a running mean is drawn over the faint points.
        fit: the legend has the exponent of each series' power law.
        zero: the y axis starts at 0.
        legend: left out where it would repeat the title.
        level: a value of y to compare with, drawn dashed.
    """
    drawn = [_shown(line, log_x, log_y) for line in series]
    if not any(line.x for line in drawn):
        return figure(note("There is nothing to draw: no finite points."), title, caption)

    def draw(axes: Axes, narrow: bool) -> None:
        for k, line in enumerate(drawn):
            _draw_line(axes, line, k, markers, smooth)
        _scale(axes, drawn, log_x, log_y, smooth)
        if level is not None:
            axes.axhline(level, color=_INK, linewidth=1.2, dashes=(4, 3))
        if zero:
            axes.set_ylim(bottom=0)
        axes.set_xlabel(x)
        axes.grid(True)

    names = [f"{line.name} (exponent {exponent(line.x, line.y):.2f})" if fit else line.name for line in drawn]
    above = _unit(y) + (keys(drawn, names) if legend else "")
    chart = svg(draw, lambda narrow: 250 if narrow else 300, f"{title}: {y or title} over {x}")
    return figure(Html(above + chart), title, caption)


def _unit(words: str) -> str:
    """What the y axis counts, above the drawing, where there is room for a phrase."""
    return f'<p class="unit">{escape(words)}</p>' if words else ""


def _shown(line: Line, log_x: bool, log_y: bool) -> Line:
    kept = [
        i
        for i, (a, b) in enumerate(zip(line.x, line.y, strict=True))
        if math.isfinite(a) and math.isfinite(b) and (a > 0 or not log_x) and (b > 0 or not log_y)
    ]
    spread = line.spread and tuple([side[i] for i in kept] for side in line.spread)
    return Line(line.name, [line.x[i] for i in kept], [line.y[i] for i in kept], spread)  # type: ignore[arg-type]


def _draw_line(axes: Axes, line: Line, k: int, markers: bool, smooth: bool) -> None:
    count = len(line.x)
    width = max(1, count // 25) if smooth else 1
    style: dict[str, Any] = {"color": colour(k), "dashes": _DASHES[k // SERIES % len(_DASHES)]}
    if line.spread is not None:
        axes.fill_between(line.x, *line.spread, color=colour(k), alpha=0.15, linewidth=0)
    if width > 1:
        axes.plot(line.x, line.y, color=colour(k), linewidth=0.8, alpha=0.35)
        mean = np.convolve(line.y, np.ones(width) / width, mode="valid")
        axes.plot(line.x[width // 2 :][: len(mean)], mean, **style)
        return
    marked = count == 1 or (markers and count <= 60)
    axes.plot(line.x, line.y, marker=_MARKERS[k % SERIES] if marked else None, markersize=4.5, **style)


def _scale(axes: Axes, drawn: Sequence[Line], log_x: bool, log_y: bool, clip: bool) -> None:
    """Axes with few plain numbers."""
    x, y = [v for line in drawn for v in line.x], [v for line in drawn for v in line.y]
    for axis, log, values in ((axes.xaxis, log_x, x), (axes.yaxis, log_y, y)):
        if not log:
            whole = all(float(v).is_integer() for v in values)
            axis.set_major_locator(MaxNLocator(5, integer=whole and axis is axes.xaxis))
            axis.set_major_formatter(FuncFormatter(lambda v, _: _tick(v)))
            continue
        (axes.set_xscale if axis is axes.xaxis else axes.set_yscale)("log")
        _plain_log(axis, max(values) / min(values))
        if axis is axes.xaxis and len(set(values)) <= 8:
            axis.set_major_locator(FixedLocator(sorted(set(values))))
    if (
        clip and len(y) > 20 and not log_y
    ):  # a first loss far above the rest must not flatten everything after it
        low, high, top = min(y), float(np.quantile(y, 0.98)), max(y)
        if top - low > 1.5 * (high - low) > 0:
            axes.set_ylim(low - 0.05 * (high - low), high + 0.15 * (high - low))


def _plain_log(axis: Axis, range_: float) -> None:
    """A logarithmic axis with plain numbers: 1, 2, 5 and their decades where it is short, decades where it is long."""
    decades = LogLocator(subs=(1, 2, 5) if range_ < 300 else (1,), numticks=9)
    axis.set_major_locator(decades if range_ > 4 else MaxNLocator(4, steps=[1, 2, 5, 10]))  # 1 among them
    axis.set_minor_locator(NullLocator())
    axis.set_major_formatter(FuncFormatter(lambda v, _: _tick(v)))


def _tick(value: float) -> str:
    size = abs(value)
    for unit, letter in ((1e12, "T"), (1e9, "G"), (1e6, "M")):
        if size >= unit * 0.9999:
            return f"{value / unit:.4g}{letter}"
    if size >= 1000:
        return f"{value:,.0f}"
    return f"{value:.4g}" if size >= 1e-3 or size == 0 else f"{value:.2g}"


def ratio_bars(rows: Sequence[Ratio], *, title: str, x: str, caption: str = "") -> Html:
    """Ratios as bars from 1, to the right (first colour) above 1 and to the left (second colour) below, on a
    logarithmic axis. Every ratio must be positive and finite."""
    for row in rows:
        if not (math.isfinite(row.value) and row.value > 0):
            raise ValueError(f"{row.name}: expected a positive ratio, got {row.value}")

    def draw(axes: Axes, narrow: bool) -> None:
        axes.set_xscale("log")
        places = list(range(len(rows)))
        ends = [v for r in rows for v in (r.value, r.low, r.high) if v is not None] + [1.0]
        low, high = min(ends), max(ends)
        room = (high / low) ** (0.22 if narrow else 0.14) * 1.08  # for the numbers at the ends of the bars
        axes.set_xlim(low / (room if low < 1 else 1.03), high * room)
        for place, row in enumerate(rows):
            _draw_bar(axes, place, row, narrow)
        axes.axvline(1, color=_INK, linewidth=1)
        axes.set_ylim(len(rows) - 0.5, -0.75 if narrow else -0.5)
        axes.set_yticks([] if narrow else places, [] if narrow else [_short(r.name, 44) for r in rows])
        axes.tick_params(axis="y", length=0, labelcolor=_INK)
        axes.spines["left"].set_visible(False)
        _plain_log(axes.xaxis, high / low)
        axes.set_xlabel(x)
        axes.grid(True, axis="x")

    chart = svg(draw, lambda narrow: 62 + len(rows) * (38 if narrow else 24), f"{title}: {x}")
    return figure(chart, title, caption)


def _draw_bar(axes: Axes, place: int, row: Ratio, narrow: bool) -> None:
    height = 0.42 if narrow else 0.62
    axes.barh(place, row.value - 1, left=1, height=height, color=colour(row.value < 1))
    low, high = row.low or row.value, row.high or row.value
    if low != high:
        axes.plot((low, high), (place, place), color=_SOFT, linewidth=1.2)
    right = row.value >= 1
    text: dict[str, Any] = {"fontsize": _TEXT - 1}
    axes.annotate(
        f"{row.value:.2f}",
        (high if right else low, place),
        xytext=(4 if right else -4, 0),
        textcoords="offset points",
        ha="left" if right else "right",
        va="center",
        **text,
    )
    if narrow:  # the name above its bar
        text |= {"transform": axes.get_yaxis_transform(), "va": "bottom", "ha": "left"}
        text["bbox"] = {"facecolor": _PAPER, "edgecolor": "none", "pad": 1}
        axes.text(0, place - 0.26, _short(row.name, 50), **text)


def _short(text: str, length: int) -> str:
    return text if len(text) <= length else text[: length - 1] + "…"


def roofline(
    series: Sequence[Line],
    *,
    peak: float,
    bandwidth: float,
    title: str,
    caption: str = "",
    unit: str = "GFLOP/s",
) -> Html:
    """Measured points under what the machine can do.

    Args:
        series: x are FLOPs per byte, y the speed reached, in ``unit``.
        peak: the speed of a large matrix product, in ``unit``.
        bandwidth: of a large copy, in 1e9 bytes a second where ``unit`` counts 1e9 operations.
        title, caption, unit: words.
    """
    drawn = [_shown(line, True, True) for line in series]

    def draw(axes: Axes, narrow: bool) -> None:
        xs = [v for line in drawn for v in line.x] + [peak / bandwidth]
        ys = [v for line in drawn for v in line.y] + [peak]
        left, right = min(xs) / 2, max(xs) * 2
        roof = np.geomspace(left, right, 200)
        axes.plot(roof, np.minimum(peak, roof * bandwidth), color=_SOFT, linewidth=1.4)
        axes.annotate(
            f"{number(peak)} {unit}",
            (right, peak),
            xytext=(0, 4),
            textcoords="offset points",
            ha="right",
            fontsize=_TEXT - 1,
            color=_SOFT,
        )
        for k, line in enumerate(drawn):
            style: dict[str, Any] = {"color": colour(k), "marker": _MARKERS[k % SERIES]}
            axes.plot(line.x, line.y, linestyle="none", markersize=7.5, markeredgecolor=_PAPER, **style)
        axes.set_xscale("log")
        axes.set_yscale("log")
        axes.set_ylim(min([*ys, left * bandwidth]) / 1.5, peak * 2)
        axes.set_xlim(left, right)
        _plain_log(axes.xaxis, right / left)
        _plain_log(axes.yaxis, max(ys) / min(ys))
        axes.set_xlabel("operations per byte")
        axes.grid(True)

    chart = svg(draw, lambda narrow: 260 if narrow else 320, f"{title}: {unit} over operations per byte")
    below = (
        f"The line: {number(peak)} {unit} of a matrix product, {number(bandwidth)} GB/s of a copy. {caption}"
    )
    legend = keys(drawn, [line.name for line in drawn], line=False)
    return figure(Html(_unit(unit) + legend + chart), title, below.strip())
