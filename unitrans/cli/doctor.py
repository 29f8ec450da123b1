"""``unitrans doctor``: what this installation is and can do, for people and for bug reports."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path

from unitrans.cli.parser import Parser

# What is tried in a process of its own: a broken one may take the interpreter down.
_IMPORTS = {
    "torchvision": "torchvision",
    "torchaudio": "torchaudio",
    "transformers": "transformers.modeling_utils",
    "accelerate": "accelerate",
    "datasets": "datasets",
}
_MADE_FOR_ONE_TORCH = ("torchvision", "torchaudio")


def main(arguments: Sequence[str]) -> int:
    """Prints the report. Exit code 1 when something is wrong that slows down or stops a run."""
    parser = Parser("doctor", "Say what this installation can do. Attach what it prints to a bug report.")
    parser.add_argument(
        "--measure",
        action="store_true",
        help="also time, in seconds, whether what is chosen for this processor is the fastest here",
    )
    options = parser.parse(list(arguments))
    import torch

    from unitrans.ops.self_check import describe
    from unitrans.training.environment import describe_environment, torch_note

    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    found = describe_environment(device)
    print(f"unitrans {found['unitrans']}, Python {found['python']}, {found['platform']}")
    print("packages   " + ", ".join(f"{name} {version}" for name, version in found["packages"].items()))
    print(f"processor  {found['processor']}, {found['cpus']} usable")
    variables = [
        f"{name}={os.environ[name]}" for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS") if name in os.environ
    ]
    print(f"threads    {found['threads']} for torch ({', '.join(variables) or 'OMP_NUM_THREADS is not set'})")
    print(f"ISA        torch uses {found['torch_isa']}")
    print(
        f"products   fp32 linear layers follow the line {found['products']['family']} (unitrans/nn/products.py)"
    )
    print(f"attention  on {device.type} calls go to {found['backend']}: the first of these that serves")
    for name, state in found["backends"].items():
        print(f"{'':<10} {name}: {state}")
    print(f"GPU        {', '.join(found['gpus']) or why_no_gpu()}")
    verdicts = describe()
    for verdict in verdicts:
        print(f"self-check {verdict}")
    problems = [note for note in [torch_note()] if note]
    problems += [f"the CUDA kernels are not used: {verdict}" for verdict in verdicts if "FAILED" in verdict]
    problems += companion_problems(found["packages"])
    if found["threads"] > found["cpus"]:
        problems.append(
            f"torch has {found['threads']} threads for {found['cpus']} usable processors, which is slow: set "
            f"OMP_NUM_THREADS={found['cpus']}"
        )
    if found["backend"] in ("torch", "reference") and device.type == "cpu":
        problems.append(f"attention runs without our kernels, which is slow: {found['backends']['cpu']}")
    if options.measure:
        problems += measured()
    for problem in problems:
        print(f"problem    {problem}")
    if not problems:
        print("no problem found")
    return 1 if problems else 0


def measured() -> list[str]:
    """Prints what is chosen for this processor beside the best alternative; a sentence for each wrong choice."""
    from unitrans.nn import products
    from unitrans.ops.backends import SWITCH
    from unitrans.use.measure import time_bf16, time_levels, time_products

    wrong = []
    for timing in time_levels():
        print(f"measured   {timing}")
        if timing.is_wrong:
            wrong.append(f"{timing}: {SWITCH}={timing.other} sets it where most calls are of this kind")
    line, slow = products.in_use(), []
    for timing in time_products():
        print(f"measured   {timing}")
        slow += [timing] if timing.is_wrong else []
    if slow:
        others = ", ".join(name for name in products.TABLE if name != line.family)
        wrong += [f"{timing}, but the table follows the line {line.family}" for timing in slow]
        wrong.append(f"{products.SWITCH} names another line of the table of products: {others}")
    print(
        f"measured   linear layers in bf16 are {time_bf16():.1f} times as fast as in fp32 (train.bf16=true)"
    )
    return wrong


def why_no_gpu() -> str:
    """Why torch offers no GPU, and what would mend it."""
    import torch

    version = torch.version.cuda or torch.version.hip
    if version is None:
        return f"none: this torch ({torch.__version__}) is built without CUDA"
    if os.environ.get("CUDA_VISIBLE_DEVICES", "0").strip() in ("", "-1"):
        return "none: CUDA_VISIBLE_DEVICES hides them"
    if not Path("/proc/driver/nvidia/version").exists() and torch.version.hip is None:
        return f"none: torch is built for CUDA {version}, but no NVIDIA driver is loaded"
    return (
        f"none: torch is built for CUDA {version}, but finds no device (nvidia-smi shows driver and devices)"
    )


def companion_problems(versions: dict[str, str | None]) -> list[str]:
    """A sentence for every package that is missing, that does not import, or that is made for another torch."""
    problems = [
        f"{name} is not installed: pip install {name}"
        for name, version in versions.items()
        if version is None
    ]
    from unitrans.training.environment import package_version

    installed = {name: module for name, module in _IMPORTS.items() if package_version(name) is not None}
    all_import = _import_error(list(installed.values())) is None
    broken: list[str] = []
    for name, module in installed.items():
        error = None if all_import else _import_error([module])
        sentence = _import_problem(name, package_version(name), error, blamed=broken)
        if sentence is not None:
            problems.append(sentence)
            broken.append(name)
    return problems


def _import_error(modules: list[str]) -> str | None:
    """The last line of what a new process says when it imports the modules, None when it can."""
    command = [sys.executable, "-c", "; ".join(f"import {module}" for module in modules)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode == 0:
        return None
    lines = done.stderr.strip().splitlines()
    return lines[-1].strip()[:200] if lines else f"the process ends with {done.returncode}"


def _import_problem(name: str, version: str | None, error: str | None, blamed: list[str]) -> str | None:
    import torch

    wanted = _torch_it_is_made_for(name) if name in _MADE_FOR_ONE_TORCH else None
    fits = wanted in (None, torch.__version__.partition("+")[0])
    if error is None and fits:
        return None
    why = "" if error is None else f" ({error})"
    if name in _MADE_FOR_ONE_TORCH:
        made = "is installed but" if fits else f"is made for torch {wanted} and"
        fate = "may fail at any call" if error is None else "cannot be imported"
        return (
            f"{name} {version} {made} {fate} with torch {torch.__version__}{why}; transformers then fails with "
            f"messages that name other things: install the {name} of this torch, or pip uninstall {name}"
        )
    cure = f"; mend {' and '.join(blamed)} first" if blamed else f": pip install --force-reinstall {name}"
    return f"{name} {version} cannot be imported{why}{cure}"


def _torch_it_is_made_for(name: str) -> str | None:
    """The one torch version that a package demands, None where it demands no single one."""
    for requirement in metadata.requires(name) or []:
        match = re.match(r"torch\s*\(?==\s*([0-9.]+)", requirement)
        if match and "extra" not in requirement:
            return match.group(1)
    return None
