"""Simple predictors of tokens and labels, judged on the same held-out samples as the model.

Tokens: tables that count which token stands behind which, as they are made in seconds. Labels: linear models on
words and pairs of words (scikit-learn).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Any

import numpy as np

from unitrans.domains.base import Baseline, Sample
from unitrans.domains.text.source import IGNORED, TextSource
from unitrans.objectives.base import Labels

MAX_SAMPLES = 50_000  # of training that are counted
MAX_LABELLED = 20_000  # of training that linear models are fitted to
NONE = -1  # the neighbour of a token at an end


@dataclass
class Table:
    """The most frequent token in every context that training has, by number of the context (ascending)."""

    contexts: np.ndarray
    best: np.ndarray

    @staticmethod
    def count(contexts: np.ndarray, tokens: np.ndarray) -> Table:
        """Contexts and tokens int64 [n] that stand together; of equally frequent tokens the smallest is taken."""
        pairs, counts = np.unique(np.stack([contexts, tokens]), axis=1, return_counts=True)
        order = np.lexsort((pairs[1], -counts, pairs[0]))
        contexts, tokens = pairs[0][order], pairs[1][order]
        first = np.append(True, contexts[1:] != contexts[:-1])[: len(contexts)]
        return Table(contexts[first], tokens[first])

    def look_up(self, contexts: np.ndarray, otherwise: np.ndarray) -> np.ndarray:
        """The token for every context, or what is given otherwise for one that training does not have."""
        if not len(self.contexts):
            return otherwise
        place = np.minimum(np.searchsorted(self.contexts, contexts), len(self.contexts) - 1)
        return np.where(self.contexts[place] == contexts, self.best[place], otherwise)


def training_samples(source: Any, limit: int) -> Iterator[Sample]:
    """Readable training samples: all, or the first of a stream or a very large set."""
    loaded = (source.load(index) for index in range(len(source)))
    return islice((sample for sample in loaded if sample is not None), limit)


def evaluate(
    train: Any,
    held_out: TextSource,
    objective: Any,
    model_config: Any,
    rng_for: Callable[[str], np.random.Generator],
) -> list[Baseline]:
    """The simple predictors that go with an objective."""
    if objective.predicts in ("tokens", "next_tokens"):
        return _token_tables(train, held_out, objective, model_config, rng_for)
    if objective.predicts == "word_classes":
        return _words(train, held_out)
    return _documents(train, held_out, objective)


def _around(ids: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The tokens two before, before and behind every token."""
    before, behind = np.append(NONE, ids[:-1]), np.append(ids[1:], NONE)
    return np.append(NONE, before[:-1]), before, behind


def _token_tables(
    train: Any,
    held_out: TextSource,
    objective: Any,
    model_config: Any,
    rng_for: Callable[[str], np.random.Generator],
) -> list[Baseline]:
    """Accuracy of tables over one and two neighbours, each falling back on the one with fewer. The neighbours are
    those that the model sees too."""
    size, causal = np.int64(model_config.vocab_size + 1), bool(model_config.causal)
    tokens, two, before, behind = (
        np.concatenate(parts)
        for parts in zip(
            *(
                tuple(x[~s["special"]] for x in (s["input_ids"], *_around(s["input_ids"])))
                for s in training_samples(train, MAX_SAMPLES)
            ),
            strict=True,
        )
    )
    other = two if causal else behind
    unigram = Table.count(np.zeros_like(tokens), tokens)
    bigram = Table.count(before, tokens)
    both = Table.count((before + 1) * size + other + 1, tokens)
    note = f"counted on {len(tokens):,} training tokens"
    right: dict[str, int] = {}
    asked = 0
    names = ("most frequent token", "table of the token before", "table of the two tokens before")
    names = names if causal else (*names[:2], "table of the tokens on both sides")
    for sample in training_samples(held_out, len(held_out)):
        corrupted = objective.corrupt(sample, rng_for(sample["id"]))
        ids, labels = corrupted["input_ids"], corrupted["labels"]
        if causal:  # row i predicts the token behind it
            at = (labels != IGNORED).nonzero()[0]
            truth, shown = labels[at], np.full(len(at), NONE)
            context, second = ids[at], np.append(NONE, ids)[at]
        else:
            at = (labels != IGNORED).nonzero()[0]
            truth, shown = labels[at], np.where(ids[at] == model_config.mask_token_id, NONE, ids[at])
            _, context, second = (x[at] for x in _around(ids))
        guesses = [unigram.look_up(np.zeros_like(context), np.full(len(at), NONE))]
        guesses.append(bigram.look_up(context, guesses[0]))
        guesses.append(both.look_up((context + 1) * size + second + 1, guesses[1]))
        asked += len(at)
        for name, guess in zip(names, guesses, strict=True):
            # A token that is asked for but not hidden is most likely the one that stands there.
            right[name] = right.get(name, 0) + int((np.where(shown == NONE, guess, shown) == truth).sum())
    return [Baseline(name, count / max(asked, 1), note) for name, count in right.items()]


def _texts(source: Any, limit: int) -> tuple[list[str], list[Any]]:
    texts, labels = [], []
    for sample in training_samples(source, limit):
        texts.append(source.tokenizer.text(sample["input_ids"][~sample["special"]].tolist()))
        labels.append(sample["label"])
    return texts, labels


