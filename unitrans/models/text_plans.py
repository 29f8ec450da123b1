"""The groups of a text forward: one per document, in the order of the stream.

Shape letters: B documents, T tokens of all of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.utils._pytree as pytree
from torch import Tensor

from unitrans.models.whole import WholePlans, kept_rows
from unitrans.nn import RowMap
from unitrans.ops import Plan
from unitrans.ops.movable import Movable


@dataclass(frozen=True)
class TextPlans(Movable):
    """What a text forward needs to know about the documents of a batch.

    Attributes:
        groups: one group of consecutive rows per document; causal ones have their reach in it.
        sample_index: int64 [T], the document of every row.
        token_counts: int64 [B], tokens per document.
        place: int64 [T], the place of every token in its document.
        visible: the map from the tokens of whole documents to the T rows; None: all of them.
        whole: the rows of whole documents, for decoders; with visible only.
    """

    groups: Plan
    sample_index: Tensor
    token_counts: Tensor
    place: Tensor
    visible: RowMap | None = None
    whole: WholePlans | None = None

    def keeping(self, visible: Tensor) -> TextPlans:
        """The same documents, of which only these tokens exist (bool [T]), at the places they had.

        Raises:
            ValueError: causal documents.
        """
        if self.groups.reach is not None:
            raise ValueError("visible: expected documents that are seen from both sides, got causal ones")
        seen = kept_rows(visible)
        counts = torch.bincount(self.sample_index[visible], minlength=len(self.token_counts))
        return TextPlans(
            groups=Plan.from_lengths(counts),
            sample_index=self.sample_index[visible],
            token_counts=counts,
            place=self.place[visible],
            visible=seen,
            whole=WholePlans(
                rows=seen.inverted(),
                groups=self.groups,
                place=torch.stack([torch.zeros_like(self.place), self.place], 1),
                patches=None,
            ),
        )

    @staticmethod
    def from_lengths(lengths: Sequence[int] | Tensor, *, causal: bool) -> TextPlans:
        """The plans of documents of these many tokens, one after the other; a token of a causal document sees
        itself and those before it."""
        counts = torch.as_tensor(lengths, dtype=torch.int64)
        groups = Plan.from_lengths(counts, reach=(-1, 0) if causal else None)
        samples = torch.arange(counts.shape[0], device=counts.device).repeat_interleave(counts)
        first = groups.cu_seqlens[:-1].long()
        place = torch.arange(samples.shape[0], device=counts.device) - first[samples]
        return TextPlans(groups, samples, counts, place)

    @staticmethod
    def next_token(place: int) -> TextPlans:
        """The plans of one more token of a causal document, whose keys are those of the `place` tokens before it and
        its own."""
        one = TextPlans.from_lengths([1], causal=False)
        keys = Plan.from_lengths([place + 1])
        return TextPlans(Plan.cross(one.groups, keys), one.sample_index, one.token_counts, one.place + place)

    def first_rows(self) -> Tensor:
        """int64 [B], the row of the first token of every document."""
        return self.groups.cu_seqlens[:-1].long()

    def last_rows(self) -> Tensor:
        """int64 [B], the row of the last token of every document."""
        return self.groups.cu_seqlens[1:].long() - 1


pytree.register_dataclass(TextPlans, serialized_type_name="unitrans.TextPlans")
