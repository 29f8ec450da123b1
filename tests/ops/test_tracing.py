"""The op under opcheck, torch.compile and torch.export."""

import pytest
import torch
import torch._dynamo.testing
from torch import Tensor

from unitrans import Plan, attention
from unitrans.ops.compiled import plan_arguments


def inputs(plan: Plan, dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor, Tensor]:
    torch.manual_seed(0)
    return tuple(torch.randn(plan.num_tokens, 2, 8, dtype=dtype, requires_grad=True) for _ in range(3))  # type: ignore[return-value]


PLANS = {
    "windows": Plan.windows((5, 6), 4, 2),
    "causal": Plan.from_lengths([4, 3], reach=(-1, 0)),
    "cross": Plan.cross(Plan.from_lengths([2, 3]), Plan.from_lengths([1, 4])),
}


@pytest.mark.parametrize("name", PLANS)
def test_opcheck(name: str) -> None:
    plan = PLANS[name]
    q, k, v = inputs(plan)
    bias = torch.randn(2, plan.bias_size, requires_grad=True) if plan.bias_offset is not None else None
    scale = torch.full((2,), 0.3, requires_grad=True)
    arguments = (q, k, v, *plan_arguments(plan), bias, scale, False, 0.1, torch.tensor([3]), -1)
    torch.library.opcheck(torch.ops.unitrans.attention_forward.default, arguments)
    backward = (torch.ones_like(q), None, *(x.detach() if isinstance(x, Tensor) else x for x in arguments))
    torch.library.opcheck(torch.ops.unitrans.attention_backward.default, (*backward, bias is not None, True))


def test_compiles_whole_and_not_again_for_every_batch() -> None:
    torch._dynamo.reset()
    counter = torch._dynamo.testing.CompileCounterWithBackend("aot_eager")

    @torch.compile(backend=counter, fullgraph=True)
    def f(q: Tensor, k: Tensor, v: Tensor, plan: Plan, bias: Tensor) -> Tensor:
        out = attention(
            q, k, v, plan, bias=bias, dropout_p=0.1, dropout_seed=torch.tensor([1]), backend="cpu"
        )
        assert isinstance(out, Tensor)
        return out

    generator = torch.Generator().manual_seed(0)
    for _ in range(20):
        lengths = torch.randint(
            1, 9, (int(torch.randint(2, 9, (), generator=generator)),), generator=generator
        )
        plan = Plan.from_lengths(lengths, bias="ragged")
        q, k, v = inputs(plan)
        bias = torch.randn(2, plan.bias_size, requires_grad=True)
        out = f(q, k, v, plan, bias)
        want = attention(q, k, v, plan, bias=bias, dropout_p=0.1, dropout_seed=1, backend="reference")
        assert isinstance(want, Tensor)
        torch.testing.assert_close(out, want)
        got_grads = torch.autograd.grad(out.square().sum(), (q, bias))
        torch.testing.assert_close(got_grads, torch.autograd.grad(want.square().sum(), (q, bias)))
    assert counter.frame_count <= 3, f"{counter.frame_count} compilations"


def test_inductor_gives_the_same_numbers() -> None:
    torch._dynamo.reset()
    plan = PLANS["windows"]
    q, k, v = inputs(plan)
    f = torch.compile(lambda q, k, v, plan: attention(q * 2, k, v, plan) + 1, fullgraph=True)
    torch.testing.assert_close(f(q, k, v, plan), attention(q * 2, k, v, plan) + 1)


class Layer(torch.nn.Module):
    def __init__(self, backend: str | None) -> None:
        super().__init__()
        self.backend = backend

    def forward(self, q: Tensor, k: Tensor, v: Tensor, plan: Plan) -> Tensor:
        out = attention(q, k, v, plan, backend=self.backend)
        assert isinstance(out, Tensor)
        return out


@pytest.mark.parametrize("backend", [None, "reference"])
def test_export(backend: str | None) -> None:
    plan = PLANS["windows"]
    q, k, v = inputs(plan)
    program = torch.export.export(Layer(backend), (q, k, v, plan))
    torch.testing.assert_close(program.module()(q, k, v, plan), attention(q, k, v, plan, backend="reference"))
    calls_ours = any("unitrans" in str(node.target) for node in program.graph.nodes)
    assert calls_ours == (backend is None)
