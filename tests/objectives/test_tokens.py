"""Masked and causal language modelling and classes of words: what is hidden, what is summed, what is measured."""

from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from unitrans.models import BertConfig, Gpt2Config
from unitrans.objectives import Labels, MaskedSignalModel, make_objective
from unitrans.training.random import sample_rng

SMALL = {"vocab_size": 200, "embed_dim": 16, "depth": 1, "num_heads": 2, "max_position_embeddings": 64}
SMALL |= {"drop_rate": 0.0, "attn_drop_rate": 0.0}
MASK = 4


def bert(**changes: Any) -> BertConfig:
    return BertConfig(**SMALL, mask_token_id=MASK, **changes)


def sample(n: int = 60, seed: int = 0) -> dict[str, Any]:
    rng = np.random.default_rng(seed)
    ids = rng.integers(10, 200, n)
    ids[0], ids[-1] = 2, 3
    special = np.isin(ids, (2, 3))
    start = rng.random(n) < 0.6
    start[:2] = True
    return {"id": f"s{seed}", "input_ids": ids, "special": special, "word_start": start}


def corrupted(
    options: dict[str, Any], count: int = 300, n: int = 60
) -> list[tuple[dict[str, Any], dict[str, Any]]]:
    objective = make_objective("mlm", bert(), options)
    pairs = []
    for seed in range(count):
        plain = sample(n, seed)
        pairs.append((plain, objective.corrupt(plain, sample_rng(0, 0, plain["id"], "mask"))))
    return pairs


def test_shares_of_what_is_hidden() -> None:
    """15 % of the tokens; 80 % of these masked, 10 % random, 10 % as they are; the rest untouched, specials never."""
    hidden = masked = kept = tokens = 0
    drawn: list[int] = []
    for plain, got in corrupted({}):
        asked = got["labels"] != -100
        assert not asked[plain["special"]].any()
        assert (got["input_ids"][~asked] == plain["input_ids"][~asked]).all()
        assert (got["labels"][asked] == plain["input_ids"][asked]).all()
        hidden, tokens = hidden + asked.sum(), tokens + (~plain["special"]).sum()
        masked += (got["input_ids"][asked] == MASK).sum()
        kept += (got["input_ids"][asked] == plain["input_ids"][asked]).sum()
        drawn += got["input_ids"][
            asked & (got["input_ids"] != MASK) & (got["input_ids"] != plain["input_ids"])
        ].tolist()
    assert hidden / tokens == pytest.approx(0.15, abs=0.01)
    assert masked / hidden == pytest.approx(0.8, abs=0.03)
    assert kept / hidden == pytest.approx(0.1, abs=0.02)
    assert min(drawn) < 20 and max(drawn) > 180 and len(set(drawn)) > 80, (
        "random tokens come from all of the vocabulary"
    )


def test_exact_counts() -> None:
    for plain, got in corrupted({"exact_count": True, "mlm_probability": 0.3}, count=20):
        assert (got["labels"] != -100).sum() == round(0.3 * (~plain["special"]).sum())
    for _, got in corrupted({"exact_count": True}, count=20, n=4):
        assert (got["labels"] != -100).sum() == 1, "at least one"
    counts = {(got["labels"] != -100).sum() for _, got in corrupted({}, count=20)}
    assert len(counts) > 3, "without it the count varies"


@pytest.mark.parametrize("exact", [False, True])
def test_whole_words(exact: bool) -> None:
    hidden = tokens = 0
    for plain, got in corrupted({"whole_word_mask": True, "exact_count": exact}):
        word = np.cumsum(plain["word_start"] | plain["special"])
        asked = got["labels"] != -100
        for number in np.unique(word[~plain["special"]]):
            of_word = (word == number) & ~plain["special"]
            assert asked[of_word].all() or not asked[of_word].any(), "a word stands or falls as one"
        if exact:
            assert asked.sum() <= round(0.15 * (~plain["special"]).sum())
        hidden, tokens = hidden + asked.sum(), tokens + (~plain["special"]).sum()
    assert hidden / tokens == pytest.approx(0.15, abs=0.02)


def test_masks_follow_from_seed_epoch_and_id() -> None:
    objective = make_objective("mlm", bert(), {})
    plain = sample()
    first, again = (objective.corrupt(plain, sample_rng(0, 1, "s", "mask"))["labels"] for _ in range(2))
    assert (first == again).all()
    for seed, epoch, name in ((1, 1, "s"), (0, 2, "s"), (0, 1, "t")):
        other = objective.corrupt(plain, sample_rng(seed, epoch, name, "mask"))["labels"]
        assert (first != other).any()
    nothing = {"input_ids": np.array([2, 3]), "special": np.array([True, True]), "id": "e"}
    assert (objective.corrupt(nothing, sample_rng(0, 0, "e", "mask"))["labels"] == -100).all()


