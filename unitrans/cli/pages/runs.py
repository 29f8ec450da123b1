"""What a run folder holds, read for a page. What is absent or cannot be read is a sentence in ``missing``."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from unitrans import stored
from unitrans.domains.base import split_names
from unitrans.errors import ConfigError
from unitrans.training.callbacks import METRICS_FILE, read_metrics
from unitrans.training.runs import CONFIG_FILE, SUMMARY_FILE, command_line
from unitrans.training.yaml12 import load
from unitrans.use.ensemble import is_ensemble
from unitrans.use.predict import ENSEMBLE_FILE

#: What a domain leaves of its predictions, by file name, and what it shows.
PICTURES = {
    "reconstructions.png": "Original, masked and predicted",
    "predictions.png": "Held-out images and what they were taken for",
    "molecules.png": "Held-out molecules and what was predicted",
    "parity.png": "Predicted over true values, validation part",
    "parity-test.png": "Predicted over true values, test part",
}
TEXTS = "predictions.html"
_EXPECTED = {
    "vision": ("reconstructions.png", "predictions.png"),
    "text": (TEXTS,),
    "graph": ("molecules.png",),
}
_STEP = re.compile(r"step-\d+")


@dataclass
class Run:
    """A run folder.

    Attributes:
        folder, name: where it is, and what it is called on the page.
        config: its sections, as they were written.
        rows: of metrics.jsonl, of every update the last; went_back: how often the log went back to an earlier update.
        summary: figures at its end, {} for a run without one.
        environment: versions and machine.
        state: of the trainer in its newest checkpoint.
        card: sections of the model card, by heading.
        checkpoints: names of whole checkpoints; best, latest: what these links mean, "" without one.
        missing: sentences.
    """

    folder: Path
    name: str
    config: dict[str, Any]
    rows: list[dict[str, Any]] = field(default_factory=list)
    went_back: int = 0
    summary: dict[str, Any] = field(default_factory=dict)
    environment: dict[str, Any] = field(default_factory=dict)
    state: dict[str, Any] = field(default_factory=dict)
    card: dict[str, str] = field(default_factory=dict)
    checkpoints: list[str] = field(default_factory=list)
    best: str = ""
    latest: str = ""
    missing: list[str] = field(default_factory=list)

    def value(self, section: str, key: str) -> Any:
        """A setting, None where there is none."""
        found = self.config.get(section)
        return found.get(key) if isinstance(found, dict) else None

    @property
    def domains(self) -> list[str]:
        """The domains of the run."""
        return split_names(str(self.config.get("domain")))

    @property
    def objective(self) -> str:
        """The name of its objective."""
        return str(self.value("objective", "name"))

    @property
    def updates(self) -> int:
        """The last update in its log or its checkpoints."""
        logged = max((int(row["step"]) for row in self.rows), default=0)
        return max(logged, whole(self.state.get("global_step")) or 0)

    @property
    def planned(self) -> int | None:
        """How many updates it was to do, where that is known."""
        return whole(self.state.get("max_steps")) or whole(self.value("train", "max_steps"))

    @property
    def finished(self) -> bool:
        """Whether it came to its report."""
        return bool(self.summary)


def whole(value: Any) -> int | None:
    """A positive whole number, None for everything else."""
    return value if isinstance(value, int) and not isinstance(value, bool) and value > 0 else None


def finite(value: Any) -> bool:
    """Whether it is a number that can be drawn."""
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def open_runs(folders: Sequence[str]) -> list[Run]:
    """The runs in these folders; that of an ensemble stands for its members.

    Raises:
        ConfigError: a folder that is no run, in one sentence.
    """
    paths: list[Path] = []
    for name in folders:
        paths += _members(Path(name).expanduser())
    unique = {path.resolve(): path for path in paths}
    names = _names(list(unique.values()))
    return [read_run(path, name) for path, name in zip(unique.values(), names, strict=True)]


def _members(folder: Path) -> list[Path]:
    if not folder.is_dir():
        what = "a file" if folder.exists() else "nothing"
        raise ConfigError(
            f"{folder}: expected a run folder, got {what}; name a folder that unitrans train made, such as "
            "runs/vision-mim-1"
        )
    if is_ensemble(folder):
        content, reason = read_json(folder / ENSEMBLE_FILE)
        names = content.get("members")
        if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
            raise ConfigError(
                f"{folder / ENSEMBLE_FILE}: expected the names of its members, got {reason or names!r}; name their "
                "folders one by one"
            )
        members = [folder / name for name in names if (folder / name / CONFIG_FILE).is_file()]
        if members:
            return members
    if not (folder / CONFIG_FILE).is_file():
        inside = sorted(p.parent for p in folder.glob(f"*/{CONFIG_FILE}"))
        fix = f"name {inside[0]}" if inside else "name a folder that unitrans train made"
        raise ConfigError(f"{folder}: expected a run folder, got one without {CONFIG_FILE}; {fix}")
    return [folder]


def _names(paths: Sequence[Path]) -> list[str]:
    """Short names that tell the runs apart: the last parts of their paths, as many as that takes."""
    parts = [path.resolve().parts for path in paths]
    longest = max(map(len, parts))
    for count in range(1, longest + 1):
        names = ["/".join(part[-count:]) for part in parts]
        if len(set(names)) == len(names):
            break
    return names


def read_json(path: Path) -> tuple[dict[str, Any], str]:
    """The object in a JSON file, or {} and the reason why there is none."""
    if not path.is_file():
        return {}, f"{path.name} is missing"
    try:
        content = stored.read_json(path)
    except (ValueError, OSError, RecursionError) as error:
        return {}, f"{path.name} cannot be read: {' '.join(str(error).split())}"
    if not isinstance(content, dict):
        return {}, f"{path.name} cannot be read: expected an object, got {type(content).__name__}"
    return content, ""


def read_run(folder: Path, name: str) -> Run:
    """Everything that a page shows of a run.

    Raises:
        ConfigError: its configuration cannot be read.
    """
    file = folder / CONFIG_FILE
    try:
        config = load(file.read_text(encoding="utf-8"))
    except (ValueError, OSError) as error:
        reason = " ".join(str(error).split())
        raise ConfigError(
            f"{file}: expected the settings of a run, got what cannot be read ({reason}); mend the file or name "
            "another run"
        ) from None
    if not isinstance(config, dict) or not isinstance(config.get("domain"), str):
        raise ConfigError(
            f"{file}: expected the settings of a run, got no domain; name a folder that unitrans train made"
        )
    run = Run(folder, name, config)
    _read_log(run)
    _read_checkpoints(run)
    run.environment, reason = read_json(folder / "environment.json")
    run.missing += [reason] if reason else []
    run.summary, reason = read_json(folder / SUMMARY_FILE)
    if reason.endswith("is missing"):
        how = (
            f"go on with {command_line('train', '--resume', str(folder))}"
            if run.latest
            else "it left no checkpoint"
        )
        reason = f"{reason}: the run has not come to its end ({how})"
    run.missing += [reason] if reason else []
    for domain in run.domains:
        wanted = _EXPECTED.get(domain, ())
        if wanted and not any((folder / one).is_file() for one in wanted):
            run.missing.append(
                f"{' or '.join(wanted)} is missing: no picture of what was predicted for {domain}"
            )
    return run


def _read_log(run: Run) -> None:
    path = run.folder / METRICS_FILE
    if not path.is_file():
        run.missing.append(f"{METRICS_FILE} is missing: no curves")
        return
    try:
        lines = sum(bool(line.strip()) for line in path.read_text(encoding="utf-8").splitlines())
        rows = read_metrics(path)
    except (ValueError, OSError) as error:
        run.missing.append(f"{METRICS_FILE} cannot be read: {' '.join(str(error).split())}")
        return
    good = [row for row in rows if isinstance(row, dict) and finite(row.get("step"))]
    run.rows, run.went_back = in_order(good)
    if len(good) < lines:
        run.missing.append(f"{lines - len(good)} of {lines} lines of {METRICS_FILE} cannot be read")
    if not good:
        run.missing.append(f"{METRICS_FILE} has no rows: no curves")
    broken = sum("loss" in row and not finite(row["loss"]) for row in run.rows)
    if broken:
        count = f"1 row of {METRICS_FILE} has" if broken == 1 else f"{broken} rows of {METRICS_FILE} have"
        run.missing.append(f"{count} a loss that is no number, not drawn")


def in_order(rows: Sequence[Mapping[str, Any]]) -> tuple[list[dict[str, Any]], int]:
    """The rows of the run as it went in the end, and how often it went back.

    Where the log goes back to an earlier update, the run was taken up there: what it had done after that update does
    not count. Rows of one update (training and evaluation) are put together, of a figure written twice the last counts.
    """
    kept: dict[float, dict[str, Any]] = {}
    back, last = 0, -math.inf
    for row in rows:
        step = row["step"]
        if step < last:
            back += 1
            for other in [other for other in kept if other >= step]:
                del kept[other]
        last = step
        kept[step] = kept.get(step, {}) | dict(row)
    return list(kept.values()), back


def _read_checkpoints(run: Run) -> None:
    folder = run.folder / "checkpoints"
    if folder.is_dir():
        run.checkpoints = sorted(p.name for p in folder.iterdir() if _STEP.fullmatch(p.name) and p.is_dir())
    if not run.checkpoints:
        run.missing.append("checkpoints is missing or empty: no weights")
        return
    for link in ("best", "latest"):
        target = (folder / link).resolve()
        setattr(run, link, target.name if (folder / link).exists() else "")
    run.latest = run.latest or run.checkpoints[-1]
    run.state, reason = read_json(folder / run.latest / "trainer_state.json")
    run.missing += [f"{run.latest}: {reason}"] if reason else []
    chosen = run.best or run.latest
    file = folder / chosen / "README.md"
    if file.is_file():
        run.card = _card(file.read_text(encoding="utf-8", errors="replace"))
    else:
        run.missing.append(f"README.md is missing from {chosen}: no model card")


def _card(text: str) -> dict[str, str]:
    """The sections of a model card by heading; what stands under the title has the key ""."""
    body = text.split("\n# ", 1)[-1]
    head, *sections = re.split(r"^## ", body, flags=re.MULTILINE)
    found = {"": head.partition("\n")[2].strip()}
    for section in sections:
        title, _, content = section.partition("\n")
        found[title.strip()] = content.strip()
    return found
