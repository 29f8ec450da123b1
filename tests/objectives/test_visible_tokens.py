"""Text and molecules whose hidden tokens the encoder does not see."""

from typing import Any

import numpy as np
import pytest
import torch

from unitrans.domains import get_domain
from unitrans.models import BertConfig, Gpt2Config, GraphormerConfig
from unitrans.models.whole import restricted
from unitrans.objectives import MaskedSignalModel, get_objective
from unitrans.ops import Plan, attention

BERT = BertConfig(
    vocab_size=50, embed_dim=16, depth=2, num_heads=2, drop_rate=0.0, attn_drop_rate=0.0, mask_token_id=4
)
GRAPH = GraphormerConfig(embed_dim=16, depth=2, num_heads=2, attn_drop_rate=0.0, act_drop_rate=0.0)
CASES = {"text": ("mlm", BERT, {"mlm_probability": 0.4}), "graph": ("mgm", GRAPH, {"mask_ratio": 0.4})}


def samples_of(domain: str) -> list[dict[str, Any]]:
    rng = np.random.default_rng(0)
    if domain == "text":
        return [
            {"id": str(i), "input_ids": rng.integers(5, 50, n), "special": np.arange(n) == 0}
            for i, n in enumerate((12, 5, 9))
        ]
    ring = np.array([[0, 1, 2, 3, 4, 1, 2, 3, 4, 0], [1, 2, 3, 4, 0, 0, 1, 2, 3, 4]])
    return [
        {
            "id": str(i),
            "nodes": rng.integers(0, 2, (5, 9)),
            "edge_index": ring,
            "edge_attr": np.tile(rng.integers(0, 2, (5, 3)), (2, 1)),
        }
        for i in range(3)
    ]


def model_and_batch(domain: str):
    torch.manual_seed(0)
    name, config, options = CASES[domain]
    objective = get_objective(name)(config, encoder_tokens="visible", decoder_depth=2, **options)
    model = MaskedSignalModel.create(config, objective).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    samples = [objective.corrupt(s, np.random.default_rng(i)) for i, s in enumerate(samples_of(domain))]
    batch = get_domain(domain).collate(samples, config)
    return model, {key: batch[key] for key in model.batch_keys() if key in batch}


def test_a_restricted_plan_reads_its_own_rows_and_columns_of_the_bias() -> None:
    torch.manual_seed(0)
    plan = Plan.from_lengths([5, 0, 3], bias="ragged")
    keep = torch.tensor([True, False, True, True, False, False, True, True])
    q, k, v = torch.randn(3, 8, 2, 4)
    bias = torch.randn(2, 34)
    got = attention(q[keep], k[keep], v[keep], restricted(plan, keep), bias=bias)
    for head in range(2):
        for rows, start, size in (((0, 2, 3), 0, 5), ((6, 7), 5, 3)):
            index, local = torch.tensor(rows), torch.tensor(rows) - start
            plane = bias[head, start * 5 : start * 5 + size * size].view(size, size)
            scores = q[index, head] @ k[index, head].t() * 0.5 + plane[local][:, local]
            want = scores.softmax(1) @ v[index, head]
            places = torch.searchsorted(keep.nonzero().squeeze(1), index)
            torch.testing.assert_close(got[places, head], want, rtol=0, atol=1e-5)


@pytest.mark.parametrize("domain", CASES)
def test_nothing_hidden_is_bit_equal(domain: str) -> None:
    model, batch = model_and_batch(domain)
    key = "input_ids" if domain == "text" else "nodes"
    plans = get_domain(domain).collate(samples_of(domain), CASES[domain][1])["plans"]
    everything = plans.keeping(torch.ones(len(batch[key]), dtype=torch.bool))
    want, got = (model.encoder.features(batch[key].abs(), p) for p in (plans, everything))
    assert torch.equal(got, want)


@pytest.mark.parametrize("domain", CASES)
def test_hidden_tokens_are_not_seen_and_all_weights_learn(domain: str) -> None:
    model, batch = model_and_batch(domain)
    output = model(**batch)
    assert output.num_targets > 0 and torch.isfinite(output.loss_sum)
    output.loss_sum.backward()
    without = [n for n, p in model.named_parameters() if p.requires_grad and p.grad is None]
    assert not [name for name in without if not name.startswith("encoder.pool")]
    plans = batch["plans"]
    if domain == "text":
        hidden = batch["labels"] != -100
        other = torch.where(hidden, 49 - batch["input_ids"] % 40, batch["input_ids"])
        changed = model(**batch | {"input_ids": other})
        assert torch.equal(changed.prediction, output.prediction)
        assert plans.groups.num_tokens == int((~hidden).sum())
        assert torch.equal(plans.place, plans.whole.place[~hidden, 1])
        seen = torch.where(hidden, batch["input_ids"], 54 - batch["input_ids"])
        assert not torch.equal(model(**batch | {"input_ids": seen}).prediction, output.prediction)
    else:
        assert plans.visible_groups.num_tokens == int((~batch["mask"]).sum()) + 3
        assert (batch["nodes"][batch["mask"]] == -1).all()
        moved = torch.where(batch["mask"][:, None], batch["nodes"], 1 - batch["nodes"])
        assert not torch.equal(model(**batch | {"nodes": moved}).loss_sum, output.loss_sum)


def test_causal_documents_are_refused() -> None:
    plans = Gpt2Config(vocab_size=20, embed_dim=16, depth=1, num_heads=2).plans([3, 4])
    with pytest.raises(ValueError, match="seen from both sides"):
        plans.keeping(torch.ones(7, dtype=torch.bool))
