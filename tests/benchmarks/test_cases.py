"""The measured cases, small: our results and gradients against the formula, and every peer against us."""

import pytest
import torch

from benchmarks.cases import CASES, Case
from benchmarks.peers import ours, peers_of
from benchmarks.timm_import import Unavailable

BY_NAME = {case.name: case.small() for case in CASES}
#: Cases that differ in size alone become the same small one.
DISTINCT = {(c.cut, c.heads, c.head_dim, c.cosine): c for c in BY_NAME.values()}.values()
#: One case of every kind of input, for the peers.
KINDS = ("w7 28x28 h6 s3", "w8 16x16 h12 s4", "packed 8x512", "packed sentences", "graphs")


def relative(got: torch.Tensor, want: torch.Tensor) -> float:
    return ((got - want).norm() / want.norm()).item()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["fp32", "bf16"])
@pytest.mark.parametrize("case", DISTINCT, ids=[case.name for case in DISTINCT])
def test_results_and_gradients_of_every_case(case: Case, dtype: torch.dtype) -> None:
    t = case.tensors()
    got = ours(case, t, dtype, layer=False)
    want = ours(case, t.to(dtype).to(torch.float32), torch.float32, layer=False, backend="reference")
    bound = 2e-6 if dtype == torch.float32 else 1e-2
    assert relative(got.forward().float(), want.forward()) < bound
    for x, y in zip(got.with_gradients(), want.with_gradients(), strict=True):
        assert relative(x.float(), y) < 2 * bound


@pytest.mark.parametrize("name", KINDS)
def test_peers_compute_the_same(name: str) -> None:
    case = BY_NAME[name]
    t = case.tensors()
    own = ours(case, t, torch.float32, layer=False)
    want = own.forward()
    measured = 0
    for peer in peers_of(case, torch.float32, compiled=False):
        try:
            prepared = peer.prepare(case, t, torch.float32)
        except Unavailable:
            continue
        if prepared.unpack is not None:
            assert relative(prepared.unpack(prepared.without_gradients()), want) < 2e-6, peer.name
        assert all(torch.isfinite(g).all() for g in prepared.with_gradients()), peer.name
        measured += 1
    assert measured >= 2
