"""Whether the CUDA kernels serve calls that name no backend: the verdict of their self-check on this GPU.

Kernels that never ran on a GPU are no default there before they were compared with torch's own on it. A wrong kernel
can end the GPU context of its process, so a child process runs the check (`unitrans.ops.self_check`): once per GPU
model, driver, torch and build of the kernels. The verdict is a file in the user's cache folder.

Several processes that start at once wait for the one that holds the lock and read its verdict; where the folder cannot
be locked or written each runs the check itself. Nothing here draws from a generator of this process.
"""

import ctypes
import fcntl
import hashlib
import json
import os
import selectors
import signal
import subprocess
import sys
import tempfile
import threading
import time
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, Any, Literal

import torch

from unitrans.cache import cache_folder
from unitrans.ops.libraries import CUDA_LOAD_ERROR, cuda_library

SWITCH = "UNITRANS_CUDA_SELF_CHECK"
#: Read once, at import, so that tracing sees a constant.
_ENABLED = os.environ.get(SWITCH, "1").strip().lower() not in ("0", "off", "false", "no")

#: Seconds that the child may take until its first case (imports, the context of the GPU) and for each case.
_START_SECONDS, _CASE_SECONDS = 300.0, 120.0
#: Seconds to wait for the check of another process, which may be suspended.
_LOCK_SECONDS = 600.0
#: Signals that come from outside: they say nothing about the kernels.
_FROM_OUTSIDE = (signal.SIGHUP, signal.SIGINT, signal.SIGTERM, signal.SIGKILL)


@dataclass(frozen=True)
class Verdict:
    """What the check said.

    Attributes:
        state: "passed"; "failed"; or "unfinished": the check itself could not run, which is never kept.
        figures: the errors, or what happened, in words.
    """

    state: Literal["passed", "failed", "unfinished"]
    figures: str


@dataclass(frozen=True)
class Subject:
    """What is checked.

    Attributes:
        identity: what a verdict holds for.
        arguments: of `python -m unitrans.ops.self_check`.
    """

    identity: dict[str, str]
    arguments: tuple[str, ...]

    @property
    def file(self) -> Path:
        """Where the verdict is kept."""
        key = hashlib.sha256(json.dumps(self.identity, sort_keys=True).encode()).hexdigest()[:20]
        return cache_folder("self-check") / f"{key}.json"


#: Number of the GPU -> its verdict. A plain dict, as torch.compile reads no other kind.
_VERDICTS: dict[int, Verdict] = {}
#: The same by what it holds for: GPUs of one model are checked once, whether or not the verdict can be kept.
_KNOWN: dict[str, Verdict] = {}
_THREADS = threading.Lock()


def why_held_back(device: torch.device) -> str | None:
    """None: the CUDA kernels serve calls that name no backend on this device; else the reason in words.

    The first call for a GPU runs the check. While a graph is traced or captured nothing runs: without a verdict the
    kernels are held back there.
    """
    if device.type != "cuda" or CUDA_LOAD_ERROR is not None or not _ENABLED:
        return None
    ensure_verdict(device)
    verdict = _VERDICTS.get(_number(device))
    if verdict is None:
        return "their self-check has not run on this GPU, and it does not run while a graph is traced or captured"
    if verdict.state == "passed":
        return None
    return (
        "their self-check "
        + ("failed" if verdict.state == "failed" else "could not run")
        + ": "
        + verdict.figures
    )


def ensure_verdict(device: torch.device | str | int) -> None:
    """Find the verdict of the GPU `device`, by a run of the check where none is kept, and warn of a bad one.

    Other devices have none. Tracing, fake tensors and graph capture are left alone; a kept verdict is read there if
    Python runs at all.
    """
    if CUDA_LOAD_ERROR is not None or not _ENABLED or torch.compiler.is_compiling():
        return
    device = torch.device(device)
    if device.type != "cuda":
        return
    number = _number(device)
    if (
        number in _VERDICTS or number >= torch.cuda.device_count()
    ):  # fake tensors may be on a GPU that is not there
        return
    with _THREADS:
        if number in _VERDICTS:
            return
        subject = subject_of(number)
        name = subject.file.name
        is_new = name not in _KNOWN
        verdict = find_verdict(subject, may_run=not _is_traced_or_captured()) if is_new else _KNOWN[name]
        if verdict is None:
            return
        _VERDICTS[number] = _KNOWN[name] = verdict
    if is_new and verdict.state != "passed":
        warnings.warn(_warning(subject, verdict), RuntimeWarning, stacklevel=3)


