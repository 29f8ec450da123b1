"""The page of training runs: figures, curves, pictures, configurations, machines."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from unitrans.cli.pages import differences
from unitrans.cli.pages.charts import Line, lines
from unitrans.cli.pages.figures import held_out, strongest
from unitrans.cli.pages.page import (
    Cell,
    Html,
    bullets,
    code,
    details,
    heading,
    note,
    page,
    picture,
    side_by_side,
    table,
)
from unitrans.cli.pages.predictions import sentences
from unitrans.cli.pages.runs import PICTURES, TEXTS, Run, finite
from unitrans.cli.pages.words import figure_unit, loss_unit

_UNSHOWN = ("step", "epoch", "eval_samples", "eval_seconds")
_TITLES = {
    "loss": "Training loss",
    "eval_loss": "Held-out loss",
    "learning_rate": "Learning rate",
    "tokens_per_second": "Throughput",
    "grad_norm": "Norm of the gradient",
}
_SKIPPED_SHOWN = 10


def training_page(runs: Sequence[Run]) -> str:
    """The page of one run, or of several side by side."""
    several = len(runs) > 1
    title = f"{len(runs)} training runs" if several else f"Training run {runs[0].name}"
    sections: list[tuple[str, Sequence[str]]] = [
        ("Runs" if several else "Run", _overview(runs)),
        ("Held-out figures", held_out(runs)),
        ("Curves", _curves(runs)),
        ("What was predicted", _pictures(runs)),
        ("Configurations" if several else "Configuration", differences.section(runs)),
        ("Environment", _environment(runs)),
        ("Model cards" if several else "Model card", _cards(runs)),
    ]
    return page(title, _facts(runs), sections)


def _facts(runs: Sequence[Run]) -> list[str]:
    """What the runs share."""
    facts = []
    shared: list[tuple[str, list[Any]]] = [
        ("{}", [", ".join(run.domains) for run in runs]),
        ("objective {}", [run.objective for run in runs]),
        ("model {}", [run.value("model", "name") for run in runs]),
        ("unitrans {}", [run.environment.get("unitrans") for run in runs]),
        ("{}", [run.environment.get("processor") for run in runs]),
        ("threads: {}", [run.environment.get("threads") for run in runs]),
    ]
    for words, values in shared:
        if len({str(value) for value in values}) == 1 and values[0] is not None:
            facts.append(words.format(values[0]))
    return facts


def _overview(runs: Sequence[Run]) -> list[str]:
    rows = [_run_row(run) for run in runs]
    if len(runs) > 1:
        parts: list[str] = [table(list(rows[0]), [list(row.values()) for row in rows])]
    else:
        known = [(name, value) for name, value in rows[0].items() if name != "run"]
        parts = [table(["", ""], [[name, _word(value)] for name, value in known])]
    for run in runs:
        where = f"{run.name}: " if len(runs) > 1 else ""
        parts += [note(f"{where}{sentence}.") for sentence in run.missing]
        if run.went_back:
            times = "once" if run.went_back == 1 else f"{run.went_back} times"
            parts.append(
                f"{where}The run was taken up {times} at an earlier update; what it had done beyond that is not shown."
            )
        parts += _skipped(run, where)
    return parts


def _word(value: Cell) -> str:
    return "–" if value is None else f"{value:,}" if isinstance(value, int) else str(value)


def _run_row(run: Run) -> dict[str, Cell]:
    done, planned = run.updates, run.planned
    state = "not finished" if not run.finished else "stopped early" if done < (planned or 0) else "finished"
    speeds = [row["tokens_per_second"] for row in run.rows if finite(row.get("tokens_per_second"))]
    count = run.card.get("", "").split(" ", 1)
    model = run.value("model", "name")
    data = run.config.get("data")
    data = data if isinstance(data, dict) else {}
    places = [
        part.get("path") for part in (data, *(data.get(d) for d in run.domains)) if isinstance(part, dict)
    ]
    return {
        "run": run.name,
        "domain": ", ".join(run.domains),
        "objective": run.objective,
        "model": None if model is None else str(model),
        "parameters": count[0] if count[-1].startswith("parameters") else None,
        "data": ", ".join(str(place) for place in places if place is not None) or None,
        "updates": f"{done:,}" if planned is None else f"{done:,} of {planned:,}",
        "state": state,
        "best checkpoint": run.best or None,
        "tokens a second, median": round(statistics.median(speeds)) if speeds else None,
    }


def _skipped(run: Run, where: str) -> list[str]:
    file = run.folder / "skipped.txt"
    if not file.is_file():
        return []
    names = file.read_text(encoding="utf-8", errors="replace").splitlines()
    rows = [[name, reason] for name, _, reason in (line.partition("\t") for line in names[:_SKIPPED_SHOWN])]
    more = f", the first {_SKIPPED_SHOWN}" if len(names) > _SKIPPED_SHOWN else ""
    title = f"{where}{len(names):,} samples could not be read and were left out (skipped.txt{more})"
    return [details(title, [table(["sample", "reason"], rows)])]


def _curves(runs: Sequence[Run]) -> list[str]:
    """One chart for each figure in the logs, the runs side by side in it."""
    names = {name for run in runs for row in run.rows for name, v in row.items() if finite(v)} - set(_UNSHOWN)
    judged = sorted(name for name in names if name.startswith("eval_") and name != "eval_loss")
    others = sorted(names - {*_TITLES, *judged})
    order = ["loss", "eval_loss", *judged, "learning_rate", "tokens_per_second", *others, "grad_norm"]
    drawn = []
    for name in order:
        if name in ("loss", "eval_loss"):  # losses in different units do not share a chart
            units = list(dict.fromkeys(loss_unit(run) for run in runs))
            groups = [{run.name for run in runs if loss_unit(run) == unit} for unit in units]
        else:
            groups = [{run.name for run in runs}]
        drawn += [_curve(runs, name, group) for group in groups if name in names]
    absent = [_TITLES[name].lower() for name in ("loss", "eval_loss", "learning_rate") if name not in names]
    parts: list[str] = [note(f"Not in the logs: {', '.join(absent)}.")] if absent else []
    return [*parts, side_by_side(drawn)] if drawn else parts


def _curve(runs: Sequence[Run], name: str, group: set[str]) -> Html:
    """A figure of the runs of a group; a run has the same colour in all charts."""
    shown = [run for run in runs if run.name in group]
    rows = [[row for row in run.rows if finite(row.get(name))] if run in shown else [] for run in runs]
    series = [
        Line(run.name, [row["step"] for row in own], [row[name] for row in own])
        for run, own in zip(runs, rows, strict=True)
    ]
    figure = name.removeprefix("eval_")
    level, caption = strongest(shown, figure) if figure != name else (None, "")
    without = [run.name for run, own in zip(runs, rows, strict=True) if run in shown and not own]
    if without:
        caption = f"{caption} Not in the logs of {', '.join(without)}.".strip()
    units = {"loss": loss_unit(shown[0]), "tokens_per_second": "tokens a second"}
    words = figure.replace("_", " ")
    return lines(
        series,
        title=_TITLES.get(name) or (words if figure == name else f"Held-out {words}"),
        x="update",
        y=figure_unit(figure, shown) if figure != name else units.get(name, ""),
        caption=caption,
        smooth=figure == name != "learning_rate",
        zero=name in ("learning_rate", "tokens_per_second"),
        legend=len(runs) > 1,
        level=level,
    )


def _pictures(runs: Sequence[Run]) -> list[str]:
    """Pictures of one kind side by side, then sentences run by run."""
    parts: list[str] = []
    for name, words in PICTURES.items():
        found = [run for run in runs if (run.folder / name).is_file()]
        drawn = [_image(run.folder / name, run.name if len(runs) > 1 else words) for run in found]
        if len(runs) > 1 and drawn:
            parts.append(heading(words))
        parts += [side_by_side(drawn)] if len(drawn) > 1 else drawn
    for run in runs:
        parts += _texts(run, f"{run.name}: " if len(runs) > 1 else "")
    for run in runs:
        if not any((run.folder / name).is_file() for name in (*PICTURES, TEXTS)):
            parts.append(note(f"{run.name}: there is no picture in the run folder."))
    return parts


def _image(file: Path, title: str) -> Html:
    try:
        return picture(file, title)
    except (ValueError, OSError) as error:
        return note(f"{file.name} cannot be shown: {error}")


def _texts(run: Run, where: str) -> list[str]:
    file = run.folder / TEXTS
    if not file.is_file():
        return []
    title, shown = sentences(file.read_text(encoding="utf-8", errors="replace"))
    return (
        [heading(f"{where}{title or TEXTS}"), *shown]
        if shown
        else [note(f"{where}{TEXTS} has no sentences.")]
    )


def _environment(runs: Sequence[Run]) -> list[str]:
    """Versions and machines; rows that are not the same in all runs are stressed."""
    flat = [_machine(run) for run in runs]
    names = list(dict.fromkeys(name for one in flat for name in one))
    if not names:
        return [note("No run has an environment.json.")]
    rows = [[name, *(one.get(name) for one in flat)] for name in names]
    unlike = [i for i, row in enumerate(rows) if len(set(row[1:])) > 1]
    headers = ["", *(run.name for run in runs)] if len(runs) > 1 else ["", "this run"]
    parts: list[str] = []
    for run in runs:
        command = run.environment.get("command")
        if isinstance(command, list) and command:
            parts.append(code(" ".join(["unitrans", *map(str, command[1:])])))
    whole = table(headers, rows)
    if len(runs) > 1 and unlike:
        parts.append(table(headers, [rows[i] for i in unlike], "What is not the same in all runs."))
    elif len(runs) > 1:
        parts.append("All runs have the same versions and the same machine.")
    return [*parts, details("everything", [whole])] if len(runs) > 1 else [*parts, whole]


def _machine(run: Run) -> dict[str, str]:
    """What environment.json says, by name."""
    found: dict[str, str] = {}
    for name, value in run.environment.items():
        if isinstance(value, dict):
            start = "" if name == "packages" else f"{name}: "
            found |= {f"{start}{key}": str(one) for key, one in value.items()}
        elif name != "command":
            found[name] = ", ".join(map(str, value)) or "none" if isinstance(value, list) else str(value)
    return found


def _cards(runs: Sequence[Run]) -> list[str]:
    parts: list[str] = []
    for run in runs:
        if len(runs) > 1:
            parts.append(heading(run.name))
        if not run.card:
            parts.append(note("There is no model card in its checkpoints."))
            continue
        first = run.card.get("", "").splitlines()
        parts += [line for line in first[:1] if line]
        for title in ("Data", "Recipe"):
            text = run.card.get(title, "").split("\n`unitrans train", 1)[0]
            parts += [line for line in text.splitlines() if line and not line.startswith("- ")]
            items = [line.removeprefix("- ") for line in text.splitlines() if line.startswith("- ")]
            parts += [bullets(items)] if items else []
        links = ", ".join(
            f"{name} is {target}" for name, target in (("best", run.best), ("latest", run.latest)) if target
        )
        parts.append(f"Checkpoints: {', '.join(run.checkpoints)} ({links}).")
    return parts
