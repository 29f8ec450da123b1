"""timm without torchvision, for measurements only.

timm asks for torchvision, which has no build for every torch. The models measured here use none of it, so where
it cannot be imported its names are stood in for by empty ones during the import of timm.
"""

from __future__ import annotations

import importlib
import importlib.abc
import importlib.machinery
import sys
import types
from collections.abc import Sequence
from typing import Any


class Unavailable(Exception):  # noqa: N818 - a state, not a mistake
    """Why a peer is not there, in words; printed in its row."""


class _Names(type):
    def __getattr__(cls, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return _Names(name, (), {})


class _Module(types.ModuleType):
    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return _Names(name, (), {})


class _Finder(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    def find_spec(
        self, name: str, path: Sequence[str] | None, target: Any = None
    ) -> importlib.machinery.ModuleSpec | None:
        if name.split(".")[0] != "torchvision":
            return None
        return importlib.machinery.ModuleSpec(name, self, is_package=True)

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> types.ModuleType:
        return _Module(spec.name)

    def exec_module(self, module: types.ModuleType) -> None:
        pass


def _drop_torchvision() -> None:
    for name in [name for name in sys.modules if name.split(".")[0] == "torchvision"]:
        del sys.modules[name]


def import_timm(module: str) -> Any:
    """A module of timm.

    Raises:
        Unavailable: timm is not installed, or does not import.
    """
    try:
        import torchvision  # noqa: F401
    except (ImportError, RuntimeError, AttributeError):
        _drop_torchvision()
        finder = _Finder()
        sys.meta_path.insert(0, finder)
        try:
            return importlib.import_module(module)
        except ImportError as error:
            raise Unavailable(f"timm does not import ({error}); pip install --no-deps timm") from None
        finally:
            sys.meta_path.remove(finder)
            _drop_torchvision()
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise Unavailable(f"timm does not import ({error}); pip install --no-deps timm") from None
