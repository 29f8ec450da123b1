"""Documents that are tokenised while training, from front to back: for text that is larger than memory.

The order is that of ``unitrans.data.streams``: every process and loader worker reads and tokenises the whole stream.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import islice

from unitrans.data.streams import Endless, from_some_files
from unitrans.domains.base import Sample
from unitrans.domains.text.config import DataConfig
from unitrans.domains.text.documents import Documents
from unitrans.domains.text.labels import Rule
from unitrans.domains.text.reading import Document
from unitrans.domains.text.source import Cutter, OfCutter, TextSource, _Growing, batches, complete

BATCH = 64  # documents that are tokenised at a time
LOOKED_AT = 1000  # documents by which the length of an epoch is estimated,
LOOKED_AT_CHARACTERS = 1_000_000  # or as many as have these characters


class StreamedText(Endless[Sample], OfCutter):
    """The training samples of a stream; see ``unitrans.domains.base.Source`` about ``in_order``."""

    in_order = True

    def __init__(
        self, documents: Documents, cutter: Cutter, data: DataConfig, seed: int, held_out: Rule
    ) -> None:
        Endless.__init__(self, data.path, documents.files, seed, data.shuffle_buffer)
        OfCutter.__init__(self)
        self.documents, self.cutter, self.data, self.held_out = documents, cutter, data, held_out
        self._length = data.stream_samples or self._estimate()

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

    def training_rows(self, file: int) -> Iterator[Sample]:
        """The samples of one file that are trained on."""
        return self.of_file(file, lambda d: not self.held_out(d, d.id))

    def load(self, index: int) -> Sample | None:
        """Reads on to place ``index`` of the endless sequence."""
        epoch, sample = self.seek(index)
        return complete(sample, self.cutter) | {"epoch": epoch}

    def name(self, index: int) -> str:
        """The id of the sample loaded last."""
        return str(self.seek(index)[1]["id"])

    def kept_validation(self) -> TextSource:
        """The first held-out samples of some files, evenly spaced, data.stream_validation_samples in all."""
        kept = _Growing()
        for sample in from_some_files(
            self.documents.files,
            self.data.stream_validation_samples,
            lambda file: self.of_file(file, lambda d: self.held_out(d, d.id)),
        ):
            kept.add(sample)
        return TextSource(kept, self.cutter)
