"""Run folders: runs/DOMAIN-OBJECTIVE-N, created in one step and never overwritten."""

from __future__ import annotations

import errno
import json
import os
import re
import shlex
import shutil
import sys
from pathlib import Path
from typing import Any

from unitrans.errors import ConfigError

RUNS = Path("runs")
CONFIG_FILE = "config.yaml"
SUMMARY_FILE = "summary.json"  # written last


def create_run_folder(output: str | None, domain: str, objective: str) -> Path:
    """A new folder for a run: ``output``, which must be absent or empty, or the next free runs/DOMAIN-OBJECTIVE-N.

    ConfigError when it cannot be made.
    """
    domain = domain.replace(",", "-")
    try:
        return (
            _next_folder(f"{domain}-{objective}")
            if output is None
            else _given_folder(Path(output).expanduser())
        )
    except OSError as error:
        where = output or f"{RUNS}/{domain}-{objective}-N"
        raise ConfigError(
            f"the run folder {where} cannot be made: {error.strerror}; name another with --output DIR"
        ) from None


def _given_folder(folder: Path) -> Path:
    if folder.exists() and not folder.is_dir():
        raise ConfigError(f"--output {folder} is a file: name a folder that is absent or empty")
    if folder.is_dir() and any(folder.iterdir()):
        hint = f", or go on with --resume {folder}" if (folder / CONFIG_FILE).exists() else ""
        raise ConfigError(
            f"--output {folder} exists and is not empty: name a folder that is absent or empty{hint}"
        )
    folder.mkdir(parents=True, exist_ok=True)
    if not os.access(folder, os.W_OK | os.X_OK):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
    return folder


def _numbers(prefix: str) -> list[int]:
    pattern = re.compile(re.escape(prefix) + r"-(\d+)")
    matches = (pattern.fullmatch(entry.name) for entry in RUNS.iterdir()) if RUNS.is_dir() else ()
    return [int(match.group(1)) for match in matches if match]


def _next_folder(prefix: str) -> Path:
    RUNS.mkdir(parents=True, exist_ok=True)
    number = max(_numbers(prefix), default=0)
    while True:
        number += 1
        folder = RUNS / f"{prefix}-{number}"
        try:
            folder.mkdir()  # fails if it exists: two runs that start at once get two folders
        except FileExistsError:
            continue
        return folder


def find_run(folder: str) -> Path:
    """The run folder to go on with: the one named, or for "" the newest under runs/. ConfigError for none."""
    if folder:
        run = Path(folder).expanduser()
        if not run.is_dir():
            raise ConfigError(f"--resume {folder}: there is no such run folder{_known_runs()}")
    else:
        candidates = (
            [entry for entry in RUNS.iterdir() if (entry / CONFIG_FILE).is_file()] if RUNS.is_dir() else []
        )
        if not candidates:
            raise ConfigError(f"--resume: there is no run under {RUNS.resolve()}; name one with --resume DIR")
        run = max(candidates, key=lambda entry: (entry / CONFIG_FILE).stat().st_mtime_ns)
    if not (run / CONFIG_FILE).is_file():
        raise ConfigError(
            f"--resume {run}: it holds no {CONFIG_FILE}, so it is not a run folder{_known_runs()}"
        )
    return run


def _known_runs() -> str:
    known = (
        sorted(str(entry) for entry in RUNS.iterdir() if (entry / CONFIG_FILE).is_file())
        if RUNS.is_dir()
        else []
    )
    return f" (runs here: {', '.join(known[-4:])})" if known else ""


def write_json(path: Path, value: Any) -> None:
    """Pretty JSON in one step: never half a file."""
    write_text(path, json.dumps(value, indent=2) + "\n")


def write_text(path: Path, text: str) -> None:
    """The text in one step: never half a file. OSError, which names it, where it cannot be written."""
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        temporary.write_text(text, encoding="utf-8")
        temporary.replace(path)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        error.filename = error.filename or str(path)
        raise


def command_line(*arguments: str, program: str = "unitrans") -> str:
    """A command to type: the program by its name if that finds it, else the one beside ours as it was called."""
    ours = Path(sys.argv[0])
    beside = ours.with_name(program)
    found = shutil.which(program)
    called = program
    if (
        ours.name == "unitrans"
        and beside.exists()
        and not (found and Path(found).resolve() == beside.resolve())
    ):
        inside = beside.is_absolute() and beside.is_relative_to(Path.cwd())
        called = str(beside.relative_to(Path.cwd()) if inside else beside)
    return shlex.join([called, *arguments])
