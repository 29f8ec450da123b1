"""Building blocks on the op: attention, the Block, biases, embeddings, linear layers, row maps (layer 4)."""

from unitrans.nn.bias import (
    LogSpacedPositionBias,
    RelativePositionBias,
    neighbourhood_bias,
    relative_position_index,
)
from unitrans.nn.block import Activation, Attention, Block, DropPath, Mlp, activation_function
from unitrans.nn.embedding import PatchEmbed, PatchMerging, patchify, sincos_positions, unpatchify
from unitrans.nn.graph import MASKED, GraphPairBias, NodeEmbedding
from unitrans.nn.linear import Linear
from unitrans.nn.rows import RowMap, gather_rows
from unitrans.nn.tokens import TokenEmbed

__all__ = [
    "Activation",
    "Attention",
    "Block",
    "DropPath",
    "GraphPairBias",
    "LogSpacedPositionBias",
    "Linear",
    "MASKED",
    "Mlp",
    "NodeEmbedding",
    "PatchEmbed",
    "PatchMerging",
    "RelativePositionBias",
    "RowMap",
    "TokenEmbed",
    "activation_function",
    "gather_rows",
    "patchify",
    "neighbourhood_bias",
    "relative_position_index",
    "sincos_positions",
    "unpatchify",
]
