"""Documents that are tokenised while training, from front to back: for text that is larger than memory.

The order of epoch e is a pure function of (seed, e): the files in a random order, and a buffer of
``data.shuffle_buffer`` samples of which a random one is taken while the next comes in. Every process and loader worker
reads and tokenises the whole stream and hands out only the samples it is asked for.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from itertools import islice
from typing import Any

import numpy as np

from unitrans.domains.base import Sample
from unitrans.domains.ordered import Endless
from unitrans.domains.text.config import DataConfig
from unitrans.domains.text.documents import Documents
from unitrans.domains.text.labels import Rule
from unitrans.domains.text.reading import Document
from unitrans.domains.text.source import Cutter, TextSource, _Growing, batches, complete
from unitrans.domains.text.tokenizer import TextTokenizer
from unitrans.objectives.base import Labels

BATCH = 64  # documents that are tokenised at a time
VALIDATION_FILES = 16  # that held-out samples are taken from
LOOKED_AT = 1000  # documents by which the length of an epoch is estimated,
LOOKED_AT_CHARACTERS = 1_000_000  # or as many as have these characters


class StreamedText(Endless[Sample]):
    """The training samples of a stream; see ``unitrans.domains.base.Source`` about ``in_order``."""

    in_order = True

    def __init__(
        self, documents: Documents, cutter: Cutter, data: DataConfig, seed: int, held_out: Rule
    ) -> None:
        super().__init__()
        self.documents, self.cutter, self.data, self.seed, self.held_out = (
            documents,
            cutter,
            data,
            seed,
            held_out,
        )
        self.ids: list[str] = []
        self.notes: list[str] = []
        self.num_tokens = None
        self._skipped: dict[str, str] = {}
        self._length = data.stream_samples or self._estimate()

    @property
    def tokenizer(self) -> TextTokenizer:
        """What makes the tokens."""
        return self.cutter.tokenizer

    @property
    def reading(self) -> dict[str, Any]:
        """What it takes to read other texts as these."""
        return self.cutter.reading

    @property
    def labels(self) -> Labels | None:
        """What the labels mean."""
        return self.cutter.labels

    @property
    def skipped(self) -> list[tuple[str, str]]:
        """(id, reason) of every document that was left out so far."""
        return list((self.documents.skipped | self._skipped).items())

    def __len__(self) -> int:
        return self._length

    def _estimate(self) -> int:
        """Samples of an epoch, from the bytes of all files and the samples of the first documents."""
        size, seen, count = self.documents.size(), 0, 0
        for document, samples in self._first():
            if isinstance(samples, list):
                seen, count = (
                    seen + len(document.text.encode("utf-8", "surrogateescape")) + 2,
                    count + len(samples),
                )
        if not count:
            raise ValueError(
                f"data.path: none of the first documents of {self.data.path!r} can be trained on"
            )
        if not size:
            raise ValueError(
                f"data.path: {self.data.path!r} does not say how large it is: give the training samples of an epoch as "
                "data.stream_samples"
            )
        return max(1, round(size * count / seen))

    def _first(self) -> Iterator[tuple[Document, list[Sample] | str]]:
        chosen = (d for d in self.documents.of_file(0) if not self.held_out(d, d.id))
        characters = 0
        for batch in batches(islice(chosen, LOOKED_AT), BATCH):
            yield from self.cutter.samples(batch)
            characters += sum(len(document.text) for document in batch)
            if characters > LOOKED_AT_CHARACTERS:
                return

    def of_file(self, file: int, wanted: Callable[[Document], bool]) -> Iterator[Sample]:
        """The samples of the documents of one file that are wanted."""
        for batch in batches((d for d in self.documents.of_file(file) if wanted(d)), BATCH):
            for document, samples in self.cutter.samples(batch):
                if isinstance(samples, str):
                    self._skipped.setdefault(document.id, samples)
                else:
                    yield from samples

    def epoch(self, epoch: int) -> Iterator[Sample]:
        """The training samples of an epoch in their order."""
        rng = np.random.Generator(np.random.Philox(np.random.SeedSequence([self.seed, epoch])))
        buffer: list[Sample] = []
        for file in rng.permutation(self.documents.files):
            for sample in self.of_file(int(file), lambda d: not self.held_out(d, d.id)):
                if len(buffer) < self.data.shuffle_buffer:
                    buffer.append(sample)
                    continue
                place = int(rng.integers(len(buffer)))
                buffer[place], sample = sample, buffer[place]
                yield sample
        for place in rng.permutation(len(buffer)):
            yield buffer[place]

    def load(self, index: int) -> Sample | None:
        """Reads on to place ``index`` of the endless sequence."""
        epoch, sample = self.seek(index)
        return complete(sample, self.cutter) | {"epoch": epoch}

    def __getitem__(self, index: int) -> Sample | None:
        return self.load(index)

    def name(self, index: int) -> str:
        """The id of the sample loaded last."""
        return str(self.seek(index)[1]["id"])

    def augment(self, sample: Sample, rng: np.random.Generator, training: bool) -> Sample:
        """Text is not augmented."""
        return sample

    def kept_validation(self) -> TextSource:
        """The first held-out samples of some files, evenly spaced, data.stream_validation_samples in all."""
        limit, files = self.data.stream_validation_samples, self.documents.files
        chosen = np.unique(np.linspace(0, files - 1, min(files, VALIDATION_FILES)).round().astype(int))
        kept, count = _Growing(), 0
        for number, file in enumerate(chosen.tolist()):
            quota = math.ceil((limit - count) / (len(chosen) - number))
            for sample in islice(self.of_file(file, lambda d: self.held_out(d, d.id)), quota):
                kept.add(sample)
                count += 1
        return TextSource(kept, self.cutter)
