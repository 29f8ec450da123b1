"""A teacher's features as targets: the same code on images, text and molecules."""

from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from unitrans.domains import get_domain
from unitrans.models import BertConfig, GraphormerConfig, SwinConfig, VitConfig
from unitrans.objectives import MaskedSignalModel, get_objective
from unitrans.objectives.base import CollapseError

VIT = VitConfig(image_size=24, patch_size=4, embed_dim=16, depth=3, num_heads=2)
BERT = BertConfig(
    vocab_size=50, embed_dim=16, depth=3, num_heads=2, drop_rate=0.0, attn_drop_rate=0.0, mask_token_id=4
)
GRAPH = GraphormerConfig(embed_dim=16, depth=3, num_heads=2, attn_drop_rate=0.0, act_drop_rate=0.0)


def samples_of(domain: str) -> list[dict[str, Any]]:
    rng = np.random.default_rng(0)
    if domain == "vision":
        return [
            {"id": str(i), "image": torch.from_numpy(rng.normal(size=(3, 24, 24))).float()} for i in range(3)
        ]
    if domain == "text":
        return [
            {"id": str(i), "input_ids": rng.integers(5, 50, n), "special": np.arange(n) == 0}
            for i, n in enumerate((12, 5, 9))
        ]
    chain = np.array([[0, 1, 1, 2, 2, 3], [1, 0, 2, 1, 3, 2]])
    return [
        {
            "id": str(i),
            "nodes": rng.integers(0, 2, (4, 9)),
            "edge_index": chain,
            "edge_attr": rng.integers(0, 2, (6, 3)),
        }
        for i in range(3)
    ]


CASES = {"vision": VIT, "text": BERT, "graph": GRAPH}


def model_and_batch(domain: str, **options: object):
    torch.manual_seed(0)
    config = CASES[domain]
    objective = get_objective("data2vec")(config, **({"top_k": 2, "mask_ratio": 0.3} | options))
    model = MaskedSignalModel.create(config, objective)
    with torch.no_grad():
        for parameter in model.encoder.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    samples = [objective.corrupt(s, np.random.default_rng(i)) for i, s in enumerate(samples_of(domain))]
    batch = get_domain(domain).collate(samples, config)
    names = {*model.batch_keys(), "patches", "input_ids", "nodes"}
    return model, {key: batch[key] for key in names if key in batch}


@pytest.mark.parametrize("domain", CASES)
def test_the_target_is_the_mean_of_the_last_blocks_of_a_teacher_that_sees_all(domain: str) -> None:
    model, batch = model_and_batch(domain)
    output = model.eval()(**batch)
    encoder, plans, mask = model.encoder, batch["plans"], batch["mask"]
    inputs = {key: value for key, value in batch.items() if key not in ("plans", "mask")}
    with torch.no_grad():  # the teacher begins as the student
        blocks = encoder.encode_blocks(encoder.embed_tokens(inputs, plans, None, None), plans)[-2:]
        rows = [F.layer_norm(encoder.token_rows(block, plans)[mask], (16,)) for block in blocks]
    torch.testing.assert_close(output.target, (rows[0] + rows[1]) / 2)
    assert output.num_targets == mask.sum() * 16 and 0 < mask.sum() < len(mask)
    guess_error = output.squared_error / output.num_targets
    assert torch.isclose(output.prediction[mask].mean(), guess_error, rtol=1e-4)
    assert (output.prediction[~mask] == 0).all()
    model.head.options.norm_mean = True
    torch.testing.assert_close(model(**batch).target, F.layer_norm((rows[0] + rows[1]) / 2, (16,)))


