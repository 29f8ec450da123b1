"""Runs on text: what they leave, going on exactly, weights from transformers and back, what a trained model answers."""

import csv
import json
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import load_file

from tests.training.stopping import dies_in_update
from unitrans.cli import main
from unitrans.domains.text.predict import TextPredictor, tokenizer_of
from unitrans.domains.text.tokenizer import load_tokenizer, train_tokenizer
from unitrans.errors import ConfigError
from unitrans.objectives import MaskedSignalModel
from unitrans.training import run as running
from unitrans.training.callbacks import read_metrics
from unitrans.training.config import RunConfig, resolve
from unitrans.training.loop import Trainer

LINES = [
    f"the {a} {b} {c} ." for a in ("red", "old", "big") for b in ("cat", "dog", "car") for c in ("ran", "sat")
] * 3
TINY = {
    "model.embed_dim": 16,
    "model.depth": 1,
    "model.num_heads": 2,
    "model.mlp_ratio": 2.0,
    "model.max_position_embeddings": 16,
    "model.drop_rate": 0.1,
    "data.document": "line",
    "data.vocab_size": 300,
    "train.max_steps": 6,
    "train.per_device_train_batch_size": 8,
    "train.eval_steps": 3,
    "train.save_steps": 3,
    "train.logging_steps": 2,
}


def config(
    objective: str = "mlm", init: str | None = None, drop: tuple[str, ...] = (), **settings: Any
) -> RunConfig:
    data = settings.pop("data", "corpus")
    given = {key: value for key, value in TINY.items() if not key.startswith(drop)} if drop else dict(TINY)
    given |= {key.replace("__", "."): value for key, value in settings.items()}
    return resolve(
        domain="text",
        objective=objective,
        data=data,
        init=init,
        settings=[f"{key}={json.dumps(value)}" for key, value in given.items()],
    )


@pytest.fixture
def corpus(workdir: Path) -> Path:
    folder = workdir / "corpus"
    folder.mkdir()
    for number in range(3):
        (folder / f"{number}.txt").write_text(
            "\n".join(f"{line} {number}{n}" for n, line in enumerate(LINES))
        )
    return folder


def labelled(workdir: Path) -> Path:
    rows = ["text,label"] + [
        f"{line} {n},{'cat' if 'cat' in line else 'other'}" for n, line in enumerate(LINES)
    ]
    (workdir / "train.csv").write_text("\n".join(rows))
    return workdir / "train.csv"


