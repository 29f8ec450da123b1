"""What encoders of one resolution share: rows enter a list of Blocks, go through them, and leave.

`enter` of an encoder makes a `Stream` of its embedded rows, `leave` is what it does behind the Blocks. Between the two
nothing knows about images, words or graphs, so that several domains can go through the same Blocks together.
"""

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from unitrans.nn.block import KeyValues
from unitrans.ops import Plan


class Stream(NamedTuple):
    """Rows in front of Blocks.

    Attributes:
        x: [T, C].
        groups: of these rows.
        bias: planes [N, P] that all Blocks share; None: there are none, or the Blocks have their own.
        sample_index: int64 [T], the sample of every row, and num_samples: for drop-path only.
    """

    x: Tensor
    groups: Plan
    bias: Tensor | None = None
    sample_index: Tensor | None = None
    num_samples: int = 0


def through_blocks(
    blocks: Iterable[nn.Module], stream: Stream, past: Sequence[KeyValues] | None = None
) -> list[Tensor]:
    """The rows [T, C] behind every Block; past: of every Block, see `Attention`."""
    x, groups, bias, sample_index, num_samples = stream
    rows = []
    for number, block in enumerate(blocks):
        seen = None if past is None else past[number]
        x = block(x, groups, bias, sample_index=sample_index, num_samples=num_samples, past=seen)
        rows.append(x)
    return rows


def joined(streams: Sequence[Stream]) -> Stream:
    """One stream of several, one after the other, each with its own bias planes or none; without drop-path."""
    planes = [stream.bias for stream in streams if stream.bias is not None]
    for stream in streams:
        held = 0 if stream.bias is None else stream.bias.shape[1]
        assert stream.groups.bias_size == held, (
            "planes are concatenated, so none may be longer than its groups say"
        )
    return Stream(
        torch.cat([stream.x for stream in streams]),
        Plan.cat([stream.groups for stream in streams], planes="concatenated"),
        torch.cat(planes, dim=1) if planes else None,
    )
