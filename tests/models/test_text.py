"""BERT, RoBERTa and GPT-2 against the installed transformers in both directions, and what they refuse."""

from typing import Any

import pytest
import torch
import transformers
from torch import nn

from unitrans import models
from unitrans.models import BertConfig, BertForMaskedLM, BertModel, Gpt2Config, Gpt2LMHeadModel, Gpt2Model
from unitrans.models.convert import config_from, config_to_hf, export_tensors, export_weights, load_weights
from unitrans.models.text_heads import sample_tokens

BERT = {
    "vocab_size": 60, "hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 3, "intermediate_size": 50,
    "max_position_embeddings": 20, "hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0, "num_labels": 4,
}  # fmt: skip
ROBERTA = BERT | {"pad_token_id": 1, "type_vocab_size": 1, "layer_norm_eps": 1e-5}
GPT2 = {
    "vocab_size": 60, "n_embd": 24, "n_layer": 2, "n_head": 3, "n_inner": 50, "n_positions": 20,
    "resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0,
}  # fmt: skip
HF = transformers
PAIRS = [
    (HF.BertModel, HF.BertConfig, BERT, models.BertModel),
    (HF.BertForMaskedLM, HF.BertConfig, BERT | {"hidden_act": "gelu_new"}, models.BertForMaskedLM),
    (HF.BertForPreTraining, HF.BertConfig, BERT, models.BertForPreTraining),
    (HF.BertForNextSentencePrediction, HF.BertConfig, BERT, models.BertForNextSentencePrediction),
    (HF.BertForSequenceClassification, HF.BertConfig, BERT, models.BertForSequenceClassification),
    (HF.BertForTokenClassification, HF.BertConfig, BERT, models.BertForTokenClassification),
    (HF.RobertaModel, HF.RobertaConfig, ROBERTA, models.BertModel),
    (HF.RobertaForMaskedLM, HF.RobertaConfig, ROBERTA, models.BertForMaskedLM),
    (HF.GPT2LMHeadModel, HF.GPT2Config, GPT2, models.Gpt2LMHeadModel),
]


def randomised(model: nn.Module) -> Any:
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.copy_(
                torch.randn(parameter.shape, generator=generator) * 0.3 + ("norm" in name.lower())
            )
    return model.eval()


def batch(name: str, pad: int, side: str = "right") -> tuple[dict[str, torch.Tensor], torch.Tensor]:
    """Three sentences of 9, 5 and 1 tokens and what is asked of them."""
    generator = torch.Generator().manual_seed(1)
    ids = torch.randint(2, 60, (3, 9), generator=generator)
    real = torch.arange(9) < torch.tensor([[9], [5], [1]])
    real = real.flip(1) if side == "left" else real
    ids = torch.where(real, ids, pad)
    inputs = {"input_ids": ids, "attention_mask": real.long()}
    if name.startswith("Bert"):
        inputs["token_type_ids"] = torch.randint(0, 2, (3, 9), generator=generator)
    tokens = torch.where(real & (torch.rand(3, 9, generator=generator) < 0.5), ids, -100)
    tokens[0, 3] = ids[0, 3]
    if side == "left":  # there a padding column would predict the first token
        tokens[~real.roll(1, 1)] = -100
    if name.endswith(("ForMaskedLM", "ForPreTraining", "LMHeadModel")):
        inputs["labels"] = tokens
    if name.endswith("ForTokenClassification"):
        inputs["labels"] = torch.where(real, ids % 4, -100)
    if name.endswith(("ForNextSentencePrediction", "ForSequenceClassification")):
        inputs["labels"] = torch.tensor([1, 0, 1])
    if name.endswith("ForPreTraining"):
        inputs["next_sentence_label"] = torch.tensor([1, 0, 1])
    return inputs, real


SIDES = [(*pair, "right") for pair in PAIRS]
# With padding on the left their pooler reads a padding column, ours the first token: models without one.
SIDES += [
    (*pair, "left")
    for pair in PAIRS
    if pair[0].__name__.endswith(("MaskedLM", "LMHeadModel", "TokenClassification"))
]


