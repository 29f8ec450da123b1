"""Results as files: results.json, results.md, results.html; and the table of the README."""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

from benchmarks.rows import (
    RESULTS,
    Results,
    Row,
    best_of,
    cell_text,
    exponent_text,
    head_line,
    markdown,
    row_table,
    score_table,
)
from unitrans.cli.pages import charts
from unitrans.cli.pages.page import Html, code, details, note, page, side_by_side, table

TITLE = "unitrans beside others"
README = Path(__file__).resolve().parents[1] / "README.md"
MARKS = ("<!-- speed, begin -->", "<!-- speed, end -->")
_ABOUT = {
    "attention": "The op at the shapes of images (windows of Swin V1, w7, and Swin V2 with cosine scores, w8 and w16), "
    "texts (packed) and molecules (graphs). s is the shift of the windows, h the number of heads.",
    "models": "Whole models of equal size on the same samples. A training step is loss and gradients, without the "
    "optimizer. Texts and molecules are packed here and padded there.",
    "pretrain": "A whole step of every objective: samples hidden and packed, forward, backward, AdamW. Below, what "
    "stands in front of a step.",
    "quality": "Errors on held-out samples after a fixed time of training: half of it spent on pretraining, or none. "
    "Ratios above 1: pretraining has the lower error.",
}


