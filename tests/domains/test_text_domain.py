"""Text as samples: tokenizers, chunks, what is held out, labels, streams, batches, simple predictors, pages."""

import pickle
import time
from collections import Counter
from itertools import islice
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoTokenizer

from unitrans.domains.text import TextDomain
from unitrans.domains.text.baselines import Table
from unitrans.domains.text.config import DataConfig
from unitrans.domains.text.tokenizer import load_tokenizer, train_tokenizer
from unitrans.models import BertConfig, Gpt2Config
from unitrans.objectives import Labels, make_objective
from unitrans.train.random import sample_rng

SMALL = {"embed_dim": 16, "depth": 1, "num_heads": 2, "max_position_embeddings": 24}
WORDS = (
    "the cat sat on a mat and dog ran over hill into town where people live in small houses of stone".split()
)


def sentences(count: int = 60, seed: int = 0) -> list[str]:
    rng = np.random.default_rng(seed)
    return [" ".join(rng.choice(WORDS, rng.integers(3, 50))) + f" {number}." for number in range(count)]


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    file = tmp_path / "corpus.txt"
    file.write_text("\n".join(sentences()))
    return file


def opened(path: Path, config: Any = None, kinds: Any = (), seed: int = 0, **data: Any) -> Any:
    config = config or BertConfig(**SMALL)
    settings = {"path": str(path), "document": "line", "vocab_size": 300, "validation": 0.2} | data
    return *TextDomain().open(DataConfig(**settings), config, seed, kinds), config


def everything(source: Any) -> list[dict[str, Any]]:
    return [source.load(index) for index in range(len(source))]


# ---- tokenizers -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["wordpiece", "bpe"])
def test_a_trained_tokenizer_opens_with_transformers(tmp_path: Path, kind: str) -> None:
    made = train_tokenizer(sentences(), kind, 300, True, 24)
    again = train_tokenizer(sentences(), kind, 300, True, 24)
    assert made.tokenizer.get_vocab() == again.tokenizer.get_vocab(), "the same text gives the same tokenizer"
    made.save(tmp_path)
    theirs, ours = AutoTokenizer.from_pretrained(str(tmp_path)), load_tokenizer(str(tmp_path))
    text = "The cat ran over hills."
    assert theirs(text)["input_ids"] == made.tokenizer(text)["input_ids"]
    assert (ours.prefix, ours.suffix, ours.begin, ours.end) == (
        made.prefix,
        made.suffix,
        made.begin,
        made.end,
    )
    assert (
        len(theirs) <= 300 and "PreTrainedTokenizerFast" in (tmp_path / "tokenizer_config.json").read_text()
    )
    if kind == "wordpiece":
        assert (theirs.pad_token_id, theirs.mask_token_id) == (0, 4) and (ours.prefix, ours.suffix) == (
            [2],
            [3],
        )
        assert made.text(made.encode([text])[0].ids) == "the cat ran over hills."
    else:
        assert (ours.prefix, ours.suffix, ours.begin, ours.end) == ([], [], [0], [0])
        assert made.text(made.encode([text])[0].ids) == text
    pieces = made.pieces(made.encode([text])[0].ids.tolist())
    assert "".join(pieces).strip().replace(" .", ".") == (text.lower() if kind == "wordpiece" else text)


def test_words_begin_where_words_begin() -> None:
    tokenizer = train_tokenizer(sentences(), "wordpiece", 300, True, 24)
    encoded = tokenizer.encode(["cat xyzzy."])[0]
    tokens = tokenizer.tokenizer.convert_ids_to_tokens(encoded.ids.tolist())
    assert encoded.word_start.tolist() == [not token.startswith("##") for token in tokens]
    of_words = tokenizer.encode([["cat", "xyzzy."]], words=True)[0]
    assert of_words.word.tolist() == [0] + [1] * (len(of_words.word) - 1)


def test_limits_of_a_loaded_tokenizer_do_not_cut(tmp_path: Path, corpus: Path) -> None:
    """A tokenizer that truncates and pads (as MiniLM's does) is asked to do neither."""
    made = train_tokenizer(sentences(), "wordpiece", 300, True, 24)
    made.tokenizer.backend_tokenizer.enable_truncation(5)
    made.tokenizer.backend_tokenizer.enable_padding(length=9)
    made.save(tmp_path / "t")
    loaded = load_tokenizer(str(tmp_path / "t"))
    assert len(loaded.encode(["the cat sat on a mat and a dog"])[0].ids) == 9
    assert (loaded.prefix, loaded.suffix) == ([2], [3])


