"""Labels of texts: classes, several answers, numbers, pairs, words; linear models on them and pages of predictions."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from text_cases import SMALL, everything, opened, sentences, table

from unitrans.data.columns import columns_of
from unitrans.domains.text import TextDomain
from unitrans.models import BertConfig
from unitrans.objectives import Labels, make_objective
from unitrans.use.evaluate import _truth


def test_classes(tmp_path: Path) -> None:
    rows = [{"text": text, "label": "cold" if n % 3 else "warm"} for n, text in enumerate(sentences())]
    train, validation, _ = opened(table(tmp_path, rows), kinds=("class", "multi"))
    assert train.labels.kind == "class" and train.labels.names == ("cold", "warm")
    assert sum(train.labels.counts) == len(train)
    wanted = {row["text"]: row["label"] for row in rows}
    for source in (train, validation):
        for sample in everything(source):
            number = int(sample["id"].partition("#")[2])
            assert train.labels.names[sample["label"]] == wanted[rows[number]["text"]]
            assert len(sample["input_ids"]) <= 24
    assert any("their beginning is used" in note for note in train.notes)
    batch = TextDomain().collate(everything(train)[:5], BertConfig(**SMALL))
    assert batch["labels"].dtype == torch.int64 and batch["labels"].shape == (5,) and "predicted" not in batch


def test_numbers_are_standardised_once(tmp_path: Path) -> None:
    rows = [{"text": text, "target": 10.0 + n} for n, text in enumerate(sentences())]
    train, validation, config = opened(table(tmp_path, rows), kinds=("value",))
    one = everything(validation)[0]
    assert one["label"] == pytest.approx(10 + int(one["id"].partition("#")[2]))
    chosen = make_objective("regression", config, {}, train.labels)
    values = np.stack([chosen.corrupt(s, np.random.default_rng(0))["label"] for s in everything(train)])
    assert abs(values.mean()) < 1e-5 and abs(values.std() - 1) < 1e-5


def test_numbers_of_several_columns(tmp_path: Path) -> None:
    rows = [
        {"text": text, "a": 1.0 * n, "b": None if n % 3 else 2.0 * n} for n, text in enumerate(sentences())
    ]
    train, _, _ = opened(table(tmp_path, rows), kinds=("value",), label_column=["a", "b"], validation="none")
    assert train.labels.names == ("a", "b") and train.labels.mean == (29.5, 57.0)
    label = everything(train)[1]["label"]
    assert label[0] == 1 and np.isnan(label[1])


@pytest.mark.parametrize("form", ["columns", "lists"])
def test_several_answers(tmp_path: Path, form: str) -> None:
    """Columns of yes and no, or lists of the classes that hold."""
    texts = sentences(4)
    if form == "columns":
        rows: list[Any] = [
            {"text": texts[0], "rude": 1, "loud": 0},
            {"text": texts[1], "rude": None, "loud": 1},
            {"text": texts[2], "rude": 0, "loud": 0},
            {"text": texts[3], "rude": None, "loud": None},
        ]
    else:
        rows = [
            {"text": text, "label": label}
            for text, label in zip(texts, [["rude"], ["loud"], [], None], strict=True)
        ]
    names = ("rude", "loud") if form == "columns" else ("loud", "rude")
    asked = list(names) if form == "columns" else None
    train, _, config = opened(
        table(tmp_path, rows), kinds=("class", "multi"), label_column=asked, validation="none"
    )
    known = (2, 3) if form == "columns" else (3, 3)
    assert train.labels == Labels("multi", names, (1, 1), known=known)
    assert [name for name, _ in train.skipped] == ["train#3"]
    got = np.stack([sample["label"] for sample in everything(train)])
    missing = np.nan if form == "columns" else 0.0
    want = np.array([[1, 0], [missing, 1], [0, 0]], dtype=np.float32)[:, :: 1 if form == "columns" else -1]
    np.testing.assert_array_equal(got, want)
    assert TextDomain().collate(everything(train), config)["labels"].dtype == torch.float32
    with pytest.raises(ValueError, match="each is yes .1. or no .0., and 'id' has 7"):
        opened(
            table(tmp_path / "x", [{"text": "a cat", "id": 7, "rude": 1}]),
            kinds=("class", "multi"),
            label_column=["id", "rude"],
            validation="none",
        )


def test_classes_in_one_cell(tmp_path: Path) -> None:
    rows = [
        {"text": f"text number {i}", "label": cell} for i, cell in enumerate(["rude;loud", ";", None, "loud"])
    ]
    train, _, _ = opened(
        table(tmp_path, rows), kinds=("class", "multi"), label_separator=";", validation="none"
    )
    assert train.labels == Labels("multi", ("loud", "rude"), (2, 1), known=(3, 3))
    got = np.stack([sample["label"] for sample in everything(train)])
    np.testing.assert_array_equal(got, [[1, 1], [0, 0], [1, 0]])
    assert train.reading["label_columns"] == ["label"] and train.reading["label_separator"] == ";"
    columns = columns_of(train.reading, ["label"])
    found = _truth(train.labels, {"label": "rude"}, columns, train.reading)  # as unitrans eval reads it
    np.testing.assert_array_equal(found, [0, 1])
    with pytest.raises(ValueError, match="is none of the model's .loud, rude."):
        _truth(train.labels, {"label": "kind"}, columns, train.reading)
    with pytest.raises(ValueError, match="it has no label"):
        _truth(train.labels, {"label": ""}, columns, train.reading)


def test_pairs_are_one_sample(tmp_path: Path) -> None:
    """[CLS] first [SEP] second [SEP] with segments 0 and 1; the longer text is cut first."""
    rows = [
        {"text": "the cat sat on a mat", "other": "a dog ran", "label": 0},
        {"text": "the cat", "other": "a dog ran " * 20, "label": 1},
        {"text": "the cat " * 20, "other": "a dog ran " * 20, "label": 1},
        {"text": "alone", "other": None, "label": 1},
    ]
    path = table(tmp_path, rows)
    train, _, config = opened(path, kinds=("class",), second_column="other", validation="none")
    theirs = train.tokenizer.tokenizer
    samples = everything(train)
    want = theirs(rows[0]["text"], rows[0]["other"])
    assert samples[0]["input_ids"].tolist() == want["input_ids"]
    assert samples[0]["token_type_ids"].tolist() == want["token_type_ids"]
    assert train.skipped == [("train#3", "one of its two texts is missing")]
    for sample, row in zip(samples[1:], rows[1:], strict=False):
        want = theirs(row["text"], row["other"], truncation="longest_first", max_length=24)
        assert sample["input_ids"].tolist() == want["input_ids"] and len(sample["input_ids"]) == 24
        assert sample["token_type_ids"].tolist() == want["token_type_ids"]
    batch = TextDomain().collate(samples, config)
    assert batch["token_type_ids"].tolist() == [n for s in samples for n in s["token_type_ids"]]
    plain, _, _ = opened(
        path,
        BertConfig(**SMALL, type_vocab_size=0),
        ("class",),
        second_column="other",
        validation="none",
    )
    assert "token_type_ids" not in everything(plain)[0]
    for changes, message in (
        ({"second_column": "othr"}, "second_column='othr' is not a column of .*did you mean 'other'"),
        ({"second_column": "text"}, "is the first text"),
    ):
        with pytest.raises(ValueError, match=message):
            opened(path, kinds=("class",), text_column="text", **changes)
    with pytest.raises(ValueError, match="pairs of texts are for labels"):
        opened(path, second_column="other")


def test_classes_of_words_are_asked_at_their_first_token(tmp_path: Path) -> None:
    rows = [
        {"tokens": ["the", "Xyzzyplugh", "ran"], "ner_tags": ["O", "NAME", "O"]},
        {"tokens": ["a", "dog"], "ner_tags": ["O", "O"]},
        {"tokens": ["cut", "short"], "ner_tags": ["O"]},
    ]
    train, _, config = opened(table(tmp_path, rows), kinds=("token",), validation="none")
    assert train.labels == Labels("token", ("NAME", "O"), (1, 4))
    sample = everything(train)[0]
    asked = sample["labels"] != -100
    assert sample["labels"][asked].tolist() == [1, 0, 1]
    pieces = train.tokenizer.tokenizer.convert_ids_to_tokens(sample["input_ids"].tolist())
    first = [piece for piece, one in zip(pieces, asked, strict=True) if one]
    assert [piece[0] for piece in first] == ["t", "x", "r"] and len(pieces) > 5
    assert "not one label for each" in dict(train.skipped)["train#2"]
    batch = TextDomain().collate(everything(train), config)
    assert torch.equal(batch["predicted"], (batch["labels"] != -100).nonzero().flatten())


def test_a_label_that_training_lacks_is_named(tmp_path: Path) -> None:
    import datasets

    splits = {
        "train": datasets.Dataset.from_list(
            [{"text": s, "label": n % 2} for n, s in enumerate(sentences(9))]
        ),
        "test": datasets.Dataset.from_list([{"text": "the cat", "label": 7}, {"text": "a dog", "label": 1}]),
    }
    datasets.DatasetDict(splits).save_to_disk(str(tmp_path / "t"))
    train, validation, _ = opened(tmp_path / "t", kinds=("class",), validation="test")
    assert train.labels.names == ("0", "1") and validation.ids == ["test#1"]
    assert "7 is not among those of training" in dict(validation.skipped)["test#0"]
    with pytest.raises(ValueError, match="is the split that is trained on"):
        opened(tmp_path / "t", kinds=("class",), validation="train")


def test_linear_models_on_documents(tmp_path: Path) -> None:
    rows = [
        {"text": f"{s} {'sunny' if n % 2 else 'rainy'}", "label": n % 2, "target": float(n % 2)}
        for n, s in enumerate(sentences(80))
    ]
    path = table(tmp_path, rows)
    for name, kinds, better in (("classification", ("class",), max), ("regression", ("value",), min)):
        train, validation, config = opened(path, BertConfig(**SMALL | {"max_position_embeddings": 64}), kinds)
        chosen = make_objective(name, config, {}, train.labels)
        found = TextDomain().baselines(train, validation, chosen, config, lambda name: None)
        assert better(found[0].value, found[1].value) == found[1].value != found[0].value
    assert (
        TextDomain()
        .summary({"loss": 1.0, "mae": 0.5, "samples": 3}, found, chosen)
        .startswith("Mean absolute error, in the units of the target, on 3 held-out")
    )


def test_linear_models_on_several_answers(tmp_path: Path) -> None:
    rows = [
        {
            "text": f"{s} {('sunny ' if n % 2 else 'rainy ') * 4}",
            "wet": 1 - n % 2,
            "odd": n % 2 if n % 5 else None,
        }
        for n, s in enumerate(sentences(120))
    ]
    train, validation, config = opened(
        table(tmp_path, rows),
        BertConfig(**SMALL | {"max_position_embeddings": 128}),
        ("class", "multi"),
        label_column=["wet", "odd"],
    )
    chosen = make_objective("classification", config, {}, train.labels)
    (found,) = TextDomain().baselines(train, validation, chosen, config, lambda name: None)
    assert chosen.headline == "roc_auc" and found.value is not None and found.value > 0.9
    samples = everything(validation)[:2]
    right = [torch.from_numpy(np.where(s["label"] == 1, 3.0, -3.0)) for s in samples]
    (page,) = TextDomain().report(tmp_path, train, samples, [right[0], -right[1]], chosen, config)
    text = page.read_text()
    assert text.count('class="right"') == 1 and text.count('class="wrong"') == 1


def test_predictions_of_classes_and_tags_are_shown(tmp_path: Path) -> None:
    rows = [{"text": s, "label": ["<cold>", "warm"][n % 2]} for n, s in enumerate(sentences(10))]
    train, _, config = opened(table(tmp_path, rows), kinds=("class",), validation="none")
    fake = SimpleNamespace(predicts="classes", labels=train.labels)
    samples = everything(train)[:2]
    (page,) = TextDomain().report(tmp_path, train, samples, [torch.tensor([[5.0, 0.0]])] * 2, fake, config)
    text = page.read_text()
    assert "&lt;cold&gt; (99%)" in text and text.count('class="wrong"') == 1 and "true: warm" in text
