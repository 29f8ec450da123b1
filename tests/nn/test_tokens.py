"""The look-up whose gradient is added to that of the decoder on the same table."""

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from unitrans.nn.tokens import TokenEmbed, look_up

WORDS, WIDTH = 50, 8


def step(module: nn.Embedding, tied: bool, decode: bool = True) -> Tensor:
    torch.manual_seed(1)
    ids, at = torch.randint(0, WORDS, (40,)), torch.randint(0, 40, (5,))
    rows = look_up(module, ids) if tied else module(ids)
    scores = F.linear(rows[at], module.weight) if decode else rows
    (scores * torch.randn(scores.shape)).sum().backward()
    assert module.weight.grad is not None and module.weight.grad.layout == torch.strided
    return module.weight.grad


@pytest.mark.parametrize("decode", [True, False])
@pytest.mark.parametrize("steps", [1, 3])
def test_gradients_are_those_of_torch_and_dense(decode: bool, steps: int) -> None:
    torch.manual_seed(0)
    plain = nn.Embedding(WORDS, WIDTH)
    tied = copy.deepcopy(plain)
    for _ in range(steps):  # gradients of several batches add up
        got, want = step(tied, True, decode), step(plain, False, decode)
    torch.testing.assert_close(got, want)
    again = copy.deepcopy(tied)  # its parameter has no hook yet
    again.weight.grad = None
    assert step(again, True, decode).layout == torch.strided


def test_the_rows_alone_are_added(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[bool] = []
    embedding = F.embedding

    def counted(*arguments: Any, **options: Any) -> Tensor:
        seen.append(options["sparse"] if "sparse" in options else arguments[6])
        return embedding(*arguments, **options)

    monkeypatch.setattr(F, "embedding", counted)
    table, ids = nn.Embedding(WORDS, WIDTH), torch.arange(4)
    look_up(table, ids)
    assert seen == [True]
    for other in (
        nn.Embedding(WORDS, WIDTH, padding_idx=0),
        nn.Embedding(WORDS, WIDTH).requires_grad_(False),
    ):
        look_up(other, ids)
    with torch.no_grad():
        look_up(table, ids)
    torch.func.vmap(lambda x: look_up(table, x))(ids[None])
    assert seen == [True, *[False] * 4]


def test_rows_are_equal_bit_for_bit() -> None:
    embed, ids = TokenEmbed(WORDS, WIDTH, 16, norm=True), torch.arange(10)
    assert torch.equal(embed(ids, ids, tied=True), embed(ids, ids))
