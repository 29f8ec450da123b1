"""Plans and pairs that enter by other doors than their constructors: files, pickles, copies, programs, direct calls."""

import copy
import io
import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from unitrans import Plan, attention
from unitrans.ops.compiled import plan_arguments
from unitrans.ops.graphs import GraphPairs
from unitrans.ops.pair_bias import pair_bias

ROOT = Path(__file__).parents[2]

BACKENDS = ("cpu", "torch", "reference")


def listed(token_index: Tensor) -> Plan:
    cu = torch.tensor([0, 32, 64], dtype=torch.int32)
    return Plan(cu, num_tokens=64, max_group_size=32, token_index=token_index)


def sound() -> Plan:
    return listed(torch.arange(64, dtype=torch.int32))


def changed(plan: Plan, **fields: Any) -> Plan:
    """A plan as only code that goes around the constructor can make it."""
    bad = object.__new__(Plan)
    for name, value in {**vars(plan), **fields}.items():
        object.__setattr__(bad, name, value)
    return bad


WRONG_LISTS = {
    "row behind the stream": {"token_index": torch.full((64,), 10**7, dtype=torch.int32)},
    "row before the stream": {"token_index": torch.arange(-1, 63, dtype=torch.int32)},
    "row listed twice": {"token_index": torch.arange(64, dtype=torch.int32).clamp(max=62)},
    "int64 rows": {"token_index": torch.arange(64)},
    "sizes that fall": {"cu_seqlens": torch.tensor([0, 65, 64], dtype=torch.int32)},
    "sizes that end late": {"cu_seqlens": torch.tensor([0, 32, 640], dtype=torch.int32)},
    "sizes that start late": {"cu_seqlens": torch.tensor([1, 32, 64], dtype=torch.int32)},
    "places that do not rise": {"position": torch.zeros(64, dtype=torch.int32)},
    "a reach below -1": {"reach": torch.tensor([[-5, 0], [0, 0]], dtype=torch.int32)},
    "a plane behind the bias": {
        "bias_offset": torch.tensor([0, 2**40]),
        "bias_row_stride": torch.tensor([32, 32], dtype=torch.int32),
        "bias_size": 1024,
    },
}


def names_of(name: str) -> str:
    """A pattern of the lists that a message may name."""
    return "|".join(WRONG_LISTS[name])


def call(plan: Plan, backend: str) -> Any:
    q = torch.randn(64, 2, 16)
    bias = torch.randn(2, 2048) if plan.bias_offset is not None else None
    return attention(q, q, q, plan, bias=bias, backend=backend)


@pytest.mark.parametrize("name", WRONG_LISTS)
def test_files_pickles_and_copies_are_checked_as_new_plans(name: str) -> None:
    bad = changed(sound(), **WRONG_LISTS[name])
    file = io.BytesIO()
    torch.save(bad, file)
    file.seek(0)
    with pytest.raises(ValueError, match=names_of(name)):
        torch.load(file, weights_only=True)
    for again in (lambda x: pickle.loads(pickle.dumps(x)), copy.copy, copy.deepcopy):
        with pytest.raises(ValueError, match=names_of(name)):
            again(bad)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("name", WRONG_LISTS)
def test_every_backend_refuses_lists_that_changed(name: str, backend: str) -> None:
    bad = changed(sound(), **WRONG_LISTS[name])
    with pytest.raises((ValueError, RuntimeError), match=names_of(name)):
        call(bad, backend)


@pytest.mark.parametrize("backend", BACKENDS)
def test_writing_into_a_list_is_noticed_at_the_next_call(backend: str) -> None:
    plan = sound()
    before = call(plan, backend)
    assert isinstance(before, Tensor)
    assert plan.token_index is not None
    plan.token_index[3] = 64
    with pytest.raises((ValueError, RuntimeError), match=r"token_index must be in \[0, 64\), got 64"):
        call(plan, backend)
    with pytest.raises(ValueError, match="token_index"):
        plan.check()


