"""Attention, MLP and the one Transformer Block that every model of every domain is made of."""

from typing import Literal

import torch
from torch import Tensor, nn

from unitrans.ops import Plan, attention

NormPlacement = Literal["pre", "post", "res-post"]


class Attention(nn.Module):
    """Multi-head self-attention on a packed stream: projection, `unitrans.attention`, projection.

    Args:
        dim: C, a multiple of num_heads.
        num_heads: N.
        qkv_bias: whether the first projection has a bias.
        scale: factor on the scores; default head_dim ** -0.5.
        attn_drop: dropout probability of attention weights.
        proj_drop: dropout probability of the output.
        position_bias: a module that returns the bias planes [N, P]; None where the caller gives them, or none.
    """

    def __init__(
        self,
        dim: int,
        num_heads: int,
        *,
        qkv_bias: bool = True,
        scale: float | None = None,
        attn_drop: float = 0.0,
        proj_drop: float = 0.0,
        position_bias: nn.Module | None = None,
    ) -> None:
        super().__init__()
        if dim % num_heads:
            raise ValueError(f"num_heads: expected a divisor of the width {dim}, got {num_heads}")
        self.num_heads, self.head_dim = num_heads, dim // num_heads
        self.scale = self.head_dim**-0.5 if scale is None else scale
        self.attn_drop = attn_drop
        self.qkv = nn.Linear(dim, 3 * dim, bias=qkv_bias)
        self.proj = nn.Linear(dim, dim)
        self.proj_drop = nn.Dropout(proj_drop)
        self.position_bias = position_bias

    def forward(self, x: Tensor, plan: Plan, bias: Tensor | None = None) -> Tensor:
        """x [T, C] and the groups it attends in -> [T, C]; bias [N, P] unless the module has its own."""
        q, k, v = self.qkv(x).view(-1, 3, self.num_heads, self.head_dim).unbind(1)
        if self.position_bias is not None:
            bias = self.position_bias()
        dropout_p = self.attn_drop if self.training else 0.0
        out = attention(q, k, v, plan, bias=bias, scale=self.scale, dropout_p=dropout_p)
        assert isinstance(out, Tensor)
        return self.proj_drop(self.proj(out.flatten(1)))


class Mlp(nn.Module):
    """Linear, GELU, Linear."""

    def __init__(self, dim: int, hidden: int, *, drop: float = 0.0) -> None:
        super().__init__()
        self.fc1 = nn.Linear(dim, hidden)
        self.act = nn.GELU()
        self.fc2 = nn.Linear(hidden, dim)
        self.drop = nn.Dropout(drop)

    def forward(self, x: Tensor) -> Tensor:
        """x [T, C] -> [T, C]."""
        return self.drop(self.fc2(self.drop(self.act(self.fc1(x)))))


class DropPath(nn.Module):
    """Stochastic depth per sample (Huang et al., 2016): a residual branch is left out for whole samples."""

    def __init__(self, drop_prob: float) -> None:
        super().__init__()
        if not 0.0 <= drop_prob < 1.0:
            raise ValueError(f"drop_path_rate: expected a number in [0, 1), got {drop_prob}")
        self.drop_prob = drop_prob

    def forward(self, x: Tensor, sample_index: Tensor | None, num_samples: int) -> Tensor:
        """x [T, C]; sample_index int64 [T], the sample of every row, below num_samples."""
        if not self.training or self.drop_prob == 0.0:
            return x
        if sample_index is None:
            raise ValueError("drop_path needs sample_index, the sample of every row, while training")
        kept = torch.rand(num_samples, device=x.device) >= self.drop_prob
        factor = kept.to(x.dtype) / (1.0 - self.drop_prob)
        return x * factor[sample_index].unsqueeze(-1)


class Block(nn.Module):
    """Attention and MLP, each in a residual branch.

    Args:
        dim, num_heads: C and N.
        mlp_ratio: hidden width of the MLP over C.
        norm: where the LayerNorms stand. "pre": x + f(norm(x)) (ViT, Swin V1, GPT-2); "post": norm(x + f(x))
            (BERT, Graphormer); "res-post": x + norm(f(x)) (Swin V2).
        drop, attn_drop, drop_path: dropout of projections, of attention weights, of whole branches.
        eps: of the LayerNorms.
        Others as in `Attention`.
    """

    def __init__(
        self,
        dim: int,
        num_heads: int,
        *,
        mlp_ratio: float = 4.0,
        norm: NormPlacement = "pre",
        qkv_bias: bool = True,
        scale: float | None = None,
        drop: float = 0.0,
        attn_drop: float = 0.0,
        drop_path: float = 0.0,
        eps: float = 1e-5,
        position_bias: nn.Module | None = None,
    ) -> None:
        super().__init__()
        self.norm = norm
        self.norm1 = nn.LayerNorm(dim, eps=eps)
        self.attn = Attention(
            dim,
            num_heads,
            qkv_bias=qkv_bias,
            scale=scale,
            attn_drop=attn_drop,
            proj_drop=drop,
            position_bias=position_bias,
        )
        self.norm2 = nn.LayerNorm(dim, eps=eps)
        self.mlp = Mlp(dim, int(dim * mlp_ratio), drop=drop)
        self.drop_path = DropPath(drop_path)

    def forward(
        self,
        x: Tensor,
        plan: Plan,
        bias: Tensor | None = None,
        sample_index: Tensor | None = None,
        num_samples: int = 0,
    ) -> Tensor:
        """x [T, C] -> [T, C]; sample_index int64 [T] is needed for drop-path only."""
        if self.norm == "pre":
            x = x + self.drop_path(self.attn(self.norm1(x), plan, bias), sample_index, num_samples)
            return x + self.drop_path(self.mlp(self.norm2(x)), sample_index, num_samples)
        if self.norm == "res-post":
            x = x + self.drop_path(self.norm1(self.attn(x, plan, bias)), sample_index, num_samples)
            return x + self.drop_path(self.norm2(self.mlp(x)), sample_index, num_samples)
        x = self.norm1(x + self.drop_path(self.attn(x, plan, bias), sample_index, num_samples))
        return self.norm2(x + self.drop_path(self.mlp(x), sample_index, num_samples))
