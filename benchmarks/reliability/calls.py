"""Random calls of the compiled operators with damaged lists, between guard pages.

`python -m benchmarks.reliability.calls SEED COUNT` tries them in one process; the kinds below start such processes.

Every call must be refused in words or give what the reference gives for the same lists; anything else (a crash of this
process included) is a fault. Prints how many of each there were.
"""

import copy
import json
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.reliability.guarded import guarded, release
from benchmarks.reliability.shared import FAULT, REFUSED, RIGHT, ROOT, Tally
from unitrans import Plan
from unitrans.ops.compiled import plan_arguments
from unitrans.ops.graphs import GraphPairs
from unitrans.ops.pair_bias import pair_bias_reference
from unitrans.ops.reference import attention_reference

WILD = [-(2**31), -(10**6), -2, -1, 0, 1, 2, 5, 17, 64, 10**6, 2**31 - 1]


def random_plan(rng: np.random.Generator) -> Plan:
    kind = rng.integers(6)
    reach = [None, (-1, 0), (1, 2)][rng.integers(3)]
    lengths = rng.integers(0, 20, rng.integers(1, 6))
    if kind == 0:
        return Plan.from_lengths(lengths, reach=reach, bias=[None, "ragged", 24][rng.integers(3)])
    if kind == 1:
        return Plan.from_segment_ids(rng.integers(-1, 3, rng.integers(1, 40)), reach=reach, bias="ragged")
    if kind == 2:
        return Plan.windows((5, 7), (3, 4), (1, 2)).repeat(2)
    if kind == 3:
        return Plan.visible_windows(rng.random((2, 5, 6)) < 0.5, 4, 1)
    queries = Plan.from_lengths(lengths)
    keys = Plan.from_lengths(rng.integers(0, 12, len(lengths)))
    return Plan.cross(queries, keys, bias=[None, "ragged"][rng.integers(2)], reach=reach)


def damage(rng: np.random.Generator, plan: Plan) -> Plan:
    """One or two lists with some entries replaced, or another length or dtype."""
    damaged = copy.copy(plan)
    names = [name for name, _ in plan._tensors()]
    for name in rng.choice(names, rng.integers(1, 3)):
        value = getattr(damaged, name).clone()
        how = rng.integers(8)
        if how < 5 and value.numel():
            flat = value.view(-1)
            for _ in range(rng.integers(1, 4)):
                near = int(flat[rng.integers(len(flat))]) + int(rng.integers(-2, 3))
                flat[rng.integers(len(flat))] = int(np.clip(rng.choice([near, *WILD]), -(2**31), 2**31 - 1))
        elif how == 5:
            value = value[: max(len(value) - 1, 0)]
        elif how == 6:
            value = torch.cat([value, value[-1:]])
        else:
            value = value.long() if value.dtype == torch.int32 else value.int()
        object.__setattr__(damaged, name, value)
    object.__setattr__(damaged, "max_group_size", 64)  # what the reference pads to: above every size
    if damaged.max_key_group_size is not None:
        object.__setattr__(damaged, "max_key_group_size", 64)
    return damaged


def attention_call(rng: np.random.Generator) -> str:
    plan = random_plan(rng)
    bad = damage(rng, plan) if rng.random() < 0.9 else plan
    at_end = bool(rng.integers(2))
    heads, dim = int(rng.integers(1, 4)), int(rng.choice([1, 4, 8, 17, 32]))
    num_keys = plan.num_tokens if plan.num_keys is None else plan.num_keys
    q, k, v = (torch.randn(n, heads, dim) for n in (plan.num_tokens, num_keys, num_keys))
    bias = torch.randn(heads, plan.bias_size) if plan.bias_offset is not None and rng.random() < 0.7 else None
    scale = torch.rand(heads)
    lists = [guarded(x, at_end=at_end) if isinstance(x, torch.Tensor) else x for x in plan_arguments(bad)]
    dtype = [torch.float32, torch.float64, torch.bfloat16, torch.float16][rng.integers(4)]
    accumulate = torch.float64 if dtype == torch.float64 else torch.float32
    q, k, v = (x.to(dtype) for x in (q, k, v))
    bias, scale = None if bias is None else bias.to(accumulate), scale.to(accumulate)
    given = [guarded(x, at_end=at_end) for x in (q, k, v)]
    table = None if bias is None else guarded(bias, at_end=at_end)
    options = (bool(rng.integers(2)), 0.0, None, int(rng.integers(-1, torch.ops.unitrans.cpu_isa() + 1)))
    rest = (*lists, table, guarded(scale, at_end=at_end), *options)
    grad = guarded(torch.randn(q.shape).to(dtype), at_end=at_end)
    needs = (bias is not None, True)
    try:
        if plan.key_cu_seqlens is None and rng.random() < 0.5:
            packed = guarded(torch.stack([q, k, v], 1), at_end=at_end)
            d = guarded(torch.empty_like(packed), at_end=at_end)
            streams, gradients = (packed, None, None), (d, None, None)
        else:
            streams = tuple(given)
            gradients = tuple(guarded(torch.empty_like(x), at_end=at_end) for x in given)
        out, lse = torch.ops.unitrans.attention_forward_eager(*streams, *rest, True)
        torch.ops.unitrans.attention_backward_into(grad, None, *streams, *rest, *gradients, *needs)
        torch.ops.unitrans.attention_backward(grad, None, *given, *rest, *needs)
    except RuntimeError as error:
        if "unitrans: " not in str(error):
            raise
        if bad is plan:
            raise AssertionError(f"a sound plan was refused: {error}") from error
        return "refused"
    assert all(x is None or bool(torch.isfinite(x).all()) for x in gradients)
    want, want_lse = attention_reference(q, k, v, bad, bias, scale, *options[:3])
    bound = 1e-4 if dtype.itemsize > 2 else 3e-2
    torch.testing.assert_close(out, want, rtol=bound, atol=bound)
    torch.testing.assert_close(lse, want_lse, rtol=bound, atol=bound)
    return "right"