def write(results: Results, folder: Path, stem: str = "results", *, whole: bool = True) -> None:
    """folder/STEM.json, and with ``whole`` the .md and .html made from it."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{stem}.json").write_text(results.to_json(), encoding="utf-8")
    if whole:
        (folder / f"{stem}.md").write_text(markdown(TITLE, results), encoding="utf-8")
        (folder / f"{stem}.html").write_text(html(results), encoding="utf-8")


def html(results: Results) -> str:
    """The page."""
    head = results.head
    facts = [f"{head['cpu']}, {head['cores']} cores", f"{head['memory_gib']:g} GiB", head["instruction set"]]
    facts += [f"{name} {version}" for name, version in head["versions"].items()] + [head["date"]]
    sections: list[tuple[str, list[str]]] = [("In short", _summary(results))]
    for suite in dict.fromkeys(row.suite for row in results.rows):
        found = [row for row in results.rows if row.suite == suite]
        sections.append((suite.capitalize(), _suite(suite, found, results)))
    return page(TITLE, facts, sections)


def _summary(results: Results) -> list[str]:
    rows = [row for row in results.rows if not row.metric]
    best = [row.ratio.median for row in best_of(rows).values() if row.ratio is not None]
    missing = [row for row in results.rows if row.ratio is None and row.reason]
    parts: list[str] = [code("\n".join(results.head["commands"]))]
    parts.append(
        "A ratio is the time of a peer over ours in the same round of one process where both take turns: the median "
        "of the rounds, with the quartiles as its spread. Above 1 ours is faster. One thread is timed in processor "
        "time."
    )
    if results.head.get("quick"):
        parts.append(note("A quick run: small sizes, few rounds, nothing compiled. It shows that all works."))
    if best:
        ahead = sum(value > 1 for value in best)
        parts.append(
            f"Ours is faster than the fastest peer that was measured in {ahead} of {len(best)} cases."
        )
    if missing:
        lines = [(row.suite, row.case, row.what, row.peer, row.reason) for row in missing]
        listed = table(("suite", "case", "what", "peer", "reason"), dict.fromkeys(lines))
        parts.append(details(f"{len(missing)} peers without a figure, with the reason", [listed]))
    return parts


def _suite(suite: str, rows: Sequence[Row], results: Results) -> list[str]:
    parts: list[str] = [_ABOUT.get(suite, "")]
    bars: list[Html] = []
    for what in dict.fromkeys(row.what for row in rows if not row.metric):
        for dtype in dict.fromkeys(row.dtype for row in rows if row.what == what):
            found = [row for row in rows if row.what == what and row.dtype == dtype and not row.metric]
            bars += _bars(found, f"{what}, {dtype}")
    parts += [side_by_side(bars)] if bars else []
    if suite == "attention":
        parts += _scaling(results)
    if suite == "quality":
        parts += _curves(results)
    timed, scored = [r for r in rows if not r.metric], [r for r in rows if r.metric]
    if timed:
        parts.append(details(f"All {len(timed)} rows", [table(*row_table(timed))]))
    if scored:
        parts.append(table(*score_table(scored)))
    return parts


def _bars(rows: Iterable[Row], title: str) -> list[Html]:
    best = best_of(rows).values()
    if not best:
        return []
    bars = [
        charts.Ratio(f"{row.case} / {row.peer}", row.ratio.median, row.ratio.low, row.ratio.high)
        for row in best
        if row.ratio is not None
    ]
    return [
        charts.ratio_bars(
            bars, title=f"Against the fastest peer: {title}", x="time of the peer / time of ours"
        )
    ]


def _scaling(results: Results) -> list[Html]:
    drawn = [
        charts.lines(
            [
                charts.Line(
                    f"{side}, exponent {exponent_text(s, side)}",
                    s.x,
                    [v * 1e3 for v in values],
                )
                for side, values in s.seconds.items()
            ],
            title=f"Time over {s.name}",
            x=s.quantity,
            y="ms, forward + backward",
            caption=s.fixed,
            log_x=True,
            log_y=True,
        )
        for s in results.series
    ]
    line = results.roofline
    if line is not None:
        whats = list(dict.fromkeys(what for _, what, _, _ in line.points))
        points = {what: [(i, g) for _, w, i, g in line.points if w == what] for what in whats}
        drawn.append(
            charts.roofline(
                [charts.Line(what, [i for i, _ in found], [g for _, g in found]) for what, found in points.items()],
                peak=line.sgemm, bandwidth=line.copy, title="Roofline of the op, fp32",
                caption="A point is a case. Operations per byte count every input and result once; those in a cache "
                "can lie above the slope.",
            )
        )  # fmt: skip
    return [side_by_side(drawn)] if drawn else []


def _curves(results: Results) -> list[Html]:
    drawn = []
    for curve in results.curves:
        lines = []
        for arm, seeds in curve.arms.items():
            count = min(len(points) for points in seeds)
            x = [sum(points[k][0] for points in seeds) / len(seeds) for k in range(count)]
            y = [[points[k][1] for points in seeds] for k in range(count)]
            spread = ([min(v) for v in y], [max(v) for v in y])
            lines.append(charts.Line(arm, x, [sum(v) / len(v) for v in y], spread))
        if curve.baseline is not None:
            name, value = curve.baseline
            ends = [min(line.x[0] for line in lines), max(line.x[-1] for line in lines)]
            lines.append(charts.Line(f"scikit-learn: {name}", ends, [value, value]))
        drawn.append(
            charts.lines(
                lines, title=curve.name, x="seconds of training", y=curve.metric, zero=True,
                caption="Mean and range of the seeds; time of pretraining is counted.",
            )
        )  # fmt: skip
    return [side_by_side(drawn)] if drawn else []


# -- the table of the README

#: (case, dtype, what) in the order of the README: shapes of all domains, whole models, pretraining; wins and losses.
_SHOWN = (
    ("w7 56x56 h3 s3", "float32", "forward + backward"),
    ("packed sentences", "float32", "forward + backward"),
    ("graphs", "float32", "forward + backward"),
    ("Swin-T 224", "float32", "training step"),
    ("SwinV2-T 256", "float32", "training step"),
    ("ViT-S/16 224", "float32", "training step"),
    ("BERT-base", "float32", "training step"),
    ("GPT-2", "float32", "training step"),
    ("Graphormer slim", "float32", "training step"),
    ("mim, visible tokens", "float32", "training step"),
    ("graph preprocessing", "float32", "preparing a batch"),
    ("docstrings", "float32", "after 8 s"),
    ("molecules", "float32", "after 8 s"),
)


def readme_table(results: Results, name: str) -> str:
    """Between the marks: the fastest peer of a few cases, from the file of that name in benchmarks/results."""
    best = {(row.case, row.dtype, row.what): row for row in best_of(results.rows).values()}
    lines = [
        "| case | what | size | best peer | time (or error) of it / ours | MiB, ours / its |",
        "|---|---|---|---|---|---|",
    ]
    for key in _SHOWN:
        if key in best:
            row = best[key]
            memory = f"{row.memory:.0f} / {row.peer_memory:.0f}" if row.memory else ""
            size = f"{row.metric}, {row.shape}" if row.metric else row.shape
            lines.append(f"| {row.case} | {row.what} | {size} | {row.peer} | {cell_text(row)} | {memory} |")
    source = f"[benchmarks/results/{name}.md](benchmarks/results/{name}.md)"
    lines += [
        "",
        f"{head_line(results.head)}; one thread, fp32; medians of ratios (quartiles), above 1 ours is better. {source}",
    ]
    return "\n".join(lines)


def in_readme(text: str, content: str) -> str:
    """The README with this between its marks."""
    begin, end = MARKS
    pattern = re.compile(f"{re.escape(begin)}\n.*?{re.escape(end)}", re.DOTALL)
    if not pattern.search(text):
        raise ValueError(f"README.md: expected the lines {begin} and {end}")
    return pattern.sub(lambda _: f"{begin}\n{content}\n{end}", text)


def readme_source() -> Path:
    """The committed results the README shows: the newest bench_*.json."""
    return max(RESULTS.glob("bench_*.json"), key=lambda path: path.stem.rpartition("_")[2])


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.write", description="Write the table of README.md."
    )
    parser.add_argument(
        "--results", type=Path, help="JSON of `unitrans bench`; its files are rewritten beside it too"
    )
    options = parser.parse_args()
    source = options.results or readme_source()
    results = Results.read(source)
    write(results, source.parent, source.stem)
    README.write_text(
        in_readme(README.read_text(encoding="utf-8"), readme_table(results, source.stem)), encoding="utf-8"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
