"""The self-check of the CUDA kernels and its verdict, with stand-ins for kernels and CPU tensors for a GPU."""

import fcntl
import json
import random
import threading
import time
import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from test_pair_bias import random_pairs, tables
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from unitrans import Plan
from unitrans.ops import backends, pair_bias, self_check, verdict
from unitrans.ops.backends import choose_backend, describe_backends
from unitrans.ops.self_check import TORCH, Kernels, check, compiled_kernels, largest_error
from unitrans.ops.verdict import Subject, Verdict, describe_verdict, find_verdict, run_check

GPU = torch.device("cuda", 0)
IDENTITY = {"gpu": "Stand-in (sm_90)", "driver": "1", "torch": "2", "build": "3"}


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[[str], None]:
    """Two GPUs of one model, as far as the choice of a backend sees them; gives a way to set their kernels."""
    monkeypatch.setenv("UNITRANS_CACHE", str(tmp_path))
    monkeypatch.delenv(verdict.SWITCH, raising=False)
    monkeypatch.setattr(verdict, "_ENABLED", True)
    for module in (verdict, backends):
        monkeypatch.setattr(module, "CUDA_LOAD_ERROR", None)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: False)

    def set_kernels(name: str) -> None:
        monkeypatch.setattr(verdict, "_VERDICTS", {})
        monkeypatch.setattr(verdict, "_KNOWN", {})
        monkeypatch.setattr(
            verdict, "subject_of", lambda number: Subject(IDENTITY, ("cpu", f"stand_ins:{name}"))
        )

    set_kernels("right")
    return set_kernels


