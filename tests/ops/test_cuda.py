"""The CUDA kernels on a GPU: the case list of the other backends, on the device. (The host runs them in cuda/tests.)"""

import pytest
import torch
from cases import Call, calls
from hypothesis import given, settings
from test_attention import close, simple_call
from test_pair_bias import random_pairs, tables
from torch import Tensor

from unitrans import Plan, attention, attention_qkvpacked
from unitrans.ops.backends import choose_backend, describe_backends, explain_backends
from unitrans.ops.libraries import CUDA_LOAD_ERROR
from unitrans.ops.pair_bias import pair_bias

needs_gpu = pytest.mark.skipif(CUDA_LOAD_ERROR is not None, reason=str(CUDA_LOAD_ERROR))


@pytest.mark.cuda
@needs_gpu
@settings(max_examples=150, deadline=None)
@given(call=calls())
def test_fp32_equals_the_fp64_formula(call: Call) -> None:
    want, plain = call.run("reference", torch.float64), call.run("reference", torch.float32)
    close(call.run("cuda", torch.float32, device="cuda"), want, rtol=2e-5, plain=plain)


@pytest.mark.cuda
@needs_gpu
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@settings(max_examples=80, deadline=None)
@given(call=calls())
def test_16_bit_types_are_within_their_rounding(call: Call, dtype: torch.dtype) -> None:
    want = call.run("reference", torch.float32, grad_lse=False)
    got = call.run("cuda", dtype, grad_lse=False, device="cuda")
    for name, w in want.items():
        finite = torch.isfinite(w)
        assert torch.equal(torch.isfinite(got[name]), finite), name
        if finite.any():
            error = (got[name].float() - w)[finite].abs().max().item()
            largest = max(1.0, w[finite].abs().max().item())
            assert error <= 4 * torch.finfo(dtype).eps * largest, f"{name}: {error:.2e}"


@pytest.mark.cuda
@needs_gpu
@settings(max_examples=60, deadline=None)
@given(call=calls(dropout=False))
def test_torch_backend_on_the_gpu(call: Call) -> None:
    want = call.run("reference", torch.float32, lse=False)
    close(call.run("torch", torch.float32, lse=False, device="cuda"), want, rtol=1e-3)


@pytest.mark.cuda
@needs_gpu
@pytest.mark.parametrize("size", [49, 64, 65, 256, 513, 4096])
@pytest.mark.parametrize("head_dim", [32, 64, 128])
def test_long_groups(size: int, head_dim: int) -> None:
    call = simple_call(Plan.from_lengths([size, 3], reach=(-1, 0)), num_heads=2, head_dim=head_dim)
    want = call.run("reference", torch.float32)
    close(call.run("cuda", torch.float32, device="cuda"), want, rtol=1e-4)


@pytest.mark.cuda
@needs_gpu
def test_strided_views_and_bit_equal_runs() -> None:
    plan = Plan.cat(
        [Plan.windows((21, 21), 7, 3).repeat(5), Plan.from_lengths([200, 1, 0, 37], bias="ragged")],
        planes="concatenated",
    )
    call = simple_call(plan, 3, 24, bias=torch.randn(3, plan.bias_size, dtype=torch.float64))
    for dtype in (torch.float32, torch.bfloat16):
        one = call.run("cuda", dtype, device="cuda")
        for other in (
            call.run("cuda", dtype, device="cuda"),
            call.run("cuda", dtype, device="cuda", strided=True),
        ):
            for name, tensor in one.items():
                assert torch.equal(tensor, other[name]), name


@pytest.mark.cuda
@needs_gpu
def test_streams_and_cuda_graphs() -> None:
    plan = Plan.windows((14, 14), 7, 3).repeat(4).to("cuda")
    qkv = torch.randn(plan.num_tokens, 3, 2, 32, device="cuda", dtype=torch.bfloat16, requires_grad=True)
    bias = torch.randn(2, plan.bias_size, device="cuda", requires_grad=True)

    def step() -> tuple[Tensor, ...]:
        out = attention_qkvpacked(qkv, plan, bias=bias)
        return (out, *torch.autograd.grad(out.float().square().sum(), (qkv, bias)))  # type: ignore[union-attr]

    want = step()
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        step()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        got = step()
    for x in got:
        x.zero_()
    graph.replay()
    torch.cuda.synchronize()
    for x, y in zip(got, want, strict=True):
        assert torch.equal(x, y)


@pytest.mark.cuda
@needs_gpu
def test_compiles_whole() -> None:
    torch._dynamo.reset()
    plan = Plan.windows((6, 6), 4, 2).to("cuda")
    q = torch.randn(plan.num_tokens, 2, 8, device="cuda", requires_grad=True)
    f = torch.compile(lambda q, plan: attention(q * 2, q, q, plan), fullgraph=True)
    want = attention(q * 2, q, q, plan)
    torch.testing.assert_close(f(q, plan), want)
    torch.testing.assert_close(torch.autograd.grad(f(q, plan).sum(), q), torch.autograd.grad(want.sum(), q))


@pytest.mark.cuda
@needs_gpu
def test_pair_bias() -> None:
    pairs = random_pairs()
    values = [x.detach() for x in tables(pairs, 8)]
    results = []
    for backend, device in (("reference", "cpu"), ("cuda", "cuda")):
        leaves = [x.to(device).requires_grad_() for x in values]
        planes = pair_bias(
            *leaves, pairs.to(torch.device(device)), max_divisor=3, max_distance=4, backend=backend
        )
        weight = torch.arange(planes.numel(), device=device, dtype=planes.dtype).view_as(planes).sin()
        grads = torch.autograd.grad((planes.masked_fill(planes.isinf(), 0) * weight).sum(), leaves)
        results.append([x.detach().cpu() for x in (planes, *grads)])
    for x, y in zip(*results, strict=True):
        torch.testing.assert_close(x, y, rtol=1e-12, atol=1e-12)


def test_the_table_says_which_backend_serves_a_gpu_and_why() -> None:
    reasons = dict(explain_backends("cuda"))
    chosen = choose_backend(None, torch.device("cuda")).name
    assert reasons["cuda"] == CUDA_LOAD_ERROR
    assert chosen == ("cuda" if CUDA_LOAD_ERROR is None else "torch")
    assert "computes on the CPU" in str(reasons["cpu"])
    assert describe_backends("cuda")["torch"].startswith("serves: scaled_dot_product_attention")
    with pytest.raises(ValueError, match="computes on NVIDIA GPUs, the tensors are on cpu"):
        attention(*(torch.zeros(2, 1, 4),) * 3, Plan.from_lengths([2]), backend="cuda")
    with pytest.raises(ValueError, match="backend='cuda' cannot serve.*are on cpu"):
        pair_bias(*tables(random_pairs(), 2), random_pairs(), backend="cuda")
