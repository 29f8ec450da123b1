"""Samples with the same content under other names: found without reading more than is needed to tell them apart."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Callable, Hashable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

HEAD = 4096  # bytes by which most files of one size differ
_THREADS = 16  # reading waits for disks and networks

#: What is known of these samples, one after the other; None: nothing, so it is nobody's copy.
Look = Callable[[Sequence[int]], Iterable[Hashable | None]]


def digest(content: bytes) -> str:
    """A name for a content."""
    return hashlib.blake2b(content, digest_size=16).hexdigest()


def copies(count: int, looks: Sequence[Look]) -> dict[int, str]:
    """Sample -> content, of all whose content another sample has too.

    Args:
        count: of samples.
        looks: from cheap to exact; each sees those alone which the ones before could not tell apart. The last gives
            digests.
    """
    groups: list[list[int]] = [list(range(count))]
    found: dict[int, str] = {}
    for look in looks:
        asked = [index for group in groups for index in group]
        known = dict(zip(asked, look(asked), strict=True))
        parts: list[list[int]] = []
        for group in groups:
            same: defaultdict[Hashable, list[int]] = defaultdict(list)
            for index in group:
                if known[index] is not None:
                    same[known[index]].append(index)
            parts += [part for part in same.values() if len(part) > 1]
        groups = parts
        found = {index: str(known[index]) for group in groups for index in group}
    return found


def copied_files(files: Sequence[Path]) -> dict[int, str]:
    """The same for files; one that cannot be read is nobody's copy."""

    def each(of_file: Callable[[Path], Hashable]) -> Look:
        def known(index: int) -> Hashable | None:
            try:
                return of_file(files[index])
            except OSError:
                return None

        def look(asked: Sequence[int]) -> Iterable[Hashable | None]:
            with ThreadPoolExecutor(_THREADS) as pool:
                return list(pool.map(known, asked, chunksize=64))

        return look

    return copies(
        len(files),
        [each(lambda file: file.stat().st_size or None), each(lambda file: _read(file, HEAD)), each(_read)],
    )


def _read(file: Path, limit: int = -1) -> str:
    with file.open("rb") as stream:
        return digest(stream.read(limit))


def said(found: dict[int, str], names: Sequence[str], what: str) -> list[str]:
    """A sentence where there are copies; what: samples, in the plural."""
    if not found:
        return []
    first, second = [index for index, content in found.items() if content == next(iter(found.values()))][:2]
    return [
        f"{len(found):,} {what} have the same content as others, such as {names[first]} and {names[second]} "
        f"({len(set(found.values())):,} different ones): all copies of one stand on the same side of the split"
    ]
