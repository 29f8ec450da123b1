"""The README.md beside the weights of a checkpoint: what was trained on what, how, and how good it is."""

from __future__ import annotations

import html
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

import unitrans
from unitrans.training.callbacks import METRICS_FILE, read_metrics
from unitrans.training.environment import package_version

if TYPE_CHECKING:
    from unitrans.training.session import Session

_PACKAGES = ("torch", "transformers", "datasets", "accelerate", "numpy")
_NOTES_SHOWN = 8


def model_card(session: Session, run: Path | None, step: int) -> str:
    """A model card as the hub has them.

    Args:
        session: of the run.
        run: its folder, whose log has the figures.
        step: updates done.
    """
    config, model = session.recipe or session.config, session.model
    parameters = sum(p.numel() for p in model.parameters())
    validation = session.validation_source
    source: Any = session.train_source
    held_out = "nothing held out" if validation is None else f"{len(validation):,} held out"
    rows = [] if run is None else read_metrics(run / METRICS_FILE)
    judged: Mapping[str, Any] = next((row for row in reversed(rows) if "eval_loss" in row), {})
    figures = [
        f"| {name.removeprefix('eval_')} | {value:.4f} |"
        for name, value in judged.items()
        if name.startswith("eval_") and isinstance(value, float) and name != "eval_seconds"
    ]
    results = "Nothing has been judged yet."
    if figures:
        results = "\n".join(
            [
                f"Held-out samples, after update {judged.get('step', step):,}:",
                "",
                "| figure | value |",
                "|---|---|",
                *figures,
            ]
        )
    said = source.notes if session.data_notes is None else session.data_notes
    notes = [f"- {html.escape(note, quote=False)}" for note in said[:_NOTES_SHOWN]]
    if source.skipped:
        notes.append(f"- {len(source.skipped):,} samples could not be read and were left out")
    labels = source.labels
    if labels is not None:
        shown = ", ".join(html.escape(name, quote=False) for name in labels.names[:20]) + (
            ", ..." if len(labels.names) > 20 else ""
        )
        notes.append(f"- labels ({labels.kind}): {shown}")
    init = session.settings["init"]
    known = session.init_notes or (["random weights"] if init is None else [f"weights of {init}"])
    started = [f"- {note}" for note in known]
    versions = [f"unitrans {unitrans.__version__}", *(f"{n} {package_version(n)}" for n in _PACKAGES)]
    lines = [
        "---",
        "library_name: unitrans",
        "tags:",
        *(f"- {tag}" for tag in (config.domain, config.objective["name"], config.model["name"])),
        "---",
        "",
        f"# {config.model['name']} on {config.domain}, objective {config.objective['name']}",
        "",
        f"{parameters:,} parameters, update {step:,} of {session.max_steps:,}.",
        "",
        "```python",
        "import unitrans",
        'model = unitrans.load("THIS FOLDER")',
        "```",
        "",
        "## Data",
        "",
        f"{config.data_name}: {len(source):,} training samples, {held_out}.",
        "",
        *notes,
        "",
        "## Results",
        "",
        results,
        "",
        "## Recipe",
        "",
        "It started from:",
        "",
        *started,
        "",
        "`unitrans train --config` repeats the run with:",
        "",
        "```yaml",
        *(line for line in config.to_yaml().splitlines() if line and not line.lstrip().startswith("#")),
        "```",
        "",
        "## Versions",
        "",
        f"{', '.join(versions)}; {torch.get_num_threads()} threads.",
    ]
    return _without_folders("\n".join(lines) + "\n", [config.to_dict(), init])


def _without_folders(text: str, settings: Any) -> str:
    """A card without the folders of the machine that trained: of the absolute paths in the settings the last part."""
    found: set[str] = set()

    def collect(value: Any) -> None:
        if isinstance(value, Mapping | list):
            for inner in value.values() if isinstance(value, Mapping) else value:
                collect(inner)
        elif isinstance(value, str):  # pyg:NAME:/place/folder has one behind a colon
            found.update(part for part in (value, value.rpartition(":")[2]) if re.match("/[^/]", part))

    collect(settings)
    for path in sorted(found, key=len, reverse=True):  # the longest first: one may lie in another
        path = path.rstrip("/")
        whole = rf"(?<![\w./~-]){re.escape(path)}(?![\w-]|\.\w)"  # /a is no part of /ab or b/a
        text = re.sub(whole, os.path.basename(path).replace("\\", r"\\"), text)
    return text
