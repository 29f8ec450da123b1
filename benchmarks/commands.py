"""Commands of a checkout in forks of one process that has imported everything: a command then costs its own work, not
the seconds of imports. A run can be told to stop (SIGTERM) at an exact update or inside an exact evaluation; only hooks
of torch do that, so it works for every version of the trainer.

As a program (`python commands.py CHECKOUT`) it takes a job and gives an answer as one line of JSON each.
It needs nothing but the standard library until a job runs, and imports `unitrans` from that checkout only.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

SECONDS = 300  # after which a command is killed
GRACE = 30  # seconds for the other processes of a run when one has failed
KILLED = -9


@dataclass(frozen=True)
class Stop:
    """When a run gets SIGTERM: after ``update`` updates of its process, or in the evaluation that follows them."""

    update: int
    in_evaluation: bool = False


@dataclass(frozen=True)
class Done:
    """A finished command: the exit code of every process, and what they printed (both streams)."""

    codes: tuple[int, ...]
    output: str

    @property
    def code(self) -> int:
        """0 where every process ends with 0, else the first other code."""
        return next((code for code in self.codes if code), 0)


class CommandLine:
    """``unitrans`` of one checkout, served by its interpreter. A context manager."""

    def __init__(self, checkout: Path, python: str) -> None:
        self.checkout = checkout
        self._server = subprocess.Popen(
            [python, str(Path(__file__).resolve()), str(checkout)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=os.environ | {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "CUDA_VISIBLE_DEVICES": ""},
        )

    def __enter__(self) -> CommandLine:
        return self

    def __exit__(self, *_: object) -> None:
        assert self._server.stdin is not None
        self._server.stdin.close()
        self._server.wait()

    def run(
        self, folder: Path, arguments: Sequence[str], *, processes: int = 1, stop: Stop | None = None
    ) -> Done:
        """Runs ``unitrans ARGUMENTS`` in a folder; ``processes`` above 1 as torchrun would start them."""
        stopped = None if stop is None else [stop.update, stop.in_evaluation]
        job = {"folder": str(folder), "arguments": list(arguments), "processes": processes, "stop": stopped}
        assert self._server.stdin is not None and self._server.stdout is not None
        self._server.stdin.write(json.dumps(job) + "\n")
        self._server.stdin.flush()
        answer = self._server.stdout.readline()
        if not answer:
            raise RuntimeError(f"the process that runs the commands of {self.checkout} is gone")
        found = json.loads(answer)
        return Done(tuple(found["codes"]), found["output"])


def stop_run(stop: Stop) -> None:
    """Arranges that this process sends itself SIGTERM then."""
    import torch
    from torch.nn.modules.module import register_module_forward_pre_hook
    from torch.optim.optimizer import register_optimizer_step_post_hook

    updates, sent = 0, False

    def send() -> None:
        nonlocal sent
        if not sent:
            sent = True
            os.kill(os.getpid(), signal.SIGTERM)

    def count(*_: Any) -> None:
        nonlocal updates
        updates += 1
        if updates == stop.update and not stop.in_evaluation:
            send()

    def look(*_: Any) -> None:
        if updates == stop.update and not torch.is_grad_enabled():
            send()

    register_optimizer_step_post_hook(count)
    if stop.in_evaluation:
        register_module_forward_pre_hook(look)


def _command(job: dict[str, Any], environment: dict[str, str], stopped: bool, loaded: int) -> int:
    """The command itself, in a process of its own; the names of the modules it has imported go to ``loaded``."""
    os.environ.update(environment)
    os.chdir(job["folder"])
    sys.argv = ["unitrans", *job["arguments"]]
    from unitrans.cli import main

    try:
        if stopped:
            stop_run(Stop(*job["stop"]))
        code = main(job["arguments"])
    except SystemExit as error:
        code = error.code if isinstance(error.code, int) else 1
    except BaseException:
        traceback.print_exc()
        code = 1
    with os.fdopen(loaded, "w") as pipe:
        pipe.write("\n".join(name for name in list(sys.modules) if not name.startswith("__")))
    return code


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _wait(processes: list[int]) -> list[int]:
    """Exit codes. All are killed when time is up, and the others some seconds after one has failed."""
    codes: dict[int, int] = {}
    end = time.monotonic() + SECONDS
    while len(codes) < len(processes):
        for number in processes:
            if number in codes:
                continue
            found, status = os.waitpid(number, os.WNOHANG)
            if found:
                codes[number] = os.waitstatus_to_exitcode(status)
                if codes[number]:
                    end = min(end, time.monotonic() + GRACE)
        if time.monotonic() > end:
            for number in processes:
                if number not in codes:
                    os.kill(number, signal.SIGKILL)
                    codes[number] = os.waitstatus_to_exitcode(os.waitpid(number, 0)[1])
        time.sleep(0.005)
    return [codes[number] for number in processes]


def _start(job: dict[str, Any], environment: dict[str, str], stopped: bool, output: int, loaded: int) -> int:
    number = os.fork()
    if number:
        return number
    code = 1
    try:
        os.setsid()
        for stream in (1, 2):
            os.dup2(output, stream)
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        code = _command(job, environment, stopped, loaded)
        sys.stdout.flush()
        sys.stderr.flush()
    finally:
        os._exit(code)


def _run(job: dict[str, Any]) -> dict[str, Any]:
    processes = job["processes"]
    together = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(_free_port()), "WORLD_SIZE": str(processes)}
    with tempfile.TemporaryFile() as output, tempfile.TemporaryFile("w+") as loaded:
        numbers = []
        for rank in range(processes):
            ranks = {"RANK": str(rank), "LOCAL_RANK": str(rank)}
            environment = together | ranks if processes > 1 else {}
            stopped = job["stop"] is not None and rank == 0
            numbers.append(_start(job, environment, stopped, output.fileno(), os.dup(loaded.fileno())))
        codes = _wait(numbers)
        output.seek(0)
        printed = output.read().decode(errors="replace")
        loaded.seek(0)
        _import(loaded.read().split())
    return {"codes": codes, "output": printed}


def _import(names: list[str]) -> None:
    """What a command has imported, for the next ones."""
    for name in names:
        if name not in sys.modules:
            with contextlib.suppress(Exception):
                importlib.import_module(name)


def serve(checkout: Path) -> None:
    """Jobs from the standard input until it ends."""
    sys.path[0] = str(checkout)
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    import unitrans

    assert Path(unitrans.__file__).is_relative_to(checkout), f"{unitrans.__file__} is not in {checkout}"
    for line in sys.stdin:
        answers.write(json.dumps(_run(json.loads(line))) + "\n")
        answers.flush()


if __name__ == "__main__":
    serve(Path(sys.argv[1]).resolve())
