"""The libraries of compiled operators: loaded once, at import, or why they are not."""

import ctypes
from pathlib import Path

import torch


def _load() -> str | None:
    """Load the operator library; None, or in words why it cannot be loaded."""
    try:
        from unitrans import _planning
    except ImportError as error:
        return f"the compiled part of unitrans is missing ({error}); install it with `pip install .`"
    # The pybind module is found by the import system, wherever an editable or a wheel install put it.
    library = Path(_planning.__file__).with_name("libunitrans_ops.so")
    try:
        torch.ops.load_library(str(library))
    except OSError as error:
        return f"{library.name} does not load with torch {torch.__version__}: {error}"
    return None


def _load_cuda() -> str | None:
    """Load the same operators for CUDA tensors; None, or in words why they are not there."""
    if LOAD_ERROR is not None:
        return LOAD_ERROR
    if not torch.cuda.is_available():
        return "torch sees no NVIDIA GPU" if torch.version.cuda else "this torch is built without CUDA"
    library = cuda_library()
    if not library.exists():
        return (
            "the kernels for GPUs were not compiled: that takes nvcc and a torch with CUDA where unitrans is installed "
            "(pip install --no-build-isolation ., or -C cmake.define.UNITRANS_CUDA=ON)"
        )
    try:
        torch.ops.load_library(str(library))
    except OSError as error:
        return f"{library.name} does not load with torch {torch.__version__}: {error}"
    why_not = ctypes.CDLL(str(library)).unitrans_cuda_why_not
    why_not.restype = ctypes.c_char_p
    reason: bytes | None = why_not()
    return None if reason is None else reason.decode()


def cuda_library() -> Path:
    """The file of the CUDA kernels, which may not exist. Needs the compiled part (`LOAD_ERROR` is None)."""
    from unitrans import _planning

    return Path(_planning.__file__).with_name("libunitrans_cuda_ops.so")


#: None, or in words why the compiled backends are not there. Set once, at import, so that tracing sees a constant.
LOAD_ERROR: str | None = _load()
#: The same for CUDA tensors.
CUDA_LOAD_ERROR: str | None = _load_cuda()
