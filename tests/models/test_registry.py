"""The one list of families: what it knows, what it says, and that nothing else knows it."""

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

import unitrans
from unitrans import models
from unitrans.models import _weights, registry

ROOT = Path(__file__).parents[2]
#: Names of other libraries' classes.
_FOREIGN = {"BertNormalizer", "BertPreTokenizer"}


@pytest.mark.parametrize(
    ("name", "heads", "millions"),
    [
        ("swin_tiny_patch4_window7_224", [3, 6, 12, 24], 27.5),
        ("swin_large_patch4_window12_384", [6, 12, 24, 48], 195.2),
        ("swinv2_tiny_window8_256", [3, 6, 12, 24], 27.6),
        ("vit_base_patch16_224", 12, 85.8),
        ("vit_large_patch16_224", 16, 303.3),
        ("vit_huge_patch14_224", 16, 630.8),
        ("bert-base-uncased", 12, 109.5),
        ("gpt2", 12, 124.4),
        ("gpt2-medium", 16, 354.8),
        ("graphormer-base", 32, 47.7),
    ],
)
def test_published_sizes(name: str, heads: object, millions: float) -> None:
    """Parameters of the encoders as published: timm's with num_classes=0, transformers' bare models, Graphormer's
    47.1 million and the pooler of its head."""
    family = registry.sizes()[name]
    assert family.config_class(**family.sizes[name]).num_heads == heads
    if millions < 130:  # larger ones only take longer
        model = unitrans.create(name)
        assert sum(p.numel() for p in model.parameters()) / 1e6 == pytest.approx(millions, abs=0.06)


def test_every_size_makes_a_configuration() -> None:
    for name, family in registry.sizes().items():
        config = family.config_class(**family.sizes[name])
        assert all(getattr(config, key) == value for key, value in family.sizes[name].items()), name
        assert registry.family_of(config) is family


def test_patterns_and_near_names() -> None:
    swins = unitrans.list_models("swin_*")
    assert "swin_base_patch4_window12_384" in swins and not [n for n in swins if not n.startswith("swin_")]
    with pytest.raises(ValueError, match=r"did you mean 'swin_tiny_patch4_window7_224'\?"):
        unitrans.create("swin_tiny_patch4_window7_22")
    with pytest.raises(ValueError, match="depht: expected a setting of vit, got an unknown one"):
        unitrans.create("vit", depht=2)
    model = unitrans.create("vit_tiny_patch16_224", num_labels=7, depth=1)
    assert model(torch.rand(1, 3, 224, 224)).logits.shape == (1, 7)


def test_listing_imports_no_torch() -> None:
    program = "import sys, unitrans; assert unitrans.list_models('bert*'); print('torch' in sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, cwd=ROOT, check=True
    )
    assert done.stdout.strip() == "False"


def test_families_say_which_layouts_their_formats_have() -> None:
    for family in registry.families().values():
        formats = registry.resolve(family.formats) or ()
        assert set(family.layouts) == {name for each in formats for name in each.layouts}, family.name
    assert len(_weights.formats()) == 8


def test_the_old_table_works_and_warns() -> None:
    with pytest.warns(DeprecationWarning, match="register_model"):
        table = models.MODELS
    assert table["swin"] == (models.SwinConfig, models.SwinModel) and "joint" in table
    table["other"] = (models.VitConfig, models.VitModel)
    try:
        assert registry.get_family("other").model_class is models.VitModel
    finally:
        del table["other"]
    assert "other" not in registry.families()


def test_a_name_is_taken_once() -> None:
    with pytest.raises(ValueError, match="the name 'gpt2' is taken by the family gpt2"):
        registry.register_model("gpt2", config=models.VitConfig, model=models.VitModel)


def _named(tree: ast.Module) -> Iterator[tuple[int, str]]:
    """(line, text) of literals, identifiers and imports; docstrings and texts of help are documentation."""
    prose = {
        id(node.value)
        for node in ast.walk(tree)
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.keyword) and node.arg in ("description", "help"):
            prose |= {id(inner) for inner in ast.walk(node.value)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in prose:
            yield node.lineno, node.value
        elif isinstance(node, (ast.Name, ast.Attribute)):
            yield node.lineno, node.id if isinstance(node, ast.Name) else node.attr
        elif isinstance(node, (ast.FunctionDef, ast.ClassDef, ast.arg)):
            yield node.lineno, node.arg if isinstance(node, ast.arg) else node.name
        elif isinstance(node, ast.ImportFrom):
            yield from ((node.lineno, f"{node.module}.{alias.name}") for alias in node.names)
        elif isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)


def _families_in(text: str) -> list[str]:
    """Families that a text names as a word, or as a part of an identifier."""
    words = re.findall(r"[A-Z]+(?![a-z])\d*|[A-Z]?[a-z]+\d*|\d+", text)
    known = {*registry.families(), *_weights.formats()} - {"joint", "beit"}  # beit is an objective, too
    return sorted(known & {word.lower() for word in words})


def test_a_family_is_found_in_a_text() -> None:
    assert _families_in("unitrans.models.swin.SwinConfig") == ["swin"]
    assert _families_in("such as vit, got") == ["vit"] and _families_in("Gpt2LMHeadModel") == ["gpt2"]
    assert not _families_in("invite the vital bertha")


def test_nothing_outside_of_models_names_a_family() -> None:
    wrong = []
    for path in sorted((ROOT / "unitrans").rglob("*.py")):
        if "models" in path.relative_to(ROOT).parts:
            continue
        for line, text in _named(ast.parse(path.read_text())):
            found = [] if text in _FOREIGN else _families_in(text)
            wrong += (
                [f"{path.relative_to(ROOT)}:{line}: {text[:60]!r} names {', '.join(found)}"] if found else []
            )
    assert not wrong, "\n".join(wrong)