@pytest.mark.parametrize(
    ("theirs", "config", "arguments", "kind", "side"), SIDES, ids=[f"{p[0].__name__}-{p[4]}" for p in SIDES]
)
def test_like_transformers(theirs: Any, config: Any, arguments: dict, kind: Any, side: str) -> None:
    """Loss or rows, scores, every gradient, and the weights there and back."""
    hf = randomised(theirs(config(**arguments)))
    name = theirs.__name__
    model = kind(config_from("hf5", hf.config.to_dict() | {"architectures": [name]})).eval()
    load_weights(model, hf.state_dict(), "hf5")
    inputs, real = batch(name, hf.config.pad_token_id or 0, side)
    want, got = hf(**inputs), model(**inputs)
    loss, their_loss = got.loss, getattr(want, "loss", None)
    if loss is None:
        weight = torch.randn(3, 9, 24, generator=torch.Generator().manual_seed(2)) * real[..., None]
        loss = (got.last_hidden_state * weight).sum() + got.pooler_output.sum()
        their_loss = (want.last_hidden_state * weight).sum() + want.pooler_output.sum()
    torch.testing.assert_close(loss, their_loss, rtol=1e-5, atol=1e-5)
    loss.backward()
    their_loss.backward()
    wanted = {key: p.grad for key, p in hf.named_parameters() if p.grad is not None}
    grads = {key: p.grad for key, p in model.named_parameters() if p.grad is not None}
    exported = export_tensors(model, grads, "hf5")
    assert exported.keys() == wanted.keys()
    largest = max(grad.abs().max().item() for grad in wanted.values())
    for key, grad in wanted.items():
        error = (exported[key] - grad).abs().max().item()
        assert error <= 1e-4 * grad.abs().max().item() + 2e-6 * largest, f"{key}: {error:.2e}"
    weights = export_weights(model, "hf5")
    fresh = theirs(config(**arguments))
    assert not fresh.load_state_dict(weights, strict=False).unexpected_keys
    fresh.tie_weights()
    assert all(
        torch.equal(a, b) for a, b in zip(fresh.state_dict().values(), hf.state_dict().values(), strict=True)
    )
    plain = {key: x for key, x in inputs.items() if "label" not in key}
    with torch.no_grad():
        want, got = hf(**plain), model(**plain)
    if "logits" in want:
        mask = real if want.logits.dim() == 3 else torch.ones(3, dtype=torch.bool)
        torch.testing.assert_close(got.logits[mask], want.logits[mask], rtol=1e-4, atol=1e-4)
        assert want.logits.dim() != 3 or not got.logits[~real].any()


def test_prefixes_and_old_names() -> None:
    """With and without bert., gamma and beta, position_ids, tied copies: all are understood."""
    hf = randomised(HF.BertForMaskedLM(HF.BertConfig(**BERT)))
    config = config_from("hf4", hf.config.to_dict(), family="bert")
    weights = {
        key.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta"): x
        for key, x in hf.state_dict().items()
    }
    weights["bert.embeddings.position_ids"] = torch.arange(20)[None]
    model = BertForMaskedLM(config)
    report = load_weights(model, weights, "hf4")
    assert (
        "cls.predictions.decoder.weight" in report.derived
        and "bert.embeddings.position_ids" in report.derived
    )
    bare = BertModel(config)
    kept = {key.removeprefix("bert."): x for key, x in weights.items() if key.startswith("bert.")}
    for names in (kept, {f"bert.{key}": x for key, x in kept.items()}):
        load_weights(bare, names, "hf4")
        assert all(
            torch.equal(a, b) for a, b in zip(bare.parameters(), model.encoder.parameters(), strict=True)
        )


def test_untied_decoder_is_refused() -> None:
    hf = HF.BertForMaskedLM(HF.BertConfig(**BERT))
    weights = dict(hf.state_dict())
    weights["cls.predictions.decoder.weight"] = weights["cls.predictions.decoder.weight"] + 1
    model = BertForMaskedLM(config_from("hf5", hf.config.to_dict()))
    with pytest.raises(
        ValueError, match="decoder.weight .* differs from bert.embeddings.word_embeddings.weight"
    ):
        load_weights(model, weights, "hf5")


