"""Where configurations differ, setting by setting."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from unitrans.cli.pages.page import Html, details, note, table
from unitrans.cli.pages.runs import Run
from unitrans.domains.base import several_domains
from unitrans.errors import ConfigError
from unitrans.training.config import resolve
from unitrans.training.yaml12 import dump_value

ABSENT = "(not there)"


def flat(config: Mapping[str, Any], start: str = "") -> dict[str, str]:
    """Every setting by its whole name, as YAML."""
    found: dict[str, str] = {}
    for key, value in config.items():
        if isinstance(value, dict) and value:
            found |= flat(value, f"{start}{key}.")
        else:
            found[f"{start}{key}"] = dump_value(value)
    return found


def differing(configs: Sequence[Mapping[str, Any]]) -> list[list[str]]:
    """Rows of (setting, value in every configuration) where not all are the same."""
    all_flat = [flat(config) for config in configs]
    names = list(dict.fromkeys(name for one in all_flat for name in one))
    rows = [[name, *(one.get(name, ABSENT) for one in all_flat)] for name in names]
    return [row for row in rows if len(set(row[1:])) > 1]


def defaults_of(run: Run) -> dict[str, Any]:
    """The configuration with this run's domain, objective, data and kind of model, and all else by default.

    Raises:
        ConfigError: there is none, as for an objective that is registered elsewhere.
    """
    domain, settings = str(run.config["domain"]), []
    data = run.config.get("data")
    data = data if isinstance(data, dict) else {}
    several = several_domains(domain)
    if several:
        paths = {d: data[d].get("path") for d in run.domains if isinstance(data.get(d), dict)}
        settings += [f"data.{name}.path={dump_value(path)}" for name, path in paths.items()]
    model = run.value("model", "name")
    if isinstance(model, str) and not several:
        settings.append(f"model.name={dump_value(model)}")
    path = None if several else data.get("path")
    config = resolve(
        domain=domain,
        objective=run.objective,
        data=path if isinstance(path, str) else None,
        settings=settings,
    )
    return config.to_dict()


def section(runs: Sequence[Run]) -> list[str]:
    """The part of the page on configurations: between runs, or for one against the defaults."""
    if len(runs) > 1:
        rows = differing([run.config for run in runs])
        if not rows:
            return ["The runs have the same configuration."]
        shared = len({name for run in runs for name in flat(run.config)}) - len(rows)
        headers = ["setting", *(run.name for run in runs)]
        return [table(headers, rows, f"Only what differs; {shared:,} other settings are the same.")]
    (run,) = runs
    whole = details(
        f"all settings ({len(flat(run.config)):,})", [table(["setting", "value"], flat(run.config).items())]
    )
    return [_against_defaults(run), whole]


def _against_defaults(run: Run) -> Html:
    try:
        rows = differing([run.config, defaults_of(run)])
    except ConfigError as error:
        return note(f"The defaults for this run cannot be found, so all settings are below: {error}")
    if not rows:
        return note("Nothing differs from the defaults.")
    caption = (
        "Only what differs from the defaults of this version for the same domain, objective, data and model."
    )
    return table(["setting", "this run", "default"], rows, caption)
