"""`unitrans.load` on the files of the cases: it tells what they are, and computes what the published code does."""

import json
import re
from typing import Any

import golden_cases
import pytest
import torch

import unitrans
from unitrans.models.images import ImageEncoder
from unitrans.models.recognise import recognise


def cases() -> list[str]:
    """Every case with weights of a family that is here."""
    found = []
    for file in sorted(golden_cases.GOLDEN.glob("*/weights.safetensors")):
        meta = json.loads((file.parent / "meta.json").read_text())
        cls = f"{meta['constructor'].get('cls')}"
        ours = re.search(r"MaskedAutoencoderViT|ViTMAE|Bert|Roberta|GPT2|raphormer", cls)
        if ours or golden_cases.classify(meta) is not None:
            found.append(file.parent.name)
    return found or ["01a_swin_v1_ms"]


@pytest.mark.parametrize("name", cases())
def test_a_case_loads_from_its_file(golden, name: str) -> None:
    """By all recorded arguments, and by nothing but what cannot be told: the same tensors; images give the recorded
    logits. What else is recorded, the other tests here compare, on models filled by the same tables."""
    case, file = golden(name), golden_cases.GOLDEN / name / "weights.safetensors"
    given = {k: v for k, v in case.meta["constructor"].items() if k not in ("cls", "attn_implementation")}
    whole = unitrans.load(file, **given)
    needed = {
        key: value for key, value in settings_of(whole).items() if key in recognise(case.weights).untold
    }
    model = unitrans.load(file, **needed)
    for (key, a), (other, b) in zip(model.named_parameters(), whole.named_parameters(), strict=True):
        assert key == other and torch.equal(a, b), key
    x = next((case.inputs[key] for key in ("x", "pixel_values") if key in case.inputs), None)
    if isinstance(whole, ImageEncoder) and "out.logits" in case.expected:
        assert x is not None
        case.check({"out.logits": whole(x).logits})
    else:
        assert name not in (
            "01a_swin_v1_ms",
            "02b_swin_v1_hf_pad_60x44_w4",
            "03a_swin_v1_timm",
            "11d_vit_timm",
        )


def settings_of(model: Any) -> dict[str, Any]:
    """Of the encoder, and of the objective where there is one."""
    config = model.config
    return getattr(config, "encoder_config", config).to_dict() | (
        getattr(config, "objective_options", None) or {}
    )


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
