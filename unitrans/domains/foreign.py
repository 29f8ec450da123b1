"""Files that come with a data set and are read by the code of its library: they hold data and run nothing.

A pickle names functions that its reader calls, so a file can run any program. Python tells an audit hook of every name
that any of its unpicklers looks up (pickle, torch, NumPy, pandas and whatever builds on them): while a data set of
somebody else is read, the names that arrays are made of pass and all others are refused. So are expressions that the
library would evaluate, and members of archives that lead out of their folder.
"""

from __future__ import annotations

import pickle
import re
import sys
import tarfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any
from unittest import mock

import torch

Name = tuple[str, str]  # module, object

#: What NumPy arrays, tensors and plain containers consist of. Each only makes values out of values.
ARRAYS: frozenset[Name] = frozenset(
    (module, name)
    for modules, names in (
        ("numpy", "ndarray dtype"),
        ("numpy.core.multiarray numpy._core.multiarray", "_reconstruct scalar"),
        ("numpy.core.numeric numpy._core.numeric", "_frombuffer"),
        ("torch._utils", "_rebuild_tensor_v2 _rebuild_parameter"),
        ("torch", "Size device"),
        ("torch.storage", "_load_from_bytes"),  # torch.load of the bytes, under the same guard
        ("torch", "LongStorage FloatStorage DoubleStorage IntStorage ShortStorage CharStorage ByteStorage"),
        ("torch", "BoolStorage HalfStorage BFloat16Storage"),
        ("collections", "OrderedDict defaultdict"),
        (
            "builtins __builtin__",
            "set frozenset list dict tuple int float complex bool str bytes bytearray slice",
        ),
        ("_codecs", "encode"),  # bytes of arrays in old protocols
    )
    for module in modules.split()
    for name in names.split()
)

#: Libraries whose code reads the files: what they compile comes from there (one data set of PyG calls eval).
_LIBRARIES = {"torch_geometric", "ogb"}

_guards: list[frozenset[Name]] = []  # those in force, the innermost last
_refused: list[str] = []
_has_hook = False


def _look_at_names(event: str, arguments: tuple[Any, ...]) -> None:
    if not _guards:
        return
    if event == "pickle.find_class" and arguments not in _guards[-1]:
        _refuse(".".join(map(str, arguments)))
    elif event == "compile":
        caller = str(sys._getframe(1).f_globals.get("__name__", ""))
        if caller.partition(".")[0] in _LIBRARIES:
            _refuse("an expression of Python")


def _refuse(what: str) -> None:
    _refused.append(what)
    raise pickle.UnpicklingError(f"expected arrays, got {what}")


@contextmanager
def arrays_only(what: str, *containers: type, plain_torch_load: bool = False) -> Iterator[None]:
    """Inside, no unpickler of this process (or of one that is forked) takes more than arrays.

    Args:
        what: the setting that names the data, for the message.
        containers: classes of the data set's library that may be there too. They must do nothing when they are made.
        plain_torch_load: `torch.load` without `weights_only` reads plain pickles under this guard, as the files of old
            libraries need.

    Raises:
        ValueError: a file holds something else, or the library cannot read it. Nothing that was refused has been
            called; a library that goes on all the same is stopped at the end.
    """
    global _has_hook
    if not _has_hook:  # there is no way to take one away, so there is one only where it is needed
        sys.addaudithook(_look_at_names)
        _has_hook = True
    names = {(cls.__module__, cls.__qualname__) for cls in containers}
    _guards.append(ARRAYS | names)
    known = len(_refused)
    try:
        with ExitStack() as patches:
            if plain_torch_load:
                load = partial(torch.load, weights_only=False)
                patches.enter_context(mock.patch.object(torch, "load", load))
            if hasattr(tarfile, "data_filter"):  # Python 3.10.12, 3.11.4 and later
                inside = staticmethod(tarfile.data_filter)
                patches.enter_context(
                    mock.patch.object(tarfile.TarFile, "extraction_filter", inside, create=True)
                )
            yield
    except Exception as error:
        if isinstance(error, pickle.UnpicklingError) and len(_refused) == known:  # torch's own list of names
            name = re.search(r"GLOBAL (\S+)", str(error))
            _refused.append(name.group(1) if name else "what no array consists of")
        if len(_refused) == known:
            reason = " ".join(str(error).split()) or type(error).__name__
            raise ValueError(f"{what}: the data set cannot be read: {reason}") from error
    finally:
        _guards.pop()
        refused = _refused[known:]
        del _refused[known:]
    if refused:
        raise ValueError(
            f"{what}: a file of the data set is not read: it holds {refused[0]} where arrays are expected, and could "
            "run a program"
        )