@pytest.mark.parametrize("domain", CASES)
def test_only_the_student_is_trained_and_the_teacher_follows(domain: str) -> None:
    model, batch = model_and_batch(domain, ema_start=0.75, ema_end=0.75)
    model.train()
    model(**batch).loss_sum.backward()
    frozen = {name for name, p in model.named_parameters() if not p.requires_grad}
    assert frozen and all(name.startswith("head.teacher.") for name in frozen)
    assert all(p.grad is None for p in model.head.teacher.parameters())
    trained = [p for p in model.parameters() if p.requires_grad and p.grad is not None]
    before = [p.clone() for p in model.head.teacher.parameters()]
    with torch.no_grad():
        for parameter in trained:
            parameter.add_(0.1)
    model.after_update()
    for old, teacher, student in zip(
        before, model.head.teacher.parameters(), model.encoder.parameters(), strict=True
    ):
        torch.testing.assert_close(teacher, 0.75 * old + 0.25 * student)


@pytest.mark.parametrize("domain", CASES)
def test_hidden_tokens_are_not_seen_by_the_student(domain: str) -> None:
    model, batch = model_and_batch(domain)
    model.eval()
    key = {"vision": "patches", "text": "input_ids", "graph": "nodes"}[domain]
    other = torch.where(batch["mask"].view(-1, *[1] * (batch[key].dim() - 1)), batch[key].flip(0), batch[key])
    encoder = model.encoder
    rows = [
        encoder.embed_tokens({key: value}, batch["plans"], batch["mask"], model.head.mask_token)
        for value in (batch[key], other)
    ]
    assert torch.equal(*rows)
    assert not torch.equal(
        model(**batch).target, model(**batch | {key: other}).target
    )  # the teacher sees them


def test_special_tokens_are_never_hidden() -> None:
    objective = get_objective("data2vec")(BERT, mask_ratio=0.9, top_k=1)
    for seed in range(20):
        for sample in samples_of("text"):
            mask = objective.corrupt(sample, np.random.default_rng(seed))["mask"]
            assert not mask[0] and mask.sum() == round(0.9 * (len(mask) - 1))


def test_explained_is_the_share_of_variance() -> None:
    objective = get_objective("data2vec")(VIT, top_k=1)
    target = torch.randn(50, 16, dtype=torch.float64)
    guess = target + torch.randn_like(target) * 0.5

    class Output(dict):
        prediction = torch.zeros(1)

    parts = [
        objective.collect({}, Output(squared_error=(g - t).square().sum(), target=t))
        for g, t in zip(guess.split(20), target.split(20), strict=True)
    ]
    figures = objective.figures({key: torch.cat([part[key] for part in parts]) for key in parts[0]})
    want = 1 - (guess - target).square().sum() / (target - target.mean(0)).square().sum()
    assert figures["explained"] == pytest.approx(float(want))
    assert figures["target_std"] == pytest.approx(float(target.std(0, correction=0).mean()))


def test_a_flat_teacher_is_noticed() -> None:
    """All tokens alike: without positions and with equal patches the targets do not differ."""
    torch.manual_seed(0)
    config = VitConfig(image_size=24, patch_size=4, embed_dim=16, depth=1, num_heads=2, ape=False)
    objective = get_objective("data2vec")(config, top_k=1)
    model = MaskedSignalModel.create(config, objective).train()
    sample = objective.corrupt({"id": "0", "image": torch.ones(3, 24, 24)}, np.random.default_rng(0))
    batch = get_domain("vision").collate([sample], config)
    inputs = {key: batch[key] for key in ("patches", "plans", "mask")}
    for _ in range(19):
        model(**inputs)
        model.after_update()
    model(**inputs)
    with pytest.raises(CollapseError, match="update 20: the targets have collapsed"):
        model.after_update()


def test_wrong_settings_are_named() -> None:
    with pytest.raises(ValueError, match=r"top_k: expected at most the 3 blocks of the encoder, got 6"):
        get_objective("data2vec")(VIT)
    with pytest.raises(ValueError, match="mask_shape: blocks are of patches"):
        get_objective("data2vec")(BERT, top_k=1, mask_shape="blocks")
    with pytest.raises(ValueError, match="expected an encoder with one row per patch"):
        get_objective("data2vec")(SwinConfig())
    with pytest.raises(ValueError, match="ema_end: expected at least ema_start"):
        get_objective("data2vec")(VIT, top_k=1, ema_start=0.9, ema_end=0.5)
