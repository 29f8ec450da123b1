"""Building blocks on the op: attention, the Block, biases, embeddings, row maps (layer 4)."""

from unitrans.nn.bias import LogSpacedPositionBias, RelativePositionBias, relative_position_index
from unitrans.nn.block import Attention, Block, DropPath, Mlp
from unitrans.nn.embedding import PatchEmbed, PatchMerging, patchify, unpatchify
from unitrans.nn.graph import MASKED, GraphPairBias, NodeEmbedding
from unitrans.nn.rows import RowMap, gather_rows

__all__ = [
    "Attention",
    "Block",
    "DropPath",
    "GraphPairBias",
    "LogSpacedPositionBias",
    "MASKED",
    "Mlp",
    "NodeEmbedding",
    "PatchEmbed",
    "PatchMerging",
    "RelativePositionBias",
    "RowMap",
    "gather_rows",
    "patchify",
    "relative_position_index",
    "unpatchify",
]