@pytest.mark.parametrize(
    ("name", "config", "options", "message"),
    [
        ("mlm", Gpt2Config(**SMALL), {}, "expected an encoder that sees both sides"),
        ("clm", BertConfig(**SMALL), {}, "expected a causal encoder, got bert"),
        ("mlm", BertConfig(**SMALL), {}, "mask_token_id: mlm needs the token"),
        ("mlm", BertConfig(**SMALL, mask_token_id=200), {}, "mask_token_id: expected a token from 0 to 199"),
        (
            "mlm",
            BertConfig(**SMALL),
            {"mask_replace_prob": 0.8, "random_replace_prob": 0.3},
            "expected at most 1",
        ),
    ],
)
def test_what_does_not_fit_is_named(name: str, config: Any, options: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make_objective(name, config, options)


def test_masked_loss_runs_on_predicted_rows_only() -> None:
    """The sum over hidden tokens, equal to the whole table's; rows in front of the vocabulary are exactly those."""
    config = bert()
    objective = make_objective("mlm", config, {})
    model = MaskedSignalModel.create(config, objective).eval()
    samples = [objective.corrupt(sample(n, n), np.random.default_rng(n)) for n in (30, 7, 50)]
    ids = torch.from_numpy(np.concatenate([s["input_ids"] for s in samples]))
    labels = torch.from_numpy(np.concatenate([s["labels"] for s in samples]))
    plans = config.plans([30, 7, 50])
    seen: list[int] = []
    model.head.dense.register_forward_hook(lambda module, args, out: seen.append(len(args[0])))
    batch = {"input_ids": ids, "plans": plans, "labels": labels}
    output = model(**batch)
    asked = labels != -100
    assert seen == [int(asked.sum())] and int(output.num_targets) == seen[0]
    everything = model(input_ids=ids, plans=plans).prediction
    assert (
        torch.equal(output.prediction[asked], everything[asked]) and (output.prediction[~asked] == -100).all()
    )
    rows = model.encoder.features(ids, plans)
    table = model.encoder.embeddings.word_embeddings.weight
    hidden = model.head.norm(F.gelu(model.head.dense(rows)))
    want = F.cross_entropy(
        (hidden @ table.t() + model.head.output_bias)[asked], labels[asked], reduction="sum"
    )
    torch.testing.assert_close(output.loss_sum, want, rtol=1e-5, atol=1e-4)
    right = int((output.prediction[asked][:, 0] == labels[asked]).sum())
    assert objective.metrics(batch, output, None)["accuracy"].tolist() == [right, int(asked.sum())]
    collected = objective.collect(batch, output)
    figure = objective.figures({k: torch.cat([x, x]) for k, x in collected.items()})["perplexity"]
    assert figure == pytest.approx(float((want / asked.sum()).exp()), rel=1e-4)
    given = model(**batch, predicted=asked.nonzero().squeeze(1))
    assert torch.equal(given.loss_sum, output.loss_sum)
    assert model.train()(**batch).prediction is None


def test_causal_loss_predicts_the_next_token_of_the_same_document() -> None:
    config = Gpt2Config(**SMALL)
    objective = make_objective("clm", config, {})
    model = MaskedSignalModel.create(config, objective).eval()
    samples = [objective.corrupt(sample(n, n), np.random.default_rng(0)) for n in (9, 5)]
    ids = torch.from_numpy(np.concatenate([s["input_ids"] for s in samples]))
    labels = torch.from_numpy(np.concatenate([s["labels"] for s in samples]))
    assert (labels == -100).nonzero().flatten().tolist() == [8, 13] and torch.equal(labels[:8], ids[1:9])
    output = model(input_ids=ids, plans=config.plans([9, 5]), labels=labels)
    want = torch.zeros(())
    for document in (ids[:9], ids[9:]):
        rows = model.encoder.features(document, config.plans([len(document)]))
        logits = rows @ model.encoder.embeddings.word_embeddings.weight.t()
        want = want + F.cross_entropy(logits[:-1], document[1:], reduction="sum")
    torch.testing.assert_close(output.loss_sum, want, rtol=1e-5, atol=1e-4)
    assert int(output.num_targets) == 12


def test_classes_of_words() -> None:
    config = bert()
    labels = Labels("token", ("a", "b", "c"), (5, 3, 2))
    objective = make_objective("token_classification", config, {"head_dropout": 0.0}, labels)
    model = MaskedSignalModel.create(config, objective).eval()
    ids, truth = torch.randint(5, 200, (12,)), torch.tensor([-100, 0, 1, -100, 2, 0, 0, -100, 1, 2, 0, -100])
    batch = {"input_ids": ids, "plans": config.plans([7, 5]), "labels": truth}
    output = model(**batch)
    asked = truth != -100
    logits = model.head.linear(model.encoder.features(ids, batch["plans"]))
    torch.testing.assert_close(output.loss_sum, F.cross_entropy(logits[asked], truth[asked], reduction="sum"))
    assert int(output.num_targets) == 8
    from sklearn.metrics import f1_score

    figures = objective.figures(objective.collect(batch, output))
    want = f1_score(truth[asked].numpy(), output.prediction[asked].numpy(), average="macro")
    assert figures["macro_f1"] == pytest.approx(float(want))
    assert figures["accuracy"] == pytest.approx(float((output.prediction[asked] == truth[asked]).sum()) / 8)
    first = objective.collect(batch, output)["confusion"][0]
    assert int(first.sum()) == 5, "the words of a document are counted together"
