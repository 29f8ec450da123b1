"""Processes that fork from one which has imported everything: python and torch are not started for each of them."""

import importlib
import multiprocessing
import os
import socket
import sys
import time
import traceback
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).parents[1]
CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(
    [
        "unitrans.training.run",
        "unitrans.domains.vision.domain",
        "unitrans.domains.text.domain",
        "unitrans.domains.graph.domain",
        "sklearn.datasets",
        "tests.warm",
    ]
)
SECONDS = 250.0


def launch(program: str, processes: int, *arguments: str) -> str:
    """Runs a program under the variables that torchrun sets, in the current folder. Returns what it prints."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    together = {
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": port,
        "WORLD_SIZE": str(processes),
        "OMP_NUM_THREADS": "1",
    }
    started, outputs = [], []
    for rank in range(processes):
        outputs.append(Path(f"output-{rank}.txt").resolve())
        variables = together | {"RANK": str(rank), "LOCAL_RANK": str(rank)}
        told = (program, list(arguments), variables, os.getcwd(), str(outputs[-1]))
        started.append(CONTEXT.Process(target=_run, args=told))
        started[-1].start()
    end = time.monotonic() + SECONDS
    for process in started:
        process.join(max(0.0, end - time.monotonic()))
    stuck = [process for process in started if process.is_alive()]
    for process in stuck:
        process.kill()
    printed = "".join(output.read_text(errors="replace") for output in outputs)
    assert not stuck and not any(process.exitcode for process in started), printed[-6000:]
    return printed


def _run(program: str, arguments: Sequence[str], variables: dict[str, str], folder: str, output: str) -> None:
    """The program in its own process, both streams in a file."""
    importlib.import_module("torch").set_num_threads(1)
    os.environ.update(variables)
    os.chdir(folder)
    descriptor = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    for stream in (1, 2):
        os.dup2(descriptor, stream)
    sys.argv = ["script.py", *arguments]
    try:
        exec(compile(program, "script.py", "exec"), {"__name__": "__main__"})
    except SystemExit:
        raise
    except BaseException:
        traceback.print_exc()
        raise SystemExit(1) from None
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
