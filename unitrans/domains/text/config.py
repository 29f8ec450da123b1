"""The ``data`` section of a text run."""

from __future__ import annotations

import codecs
import re
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from unitrans.data.labels import check_columns, check_separator
from unitrans.data.table import DELIMITER, HEADER, MISSING

Boundary = Literal["line", "blank_line", "file"]


class DataConfig(BaseModel):
    """Where the text is, what a document is, and how it becomes tokens."""

    model_config = ConfigDict(extra="forbid")

    path: str = Field(
        "pydoc",
        min_length=1,
        description="A text file (.gz, .bz2 and .zst too) or a folder of them; a CSV, JSON-lines or parquet file or a "
        "folder of one kind of them; a data set saved by Hugging Face datasets; an embedded data set (pydoc: the "
        "language reference that comes with Python); or a data set of the hub (NAME, OWNER/NAME or "
        "OWNER/NAME:CONFIG). An embedded name wins over a folder of the same name (write ./pydoc for the folder), a "
        "folder over the hub.",
    )
    split: str | None = Field(
        None, description="Which split of a data set is trained on. null: train, or the only one."
    )
    revision: str | None = Field(
        None, description="Commit, tag or branch of a data set of the hub. null: its newest commit."
    )
    text_column: str | None = Field(
        None, description="The column of a table with the text. null: text, or the only column of text."
    )
    second_column: str | None = Field(
        None,
        description="A column with a second text, for labels of pairs: both become one sample, [CLS] first [SEP] "
        "second [SEP], and a model with segments (model.type_vocab_size) is told which is which.",
    )
    label_column: str | list[str] | None = Field(
        None,
        description="The column of a table with the label: a class, a list of classes of which several may hold, or "
        "a number. Several columns, as [toxic, rude]: yes (1), no (0) or empty for each, or several numbers. null: "
        "label, labels or target, where a label is asked.",
    )
    label_separator: str | None = Field(
        None,
        min_length=1,
        description="What stands between classes in a cell of the label column where several may hold, as ';' in "
        "'cat;dog'. An empty cell is a missing label; the separator alone says that none holds.",
    )
    delimiter: str | None = DELIMITER
    header: bool | None = HEADER
    missing: list[str] | None = MISSING
    pattern: str | None = Field(
        None,
        min_length=1,
        description="Which files of a folder are text, such as '*.py'. null: .txt, .text, .md and .rst, compressed "
        "or not.",
    )
    document: Boundary = Field(
        "blank_line",
        description="What a document of a text file is: a line, what stands between blank lines, or the whole file. "
        "Tokens of different documents never see each other. In a table every row is one.",
    )
    encoding: str = Field(
        "auto",
        description="How text files are encoded: auto (UTF-8, or UTF-16 and UTF-32 with a mark at the start), or a "
        "name that Python knows such as cp1252.",
    )
    streaming: bool = Field(
        False,
        description="true: documents are read and tokenised while training, from front to back, instead of once "
        "into memory: for what is larger than that.",
    )
    shuffle_buffer: int = Field(
        10_000,
        ge=1,
        description="Streaming: samples among which the next one is drawn, in the memory of every process.",
    )
    stream_samples: int | None = Field(
        None,
        ge=1,
        description="Streaming: training samples of an epoch, where that should be known before it was read. It sets "
        "the length of an epoch in train.num_train_epochs and in the log, nothing else. null: estimated from the "
        "size of the files.",
    )
    stream_validation_samples: int = Field(
        500, ge=1, description="Streaming: how many held-out samples are kept in memory and judged."
    )
    validation: float | str = Field(
        0.05,
        description="What is held out: a fraction of the documents (by a hash of their text, so that equal documents "
        "are on one side and adding files moves none), another split of the same data set, anything that data.path "
        "takes, or none.",
    )
    group: Literal["document", "file"] = Field(
        "document", description="What is held out as a whole: documents, or all documents of a file together."
    )
    tokenizer: str | None = Field(
        None,
        description="A tokenizer in the format of Hugging Face: a folder (a run too) or a name of the hub. null: one "
        "is trained on the training documents and saved in the run folder.",
    )
    tokenizer_kind: Literal["auto", "wordpiece", "bpe"] = Field(
        "auto",
        description="Which kind is trained: wordpiece (BERT), bpe (byte-level, GPT-2), or auto: bpe for causal models.",
    )
    vocab_size: int = Field(
        8000,
        ge=300,
        description="Tokens of the tokenizer that is trained; fewer where the text does not give them.",
    )
    lowercase: bool = Field(
        True, description="The tokenizer that is trained ignores case and accents (wordpiece only)."
    )
    added_tokens: list[str] = Field(
        [],
        description="Words that are added to the tokenizer, each as one token; the embedding grows by them.",
    )
    max_length: int | None = Field(
        None,
        ge=4,
        description="Tokens of the longest sample, special ones included; a longer document becomes several samples. "
        "null: model.max_position_embeddings.",
    )

    @field_validator("validation", mode="before")
    @classmethod
    def _number_or_name(cls, value: Any) -> Any:
        if isinstance(value, str):
            if re.fullmatch(r"([0-9.]+) ?%", value):
                raise ValueError(f"expected a fraction in [0, 1), got {value}: write 5 % as 0.05")
            try:
                return float(value)
            except ValueError:
                return value
        return value

    @field_validator("validation")
    @classmethod
    def _fraction(cls, value: float | str) -> float | str:
        if isinstance(value, float) and not 0 <= value < 1:
            raise ValueError(
                f"expected a fraction of the documents in [0, 1), a file, or none, got {value:g}"
                + (f"; for {value:g} % write {value / 100:g}" if 1 <= value < 100 else "")
            )
        if value == "":
            raise ValueError("expected a fraction of the documents in [0, 1), a file, or none, got nothing")
        return value

    @field_validator("encoding")
    @classmethod
    def _known(cls, value: str) -> str:
        if value != "auto":
            try:
                codecs.lookup(value)
            except LookupError:
                raise ValueError(f"expected auto or an encoding that Python knows, got {value!r}") from None
        return value

    @field_validator("label_column")
    @classmethod
    def _columns(cls, value: str | list[str] | None) -> str | list[str] | None:
        return check_columns(value)

    @model_validator(mode="after")
    def _one_way(self) -> DataConfig:
        check_separator(self.label_column, self.label_separator)
        return self

    @model_validator(mode="after")
    def _streams(self) -> DataConfig:
        if self.streaming and self.path == "pydoc":
            raise ValueError("data.streaming: the embedded text is small and in memory: leave it out")
        return self
