"""Golden numbers of the official implementations, when ../shared/golden is there."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from golden_cases import GOLDEN
from safetensors.torch import load_file
from torch import Tensor


@dataclass
class Case:
    weights: dict[str, Tensor]
    inputs: dict[str, Tensor]
    expected: dict[str, Tensor]
    meta: dict[str, Any]

    def check(self, got: dict[str, Tensor]) -> None:
        """Compare at the tolerances of meta.json; every named tensor must be in the case."""
        advice, noise = self.meta["tolerance_advice"], self.meta["noise"]
        largest = max(
            (x.abs().max().item() for n, x in self.expected.items() if n.startswith("grad.")), default=0.0
        )
        failures = []
        for name, tensor in got.items():
            want = self.expected[name]
            assert tensor.shape == want.shape, f"{name}: {tuple(tensor.shape)} instead of {tuple(want.shape)}"
            grad = name.startswith(("grad.", "gin."))
            limit = max(
                advice["grads" if grad else "outputs"] * want.abs().max().item(),
                10 * noise.get(name, [0.0])[0],
                1e-6 * largest if name.startswith("grad.") else 0.0,
                1e-12,
            )
            error = (tensor.detach().double() - want.double()).abs().max().item()
            if not error <= limit:
                failures.append(f"{name}: {error:.2e} > {limit:.2e}")
        assert not failures, "\n".join(failures)


@pytest.fixture
def golden() -> Callable[[str], Case]:
    def load(name: str) -> Case:
        folder = GOLDEN / name
        if not folder.is_dir():
            pytest.skip(f"golden case {name} is not there (optional folder ../shared/golden)")
        io, weights = load_file(folder / "io.safetensors"), folder / "weights.safetensors"
        return Case(
            weights=load_file(weights) if weights.is_file() else {},
            inputs={k.removeprefix("in."): v for k, v in io.items() if k.startswith("in.")},
            expected={k: v for k, v in io.items() if not k.startswith("in.")},
            meta=json.loads((folder / "meta.json").read_text()),
        )

    torch.manual_seed(0)
    return load