@pytest.fixture
def runs(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """No child: a run of the check is noted and says "passed"."""
    noted: list[str] = []

    def run(arguments: tuple[str, ...]) -> Verdict:
        noted.append(arguments[-1])
        return Verdict("passed", "no case")

    monkeypatch.setattr(verdict, "run_check", run)
    return noted


def random_states() -> list[object]:
    numpy_state = np.random.get_state()
    return [random.getstate(), torch.get_rng_state().tolist(), numpy_state[1].tolist(), numpy_state[2]]


# -- in a child process


def test_right_kernels_pass_once_and_are_the_default(
    gpu: Callable[[str], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    before = random_states()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert describe_verdict(0).startswith("not run yet")
        assert choose_backend(None, GPU).name == "cuda"
        assert random_states() == before
        assert describe_verdict(0).startswith("passed: ") and "% of what is allowed" in describe_verdict(0)

        def none_runs(*arguments: object) -> Verdict:
            raise AssertionError("the verdict is known")

        monkeypatch.setattr(verdict, "run_check", none_runs)
        assert choose_backend(None, torch.device("cuda", 1)).name == "cuda"  # of the same model
        gpu("right")  # as a new process, which reads the file
        assert choose_backend(None, GPU).name == "cuda"


def test_wrong_values_are_told_once_with_the_figures_and_torch_serves(gpu: Callable[[str], None]) -> None:
    gpu("wrong")
    with pytest.warns(RuntimeWarning) as told:
        assert choose_backend(None, GPU).name == "torch"
    (warning,) = told
    message = str(warning.message)
    assert "failed their self-check on Stand-in (sm_90)" in message
    assert "causal text with dropout, head_dim 31, float32: " in message and "off by" in message
    assert "8 more of" in message  # its nine cases, and no other
    assert str(verdict.subject_of(0).file) in message and "UNITRANS_CUDA_SELF_CHECK=0" in message
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert choose_backend(None, GPU).name == "torch"
        assert choose_backend(None, torch.device("cuda", 1)).name == "torch"
        assert choose_backend("cuda", GPU).name == "cuda"  # named, it can be examined
        assert describe_backends("cuda:0")["cuda"].startswith(
            "serves only calls that name it: their self-check failed"
        )
    assert describe_verdict(0).startswith("failed: causal text with dropout")
    gpu("wrong")
    with pytest.warns(
        RuntimeWarning, match="failed their self-check"
    ):  # a new process says it again, from the file
        assert choose_backend(None, GPU).name == "torch"


@pytest.mark.parametrize(
    ("kernels", "sentence"),
    [
        ("raises", "float32: RuntimeError: CUDA error: an illegal memory access was encountered (and what"),
        (
            "segfault",
            "the process of the check was ended by SIGSEGV in the case windows, head_dim 32, float32",
        ),
        ("exits", "the process of the check ended with exit code 3 in the case windows, head_dim 32"),
        ("hangs", "the process of the check hung in the case windows, head_dim 32, float32"),
    ],
)
def test_kernels_that_raise_or_end_the_child_fail(kernels: str, sentence: str) -> None:
    found = run_check(("cpu", f"stand_ins:{kernels}"), case_seconds=6.0)
    assert found.state == "failed" and sentence in found.figures, found


def test_what_is_not_the_kernels_fault_is_no_verdict(
    gpu: Callable[[str], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    gpu("absent")
    with pytest.warns(
        RuntimeWarning, match="could not run on Stand-in .*AttributeError.*absent.*next one tries again"
    ):
        assert choose_backend(None, GPU).name == "torch"
    assert not verdict.subject_of(0).file.exists()
    assert describe_verdict(0).startswith("could not run: ")
    monkeypatch.setattr("sys.executable", "/dev/null/python")
    assert run_check(("cpu",)).state == "unfinished"


@pytest.mark.parametrize(
    ("said", "code", "state"),
    [
        ('{"case": "a"}\n{"state": "passed", "figures": "f"}\n', 0, "passed"),
        ('{"case": "a"}\n{"state": "passed", "figures": "f"}\n', 1, "failed"),  # died while it ended
        ('noise\n[1]\n{"case": "a"}\n', 0, "failed"),
        ('{"case": "a"}\n', -9, "unfinished"),  # by the out-of-memory killer or a scheduler
        ('{"case": "a"}\n', -6, "failed"),
        ('{"case": "a"}\n{"ca', None, "failed"),
        ("", None, "unfinished"),
        ("", -11, "unfinished"),
    ],
)
def test_how_the_end_of_the_child_is_judged(said: str, code: int | None, state: str) -> None:
    assert verdict._judge(said, code, "last words").state == state


# -- the comparison


def small_results() -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(0)
    lse = torch.randn(7, 2, generator=generator, dtype=torch.float64)
    return {
        "out": torch.randn(7, 2, 8, generator=generator, dtype=torch.float64),
        "lse": lse.masked_fill(torch.eye(7, 2) > 0, -torch.inf),
    }


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda x: x["out"].view(-1)[3:4].add_(1e-3), "out off by 1.0e-03"),
        (lambda x: x["lse"][0, 0].fill_(0.0), "lse is not finite where it should be"),
        (lambda x: x["lse"][0, 0].fill_(torch.inf), "lse is not finite where it should be"),
        (lambda x: x["out"][0].fill_(torch.nan), "out is not finite where it should be"),
        (lambda x: x.update(out=x["out"][:6]), r"out has shape [6, 2, 8] instead of [7, 2, 8]"),
    ],
)
def test_every_difference_is_found(change: Callable[[dict[str, Tensor]], object], told: str) -> None:
    want = small_results()
    plain = {name: x.float() for name, x in want.items()}
    share, _ = largest_error(want, plain, plain, plain, torch.float32)
    assert share < 0.5
    got = {name: x.clone() for name, x in plain.items()}
    change(got)
    share, description = largest_error(want, plain, got, got, torch.float32)
    assert share > 1 and told in description


def test_runs_that_differ_are_found() -> None:
    want = small_results()
    plain = {name: x.float() for name, x in want.items()}
    again = plain | {"out": plain["out"] * (1 + 2e-7)}
    share, description = largest_error(want, plain, plain, again, torch.float32)
    assert share > 1 and "out differs by" in description and "between two runs" in description


def some_cases(monkeypatch: pytest.MonkeyPatch) -> None:
    """The first cases of every third kind, and the planes of graphs."""
    chosen = [replace(kind, head_dims=kind.head_dims[:1]) for kind in self_check.kinds()[::3]]
    monkeypatch.setattr(self_check, "kinds", lambda: chosen)


def scaled(kernels: Kernels, name: str) -> Kernels:
    """Right outputs, gradients that are a hundredth off."""

    class Scaled(torch.autograd.Function):
        @staticmethod
        def forward(ctx: object, x: Tensor) -> Tensor:
            return x.clone()

        @staticmethod
        def backward(ctx: object, grad: Tensor) -> Tensor:  # type: ignore[override]
            return grad * 1.01

    def run(*arguments: object) -> object:
        found = getattr(kernels, name)(*arguments)
        return Scaled.apply(found) if isinstance(found, Tensor) else (Scaled.apply(found[0]), found[1])

    return replace(kernels, **{name: run})


@pytest.mark.parametrize("name", ["attention", "attention_qkv", "pair_bias"])
def test_wrong_gradients_of_each_kernel_are_found(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    some_cases(monkeypatch)
    state, figures = check(scaled(compiled_kernels(), name), torch.device("cpu"))
    assert state == "failed" and ": d" in figures, figures


def test_torch_passes_its_own_check_and_no_global_generator_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    some_cases(monkeypatch)
    before = random_states()
    begun: list[str] = []
    state, figures = check(TORCH, torch.device("cpu"), lambda case: begun.append(case.name))
    assert state == "passed" and f"{len(begun)} cases" in figures and len(set(begun)) == len(begun)
    assert random_states() == before


def test_the_cases_reach_every_class_of_the_kernels() -> None:
    kinds = self_check.kinds()
    for kind in kinds:
        small, middle, large = kind.head_dims
        assert 1 <= small <= 32 < middle <= 64 < large <= 128, kind.name
        assert not (kind.packed and kind.plan.key_cu_seqlens is not None), kind.name
    assert {1, 7, 127} <= {kind.head_dims[0] for kind in kinds} | {kind.head_dims[2] for kind in kinds}
    repeated = next(kind.plan for kind in kinds if kind.name == "keys in several groups")
    assert repeated.key_token_index is not None
    assert len(repeated.key_token_index.unique()) < len(repeated.key_token_index)
    pairs = self_check._graph_pairs()
    assert 0 < (pairs.distance == 510).sum() < len(pairs.distance)
    assert int(pairs.cu_nodes.diff().min()) == 0


def test_too_little_memory_is_not_the_kernels_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    some_cases(monkeypatch)

    def full(*arguments: object) -> tuple[Tensor, Tensor]:
        raise torch.OutOfMemoryError("CUDA out of memory")

    state, _ = check(replace(compiled_kernels(), attention=full), torch.device("cpu"))
    assert state == "unfinished"


# -- when it runs, and what is kept


def test_nothing_runs_while_a_graph_is_captured(
    gpu: Callable[[str], None], runs: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: True)
    assert choose_backend(None, GPU).name == "torch" and not runs
    assert "does not run while a graph is traced" in describe_backends("cuda:0")["cuda"]
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: False)
    assert choose_backend(None, GPU).name == "cuda" and len(runs) == 1
    gpu("right")
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: True)
    assert choose_backend(None, GPU).name == "cuda" and len(runs) == 1  # a kept verdict counts


def test_nothing_runs_for_fake_tensors(gpu: Callable[[str], None], runs: list[str]) -> None:
    with FakeTensorMode():
        assert choose_backend(None, GPU).name == "torch"
    assert choose_backend(None, torch.device("cuda", 7)).name == "torch"  # which is not there
    assert not runs


def test_nothing_runs_while_tracing(gpu: Callable[[str], None], runs: list[str]) -> None:
    torch._dynamo.reset()

    @torch.compile(backend="eager", fullgraph=True)
    def f(x: Tensor) -> Tensor:
        return x + (1 if choose_backend(None, torch.device("cuda", 0)).name == "cuda" else 0)

    assert f(torch.zeros(1)) == 0 and not runs
    assert choose_backend(None, GPU).name == "cuda" and len(runs) == 1
    assert f(torch.zeros(1)) == 1  # traced again now that the verdict is known
    verdict._VERDICTS[0] = Verdict("failed", "figures")
    assert f(torch.zeros(1)) == 0 and len(runs) == 1


def test_a_plan_that_moves_to_a_gpu_brings_the_verdict(gpu: Callable[[str], None], runs: list[str]) -> None:
    plan = Plan.from_lengths([2])
    plan.to("cpu")
    assert not runs
    for device in ("cuda:0", GPU):
        with pytest.raises((AssertionError, RuntimeError)):  # there is no GPU to move to
            plan.to(device)
    assert len(runs) == 1


def test_pair_bias_obeys_the_verdict(monkeypatch: pytest.MonkeyPatch) -> None:
    pairs = random_pairs()
    asked: list[torch.device] = []
    served: list[str] = []
    reference = pair_bias.pair_bias_reference

    def reason(device: torch.device) -> str:
        asked.append(device)
        return "their self-check failed"

    def noted(*arguments: object) -> Tensor:
        served.append("reference")
        return reference(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(pair_bias, "why_held_back", reason)
    monkeypatch.setattr(pair_bias, "pair_bias_reference", noted)
    values = tables(pairs, 2)
    planes = pair_bias.pair_bias(*values, pairs)
    assert served == ["reference"] and asked == [values[0].device]
    torch.testing.assert_close(pair_bias.pair_bias(*values, pairs, backend="cpu"), planes)
    assert len(served) == len(asked) == 1  # named, the kernels serve


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\xff\xfe",
        b"[]",
        b'{"state": "passed"',
        b'{"state": "passed", "figures": ""}',
        json.dumps({"state": "passed", "figures": "", "identity": IDENTITY | {"gpu": "another"}}).encode(),
        json.dumps({"state": "good", "figures": "", "identity": IDENTITY}).encode(),
        json.dumps({"state": "passed", "figures": 3, "identity": IDENTITY}).encode(),
        json.dumps({"state": [], "figures": "", "identity": IDENTITY}).encode(),
    ],
)
def test_a_damaged_file_counts_as_absent(gpu: Callable[[str], None], runs: list[str], content: bytes) -> None:
    file = verdict.subject_of(0).file
    file.parent.mkdir(parents=True)
    file.write_bytes(content)
    assert choose_backend(None, GPU).name == "cuda" and len(runs) == 1
    assert json.loads(file.read_text())["state"] == "passed"
    assert [path.suffix for path in sorted(file.parent.iterdir())] == [".json", ".lock"]