def describe_verdict(number: int) -> str:
    """The verdict of a GPU for people; runs nothing."""
    if CUDA_LOAD_ERROR is not None:
        return f"nothing to check: {CUDA_LOAD_ERROR}"
    if not _ENABLED:
        return f"turned off by {SWITCH}={os.environ.get(SWITCH, '')}, so the kernels are trusted"
    subject = subject_of(number)
    verdict = _VERDICTS.get(number) or find_verdict(subject, may_run=False)
    if verdict is None:
        return "not run yet; the first call that names no backend runs it"
    if verdict.state == "unfinished":
        return f"could not run: {verdict.figures}"
    return f"{verdict.state}: {verdict.figures} (kept in {subject.file})"


def _number(device: torch.device) -> int:
    return torch.cuda.current_device() if device.index is None else device.index


def _is_traced_or_captured() -> bool:
    return (
        torch._C._len_torch_dispatch_stack() > 0
        or torch.jit.is_tracing()
        or torch.cuda.is_current_stream_capturing()
    )


def _warning(subject: Subject, verdict: Verdict) -> str:
    gpu = subject.identity["gpu"]
    if verdict.state == "unfinished":
        return (
            f"unitrans: the self-check of the CUDA kernels could not run on {gpu} ({verdict.figures}), so this process "
            f"uses the torch backend; the next one tries again, {SWITCH}=0 trusts the kernels"
        )
    return (
        f"unitrans: the CUDA kernels failed their self-check on {gpu} ({verdict.figures}), so calls go to the torch "
        f"backend; please report this with what `unitrans doctor` prints. Delete {subject.file} to check again; "
        f"{SWITCH}=0 trusts the kernels"
    )


def subject_of(number: int) -> Subject:
    """The kernels on the GPU of that number."""
    properties = torch.cuda.get_device_properties(number)
    build = hashlib.sha256(cuda_library().read_bytes())
    build.update(Path(__file__).with_name("self_check.py").read_bytes())  # a better check runs again
    identity = {
        "gpu": f"{properties.name} (sm_{properties.major}{properties.minor})",
        "driver": _driver(),
        "torch": f"{torch.__version__} for CUDA {torch.version.cuda}",
        "build": build.hexdigest(),
    }
    return Subject(identity, (f"cuda:{number}",))


def _driver() -> str:
    """The CUDA version that the driver serves, and the driver's own version; what cannot be read is left out."""
    cuda, release = ctypes.c_int(), ""
    with suppress(OSError, AttributeError):
        ctypes.CDLL("libcuda.so.1").cuDriverGetVersion(ctypes.byref(cuda))
    with suppress(OSError, IndexError):
        release = Path("/proc/driver/nvidia/version").read_text().splitlines()[0]
    return f"CUDA {cuda.value}, {release}"


def find_verdict(subject: Subject, *, may_run: bool) -> Verdict | None:
    """The kept verdict, or that of a new run, which is kept; None where none is kept and none may run."""
    verdict = _read(subject)
    if verdict is not None or not may_run:
        return verdict
    with _locked(subject.file.with_suffix(".lock")):
        verdict = _read(subject)  # of another process that ran meanwhile
        if verdict is None:
            verdict = run_check(subject.arguments)
            if verdict.state != "unfinished":
                _write(subject, verdict)
    return verdict


def _read(subject: Subject) -> Verdict | None:
    """None where there is none, also where the file is damaged or of something else."""
    try:
        found = json.loads(subject.file.read_text(encoding="utf-8"))
        verdict = Verdict(found["state"], found["figures"])
        known = verdict.state in ("passed", "failed") and isinstance(verdict.figures, str)
        return verdict if known and found["identity"] == subject.identity else None
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return None


