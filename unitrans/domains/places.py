"""What a path names that is neither a file nor a folder of data: pipes, devices, file systems of the kernel."""

from __future__ import annotations

import atexit
import os
import shutil
import stat
import sys
import tempfile
import threading
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import TypeVar

#: Seconds after which somebody who waits is told what for.
PATIENCE = 10.0
_KERNEL = frozenset(
    "proc sysfs cgroup cgroup2 debugfs tracefs securityfs configfs pstore bpf devpts mqueue fusectl efivarfs".split()
)
_pipes: dict[tuple[int, int, str], Path] = {}
_T = TypeVar("_T")


def settled(path: Path, key: str) -> Path:
    """A path that can be read again and again: itself, or for a pipe the file with what came through it.

    Args:
        path: what the user named.
        key: the option, the beginning of an error.

    Raises:
        ValueError: a device, a socket, or something in a file system of the kernel.
        OSError: the path cannot be asked.
    """
    if not os.path.exists(path):
        return path
    status = os.stat(path)
    if stat.S_ISFIFO(status.st_mode):
        return _received(path, (status.st_dev, status.st_ino, path.name))
    if not (stat.S_ISREG(status.st_mode) or stat.S_ISDIR(status.st_mode)):
        raise ValueError(f"{key}: {str(path)!r} is a device or a socket, expected a file or a folder")
    if is_kernels(status.st_dev):
        raise ValueError(f"{key}: {str(path)!r} lies in a file system of the kernel, which holds no data")
    return path


def is_kernels(device: int) -> bool:
    """Whether a device number (st_dev) is that of /proc, /sys and the like, which are endless to walk."""
    return device in _kernel_devices()


@cache
def _kernel_devices() -> frozenset[int]:
    found = set()
    try:
        lines = Path("/proc/self/mountinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return frozenset()
    for line in lines:  # "36 35 98:0 /root /place options - type source ..."
        before, _, after = line.partition(" - ")
        if after.split(" ")[0] in _KERNEL:
            major, _, minor = before.split(" ")[2].partition(":")
            found.add(os.makedev(int(major), int(minor)))
    return frozenset(found)


def patiently(what: str, wait: Callable[[], _T]) -> _T:
    """The result of something that may wait for others; says what it waits for after some seconds."""

    def tell() -> None:
        print(f"unitrans: still waiting for what {what} brings", file=sys.stderr, flush=True)

    timer = threading.Timer(PATIENCE, tell)
    timer.daemon = True
    timer.start()
    try:
        return wait()
    finally:
        timer.cancel()


def _received(path: Path, key: tuple[int, int, str]) -> Path:
    """The file with what came through a pipe, which brings it once. Its suffix tells what is in it."""
    if key not in _pipes:
        folder = Path(tempfile.mkdtemp(prefix="unitrans-pipe-"))
        atexit.register(shutil.rmtree, folder, ignore_errors=True)
        file = patiently(str(path), lambda: path.open("rb"))
        with file, (folder / "content").open("wb") as copy:
            start = patiently(str(path), lambda: file.read(1 << 16))
            copy.write(start)
            shutil.copyfileobj(file, copy, 1 << 20)
        suffix = "".join(path.suffixes)
        if not suffix:
            first = start.lstrip()
            suffix = ".csv.gz" if first[:2] == b"\x1f\x8b" else ".jsonl" if first[:1] == b"{" else ".csv"
        _pipes[key] = (folder / "content").rename(folder / f"{path.stem.split('.')[0] or 'pipe'}{suffix}")
    return _pipes[key]