def _documents(train: Any, held_out: TextSource, objective: Any) -> list[Baseline]:
    """The most frequent class (or the mean), and a linear model on tf-idf of words and pairs of words."""
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline

    texts, given = _texts(train, MAX_LABELLED)
    unseen, truth = (part for part in _texts(held_out, len(held_out)))
    labels: Labels = objective.labels
    note = f"fitted to {len(texts):,} training documents"
    words = TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True, token_pattern=r"\S+")
    if labels.kind == "value":
        return _value_lines(words, texts, np.stack(given), unseen, np.stack(truth), objective.headline, note)
    if labels.kind == "multi":
        return _answer_lines(words, texts, np.stack(given), unseen, np.stack(truth), note)
    classes = np.asarray(given)
    found = [
        Baseline("most frequent class", float((np.asarray(truth) == np.bincount(classes).argmax()).mean()))
    ]
    name = "logistic regression on tf-idf of words and pairs"
    if len(np.unique(classes)) < 2:
        return [*found, Baseline(name, None, "skipped: the training documents are of one class")]
    fitted = make_pipeline(words, LogisticRegression(C=10.0, max_iter=1000)).fit(texts, classes)
    return [*found, Baseline(name, float((fitted.predict(unseen) == np.asarray(truth)).mean()), note)]


def _value_lines(
    words: Any,
    texts: list[str],
    given: np.ndarray,
    unseen: list[str],
    truth: np.ndarray,
    headline: str,
    note: str,
) -> list[Baseline]:
    """The mean and a ridge regression for every target [n, K], on the rows that know it; their mean error."""
    from sklearn.linear_model import Ridge

    means: list[float] = []
    ridges: list[float] = []
    rows, others = words.fit_transform(texts), words.transform(unseen)
    for k in range(given.shape[1]):
        known, asked = np.isfinite(given[:, k]), np.isfinite(truth[:, k])
        if not asked.any():
            continue
        guess = Ridge(1.0).fit(rows[known], given[known, k]).predict(others[asked])
        for errors, guessed in ((means, given[known, k].mean()), (ridges, guess)):
            off = np.abs(guessed - truth[asked, k])
            errors.append(np.sqrt(np.square(off).mean()) if headline == "rmse" else off.mean())
    figures = [float(np.mean(errors)) if errors else None for errors in (means, ridges)]
    return [
        Baseline("mean of the training documents", figures[0], note),
        Baseline("ridge regression on tf-idf", figures[1], note),
    ]


def _answer_lines(
    words: Any, texts: list[str], given: np.ndarray, unseen: list[str], truth: np.ndarray, note: str
) -> list[Baseline]:
    """ROC-AUC of a linear model for every target that has both answers on both sides; their mean."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.metrics import roc_auc_score

    areas = []
    rows, others = words.fit_transform(texts), words.transform(unseen)
    for k in range(given.shape[1]):
        known, asked = np.isfinite(given[:, k]), np.isfinite(truth[:, k])
        if len(np.unique(given[known, k])) == 2 == len(np.unique(truth[asked, k])):
            fitted = LogisticRegression(C=10.0, max_iter=1000).fit(rows[known], given[known, k])
            areas.append(roc_auc_score(truth[asked, k], fitted.decision_function(others[asked])))
    value = float(np.mean(areas)) if areas else None
    return [Baseline("logistic regression on tf-idf of words and pairs, one per target", value, note)]


def _words(train: Any, held_out: TextSource) -> list[Baseline]:
    """The most frequent class of all words, and of each word's first token and the one behind it."""
    parts = [
        (s["input_ids"][asked], np.append(s["input_ids"][1:], NONE)[asked], s["labels"][asked])
        for s in training_samples(train, MAX_SAMPLES)
        for asked in [s["labels"] != IGNORED]
    ]
    ids, behind, labels = (np.concatenate(column) for column in zip(*parts, strict=True))
    everywhere = Table.count(np.zeros_like(ids), labels)
    by_token = Table.count(ids, labels)
    size = np.int64(ids.max() + 2)
    by_two = Table.count(ids * (size + 1) + np.minimum(behind, size - 1) + 1, labels)
    right, asked_for = np.zeros(3, dtype=int), 0
    for s in training_samples(held_out, len(held_out)):
        asked = s["labels"] != IGNORED
        here, next_one = s["input_ids"][asked], np.append(s["input_ids"][1:], NONE)[asked]
        first = everywhere.look_up(np.zeros_like(here), np.zeros_like(here))
        second = by_token.look_up(here, first)
        third = by_two.look_up(here * (size + 1) + np.minimum(next_one, size - 1) + 1, second)
        right += [int((guess == s["labels"][asked]).sum()) for guess in (first, second, third)]
        asked_for += int(asked.sum())
    note = f"counted on {len(ids):,} training words"
    names = (
        "most frequent class",
        "most frequent class of the token",
        "most frequent class of the token and the next",
    )
    return [
        Baseline(name, count / max(asked_for, 1), note)
        for name, count in zip(names, right.tolist(), strict=True)
    ]
