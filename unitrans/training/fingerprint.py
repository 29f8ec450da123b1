"""What a run remembers of its data, in data.json of its folder: a fingerprint, by which changed data are noticed when
it goes on, and what it derived from them, which never changes.

The fingerprint takes bounded work: names and lengths of all samples, the content of some, and a part of large files.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from unitrans.domains.base import Source
from unitrans.domains.kept import Kept
from unitrans.errors import ConfigError
from unitrans.objectives.base import Labels
from unitrans.stored import part_hash, read_json
from unitrans.training.processes import is_main, on_main, say
from unitrans.training.runs import write_json

if TYPE_CHECKING:
    from unitrans.training.session import Session

DATA_FILE = "data.json"
LOOKED_AT = 128  # samples of a part whose content counts, evenly spaced
FLAG = "--accept-changed-data"
_FILES = ("path", "validation")  # settings that may name a file
_OF_FILE, _OF_SAMPLE = 64 << 20, 4 << 20  # bytes that are read of such a file, and of the file of a sample


def remember(run: Path, session: Session) -> None:
    """Writes what the data of a run are, and what it derived from them."""
    source = session.train_source
    record = {
        "fingerprint": fingerprint(session),
        "labels": None if source.labels is None else asdict(source.labels),
        "reading": source.reading,
        "updates_per_epoch": session.sampler.updates_per_epoch(),
        "notes": {"data": source.notes, "init": session.init_notes},
    }
    write_json(run / DATA_FILE, record)


def read_kept(run: Path) -> Kept | None:
    """What a run derived from its data; None for one of an earlier version, which kept nothing."""
    record = _read(run)
    if record is None:
        return None
    labels = None if record["labels"] is None else Labels.from_dict(record["labels"])
    return Kept(labels, record["reading"], run)


def updates_per_epoch(run: Path) -> float | None:
    """That of the data the run began with; None where it does not say."""
    record = _read(run)
    return None if record is None else record["updates_per_epoch"]


def compare(run: Path, session: Session, accept: bool) -> None:
    """Compares the data of a session with those that a run began with. Called by all processes.

    accept: goes on with changed ones, which are then the run's. ConfigError says what has changed.
    """
    record = _read(run)
    if record is None:
        return
    found = on_main(lambda: fingerprint(session))
    changes = on_main(lambda: list(_changes(record["fingerprint"], found)))
    if changes and not accept:
        raise ConfigError(
            f"the data of {run} have changed since it began ({'; '.join(changes)}): bring back what was there, or go "
            f"on with what is there now by {FLAG}, which keeps the run's classes, scales, normalisation and vocabulary"
        )
    labels, then = session.train_source.labels, read_kept(run)
    if then is not None and labels != then.labels:
        raise ConfigError(
            f"the labels of {run} have changed since it began, so it cannot go on: bring back what was there, or start "
            "a new run"
        )
    if changes:
        say(f"goes on with changed data: {'; '.join(changes)}")
        if is_main():
            write_json(run / DATA_FILE, record | {"fingerprint": found})


def remind(run: Path, session: Session) -> None:
    """Gives a run that goes on the sentences of its beginning, for its cards; one of an earlier version has none."""
    record = _read(run) or {}
    if "notes" in record:
        session.data_notes, session.init_notes = record["notes"]["data"], record["notes"]["init"]


def _read(run: Path) -> Any:
    path = run / DATA_FILE
    if not path.is_file():
        return None
    try:
        return read_json(path)
    except ValueError as error:
        raise ConfigError(f"{path} is damaged ({error}): remove it to go on unchecked") from None


def fingerprint(session: Session) -> dict[str, Any]:
    """Parts of the data and files of settings; see the module."""
    views = session.by_domain()
    parts, files = {}, {}
    for name, view in views.items():
        before = f"{name} " if len(views) > 1 else ""
        sources = {"training": view.train_source, "validation": view.validation_source}
        for part, source in (sources | {"test": view.train_source.test}).items():
            if source is not None:
                parts[before + part] = _of_source(source)
        section = session.config.data[name] if len(views) > 1 else session.config.data
        for key in _FILES:
            digest = _of_file(section.get(key))
            if digest is not None:
                files[f"data.{name}.{key}" if len(views) > 1 else f"data.{key}"] = digest
    return {"parts": parts, "files": files}


def _of_file(name: Any, limit: int = _OF_FILE) -> str | None:
    """Of a regular file; None for anything else that a setting may be."""
    try:
        path = Path(name).expanduser() if isinstance(name, str) and "\0" not in name else None
        return part_hash(path, limit) if path is not None and path.is_file() else None
    except OSError:
        return None


def _of_source(source: Source) -> dict[str, Any]:
    """Of a stream only its length, which is all that is known before it is read."""
    if source.in_order:
        return {"samples": len(source)}
    chosen = np.unique(np.linspace(0, len(source) - 1, min(len(source), LOOKED_AT)).round().astype(int))
    lengths = source.num_tokens
    return {
        "samples": len(source),
        "ids": _digest("\n".join(source.ids)),
        "lengths": None if lengths is None else _digest(np.asarray(lengths, dtype=np.int64)),
        "looked_at": {source.ids[index]: _of_sample(source, index) for index in chosen.tolist()},
    }


def _of_sample(source: Source, index: int) -> str:
    file = source.file(index)
    if file is not None:
        return _of_file(str(file), _OF_SAMPLE) or "it cannot be read"
    sample = source.load(index)
    return "it cannot be read" if sample is None else _digest(sample)


def _digest(value: Any) -> str:
    digest = hashlib.blake2b(digest_size=16)
    for part in _parts(value):
        digest.update(part)
    return digest.hexdigest()


def _parts(value: Any) -> Iterator[bytes]:
    """The content of plain values, arrays and tensors; the id of a sample is no content."""
    if isinstance(value, Mapping):
        for key in sorted(value):
            if key != "id":
                yield f"{key}=".encode()
                yield from _parts(value[key])
    elif isinstance(value, str):
        yield value.encode("utf-8", "surrogateescape")
    else:
        array = np.asarray(value)
        yield f"{array.dtype}{array.shape}".encode()
        yield repr(value).encode() if array.dtype.hasobject else np.ascontiguousarray(array).tobytes()


def _changes(then: Mapping[str, Any], now: Mapping[str, Any]) -> Iterator[str]:
    """What differs between two fingerprints, in words."""
    said = False
    for name in dict.fromkeys([*then["parts"], *now["parts"]]):
        old, new = then["parts"].get(name), now["parts"].get(name)
        if old != new:
            said = True
            yield f"{name}: {_difference(old, new)}"
    for key, digest in then["files"].items() if not said else ():
        if now["files"].get(key) != digest:
            yield f"the file of {key} has other content"


def _difference(old: Mapping[str, Any] | None, new: Mapping[str, Any] | None) -> str:
    if old is None or new is None:
        return "there is none now" if new is None else "there was none"
    found = []
    if old["samples"] != new["samples"]:
        found.append(f"{new['samples']:,} samples for {old['samples']:,}")
    before, after = old.get("looked_at", {}), new.get("looked_at", {})
    both = before.keys() & after.keys()
    other = [name for name in before if name in both and before[name] != after[name]]
    if other:
        found.append(
            f"{len(other):,} of {len(both):,} that were looked at have other content, such as {other[0]}"
        )
    if old.get("ids") != new.get("ids"):
        gone = next((name for name in before if name not in both), None)
        if old["samples"] == new["samples"]:
            found.append("other names" + (f", without {gone}" if gone is not None else ""))
    return ", ".join(found) or "other content"
