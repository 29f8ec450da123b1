"""BERT, RoBERTa and GPT-2 against transformers: padded reference there, packed computation here.

Every case of ../shared/golden whose meta.json names one of these classes is run, by what its io file holds.
"""

import functools
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from unitrans import models
from unitrans.models.convert import config_from, export_tensors, load_weights
from unitrans.models.text import padded_like
from unitrans.nn import block

GOLDEN = Path(__file__).parents[3] / "shared" / "golden"
KINDS: dict[str, Any] = {
    "BertModel": models.BertModel,
    "BertForMaskedLM": models.BertForMaskedLM,
    "BertForPreTraining": models.BertForPreTraining,
    "BertForNextSentencePrediction": models.BertForNextSentencePrediction,
    "BertForSequenceClassification": models.BertForSequenceClassification,
    "BertForTokenClassification": models.BertForTokenClassification,
    "RobertaModel": models.BertModel,
    "RobertaForMaskedLM": models.BertForMaskedLM,
    "GPT2Model": models.Gpt2Model,
    "GPT2LMHeadModel": models.Gpt2LMHeadModel,
}


def reference(meta: dict[str, Any]) -> str:
    """The name of the class that a case was made with."""
    return str(meta.get("constructor", {}).get("cls", "")).partition("(")[0]


def cases() -> list[str]:
    found = {folder.parent.name: json.loads(folder.read_text()) for folder in GOLDEN.glob("*/meta.json")}
    return sorted(
        name for name, meta in found.items() if reference(meta) in KINDS and meta.get("kind") is None
    ) or ["09a_bert_model_hf"]


def converted(case: Any) -> Any:
    """Our model of a case, filled with its weights."""
    name = reference(case.meta)
    family = "gpt2" if name.startswith("GPT2") else "roberta" if name.startswith("Roberta") else "bert"
    arguments = {k: v for k, v in case.meta["constructor"].items() if k not in ("cls", "attn_implementation")}
    model = KINDS[name](config_from("hf5", arguments | {"architectures": [name]}, family)).eval()
    report = load_weights(model, case.weights, "hf5")
    assert not report.missing and not report.unexpected and not report.resized
    return model


@pytest.mark.parametrize("backend", ["cpu", "reference"])
@pytest.mark.parametrize("name", cases())
def test_text(golden: Callable[[str], Any], monkeypatch: pytest.MonkeyPatch, name: str, backend: str) -> None:
    call = functools.partial(block.attention_qkvpacked, backend=backend)
    monkeypatch.setattr(block, "attention_qkvpacked", call)
    case = golden(name)
    model = converted(case)
    asked = ("input_ids", "attention_mask", "token_type_ids", "labels", "next_sentence_label")
    inputs = {key: case.inputs[key] for key in asked if key in case.inputs}
    mask = inputs.get("attention_mask", torch.ones_like(inputs["input_ids"])).bool()
    output = model(**inputs)
    loss = output.loss
    if loss is None:
        loss = (output.last_hidden_state * case.inputs["loss_w"] * mask[..., None]).sum()
        loss = loss + output.pooler_output.sum() if "out.pooler_output" in case.expected else loss
    loss.backward()
    grads = {key: p.grad for key, p in model.named_parameters() if p.grad is not None}
    exported = {f"grad.{key}": grad for key, grad in export_tensors(model, grads, "hf5").items()}
    found = {key: grad for key, grad in exported.items() if key in case.expected}
    assert len(found) == sum(key.startswith("grad.") for key in case.expected), (
        "some gradients were not compared"
    )

    with torch.no_grad():
        plain = {key: x for key, x in inputs.items() if "label" not in key}
        found |= {"out.loss": loss} | outputs(case, model, plain, mask)
    assert len(found) > len(grads) / 2 + 1, "no output was compared"
    case.check(found)


def outputs(case: Any, model: Any, inputs: dict[str, Tensor], mask: Tensor) -> dict[str, Tensor]:
    """Scores, rows behind every block and pooled rows, where the case has them; at padding the recorded ones."""
    encoder = getattr(model, "encoder", model)
    ids = inputs["input_ids"]
    text = encoder.pack(ids, inputs.get("attention_mask"), inputs.get("token_type_ids"))
    x = encoder.embed(text.input_ids, text.plans, text.token_type_ids)
    behind = encoder.encode_blocks(x, text.plans)
    rows = {f"out.hidden_states_{number}": h for number, h in enumerate([x, *behind[:-1]])}
    last = encoder.norm(behind[-1])
    rows |= {"out.last_hidden_state": last, f"out.hidden_states_{len(behind)}": last}
    got = {key: padded_like(h, ids, text.places) for key, h in rows.items()}
    output = model(**inputs)
    got["out.logits"] = got["out.prediction_logits"] = output.logits
    if model is encoder:
        got["out.pooler_output"] = output.pooler_output
    else:
        got["out.seq_relationship_logits"] = output.pooler_output
    kept = {}
    for key, tensor in got.items():
        want = case.expected.get(key)
        if want is not None and tensor is not None:
            is_padded = tensor.shape[:2] == mask.shape and tensor.dim() == 3
            kept[key] = torch.where(mask[..., None], tensor, want) if is_padded else tensor
    return kept
