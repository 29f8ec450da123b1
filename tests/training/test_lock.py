"""Two commands do not work in one run folder, with locks of the file system and without."""

import errno
import fcntl
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from unitrans.errors import ConfigError
from unitrans.training import lock

HOLDER = """
import errno, fcntl, sys, time
from pathlib import Path
from unitrans.training import lock

def without(*_):
    raise OSError(errno.ENOLCK, "No locks available")

lock.BEAT = 0.1
if sys.argv[2] == "heartbeat":
    fcntl.lockf = without
with lock.hold(Path(sys.argv[1])) as kind:
    print(kind, flush=True)
    time.sleep(60)
"""


@pytest.fixture(params=["lock", "heartbeat"])
def kind(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """A file system with locks and a stand-in for one without."""

    def without(*_: Any) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(lock, "BEAT", 0.1)
    if request.param == "heartbeat":
        monkeypatch.setattr(fcntl, "lockf", without)
    return str(request.param)


def start(run: Path, kind: str) -> "subprocess.Popen[str]":
    """Another process that holds the folder."""
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(run), kind], stdout=subprocess.PIPE, text=True
    )
    assert holder.stdout is not None
    assert (kind == "heartbeat") == ("heartbeat" in holder.stdout.readline())
    return holder


def test_a_folder_is_held_by_one_process(tmp_path: Path, kind: str) -> None:
    holder = start(tmp_path, kind)
    try:
        with (
            pytest.raises(ConfigError, match=f"in use by process {holder.pid} on .* since 2.*: wait until"),
            lock.hold(tmp_path),
        ):
            pass
        holder.send_signal(signal.SIGKILL)
        holder.wait()
        with lock.hold(tmp_path):  # what was killed holds nothing
            assert list(tmp_path.iterdir())
    finally:
        holder.kill()
        holder.wait()
        if holder.stdout is not None:
            holder.stdout.close()
    assert list(tmp_path.iterdir()) == []


def test_a_heartbeat_of_another_host_is_stale_after_ten_beats(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def without(*_: Any) -> None:
        raise OSError(errno.EOPNOTSUPP, "Operation not supported")

    monkeypatch.setattr(fcntl, "lockf", without)
    beat = tmp_path / ".heartbeat"
    beat.write_text('{"host": "elsewhere", "pid": 1, "since": "2026-01-01 00:00:00", "process_start": "1"}')
    with pytest.raises(ConfigError, match="in use by process 1 on elsewhere"), lock.hold(tmp_path):
        pass
    monkeypatch.setattr(lock, "BEAT", 0.1)
    os.utime(beat, (time.time() - 0.8, time.time() - 0.8))
    with pytest.raises(ConfigError, match="elsewhere"), lock.hold(tmp_path):
        pass
    os.utime(beat, (time.time() - 2, time.time() - 2))
    with lock.hold(tmp_path) as kind:
        assert "has no locks" in kind and "elsewhere" not in beat.read_text()
        before = beat.stat().st_mtime_ns
        time.sleep(0.3)
        assert beat.stat().st_mtime_ns > before