@pytest.mark.parametrize(
    ("theirs", "message"),
    [
        (
            {"model_type": "bert", "position_embedding_type": "relative_key"},
            "position_embedding_type: expected",
        ),
        ({"model_type": "bert", "is_decoder": True}, "is_decoder: expected False, got True"),
        ({"model_type": "bert", "hidden_act": "silu"}, "hidden_act: expected one of gelu, .*got 'silu'"),
        ({"model_type": "gpt2", "scale_attn_by_inverse_layer_idx": True}, "scale_attn_by_inverse_layer_idx"),
        ({"model_type": "gpt2", "embd_pdrop": 0.0}, "embd_pdrop: expected the same as resid_pdrop"),
    ],
)
def test_settings_that_are_not_ours(theirs: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        config_from("hf5", theirs)


@pytest.mark.parametrize(
    ("config", "architecture"), [(BERT, "BertForMaskedLM"), (ROBERTA, "RobertaForMaskedLM")]
)
def test_configuration_there_and_back(config: dict[str, Any], architecture: str) -> None:
    family = architecture.partition("For")[0].lower()
    ours = config_from("hf5", {"model_type": family} | config)
    back = config_from("hf5", config_to_hf(ours, architecture))
    assert back.to_diff_dict() == ours.to_diff_dict() | {"num_labels": 2} or back.mlp_ratio == ours.mlp_ratio
    assert back.position_offset == ours.position_offset == (2 if family == "roberta" else 0)
    assert back.max_position_embeddings == ours.max_position_embeddings


def small(kind: type = BertConfig, **changes: Any) -> Any:
    arguments = {"vocab_size": 50, "embed_dim": 16, "depth": 2, "num_heads": 2, "max_position_embeddings": 12}
    return kind(**(arguments | {"drop_rate": 0.0, "attn_drop_rate": 0.0} | changes))


@pytest.mark.parametrize(("kind", "config"), [(BertModel, BertConfig), (Gpt2Model, Gpt2Config)])
def test_documents_never_see_each_other(kind: Any, config: Any) -> None:
    """A stream of several documents gives each the rows it has alone; padding and its content change nothing."""
    model = randomised(kind(small(config)))
    documents = [torch.randint(0, 50, (n,)) for n in (5, 1, 12, 3)]
    stream = model.features(torch.cat(documents), model.config.plans([5, 1, 12, 3]))
    alone = torch.cat([model.features(ids, model.config.plans([len(ids)])) for ids in documents])
    torch.testing.assert_close(stream, alone, rtol=1e-5, atol=1e-5)
    ids = torch.randint(0, 50, (2, 6))
    mask = torch.tensor([[1, 0, 1, 1, 0, 0], [1, 1, 1, 1, 1, 1]])
    other = torch.where(mask.bool(), ids, 49 - ids)
    first, second = model(ids, mask), model(other, mask)
    assert torch.equal(first.last_hidden_state, second.last_hidden_state)
    assert not first.last_hidden_state[mask == 0].any()


def test_causal_rows_see_only_what_was_before() -> None:
    model = randomised(Gpt2Model(small(Gpt2Config)))
    ids = torch.randint(0, 50, (12,))
    other = torch.cat([ids[:7], (ids[7:] + 1) % 50])
    first, second = (model.features(x, model.config.plans([12])) for x in (ids, other))
    assert torch.equal(first[:7], second[:7])
    assert not torch.isclose(first[7:], second[7:]).all()


@pytest.mark.parametrize("pooling", ["mean", "first", "last", "pooler"])
def test_pooling(pooling: str) -> None:
    model = randomised(BertModel(small(pooling=pooling)))
    rows, plans = torch.randn(5, 16), model.config.plans([2, 3])
    want = {
        "mean": torch.stack([rows[:2].mean(0), rows[2:].mean(0)]),
        "first": rows[[0, 2]],
        "last": rows[[1, 4]],
    }.get(pooling)
    want = torch.tanh(model.pooler(rows[[0, 2]])) if want is None else want
    torch.testing.assert_close(model.pool(rows, plans), want)


def test_what_cannot_be_fed_is_named() -> None:
    model = BertModel(small())
    with pytest.raises(ValueError, match="tokens from 0 to 49 .*got 50"):
        model(torch.tensor([[3, 50]]))
    with pytest.raises(ValueError, match="at most max_position_embeddings = 12 tokens, got one of 13"):
        model(torch.zeros(1, 13, dtype=torch.int64))
    with pytest.raises(ValueError, match=r"attention_mask: expected \[1, 3\]"):
        model(torch.zeros(1, 3, dtype=torch.int64), torch.ones(1, 2))
    with pytest.raises(ValueError, match="num_heads: expected a divisor of embed_dim 16, got 3"):
        small(num_heads=3)
    with pytest.raises(ValueError, match="pooling: expected one of mean, first, last, pooler, got 'cls'"):
        small(pooling="cls")
    with pytest.raises(ValueError, match="next-sentence head expects 'pooler'"):
        models.BertForPreTraining(small())


def test_sampling_follows_the_model() -> None:
    """Temperature 0 takes the likeliest token; draws follow the distribution; the end token ends the text."""
    model = randomised(Gpt2LMHeadModel(small(Gpt2Config)))
    prompt = torch.tensor([1, 2, 3])
    greedy = list(sample_tokens(model.encoder, prompt, max_new_tokens=15, temperature=0))
    ids = prompt.tolist()
    for token in greedy:
        assert token == int(model(torch.tensor([ids[-12:]])).logits[0, -1].argmax())
        ids.append(token)
    assert len(greedy) == 15
    stopped = list(
        sample_tokens(model.encoder, prompt, max_new_tokens=15, temperature=0, end_token_id=greedy[2])
    )
    assert stopped == greedy[: greedy.index(greedy[2])]
    generator = torch.Generator().manual_seed(0)
    drawn = [
        next(sample_tokens(model.encoder, prompt, max_new_tokens=1, top_k=3, generator=generator))
        for _ in range(300)
    ]
    scores = model(prompt[None]).logits[0, -1].topk(3)
    expected = scores.values.softmax(0)
    shares = torch.tensor([drawn.count(int(token)) / 300 for token in scores.indices])
    assert set(drawn) <= set(scores.indices.tolist())
    assert (shares - expected).abs().max() < 0.1


def test_what_is_kept_changes_no_token() -> None:
    """Row by row as if the whole text were computed for every token, also where it outgrows the places."""
    model = randomised(Gpt2LMHeadModel(small(Gpt2Config)))
    encoder, prompt = model.encoder, torch.tensor([5, 6, 7])
    rows: list[torch.Tensor] = []
    encoder.norm.register_forward_hook(lambda module, args, out: rows.append(out.detach()))
    seen: list[int] = []
    encoder.blocks[0].register_forward_hook(lambda module, args, out: seen.append(len(out)))
    new = list(sample_tokens(encoder, prompt, max_new_tokens=24, temperature=0))
    assert seen == [3] + [1] * 9 + [12] * 14
    kept, text = rows[:], prompt.tolist() + new
    for step, row in enumerate(kept):
        ids = torch.tensor(text[: 3 + step][-12:])
        want = encoder.features(ids, encoder.config.plans([len(ids)]))[-1]
        torch.testing.assert_close(row, want, rtol=1e-5, atol=1e-5)


def test_a_pre_norm_bert_ends_in_a_norm_and_has_no_names_elsewhere() -> None:
    model = BertModel(BertConfig(vocab_size=20, embed_dim=16, depth=2, num_heads=2, norm="pre")).eval()
    rows = model(torch.arange(6), plans=model.config.plans([6])).last_hidden_state
    torch.testing.assert_close(rows.mean(1), torch.zeros(6), rtol=0, atol=1e-5)
    with pytest.raises(ValueError, match="transformers has no bert with norm=pre"):
        _ = model.config.layout_family


@pytest.mark.parametrize(("kind", "config"), [(BertModel, BertConfig), (Gpt2Model, Gpt2Config)])
def test_without_positions_tokens_are_a_bag(kind: Any, config: Any) -> None:
    """In a causal model of one block; in deeper ones rows say how many came before them."""
    model = randomised(kind(small(config, ape=False, depth=1)))
    ids = torch.tensor([5, 6, 7, 8])
    rows, turned = (
        model(x, plans=model.config.plans([4])).last_hidden_state[-1] for x in (ids, ids[[1, 2, 0, 3]])
    )
    torch.testing.assert_close(rows, turned, rtol=1e-5, atol=1e-5)
    assert model.embeddings.position_embeddings is None
    with pytest.raises(ValueError, match="without absolute positions"):
        _ = model.config.layout_family
