"""Pickles of other people, read as data: arrays, tensors, plain containers and PyG's records of them, nothing else.

A pickle is a program: it may call whatever it names. Here it may name a fixed list of things, all of which only hold
or shape data, and what builds an array from bytes is written anew below, because NumPy and torch trust what they get
(a forged dtype makes pointers of bytes).
"""

from __future__ import annotations

import ast
import pickle
import sys
import tarfile
from collections import OrderedDict, defaultdict
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from enum import Enum
from functools import cache
from io import BytesIO
from math import prod
from operator import index
from types import ModuleType, SimpleNamespace
from typing import Any, NoReturn
from unittest import mock

import numpy as np
import torch

_load_torch = torch.load  # unguarded
_guards = 0  # how many are open
_is_watched = False


class _Function:
    """A function that a pickle may call, and cannot change: opcodes set attributes of whatever has no __setstate__."""

    __slots__ = ("call",)

    def __init__(self, call: Callable[..., Any]) -> None:
        self.call = call

    def __call__(self, *args: Any) -> Any:
        return self.call(*args)

    def __setstate__(self, state: Any) -> NoReturn:
        raise pickle.UnpicklingError("expected arrays, got a pickle that changes functions")


class _Dtype:
    """A dtype of numbers or text, by its letter and size."""

    def __init__(self, code: Any, *_: Any) -> None:
        self.dtype = _plain(np.dtype(code) if isinstance(code, str) and len(code) < 20 else None)

    def __setstate__(self, state: Any) -> None:
        order, size = state[1], state[5]
        kind = self.dtype.kind
        if kind == "S" or kind == "U":
            self.dtype = np.dtype(f"{kind}{max(int(size), 0) // (4 if kind == 'U' else 1)}")
        if order in ("<", ">"):
            self.dtype = self.dtype.newbyteorder(order)


def _plain(dtype: np.dtype | None) -> np.dtype:
    if dtype is None or dtype.kind not in "biufcSU":
        raise pickle.UnpicklingError(f"expected arrays of numbers or text, got the dtype {dtype}")
    return dtype


class _Array(np.ndarray):
    """An array whose content comes by __setstate__ as NumPy writes it; it must fit the shape."""

    def __setstate__(self, state: Any) -> None:
        version, shape, dtype, fortran, content = state
        content = content.encode("latin1") if isinstance(content, str) else content
        if not isinstance(dtype, _Dtype) or not isinstance(content, bytes):
            raise pickle.UnpicklingError("expected arrays of numbers or text, got an array of objects")
        if min(shape, default=0) < 0 or prod(map(index, shape)) * dtype.dtype.itemsize != len(content):
            raise pickle.UnpicklingError(f"expected {len(content)} bytes of an array, got the shape {shape}")
        super().__setstate__((version, shape, dtype.dtype, fortran, content))


def _from_buffer(content: Any, dtype: _Dtype, shape: Any, order: str) -> np.ndarray:
    return np.frombuffer(content, dtype.dtype).reshape(shape, order="F" if order == "F" else "C").copy()


def _scalar(dtype: _Dtype, content: Any) -> Any:
    content = content.encode("latin1") if isinstance(content, str) else content
    return np.frombuffer(content, dtype.dtype, 1)[0]


def _tensor(storage: Any, offset: int, size: Any, stride: Any, requires_grad: bool = False, *_: Any) -> Any:
    """A view of a storage that holds all of it: torch enlarges a storage that is too small."""
    offset, size, stride = (
        index(offset),
        tuple(map(index, size)),
        tuple(map(index, stride)),
    )  # do not wrap around
    last = offset + sum((n - 1) * step for n, step in zip(size, stride, strict=True))
    held = storage._untyped_storage.nbytes() // storage.dtype.itemsize
    if min((offset, *size, *stride)) < 0 or (0 not in size and last >= held):
        raise pickle.UnpicklingError("expected tensors, got one that is larger than what the file stores")
    return torch._utils._rebuild_tensor(storage, offset, size, stride)


def _refuse_array(*_: Any) -> NoReturn:
    """Pickles name numpy.ndarray for _reconstruct alone; called itself, it makes pointers of the bytes of a buffer."""
    raise pickle.UnpicklingError("expected arrays, got a call of numpy.ndarray: the file is not loaded")


def _encode(text: str, encoding: str) -> bytes:
    """Bytes in old protocols."""
    if encoding not in ("latin1", "latin-1"):
        raise pickle.UnpicklingError(f"expected bytes in latin1, got the encoding {encoding!r}")
    return text.encode("latin1")


_ALLOWED: dict[tuple[str, str], Any] = {
    ("collections", "OrderedDict"): OrderedDict,
    ("collections", "defaultdict"): defaultdict,
    ("_codecs", "encode"): _Function(_encode),
    ("numpy", "ndarray"): _Function(_refuse_array),
    ("numpy", "dtype"): _Function(_Dtype),
    ("torch", "Size"): torch.Size,
    ("torch._utils", "_rebuild_tensor"): _Function(_tensor),
    ("torch._utils", "_rebuild_tensor_v2"): _Function(_tensor),
    ("torch._utils", "_rebuild_parameter"): _Function(lambda data, *_: data),
    ("torch.storage", "_load_from_bytes"): _Function(lambda content: load(BytesIO(content))),
}
for _module in ("builtins", "__builtin__"):
    for _type in (set, frozenset, list, dict, tuple, complex, slice):
        _ALLOWED[_module, _type.__name__] = _type
