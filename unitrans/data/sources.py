"""What tables of every domain share: splits, parquet files, data sets of the Hugging Face hub, and their errors."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, Literal

from unitrans.data.table import Record, Table
from unitrans.errors import SourceError, nearest_name

READ_ROWS = 256  # at a time
_HUB_NAME = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?(:[\w.-]+)?")
_PROBE_SECONDS = 10.0
STREAM_ROUNDS = 3
_SPLITS = {"train": "train", "training": "train", "test": "test", "testing": "test", "eval": "test"}
_SPLITS |= dict.fromkeys(("validation", "valid", "val", "dev"), "validation")
SPLIT_WORDS = tuple(_SPLITS)
_SPLIT_WORD = re.compile(rf"(?<![a-z])({'|'.join(_SPLITS)})(?![a-z])")


class DataSet(Table):
    """A split of a data set of ``datasets``: in memory maps, or streamed shard by shard.

    Attributes:
        is_stream: whether it is read from front to back only.
    """

    def __init__(self, data: Any, where: str, size: int = 0) -> None:
        self.is_stream = not hasattr(data, "__len__")
        if data.features is None:  # a stream whose columns are known only from its rows
            with readable(where):
                data = data._resolve_features()
        self.data, self.features = data, data.features
        parts = data.num_shards if self.is_stream else 1
        readers = [partial(self._read, part, parts) for part in range(parts)]
        super().__init__(list(self.features), "parquet", readers, where, size)

    def _read(self, part: int, parts: int) -> Iterator[Record | str]:
        # Not iter(stream): inside a loader worker that gives each worker a part of the files.
        shard = self.data.shard(parts, part) if self.is_stream else self.data
        for batch in shard.iter(batch_size=READ_ROWS):
            for row in zip(*(batch[name] for name in self.names), strict=True):
                yield dict(zip(self.names, row, strict=True))

    def select(self, names: Sequence[str]) -> DataSet:
        """The same with these columns alone."""
        return DataSet(self.data.select_columns(list(names)), self.where, self.size)

    def declared(self, name: str) -> list[str] | None:
        """The names of classes that a column, or a column of lists, declares."""
        feature = self.features[name]
        names = getattr(inner_feature(feature) or feature, "names", None)
        return list(names) if names else None

    def kinds(self) -> dict[str, str]:
        """What the columns hold, as the data set says."""
        return {name: _feature_kind(feature) for name, feature in self.features.items()}


def inner_feature(feature: Any) -> Any:
    """What a column of lists holds; None of another column."""
    return feature[0] if isinstance(feature, list) else getattr(feature, "feature", None)


def _feature_kind(feature: Any) -> str:
    dtype = str(getattr(feature, "dtype", ""))
    if inner_feature(feature) is not None:
        return "list"
    if dtype in ("string", "large_string"):
        return "text"
    return "number" if dtype.startswith(("int", "uint", "float", "double", "bool")) else "other"


def choose_split(splits: Sequence[str], asked: str | None, where: str) -> str:
    """``asked``, else ``train``, else the only split. ValueError names the splits."""
    if asked is not None:
        if asked not in splits:
            raise ValueError(
                f"data.split={asked!r} is not a split of {where}: expected one of {', '.join(splits)}"
                f"{nearest_name(asked, splits)}"
            )
        return asked
    if "train" in splits or len(splits) == 1:
        return "train" if "train" in splits else splits[0]
    raise ValueError(f"{where} has no split train: choose one with data.split ({', '.join(splits)})")


def is_table(root: Path) -> bool:
    """Whether a path that exists is a parquet file or a data set that ``datasets`` has saved."""
    if root.is_file():
        return root.suffix.lower() == ".parquet"
    saved = (root / "state.json").is_file() and (root / "dataset_info.json").is_file()
    return saved or (root / "dataset_dict.json").is_file()


def parquet_files(root: Path) -> tuple[dict[str, list[str]], list[str]]:
    """split -> files, for a parquet file or the parquet files below a folder; and those that belong to no split.

    A file belongs to train, validation or test when a part of its path says so, the file name before its folder
    (train-00000.parquet, test/0.parquet). If none does, all are train.
    """
    if root.is_file():
        return {"train": [str(root)]}, []
    splits: dict[str, list[str]] = {}
    others = []
    for file in sorted(root.rglob("*.parquet")):
        parts = file.relative_to(root).parts
        if any(part.startswith(".") for part in parts) or not file.is_file():
            continue
        words = [_SPLIT_WORD.search(part.lower()) for part in reversed(parts)]
        word = next((found.group(1) for found in words if found), None)
        if word is None:
            others.append(str(file))
        else:
            splits.setdefault(_SPLITS[word], []).append(str(file))
    return (splits, others) if splits else ({"train": others}, [])


def parquet_builder(root: Path, path: str, where: str) -> tuple[Any, list[str]]:
    """A datasets builder for ``parquet_files``, and sentences about files that are left out."""
    import datasets

    files, unused = parquet_files(root)
    notes = []
    if unused:
        names = ", ".join(Path(name).name for name in unused[:4])
        notes.append(
            f"ignored {len(unused):,} parquet files in {path} whose names belong to no split "
            f"({', '.join(files)}): {names}"
        )
    with readable(where):
        return datasets.load_dataset_builder("parquet", data_files=files), notes


def hub_builder(path: str, revision: str | None, key: str, embedded: Iterable[str]) -> tuple[Any, str]:
    """A datasets builder for NAME, OWNER/NAME or OWNER/NAME:CONFIG, fixed to one commit, and a sentence that says so.

    ValueError in one sentence if there is no such data set or it cannot be had.
    """
    import datasets

    name, _, config = path.partition(":")
    if not _HUB_NAME.fullmatch(path):
        raise ValueError(f"{key}: {nothing_found(path, embedded)}, and it is not spelled as a hub name")
    found, reason, answered = ask_hub(name, revision, "data set", datasets.config.HF_ENDPOINT)
    if found is None and (answered or not _is_cached(name)):
        raise ValueError(f"{key}: {nothing_found(path, embedded)}, and {reason}")
    with readable(f"{key}: {path!r}"):
        full, commit = found or (name, revision)  # the full name of mnist is ylecun/mnist
        builder = datasets.load_dataset_builder(full, config or None, revision=commit)
    if found is None:
        return builder, f"{name} is read from the cache: {reason}"
    return builder, f"{full} of {datasets.config.HF_ENDPOINT} at commit {commit}"


def nothing_found(path: str, embedded: Iterable[str]) -> str:
    """What a path that does not exist is not, with the nearest name there is."""
    parent = Path(os.path.expanduser(path)).parent
    try:
        beside = [str(Path(path).with_name(entry.name)) for entry in os.scandir(parent)]
    except (OSError, ValueError):
        beside = []
    return (
        f"there is no folder {path!r} and no embedded data set of that name "
        f"({', '.join(sorted(embedded))}){nearest_name(path, [*embedded, *beside])}"
    )


def ask_hub(
    name: str, revision: str | None, kind: Literal["data set", "model"], endpoint: str
) -> tuple[tuple[str, str] | None, str, bool]:
    """Full name and commit of something on the hub, or None and why not; and whether the hub has answered."""
    from huggingface_hub import HfApi
    from huggingface_hub import errors as hub_errors

    api = HfApi(endpoint=endpoint)
    ask: Any = api.dataset_info if kind == "data set" else api.model_info
    try:
        found = ask(name, revision=revision, timeout=_PROBE_SECONDS)
        return (str(found.id), str(found.sha)), "", True
    except hub_errors.GatedRepoError:
        return (
            None,
            f"{name} on the hub {endpoint} is open only to those its owner admits (hf auth login)",
            True,
        )
    except hub_errors.RevisionNotFoundError:
        return None, f"{name} on the hub {endpoint} has no data.revision={revision!r}", True
    except hub_errors.RepositoryNotFoundError:
        return None, f"the hub {endpoint} has no (public) {kind} {name!r}", True
    except hub_errors.OfflineModeIsEnabled:
        return None, "the hub is not asked, because HF_HUB_OFFLINE is set", False
    except hub_errors.HfHubHTTPError as error:
        return None, f"the hub {endpoint} answers with an error ({_first_line(error)})", True
    except hub_errors.HFValidationError:
        return None, "it is not spelled as a hub name", True
    except Exception as error:
        # The transport of huggingface_hub has changed (requests, httpx, ...); each has errors of its own.
        return (
            None,
            f"the hub {endpoint} cannot be reached ({_first_line(error)}): is this machine offline?",
            False,
        )


def _is_cached(name: str) -> bool:
    """Whether ``datasets`` has prepared a copy of this data set before."""
    import datasets

    return (Path(datasets.config.HF_DATASETS_CACHE) / name.replace("/", "___")).is_dir()


@contextmanager
def readable(where: str) -> Iterator[None]:
    """What ``datasets`` raises becomes one sentence with the innermost reason. It passes on whatever Arrow, file
    systems and transports raise, which have no class in common."""
    try:
        yield
    except Exception as error:
        raise ValueError(f"{where} cannot be read as a data set: {_first_line(_innermost(error))}") from error


@contextmanager
def unbroken(what: str) -> Iterator[None]:
    """What reading on raises (see ``readable``) becomes a SourceError."""
    try:
        yield
    except Exception as error:
        raise SourceError(f"{what} ({_first_line(_innermost(error))})") from error


def _innermost(error: BaseException) -> BaseException:
    while error.__cause__ is not None:
        error = error.__cause__
    return error


def limit_retries() -> None:
    """A stream whose server is gone is given up after a few rounds instead of ``datasets``' twenty; each round is
    itself several attempts of ``huggingface_hub``, further and further apart (half a minute)."""
    import datasets

    for name in ("STREAMING_READ_MAX_RETRIES", "STREAMING_OPEN_MAX_RETRIES"):
        if hasattr(datasets.config, name):
            setattr(datasets.config, name, min(STREAM_ROUNDS, getattr(datasets.config, name)))


def _first_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return lines[0].rstrip(".") if lines else type(error).__name__