def test_a_run_leaves_a_tokenizer_figures_and_sentences(
    corpus: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = running.train(config(), None)
    assert run == Path("runs/text-mlm-1")
    theirs = transformers.AutoTokenizer.from_pretrained(str(run))
    model = MaskedSignalModel.from_pretrained(run / "checkpoints" / "best")
    assert len(theirs) == model.encoder.config.vocab_size and theirs.mask_token_id == 4
    rows = [row for row in read_metrics(run / "metrics.jsonl") if "eval_loss" in row]
    assert (
        all(0 <= row["eval_accuracy"] <= 1 and row["eval_perplexity"] > 1 for row in rows) and len(rows) == 2
    )
    summary = json.loads((run / "summary.json").read_text())
    names = [p["name"] for p in summary["predictors"]]
    assert names == ["most frequent token", "table of the token before", "table of the tokens on both sides"]
    assert summary["accuracy"] == pytest.approx(rows[-1]["eval_accuracy"])
    printed = capsys.readouterr().out
    assert (
        "trained a wordpiece tokenizer" in printed and "Hidden tokens" in printed and "perplexity" in printed
    )
    assert "<span" in (run / "predictions.html").read_text()


@pytest.mark.parametrize(
    ("objective", "streaming", "workers"),
    [("mlm", False, 0), ("clm", False, 2), ("mlm", True, 0), ("mlm", True, 2)],
)
def test_a_run_goes_on_bit_for_bit(
    corpus: Path, monkeypatch: pytest.MonkeyPatch, objective: str, streaming: bool, workers: int
) -> None:
    """In memory and streamed, with micro-batches cut by tokens; the tokenizer is the one the run began with."""
    monkeypatch.setattr(running, "report", lambda *_: None)
    settings: dict[str, Any] = {
        "train__gradient_accumulation_steps": 2,
        "train__dataloader_num_workers": workers,
    }
    if streaming:
        settings |= {"data__streaming": True, "data__shuffle_buffer": 20}
    if objective == "clm":
        settings |= {"model__name": "gpt2"}
    whole = running.train(config(objective, **settings), "whole")
    with dies_in_update(5):
        running.train(config(objective, **settings), "cut")
    running.resume("cut")
    one, two = (
        load_file(Path(run) / "checkpoints" / "latest" / "model.safetensors") for run in (whole, "cut")
    )
    assert one.keys() == two.keys() and all(torch.equal(one[key], two[key]) for key in one)
    keys = ("step", "loss", "grad_norm", "eval_loss", "eval_accuracy")
    rows = [
        [[row.get(k) for k in keys] for row in read_metrics(Path(r) / "metrics.jsonl")]
        for r in (whole, "cut")
    ]
    assert rows[0] == rows[1]


def test_an_epoch_of_a_stream_ends_where_it_began(corpus: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Several epochs of a stream: the run sees every sample once an epoch."""
    monkeypatch.setattr(running, "report", lambda *_: None)
    seen: list[tuple[int, str]] = []
    compute = Trainer.forward_backward

    def note(self: Trainer, batch: Any) -> Any:
        seen.extend((len(seen), name) for name in batch["sample_ids"])
        return compute(self, batch)

    monkeypatch.setattr(Trainer, "forward_backward", note)
    running.train(config(data__streaming=True, data__shuffle_buffer=20, train__max_steps=40), "run")
    names = [name for _, name in seen]
    size = len(set(names))
    assert len(names) == 320 > 2 * size and size > 100
    assert sorted(names[:size]) == sorted(names[size : 2 * size]) and names[:size] != names[size : 2 * size]


# ---- weights of transformers ------------------------------------------------------------------------------------


HF_BERT = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 30}
HF_BERT |= {"max_position_embeddings": 16, "vocab_size": 320}


def hf_folder(workdir: Path, kind: str = "BertForMaskedLM") -> tuple[Path, Any]:
    torch.manual_seed(3)
    model = getattr(transformers, kind)(transformers.BertConfig(**HF_BERT)).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    model.save_pretrained(workdir / "hf")
    train_tokenizer(LINES, "wordpiece", 300, True, 16).save(workdir / "hf")
    return workdir / "hf", model


def test_pretraining_goes_on_from_a_folder_of_transformers(
    workdir: Path, corpus: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its tokenizer, its settings, its weights; a word added grows the table; and back it opens there again."""
    folder, hf = hf_folder(workdir)
    begun = running.open_new_session(config(init=str(folder), drop=("model",)))
    assert begun.model_config.depth == 2 and begun.model_config.vocab_size == 320
    assert (
        begun.train_source.tokenizer.tokenizer.get_vocab()
        == load_tokenizer(str(folder)).tokenizer.get_vocab()
    )
    text = "the old cat ran ."
    ids = torch.tensor([load_tokenizer(str(folder)).tokenizer(text)["input_ids"]])
    model = begun.model.eval()
    rows = model.encoder.features(ids[0], model.encoder.config.plans([ids.shape[1]]))
    scores = model.head.scores(rows, model.encoder.embeddings.word_embeddings.weight)
    torch.testing.assert_close(scores, hf(ids).logits[0], rtol=1e-4, atol=1e-4)

    words = [f"word{number}" for number in range(30)]
    grown = running.open_new_session(config(init=str(folder), drop=("model",), data__added_tokens=words))
    size = len(load_tokenizer(str(folder))) + 30
    table = grown.model.encoder.embeddings.word_embeddings.weight
    assert table.shape[0] == max(320, size)
    if size > 320:
        assert any("grown from 320" in note for note in grown.init_notes)
        torch.testing.assert_close(table[-1], hf.bert.embeddings.word_embeddings.weight.mean(0))

    monkeypatch.setattr(running, "report", lambda *_: None)
    run = running.train(config(init=str(folder), drop=("model",), train__learning_rate=1e-3), "run")
    assert main(["convert", str(run), "--to", "hf", "back"]) == 0
    back = transformers.BertForMaskedLM.from_pretrained("back").eval()
    trained = MaskedSignalModel.from_pretrained(run / "checkpoints" / "best").eval()
    scores = trained.head.scores(
        trained.encoder.features(ids[0], trained.encoder.config.plans([ids.shape[1]])),
        trained.encoder.embeddings.word_embeddings.weight,
    )
    torch.testing.assert_close(scores, back(ids).logits[0], rtol=1e-4, atol=1e-4)
    assert not torch.allclose(scores, hf(ids).logits[0], atol=1e-3), "it has learned"
    assert transformers.AutoTokenizer.from_pretrained("back")(text)["input_ids"] == ids[0].tolist()


def test_classification_starts_from_a_run_and_from_a_folder(workdir: Path, corpus: Path) -> None:
    """The model and the tokenizer follow from --init; the classifier starts afresh."""
    pretrained = running.train(config(), "pretrained")
    table = labelled(workdir)
    session = running.open_new_session(
        config(
            "classification", init=str(pretrained), data=str(table), drop=("model", "data.vocab", "data.doc")
        )
    )
    weights = load_file(pretrained / "checkpoints" / "best" / "model.safetensors")
    for name, parameter in session.model.encoder.named_parameters():
        assert torch.equal(parameter, weights["encoder." + name])
    assert any("starts afresh" in note for note in session.init_notes)
    folder, _ = hf_folder(workdir, "BertModel")
    from_hf = config(
        "classification", init=str(folder), data=str(table), drop=("model", "data.vocab", "data.doc")
    )
    run = running.train(from_hf, "fine")
    model = MaskedSignalModel.from_pretrained(run / "checkpoints" / "best")
    assert model.encoder.config.pooling == "pooler" and model.objective.labels.names == ("cat", "other")
    summary = json.loads((run / "summary.json").read_text())
    assert {"accuracy", "macro_f1", "roc_auc"} <= summary.keys()
    assert any("logistic regression" in p["name"] for p in summary["predictors"])
    assert main(["convert", str(run), "--to", "hf", "back"]) == 0
    back = transformers.BertForSequenceClassification.from_pretrained("back").eval()
    answers = TextPredictor(model, tokenizer_of(run)).classify(["the red cat sat .", "an old dog"])
    tokenizer = transformers.AutoTokenizer.from_pretrained("back")
    for text, answer in zip(["the red cat sat .", "an old dog"], answers, strict=True):
        chances = back(**tokenizer(text, return_tensors="pt")).logits.softmax(1)[0]
        assert back.config.id2label[int(chances.argmax())] == answer["label"]
        assert answer["probability"] == pytest.approx(float(chances.max().detach()), abs=1e-4)


def test_weights_that_do_not_fit_are_named(workdir: Path, corpus: Path) -> None:
    folder, _ = hf_folder(workdir)
    with pytest.raises(ConfigError, match="the weights do not fit this model.*leave the model.* keys out"):
        running.open_new_session(config(init=str(folder), drop=("model",), model__depth=3))
    (folder / "model.safetensors").write_bytes(b"broken")
    with pytest.raises(ConfigError, match="its weights cannot be read"):
        running.open_new_session(config(init=str(folder), drop=("model",)))


# ---- answers ----------------------------------------------------------------------------------------------------


def test_a_trained_model_fills_masks_like_transformers(workdir: Path, corpus: Path) -> None:
    folder, hf = hf_folder(workdir)
    session = running.open_new_session(config(init=str(folder), drop=("model",)))
    predictor = TextPredictor(session.model, session.train_source.tokenizer)
    answers = predictor.fill_mask("the [MASK] cat <mask> .", top_k=3)
    assert [a["mask"] for a in answers] == [1, 1, 1, 2, 2, 2]
    tokenizer = transformers.AutoTokenizer.from_pretrained(str(folder))
    ids = tokenizer("the [MASK] cat [MASK] .", return_tensors="pt")
    chances = hf(**ids).logits[0].softmax(1)
    for number, place in enumerate((ids["input_ids"][0] == 4).nonzero().flatten().tolist()):
        best = chances[place].topk(3)
        got = answers[3 * number : 3 * number + 3]
        assert [a["probability"] for a in got] == pytest.approx(best.values.tolist(), abs=1e-5)
        assert [a["token"] for a in got] == [
            tokenizer.decode([t]).removeprefix("##") for t in best.indices.tolist()
        ]
    with pytest.raises(ValueError, match=r"expected \[MASK\] where a word is to be filled in"):
        predictor.fill_mask("nothing hidden")
    with pytest.raises(ValueError, match="expected a model of objective clm to write"):
        predictor.continue_text("the")


def test_vectors_are_means_over_tokens_whatever_the_batch(workdir: Path, corpus: Path) -> None:
    folder, hf = hf_folder(workdir, "BertModel")
    session = running.open_new_session(config(init=str(folder), drop=("model",)))
    predictor = TextPredictor(session.model, session.train_source.tokenizer)
    texts = [
        "the red cat sat .",
        "a dog",
        "the old big car ran over the very old dog and sat and ran and sat",
    ]
    vectors = predictor.embed(texts)
    assert predictor.shortened == 1
    tokenizer = transformers.AutoTokenizer.from_pretrained(str(folder))
    for text, vector in zip(texts, vectors, strict=True):
        ids = tokenizer(text, return_tensors="pt", truncation=True, max_length=16)
        torch.testing.assert_close(vector, hf(**ids).last_hidden_state[0].mean(0), rtol=1e-4, atol=1e-4)
    assert torch.allclose(predictor.embed(texts[1:2])[0], vectors[1], atol=1e-6)


def test_a_causal_model_writes_and_opens_as_gpt2(workdir: Path, corpus: Path) -> None:
    run = running.train(
        config("clm", model__name="gpt2", train__max_steps=30, train__learning_rate=1e-2), "run"
    )
    model = MaskedSignalModel.from_pretrained(run / "checkpoints" / "best")
    predictor = TextPredictor(model, tokenizer_of(run / "checkpoints" / "best"))
    first, again = (predictor.continue_text("the old", seed=1, max_new_tokens=8) for _ in range(2))
    assert first == again and first.startswith("the old")
    assert main(["convert", str(run), "--to", "hf", "back"]) == 0
    back = transformers.GPT2LMHeadModel.from_pretrained("back").eval()
    ids = torch.tensor([transformers.AutoTokenizer.from_pretrained("back")("the old cat")["input_ids"]])
    rows = model.eval().encoder.features(ids[0], model.encoder.config.plans([ids.shape[1]]))
    scores = rows @ model.encoder.embeddings.word_embeddings.weight.t()
    torch.testing.assert_close(scores, back(ids).logits[0], rtol=1e-4, atol=1e-4)
    summary = json.loads((run / "summary.json").read_text())
    assert summary["predictors"][2]["name"] == "table of the two tokens before"


def test_the_command_answers(workdir: Path, corpus: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Rows of a table, texts on standard input, hidden words, vectors; and what it cannot answer."""
    table = labelled(workdir)
    run = running.train(
        config("classification", data=str(table), drop=("data.vocab", "data.doc"), data__vocab_size=300),
        "run",
    )
    (workdir / "new.csv").write_text('text,n\n"the red cat sat, once",1\n,2\nan old dog,3\n')
    capsys.readouterr()
    assert main(["predict", "--checkpoint", str(run), "new.csv", "-o", "out.csv"]) == 1
    rows = list(csv.DictReader((workdir / "out.csv").open()))
    assert [row["n"] for row in rows] == ["1", "2", "3"] and rows[0]["class"] in ("cat", "other")
    assert float(rows[2]["class_p_cat"]) + float(rows[2]["class_p_other"]) == pytest.approx(1)
    assert "there is no text" in rows[1]["error"] and not rows[1]["class"]
    answers = TextPredictor(
        MaskedSignalModel.from_pretrained(run / "checkpoints" / "best"), tokenizer_of(run)
    )
    want = answers.classify(["the red cat sat, once"])[0]
    assert float(rows[0]["class_p_cat"]) == pytest.approx(want["probabilities"]["cat"], abs=1e-5)
    assert main(["predict", "--checkpoint", str(run), "--fill-mask", "a [MASK]"]) == 2
    assert "expected a model of objective mlm" in capsys.readouterr().err
    masked = running.train(config(), "masked")
    capsys.readouterr()
    assert (
        main(["predict", "--checkpoint", str(masked), "--fill-mask", "the old [MASK] .", "--top-k", "3"]) == 0
    )
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 3 and all(line.startswith("1  0.") and "the old" in line for line in lines)
    assert main(["predict", "--checkpoint", str(masked), "--embed", "the old cat"]) == 0
    assert len(capsys.readouterr().out.split()) == 16
    assert main(["predict", "--checkpoint", str(masked), "--embed", "a", "--prompt", "b"]) == 2


def test_words_are_tagged(workdir: Path) -> None:
    rows = [
        {"tokens": line.split(), "tags": ["N" if w in ("cat", "dog", "car") else "O" for w in line.split()]}
        for line in LINES
    ]
    (workdir / "words.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    settings: dict[str, Any] = {"train__max_steps": 60, "train__learning_rate": 1e-2, "data__validation": 0.3}
    run = running.train(
        config("token_classification", data="words.jsonl", drop=("data.doc",), **settings), "run"
    )
    summary = json.loads((run / "summary.json").read_text())
    assert summary["accuracy"] > 0.9 and "macro_f1" in summary and len(summary["predictors"]) == 3
    model = MaskedSignalModel.from_pretrained(run / "checkpoints" / "best")
    tags = TextPredictor(model, tokenizer_of(run)).tag([["the", "red", "dog"], ["cat"] * 40])
    assert tags[0] == [("the", "O"), ("red", "O"), ("dog", "N")]
    assert len(tags[1]) == 40 and tags[1][0][1] is not None and tags[1][-1] == ("cat", None)


def test_pairs_and_several_answers_from_the_command_line(
    workdir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A table of pairs with two yes-no columns: figures with intervals, and predictions of the same table."""
    rows = [
        f"{a},{b},{int('cat' in a)},{'' if n % 5 == 0 else int('ran' in b)}"
        for n, (a, b) in enumerate(zip(LINES, reversed(LINES), strict=True))
    ]
    (workdir / "pairs.csv").write_text("\n".join(["text,other,cat,ran", *rows]))
    given = {
        "data": "pairs.csv",
        "data__second_column": "other",
        "data__label_column": ["cat", "ran"],
        "data__validation": 0.4,
    }
    run = running.train(config("classification", drop=("data.doc",), **given), "run")
    summary = json.loads((run / "summary.json").read_text())
    assert {"accuracy", "macro_f1", "roc_auc", "average_precision"} <= summary.keys()
    for name in ("accuracy", "macro_f1", "roc_auc"):
        low, high = summary["intervals"][name]
        assert 0 <= low <= high <= 1
    assert "95 % of resamples" in capsys.readouterr().out
    assert main(["predict", "--checkpoint", "run", "pairs.csv", "-o", "out.csv"]) == 0
    with open("out.csv", encoding="utf-8") as file:
        written = list(csv.DictReader(file))
    model = MaskedSignalModel.from_pretrained(run / "checkpoints" / "best")
    pairs = [(row["text"], row["other"]) for row in written[:3]]
    answers = TextPredictor(model, tokenizer_of(run)).classify(pairs)
    for row, answer in zip(written, answers, strict=False):
        for name in ("cat", "ran"):
            assert float(row[f"{name}"]) == pytest.approx(answer["probabilities"][name], abs=1e-5)


def test_vectors_are_judged_by_what_a_linear_model_reads_from_them(workdir: Path, corpus: Path) -> None:
    run = running.train(config(), "run")
    for name, lines in (("fit", LINES[:36]), ("unseen", LINES[36:])):
        rows = [f"{line},{'cat' if 'cat' in line else 'other'}" for line in lines]
        Path(f"{name}.csv").write_text("text,label\n" + "\n".join(rows) + "\n")
    command = [
        "eval",
        "--checkpoint",
        str(run),
        "--fit",
        "fit.csv",
        "--data",
        "unseen.csv",
        "--probe",
        "linear",
    ]
    assert main([*command, "--output", "judged"]) == 0
    figures = json.loads(Path("judged/eval.json").read_text())["figures"]
    assert figures["top1"] == figures["macro_f1"] == 1.0, "a word is easily read from a mean"
    Path("few.csv").write_text("text,label\n" + "a cat,cat\n" * 4 + "a dog,other\n")
    assert main([*command[:4], "few.csv", *command[5:], "--output", "x"]) == 2
    assert main([*command[:4], "few.csv", *command[5:-1], "knn", "--output", "y"]) == 0
