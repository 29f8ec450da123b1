"""The `torch` backend against the formula, on CPU tensors: it is the same code that serves GPUs."""

import pytest
import torch
import torch.nn.functional as F
from cases import Call, calls
from hypothesis import given, settings
from test_attention import close, plain_low_precision, simple_call
from torch import Tensor

from unitrans import Plan, attention, attention_qkvpacked
from unitrans.ops import sdpa


@settings(max_examples=120, deadline=None)
@given(call=calls(dropout=False))
def test_equals_the_formula(call: Call) -> None:
    want = call.run("reference", torch.float64, lse=False)
    close(call.run("torch", torch.float64, lse=False), want, rtol=1e-11)
    plain = call.run("reference", torch.float32, lse=False)
    close(call.run("torch", torch.float32, lse=False), want, rtol=2e-5, plain=plain)


@settings(max_examples=25, deadline=None)
@given(call=calls(dropout=False))
def test_low_precision_error_is_that_of_the_plain_formula(call: Call) -> None:
    want = call.run("reference", torch.float32, lse=False)
    got, plain = call.run("torch", torch.bfloat16, lse=False), plain_low_precision(call, torch.bfloat16)
    for name in ("out", "dq", "dk", "dv"):
        if want[name].numel():
            error = (got[name].float() - want[name]).abs().max()
            allowed = (plain[name].float() - want[name]).abs().max()
            # Exact zeros (one key: no gradient for its query) carry the rounding of what cancels in them.
            rounding = 4 * torch.finfo(torch.bfloat16).eps * want[name].abs().max().clamp(min=1.0)
            assert error <= 2 * allowed + rounding, name


@pytest.fixture
def sent(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, object]]:
    """What torch's op is given: shapes of q, mask and the causal switch, call by call."""
    seen: list[dict[str, object]] = []
    run = F.scaled_dot_product_attention

    def spy(q: Tensor, k: Tensor, v: Tensor, **options: object) -> Tensor:
        mask = options["attn_mask"]
        seen.append(
            {
                "q": tuple(q.shape),
                "mask": None if mask is None else tuple(mask.shape),
                "causal": options["is_causal"],
            }
        )
        return run(q, k, v, **options)

    monkeypatch.setattr(sdpa.F, "scaled_dot_product_attention", spy)
    return seen


def run(plan: Plan, bias: Tensor | None = None, **options: object) -> Tensor:
    torch.manual_seed(0)
    q, k, v = (torch.randn(plan.num_tokens, 2, 8) for _ in range(3))
    out = attention(q, k, v, plan, bias=bias, backend="torch", **options)
    out = out[0] if isinstance(out, tuple) else out
    want = attention(q, k, v, plan, bias=bias, backend="reference", **options)
    torch.testing.assert_close(out, want[0] if isinstance(want, tuple) else want)
    return out


def test_windows_share_one_bias_and_need_no_mask(sent: list[dict[str, object]]) -> None:
    plan = Plan.windows((6, 6), 3).repeat(5)
    run(plan)
    run(plan, torch.randn(2, plan.bias_size))
    assert sent == [
        {"q": (20, 2, 9, 8), "mask": None, "causal": False},
        {"q": (20, 2, 9, 8), "mask": (1, 2, 9, 9), "causal": False},
    ]


def test_parts_of_windows_are_computed_in_their_own_size(sent: list[dict[str, object]]) -> None:
    plan = Plan.windows((8, 8), 4, 2)
    run(plan, torch.randn(2, plan.bias_size))
    assert sorted(x["q"][0] * x["q"][2] for x in sent) == [16, 16, 32]  # type: ignore[index]


def test_causal_sentences_of_one_length_have_no_mask(sent: list[dict[str, object]]) -> None:
    run(Plan.from_lengths([7, 7, 7, 2], reach=(-1, 0)))
    assert [(x["mask"], x["causal"]) for x in sent] == [(None, True)] * 2


