"""Held-out figures of runs beside those of simple predictors."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from unitrans.cli.pages.page import Cell, figure, note, number, table
from unitrans.cli.pages.runs import Run, finite
from unitrans.cli.pages.words import measure, smaller_is_better

_PARTS = ("validation", "test")


@dataclass(frozen=True)
class Judged:
    """What a run reached on a part of its data.

    part: validation or test, with the domain where there are several. headline: the figure that predictors are
    compared by. predictors: (name, value or None, note).
    """

    run: Run
    part: str
    headline: str
    figures: dict[str, float]
    intervals: dict[str, tuple[float, float]]
    predictors: list[tuple[str, float | None, str]]
    domain: str = ""

    @property
    def figure(self) -> str:
        """The headline as it is called in the log, with the domain in front where there are several."""
        return f"{self.domain}_{self.headline}" if self.domain else self.headline


def judged(run: Run) -> Iterator[Judged]:
    """What summary.json says, part by part and domain by domain."""
    for part in _PARTS:
        content = run.summary if part == "validation" else run.summary.get(part)
        if not isinstance(content, dict):
            continue
        inner = [(d, content[d]) for d in run.domains if isinstance(content.get(d), dict)]
        for domain, one in inner if len(run.domains) > 1 else [("", content)]:
            figures = {k: float(v) for k, v in one.items() if finite(v) and k != "step"}
            if figures:
                yield _judged(run, f"{part} part", domain, one, figures)


def _judged(run: Run, part: str, domain: str, content: dict[str, Any], figures: dict[str, float]) -> Judged:
    rows = content.get("predictors")
    rows = [row for row in rows if isinstance(row, dict)] if isinstance(rows, list) else []
    headline = next((key for row in rows for key in row if key in figures), "")
    predictors = [
        (
            str(row.get("name")),
            row[headline] if finite(row.get(headline)) else None,
            str(row.get("note") or ""),
        )
        for row in rows
        if headline
    ]
    given = content.get("intervals")
    intervals = {
        name: (ends[0], ends[1])
        for name, ends in (given.items() if isinstance(given, dict) else ())
        if isinstance(ends, list) and len(ends) == 2 and all(map(finite, ends))
    }
    if not headline:
        headline = next((name for name in figures if name not in ("loss", "samples")), "loss")
    where = f"{domain}, {part}" if domain else part
    return Judged(run, where, headline, figures, intervals, predictors, domain)


def held_out(runs: Sequence[Run]) -> list[str]:
    """The part of the page on held-out figures."""
    found = [one for run in runs for one in judged(run)]
    groups: dict[tuple[str, str], list[Judged]] = {}
    for one in found:
        groups.setdefault((one.part, one.headline), []).append(one)
    parts: list[str] = [_group(part, headline, group) for (part, headline), group in groups.items()]
    for run in runs:
        if not any(one.run is run for one in found):
            parts += _from_log(run)
    return parts


def _group(part: str, headline: str, group: Sequence[Judged]) -> str:
    """One table: the models, best first, and what predicts without a network, best first."""
    sign = 1 if smaller_is_better(group[0].figure, group[0].run) else -1
    several = len(group) > 1
    models = sorted(group, key=lambda one: sign * one.figures.get(headline, float("inf")))
    rows: list[list[Cell]] = []
    for one in models:
        others = [
            f"{name} {number(int(v) if name == 'samples' else v)}"
            for name, v in one.figures.items()
            if name != headline
        ]
        name = one.run.name if several else "this model"
        rows.append([name, one.figures.get(headline), _interval(one), ", ".join(others)])
    users: dict[tuple[str, float | None, str], list[str]] = {}
    for one in group:
        for predictor in one.predictors:
            users.setdefault(predictor, []).append(one.run.name)
    known = sorted(users, key=lambda p: float("inf") if p[1] is None else sign * p[1])
    for name, value, words in known:
        whose = users[name, value, words]
        for_whom = f"for {', '.join(whose)}" if len(whose) < len(group) else ""
        rows.append([name, value, None, "; ".join(text for text in (words, for_whom) if text)])
    with_intervals = any(row[2] for row in rows)
    headers = ["", headline, "95 % interval", ""]
    if not with_intervals:
        rows, headers = [[row[0], row[1], row[3]] for row in rows], [headers[0], headers[1], headers[3]]
    direction = "less is better" if sign > 0 else "more is better"
    written = table(headers, rows, strong=range(len(models)))
    title = f"{part[0].upper()}{part[1:]}: {headline.replace('_', ' ')}"
    units = {measure(one.figure, one.run).unit for one in group}
    unit = units.pop() if len(units) == 1 else headline
    about = f"{unit}; {direction}" if unit != headline else direction
    missing = "" if users else " There is no simple predictor to compare with."
    return figure(written, title, f"{about[0].upper()}{about[1:]}.{missing}")


def _interval(one: Judged) -> str | None:
    ends = one.intervals.get(one.headline)
    return None if ends is None else f"{number(ends[0])} to {number(ends[1])}"


def _from_log(run: Run) -> list[str]:
    """The last evaluation of a run without a summary."""
    row = next((row for row in reversed(run.rows) if "eval_loss" in row), None)
    if row is None:
        return [note(f"{run.name}: nothing has been judged on held-out samples.")]
    figures: list[list[Cell]] = [
        [name.removeprefix("eval_"), float(value)]
        for name, value in row.items()
        if name.startswith("eval_") and finite(value) and name != "eval_seconds"
    ]
    words = (
        "The last evaluation in its log; the run has no summary, so there are no simple predictors beside it."
    )
    return [
        figure(table(["figure", "value"], figures), f"{run.name}: after update {number(row['step'])}", words)
    ]


def strongest(runs: Sequence[Run], name: str) -> tuple[float | None, str]:
    """The best simple predictor of a held-out figure on the validation part, where all runs with a summary have the
    same one, and a caption that names it."""
    best = set()
    for run in runs:
        for one in judged(run):
            known = [(v, n) for n, v, _ in one.predictors if v is not None]
            if one.figure == name and "validation" in one.part and known:
                best.add(min(known) if smaller_is_better(name, run) else max(known))
    if len(best) != 1:
        return None, ""
    value, words = best.pop()
    return value, f"Dashed: {words}, {number(value)}, the strongest simple predictor."
