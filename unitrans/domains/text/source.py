"""Documents as samples: tokenised once, long ones in chunks, held in two flat arrays."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from unitrans.data.columns import Column
from unitrans.data.labels import answers_of, class_number
from unitrans.domains.base import Sample, Source
from unitrans.domains.text.documents import Documents, all_documents
from unitrans.domains.text.labels import Rule, values_of
from unitrans.domains.text.reading import Document
from unitrans.domains.text.tokenizer import Encoded, TextTokenizer
from unitrans.objectives.base import Labels

BATCH = 256  # documents that are tokenised at a time
BATCH_CHARACTERS = 1 << 19
IGNORED = -100


@dataclass
class Cutter:
    """How documents become samples.

    limit: tokens of the longest sample, special ones included. causal: for a model that sees only what was before.
    segments: of the model, how many it tells apart (a second text is the second). labels: what is asked of every
    document, None where the text is all there is. text_column, second_column, label_separator: of the table the
    documents come from. targets: its columns with labels; columns: how their cells are read. missing, encoding: of the
    configuration.
    """

    tokenizer: TextTokenizer
    limit: int
    causal: bool
    segments: int = 0
    labels: Labels | None = None
    text_column: str | None = None
    second_column: str | None = None
    label_separator: str | None = None
    targets: list[str] = field(default_factory=list)
    columns: Mapping[str, Column] = field(default_factory=dict)
    missing: list[str] | None = None
    encoding: str = "auto"
    shortened: int = 0  # documents of which only the beginning is used

    def __post_init__(self) -> None:
        self.special = np.asarray(self.tokenizer.special_ids, dtype=np.int64)
        room = self.limit - (0 if self.causal else len(self.tokenizer.prefix) + len(self.tokenizer.suffix))
        if room < 2:
            raise ValueError(
                f"data.max_length: expected room for two tokens and the special ones, got {self.limit}"
            )

    @property
    def reading(self) -> dict[str, Any]:
        """What it takes to read other texts as these; the tokenizer lies in the run."""
        return {
            "domain": "text",
            "text_column": self.text_column,
            "second_column": self.second_column,
            "label_separator": self.label_separator,
            "label_columns": self.targets,
            "columns": {name: column.kind for name, column in self.columns.items()},
            "missing": self.missing,
            "encoding": self.encoding,
            "segments": self.segments,
            "limit": self.limit,
            "causal": self.causal,
        }

    def samples(self, documents: Sequence[Document]) -> Iterator[tuple[Document, list[Sample] | str]]:
        """Every document with its samples, or with the reason why there are none."""
        words = self.labels is not None and self.labels.kind == "token"
        texts: Any = [d.words if words else d.text for d in documents]
        found = self.tokenizer.encode(texts, words=words)
        behind = iter(self.tokenizer.encode([d.second for d in documents if d.second is not None]))
        for document, encoded in zip(documents, found, strict=True):
            yield document, self._of(document, encoded, None if document.second is None else next(behind))

    def _of(self, document: Document, encoded: Encoded, second: Encoded | None) -> list[Sample] | str:
        if not len(encoded.ids) or (second is not None and not len(second.ids)):
            return "it has no token"
        if second is not None:
            pair, begin, cut = joined(self.tokenizer, encoded, second, self.limit, self.causal)
            parts = [pair]
            self.shortened += cut
        else:
            parts, begin = self._cut(encoded), None
        if self.labels is not None:
            self.shortened += len(parts) > 1
            del parts[1:]
        samples = []
        for number, (ids, word_start, word) in enumerate(parts):
            name = document.id if len(parts) == 1 else f"{document.id}:{number}"
            sample: Sample = {"id": name, "input_ids": ids, "word_start": word_start}
            if begin is not None:
                sample["second"] = begin
            if self.labels is not None:
                label = self._label(document, word_start, word)
                if label is None:
                    return f"its label {document.label!r} is not among those of training"
                sample["labels" if self.labels.kind == "token" else "label"] = label
            samples.append(sample)
        return samples

    def _label(self, document: Document, word_start: np.ndarray, word: np.ndarray) -> Any:
        assert self.labels is not None
        column = next(iter(self.columns.values()), None)
        if self.labels.kind == "value":
            return values_of(document.label, self.columns)
        if self.labels.kind == "multi":
            return answers_of(document.label, self.labels.names, self.columns)
        if self.labels.kind == "class":
            return class_number(document.label, self.labels.names, column)
        known = [class_number(label, self.labels.names, column) for label in document.label]
        if None in known:
            return None
        asked = word_start & (word >= 0)  # a word is judged by its first token
        return np.where(asked, np.asarray(known, dtype=np.int64)[np.maximum(word, 0)], IGNORED)

    def _cut(self, encoded: Encoded) -> list[tuple[np.ndarray, np.ndarray, np.ndarray]]:
        """Chunks of nearly equal length with their special tokens."""
        t = self.tokenizer
        ids, start, word = encoded.ids, encoded.word_start, encoded.word
        if self.causal:
            ids, start, word = around(t.begin, t.end, ids, start, word)
            room, before, after = self.limit, [], []
        else:
            before, after = t.prefix, t.suffix
            room = self.limit - len(before) - len(after)
        chunks = -(-len(ids) // room)
        if self.labels is not None and chunks > 1:  # the beginning counts: as much of it as there is room for
            parts = [tuple(x[:room] for x in (ids, start, word)), (ids[room:],) * 3]
        else:
            parts = list(zip(*(np.array_split(x, chunks) for x in (ids, start, word)), strict=True))
        return [around(before, after, *part) for part in parts]

    def is_special(self, ids: np.ndarray) -> np.ndarray:
        """bool [n]: which tokens are no part of the text."""
        return np.isin(ids, self.special)


def around(
    before: Sequence[int], after: Sequence[int], ids: np.ndarray, start: np.ndarray, word: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    def join(a: Any, x: np.ndarray, b: Any) -> np.ndarray:
        return np.concatenate([np.asarray(a, x.dtype), x, np.asarray(b, x.dtype)])

    return (
        join(before, ids, after),
        join([True] * len(before), start, [True] * len(after)),
        join([-1] * len(before), word, [-1] * len(after)),
    )


def joined(
    tokenizer: TextTokenizer, first: Encoded, second: Encoded, limit: int, causal: bool
) -> tuple[tuple[np.ndarray, np.ndarray, np.ndarray], int, bool]:
    """Two texts as one sample of at most limit tokens: the longer one loses its end first, down to half of the room.

    Returns:
        (tokens, word_start, word), the place of the second text's first token, and whether something was cut off.
    """
    t = tokenizer
    before, between, after = (t.begin, t.end, t.end) if causal else (t.prefix, t.between, t.suffix)
    n, m = len(first.ids), len(second.ids)
    room = limit - len(before) - len(between) - len(after)
    cut = n + m > room
    if cut:
        n = min(n, max(room // 2, room - m))
        m = min(m, room - n)
    left = around(before, between, first.ids[:n], first.word_start[:n], first.word[:n])
    right = around([], after, second.ids[:m], second.word_start[:m], second.word[:m])
    ids, start, word = (np.concatenate(pair) for pair in zip(left, right, strict=True))
    return (ids, start, word), len(left[0]), cut


def segments_of(length: int, second: int | None) -> np.ndarray:
    """token_type_ids int64 [length]: 1 from the first token of the second text on."""
    return (np.arange(length) >= (length if second is None else second)).astype(np.int64)


def batches(items: Iterable[Document], size: int = BATCH) -> Iterator[list[Document]]:
    """Lists of at most this many documents, of about BATCH_CHARACTERS: what tokenizers return is many times that."""
    batch: list[Document] = []
    characters = 0
    for document in items:
        batch.append(document)
        characters += len(document.text)
        if len(batch) == size or characters >= BATCH_CHARACTERS:
            yield batch
            batch, characters = [], 0
    if batch:
        yield batch


@dataclass
class _Growing:
    """Samples on their way into flat arrays."""

    ids: list[str] = field(default_factory=list)
    tokens: list[np.ndarray] = field(default_factory=list)
    starts: list[np.ndarray] = field(default_factory=list)
    targets: list[Sample] = field(default_factory=list)

    def add(self, sample: Sample) -> None:
        self.ids.append(sample["id"])
        self.tokens.append(sample["input_ids"])
        self.starts.append(sample["word_start"])
        label: Sample = {key: sample[key] for key in ("label", "labels", "second") if key in sample}
        if label:
            self.targets.append(label)


class OfCutter(Source):
    """What a source has of the ``cutter`` that makes its samples."""

    cutter: Cutter

    @property
    def tokenizer(self) -> TextTokenizer:
        """What made the tokens."""
        return self.cutter.tokenizer

    @property
    def reading(self) -> dict[str, Any]:
        """What it takes to read other texts as these."""
        return self.cutter.reading

    @property
    def labels(self) -> Labels | None:
        """What the labels mean."""
        return self.cutter.labels


class TextSource(OfCutter):
    """Samples of one side of the split, in memory as tokens.

    ``source[i]`` is {"id", "input_ids" int64 [n], "special" bool [n], "word_start" bool [n]} and, where labels are
    asked, "label": a class, float64 [K] values or float32 [K] yes or no, or "labels": int64 [n], a class for the first
    token of every word and -100 elsewhere. Of two texts "second" is the place where the second begins, and
    "token_type_ids" int64 [n] says so to a model with segments. num_tokens: int64, tokens of every sample.
    """

    def __init__(self, samples: _Growing, cutter: Cutter) -> None:
        super().__init__(samples.ids)
        self.targets, self.cutter = samples.targets, cutter
        self.num_tokens = np.asarray([len(tokens) for tokens in samples.tokens], dtype=np.int64)
        self.ends = np.cumsum(self.num_tokens)
        self.tokens = _flat(samples.tokens, np.int32)
        self.starts = _flat(samples.starts, bool)

    def class_numbers(self) -> list[int]:
        """The class of every sample."""
        return [int(target["label"]) for target in self.targets]

    def load(self, index: int) -> Sample | None:
        """One sample; see the class."""
        stop = int(self.ends[index])
        here = slice(stop - int(self.num_tokens[index]), stop)
        sample = {"id": self.ids[index], "input_ids": self.tokens[here], "word_start": self.starts[here]}
        return complete(sample | (self.targets[index] if self.targets else {}), self.cutter)


def _flat(parts: list[np.ndarray], dtype: Any) -> np.ndarray:
    return np.concatenate(parts).astype(dtype, copy=False) if parts else np.zeros(0, dtype)


def complete(sample: Sample, cutter: Cutter) -> Sample:
    """A stored sample as the objective takes it."""
    ids = sample["input_ids"].astype(np.int64)
    made = sample | {"input_ids": ids, "special": cutter.is_special(ids)}
    if "second" in sample and cutter.segments > 1:
        made["token_type_ids"] = segments_of(len(ids), sample["second"])
    return made


def build_sources(documents: Documents, cutter: Cutter, held_out: Rule) -> tuple[TextSource, TextSource]:
    """All documents as samples: those to train on and those held out."""
    sides = (_Growing(), _Growing())
    reasons: dict[str, str] = {}
    for batch in batches(all_documents(documents)):
        for document, samples in cutter.samples(batch):
            if isinstance(samples, str):
                reasons.setdefault(document.id, samples)
                continue
            for sample in samples:
                sides[held_out(document, sample["id"])].add(sample)
    train, validation = (TextSource(side, cutter) for side in sides)
    for name, reason in (documents.skipped | reasons).items():
        train.skip(name, reason)
    return train, validation
