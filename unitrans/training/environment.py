"""What a run ran on: versions, processor, threads, backends. For the run folder and for ``unitrans doctor``."""

from __future__ import annotations

import os
import platform
import sys
from importlib import metadata
from typing import Any

import torch

import unitrans
from unitrans.nn import products
from unitrans.ops.backends import choose_backend, describe_backends

TESTED_TORCH = ("2.11", "2.13")  # release series the test suite has been run with
_PACKAGES = (
    *("torch", "numpy", "transformers", "accelerate", "datasets", "safetensors"),
    *("pydantic", "pillow", "scikit-learn", "matplotlib", "tensorboard"),
)


def package_version(name: str) -> str | None:
    """The installed version of a package, None when it is absent."""
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def torch_note() -> str | None:
    """A sentence when this torch is not one the project is tested with, else None."""
    if ".".join(torch.__version__.split(".")[:2]) in TESTED_TORCH:
        return None
    tested = ", ".join(TESTED_TORCH)
    return f"torch {torch.__version__} is untested with unitrans {unitrans.__version__} (tested: {tested})"


def processor_name() -> str:
    """The processor as it calls itself."""
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            for line in file:
                if line.startswith("model name"):
                    return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def usable_cpus() -> int:
    """Processors this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def describe_environment(device: torch.device) -> dict[str, Any]:
    """Plain JSON values."""
    backend = choose_backend(None, device)
    return {
        "unitrans": unitrans.__version__,
        "python": sys.version.split()[0],
        "platform": platform.platform(),
        "packages": {name: package_version(name) for name in _PACKAGES},
        "processor": processor_name(),
        "cpus": usable_cpus(),
        "threads": torch.get_num_threads(),
        "torch_isa": torch.backends.cpu.get_cpu_capability(),
        "device": str(device),
        "gpus": [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())],
        "products": products.in_use().record(),
        "backend": backend.name,
        "backends": describe_backends(device.type),
        "world_size": int(os.environ.get("WORLD_SIZE", "1")),
        "command": sys.argv,
    }