def pair_bias_call(rng: np.random.Generator) -> str:
    sizes = rng.integers(0, 7, rng.integers(1, 4))
    edges = np.concatenate([rng.integers(0, max(n, 1), (n, 2)) for n in sizes]).T.reshape(2, -1)
    hops, heads = int(rng.integers(1, 4)), int(rng.integers(1, 4))
    pairs = GraphPairs.from_edges(sizes, sizes, edges, rng.integers(0, 3, (edges.shape[1], 1)), hops=hops)
    lists = [pairs.cu_nodes, pairs.distance, pairs.hops]
    was_damaged = rng.random() < 0.8
    if was_damaged:
        which = rng.integers(3)
        value = lists[which].clone()
        flat = value.view(-1)
        if len(flat):
            low, high = (-(2**15), 2**15 - 1) if which == 1 else (-(2**31), 2**31 - 1)
            flat[rng.integers(len(flat))] = int(np.clip(rng.choice([-3, -1, 1, 4, 300, *WILD]), low, high))
        lists[which] = value
    rows = int(rng.choice([1, 2, 5, 20, 512]))
    tables = [torch.randn(rows, heads), torch.randn(hops, len(pairs.edges) + 1, heads), torch.randn(heads)]
    at_end = bool(rng.integers(2))
    given = [guarded(x, at_end=at_end) for x in (*tables, *lists)]
    numbers = (pairs.num_nodes, int(rng.integers(1, 4)), int(rng.choice([2, 600, 2**15])))
    try:
        planes = torch.ops.unitrans.pair_bias_forward(*given, *numbers)
        torch.ops.unitrans.pair_bias_backward(torch.randn_like(planes), *given, *numbers)
    except RuntimeError as error:
        if "unitrans: " not in str(error) or not was_damaged:
            raise
        return "refused"
    torch.testing.assert_close(planes, pair_bias_reference(*tables, *lists, *numbers[1:]))
    return "right"


def main(seed: int, count: int) -> None:
    counts: Counter[str] = Counter()
    for number in range(seed, seed + count):
        rng = np.random.default_rng(number)
        torch.manual_seed(number)
        call: Any = pair_bias_call if number % 4 == 0 else attention_call
        print(
            number, end=" ", file=sys.stderr, flush=True
        )  # the last one names the call that ended the process
        counts[f"{call.__name__} {call(rng)}"] += 1
        release()
    print(json.dumps(counts))


class Calls:
    """Calls between guard pages, in processes of their own."""

    name = "calls"
    share = 0.06
    goal = 50_000
    what = (
        "calls of the compiled operators with damaged lists, on tensors that end or begin at a page which nobody may "
        "touch; right: the reference's values, or words"
    )
    environment: dict[str, str] = {}

    def __init__(self, seed: int, work: Path, each: int = 2000) -> None:
        self.seed, self.each = seed, each

    def trial(self, number: int, tally: Tally) -> None:
        """So many calls in one process."""
        first = self.seed * 10**8 + number * self.each
        arguments = [sys.executable, "-m", __name__, str(first), str(self.each)]
        environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)} | self.environment
        done = subprocess.run(arguments, env=environment, cwd=ROOT, capture_output=True, text=True)
        if done.returncode:
            tally.add(FAULT, f"{self.name}, exit {done.returncode}: {done.stderr[-500:]}")
            return
        for key, count in json.loads(done.stdout).items():
            tally.add(REFUSED if key.endswith(REFUSED) else RIGHT, times=count)


class SanitizedCalls(Calls):
    """The same with the extension under AddressSanitizer and UndefinedBehaviorSanitizer, where it was built so: in
    build/asan, or where UNITRANS_ASAN_BUILD says."""

    name = "calls under ASan"
    share = 0.04
    goal = 5_000
    what = "the same with the extension under AddressSanitizer and UndefinedBehaviorSanitizer"

    def __init__(self, seed: int, work: Path, each: int = 200) -> None:
        super().__init__(seed, work, each)
        build = sanitized_build()
        assert build is not None
        package = work / "unitrans"
        package.mkdir(exist_ok=True)
        for path in [*(ROOT / "unitrans").iterdir(), *build.glob("*.so")]:
            link = package / path.name
            if path.suffix != ".so" or path.parent == build:
                link.unlink(missing_ok=True)
                link.symlink_to(path)
        (work / "benchmarks").unlink(missing_ok=True)
        (work / "benchmarks").symlink_to(ROOT / "benchmarks")
        libraries = [
            subprocess.check_output(["g++", f"-print-file-name={name}"], text=True).strip()
            for name in ("libasan.so", "libubsan.so", "libstdc++.so")
        ]
        self.environment = {
            "LD_PRELOAD": " ".join(libraries),
            "ASAN_OPTIONS": "detect_leaks=0:handle_segv=1:allocator_may_return_null=1",
            "PYTHONPATH": str(work),
            "PYTHONSAFEPATH": "1",
        }


def sanitized_build() -> Path | None:
    """The folder with the extension under sanitizers; None where nobody has built it."""
    build = Path(os.environ.get("UNITRANS_ASAN_BUILD", ROOT / "build" / "asan")) / "cpp" / "bindings"
    return build if (build / "libunitrans_ops.so").exists() else None


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]))
