"""One trunk for images, texts and graphs: what a domain gets does not depend on who travels with it."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from unitrans.models import JointConfig, JointModel, VitConfig, VitModel
from unitrans.nn import block as blocks

VIT = {
    "model_type": "unitrans-vit",
    "image_size": 4,
    "patch_size": 1,
    "in_chans": 1,
    "relative_position": "shared",
}
BERT = {"model_type": "unitrans-bert", "vocab_size": 30, "max_position_embeddings": 8}
GPT2 = {"model_type": "unitrans-gpt2", "vocab_size": 30, "max_position_embeddings": 8}
GRAPHORMER = {"model_type": "unitrans-graphormer", "num_atoms": 40, "feature_offset": 20, "final_norm": True}


def make(text: dict[str, Any] = BERT) -> JointModel:
    torch.manual_seed(0)
    config = JointConfig(
        embed_dim=16, depth=3, num_heads=2, initializer_range=0.3, vision=VIT, text=text, graph=GRAPHORMER
    )
    model = JointModel(config).eval()
    with torch.no_grad():  # priors that matter
        for name, parameter in model.named_parameters():
            if "bias_table" in name or "spatial_pos" in name or "edge" in name:
                parameter.copy_(torch.randn(parameter.shape))
    return model


def batch(model: JointModel) -> dict[str, Any]:
    config, draw = model.config, torch.Generator().manual_seed(1)
    edges, bonds = [[0, 1, 1, 2, 0, 1], [1, 0, 2, 1, 1, 0]], torch.zeros(6, 1, dtype=torch.int64)
    return {
        "vision": {
            "patches": torch.randn(32, 1, generator=draw),
            "plans": config.vision.plans([(4, 4), (4, 4)]),
        },
        "text": {
            "input_ids": torch.randint(0, 30, (12,), generator=draw),
            "plans": config.text.plans([5, 0, 7]),
        },
        "graph": {
            "nodes": torch.randint(0, 9, (5, 2), generator=draw),
            "plans": config.graph.plans([3, 2], [4, 2], edges, bonds),
        },
    }


@pytest.mark.parametrize("text", [BERT, GPT2], ids=["bert", "gpt2"])
def test_a_domain_gets_the_same_alone_and_in_company(text: dict[str, Any]) -> None:
    model = make(text)
    inputs = batch(model)
    together = model(**inputs)
    for others in (("vision",), ("text",), ("graph",), ("text", "graph"), ("vision", "graph")):
        for name, alone in model(**{other: inputs[other] for other in others}).items():
            for key in ("last_hidden_state", "pooler_output"):
                torch.testing.assert_close(together[name][key], alone[key], rtol=0, atol=1e-6, equal_nan=True)


def test_a_part_is_the_model_of_its_domain() -> None:
    model = make()
    alone = VitModel(
        VitConfig(**{k: v for k, v in model.config.vision.to_dict().items() if k != "model_type"})
    )
    weights = {
        key.removeprefix("parts.vision."): value
        for key, value in model.state_dict().items()
        if key.startswith(("parts.vision.", "blocks."))
    }
    alone.load_state_dict(weights)
    inputs = batch(model)
    got = alone.eval()(**inputs["vision"]).last_hidden_state
    torch.testing.assert_close(model(**inputs)["vision"].last_hidden_state, got, rtol=0, atol=1e-6)


def test_a_block_attends_once_for_all_domains(monkeypatch: pytest.MonkeyPatch) -> None:
    groups: list[int] = []

    def counted(attend: Callable[..., Tensor]) -> Callable[..., Tensor]:
        def call(qkv: Tensor, plan: Any, **options: Any) -> Tensor:
            groups.append(plan.num_groups)
            return attend(qkv, plan, **options)

        return call

    monkeypatch.setattr(blocks, "attention_qkvpacked", counted(blocks.attention_qkvpacked))
    model = make()
    model(**batch(model))
    assert groups == [2 + 3 + 2] * 3


@pytest.mark.parametrize(
    ("parts", "words"),
    [
        ({"vision": {"model_type": "unitrans-swin"}}, "model.vision.name: expected vit"),
        ({"text": BERT | {"norm": "post"}}, "model.text.norm: .* expected pre, got post"),
        ({"graph": GRAPHORMER | {"depth": 2}}, "model.graph.depth: .* expected 12, got 2"),
        ({"vision": VIT | {"relative_position": "per_layer"}}, "model.vision.relative_position"),
        ({}, "at least one of vision, text, graph"),
    ],
)
def test_what_cannot_share_blocks_is_refused(parts: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        JointConfig(**parts)


def test_layers_are_counted_through_the_parts() -> None:
    model = make()
    found = {name: model.layer_id(name) for name, _ in model.named_parameters()}
    assert found["parts.vision.patch_embed.proj.weight"] == 0
    assert found["parts.graph.pair_bias.spatial_pos_encoder.weight"] == 0
    assert found["blocks.1.attn.qkv.weight"] == 2
    assert found["parts.text.norm.weight"] == found["parts.vision.norm.weight"] == 4 == model.num_layers - 1
    assert "parts.vision.pos_embed" in model.no_weight_decay()
