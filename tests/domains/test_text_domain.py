"""Text as samples: tokenizers, chunks, what is held out, labels, streams, batches, simple predictors, pages."""

import pickle
import time
from collections import Counter
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from text_cases import SMALL, everything, opened, sentences
from transformers import AutoTokenizer

from unitrans.domains.text import TextDomain
from unitrans.domains.text.baselines import Table
from unitrans.domains.text.tokenizer import load_tokenizer, train_tokenizer
from unitrans.models import BertConfig, Gpt2Config
from unitrans.objectives import make_objective
from unitrans.training.random import sample_rng


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    file = tmp_path / "corpus.txt"
    file.write_text("\n".join(sentences()))
    return file


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
