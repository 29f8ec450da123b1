"""What a run has derived from its data when it began, and keeps for as long as it lasts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from unitrans.data.columns import Column, columns_of
from unitrans.objectives.base import Labels


@dataclass(frozen=True)
class Kept:
    """Of a run: ``labels`` and ``reading`` of its training source (see ``unitrans.domains.base.Source``), and
    ``folder``, where ``Domain.keep`` has written what else belongs to it."""

    labels: Labels | None
    reading: Any
    folder: Path

    @property
    def columns(self) -> dict[str, Column]:
        """How the cells of its labels are read."""
        names = self.labels.names if self.labels is not None and self.labels.kind == "class" else ()
        return columns_of(self.reading, list(self.reading.get("columns") or {}), names)

    def of(self, domain: str) -> Kept:
        """The part of one domain, of a run on several."""
        reading = self.reading.get(domain) if isinstance(self.reading, Mapping) else None
        return Kept(self.labels, reading, self.folder)
