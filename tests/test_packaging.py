"""What is shipped and how it is set up: metadata, pins, the Makefile, its preflight, the wheel."""

import os
import re
import shutil
import stat
import subprocess
import sys
import sysconfig
from importlib import metadata
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import unitrans

ROOT = Path(__file__).parents[1]

pytestmark = pytest.mark.skipif(not (ROOT / "Makefile").exists(), reason="not run from a checkout")


def pins() -> dict[str, Requirement]:
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    requirements = [Requirement(line) for line in lines if not line.startswith("#")]
    return {canonicalize_name(requirement.name): requirement for requirement in requirements}


def requirements_of(extra: str) -> list[Requirement]:
    """What the installed package asks for, with one of its extras ("": none)."""
    every = [Requirement(line) for line in metadata.requires("unitrans") or []]
    return [r for r in every if r.marker is None or r.marker.evaluate({"extra": extra})]


def test_torch_has_a_floor_and_no_ceiling() -> None:
    (torch,) = [r for r in requirements_of("") if r.name == "torch"]
    assert str(torch.specifier) == ">=2.10"


def test_the_build_uses_the_torch_that_is_tested() -> None:
    text = (ROOT / "pyproject.toml").read_text()
    (build,) = re.findall(r'^requires = \[.*"torch(==[^"]+)"\]$', text, re.MULTILINE)
    assert build == str(pins()["torch"].specifier)


@pytest.mark.parametrize("extra", ["", "dev"])
def test_every_dependency_is_pinned_to_a_version_it_accepts(extra: str) -> None:
    pinned = pins()
    for requirement in requirements_of(extra):
        pin = pinned.get(canonicalize_name(requirement.name))
        assert pin is not None, f"{requirement.name} has no pin; run tools/pin.py"
        (version,) = (s.version for s in pin.specifier if s.operator == "==")
        assert version in requirement.specifier, f"{requirement} excludes the pinned {version}"


def test_extras() -> None:
    assert set(metadata.metadata("unitrans").get_all("Provides-Extra") or []) == {
        *("graph", "ogb", "vision", "text", "export", "bench", "docs", "dev", "all")
    }
    named = {canonicalize_name(r.name) for r in requirements_of("")}
    expected = "torch numpy transformers accelerate datasets safetensors pillow matplotlib scipy tensorboard"
    assert named == {*expected.split(), "scikit-learn", "pydantic", "pyyaml"}


def test_citation_agrees_with_the_package() -> None:
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert citation["version"] == unitrans.__version__ == metadata.version("unitrans")
    assert citation["license"] == "Apache-2.0"
    for reference in citation["references"]:
        assert reference["title"] and reference["authors"] and reference["year"]
        assert "url" in reference or "doi" in reference


# ---------------------------------------------------------------- make


def test_makefile_is_short() -> None:
    assert len((ROOT / "Makefile").read_text().splitlines()) <= 40


@pytest.fixture
def tool(tmp_path: Path):
    """Writes an executable shell script and returns its path."""

    def write(name: str, body: str) -> Path:
        path = tmp_path / name
        path.write_text(f"#!/bin/sh\n{body}\n")
        path.chmod(path.stat().st_mode | stat.S_IXUSR)
        return path

    return write


def preflight(*arguments: object, **variables: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["tools/preflight", *map(str, arguments)],
        cwd=ROOT,
        env=os.environ | variables,
        capture_output=True,
        text=True,
    )