def _write(subject: Subject, verdict: Verdict) -> None:
    """Whole or not at all; where it cannot be written, this process alone knows the verdict."""
    content = json.dumps(asdict(verdict) | {"identity": subject.identity}, indent=1)
    with suppress(OSError):
        subject.file.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile("w", dir=subject.file.parent, suffix=".tmp", delete=False) as file:
            file.write(content)
        os.replace(file.name, subject.file)


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Alone among the processes of this user; at once where the file system has no locks. A killed holder lets go."""
    file = None
    with suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        file = path.open("w")
        _wait_for_lock(file)
    try:
        yield
    finally:
        if file is not None:
            file.close()


def _wait_for_lock(file: IO[str]) -> None:
    give_up = time.monotonic() + _LOCK_SECONDS
    while time.monotonic() < give_up:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except BlockingIOError:
            time.sleep(0.1)


def run_check(
    arguments: Sequence[str], start_seconds: float = _START_SECONDS, case_seconds: float = _CASE_SECONDS
) -> Verdict:
    """Run `python -m unitrans.ops.self_check` in a child and judge what it says and how it ends."""
    paths = [os.path.abspath(path) for path in sys.path]
    environment = os.environ | {SWITCH: "0", "PYTHONPATH": os.pathsep.join(paths)}
    command = [sys.executable, "-m", "unitrans.ops.self_check", *arguments]
    with tempfile.TemporaryFile() as errors:
        try:
            # In the folder of the package, as `-m` looks for modules where it runs.
            child = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=errors,
                env=environment,
                cwd=Path(__file__).parents[2],
            )
        except OSError as error:
            return Verdict("unfinished", f"no new process can be started: {error}")
        try:
            said, in_time = _listen(child, start_seconds, case_seconds)
        finally:
            child.kill()  # one that has ended is not harmed
            with suppress(subprocess.TimeoutExpired):  # a process that hangs in the driver cannot be killed
                child.wait(timeout=10)
        errors.seek(0)
        last_words = errors.read().decode(errors="replace").strip().rpartition("\n")[2][:200]
    return _judge(said, child.returncode if in_time else None, last_words)


def _listen(child: "subprocess.Popen[bytes]", start_seconds: float, case_seconds: float) -> tuple[str, bool]:
    """What the child says, until it ends (True) or says nothing for too long (False)."""
    assert child.stdout is not None
    said = b""
    with child.stdout as pipe, selectors.DefaultSelector() as selector:
        selector.register(pipe, selectors.EVENT_READ)
        while selector.select(case_seconds if said else start_seconds):
            piece = os.read(pipe.fileno(), 1 << 16)
            if piece:
                said += piece
                continue
            with suppress(subprocess.TimeoutExpired):
                child.wait(timeout=10)
            break
    return said.decode(errors="replace"), child.returncode is not None


def _judge(said: str, code: int | None, last_words: str) -> Verdict:
    """Code None: it was ended because it said nothing for too long."""
    messages: list[dict[str, Any]] = []
    for line in said.splitlines():
        with suppress(ValueError):  # other libraries may print too
            message = json.loads(line)
            if isinstance(message, dict):
                messages.append(message)
    if code == 0 and messages and "state" in messages[-1]:
        return Verdict(messages[-1]["state"], messages[-1]["figures"])
    case = next((message["case"] for message in reversed(messages) if "case" in message), None)
    if code is None:
        end = "the process of the check hung"
    elif code < 0:
        end = f"the process of the check was ended by {_signal_name(-code)}"
    else:
        end = f"the process of the check ended with exit code {code}"
    told = f" ({last_words})" if last_words else ""
    if case is None:
        return Verdict("unfinished", f"{end} before the first case{told}")
    outside = code is not None and -code in _FROM_OUTSIDE
    return Verdict("unfinished" if outside else "failed", f"{end} in the case {case}{told}")


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
