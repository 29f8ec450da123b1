"""Do the CUDA kernels compute on this GPU what torch computes? Asked once, before the first call that they would serve.

The kernels were tested without a GPU. So the first use on one runs small calls of all kinds, forward and backward, in a
child process (a process whose GPU has failed cannot go on) and compares them with the `torch` backend. The verdict
holds for this GPU, driver, torch and build, and is kept in the user's cache folder. Where it is bad, calls that name no
backend go to `torch`, after one warning. `UNITRANS_CUDA_SELF_CHECK=0` trusts the kernels unseen.

Nothing is drawn from global generators, and no check begins while torch traces a function or captures a CUDA graph.
"""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import tempfile
import warnings
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from unitrans.ops.compiled import CUDA_LOAD_ERROR, is_eager

#: Environment variable; "0" turns the check off.
SWITCH = "UNITRANS_CUDA_SELF_CHECK"
SECONDS = 300  # for the child, which also loads torch and makes a context
_ANSWER = "unitrans self-check: "

#: Device index -> "" (the kernels are trusted) or why not, in words. A plain dictionary, which traced code can read.
_verdicts: dict[int, str] = {}


@dataclass(frozen=True)
class Verdict:
    """What a check found.

    Attributes:
        passed: the kernels agree with torch.
        reason: figures of the worst case, or what went wrong.
        lasting: whether another check would find the same, so that the verdict is kept.
    """

    passed: bool
    reason: str
    lasting: bool = True


def distrust(device: torch.device) -> str | None:
    """None, or why calls on this device that name no backend do not go to the CUDA kernels.

    Runs the check if it has not run. While a function is traced or a graph is captured an unknown verdict counts as
    bad.
    """
    index = device.index or 0
    if index not in _verdicts and not _is_recorded():
        _verdicts[index] = _judge(index)
    return (
        _verdicts.get(index, "they have not been checked on this GPU, and no check begins while torch traces")
        or None
    )


def check_before_use(device: torch.device) -> None:
    """Runs the check where values move to a GPU, so that a function that is traced later finds the verdict."""
    if device.type == "cuda" and CUDA_LOAD_ERROR is None:
        distrust(device)


def _is_recorded() -> bool:
    """Whether torch traces or captures what is called now."""
    return not is_eager() or torch.cuda.is_current_stream_capturing()


def _judge(index: int) -> str:
    if os.environ.get(SWITCH) == "0":
        return ""
    verdict = check(torch.device("cuda", index), _key(index))
    if verdict.passed:
        return ""
    warnings.warn(
        f"unitrans: the CUDA kernels are not used on this GPU: {verdict.reason}. Calls go to the torch backend, which "
        f"is slower; backend='cuda' or {SWITCH}=0 use the kernels all the same. Please report this with the output of "
        "`unitrans doctor`",
        stacklevel=2,
    )
    return verdict.reason


def _key(index: int) -> dict[str, str]:
    """What a verdict depends on."""
    from unitrans import _planning

    library = Path(_planning.__file__).with_name("libunitrans_cuda_ops.so")
    driver = Path("/proc/driver/nvidia/version")
    about = torch.cuda.get_device_properties(index)
    return {
        "gpu": f"{about.name}, compute capability {about.major}.{about.minor}",
        "driver": driver.read_text().splitlines()[0] if driver.exists() else "unknown",
        "torch": f"{torch.__version__}, CUDA {torch.version.cuda}",
        "build": hashlib.sha256(library.read_bytes()).hexdigest(),
    }


def cache_file(key: dict[str, str]) -> Path:
    """Where the verdict for a key is kept."""
    root = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    name = hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()[:16]
    return Path(root) / "unitrans" / f"cuda-self-check-{name}.json"


def stored_verdict(key: dict[str, str]) -> Verdict | None:
    """The verdict that an earlier process kept; None without one, or where the file cannot be read."""
    try:
        stored = json.loads(cache_file(key).read_text(encoding="utf-8"))
        if stored["key"] == key:
            return Verdict(bool(stored["passed"]), str(stored["reason"]))
    except (OSError, ValueError, TypeError, KeyError, RecursionError):
        pass  # a damaged file is as good as none: the check runs again
    return None


def _store(key: dict[str, str], verdict: Verdict) -> None:
    """Written beside and moved, so that processes which check at the same time leave one whole file."""
    file = cache_file(key)
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile("w", dir=file.parent, delete=False, encoding="utf-8") as out:
            json.dump({"key": key, **asdict(verdict)}, out, indent=2)
        os.replace(out.name, file)
    except OSError:
        pass  # a folder that cannot be written to: the next process checks again


def check(
    device: torch.device, key: dict[str, str], *, kernels: str = "", seconds: float = SECONDS
) -> Verdict:
    """The verdict that is kept for the key, or that of a child process.

    Args:
        device: where the kernels run.
        key: what the verdict depends on.
        kernels: "module:name" of other kernels than those of the device, see `unitrans.ops.self_check_cases`.
        seconds: how long the child may take.
    """
    verdict = stored_verdict(key)
    if verdict is None:
        verdict = _run_child(device, kernels, seconds)
        if verdict.lasting:
            _store(key, verdict)
    return verdict


def _run_child(device: torch.device, kernels: str, seconds: float) -> Verdict:
    command = [sys.executable, "-m", "unitrans.ops.self_check_cases", str(device), kernels]
    environment = os.environ | {SWITCH: "0", "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    try:
        done = subprocess.run(
            command,
            capture_output=True,
            text=True,
            timeout=seconds,
            env=environment,
            stdin=subprocess.DEVNULL,
        )
    except subprocess.TimeoutExpired:
        return Verdict(False, f"the self-check gave no answer in {seconds:g} s", lasting=False)
    except OSError as error:
        return Verdict(False, f"the self-check could not be started: {error}", lasting=False)
    for line in done.stdout.splitlines():
        if line.startswith(_ANSWER):
            answer: dict[str, Any] = json.loads(line.removeprefix(_ANSWER))
            return Verdict(**answer)
    if done.returncode < 0:
        return Verdict(False, f"the self-check was ended by signal {-done.returncode}")
    last = (done.stderr.strip().splitlines() or ["no output"])[-1]
    return Verdict(False, f"the self-check ended with exit code {done.returncode}: {last}")


def answer(verdict: Verdict) -> str:
    """The line in which the child tells its verdict."""
    return _ANSWER + json.dumps(asdict(verdict))


def describe() -> list[str]:
    """The verdict of every GPU in words, for `unitrans doctor`; runs nothing."""
    if CUDA_LOAD_ERROR is not None:
        return []
    lines = []
    for index in range(torch.cuda.device_count()):
        stored = stored_verdict(_key(index))
        if os.environ.get(SWITCH) == "0":
            words = f"turned off by {SWITCH}=0"
        elif stored is None:
            words = "not run yet: the first call on this GPU runs it"
        else:
            words = (
                f"{'passed' if stored.passed else 'FAILED, calls go to the torch backend'}: {stored.reason}"
            )
        lines.append(f"cuda:{index}: {words}")
    return lines
