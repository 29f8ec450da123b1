"""Commands in forks of this process, which has imported everything: python and torch start once."""

from __future__ import annotations

import contextlib
import importlib
import os
import resource
import select
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.reliability.shared import FAULT, MAX_SENTENCE, REFUSED, RIGHT, ROOT, SLOW

ENTRY = [sys.executable, "-c", "import sys; from unitrans.cli import main; sys.exit(main())"]
MEMORY = 6 << 30  # bytes that a command may take beside what the warm process has
DOMAINS = ("vision", "text", "graph")


@dataclass
class Done:
    """How a command ended. code: None where its time was over, negative for a signal."""

    code: int | None
    out: str
    err: str
    seconds: float

    @property
    def sentence(self) -> str:
        """The last line on stderr."""
        lines = [line for line in self.err.replace("\r", "\n").splitlines() if line.strip()]
        return lines[-1] if lines else ""

    def judge(self) -> tuple[str, str]:
        """(verdict, words) on the way it ended: nothing is said about what it wrote."""
        if self.code is None:
            return SLOW, f"not done after {self.seconds:.0f} s"
        if self.code < 0:
            return FAULT, f"ended by {signal.Signals(-self.code).name}"
        if "Traceback (most recent call last)" in self.err + self.out:
            return FAULT, f"a traceback: {self.sentence[:300]}"
        if self.code == 0:
            return RIGHT, ""
        if self.code not in (1, 2):
            return FAULT, f"exit {self.code}: {self.sentence[:300]}"
        if not self.sentence.startswith("unitrans: ") or len(self.sentence) > MAX_SENTENCE:
            return FAULT, f"exit {self.code} without a sentence: {self.sentence[:300]!r}"
        return REFUSED, self.sentence


def load(folder: Path) -> None:
    """Imports here what commands import, which a fork of its own finds out."""
    from unitrans import cli

    os.environ.update(OMP_NUM_THREADS="1", HF_HUB_OFFLINE="1", MPLBACKEND="agg")
    importlib.import_module("torch").set_num_threads(1)
    for domain in DOMAINS:
        with open(os.devnull, "w") as nowhere, contextlib.redirect_stdout(nowhere):
            cli.main(["train", "--domain", domain, "--print-config"])
    names = folder / "modules.txt"

    def listed() -> None:
        names.write_text("\n".join(sys.modules))

    tiny = ("model.embed_dim=8", "model.depth=1", "model.num_heads=1", "train.max_steps=1")
    run = ["train", "--objective", "mae", "--output", str(folder / "first"), *tiny]
    call(run, folder, after=listed)
    for name in names.read_text().splitlines():
        with contextlib.suppress(Exception):
            importlib.import_module(name)


def start(
    arguments: Sequence[str],
    folder: Path,
    *,
    rank: int = 0,
    variables: dict[str, str] | None = None,
    before: Callable[[], object] | None = None,
    after: Callable[[], object] | None = None,
) -> int:
    """Forks a command, in a process group of its own; its output goes to folder/stdout-RANK and stderr-RANK.

    Args:
        before, after: called in the fork; after also where the command raises.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    child = os.fork()
    if child:
        return child
    code = 70
    try:
        os.setsid()
        os.chdir(folder)
        nothing = os.open(os.devnull, os.O_RDONLY)
        os.dup2(nothing, 0)
        for number, name in ((1, "stdout"), (2, "stderr")):
            file = os.open(f"{name}-{rank}", os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
            os.dup2(file, number)
        sys.stdin, sys.stdout, sys.stderr = (  # a test may have its own in their places
            open(number, mode, buffering=1, closefd=False)  # noqa: SIM115
            for number, mode in ((0, "r"), (1, "w"), (2, "w"))
        )
        os.environ.update(variables or {})
        if before is not None:
            before()
        from unitrans import cli

        try:
            code = cli.main(list(arguments))
        finally:
            if after is not None:
                after()
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException:
        code = 1  # as python ends
        traceback.print_exc()
    finally:
        with contextlib.suppress(OSError):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(code)


def wait(child: int, seconds: float) -> int | None:
    """The exit code of a fork; None where it is still there after so many seconds, and was ended."""
    descriptor = os.pidfd_open(child)
    try:
        ended = bool(select.select([descriptor], [], [], max(0.0, seconds))[0])
    finally:
        os.close(descriptor)
    if not ended:
        end_group(child)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    end_group(child)  # loader workers of a process that was killed
    return code if ended else None


def end_group(child: int) -> None:
    """SIGKILL to a fork and to what it has forked."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(child, signal.SIGKILL)


def limit_memory() -> None:
    """In a fork: no more memory than MEMORY beside what is there."""
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    limit = pages * resource.getpagesize() + MEMORY
    resource.setrlimit(resource.RLIMIT_AS, (limit, resource.getrlimit(resource.RLIMIT_AS)[1]))


def read_done(folder: Path, code: int | None, begin: float, rank: int = 0) -> Done:
    """What a fork of :func:`start` has said."""
    out, err = ((folder / f"{name}-{rank}").read_text(errors="replace") for name in ("stdout", "stderr"))
    return Done(code, out, err, time.monotonic() - begin)


def call(
    arguments: Sequence[str],
    folder: Path,
    *,
    seconds: float = 120.0,
    before: Callable[[], object] | None = None,
    after: Callable[[], object] | None = None,
) -> Done:
    """A command in a fork, in this folder."""
    begin = time.monotonic()
    for name in ("stdout-0", "stderr-0"):
        (folder / name).unlink(missing_ok=True)
        (folder / name).touch()
    child = start(arguments, folder, before=before, after=after)
    return read_done(folder, wait(child, seconds), begin)


def command(arguments: Sequence[str], folder: Path, seconds: float = 180.0) -> Done:
    """The same as a real command, in a python of its own."""
    begin = time.monotonic()
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    child = subprocess.Popen(
        [*ENTRY, *arguments],
        cwd=folder,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        errors="replace",
        start_new_session=True,
        preexec_fn=limit_memory,
    )
    try:
        out, err = child.communicate(timeout=seconds)
        code: int | None = child.returncode
    except subprocess.TimeoutExpired:
        end_group(child.pid)
        out, err = child.communicate()
        code = None
    return Done(code, out, err, time.monotonic() - begin)
