"""Large fp32 products by oneDNN: the numbers, gradients and manners of torch.nn.Linear."""

from collections.abc import Iterator
from pathlib import Path
from unittest import mock

import pytest
import torch
from torch import Tensor, nn

from unitrans.nn import Linear, Mlp, linear, products

pytestmark = pytest.mark.skipif(linear._pointwise is None, reason="this torch was built without oneDNN")

ROWS, WIDTH, OUT = 257, 48, 80


@pytest.fixture(autouse=True)
def every_product_is_large() -> Iterator[None]:
    with mock.patch.object(linear, "SMALLEST", 1), products.follow(products.TABLE["amd"]):
        yield


def twins(bias: bool = True) -> tuple[Linear, nn.Linear]:
    torch.manual_seed(0)
    ours, theirs = Linear(WIDTH, OUT, bias=bias), nn.Linear(WIDTH, OUT, bias=bias)
    theirs.load_state_dict(ours.state_dict())
    return ours, theirs


def calls(layer: Linear | Mlp, x: Tensor) -> int:
    """How many products of oneDNN a call takes."""
    with mock.patch.object(linear, "_pointwise", wraps=linear._pointwise) as counted:
        layer(x)
    return counted.call_count


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("layout", ["rows", "columns", "wider"])
@pytest.mark.parametrize("line", products.TABLE)
def test_results_and_gradients_are_those_of_torch(bias: bool, layout: str, line: str) -> None:
    with products.follow(products.TABLE[line]):
        check_against_torch(bias, layout)


def check_against_torch(bias: bool, layout: str) -> None:
    ours, theirs = twins(bias)
    base = torch.randn(ROWS, WIDTH if layout != "wider" else 2 * WIDTH)
    x = {"rows": base, "columns": base.t().contiguous().t(), "wider": base[:, :WIDTH]}[layout]
    weight = torch.randn(ROWS, OUT)
    assert calls(ours, x) == int(products.in_use().forward(WIDTH))
    with torch.no_grad():
        torch.testing.assert_close(ours(x), theirs(x), atol=1e-5, rtol=1e-5)
    found = []
    for layer in (ours, theirs):
        leaf = x.detach().requires_grad_()
        out = layer(leaf)
        found.append((out, *torch.autograd.grad((out * weight).sum(), (leaf, *layer.parameters()))))
    for mine, want in zip(*found, strict=True):
        torch.testing.assert_close(mine, want, atol=2e-5, rtol=1e-5)


def test_gradients_of_frozen_layers_and_of_sums_and_of_gradients() -> None:
    ours, theirs = twins()
    results = []
    for layer in (ours, theirs):
        layer.requires_grad_(False)
        x = torch.linspace(-1, 1, ROWS * WIDTH).view(ROWS, WIDTH).requires_grad_()
        (first,) = torch.autograd.grad(layer(x).sum(), x, create_graph=True)  # an expanded gradient comes in
        layer.requires_grad_(True)
        (slope,) = torch.autograd.grad(layer(x).sin().sum(), x, create_graph=True)
        results.append((first, torch.autograd.grad(slope.square().sum(), layer.weight)[0]))
    for mine, want in zip(*results, strict=True):
        torch.testing.assert_close(mine, want, atol=1e-4, rtol=1e-5)


@pytest.mark.parametrize("activation", ["gelu", "gelu_tanh", "relu"])
def test_mlps_join_product_and_gelu_where_nothing_learns(activation: str) -> None:
    mlp, x = Mlp(WIDTH, OUT, activation=activation), torch.randn(ROWS, WIDTH)  # type: ignore[arg-type]
    want = mlp(x)
    with torch.no_grad():
        torch.testing.assert_close(mlp(x), want, atol=1e-5, rtol=1e-5)
        seen: list[Tensor] = []
        mlp.fc1.register_forward_hook(lambda module, inputs, output: seen.append(output))
        torch.testing.assert_close(mlp(x), want, atol=1e-5, rtol=1e-5)
        assert seen[0].min() < -0.2, "a hook sees the product itself"


