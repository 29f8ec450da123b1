"""The light decoder of whole images: Blocks on the encoder's last rows, with one learned row where it saw nothing.

Source: He et al., Masked Autoencoders Are Scalable Vision Learners (CVPR 2022, arXiv:2111.06377), section 3.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from unitrans.models.whole import Grid, WholePlans
from unitrans.nn import Block, gather_rows, sincos_positions


class BlockDecoder(nn.Module):
    """Predicts something for every last row of a whole image, of which the encoder may have seen a part.

    The plan: one group per image, so that every row sees all others; places are sines and cosines of row and column.

    Args:
        in_dim: width of the encoder's last rows.
        dim: own width, a multiple of 4 and of num_heads.
        depth: how many Blocks.
        num_heads: of each.
        out_dim: values per row.
        grid: rows and columns of all images: places are then a table that comes and goes with the weights, as
            published; None: images of any size, places are computed.
        mlp_ratio, eps: as in `Block`.
    """

    def __init__(
        self,
        in_dim: int,
        dim: int,
        depth: int,
        num_heads: int,
        out_dim: int,
        *,
        grid: Grid | None = None,
        mlp_ratio: float = 4.0,
        eps: float = 1e-6,
    ) -> None:
        super().__init__()
        self.grid = grid
        self.embed = nn.Linear(in_dim, dim)
        self.mask_token = nn.Parameter(torch.zeros(1, dim))
        table = None if grid is None else sincos_positions(places_of(grid), dim)[None]
        self.pos_embed = None if table is None else nn.Parameter(table, requires_grad=False)
        self.blocks = nn.ModuleList(Block(dim, num_heads, mlp_ratio=mlp_ratio, eps=eps) for _ in range(depth))
        self.norm = nn.LayerNorm(dim, eps=eps)
        self.pred = nn.Linear(dim, out_dim)
        nn.init.normal_(self.mask_token, std=0.02)
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.xavier_uniform_(module.weight)
                nn.init.zeros_(module.bias)

    def forward(self, x: Tensor, whole: WholePlans) -> Tensor:
        """The encoder's last rows [T, in_dim] -> [T_p, out_dim], the rows of whole images without class tokens."""
        x = gather_rows(self.embed(x), whole.rows)
        x = torch.where((whole.rows.index < 0)[:, None], self.mask_token.to(x.dtype), x)
        x = x + self.positions(whole.place).to(x.dtype)
        for block in self.blocks:
            x = block(x, whole.groups)
        x = self.pred(self.norm(x))
        return x if whole.patches is None else gather_rows(x, whole.patches)

    def positions(self, place: Tensor) -> Tensor:
        """Rows and columns int64 [T_w, 2] -> [T_w, dim]."""
        if self.pos_embed is None or self.grid is None:
            return sincos_positions(place, self.embed.out_features)
        y, x = place.unbind(1)
        return F.embedding(torch.where(y < 0, 0, y * self.grid[1] + x + 1), self.pos_embed[0])


def places_of(grid: Grid) -> Tensor:
    """int64 [1 + h*w, 2]: row and column of a class token (-1, -1) and of every patch of an image."""
    y, x = torch.arange(grid[0], device="cpu")[:, None], torch.arange(grid[1], device="cpu")
    place = torch.stack([y.expand(grid), x.expand(grid)], -1).flatten(0, 1)
    return torch.cat([place.new_full((1, 2), -1), place])


def decoder_sizes(dim: int | None, num_heads: int | None, num_features: int) -> tuple[int, int]:
    """Width and heads of a decoder: as given, else the encoder's last width, at most 512, and a head per 32 channels.

    Raises:
        ValueError: numbers that do not divide each other.
    """
    width = min(num_features, 512) if dim is None else dim
    if width % 4:
        raise ValueError(
            f"objective.decoder_embed_dim: expected a multiple of 4, for sines and cosines of two axes, got {width}"
        )
    heads = max(1, width // 32) if num_heads is None else num_heads
    if width % heads:
        raise ValueError(
            f"objective.decoder_num_heads: expected a divisor of the decoder's width {width}, got {heads}"
        )
    return width, heads
