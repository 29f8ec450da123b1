"""``unitrans doctor``: it says what there is, and names what is broken."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from unitrans.cli import doctor, main
from unitrans.ops.backends import BACKENDS, choose_backend
from unitrans.use import measure


def install(folder: Path, name: str, version: str, source: str, requires: str | None = None) -> None:
    """A package as pip would leave it."""
    (folder / name).mkdir()
    (folder / name / "__init__.py").write_text(source)
    info = folder / f"{name}-{version}.dist-info"
    info.mkdir()
    needs = "" if requires is None else f"Requires-Dist: {requires}\n"
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n{needs}")


@pytest.fixture
def packages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that comes first where Python looks for packages, here and in new processes; light ones are tried."""
    light = {name: name for name in ("torchvision", "torchaudio", "accelerate")}
    monkeypatch.setattr(doctor, "_IMPORTS", light)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    return tmp_path


def test_the_report_is_complete(capsys: pytest.CaptureFixture[str]) -> None:
    code = main(["doctor"])
    printed = capsys.readouterr().out
    for word in (
        "unitrans ",
        "Python ",
        f"torch {torch.__version__}",
        "usable",
        "threads    ",
        "ISA ",
        "GPU ",
    ):
        assert word in printed
    for backend in BACKENDS:
        assert f"{backend.name}: " in printed
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    assert f"on {device.type} calls go to {choose_backend(None, device).name}" in printed
    assert (code == 0) == ("no problem found" in printed)


def test_a_torchvision_for_another_torch_is_named(packages: Path) -> None:
    broken = "raise RuntimeError('operator torchvision::nms does not exist')"
    install(packages, "torchvision", "0.18.0", broken, "torch==2.3.0")
    (problem,) = doctor.companion_problems({})[:1]
    assert problem.startswith(
        f"torchvision 0.18.0 is made for torch 2.3.0 and cannot be imported with torch {torch.__version__} "
        "(RuntimeError: operator torchvision::nms does not exist)"
    )
    assert "pip uninstall torchvision" in problem


def test_one_that_still_imports_is_named_too(packages: Path) -> None:
    install(packages, "torchaudio", "2.3.0", "", "torch (==2.3.0)")
    (problem,) = [line for line in doctor.companion_problems({}) if line.startswith("torchaudio")]
    assert "is made for torch 2.3.0 and may fail at any call" in problem


def test_one_that_matches_is_no_problem(packages: Path) -> None:
    install(packages, "torchvision", "9.9.9", "", f"torch=={torch.__version__.partition('+')[0]}")
    assert not [line for line in doctor.companion_problems({}) if line.startswith("torchvision")]


def test_what_an_extra_demands_is_no_problem(packages: Path) -> None:
    for name in ("accelerate", "torchvision"):
        install(packages, name, "9.9.9", "", "torch==2.0.1; extra == 'benchmarks'")
    assert not [
        line for line in doctor.companion_problems({}) if line.startswith(("accelerate", "torchvision"))
    ]


def test_a_broken_and_a_missing_package(packages: Path) -> None:
    install(packages, "accelerate", "0.0.1", "import os; os.abort()")
    problems = doctor.companion_problems({"numpy": "1", "pydantic": None})
    assert "pydantic is not installed: pip install pydantic" in problems
    (problem,) = [line for line in problems if line.startswith("accelerate")]
    assert "accelerate 0.0.1 cannot be imported" in problem and "pip install --force-reinstall" in problem


@pytest.mark.parametrize(
    ("cuda", "visible", "sentence"),
    [
        (None, None, "is built without CUDA"),
        ("13.0", "", "CUDA_VISIBLE_DEVICES hides them"),
        ("13.0", "-1", "CUDA_VISIBLE_DEVICES hides them"),
        ("13.0", None, "torch is built for CUDA 13.0, but"),
    ],
)
def test_why_there_is_no_gpu(
    cuda: str | None, visible: str | None, sentence: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("torch.version.cuda", cuda)
    monkeypatch.setattr("torch.version.hip", None)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert sentence in doctor.why_no_gpu()


def test_too_many_threads_are_a_problem(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("unitrans.training.environment.usable_cpus", lambda: 2)
    monkeypatch.setattr("torch.get_num_threads", lambda: 64)
    monkeypatch.setattr(doctor, "companion_problems", lambda versions: [])
    assert main(["doctor"]) == 1
    assert "torch has 64 threads for 2 usable processors" in capsys.readouterr().out


def test_measured_choices_are_told_and_wrong_ones_are_problems(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(measure, "GROUPS", (("windows of 9", 4, 9, 1, 16),))
    monkeypatch.setattr(measure, "WIDTHS", ((16, 32),))
    for ratio, code in ((1.0, 0), (0.5, 1)):
        monkeypatch.setattr(
            measure, "in_turns", lambda first, second, pairs=1, r=ratio: (first(), second(), r)[2]
        )
        monkeypatch.setattr(doctor, "companion_problems", lambda versions: [])
        monkeypatch.setattr(doctor, "torch_note", lambda: None, raising=False)
        assert main(["doctor", "--measure"]) == code
        printed = capsys.readouterr().out
        assert "measured   fp32 product 512 x 16 -> 32, gradient of the weight: " in printed
        assert "measured   attention on windows of 9, bfloat16: cpu-" in printed
        assert "times as fast as in fp32" in printed
        assert ("UNITRANS_PRODUCTS names another line" in printed) == bool(code)
        assert ("UNITRANS_BACKEND=cpu-" in printed) == bool(code)


def test_a_pair_is_timed_in_turns() -> None:
    order: list[str] = []
    ratio = measure.in_turns(lambda: order.append("a"), lambda: order.append("b"), pairs=3)
    assert order == ["a", "b"] * 4 and ratio > 0


def test_a_variable_names_the_backend() -> None:
    program = (
        "import unitrans.ops.backends as b, torch; print(b.choose_backend(None, torch.device('cpu')).name)"
    )
    environment = os.environ | {"UNITRANS_BACKEND": "reference"}
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, env=environment)
    assert done.stdout.strip() == "reference", done.stderr
