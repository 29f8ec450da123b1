"""The op against its formula, on every backend that this machine can run."""

import pytest
import torch
from cases import Call, calls
from hypothesis import given, settings
from torch import Tensor

from unitrans import Plan, attention, attention_qkvpacked
from unitrans.ops.backends import BACKENDS, explain_backends

CPU = [b.name for b in BACKENDS if b.name.startswith("cpu-")]
RUNNABLE = [
    name for name, reason in explain_backends("cpu") if reason is None and name not in ("cpu", "torch")
]


@pytest.fixture(params=CPU)
def backend(request: pytest.FixtureRequest) -> str:
    reason = dict(explain_backends("cpu"))[request.param]
    if reason is not None:
        pytest.skip(f"{request.param}: {reason}")
    return request.param


def close(
    got: dict[str, Tensor], want: dict[str, Tensor], rtol: float, plain: dict[str, Tensor] | None = None
) -> None:
    """Every tensor within rtol of the largest entry of the wanted one, with equal infinities.

    Where exact terms cancel rounding is larger than that: d(scale) sums terms of both signs over all pairs of a
    head, and for gradients through normalised rows four times the error of the plain formula in the same
    precision is allowed.
    """
    for name, w in want.items():
        g, w = got[name].double(), w.double()
        assert g.shape == w.shape, f"{name}: {tuple(g.shape)} instead of {tuple(w.shape)}"
        finite = torch.isfinite(w)
        assert torch.equal(torch.isfinite(g), finite) and torch.equal(g[~finite], w[~finite]), (
            f"{name}: not finite in other places"
        )
        if finite.any():
            typical = want["out"].numel() ** 0.5 if name == "dscale" else 1.0
            limit = rtol * max(w[finite].abs().max().item(), typical)
            if plain is not None:
                limit = max(limit, 4 * (plain[name].double() - w)[finite].abs().max().item())
            error = (g - w)[finite].abs().max().item()
            assert error <= limit, f"{name}: error {error:.2e}, allowed {limit:.2e}"


def check_fp32(call: Call, backend: str) -> None:
    want, plain = call.run("reference", torch.float64), call.run("reference", torch.float32)
    close(plain, want, rtol=1e-3)
    close(call.run(backend, torch.float32), want, rtol=1e-5, plain=plain)


@settings(max_examples=120, deadline=None)
@given(call=calls())
def test_fp32_equals_the_fp64_formula(call: Call) -> None:
    for name in RUNNABLE:
        if name != "reference":
            check_fp32(call, name)


@settings(max_examples=40, deadline=None)
@given(call=calls())
def test_fp64_equals_the_fp64_formula(call: Call) -> None:
    want = call.run("reference", torch.float64)
    for name in CPU:
        if name in RUNNABLE:
            close(call.run(name, torch.float64), want, rtol=1e-12)


@settings(max_examples=40, deadline=None)
@given(call=calls(dropout=False))
def test_low_precision_error_is_at_most_twice_that_of_the_plain_formula(call: Call) -> None:
    """Measured against fp32; the plain formula runs in the low precision throughout."""
    want = call.run("cpu", torch.float32, grad_lse=False)
    for dtype in (torch.bfloat16, torch.float16):
        got, plain = call.run("cpu", dtype, grad_lse=False), plain_low_precision(call, dtype)
        epsilon = torch.finfo(dtype).eps
        for name, w in want.items():
            finite = torch.isfinite(w)
            assert torch.equal(torch.isfinite(got[name]), finite), name
            if name not in plain or not finite.any():
                continue
            error = (got[name].float() - w)[finite].abs().max().item()
            allowed = 2 * (plain[name].float() - w)[finite].abs().max().item()
            rounding = epsilon * w[finite].abs().max().item()  # of storing the result once
            assert error <= allowed + rounding, (
                f"{name} {dtype}: {error:.2e} > {allowed:.2e} + {rounding:.2e}"
            )


