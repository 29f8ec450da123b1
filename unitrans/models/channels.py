"""Weights for images with another number of channels."""

import torch
from torch import Tensor


def inflate_channels(weight: Tensor, channels: int) -> Tensor:
    """A patch embedding for another number of input channels.

    The filters are repeated over the new channels in turn (R, G, B, R, ...) and scaled by C / channels; for one channel
    they are summed. An image of equal channels then has the same embedding, exactly so where one number divides the
    other. This is how timm adapts its first convolutions (R. Wightman, PyTorch Image Models, 2019) and I3D its filters
    in time (Carreira and Zisserman, CVPR 2017, arXiv:1705.07750, section 2.4).

    Args:
        weight: [embed_dim, C, p, p].

    Returns:
        [embed_dim, channels, p, p].
    """
    old = weight.shape[1]
    if channels == 1:
        return weight.sum(1, keepdim=True)
    return weight[:, torch.arange(channels) % old] * (old / channels)


def average_channels(rows: Tensor, old: int, channels: int) -> Tensor:
    """A pixel decoder for another number of channels: each predicts the mean of the old ones.

    Args:
        rows: [old * s * s, ...], weight or bias of a linear layer whose outputs are in (channel, row, column) order.

    Returns:
        [channels * s * s, ...].
    """
    mean = rows.unflatten(0, (old, -1)).mean(0)
    return mean.repeat(channels, *[1] * (rows.dim() - 1))