@pytest.mark.skipif(shutil.which("c++") is None, reason="no C++ compiler here")
def test_preflight_is_silent_where_all_is_there() -> None:
    done = preflight(sys.executable, 0)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_preflight_names_in_one_sentence_what_is_absent(tool) -> None:
    venvless = tool("python", 'case "$*" in *print*) echo 3.12 ;; *) exit 1 ;; esac')
    old = tool("python3.9", "echo 3.9")
    cases = {
        "Python 3.10-3.13 (no-such-python is not there;": preflight("no-such-python"),
        f"Python 3.10-3.13 ({old} is 3.9;": preflight(old),
        f"the venv module of {venvless} (Debian: apt install python3.12-venv)": preflight(venvless),
        f"Python.h of {venvless} (Debian: apt install python3.12-dev)": preflight(venvless),
        "a C++20 compiler": preflight(sys.executable, CXX="false"),
        "GB needed": preflight(sys.executable, 10**9),
    }
    for part, done in cases.items():
        assert done.returncode == 1 and done.stdout == ""
        (line,) = done.stderr.splitlines()
        assert line.startswith("unitrans cannot be set up: this machine lacks ") and line.endswith(".")
        assert part in line


def torch_command(path: str) -> str:
    """How make would install torch with this PATH."""
    done = subprocess.run(
        ["make", "-n", "-B", ".venv/torch"],
        cwd=ROOT,
        env={"PATH": path},
        capture_output=True,
        text=True,
        check=True,
    )
    (command,) = [line for line in done.stdout.splitlines() if "pip install" in line]
    return command


@pytest.mark.skipif(shutil.which("make") is None, reason="no make here")
def test_torch_comes_alone_and_from_the_cpu_index_without_a_driver(tool, tmp_path: Path) -> None:
    tool("nvidia-smi", "exit 0")
    system = f"{Path(shutil.which('make') or '').parent}:/usr/bin:/bin"
    with_driver = torch_command(f"{tmp_path}:{system}")
    assert re.search(r"pip install --no-deps --retries 0 -c constraints.txt +torch\b", with_driver)
    if Path("/proc/driver/nvidia").exists() or shutil.which("nvidia-smi", path=system):
        pytest.skip("this machine has an NVIDIA driver: the case without one is not tested")
    assert "--extra-index-url https://download.pytorch.org/whl/cpu torch" in torch_command(system)


# ---------------------------------------------------------------- the wheel


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_wheel_runs_without_compiler_and_checkout(tmp_path: Path) -> None:
    pip = [sys.executable, "-m", "pip"]
    build = [*pip, "wheel", "--no-deps", "--no-build-isolation", "-w", tmp_path]
    objects = (
        "--config-settings=build-dir=build/{wheel_tag}"  # those of the checkout: nothing is compiled twice
    )
    subprocess.run([*build, objects, "."], cwd=ROOT, check=True, capture_output=True)
    (wheel,) = tmp_path.glob("unitrans-*.whl")

    # An environment with the wheel and, through one path entry, the dependencies installed here.
    home = tmp_path / "env"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", home], check=True)
    subprocess.run([*pip, "--python", home / "bin/python", "install", "--no-deps", wheel], check=True)
    (site,) = home.glob("lib/python*/site-packages")
    (site / "dependencies.pth").write_text(sysconfig.get_path("purelib"))

    def run(*command: object) -> str:
        done = subprocess.run(
            list(map(str, command)),
            cwd=tmp_path,
            env={"PATH": str(home / "bin"), "HOME": str(tmp_path)},
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    assert run(home / "bin/python", "-c", "import unitrans; print(unitrans.__file__)").startswith(str(site))
    program = """
import torch, unitrans
q, plan = torch.randn(7, 2, 8), unitrans.Plan.from_lengths([4, 3])
out = unitrans.attention(q, q, q, plan, backend="cpu")
torch.testing.assert_close(out, unitrans.attention(q, q, q, plan, backend="reference"))
"""
    run(home / "bin/python", "-c", program)
    assert {path.name for path in (ROOT / "configs").glob("*.yaml")} == {
        path.name for path in (site / "unitrans/configs").glob("*.yaml")
    }
    small = ("model.embed_dim=8", "model.depths=[1,1]", "model.num_heads=[1,2]", "train.max_steps=1")
    run(home / "bin/unitrans", "train", *small, "--output", tmp_path / "run")
    assert (tmp_path / "run/config.yaml").exists()
