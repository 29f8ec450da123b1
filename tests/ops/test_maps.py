"""Attention probabilities on request, of models of all three domains."""

from types import SimpleNamespace

import torch

from unitrans import Plan, attention, attention_maps
from unitrans.models import (
    BertConfig,
    BertModel,
    Gpt2Config,
    Gpt2Model,
    GraphormerConfig,
    GraphormerModel,
    SwinConfig,
    SwinModel,
    Swinv2Config,
    Swinv2Model,
)
from unitrans.ops import reference


def test_equal_to_the_formula() -> None:
    torch.manual_seed(0)
    plan = Plan.from_lengths([3, 1, 4], bias="ragged", reach=(-1, 0))
    q, k, v = (torch.randn(8, 2, 4, requires_grad=True) for _ in range(3))
    bias = torch.randn(2, 9 + 1 + 16)
    with attention_maps() as maps:
        out = attention(q, k, v, plan, bias=bias, scale=0.7, dropout_p=0.5, dropout_seed=1)
    (only,) = maps
    assert only.layer == "" and only.weights.shape == (3, 2, 4, 4) and not only.weights.requires_grad
    out.sum().backward()  # what is kept does not stand in the way of gradients
    start, plane = 0, 0
    for number, size in enumerate((3, 1, 4)):
        here = slice(start, start + size)
        scores = torch.einsum("inc,jnc->nij", q[here], k[here]) * 0.7
        scores = scores + bias[:, plane : plane + size * size].view(2, size, size)
        expected = scores.masked_fill(torch.ones(size, size).triu(1).bool(), -torch.inf).softmax(-1)
        rows, keys, weights = only.group(number)
        assert rows.tolist() == keys.tolist() == list(range(start, start + size))
        torch.testing.assert_close(weights, expected)
        torch.testing.assert_close(only.dense()[:, here, here], expected)
        start, plane = start + size, plane + size * size
    assert only.dense().shape == (2, 8, 8) and only.dense()[:, :3, 3:].abs().sum() == 0


def test_nothing_is_kept_when_not_asked() -> None:
    model = torch.nn.Sequential(torch.nn.Linear(2, 2))
    with attention_maps(model) as maps:
        pass
    x = torch.randn(4, 1, 4)
    attention(x, x, x, Plan.from_lengths([4]), backend="reference")
    assert maps == [] and reference.observer is None
    assert not model[0]._forward_hooks and not model[0]._forward_pre_hooks
    try:
        with attention_maps():
            raise KeyError("x")
    except KeyError:
        assert reference.observer is None


def test_cross_attention() -> None:
    plan = Plan.cross(Plan.from_lengths([2, 1]), Plan.from_lengths([3, 2]))
    with attention_maps() as maps:
        attention(torch.randn(3, 1, 4), torch.randn(5, 1, 4), torch.randn(5, 1, 4), plan)
    dense = maps[0].dense()
    assert dense.shape == (1, 3, 5) and torch.allclose(dense.sum(-1), torch.ones(1, 3))
    assert dense[0, :2, 3:].abs().sum() == 0 == dense[0, 2, :3].abs().sum()


def test_models_of_three_domains() -> None:
    torch.manual_seed(0)
    swin = {
        "image_size": 24,
        "patch_size": 2,
        "embed_dim": 8,
        "depths": [2, 1],
        "num_heads": [2, 2],
        "window_size": 4,
    }
    text = {"vocab_size": 20, "embed_dim": 8, "depth": 2, "num_heads": 2, "max_position_embeddings": 12}
    ids, mask = torch.randint(4, 20, (2, 6)), torch.tensor([[1] * 6, [1] * 4 + [0] * 2])
    graphs = {
        "num_nodes": 5, "num_graphs": 2, "x": None, "edge_attr": None, "batch": torch.tensor([0, 0, 0, 1, 1]),
        "edge_index": torch.tensor([[0, 1, 3, 4], [1, 0, 4, 3]]),
    }  # fmt: skip
    data = SimpleNamespace(**graphs)
    image = torch.randn(2, 3, 24, 24)
    cases = [
        (SwinModel(SwinConfig(**swin)), (image,), {}, 3),
        (Swinv2Model(Swinv2Config(**swin)), (image,), {}, 3),
        (BertModel(BertConfig(**text)), (ids, mask), {}, 2),
        (Gpt2Model(Gpt2Config(**text)), (ids, mask), {}, 2),
        (GraphormerModel(GraphormerConfig(embed_dim=8, depth=2, num_heads=2)), (data,), {}, 2),
    ]
    for model, inputs, named, layers in cases:
        model.eval()
        with torch.no_grad():
            plain = model(*inputs, **named).last_hidden_state
            with attention_maps(model) as maps:
                kept = model(*inputs, **named).last_hidden_state
        torch.testing.assert_close(kept, plain, rtol=1e-4, atol=1e-5)
        assert len(maps) == layers == len({one.layer for one in maps})
        assert all(type(model.get_submodule(one.layer)).__name__ == "Attention" for one in maps)
        for one in maps:
            sums = one.weights.sum(-1)
            there = (one.query_rows >= 0)[:, None].expand_as(sums)
            torch.testing.assert_close(sums, there.to(sums.dtype))
            assert (one.weights >= 0).all()
