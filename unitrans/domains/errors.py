"""What can go wrong with data while a run is on its way."""

from __future__ import annotations


class SourceError(RuntimeError):
    """A source cannot be read on: a server is gone, a file is cut off. The message is one sentence.

    It crosses from a loader worker as a text that ends with the traceback; `sentence` is without it.
    """

    @property
    def sentence(self) -> str:
        """The message as it was raised."""
        last = str(self).strip().splitlines()[-1]
        return last.rpartition(f"{type(self).__name__}: ")[2]