@pytest.mark.parametrize("backend", BACKENDS)
def test_other_sound_lists_give_their_own_result(backend: str) -> None:
    """No backend may answer from what it remembers of the lists that a plan had before."""
    plan, q = sound(), torch.randn(64, 1, 8)
    attention(q, q, q, plan, backend=backend)
    assert plan.token_index is not None
    plan.token_index.copy_(torch.arange(64).flip(0)[torch.randperm(64)])
    want = attention(q, q, q, copy.copy(plan), backend="reference")
    torch.testing.assert_close(attention(q, q, q, plan, backend=backend), want, rtol=1e-4, atol=1e-5)


def test_a_sound_plan_comes_back_whole() -> None:
    plan = Plan.windows((5, 6), 4, 2)
    file = io.BytesIO()
    torch.save(plan, file)
    file.seek(0)
    for again in (torch.load(file, weights_only=True), pickle.loads(pickle.dumps(plan)), copy.deepcopy(plan)):
        for name, value in plan._tensors():
            assert torch.equal(value, getattr(again, name))
        assert repr(again) == repr(plan)


def test_a_pickle_with_other_fields_is_refused() -> None:
    with pytest.raises(ValueError, match="fields of a plan only, got surprise"):
        object.__new__(Plan).__setstate__({**vars(sound()), "surprise": 1})


def test_an_exported_program_refuses_another_plan() -> None:
    class Module(torch.nn.Module):
        def forward(self, q: Tensor, plan: Plan) -> Any:
            return attention(q, q, q, plan, backend="cpu")

    program = torch.export.export(Module(), (torch.randn(64, 2, 16), sound())).module()
    program(torch.randn(64, 2, 16), sound())
    bad = changed(sound(), token_index=torch.full((64,), 1000, dtype=torch.int32))
    with pytest.raises(RuntimeError, match=r"token_index must be in \[0, 64\)"):
        program(torch.randn(64, 2, 16), bad)


def direct(**changes: Any) -> Any:
    """A direct call of the operator with some arguments replaced, forward and backward."""
    plan = Plan.windows((4, 4), 2)
    q = torch.randn(16, 2, 8)
    names = ("q", "k", "v", *PLAN_NAMES, "bias", "scale", "qk_norm", "dropout_p", "dropout_seed", "isa")
    values = (
        q,
        q,
        q,
        *plan_arguments(plan),
        torch.randn(2, 16),
        torch.ones(2),
        False,
        0.1,
        torch.tensor([1]),
        -1,
    )
    arguments = dict(zip(names, values, strict=True))
    gradients = {"grad_out": torch.randn(16, 2, 8), "grad_lse": torch.randn(16, 2)}
    assert changes.keys() <= {*arguments, *gradients}
    arguments |= {name: x for name, x in changes.items() if name in arguments}
    gradients |= {name: x for name, x in changes.items() if name in gradients}
    with torch.no_grad():
        out = torch.ops.unitrans.attention_forward(*arguments.values())
        torch.ops.unitrans.attention_backward(*gradients.values(), *arguments.values(), True, True)
    return out


