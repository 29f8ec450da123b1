"""The check before the first use of CUDA kernels, with stand-ins for a GPU and for kernels that are wrong."""

import random
import stat
import subprocess
import warnings
from pathlib import Path

import kernel_stand_ins
import numpy as np
import pytest
import torch

from unitrans import Plan
from unitrans.ops import backends, pair_bias, self_check
from unitrans.ops.backends import choose_backend
from unitrans.ops.self_check import Verdict, cache_file, check, stored_verdict
from unitrans.ops.self_check_cases import cases, compare

CPU = torch.device("cpu")
GPU = torch.device("cuda", 0)
KEY = {"gpu": "one", "driver": "1", "torch": "2", "build": "3"}


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache folder, the stand-ins where the child finds them, and no verdict of another test."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.delenv(self_check.SWITCH, raising=False)
    monkeypatch.syspath_prepend(str(Path(__file__).parent))
    monkeypatch.setattr(self_check, "_verdicts", {})
    return tmp_path / "cache"


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """As if there were a GPU and kernels for it. What the child would find is put into the list; "" passes."""
    verdicts = [""]

    def judged(device: torch.device, key: dict[str, str]) -> Verdict:
        assert device == GPU and key == KEY
        judged.calls += 1  # type: ignore[attr-defined]
        return Verdict(not verdicts[0], verdicts[0])

    judged.calls = 0  # type: ignore[attr-defined]
    for module in (backends, pair_bias, self_check):
        monkeypatch.setattr(module, "CUDA_LOAD_ERROR", None)
    monkeypatch.setattr(self_check, "_key", lambda index: KEY)
    monkeypatch.setattr(self_check, "check", judged)
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: False)
    return verdicts


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("wrong_values", "is off by"),
        ("wrong_gradients", "is off by"),
        ("wrong_planes", "pair bias"),
        ("rows_left_alone", "unlisted tokens"),
    ],
)
def test_wrong_numbers_are_found(name: str, words: str) -> None:
    verdict = compare(getattr(kernel_stand_ins, name), CPU)
    assert not verdict.passed and verdict.lasting and "worst" in verdict.reason
    assert words in verdict.reason or name == "rows_left_alone"


def test_right_kernels_pass_with_every_instruction_set() -> None:
    assert compare(kernel_stand_ins.good, CPU).passed
    assert len(cases()) > 10