def plain_low_precision(call: Call, dtype: torch.dtype) -> dict[str, Tensor]:
    """Output and gradients of q, k, v by softmax(q k^T * scale + bias) v, group by group, all in one dtype."""
    q, k, v = (getattr(call, name).to(dtype).requires_grad_() for name in "qkv")
    plan = call.plan
    out = q * 0
    for g, (rows_q, rows_k, pos_q, pos_k) in enumerate(groups_of(plan)):
        if len(rows_q) == 0 or len(rows_k) == 0:
            continue
        a, b = q[rows_q], k[rows_k]
        if call.qk_norm:
            a, b = torch.nn.functional.normalize(a, dim=-1), torch.nn.functional.normalize(b, dim=-1)
        scores = torch.einsum("ind,jnd->nij", a * call.scale.to(dtype)[:, None], b)
        if call.bias is not None and plan.bias_offset[g] >= 0:
            entry = plan.bias_offset[g] + pos_q[:, None] * plan.bias_row_stride[g] + pos_k[None, :]
            scores = scores + call.bias[:, entry].to(dtype)
        if plan.reach is not None:
            left, right = plan.reach[g].tolist()
            d = torch.arange(len(rows_k))[None] - torch.arange(len(rows_q))[:, None]
            far = ((d < -left) & (left >= 0)) | ((d > right) & (right >= 0))
            scores = scores.masked_fill(far, -torch.inf)
        dead = (scores == -torch.inf).all(-1, keepdim=True)
        weights = torch.where(dead, torch.zeros_like(scores), scores.masked_fill(dead, 0.0).softmax(-1))
        out = out.index_put((rows_q,), torch.einsum("nij,jnd->ind", weights, v[rows_k]))
    generator = torch.Generator().manual_seed(3)  # the functional that Call.run differentiates
    weight = torch.randn(out.shape, generator=generator, dtype=torch.float64).to(dtype)
    dq, dk, dv = torch.autograd.grad(
        (out * weight).sum(), (q, k, v), allow_unused=True, materialize_grads=True
    )
    return {"out": out.detach(), "dq": dq, "dk": dk, "dv": dv}


def groups_of(plan: Plan) -> list[tuple[Tensor, Tensor, Tensor, Tensor]]:
    """(query rows, key rows, query positions, key positions) of every group, by a plain loop."""

    def side(cu: Tensor, index: Tensor | None, position: Tensor | None) -> list[tuple[Tensor, Tensor]]:
        found = []
        for start, end in zip(cu[:-1].tolist(), cu[1:].tolist(), strict=True):
            rows = torch.arange(start, end) if index is None else index[start:end].long()
            place = torch.arange(end - start) if position is None else position[start:end].long()
            found.append((rows, place))
        return found

    queries = side(plan.cu_seqlens, plan.token_index, plan.position)
    keys = queries
    if plan.key_cu_seqlens is not None:
        keys = side(plan.key_cu_seqlens, plan.key_token_index, plan.key_position)
    return [(q, k, pq, pk) for (q, pq), (k, pk) in zip(queries, keys, strict=True)]


def simple_call(plan: Plan, num_heads: int = 2, head_dim: int = 16, **changes: object) -> Call:
    generator = torch.Generator().manual_seed(0)
    num_keys = plan.num_tokens if plan.num_keys is None else plan.num_keys
    shape = (num_heads, head_dim)
    return Call(
        q=torch.randn(plan.num_tokens, *shape, generator=generator).double(),
        k=torch.randn(num_keys, *shape, generator=generator).double(),
        v=torch.randn(num_keys, *shape, generator=generator).double(),
        plan=plan,
        bias=None,
        scale=torch.full((num_heads,), 0.3, dtype=torch.float64),
    ).with_(**changes)


def test_strided_views_are_read_in_place(backend: str) -> None:
    call = simple_call(Plan.windows((9, 7), 4, 2), head_dim=24)
    for dtype in (torch.float32, torch.bfloat16):
        plain, strided = call.run(backend, dtype), call.run(backend, dtype, strided=True)
        for name, tensor in plain.items():
            assert torch.equal(tensor, strided[name]), name


def test_every_head_dim(backend: str) -> None:
    plan = Plan.from_lengths([5, 17])
    for head_dim in range(1, 257):
        call = simple_call(plan, num_heads=1, head_dim=head_dim)
        check_fp32(call, backend)


@pytest.mark.parametrize("size", [31, 32, 33, 63, 64, 65, 127, 129, 255, 300, 513, 1100])
def test_long_groups(backend: str, size: int) -> None:
    check_fp32(simple_call(Plan.from_lengths([size, 3], reach=(-1, 0)), num_heads=1, head_dim=32), backend)