PLAN_NAMES = (
    "cu_seqlens",
    "token_index",
    "position",
    "key_cu_seqlens",
    "key_token_index",
    "key_position",
    "bias_offset",
    "bias_row_stride",
    "reach",
    "max_group_size",
    "max_key_group_size",
)
INT = torch.int32
WRONG_ARGUMENTS: dict[str, dict[str, Any]] = {
    "q of another rank": {"q": torch.randn(16, 16)},
    "q of integers": {"q": torch.ones(16, 2, 8, dtype=INT), "k": torch.ones(16, 2, 8, dtype=INT)},
    "k with fewer rows": {"k": torch.randn(15, 2, 8), "v": torch.randn(15, 2, 8)},
    "k with other heads": {"k": torch.randn(16, 1, 8)},
    "v with another head_dim": {"v": torch.randn(16, 2, 4)},
    "v of another dtype": {"v": torch.randn(16, 2, 8).double()},
    "no sizes": {"cu_seqlens": torch.zeros(0, dtype=INT)},
    "sizes of another dtype": {"cu_seqlens": torch.tensor([0, 4, 8, 12, 16])},
    "rows of another length": {"token_index": torch.arange(15, dtype=INT)},
    "rows of another dtype": {"token_index": torch.arange(16)},
    "rows with gaps": {"token_index": torch.arange(32, dtype=INT)[::2]},
    "places of another length": {"position": torch.arange(4, dtype=INT)},
    "key rows without sizes": {"key_token_index": torch.arange(16, dtype=INT)},
    "key sizes of another number": {"key_cu_seqlens": torch.tensor([0, 16], dtype=INT)},
    "offsets of another dtype": {"bias_offset": torch.zeros(4, dtype=INT)},
    "offsets without strides": {"bias_row_stride": None},
    "fewer strides": {"bias_row_stride": torch.full((3,), 4, dtype=INT)},
    "reach of one axis": {"reach": torch.full((4,), -1, dtype=INT)},
    "a short bias": {"bias": torch.randn(2, 15)},
    "bias of other heads": {"bias": torch.randn(1, 16)},
    "bias in bf16": {"bias": torch.randn(2, 16).bfloat16()},
    "a bias without planes": {"bias_offset": None, "bias_row_stride": None},
    "scale of another length": {"scale": torch.ones(1)},
    "scale in fp64": {"scale": torch.ones(2).double()},
    "dropout of everything": {"dropout_p": 1.0},
    "dropout that is no number": {"dropout_p": float("nan")},
    "dropout without a seed": {"dropout_seed": None},
    "a seed of another dtype": {"dropout_seed": torch.ones(1)},
    "no seed at all": {"dropout_seed": torch.zeros(0, dtype=torch.int64)},
    "an unknown instruction set": {"isa": 77},
    "a list without numbers": {"cu_seqlens": torch.zeros(5, dtype=INT, device="meta")},
    "k without numbers": {"k": torch.zeros(16, 2, 8, device="meta")},
    "q without axes": {"q": torch.tensor(1.0)},
    "q of complex numbers": {name: torch.zeros(16, 2, 8, dtype=torch.complex64) for name in "qkv"},
    "grad_out of another shape": {"grad_out": torch.randn(15, 2, 8)},
    "grad_out of another dtype": {"grad_out": torch.randn(16, 2, 8).half()},
    "grad_lse of another shape": {"grad_lse": torch.randn(2, 16)},
    "grad_lse of another dtype": {"grad_lse": torch.randn(16, 2).double()},
}


def test_direct_calls() -> None:
    direct()


@pytest.mark.parametrize("name", WRONG_ARGUMENTS)
def test_direct_calls_refuse_in_words(name: str) -> None:
    with pytest.raises(RuntimeError, match="unitrans: "):
        direct(**WRONG_ARGUMENTS[name])


def test_gradients_are_written_into_fitting_tensors_only() -> None:
    plan, q = Plan.from_lengths([4]), torch.randn(4, 2, 8)
    rest = (q, q, q, *plan_arguments(plan), None, torch.ones(2), False, 0.0, None, -1)

    def into(*gradients: Tensor | None) -> None:
        torch.ops.unitrans.attention_backward_into(q, None, *rest, *gradients, False, False)

    into(*(torch.empty_like(q) for _ in range(3)))
    for wrong in (torch.empty(3, 2, 8), torch.empty(4, 2, 8).double(), torch.empty(4, 8, 2).mT, None):
        with pytest.raises((RuntimeError, TypeError)):
            into(torch.empty_like(q), wrong, torch.empty_like(q))


