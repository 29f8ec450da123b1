"""The order of the layers: each imports only from lower ones."""

import ast
import graphlib
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
# Numbers as in CONTRIBUTING.md; the compiled modules are layer 2.
LAYERS = {
    "errors": 0,
    "stored": 0,
    "_planning": 2,
    "ops": 3,
    "nn": 4,
    "models": 5,
    "objectives": 6,
    "data": 7,
    "domains": 7.5,  # the upper floor of layer 7
    "training": 8,
    "use": 9,
    "cli": 10,
}
#: What only the upper layers may import, by the lowest layer that may.
HEAVY = {"transformers": 5, "accelerate": 8, "datasets": 7, "sklearn": 6, "matplotlib": 7, "tensorboard": 8}

PYTHON_FILES = sorted((ROOT / "unitrans").rglob("*.py"))
CORE_FILES = sorted(
    path
    for folder in ("cpp/include", "cpp/src", "cuda")
    for path in (ROOT / folder).rglob("*")
    if path.suffix in (".cpp", ".hpp", ".h", ".cu", ".cuh")
)


def name_of(path: Path) -> str:
    return str(path.relative_to(ROOT))


def imported_modules(path: Path) -> Iterator[tuple[int, str]]:
    """(line, full module name) of every import in a file, those inside functions included."""
    package = path.relative_to(ROOT).with_suffix("").parts[:-1]
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else ()
            module = ".".join([*base, *([node.module] if node.module else [])])
            for alias in node.names:
                yield node.lineno, f"{module}.{alias.name}"


def layer_of(module: str) -> float | None:
    """The layer of a module of ours; 0 is the package itself; None: not ours."""
    parts = module.split(".")
    if parts[0] != "unitrans":
        return None
    return LAYERS.get(parts[1], 0) if len(parts) > 1 else 0


def own_layer(path: Path) -> float:
    part = path.relative_to(ROOT / "unitrans").parts[0]
    # unitrans/__init__.py offers the op, its plans and `load`, which is imported when it is asked for.
    return LAYERS["use"] if part == "__init__.py" else LAYERS[part.removesuffix(".py")]


def test_every_module_has_a_layer() -> None:
    unknown = [
        name_of(path)
        for path in PYTHON_FILES
        if path.relative_to(ROOT / "unitrans").parts[0].removesuffix(".py") not in {*LAYERS, "__init__"}
    ]
    assert not unknown, f"not in any layer of CONTRIBUTING.md: {unknown}"
    assert len(PYTHON_FILES) > 10


@pytest.mark.parametrize("path", PYTHON_FILES, ids=name_of)
def test_imports_go_downwards(path: Path) -> None:
    own = own_layer(path)
    wrong = []
    for line, module in imported_modules(path):
        root = module.split(".")[0]
        layer = layer_of(module)
        if layer is not None and layer > own:
            wrong.append(f"line {line}: layer {own} imports {module} of layer {layer}")
        if layer is None and HEAVY.get(root, 0) > own:
            wrong.append(f"line {line}: layer {own} imports {root}, which starts at layer {HEAVY[root]}")
        if root in ("tests", "benchmarks") and not (root == "benchmarks" and own == LAYERS["cli"]):
            wrong.append(f"line {line}: nothing sees {root}, except that `unitrans bench` runs benchmarks")
        if root in ("timm", "torchvision"):
            wrong.append(f"line {line}: {root} is not needed at run time")
    assert not wrong, "\n".join(wrong)


def test_modules_import_each_other_in_no_circle() -> None:
    """What a module imports when it is loaded; imports inside functions and for type checkers may look back."""
    names = {
        ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path
        for path in PYTHON_FILES
    }
    graph: dict[str, set[str]] = {}
    for name, path in names.items():
        at_load = [
            node for node in ast.parse(path.read_text()).body if isinstance(node, ast.Import | ast.ImportFrom)
        ]
        targets = {alias.name for node in at_load if isinstance(node, ast.Import) for alias in node.names}
        for node in at_load:
            if isinstance(node, ast.ImportFrom) and node.module:
                whole = {f"{node.module}.{alias.name}" for alias in node.names}
                targets |= {module if module in names else node.module for module in whole}
        graph[name] = targets & names.keys() - {name}
    order = graphlib.TopologicalSorter(graph)
    order.prepare()  # raises CycleError, which names the circle


@pytest.mark.parametrize("path", CORE_FILES, ids=name_of)
def test_the_core_includes_neither_torch_nor_python(path: Path) -> None:
    includes = re.findall(r'#\s*include\s*[<"]([^>"]+)[>"]', path.read_text())
    wrong = [name for name in includes if re.match(r"(torch|ATen|c10|caffe2|pybind11|Python\.h)", name)]
    assert not wrong


def test_domains_know_no_objective_by_its_name() -> None:
    """What an objective predicts decides about pictures and simple predictors, never what it is called."""
    wrong = []
    for path in (path for path in PYTHON_FILES if "domains" in path.relative_to(ROOT / "unitrans").parts):
        for node in ast.walk(ast.parse(path.read_text())):
            named = isinstance(node, ast.Attribute) and node.attr == "name"
            if named and "objective" in ast.unparse(node.value):  # type: ignore[attr-defined]
                wrong.append(f"{name_of(path)}:{node.lineno}: {ast.unparse(node)}")
    assert not wrong, "\n".join(wrong)


def test_the_core_is_there() -> None:
    assert len(CORE_FILES) > 5


def test_import_is_as_light_as_torch() -> None:
    program = """
import sys
import unitrans
unitrans.attention
heavy = ("transformers", "datasets", "accelerate", "sklearn", "matplotlib", "pandas", "pydantic")
print(*[name for name in heavy if name in sys.modules])
"""
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, cwd=ROOT, check=True
    )
    assert done.stdout.split() == []


def test_no_file_names_a_place_of_one_machine() -> None:
    if shutil.which("git") is None or not (ROOT / ".git").exists():
        pytest.skip("not a git checkout")
    roots = "work|home|root|Users|opt|mnt|data"
    pattern = rf"(^|[^A-Za-z0-9_.~/-])/({roots})/[A-Za-z0-9_.-]+"
    found = subprocess.run(["git", "grep", "-nIE", pattern], capture_output=True, text=True, cwd=ROOT)
    assert found.returncode in (0, 1), found.stderr
    assert not found.stdout, found.stdout