def test_rows_with_nothing_to_attend(backend: str) -> None:
    plan = Plan.from_lengths([3, 0, 1, 4], bias="ragged")
    call = simple_call(plan, bias=torch.randn(2, plan.bias_size, dtype=torch.float64))
    call.bias[:, 0:3] = -torch.inf  # the first query of the first group
    got = call.run(backend, torch.float32)
    close(got, call.run("reference", torch.float64), rtol=1e-5)
    assert (got["out"][0] == 0).all() and (got["lse"][0] == -torch.inf).all() and (got["dq"][0] == 0).all()
    assert (got["dbias"][:, 0:3] == 0).all()


def test_tokens_outside_a_group_never_reach_it(backend: str) -> None:
    ids = [0, 0, -1, 0, 1, 1]
    clean = simple_call(Plan.from_segment_ids(ids))
    poisoned = {name: getattr(clean, name).clone() for name in "qkv"}
    for x in poisoned.values():
        x[2], x[4:] = torch.nan, torch.inf
    want, got = clean.run(backend, torch.float32), clean.with_(**poisoned).run(backend, torch.float32)
    rows = [0, 1, 3]
    for name in ("out", "lse", "dq", "dk", "dv"):
        assert torch.equal(got[name][rows], want[name][rows]), name
    assert (got["out"][2] == 0).all() and (got["dq"][2] == 0).all() and (got["dk"][2] == 0).all()


def test_nan_in_a_group_stays_visible(backend: str) -> None:
    call = simple_call(Plan.from_lengths([3, 3]))
    call.k[1] = torch.nan
    out = call.run(backend, torch.float32)["out"]
    assert out[:3].isnan().all() and out[3:].isfinite().all()
    bias = torch.full((2, 18), -torch.inf, dtype=torch.float64)
    bias[:, 0] = torch.nan
    out = simple_call(Plan.from_lengths([3, 3], bias="ragged"), bias=bias).run(backend, torch.float32)["out"]
    assert out[0].isnan().all() and (out[1:] == 0).all()


@pytest.mark.parametrize("size", [1e2, 1e4, 3e37])
def test_extreme_logits(backend: str, size: float) -> None:
    plan = Plan.from_lengths([7, 19], bias=19)
    bias = (
        torch.randn(2, plan.bias_size, dtype=torch.float64, generator=torch.Generator().manual_seed(1)) * size
    )
    call = simple_call(plan, bias=bias.float().double(), scale=torch.zeros(2, dtype=torch.float64))
    close(call.run(backend, torch.float32), call.run("reference", torch.float64), rtol=1e-5)


def test_cosine_rows_below_eps_have_no_gradient(backend: str) -> None:
    call = simple_call(Plan.from_lengths([6]), qk_norm=True)
    call.q[1], call.k[2], call.q[3] = 0.0, 0.0, 1e-14
    got = call.run(backend, torch.float32)
    close(got, call.run("reference", torch.float64), rtol=1e-5)
    assert (got["dq"][1] == 0).all() and (got["dk"][2] == 0).all() and (got["dq"][3] == 0).all()


def test_dropout_keeps_the_promised_share_and_the_mean(backend: str) -> None:
    plan = Plan.from_lengths([64] * 16)
    call = simple_call(plan, head_dim=64, dropout_p=0.25, dropout_seed=5)
    call.q.zero_()  # equal weights 1/64
    call.v.copy_(torch.eye(64, dtype=torch.float64).repeat(16, 1)[:, None].expand_as(call.v))
    weights = call.run(backend, torch.float32)["out"] * 64  # 0 or 1 / (1 - p)
    kept = weights != 0
    assert torch.allclose(weights[kept], torch.tensor(1 / 0.75))
    assert abs(kept.double().mean().item() - 0.75) < 5 * (0.75 * 0.25 / kept.numel()) ** 0.5
    assert torch.equal(weights, call.run("reference", torch.float32)["out"] * 64)
    other = call.with_(dropout_seed=6).run(backend, torch.float32)["out"] * 64
    assert 0.5 < ((other != 0) == kept).double().mean() < 0.75  # independent: .75**2 + .25**2 = .625