@pytest.mark.parametrize("rows", [1, 2, 5, 20, 512])
def test_distances_without_a_row_take_the_last_one(rows: int) -> None:
    """On every backend, forward and backward; node 2 is not reachable (distance 510)."""
    pairs = GraphPairs.from_edges([3], [2], [[0, 1], [1, 0]], [[1], [1]], hops=2)
    torch.manual_seed(0)
    tables = [torch.randn(rows, 4), torch.randn(2, len(pairs.edges) + 1, 4), torch.randn(4)]
    for table in tables:
        table.requires_grad_()
    planes = [pair_bias(*tables, pairs, backend=backend) for backend in ("cpu", "reference")]
    torch.testing.assert_close(*planes)
    weight = torch.randn_like(planes[0])
    grads = [torch.autograd.grad((x * weight).sum(), tables) for x in planes]
    torch.testing.assert_close(*grads)
    last = planes[0].view(4, 4, 4)[:, 1, 3] - tables[1][:, 0].sum(0)  # hops of a pair without a path are 0
    torch.testing.assert_close(last, tables[0][-1] if rows < 512 else tables[0][511])


WRONG_PAIRS: dict[str, dict[str, Any]] = {
    "a distance below 0": {"distance": torch.full((4,), -3, dtype=torch.int16)},
    "a code without an edge": {"hops": torch.full((4, 1), 9, dtype=torch.int32)},
    "a code below 0": {"hops": torch.full((4, 1), -1, dtype=torch.int32)},
    "graphs that fall": {"cu_nodes": torch.tensor([0, 3, 2], dtype=torch.int32)},
    "graphs of other nodes": {"cu_nodes": torch.tensor([0, 3], dtype=torch.int32)},
    "int64 distances": {"distance": torch.zeros(4, dtype=torch.int64)},
    "fewer pairs": {
        "distance": torch.zeros(3, dtype=torch.int16),
        "hops": torch.zeros(3, 1, dtype=torch.int32),
    },
    "degrees below 0": {"degree": torch.tensor([-1, 1])},
}


def pair_fields() -> dict[str, Tensor]:
    pairs = GraphPairs.from_edges([2], [2], [[0, 1], [1, 0]], [[1], [1]], hops=1)
    return {name: getattr(pairs, name) for name in ("cu_nodes", "degree", "distance", "hops", "edges")}


@pytest.mark.parametrize("name", WRONG_PAIRS)
def test_pairs_are_checked_when_made_and_again_by_the_op(name: str) -> None:
    fields = {**pair_fields(), **WRONG_PAIRS[name]}
    with pytest.raises(ValueError, match=next(iter(WRONG_PAIRS[name]))):
        GraphPairs(**fields)
    if name == "degrees below 0":
        return  # the op does not read them
    tables = (torch.randn(9, 2), torch.randn(1, len(fields["edges"]) + 1, 2), torch.randn(2))
    lists = (fields["cu_nodes"], fields["distance"], fields["hops"], len(fields["degree"]))
    with pytest.raises(RuntimeError, match="unitrans: "):
        torch.ops.unitrans.pair_bias_forward(*tables, *lists, 1, 100)


def test_pairs_are_a_pytree() -> None:
    pairs = GraphPairs(**pair_fields())
    again = pytree.tree_map(lambda x: x.clone(), pairs)
    assert isinstance(again, GraphPairs) and torch.equal(again.distance, pairs.distance)


def test_damaged_calls_between_guard_pages() -> None:
    """The quick form of the campaign: no read or write outside the tensors, no answer but the right one."""
    command = [sys.executable, "-m", "benchmarks.reliability.calls", "0", "1000"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, f"exit {done.returncode}\n{done.stdout}\n{done.stderr[-2000:]}"
    for kind in (
        "attention_call right",
        "attention_call refused",
        "pair_bias_call right",
        "pair_bias_call refused",
    ):
        assert kind in done.stdout