def test_tokenizers_that_cannot_be_had(tmp_path: Path, corpus: Path) -> None:
    with pytest.raises(ValueError, match="data.tokenizer: .*the folder has no tokenizer"):
        load_tokenizer(str(tmp_path))
    with pytest.raises(ValueError, match="data.tokenizer: .*is a file"):
        load_tokenizer(str(corpus))
    made = train_tokenizer(sentences(), "wordpiece", 300, True, 24)
    made.save(tmp_path / "t")
    with pytest.raises(ValueError, match=r"model.vocab_size: the tokenizer .* has .* tokens, the model 50"):
        opened(corpus, BertConfig(**SMALL, vocab_size=50), tokenizer=str(tmp_path / "t"))


def test_an_unknown_name_is_asked_for_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the hub, and without retries of a minute, there is one sentence."""
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    begin = time.perf_counter()
    with pytest.raises(
        ValueError, match=r"there is no folder 'nobody/nothing', and the hub http://127.*reached"
    ):
        load_tokenizer("nobody/nothing")
    with pytest.raises(ValueError, match="no folder 'no such name', and it is not spelled as a hub name"):
        load_tokenizer("no such name")
    assert time.perf_counter() - begin < 10


# ---- samples ----------------------------------------------------------------------------------------------------


def test_chunks_hold_every_token_once(corpus: Path) -> None:
    """Between [CLS] and [SEP], nearly equal chunks of a document, in order; at most max_length."""
    train, validation, config = opened(corpus)
    t = train.tokenizer
    documents: dict[str, list[int]] = {}
    for sample in everything(train) + everything(validation):
        ids = sample["input_ids"]
        assert len(ids) <= 24 and ids[0] == 2 and ids[-1] == 3
        assert sample["special"].tolist() == [True] + [False] * (len(ids) - 2) + [True]
        documents.setdefault(sample["id"].partition(":")[0], []).extend(ids[1:-1].tolist())
    want = [list(encoded.ids) for encoded in t.encode(sentences())]
    assert list(documents) != sorted(documents) or len(documents) == 60
    assert sorted(map(tuple, documents.values())) == sorted(map(tuple, want))
    lengths = Counter(name.partition(":")[0] for name in train.ids)
    assert max(lengths.values()) >= 2, "a long document is several samples"
    assert train.num_tokens.tolist() == [len(s["input_ids"]) for s in everything(train)]
    assert config.vocab_size == len(t) and config.mask_token_id == 4


def test_causal_documents_begin_and_end(corpus: Path) -> None:
    train, _, _ = opened(corpus, Gpt2Config(**SMALL))
    first: dict[str, list[int]] = {}
    for sample in everything(train):
        first.setdefault(sample["id"].partition(":")[0], []).extend(sample["input_ids"].tolist())
    assert all(ids[0] == ids[-1] == 0 and 0 not in ids[1:-1] for ids in first.values())


def test_equal_documents_are_on_one_side_and_new_ones_move_none(tmp_path: Path, corpus: Path) -> None:
    train, validation, _ = opened(corpus)
    held_out = {tuple(s["input_ids"]) for s in everything(validation)}
    assert 0.05 < len(validation) / (len(train) + len(validation)) < 0.4
    more = tmp_path / "more.txt"
    more.write_text("\n".join([*sentences(30, seed=9), *sentences(), *sentences()]))
    made = tmp_path / "t"
    train.tokenizer.save(made)
    bigger, kept, _ = opened(more, BertConfig(**SMALL, vocab_size=300), tokenizer=str(made))
    sides = [{tuple(s["input_ids"]) for s in everything(side)} for side in (bigger, kept)]
    assert not sides[0] & sides[1]
    assert held_out <= sides[1]
    other_seed = opened(corpus, seed=5)[1]
    assert other_seed.ids == validation.ids, "the seed has no part in it"


def test_other_places_to_hold_out_from(tmp_path: Path, corpus: Path) -> None:
    other = tmp_path / "other.txt"
    other.write_text("\n".join(sentences(5, seed=3)))
    train, validation, _ = opened(corpus, validation=str(other))
    assert {name.partition("#")[0] for name in validation.ids} == {"other.txt"}
    assert {name.partition(":")[0] for name in train.ids} == {f"corpus.txt#{n}" for n in range(60)}
    assert opened(corpus, validation="none")[1] is None and opened(corpus, validation=0)[1] is None
    with pytest.raises(ValueError, match="is the training text itself"):
        opened(corpus, validation=str(corpus))


def test_one_document_is_held_out_in_parts(tmp_path: Path) -> None:
    file = tmp_path / "one.txt"
    file.write_text(" ".join(sentences()))
    train, validation, _ = opened(file, document="file")
    assert len(train) > len(validation) > 0
    assert "parts of them are held out" in " ".join(train.notes)
    file.write_text("too short")
    with pytest.raises(ValueError, match="cannot hold anything out: there is only one sample"):
        opened(file, document="file")


def test_files_are_held_out_as_a_whole(tmp_path: Path) -> None:
    folder = tmp_path / "texts"
    folder.mkdir()
    for number in range(20):
        (folder / f"{number}.txt").write_text("\n".join(sentences(6, seed=number)))
    train, validation, _ = opened(folder, group="file")
    files = [{name.partition("#")[0] for name in side.ids} for side in (train, validation)]
    assert not files[0] & files[1] and len(files[0] | files[1]) == 20


def test_added_words_are_tokens(corpus: Path) -> None:
    train, _, config = opened(corpus, added_tokens=["zebrafish"])
    ids = train.tokenizer.encode(["the zebrafish ran"])[0].ids.tolist()
    assert len(ids) == 3 and ids[1] == config.vocab_size - 1


# ---- labels -----------------------------------------------------------------------------------------------------


def table(tmp_path: Path, rows: list[dict[str, Any]]) -> Path:
    import datasets

    datasets.Dataset.from_list(rows).save_to_disk(str(tmp_path / "table"))
    return tmp_path / "table"


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


# ---- batches ----------------------------------------------------------------------------------------------------


def test_a_batch_is_one_stream_without_padding(corpus: Path) -> None:
    train, _, config = opened(corpus)
    objective = make_objective("mlm", config, {})
    samples = [objective.corrupt(s, sample_rng(0, 0, s["id"], "mask")) for s in everything(train)[:7]]
    batch = TextDomain().collate([*samples, None], config)
    lengths = [len(s["input_ids"]) for s in samples]
    assert batch["input_ids"].tolist() == np.concatenate([s["input_ids"] for s in samples]).tolist()
    assert batch["plans"].groups.cu_seqlens.tolist() == np.cumsum([0, *lengths]).tolist()
    assert batch["plans"].place.tolist() == [place for n in lengths for place in range(n)]
    assert (batch["labels"][batch["predicted"]] != -100).all() and batch["num_skipped"] == 1
    assert len(batch["predicted"]) == (batch["labels"] != -100).sum()
    assert TextDomain().collate([None], config) is None


# ---- streams ----------------------------------------------------------------------------------------------------


def streamed(tmp_path: Path, seed: int = 0, **data: Any) -> Any:
    folder = tmp_path / "stream"
    if not folder.exists():
        folder.mkdir()
        for number in range(3):
            (folder / f"{number}.txt").write_text("\n".join(sentences(25, seed=number)))
    return opened(folder, seed=seed, streaming=True, shuffle_buffer=7, **data)


def test_a_stream_has_the_samples_of_memory(tmp_path: Path) -> None:
    """Each once an epoch, in an order that follows from seed and epoch; the same ones are held out."""
    stream, held_out, _ = streamed(tmp_path)
    made = tmp_path / "t"
    stream.tokenizer.save(made)
    train, validation, _ = opened(
        tmp_path / "stream", BertConfig(**SMALL, vocab_size=300), tokenizer=str(made)
    )
    size = len(train)
    names = [stream.load(place)["id"] for place in range(2 * size)]
    assert sorted(names[:size]) == sorted(names[size:]) == sorted(train.ids)
    assert names[:size] != names[size:] and names[:size] != train.ids
    assert [stream.load(2 * size - 1)["epoch"], stream.load(2 * size)["epoch"]] == [1, 2]
    assert sorted(held_out.ids) == sorted(validation.ids)
    assert 0.5 < len(stream) / size < 2, "the length is estimated"
    again, _, _ = streamed(tmp_path)
    assert [s["id"] for s in islice(again.epoch(1), size)] == names[size:]
    assert [s["id"] for s in islice(streamed(tmp_path, seed=1)[0].epoch(1), size)] != names[size:]


def test_a_stream_goes_on_at_any_place_and_in_other_processes(tmp_path: Path) -> None:
    stream, _, _ = streamed(tmp_path)
    want = [stream.load(place) for place in range(150)]
    copy = pickle.loads(pickle.dumps(stream))
    for source in (copy, streamed(tmp_path)[0]):
        for place in (140, 3, 99, 99):
            got = source.load(place)
            assert got["id"] == want[place]["id"] and got["epoch"] == want[place]["epoch"]
            assert (got["input_ids"] == want[place]["input_ids"]).all()


def test_few_held_out_samples_are_kept(tmp_path: Path) -> None:
    _, held_out, _ = streamed(tmp_path, stream_validation_samples=3)
    assert len(held_out) == 3 and {name.partition("#")[0] for name in held_out.ids} == {
        "0.txt",
        "1.txt",
        "2.txt",
    }


# ---- simple predictors and pages --------------------------------------------------------------------------------


def test_tables_take_the_most_frequent() -> None:
    contexts, tokens = np.array([5, 5, 5, 2, 2, 9]), np.array([1, 1, 3, 4, 2, 7])
    made = Table.count(contexts, tokens)
    assert made.look_up(np.array([5, 2, 9, 0, 99]), np.full(5, -7)).tolist() == [1, 2, 7, -7, -7]


@pytest.mark.parametrize("objective", ["mlm", "clm"])
def test_tables_of_tokens_by_hand(tmp_path: Path, objective: str) -> None:
    """Text in which the token before, or those on both sides, decide."""
    file = tmp_path / "a.txt"
    file.write_text(
        "\n".join(
            f"{a} b {c} {'x' if a == c else 'y'} {a}{n}"
            for n in range(40)
            for a, c in ("pp", "pq", "qp", "qq")
        )
    )
    config = (BertConfig if objective == "mlm" else Gpt2Config)(**SMALL)
    train, validation, config = opened(file, config)
    chosen = make_objective(objective, config, {})

    def rng(name: str) -> Any:
        return sample_rng(0, None, name, "mask")

    found = {b.name: b.value for b in TextDomain().baselines(train, validation, chosen, config, rng)}
    values = list(found.values())
    assert len(values) == 3 and values[0] < values[1] < values[2] <= 1
    total = right = 0
    counts = Counter(int(i) for s in everything(train) for i in s["input_ids"][~s["special"]])
    for sample in everything(validation):
        got = chosen.corrupt(sample, rng(sample["id"]))
        for row in (got["labels"] != -100).nonzero()[0]:
            shown = got["input_ids"][row] if objective == "mlm" else config.mask_token_id
            guess = counts.most_common(1)[0][0] if shown == config.mask_token_id else shown
            total, right = total + 1, right + (guess == got["labels"][row])
    most = sorted(token for token, count in counts.items() if count == max(counts.values()))
    if len(most) == 1:
        assert values[0] == pytest.approx(right / total)


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
        .startswith("mae on 3 held-out")
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


def test_page_of_predictions(tmp_path: Path, corpus: Path, capsys: pytest.CaptureFixture[str]) -> None:
    corpus.write_text(corpus.read_text() + "\n<script>alert('cat & dog')</script> " + " cat" * 20)
    train, _, config = opened(corpus, validation="none")
    chosen = make_objective("mlm", config, {"mlm_probability": 0.5})
    samples = [chosen.corrupt(s, np.random.default_rng(0)) for s in everything(train)[-3:]]
    asked = [torch.from_numpy(s["labels"]) for s in samples]
    right = [torch.stack([x, x.clamp(min=0)], 1) for x in asked]
    wrong = torch.full_like(right[0], 4)
    (page,) = TextDomain().report(tmp_path, train, samples, [wrong, *right[1:]], chosen, config)
    text = page.read_text()
    assert page.name == "predictions.html" and "<script>" not in text and "&lt;" in text
    assert text.count('class="wrong"') == int((asked[0] != -100).sum())
    assert text.count('class="right"') == int(sum((x != -100).sum() for x in asked[1:]))
    assert "[[MASK]|" in capsys.readouterr().out


def test_predictions_of_classes_and_tags_are_shown(tmp_path: Path) -> None:
    rows = [{"text": s, "label": ["<cold>", "warm"][n % 2]} for n, s in enumerate(sentences(10))]
    train, _, config = opened(table(tmp_path, rows), kinds=("class",), validation="none")
    fake = SimpleNamespace(name="classification", labels=train.labels)
    samples = everything(train)[:2]
    (page,) = TextDomain().report(tmp_path, train, samples, [torch.tensor([[5.0, 0.0]])] * 2, fake, config)
    text = page.read_text()
    assert "&lt;cold&gt; (99%)" in text and text.count('class="wrong"') == 1 and "true: warm" in text