def test_gelu_in_bf16_is_rounded_once() -> None:
    mlp, x = Mlp(WIDTH, OUT).bfloat16(), torch.randn(ROWS, WIDTH, dtype=torch.bfloat16)
    wide = Mlp(WIDTH, OUT).double()
    wide.load_state_dict(mlp.state_dict())
    with torch.no_grad():
        assert calls(mlp.fc1, x) == 0 and calls(mlp, x) == int(linear.serves_bf16())
        want = wide.act(wide.fc1(x.double()))
        rounded = (
            1 if linear.serves_bf16() else 2
        )  # where oneDNN has no bf16: behind the product, and behind the GELU
        torch.testing.assert_close(mlp.hidden(x).double(), want, atol=2e-3 * rounded, rtol=2**-8 * rounded)


def test_who_is_served_by_torch_itself() -> None:
    ours, theirs = twins()
    x = torch.randn(ROWS, WIDTH)
    with torch.no_grad():
        assert calls(ours, x[None]) == 0  # not a stream
        assert calls(ours.double(), x.double()) == 0
        ours.float()
        with torch.backends.mkldnn.flags(enabled=False):  # type: ignore[no-untyped-call]
            assert calls(ours, x) == 0 and torch.equal(ours(x), theirs(x))
        with torch.autocast("cpu", torch.bfloat16):
            assert ours(x).dtype == torch.bfloat16
        with mock.patch.object(linear, "SMALLEST", ROWS * WIDTH * OUT + 1):
            assert calls(ours, x) == 0
    batched = torch.func.vmap(ours)(torch.stack([x, x]))
    torch.testing.assert_close(batched[0], theirs(x), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(
    ("line", "features", "made"),
    [
        ("amd-avx2", 768, (1, 1)),
        ("amd", 768, (1, 2)),  # products of oneDNN in a forward, and in a step
        ("amd-zen5", 768, (1, 3)),
        ("intel", 192, (1, 1)),
        ("intel", 193, (0, 0)),
        ("torch", 8, (0, 0)),
    ],
)
def test_the_table_says_who_multiplies(line: str, features: int, made: tuple[int, int]) -> None:
    layer, x = Linear(features, OUT), torch.randn(ROWS, features, requires_grad=True)
    with products.follow(products.TABLE[line]):
        with torch.no_grad():
            assert calls(layer, x) == made[0]
        with mock.patch.object(linear, "_pointwise", wraps=linear._pointwise) as counted:
            layer(x).sum().backward()
        assert counted.call_count == made[1]


def test_a_processor_has_one_line_and_a_variable_names_another(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(products, "CPUINFO", tmp_path / "cpuinfo")
    about = "vendor_id\t: {}\ncpu family\t: {}\nflags\t\t: fma {}\n\nvendor_id\t: other\n"
    for vendor, number, flags, expected in (
        ("AuthenticAMD", 25, "avx2", "amd-avx2"),
        ("AuthenticAMD", 25, "avx512f", "amd"),
        ("AuthenticAMD", 26, "avx512f", "amd-zen5"),
        ("GenuineIntel", 6, "avx512f", "intel"),
        ("HygonGenuine", 24, "avx2", "torch"),
    ):
        (tmp_path / "cpuinfo").write_text(about.format(vendor, number, flags))
        products.family.cache_clear()
        assert products.family() == expected
    monkeypatch.setenv(products.SWITCH, "intel")
    products.family.cache_clear()
    assert products.family() == "intel"
    monkeypatch.setenv(products.SWITCH, "mkl")
    products.family.cache_clear()
    with pytest.raises(
        ValueError,
        match="UNITRANS_PRODUCTS: expected one of amd-avx2, amd, amd-zen5, intel, torch, got 'mkl'",
    ):
        products.family()
    monkeypatch.undo()
    products.family.cache_clear()


def test_a_run_goes_on_with_its_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(products, "family", lambda: "intel")
    changed = products.Products("intel", 64, grad_input=True, grad_weight=False)
    assert products.recorded(changed.record()) == (changed, None), (
        "the table has changed since, the run does not"
    )
    line, sentence = products.recorded(products.TABLE["amd"].record())
    assert line == products.TABLE["intel"] and sentence is not None and "not bit for bit" in sentence
    before = products.Products("intel", None, grad_input=True, grad_weight=False)
    assert products.recorded(None) == (before, None), "what all runs did that recorded nothing"
