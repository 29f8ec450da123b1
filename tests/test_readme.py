"""The README's example runs as written."""

import re
from pathlib import Path
from typing import Any

import torch


def test_the_module_in_the_readme() -> None:
    text = (Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8")
    (code,) = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    names: dict[str, Any] = {}
    exec(code, names)
    module = names["WindowAttention"]()
    x = torch.randn(2, 9, 17, 96)
    out = module(x)
    out.square().sum().backward()
    assert out.shape == x.shape and module.bias.grad.abs().sum() > 0