for _module in ("numpy.core", "numpy._core"):
    _ALLOWED[_module + ".multiarray", "_reconstruct"] = _Function(
        lambda *_: np.ndarray.__new__(_Array, (0,), np.int8)
    )
    _ALLOWED[_module + ".multiarray", "scalar"] = _Function(_scalar)
    _ALLOWED[_module + ".numeric", "_frombuffer"] = _Function(_from_buffer)
#: Classes of PyG that hold data.
_OF_PYG = {
    "torch_geometric.data.data": ("Data", "DataEdgeAttr", "DataTensorAttr"),
    "torch_geometric.data.storage": ("BaseStorage", "GlobalStorage", "NodeStorage", "EdgeStorage"),
    "torch_geometric.data.feature_store": ("TensorAttr",),
    "torch_geometric.data.graph_store": ("EdgeAttr", "EdgeLayout"),
}


@cache
def _of_pyg(module: str, name: str) -> Any:
    """A class of PyG as a pickle may have it: with a __setstate__, so that an opcode cannot change the class."""
    cls = getattr(sys.modules[module], name)
    if issubclass(cls, Enum):
        return _Function(cls)
    if hasattr(cls, "__setstate__"):
        return cls
    return type(name, (cls,), {"__setstate__": lambda self, state: self.__dict__.update(state)})


class Unpickler(pickle.Unpickler):
    """Unpickles what this module allows. UnpicklingError names anything else."""

    def find_class(self, module: str, name: str) -> Any:
        """What stands for a name in a pickle, if it is data or a part of data."""
        if (module, name) in _ALLOWED:
            return _ALLOWED[module, name]
        if name in _OF_PYG.get(module, ()) and module in sys.modules:
            return _of_pyg(module, name)
        if module == "torch" and isinstance(getattr(torch, name, None), torch.dtype):
            return getattr(torch, name)
        raise pickle.UnpicklingError(f"expected arrays, got {module}.{name}: the file is not loaded")


def _unpickle(file: Any, **options: Any) -> Any:
    return Unpickler(file, **options).load()


def _unpickle_bytes(content: Any, **options: Any) -> Any:
    return Unpickler(BytesIO(content), **options).load()


def load(file: Any, *_: Any, **__: Any) -> Any:
    """What torch.save has written, on the CPU, in any pickle protocol.

    Args:
        file: a path or a binary file. What else torch.load takes counts for nothing.

    Raises:
        pickle.UnpicklingError: it names what is no data, or is a program or an archive of early versions of torch.
    """
    module = SimpleNamespace(Unpickler=Unpickler, load=_unpickle, loads=_unpickle_bytes, __name__="foreign")
    tar = SimpleNamespace(open=_refuse_tar, TarError=tarfile.TarError, PAX_FORMAT=tarfile.PAX_FORMAT)
    with (
        mock.patch.object(torch.jit, "load", _refuse_program),
        mock.patch.object(torch.serialization, "tarfile", tar),
    ):
        return _load_torch(file, map_location="cpu", weights_only=False, pickle_module=module)


def _refuse_program(*_: Any, **__: Any) -> NoReturn:
    raise pickle.UnpicklingError("expected arrays, got a TorchScript program: the file is not loaded")


def _refuse_tar(*args: Any, **options: Any) -> NoReturn:
    tarfile.open(*args, **options).close()  # what is no tar file raises TarError, and torch goes on
    raise pickle.UnpicklingError(
        "expected arrays, got a tar file of an early torch: save it again with torch.save"
    )


def _watch(event: str, args: tuple[Any, ...]) -> None:
    if _guards and event == "pickle.find_class":
        raise pickle.UnpicklingError(f"expected arrays, got {args[0]}.{args[1]}: the file is not loaded")


@contextmanager
def guarded(what: str, kind: str = "", *modules: ModuleType) -> Iterator[None]:
    """Inside, whatever unpickles in this process gets what this module allows and nothing else.

    pickle, torch.load and np.load (through pickle) are replaced; any other unpickler, such as that of pandas or one
    that somebody has imported by name, reports to Python's audit hooks what it looks up, and is stopped there.

    Args:
        what: is read, the beginning of the error.
        kind: what it should be.
        modules: whose use of eval reads literals only.

    Raises:
        ValueError: in one sentence, whatever the loaders raise: they are written for whole files, and a damaged one
            makes them raise nearly anything.
    """
    global _guards, _is_watched
    if not _is_watched:
        sys.addaudithook(_watch)
        _is_watched = True
    replaced: list[tuple[Any, str, Any]] = [
        (torch, "load", load),
        (pickle, "load", _unpickle),
        (pickle, "loads", _unpickle_bytes),
        (pickle, "Unpickler", Unpickler),
    ]
    with ExitStack() as stack:
        for owner, name, value in replaced:
            stack.enter_context(mock.patch.object(owner, name, value))
        for module in modules:
            stack.enter_context(mock.patch.object(module, "eval", ast.literal_eval, create=True))
        if hasattr(tarfile, "data_filter"):  # Python 3.10.12, 3.11.4 and later: members stay in their folder
            inside = staticmethod(tarfile.data_filter)
            stack.enter_context(mock.patch.object(tarfile.TarFile, "extraction_filter", inside, create=True))
        _guards += 1
        try:
            yield
        except MemoryError:
            raise
        except Exception as error:
            reason = " ".join(str(error).split())[:200]
            if not isinstance(error, ValueError | pickle.UnpicklingError):
                reason = f"{type(error).__name__}: {reason}"
            read = f"cannot be read as {kind}" if kind else "cannot be read"
            raise ValueError(f"{what} {read}: {reason}") from None
        finally:
            _guards -= 1