def test_the_verdict_of_a_child_is_kept(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    verdict = check(CPU, KEY, kernels="kernel_stand_ins:good")
    assert verdict.passed and "35 small calls" in verdict.reason
    monkeypatch.setattr(subprocess, "run", lambda *a, **o: pytest.fail("a verdict was there"))
    assert check(CPU, KEY) == verdict
    assert stored_verdict(KEY | {"driver": "2"}) is None
    for damaged in ("", "{", "[]", '{"key": 1}', "[" * 10000, cache_file(KEY).read_text()[:-9]):
        cache_file(KEY).write_text(damaged)
        assert stored_verdict(KEY) is None


@pytest.mark.parametrize(
    ("name", "words", "lasting"),
    [
        ("raises", "the kernels raised RuntimeError: CUDA error: an illegal memory access", True),
        ("ends", "the self-check was ended by signal 11", True),
        ("waits", "gave no answer in 10 s", False),
        ("no_such_kernels", "AttributeError", True),
    ],
)
def test_kernels_that_fail_end_the_child_alone(name: str, words: str, lasting: bool) -> None:
    verdict = check(CPU, KEY, kernels=f"kernel_stand_ins:{name}", seconds=10 if name == "waits" else 120)
    assert not verdict.passed and words in verdict.reason
    assert (stored_verdict(KEY) is not None) == lasting


def test_a_device_that_torch_cannot_use_is_no_verdict() -> None:
    if torch.cuda.is_available():
        pytest.skip("there is a GPU here")
    verdict = check(GPU, KEY)
    assert not verdict.passed and "torch cannot use cuda:0" in verdict.reason
    assert stored_verdict(KEY) is None


def test_a_cache_that_cannot_be_written_is_no_error(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(self_check, "_run_child", lambda *a: Verdict(True, "fine"))
    cache.write_text("a file in the place of the folder")
    assert check(CPU, KEY).passed
    assert stat.S_ISREG(cache.stat().st_mode)


def test_nothing_is_drawn_from_global_generators() -> None:
    def states() -> tuple[bytes, object, object]:
        numpy_state = np.random.get_state(legacy=True)[1]
        return torch.get_rng_state().numpy().tobytes(), random.getstate(), numpy_state.tobytes()  # type: ignore[union-attr]

    before = states()
    check(CPU, KEY, kernels="kernel_stand_ins:good")
    compare(kernel_stand_ins.good, CPU)
    assert states() == before


def test_good_kernels_serve(gpu: list[str]) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for _ in range(3):
            assert choose_backend(None, GPU).name == "cuda"
    assert self_check.check.calls == 1  # type: ignore[attr-defined]


def test_bad_kernels_are_named_once_and_left_alone(gpu: list[str]) -> None:
    gpu[0] = "dq is off by 3"
    with pytest.warns(UserWarning, match="CUDA kernels are not used on this GPU: dq is off by 3") as seen:
        chosen = [choose_backend(None, GPU).name for _ in range(3)]
    assert chosen == ["torch"] * 3 and len(seen) == 1 and self_check.check.calls == 1  # type: ignore[attr-defined]
    assert choose_backend("cuda", GPU).name == "cuda", "a person may look at them"
    assert self_check.distrust(GPU) == "dq is off by 3"


def test_the_switch_trusts_them_unseen(gpu: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    gpu[0] = "dq is off by 3"
    monkeypatch.setenv(self_check.SWITCH, "0")
    assert choose_backend(None, GPU).name == "cuda"
    assert self_check.check.calls == 0  # type: ignore[attr-defined]


def test_no_check_begins_while_torch_traces_or_captures(
    gpu: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    torch._dynamo.reset()

    @torch.compile(backend="eager", fullgraph=True)
    def f(x: torch.Tensor) -> torch.Tensor:
        return x + (1 if choose_backend(None, GPU).name == "cuda" else 0)

    assert f(torch.zeros(2)).tolist() == [0, 0], "unknown: the torch backend"
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: True)
    assert choose_backend(None, GPU).name == "torch"
    assert self_check.check.calls == 0 and not self_check._verdicts  # type: ignore[attr-defined]
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: False)
    self_check.check_before_use(GPU)
    assert self_check.check.calls == 1  # type: ignore[attr-defined]
    assert f(torch.zeros(2)).tolist() == [1, 1], "what is traced later finds the verdict"


def test_plans_that_move_to_a_gpu_bring_the_check(gpu: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.Tensor, "to", lambda self, *a, **o: self)
    Plan.from_lengths([2]).to("cpu")
    assert self_check.check.calls == 0  # type: ignore[attr-defined]
    Plan.from_lengths([2]).to(GPU)
    assert self_check.check.calls == 1  # type: ignore[attr-defined]


def test_doctor_says_what_was_found(gpu: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    assert self_check.describe() == ["cuda:0: not run yet: the first call on this GPU runs it"]
    self_check._store(KEY, Verdict(True, "35 small calls"))
    assert self_check.describe() == ["cuda:0: passed: 35 small calls"]
    self_check._store(KEY, Verdict(False, "dq is off by 3"))
    assert self_check.describe() == ["cuda:0: FAILED, calls go to the torch backend: dq is off by 3"]
    monkeypatch.setenv(self_check.SWITCH, "0")
    assert self_check.describe() == ["cuda:0: turned off by UNITRANS_CUDA_SELF_CHECK=0"]