def test_bit_equal_for_any_number_of_threads(backend: str) -> None:
    plan = Plan.cat(
        [Plan.windows((21, 21), 7, 3).repeat(5), Plan.from_lengths([200, 1, 0, 37], bias="ragged")],
        planes="concatenated",
    )
    bias = torch.randn(3, plan.bias_size, dtype=torch.float64)
    cross = Plan.cross(Plan.from_lengths([9, 30, 4]), Plan.from_lengths([100, 2, 50]))
    cases = [
        simple_call(plan, 3, 32, bias=bias),
        simple_call(cross, 3, 32),
        simple_call(plan, 3, 24, qk_norm=True),
    ]
    threads = torch.get_num_threads()
    try:
        for call in cases:
            torch.set_num_threads(1)
            one, again = call.run(backend, torch.float32), call.run(backend, torch.float32)
            torch.set_num_threads(2)
            two = call.run(backend, torch.float32)
            for name, tensor in one.items():
                assert torch.equal(tensor, two[name]) and torch.equal(tensor, again[name]), name
    finally:
        torch.set_num_threads(threads)


def tensors_for_gradcheck(plan: Plan) -> tuple[Tensor, ...]:
    torch.manual_seed(1)
    q = torch.randn(plan.num_tokens, 2, 3, dtype=torch.float64, requires_grad=True)
    num_keys = plan.num_tokens if plan.num_keys is None else plan.num_keys
    k, v = (torch.randn(num_keys, 2, 3, dtype=torch.float64, requires_grad=True) for _ in range(2))
    bias = torch.randn(2, max(plan.bias_size, 1), dtype=torch.float64, requires_grad=True)
    scale = torch.rand(2, dtype=torch.float64, requires_grad=True)
    return q, k, v, bias, scale


@pytest.mark.parametrize("qk_norm", [False, True])
@pytest.mark.parametrize(
    "plan",
    [
        Plan.windows((3, 5), (2, 3), (1, 1)),
        Plan.from_lengths([4, 1], bias="ragged", reach=(1, 0)),
        Plan.cross(Plan.from_lengths([2, 3]), Plan.from_lengths([4, 1]), bias=4),
    ],
    ids=["windows", "reach", "cross"],
)
def test_gradcheck(plan: Plan, qk_norm: bool) -> None:
    for backend in ("reference", "cpu"):

        def f(q: Tensor, k: Tensor, v: Tensor, bias: Tensor, scale: Tensor, backend: str = backend) -> object:
            return attention(
                q, k, v, plan, bias=bias, scale=scale, qk_norm=qk_norm, dropout_p=0.2, dropout_seed=1,
                return_lse=True, backend=backend,
            )  # fmt: skip

        assert torch.autograd.gradcheck(f, tensors_for_gradcheck(plan))


def test_double_backward() -> None:
    plan = Plan.from_lengths([3, 2])
    q, k, v, _, _ = tensors_for_gradcheck(plan)
    assert torch.autograd.gradgradcheck(lambda *x: attention(*x, plan, backend="reference"), (q, k, v))
    (grad,) = torch.autograd.grad(attention(q, k, v, plan).sum(), q, create_graph=True)
    with pytest.raises(RuntimeError, match="no double backward.*backend='reference'"):
        grad.sum().backward()