def test_many_lengths_become_few_calls(sent: list[dict[str, object]]) -> None:
    lengths = [*range(1, 40), 0, 100]
    plan = Plan.from_lengths(lengths, bias="ragged")
    run(plan, torch.randn(2, plan.bias_size))
    run(Plan.from_lengths(lengths))
    assert len(sent) == 2 * 6
    places = sum(x["q"][0] * x["q"][2] for x in sent) / 2  # type: ignore[index]
    assert places < 1.2 * sum(lengths)


def test_what_torch_cannot_do_goes_to_the_reference(sent: list[dict[str, object]]) -> None:
    plan = Plan.from_lengths([5, 3])
    run(plan, dropout_p=0.3, dropout_seed=1)
    run(plan, return_lse=True)
    run(Plan.from_lengths([0, 0]))
    assert not sent


def test_rows_without_keys_are_zero_and_have_no_gradient() -> None:
    plan = Plan.from_lengths([3, 0, 1, 4], bias="ragged")
    call = simple_call(plan, bias=torch.randn(2, plan.bias_size, dtype=torch.float64))
    call.bias[:, 0:3] = -torch.inf
    got = call.run("torch", torch.float32, lse=False)
    close(got, call.run("reference", torch.float64, lse=False), rtol=1e-5)
    assert (got["out"][0] == 0).all() and (got["dq"][0] == 0).all() and (got["dbias"][:, 0:3] == 0).all()


def test_tokens_outside_a_group_never_reach_it() -> None:
    lengths = list(range(20))  # padded buckets
    ids = [g for g, n in enumerate(lengths) for _ in range(n)]
    ids[5] = -1
    clean = simple_call(Plan.from_segment_ids(ids))
    poisoned = {name: getattr(clean, name).clone() for name in "qkv"}
    for x in poisoned.values():
        x[5], x[15:] = torch.nan, torch.inf
    want = clean.run("torch", torch.float32, lse=False)
    got = clean.with_(**poisoned).run("torch", torch.float32, lse=False)
    rows = [0, 1, 2, 3, 4, 6, 7, 8, 9, 10, 11, 12, 13, 14]
    for name in ("out", "dq", "dk", "dv"):
        assert torch.equal(got[name][rows], want[name][rows]), name
    assert (got["out"][5] == 0).all() and (got["dq"][5] == 0).all() and (got["dk"][5] == 0).all()


def test_packed_qkv_and_bit_equal_gradients() -> None:
    torch.manual_seed(0)
    plan = Plan.windows((9, 9), 4, 2).repeat(3)
    qkv = torch.randn(plan.num_tokens, 3, 2, 8, requires_grad=True)
    bias = torch.randn(2, plan.bias_size, requires_grad=True)

    def grads(packed: bool) -> tuple[Tensor, ...]:
        if packed:
            out = attention_qkvpacked(qkv, plan, bias=bias, backend="torch")
        else:
            out = attention(*qkv.unbind(1), plan, bias=bias, backend="torch")
        return torch.autograd.grad(out.square().sum(), (qkv, bias))  # type: ignore[union-attr]

    for first, again in zip(grads(True), grads(False), strict=True):
        assert torch.equal(first, again)


def test_is_traced_whole_without_reading_the_plan() -> None:
    torch._dynamo.reset()
    f = torch.compile(
        lambda q, plan, bias: attention(q * 2, q, q, plan, bias=bias, backend="torch"),
        backend="aot_eager",
        fullgraph=True,
    )
    plan = Plan.from_lengths([3, 5, 0, 1], bias="ragged", reach=(-1, 0))
    q = torch.randn(plan.num_tokens, 2, 8, requires_grad=True)
    bias = torch.randn(2, plan.bias_size, requires_grad=True)
    want = attention(q * 2, q, q, plan, bias=bias, backend="reference")
    got = f(q, plan, bias)
    torch.testing.assert_close(got, want)
    for x, y in zip(*(torch.autograd.grad(out.sum(), (q, bias)) for out in (got, want)), strict=True):
        torch.testing.assert_close(x, y)
