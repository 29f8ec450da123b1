"""The pair bias op against the formula in plain PyTorch and against entries written out one by one."""

import numpy as np
import pytest
import torch

from unitrans import Plan
from unitrans.ops.graphs import GraphPairs
from unitrans.ops.pair_bias import pair_bias

SIZES = [5, 0, 1, 9, 3]


def random_pairs(seed: int = 0, sizes=SIZES, hops: int = 3) -> GraphPairs:
    rng = np.random.default_rng(seed)
    edges, counts = [], []
    for n in sizes:
        listed = rng.integers(0, max(n, 1), (2 * n, 2)) if n else np.zeros((0, 2), np.int64)
        edges.append(listed)
        counts.append(len(listed))
    index = np.concatenate(edges).T
    return GraphPairs.from_edges(sizes, counts, index, rng.integers(0, 3, (index.shape[1], 2)), hops=hops)


def tables(pairs: GraphPairs, heads: int, dtype=torch.float64) -> list[torch.Tensor]:
    torch.manual_seed(0)
    shapes = [(512, heads), (pairs.hops.shape[1], len(pairs.edges) + 1, heads), (heads,)]
    return [torch.randn(shape, dtype=dtype).requires_grad_() for shape in shapes]


@pytest.mark.parametrize("heads", [1, 3, 8])
@pytest.mark.parametrize("options", [{}, {"max_divisor": 3}, {"max_divisor": 2, "max_distance": 2}])
def test_against_reference(heads, options) -> None:
    pairs = random_pairs()
    values = tables(pairs, heads)
    planes = [pair_bias(*values, pairs, backend=backend, **options) for backend in ("cpu", "reference")]
    torch.testing.assert_close(*planes, rtol=1e-14, atol=1e-14)
    assert torch.isinf(planes[0]).any() == ("max_distance" in options)
    weight = torch.randn_like(planes[0])
    grads = [torch.autograd.grad((p.masked_fill(p.isinf(), 0) * weight).sum(), values) for p in planes]
    for ours, theirs in zip(*grads, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-13, atol=1e-13)


def test_entries() -> None:
    """Every entry by its definition, where the plan of the attention reads it."""
    pairs, heads = random_pairs(), 2
    spatial, hop, token = tables(pairs, heads)
    planes = pair_bias(spatial, hop, token, pairs, max_divisor=2, max_distance=4)
    plan = Plan.from_lengths([n + 1 for n in SIZES], bias="ragged")
    assert planes.shape == (heads, plan.bias_size)
    row = 0
    for n, offset in zip(SIZES, plan.bias_offset.tolist(), strict=True):
        plane = planes[:, offset : offset + (n + 1) ** 2].view(heads, n + 1, n + 1)
        assert (plane[:, 0] == token[:, None]).all() and (plane[:, :, 0] == token[:, None]).all()
        for i in range(n):
            for j in range(n):
                d, codes = int(pairs.distance[row]), pairs.hops[row].tolist()
                want = spatial[d + 1] + sum(hop[k, c] for k, c in enumerate(codes)) / min(max(d, 1), 2)
                if d >= 4:
                    want = torch.full_like(want, -torch.inf)
                torch.testing.assert_close(plane[:, i + 1, j + 1], want)
                row += 1
    assert row == len(pairs.distance)


def test_gradcheck() -> None:
    pairs = random_pairs(1, [3, 1, 4])
    values = tables(pairs, 2)
    values[0] = values[0].detach()
    reached = values[0][:8].clone().requires_grad_()

    def planes(near, hop, token):
        return pair_bias(torch.cat([near, values[0][8:]]), hop, token, pairs, max_divisor=3)

    assert torch.autograd.gradcheck(planes, (reached, *values[1:]))


def test_equal_for_any_number_of_threads() -> None:
    pairs = random_pairs(2, [23] * 40)
    values = tables(pairs, 8, torch.float32)
    results, before = [], torch.get_num_threads()
    try:
        for threads in (1, 2, 5):
            torch.set_num_threads(threads)
            planes = pair_bias(*values, pairs, max_divisor=3)
            results.append([planes, *torch.autograd.grad(planes.square().sum(), values)])
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(a, b) for other in results[1:] for a, b in zip(results[0], other, strict=True))


def test_float32_sums_of_many_pairs() -> None:
    """Gradients of tables are sums over all pairs: fp32 stays near fp64."""
    pairs = random_pairs(3, [30] * 60)
    exact = tables(pairs, 4)
    single = [x.detach().float().requires_grad_() for x in exact]
    weight = torch.randn(4, 60 * 31 * 31, dtype=torch.float64)
    want = torch.autograd.grad((pair_bias(*exact, pairs) * weight).sum(), exact)
    got = torch.autograd.grad((pair_bias(*single, pairs) * weight.float()).sum(), single)
    for a, b in zip(got, want, strict=True):
        assert (a.double() - b).abs().max() < 2e-6 * b.abs().max()


def test_compiles_and_passes_opcheck() -> None:
    pairs = random_pairs()
    values = tables(pairs, 2, torch.float32)
    arguments = (*values, pairs.cu_nodes, pairs.distance, pairs.hops, pairs.num_nodes, 3, 100)
    torch.library.opcheck(torch.ops.unitrans.pair_bias_forward.default, arguments)


def test_wrong_tables_are_named() -> None:
    pairs = random_pairs()
    spatial, hop, token = tables(pairs, 2)
    with pytest.raises(ValueError, match="hop and token: expected"):
        pair_bias(spatial, hop[:2], token, pairs)
    with pytest.raises(ValueError, match="token: expected float32 or float64"):
        pair_bias(spatial, hop, token.float(), pairs)
    with pytest.raises(ValueError, match="hop: expected on cpu as spatial, got meta"):
        pair_bias(spatial, hop.to("meta"), token, pairs)
    with pytest.raises(ValueError, match="pairs: expected on cpu as spatial, got meta"):
        pair_bias(spatial, hop, token, pairs.to("meta"))
    with pytest.raises(ValueError, match="backend: expected"):
        pair_bias(spatial, hop, token, pairs, backend="gpu")
    twice = torch.autograd.grad(
        pair_bias(spatial, hop, token, pairs).square().sum(), token, create_graph=True
    )
    with pytest.raises(RuntimeError, match="no double backward"):
        twice[0].sum().backward()
