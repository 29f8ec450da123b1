"""Text: documents as tokens, one group per sample, packed into one stream without padding."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from unitrans.data.intervals import bootstrap
from unitrans.data.labels import USUAL
from unitrans.data.splits import hash_fraction
from unitrans.data.table import Kind
from unitrans.domains.base import Baseline, Batch, Domain, Sample, stack_labels
from unitrans.domains.kept import Kept
from unitrans.domains.text import baselines as predictors
from unitrans.domains.text import config
from unitrans.domains.text.documents import (
    EMBEDDED,
    Documents,
    all_documents,
    nothing_usable,
    open_documents,
)
from unitrans.domains.text.labels import Rule, find_labels
from unitrans.domains.text.pages import write_predictions
from unitrans.domains.text.predict import QUESTIONS, row_reader
from unitrans.domains.text.reading import Document
from unitrans.domains.text.settings import settings_from
from unitrans.domains.text.source import (
    IGNORED,
    Cutter,
    TextSource,
    build_sources,
)
from unitrans.domains.text.stream import StreamedText
from unitrans.domains.text.tokenizer import TextTokenizer, has_tokenizer, load_tokenizer, train_tokenizer
from unitrans.objectives.base import LabelKind

TRAINED_ON = 20_000_000  # characters from which a tokenizer is made, at most


class TextDomain(Domain):
    """Text. A token is a piece of a word; see ``unitrans.domains.base.Domain``."""

    name = "text"
    DataConfig = config.DataConfig
    embedded = frozenset(EMBEDDED)
    default_objective = "mlm"
    judges = frozenset({"tokens", "next_tokens", "classes", "answers", "values", "word_classes"})

    def settings(self, layers: Mapping[str, Any]) -> dict[str, Any]:
        """What the settings given so far say about others: a tokenizer about the model, --init about both."""
        return settings_from(layers)

    def keep(self, run: Path, source: Any) -> None:
        """Writes the tokenizer into the run folder, which AutoTokenizer then opens."""
        source.tokenizer.save(run)

    def resumed(
        self, data: Mapping[str, Any], model: Mapping[str, Any], run: Path
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        """The sections ``data`` and ``model`` of a run that goes on: with the tokenizer it had, words added included,
        and the vocabulary of one that it had trained."""
        if not has_tokenizer(run):
            return dict(data), dict(model)
        size = model["vocab_size"] if data["tokenizer"] is not None else len(load_tokenizer(str(run)))
        return {**data, "tokenizer": str(run), "added_tokens": []}, {**model, "vocab_size": size}

    def reopen(
        self,
        data: config.DataConfig,
        model_config: Any,
        seed: int,
        label_kinds: Sequence[LabelKind],
        kept: Kept | None,
    ) -> tuple[Any, TextSource | None]:
        """See ``unitrans.domains.base.Domain``: with the labels it had; ``resumed`` gives the tokenizer."""
        return self.open(data, model_config, seed, label_kinds, kept)

    def open(
        self,
        data: config.DataConfig,
        model_config: Any,
        seed: int,
        label_kinds: Sequence[LabelKind] = (),
        kept: Kept | None = None,
    ) -> tuple[Any, TextSource | None]:
        """The training samples and the held-out ones (None for data.validation=none or 0).

        The split does not depend on ``seed``. model_config gets the vocabulary size of a tokenizer that is trained
        here, and the tokenizer's mask token. ValueError in one sentence for whatever cannot be used.
        """
        kind = _kind(label_kinds)
        documents = open_documents(data.path, data, kind)
        rule = HeldOut(data.validation if isinstance(data.validation, float) else 0.0)
        tokenizer, notes = _tokenizer(data, model_config, documents, rule)
        meant: LabelKind | None = "multi" if documents.multi else kind
        labels = None
        if kept is not None and kept.labels is not None:
            labels, documents.columns = kept.labels, kept.columns
        elif meant is not None:
            labels = find_labels(documents, meant, rule)
        notes = [*documents.notes, *notes]
        limit = min(
            data.max_length or model_config.max_position_embeddings, model_config.max_position_embeddings
        )
        label = documents.label
        targets = [label] if isinstance(label, str) else list(label or ())
        columns = (
            documents.text,
            data.second_column,
            data.label_separator,
            targets,
            dict(documents.columns),
            data.missing,
            data.encoding,
        )
        segments = model_config.type_vocab_size
        cutter = Cutter(tokenizer, limit, bool(model_config.causal), segments, labels, *columns)
        if data.streaming:
            train: Any = StreamedText(documents, cutter, data, seed, rule)
            validation = (
                train.kept_validation() if isinstance(data.validation, float) and data.validation else None
            )
            notes.append(
                f"streamed from {documents.files:,} files through a buffer of {data.shuffle_buffer:,}; about "
                f"{len(train):,} training samples an epoch"
            )
            if validation is not None and not len(validation):
                raise ValueError(
                    f"data.validation={data.validation:g} holds out none of the documents that were looked at: give a "
                    "larger fraction or another place"
                )
        else:
            train, validation = _sources(documents, cutter, data, rule, notes)
        if isinstance(data.validation, str) and data.validation != "none":
            validation = _elsewhere(data, documents, cutter, kind)
        train.notes += notes
        if cutter.shortened:
            train.notes.append(
                f"{cutter.shortened:,} documents are longer than {limit} tokens: their beginning is used"
            )
        return train, validation

    def collate(self, samples: Sequence[Sample | None], model_config: Any) -> Batch | None:
        """Packs samples into one stream of tokens.

        Returns {"input_ids": int64 [T], "plans", "labels": int64 [T] with -100 where nothing is asked (or as in
        ``stack_labels``), "predicted": int64 [P], the rows that are asked, "sample_ids", "num_skipped"}, or None when
        no sample is left.
        """
        good = [sample for sample in samples if sample is not None]
        if not good:
            return None
        batch: Batch = {
            "input_ids": torch.from_numpy(np.concatenate([sample["input_ids"] for sample in good])),
            "plans": model_config.plans([len(sample["input_ids"]) for sample in good]),
            "sample_ids": [sample["id"] for sample in good],
            "num_skipped": len(samples) - len(good),
        }
        if "token_type_ids" in good[0]:
            batch["token_type_ids"] = torch.from_numpy(np.concatenate([s["token_type_ids"] for s in good]))
        if "labels" in good[0]:
            batch["labels"] = torch.from_numpy(np.concatenate([sample["labels"] for sample in good]))
            batch["predicted"] = (batch["labels"] != IGNORED).nonzero().squeeze(1)
        if "visible" in good[0]:
            seen = torch.from_numpy(np.concatenate([sample["visible"] for sample in good]))
            batch["plans"] = batch["plans"].keeping(seen)
        if "mask" in good[0]:
            batch["mask"] = torch.from_numpy(np.concatenate([sample["mask"] for sample in good]))
        return batch | stack_labels(good)

    def record_reader(
        self, names: Sequence[str], reading: Mapping[str, Any], column: str | None
    ) -> Callable[[Mapping[str, Any]], Sample]:
        """See ``unitrans.domains.base.Domain``."""
        return row_reader(names, reading, column)

    def line_kind(self, first: str) -> Kind:
        """See ``unitrans.domains.base.Domain``: a line is a text, as no line of text says that it is a header."""
        return "text"

    def known_columns(self, reading: Mapping[str, Any]) -> list[str | None]:
        """Names that the header of a table has which is read as the training data were."""
        named = [
            reading.get("text_column"),
            reading.get("second_column"),
            *(reading.get("label_columns") or ()),
        ]
        return [*named, "text", "tokens", "words", *USUAL]

    questions = QUESTIONS

    def baselines(
        self,
        train_source: Any,
        validation_source: TextSource,
        objective: Any,
        model_config: Any,
        rng_for: Callable[[str], np.random.Generator],
    ) -> list[Baseline]:
        """Simple predictors; see ``unitrans.domains.text.baselines``."""
        return predictors.evaluate(train_source, validation_source, objective, model_config, rng_for)

    def report(
        self,
        directory: Path,
        source: Any,
        samples: Sequence[Sample],
        predictions: Sequence[torch.Tensor],
        objective: Any,
        model_config: Any,
    ) -> list[Path]:
        """predictions.html: sentences with what was asked and what the model says; a few of them on the screen."""
        return write_predictions(Path(directory), source.tokenizer, samples, predictions, objective)

    def details(
        self, directory: Path, part: str, collected: Mapping[str, torch.Tensor], objective: Any
    ) -> tuple[list[Path], dict[str, Any]]:
        """Of all answers about held-out documents: 95 % intervals of the figures."""
        if not collected or not objective.label_kinds:
            return [], {}
        return [], {"intervals": bootstrap(objective.figures, collected)}


def _kind(label_kinds: Sequence[LabelKind]) -> LabelKind | None:
    """The kind of labels that text can give, of those an objective takes."""
    return next((kind for kind in ("class", "value", "token") if kind in label_kinds), None)


@dataclass(frozen=True)
class HeldOut:
    """Whether a sample is held out: by a hash of its document's text or file (data.group), or of its own name.

    fraction: of the documents or samples. by_sample: where there are too few documents. only: this sample alone.
    """

    fraction: float
    by_sample: bool = False
    only: str | None = None

    def __call__(self, document: Document, sample: str) -> bool:
        if self.only is not None:
            return sample == self.only
        return self.fraction > 0 and hash_fraction(sample if self.by_sample else document.key) < self.fraction


def _tokenizer(
    data: config.DataConfig, model_config: Any, documents: Documents, held_out: Rule
) -> tuple[TextTokenizer, list[str]]:
    """The tokenizer of a run, and what a person should know about it; model_config learns from it."""
    added, notes = tuple(data.added_tokens), []
    if data.tokenizer is not None:
        tokenizer = load_tokenizer(data.tokenizer, added)
        if len(tokenizer) > model_config.vocab_size:
            raise ValueError(
                f"model.vocab_size: the tokenizer {data.tokenizer!r} has {len(tokenizer):,} tokens, the model "
                f"{model_config.vocab_size:,}: set it to {len(tokenizer)}, or leave it out"
            )
    else:
        kind = data.tokenizer_kind
        if kind == "auto":
            kind = "bpe" if model_config.causal else "wordpiece"
        room = data.vocab_size - len(added)
        longest = model_config.max_position_embeddings
        tokenizer = train_tokenizer(_some_text(documents, held_out), kind, room, data.lowercase, longest)
        if added:
            tokenizer.tokenizer.add_tokens(list(added))
        if not any(True for _ in all_documents(documents)):
            raise nothing_usable(documents, f"data.path: {data.path!r}")
        model_config.vocab_size = len(tokenizer)
        asked = "" if len(tokenizer) == data.vocab_size else f" of {data.vocab_size:,} asked for"
        notes.append(f"trained a {kind} tokenizer of {len(tokenizer):,} tokens{asked}")
    model_config.mask_token_id = tokenizer.mask_token_id
    return tokenizer, notes


def _some_text(documents: Documents, held_out: Rule) -> Any:
    """Texts to make a tokenizer from: those of training, TRAINED_ON characters at most."""
    characters = 0
    for document in all_documents(documents):
        if held_out(document, document.id):
            continue
        yield document.text
        characters += len(document.text)
        if characters > TRAINED_ON:
            return


def _sources(
    documents: Documents, cutter: Cutter, data: config.DataConfig, rule: Rule, notes: list[str]
) -> tuple[TextSource, TextSource | None]:
    train, validation = build_sources(documents, cutter, rule)
    if not len(train) and not len(validation):
        raise nothing_usable(documents, f"data.path: {data.path!r}")
    if not isinstance(data.validation, float) or data.validation == 0:
        return train, None
    fraction, count = data.validation, len(train) + len(validation)
    if not len(train) or not len(validation):  # few documents: parts of them are held out
        train, validation = build_sources(documents, cutter, HeldOut(fraction, by_sample=True))
        if not len(validation) and count > 1:
            smallest = min(train.ids, key=hash_fraction)
            train, validation = build_sources(documents, cutter, HeldOut(fraction, only=smallest))
        if not len(train) or not len(validation):
            raise ValueError(
                f"data.validation={fraction:g} cannot hold anything out: there is only one sample; set "
                "data.validation=none, name a file, or add text"
            )
        notes.append("there are too few documents to hold some out: parts of them are held out instead")
    return train, validation


def _elsewhere(
    data: config.DataConfig, documents: Documents, cutter: Cutter, kind: LabelKind | None
) -> TextSource:
    """The held-out samples that data.validation names: another split of the data set, or another place."""
    path = str(data.validation)
    if path in documents.splits and not Path(path).expanduser().exists():
        if path == documents.split:
            raise ValueError(f"data.validation={path} is the split that is trained on: name another")
        changes: dict[str, Any] = {"split": path}
        path = data.path
    else:
        changes = {"split": None, "revision": None}
    if path == data.path and changes["split"] is None:
        raise ValueError(
            f"data.validation={path} is the training text itself: give a fraction, another file, or none"
        )
    elsewhere = data.model_copy(update=changes | {"streaming": False})
    found = open_documents(path, elsewhere, kind, "data.validation")
    found.columns = dict(documents.columns)
    rest, validation = build_sources(found, cutter, HeldOut(1.0))
    for name, reason in rest.skipped:
        validation.skip(name, reason)
    validation.notes += found.notes
    if not len(validation):
        raise nothing_usable(found, f"data.validation: {path!r}")
    return validation