def test_a_folder_that_cannot_be_written_is_no_error(
    gpu: Callable[[str], None], runs: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("UNITRANS_CACHE", str(tmp_path / "file"))
    for device in (GPU, torch.device("cuda", 1), GPU):
        assert choose_backend(None, device).name == "cuda"
    assert len(runs) == 1  # once for this process


def test_a_user_without_a_home(
    gpu: Callable[[str], None], runs: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def homeless() -> Path:
        raise RuntimeError("Could not determine home directory.")

    for name in ("UNITRANS_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(Path, "home", homeless)
    assert choose_backend(None, GPU).name == "cuda" and len(runs) == 1


def test_a_verdict_holds_for_one_gpu_driver_torch_and_build(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    library = tmp_path / "library.so"
    library.write_bytes(b"a build")
    gpu = SimpleNamespace(name="NVIDIA Stand-in", major=9, minor=0)
    monkeypatch.setattr(verdict, "cuda_library", lambda: library)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda number: gpu)
    subject = verdict.subject_of(3)
    assert subject.identity["gpu"] == "NVIDIA Stand-in (sm_90)" and subject.arguments == ("cuda:3",)
    assert subject.identity["torch"].startswith(torch.__version__)
    assert verdict.subject_of(0).file == subject.file  # of the same model
    files = {subject.file}
    library.write_bytes(b"b build")
    files.add(verdict.subject_of(3).file)
    gpu.minor = 3
    files.add(verdict.subject_of(3).file)
    monkeypatch.setattr(verdict, "_driver", lambda: "another")
    files.add(verdict.subject_of(3).file)
    monkeypatch.setattr(torch, "__version__", "9.9")
    files.add(verdict.subject_of(3).file)
    assert len(files) == 5


def test_those_who_start_at_once_share_one_run(
    gpu: Callable[[str], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    count: list[int] = []

    def slow(arguments: tuple[str, ...]) -> Verdict:
        count.append(1)
        time.sleep(0.3)
        return Verdict("failed", "figures")

    monkeypatch.setattr(verdict, "run_check", slow)
    found: list[Verdict | None] = []
    subject = verdict.subject_of(0)
    # A lock is of the open file, so threads that skip what this process knows stand for processes.
    threads = [
        threading.Thread(target=lambda: found.append(find_verdict(subject, may_run=True))) for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [Verdict("failed", "figures")] * 4 and len(count) == 1


def test_a_holder_of_the_lock_that_is_suspended_is_not_waited_for_forever(
    gpu: Callable[[str], None], runs: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(verdict, "_LOCK_SECONDS", 0.3)
    lock = verdict.subject_of(0).file.with_suffix(".lock")
    lock.parent.mkdir(parents=True)
    with lock.open("w") as holder:
        fcntl.flock(holder, fcntl.LOCK_EX)
        assert choose_backend(None, GPU).name == "cuda" and len(runs) == 1


def test_turned_off_the_kernels_are_trusted(
    gpu: Callable[[str], None], runs: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(verdict, "_ENABLED", False)
    monkeypatch.setenv(verdict.SWITCH, "0")
    assert choose_backend(None, GPU).name == "cuda" and not runs
    assert describe_verdict(0).startswith("turned off by UNITRANS_CUDA_SELF_CHECK=0")


def test_without_kernels_there_is_nothing_to_check(
    gpu: Callable[[str], None], runs: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in (verdict, backends):
        monkeypatch.setattr(module, "CUDA_LOAD_ERROR", "this torch is built without CUDA")
    assert choose_backend(None, GPU).name == "torch" and not runs
    assert describe_verdict(0) == "nothing to check: this torch is built without CUDA"
