"""Which library makes the large fp32 products of linear layers on a CPU: a table by processor family.

It is never found by timing inside a run: a run that goes on would choose differently, and so would its processes.
`unitrans doctor --measure` times both libraries and says where the table is wrong.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

#: Environment variable that names a line of the table to use in the place of this processor's.
SWITCH = "UNITRANS_PRODUCTS"

CPUINFO = Path("/proc/cpuinfo")


@dataclass(frozen=True)
class Products:
    """Which products are oneDNN's; all others are torch's own (MKL or OpenBLAS).

    Attributes:
        family: the line of the table.
        forward_up_to: input features up to which it makes x @ weight.T + bias; None: always.
        grad_input, grad_weight: whether it makes the gradients.
    """

    family: str
    forward_up_to: int | None
    grad_input: bool
    grad_weight: bool

    def forward(self, in_features: int) -> bool:
        """Whether oneDNN makes the forward product of a layer."""
        return self.forward_up_to is None or in_features <= self.forward_up_to

    def record(self) -> dict[str, Any]:
        """Plain JSON values."""
        return asdict(self)


#: The measurements behind each line are in docs/performance.md ("Which library multiplies").
TABLE: Mapping[str, Products] = {
    line.family: line
    for line in (
        # Zen 3 and before: no AVX-512. oneDNN saves the copies of the bias, and MKL is faster at gradients.
        Products("amd-avx2", None, grad_input=False, grad_weight=False),
        # Zen 4. oneDNN is slower for gradients of weights, as both arguments are transposed.
        Products("amd", None, grad_input=True, grad_weight=False),
        # Zen 5, whose wide AVX-512 units torch's MKL leaves alone.
        Products("amd-zen5", None, grad_input=True, grad_weight=True),
        Products("intel", 192, grad_input=False, grad_weight=False),
        Products("torch", 0, grad_input=False, grad_weight=False),
    )
}


@functools.cache
def family() -> str:
    """The line of this processor; "torch" for one that nobody has measured. ValueError for a wrong variable."""
    named = os.environ.get(SWITCH)
    if named:
        if named not in TABLE:
            raise ValueError(f"{SWITCH}: expected one of {', '.join(TABLE)}, got {named!r}")
        return named
    try:
        lines = CPUINFO.read_text(encoding="utf-8").split("\n\n")[0].splitlines()
    except OSError:
        return "torch"
    about = {key.strip(): value.strip() for key, _, value in (line.partition(":") for line in lines)}
    vendor, number = about.get("vendor_id"), about.get("cpu family", "")
    if vendor == "AuthenticAMD":
        if "avx512f" not in about.get("flags", "").split():
            return "amd-avx2"
        return "amd-zen5" if number.isdecimal() and int(number) >= 26 else "amd"
    return "intel" if vendor == "GenuineIntel" else "torch"


_in_use: Products | None = None


def in_use() -> Products:
    """The line that linear layers follow now."""
    return _in_use or TABLE[family()]


@contextmanager
def follow(line: Products) -> Iterator[None]:
    """Inside, linear layers follow this line."""
    global _in_use
    before, _in_use = _in_use, line
    try:
        yield
    finally:
        _in_use = before


def recorded(values: Mapping[str, Any] | None) -> tuple[Products, str | None]:
    """The line with which a run goes on that began with these values (of `Products.record`).

    None: it was begun before runs recorded them, with oneDNN for all products but gradients of weights.

    Returns:
        The line of the run where it was made for a processor of this family, so that updates stay the same bit for
        bit although the table has changed; this processor's otherwise. And a sentence where updates will differ.
    """
    own = TABLE[family()]
    begun = replace(own, forward_up_to=None, grad_input=True) if values is None else Products(**values)
    if begun.family == own.family:
        return begun, None
    return own, (
        f"the run began on a processor of the family {begun.family}, this one is {own.family}: it goes on with the "
        "library that is fastest here, so updates are the same but for rounding, not bit for bit"
    )
