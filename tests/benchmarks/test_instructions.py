"""The core takes no more instructions than were noted (AVX2 kernels under callgrind)."""

import json
from pathlib import Path

import pytest

from benchmarks import instructions

REASON = instructions.missing()


@pytest.mark.skipif(REASON is not None, reason=str(REASON))
def test_instruction_counts() -> None:
    if "avx2" not in Path("/proc/cpuinfo").read_text():
        pytest.skip("this processor has no AVX2")
    baseline = json.loads(instructions.BASELINE.read_text())
    measured = instructions.counts()
    assert measured.keys() == baseline.keys()
    assert instructions.exceeding(measured, baseline) == []
    assert instructions.exceeding({n: 2 * c for n, c in measured.items()}, baseline) != []
