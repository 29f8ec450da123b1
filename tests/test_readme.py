"""The examples of README.md and docs/using.md run as written."""

import re
from pathlib import Path
from typing import Any

import pytest
import torch

ROOT = Path(__file__).parents[1]


def example(name: str, file: str = "README.md") -> dict[str, Any]:
    """What the one example that has this name in it defines, once it has run."""
    text = (ROOT / file).read_text(encoding="utf-8")
    (code,) = [block for block in re.findall(r"```python\n(.*?)```", text, re.DOTALL) if name in block]
    names: dict[str, Any] = {}
    exec(code, names)
    return names


def test_attention_in_a_module_of_ones_own() -> None:
    module = example("class WindowAttention")["WindowAttention"]()
    x = torch.randn(2, 9, 17, 96)
    out = module(x)
    out.square().sum().backward()
    assert out.shape == x.shape and module.bias.grad.abs().sum() > 0


def test_a_feature_pyramid_on_swin() -> None:
    torch.manual_seed(0)
    names = example("class Pyramid")
    model, images, target = names["model"], names["images"], names["target"]
    out = model(images)
    assert [tuple(x.shape) for x in out] == [(1, 128, 24 >> i, 16 >> i) for i in range(4)]
    after = torch.nn.functional.mse_loss(out[0], target)
    assert after < names["loss"]  # the loop has learned
    after.backward()
    assert model.backbone.get_parameter("patch_embed.proj.weight").grad.abs().sum() > 0


def test_graphormer_between_layers_of_pyg() -> None:
    pytest.importorskip("torch_geometric")
    from torch_geometric.data import Batch, Data

    torch.manual_seed(0)
    model = example("class Solubility")["Solubility"]().eval()
    bond = torch.tensor([[0, 1, 1, 2], [1, 0, 2, 1]])
    graphs = [
        Data(x=torch.tensor([[6], [6], [8]]), edge_index=bond, edge_attr=torch.ones(4, 1)),
        Data(x=torch.tensor([[7], [6]]), edge_index=bond[:, :2], edge_attr=torch.ones(2, 1)),
    ]
    both = model(Batch.from_data_list(graphs))
    alone = torch.cat([model(Batch.from_data_list([graph])) for graph in graphs])
    torch.testing.assert_close(both, alone, rtol=1e-4, atol=1e-5)
    both.sum().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in model.layer.parameters() if p.ndim > 1)


def test_attention_maps_of_a_swin(capsys: pytest.CaptureFixture[str]) -> None:
    names = example("attention_maps", "docs/using.md")
    assert len(names["maps"]) == 3
    shown = capsys.readouterr().out.split()
    assert shown[0] == "layers.0.blocks.1.attn" and float(shown[-1]) == pytest.approx(1.0, abs=1e-5)