def test_forward_mode_is_refused_in_words() -> None:
    plan = Plan.from_lengths([3])
    q = torch.randn(3, 1, 4)
    with torch.autograd.forward_ad.dual_level():
        dual = torch.autograd.forward_ad.make_dual(q, torch.ones_like(q))
        with pytest.raises(RuntimeError, match="no forward-mode.*backend='reference'"):
            attention(dual, q, q, plan)
        out = attention(dual, q, q, plan, backend="reference")
        assert torch.autograd.forward_ad.unpack_dual(out).tangent is not None


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"q": torch.zeros(5, 4)}, r"q: expected \[tokens, num_heads, head_dim\], got shape \(5, 4\)"),
        ({"k": torch.zeros(5, 2, 4).double()}, "k: expected the dtype and device of q"),
        ({"q": torch.zeros(5, 2, 4).int()}, "q: expected float32"),
        ({"q": torch.zeros(5, 4, 2).mT}, "q: expected unit stride in head_dim"),
        ({"k": torch.zeros(5, 1, 4), "v": torch.zeros(5, 1, 4)}, "grouped query heads are not supported"),
        ({"q": torch.zeros(6, 2, 4)}, "plan: made for 5 query and 5 key tokens, got q with 6"),
        ({"bias": torch.zeros(2, 9)}, "bias: this plan has no bias planes"),
        ({"plan": Plan.from_lengths([5], bias="ragged"), "bias": torch.zeros(2, 9)}, "addresses 25 entries"),
        ({"plan": Plan.from_lengths([5], bias="ragged"), "bias": torch.zeros(1, 25)}, "bias: expected"),
        ({"scale": torch.ones(3)}, r"scale: expected a number or torch.float32 \[2\]"),
        ({"scale": float("nan")}, "scale: expected a finite number"),
        ({"dropout_p": 1.0}, r"dropout_p: expected a number in \[0, 1\), got 1.0"),
        ({"dropout_p": 0.1, "dropout_seed": torch.zeros(2)}, "dropout_seed: expected one int64"),
        ({"backend": "gpu"}, "backend: expected None or one of"),
    ],
)
def test_wrong_calls_are_named(change: dict[str, object], message: str) -> None:
    x = torch.zeros(5, 2, 4)
    arguments = {"q": x, "k": x, "v": x, "plan": Plan.from_lengths([2, 3])} | change
    with pytest.raises(ValueError, match=message):
        attention(
            arguments.pop("q"), arguments.pop("k"), arguments.pop("v"), arguments.pop("plan"), **arguments
        )


@pytest.mark.parametrize("backend", ["cpu", "reference"])
@pytest.mark.parametrize("grad_lse", [False, True])
@pytest.mark.parametrize("layout", ["contiguous", "wider rows", "q, k, v apart"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_packed_qkv_is_attention_of_its_views(
    backend: str, grad_lse: bool, layout: str, dtype: torch.dtype
) -> None:
    torch.manual_seed(0)
    plan = Plan.windows((6, 9), (4, 4), (1, 2)).repeat(2)
    base = torch.randn(plan.num_tokens, 3, 2, 40 if layout == "wider rows" else 24, dtype=dtype)
    base = base.transpose(0, 1).contiguous().transpose(0, 1) if layout == "q, k, v apart" else base
    qkv = base.requires_grad_()[..., 8:32] if layout == "wider rows" else base.requires_grad_()
    bias = torch.randn(2, plan.bias_size, requires_grad=True)
    scale = torch.rand(2, requires_grad=True)
    weight = torch.randn(plan.num_tokens, 2, 24)
    results = []
    for run in (
        lambda: attention_qkvpacked(qkv, plan, bias=bias, scale=scale, return_lse=True, backend=backend),
        lambda: attention(*qkv.unbind(1), plan, bias=bias, scale=scale, return_lse=True, backend=backend),
    ):
        out, lse = run()
        value = (out * weight).sum() + (lse.sin().sum() if grad_lse else 0.0)
        results.append((out, lse, *torch.autograd.grad(value, (qkv, bias, scale))))
    for packed, views in zip(*results, strict=True):
        assert torch.equal(packed, views)


def test_packed_qkv_in_inference_and_twice_differentiated() -> None:
    plan = Plan.from_lengths([3, 4])
    qkv = torch.randn(7, 3, 2, 8)
    want = attention(*qkv.unbind(1), plan)
    with torch.inference_mode():
        assert torch.equal(attention_qkvpacked(qkv, plan), want)
    leaf = qkv.clone().requires_grad_()
    (first,) = torch.autograd.grad(attention_qkvpacked(leaf, plan).sum(), leaf, create_graph=True)
    with pytest.raises(RuntimeError, match="no double backward"):
        first.sum().backward()


def test_wrong_packed_calls_are_named() -> None:
    plan = Plan.from_lengths([3])
    with pytest.raises(ValueError, match=r"qkv: expected \[tokens, 3, num_heads, head_dim\]"):
        attention_qkvpacked(torch.zeros(3, 2, 8), plan)
    with pytest.raises(ValueError, match="got a cross plan"):
        attention_qkvpacked(torch.zeros(3, 3, 2, 8), Plan.cross(plan, plan))
    with pytest.raises(ValueError, match="made for 3 query"):
        attention_qkvpacked(torch.zeros(4, 3, 2, 8), plan)
