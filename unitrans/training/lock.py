"""Only one command at a time works in a run folder.

The lock is one of the file system on RUN/.lock, which ends with its process however that ends. Where the file system
has none, RUN/.heartbeat is touched every few seconds by the command that works there, and is stale after ten missed
beats. Both files say who holds them: host, process and when that began.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from unitrans.errors import ConfigError

BEAT = 5.0  # seconds
MISSED = 10  # beats after which a heartbeat is stale
_NO_LOCKS = (errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS)
_TAKEN = (errno.EACCES, errno.EAGAIN)


@contextmanager
def hold(run: Path) -> Iterator[str]:
    """Inside, no other command works in ``run``; gives the kind of lock in words. ConfigError where one does."""
    try:
        descriptor = _lock(run)
    except OSError as error:
        if error.errno not in _NO_LOCKS:
            raise ConfigError(f"{run} cannot be written: {error.strerror}; choose another folder") from error
        with _beating(run):
            yield f"a heartbeat every {BEAT:g} s, as this file system has no locks"
        return
    try:
        yield "a lock of the file system"
    finally:
        (run / ".lock").unlink(missing_ok=True)
        os.close(descriptor)


def _lock(run: Path) -> int:
    """The open descriptor of the locked file."""
    path = run / ".lock"
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if not (path.exists() and os.path.samestat(os.fstat(descriptor), path.stat())):
                os.close(descriptor)  # its holder has removed it meanwhile
                continue
            os.ftruncate(descriptor, 0)
            os.pwrite(descriptor, json.dumps(_identity()).encode(), 0)
        except OSError as error:
            if error.errno in _TAKEN:
                holder = os.pread(descriptor, 4096, 0).decode(errors="replace")
                os.close(descriptor)
                raise _in_use(run, holder) from None
            os.close(descriptor)
            path.unlink(missing_ok=True)
            raise
        return descriptor


@contextmanager
def _beating(run: Path) -> Iterator[None]:
    """The same by a file that is touched."""
    path, own = run / ".heartbeat", json.dumps(_identity())
    temporary = run / f".heartbeat.{os.getpid()}.tmp"
    temporary.write_text(own, encoding="utf-8")
    try:
        os.link(temporary, path)  # fails if it exists, also on NFS
    except FileExistsError:
        if not _is_stale(path, temporary):
            raise _in_use(run, _read(path)) from None
        temporary.replace(path)
        time.sleep(BEAT / 10)  # of two that replace it at once the second one wins
        if _read(path) != own:
            raise _in_use(run, _read(path)) from None
    finally:
        temporary.unlink(missing_ok=True)
    done = threading.Event()

    def beat() -> None:
        while not done.wait(BEAT):
            if _read(path) == own:
                os.utime(path)

    thread = threading.Thread(target=beat, name="heartbeat", daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()
        if _read(path) == own:
            path.unlink(missing_ok=True)


def _is_stale(path: Path, now: Path) -> bool:
    """Whether nobody beats any more; ``now`` is a file just written, by the same clock as the other."""
    try:
        holder = json.loads(_read(path))
        if holder["host"] == socket.gethostname():
            return bool(_start_of(holder["pid"]) != holder["process_start"])
    except (ValueError, KeyError, TypeError):
        pass  # cut off while it was written: its age decides
    try:
        return now.stat().st_mtime - path.stat().st_mtime > MISSED * BEAT
    except FileNotFoundError:
        return True


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""


def _start_of(pid: int) -> str | None:
    """When a process of this host began, in ticks since the host did; None for one that is not there."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None
    return text.rpartition(")")[2].split()[19]


def _identity() -> dict[str, Any]:
    pid = os.getpid()
    since = time.strftime("%Y-%m-%d %H:%M:%S")
    return {"host": socket.gethostname(), "pid": pid, "since": since, "process_start": _start_of(pid)}


def _in_use(run: Path, text: str) -> ConfigError:
    try:
        holder = json.loads(text)
        who = f"process {holder['pid']} on {holder['host']} since {holder['since']}"
    except (ValueError, KeyError, TypeError):
        who = "another process"
    return ConfigError(f"{run} is in use by {who}: wait until it ends, or stop it first")
