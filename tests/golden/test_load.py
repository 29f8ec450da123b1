"""`unitrans.load` on the files of the cases: it tells what they are, and computes what the published code does."""

import json
from typing import Any

import golden_cases
import pytest
import torch
from torch import Tensor

import unitrans
from unitrans.models.recognise import recognise


def cases() -> list[str]:
    found = [file.parent.name for file in sorted(golden_cases.GOLDEN.glob("*/weights.safetensors"))]
    return found or ["01a_swin_v1_ms"]


def overrides(meta: dict[str, Any], found: Any = None) -> dict[str, Any]:
    """The recorded constructor arguments, which may all be given."""
    return {
        name: value
        for name, value in meta["constructor"].items()
        if name not in ("cls", "attn_implementation")
    }


@pytest.mark.parametrize("name", cases())
def test_a_case_loads_from_its_file(golden, name: str) -> None:
    """With nothing but what cannot be told; all arguments together change no tensor and no shape."""
    case = golden(name)
    file, given = golden_cases.GOLDEN / name / "weights.safetensors", overrides(case.meta)
    if "unsupported" in case.meta:
        pytest.skip("not a family of ours")
    whole = unitrans.load(file, **given)
    found = recognise(case.weights)
    needed = set(found.untold)
    model = unitrans.load(file, **{key: value for key, value in ours_of(whole).items() if key in needed})
    assert {n: p.shape for n, p in model.named_parameters()} == {
        n: p.shape for n, p in whole.named_parameters()
    }
    for (key, tensor), other in zip(model.named_parameters(), whole.parameters(), strict=True):
        assert torch.equal(tensor, other), key
    for got in predictions(whole, case):
        case.check(got)


def ours_of(model: Any) -> dict[str, Any]:
    config = getattr(model.config, "encoder_config", model.config)
    return config.to_dict() | (model.config.objective_options or {} if hasattr(model, "objective") else {})


def predictions(model: Any, case: Any) -> list[dict[str, Tensor]]:
    """What a user would compute with the model, where the case records it; the other tests here compare the rest."""
    x = next((case.inputs[key] for key in ("x", "pixel_values") if key in case.inputs), None)
    if (
        x is None
        or "out.logits" not in case.expected
        or (not hasattr(model, "pack") and not hasattr(model, "head"))
    ):
        return []
    return [{"out.logits": model(x).logits}] if model.main_input_name == "pixel_values" else []


def test_what_cannot_be_told_is_asked_for(golden) -> None:
    case = golden("11d_vit_timm")
    with pytest.raises(ValueError, match=r"whose weights do not tell num_heads: give num_heads="):
        unitrans.load(case.weights)
    with pytest.raises(
        ValueError, match=r"n_heads: expected an argument of the timm vit, got an unknown one"
    ):
        unitrans.load(case.weights, n_heads=4, num_heads=4)
    with pytest.raises(
        ValueError, match=r"source: expected one of 'auto', .*'timm'.* for weights of a vit, got 'v2'"
    ):
        unitrans.load(case.weights, source="v2", num_heads=4)
    meta = json.loads((golden_cases.GOLDEN / "11d_vit_timm" / "meta.json").read_text())
    assert unitrans.load(case.weights, num_heads=meta["constructor"]["num_heads"]).config.depth == 2
