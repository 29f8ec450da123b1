"""Bias and GELU in one pass against PyTorch's own, and the MLP that uses them."""

import pytest
import torch
import torch.nn.functional as F

from unitrans.nn.block import Mlp
from unitrans.ops import bias_gelu as module
from unitrans.ops.bias_gelu import bias_gelu, linear_gelu


def arguments(rows: int, columns: int, dtype: torch.dtype) -> list[torch.Tensor]:
    torch.manual_seed(0)
    return [
        torch.randn(rows, columns, dtype=dtype).mul_(3).requires_grad_(),
        torch.randn(columns, dtype=dtype).requires_grad_(),
    ]


@pytest.mark.parametrize("shape", [(1, 1), (7, 33), (300, 384)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_against_formula(shape, dtype) -> None:
    x, bias = arguments(*shape, dtype)
    grad = torch.randn(shape, dtype=dtype)
    out = bias_gelu(x, bias)
    ours = torch.autograd.grad(out, (x, bias), grad)
    wide = [t.detach().double().requires_grad_() for t in (x, bias)]
    want = F.gelu(wide[0] + wide[1])
    theirs = torch.autograd.grad(want, wide, grad.double())
    tolerance = 1e-12 if dtype == torch.float64 else 2e-6
    torch.testing.assert_close(out.double(), want, rtol=tolerance, atol=tolerance)
    for mine, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(mine.double(), other, rtol=tolerance, atol=10 * tolerance)
    with torch.no_grad():
        x.copy_(bias_gelu(x, bias, overwrite=True))
    assert torch.equal(x, out)


def test_gradcheck() -> None:
    assert torch.autograd.gradcheck(bias_gelu, arguments(5, 9, torch.float64))


def test_opcheck() -> None:
    x, bias = arguments(4, 5, torch.float64)
    torch.library.opcheck(torch.ops.unitrans.bias_gelu.default, (x, bias))
    torch.library.opcheck(torch.ops.unitrans.bias_gelu_.default, (x.detach(), bias.detach()))
    torch.library.opcheck(
        torch.ops.unitrans.bias_gelu_backward.default, (x.detach(), x.detach(), bias.detach())
    )


def test_strided_and_threads() -> None:
    x, bias = arguments(500, 96, torch.float32)
    view = x[:, ::2]
    expected = bias_gelu(view.contiguous(), bias[::2].contiguous())
    assert torch.equal(bias_gelu(view, bias[::2]), expected)
    results, threads = [], torch.get_num_threads()
    try:
        for count in (1, 2):
            torch.set_num_threads(count)
            results.append(torch.autograd.grad(bias_gelu(x, bias).square().sum(), bias)[0])
    finally:
        torch.set_num_threads(threads)
    assert torch.equal(*results)


def test_errors() -> None:
    x, bias = torch.zeros(2, 3), torch.zeros(3)
    with pytest.raises(ValueError, match="x: expected float32"):
        bias_gelu(x.bfloat16(), bias.bfloat16())
    with pytest.raises(ValueError, match="bias: expected"):
        bias_gelu(x, bias[:2])
    with pytest.raises(ValueError, match="overwrite: expected False"):
        bias_gelu(x.requires_grad_(), bias, overwrite=True)
    with pytest.raises(ValueError, match="contiguous"):
        bias_gelu(torch.zeros(3, 2).t(), bias, overwrite=True)
    double = [x.detach().double().requires_grad_(), bias.double()]
    (grad,) = torch.autograd.grad(bias_gelu(*double).sum(), double[:1], create_graph=True)
    with pytest.raises(RuntimeError, match="double backward"):
        grad.sum().backward()


def test_mlp(monkeypatch) -> None:
    """The same numbers with and without it; gradients, hooks and other dtypes go the plain way."""
    torch.manual_seed(0)
    mlp, x = Mlp(16, 64), torch.randn(40, 16, requires_grad=True)
    plain = mlp(x)
    with torch.no_grad():
        assert linear_gelu(x, mlp.fc1.weight, mlp.fc1.bias) is None  # too small to pay
        monkeypatch.setattr(module, "_MIN_VALUES", 0)
        assert linear_gelu(x, mlp.fc1.weight, mlp.fc1.bias) is not None
    assert linear_gelu(x, mlp.fc1.weight, mlp.fc1.bias) is None  # gradients are wanted
    assert torch.equal(mlp(x), plain)
    with torch.inference_mode():
        torch.testing.assert_close(mlp(x), plain, rtol=1e-5, atol=1e-6)
    for parameter in mlp.parameters():
        parameter.requires_grad_(False)
    torch.testing.assert_close(mlp(x.detach()), plain, rtol=1e-5, atol=1e-6)
    seen = []
    mlp.act.register_forward_hook(lambda *call: seen.append(call))
    with torch.no_grad():
        assert torch.equal(mlp(x), plain) and len(seen) == 1
    with torch.autocast("cpu", torch.bfloat16):
        assert linear_gelu(x, mlp.fc1.weight, mlp.fc1.bias) is None
    assert linear_gelu(x.double(), mlp.fc1.weight.double(), mlp.fc1.bias.double()) is None
