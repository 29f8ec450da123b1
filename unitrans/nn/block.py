"""Attention, MLP and the one Transformer Block that every model of every domain is made of."""

import math
from collections.abc import Callable
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from unitrans.nn.linear import Linear
from unitrans.nn.rows import RowMap, gather_rows
from unitrans.ops import Plan, attention, attention_qkvpacked

NormPlacement = Literal["pre", "post", "res-post"]
Activation = Literal["gelu", "gelu_tanh", "quick_gelu", "relu"]


class QuickGelu(nn.Module):
    """x * sigmoid(1.702 x) (Hendrycks and Gimpel 2016, arXiv:1606.08415, section 2)."""

    def forward(self, x: Tensor) -> Tensor:
        """Elementwise."""
        return x * torch.sigmoid(1.702 * x)


def activation_function(name: Activation) -> nn.Module:
    """The non-linearity of that name: gelu is the exact one (erf), gelu_tanh (GPT-2) and quick_gelu (CLIP) its
    approximations."""
    if name == "relu":
        return nn.ReLU()
    if name == "quick_gelu":
        return QuickGelu()
    return nn.GELU(approximate="tanh" if name == "gelu_tanh" else "none")


class KeyValues:
    """Keys and values [n, N, D] of the tokens that an attention layer has seen so far, for writing token by token."""

    def __init__(self) -> None:
        self.keys: Tensor | None = None
        self.values: Tensor | None = None

    def extended(self, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Those so far and new ones [m, N, D] behind them, which are kept."""
        if self.keys is not None and self.values is not None:
            keys, values = torch.cat([self.keys, keys]), torch.cat([self.values, values])
        self.keys, self.values = keys, values
        return keys, values


class Attention(nn.Module):
    """Multi-head self-attention on a packed stream: projection, `unitrans.attention`, projection.

    Args:
        dim: C, a multiple of num_heads.
        num_heads: N.
        qkv_bias: whether the first projection has a bias.
        key_bias: False leaves the keys without one: q_bias and v_bias are then parameters of their own
            (BEiT, Swin V2).
        scale: factor on the scores; default head_dim ** -0.5.
        qk_norm: cosine scores times a learned factor per head, exp(logit_scale) but at most 100 (Swin V2,
            equation 2); replaces `scale`.
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
        key_bias: bool = True,
        scale: float | None = None,
        qk_norm: bool = False,
        attn_drop: float = 0.0,
        proj_drop: float = 0.0,
        position_bias: nn.Module | None = None,
    ) -> None:
        super().__init__()
        if qk_norm and scale is not None:
            raise ValueError(
                f"scale: expected None with cosine attention, whose factor is learned, got {scale}"
            )
        if dim % num_heads:
            raise ValueError(f"num_heads: expected a divisor of the width {dim}, got {num_heads}")
        self.num_heads, self.head_dim = num_heads, dim // num_heads
        self.scale = self.head_dim**-0.5 if scale is None else scale
        self.attn_drop = attn_drop
        self.qk_norm = qk_norm
        self.qkv = Linear(dim, 3 * dim, bias=qkv_bias and key_bias)
        separate = qkv_bias and not key_bias
        self.q_bias = nn.Parameter(torch.zeros(dim)) if separate else None
        self.v_bias = nn.Parameter(torch.zeros(dim)) if separate else None
        self.logit_scale = nn.Parameter(torch.zeros(num_heads, 1, 1)) if qk_norm else None
        self.proj = Linear(dim, dim)
        self.proj_drop = nn.Dropout(proj_drop)
        self.position_bias = position_bias

        self.reset_parameters()

    def reset_parameters(self) -> None:
        """The published initialisation of what is not a linear layer."""
        for bias in (self.q_bias, self.v_bias):
            if bias is not None:
                nn.init.zeros_(bias)
        if self.logit_scale is not None:
            nn.init.constant_(self.logit_scale, math.log(10))

    def forward(
        self,
        x: Tensor,
        plan: Plan,
        bias: Tensor | None = None,
        pads: RowMap | None = None,
        past: KeyValues | None = None,
    ) -> Tensor:
        """Attend.

        Args:
            x: [T, C].
            plan: the groups, of T rows, or of the places of `pads`.
            bias: planes [N, P], unless the module has its own.
            pads: adds rows of zeros that take part in the attention and are dropped after it.
            past: what was seen before, to which these rows are added; the keys of the plan are all of them.

        Returns:
            [T, C].
        """
        if pads is not None:
            x = gather_rows(x, pads)
        qkv = self.project(x).view(-1, 3, self.num_heads, self.head_dim)
        if self.position_bias is not None:
            bias = self.position_bias()
        dropout_p = self.attn_drop if self.training else 0.0
        if past is None:
            out = attention_qkvpacked(
                qkv, plan, bias=bias, scale=self.factor(), qk_norm=self.qk_norm, dropout_p=dropout_p
            )
        else:
            keys, values = past.extended(qkv[:, 1], qkv[:, 2])
            out = attention(
                qkv[:, 0], keys, values, plan, bias=bias, scale=self.factor(), qk_norm=self.qk_norm
            )
        assert isinstance(out, Tensor)
        out = out.flatten(1)
        if pads is not None:
            out = gather_rows(out, pads.inverted())
        return self.proj_drop(self.proj(out))

    def project(self, x: Tensor) -> Tensor:
        """x [T, C] -> queries, keys and values [T, 3C]."""
        if self.q_bias is None or self.v_bias is None:
            return self.qkv(x)
        bias = torch.cat([self.q_bias, torch.zeros_like(self.q_bias), self.v_bias])
        return F.linear(x, self.qkv.weight, bias)

    def factor(self) -> Tensor | float:
        """The factor on the scores: a number, or fp32 (fp64) [N]."""
        if self.logit_scale is None:
            return self.scale
        logit = self.logit_scale.flatten()
        logit = logit if logit.dtype == torch.float64 else logit.float()
        return logit.clamp(max=math.log(100)).exp()


class Mlp(nn.Module):
    """Linear, non-linearity, Linear, with dropout behind each; `act_drop` is the first one where it differs."""

    def __init__(
        self,
        dim: int,
        hidden: int,
        *,
        drop: float = 0.0,
        act_drop: float | None = None,
        activation: Activation = "gelu",
    ) -> None:
        super().__init__()
        self.fc1 = Linear(dim, hidden)
        self.act = activation_function(activation)
        self.fc2 = Linear(hidden, dim)
        self.drop = nn.Dropout(drop)
        self.act_drop = nn.Dropout(drop if act_drop is None else act_drop)

    def forward(self, x: Tensor) -> Tensor:
        """x [T, C] -> [T, C]."""
        return self.drop(self.fc2(self.act_drop(self.hidden(x))))

    def hidden(self, x: Tensor) -> Tensor:
        """x [T, C] -> [T, hidden], behind the non-linearity."""
        return self.fc1.then_gelu(x, self.act) if type(self.fc1) is Linear else self.act(self.fc1(x))


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


class ZeroLayerNorm(nn.LayerNorm):
    """A LayerNorm that starts with weight and bias 0, so that its branch adds nothing at first (Swin V2)."""

    def reset_parameters(self) -> None:
        nn.init.zeros_(self.weight)
        nn.init.zeros_(self.bias)


class Block(nn.Module):
    """Attention and MLP, each in a residual branch.

    Args:
        dim, num_heads: C and N.
        mlp_ratio: hidden width of the MLP over C.
        norm: where the LayerNorms stand. "pre": x + f(norm(x)) (ViT, Swin V1, GPT-2); "post": norm(x + f(x))
            (BERT, Graphormer); "res-post": x + norm(f(x)) (Swin V2).
        drop, attn_drop, drop_path: dropout of projections, of attention weights, of whole branches.
        act_drop: dropout behind the activation of the MLP; None: as drop.
        eps: of the LayerNorms.
        activation: non-linearity of the MLP; see `activation_function`.
        layer_scale: initial value of a learned factor per channel on each branch (CaiT, BEiT); None: no factor.
        extra_norm: a LayerNorm on the stream behind the block (the largest Swin V2).

    The others are those of `Attention`.

    Attributes:
        gradient_checkpointing: while training, activations inside are not kept but computed again in the backward
            pass, dropout included. `gradient_checkpointing_enable` of transformers sets it.
    """

    gradient_checkpointing = False
    _gradient_checkpointing_func: Callable[..., Any] = staticmethod(partial(checkpoint, use_reentrant=False))

    def __init__(
        self,
        dim: int,
        num_heads: int,
        *,
        mlp_ratio: float = 4.0,
        norm: NormPlacement = "pre",
        qkv_bias: bool = True,
        key_bias: bool = True,
        scale: float | None = None,
        qk_norm: bool = False,
        drop: float = 0.0,
        attn_drop: float = 0.0,
        act_drop: float | None = None,
        drop_path: float = 0.0,
        eps: float = 1e-5,
        activation: Activation = "gelu",
        layer_scale: float | None = None,
        extra_norm: bool = False,
        position_bias: nn.Module | None = None,
    ) -> None:
        super().__init__()
        self.norm, self.layer_scale = norm, layer_scale
        branch_norm = ZeroLayerNorm if norm == "res-post" else nn.LayerNorm
        self.norm1 = branch_norm(dim, eps=eps)
        self.attn = Attention(
            dim,
            num_heads,
            qkv_bias=qkv_bias,
            key_bias=key_bias,
            scale=scale,
            qk_norm=qk_norm,
            attn_drop=attn_drop,
            proj_drop=drop,
            position_bias=position_bias,
        )
        self.norm2 = branch_norm(dim, eps=eps)
        # A ratio that came from a width, as 1200 / 312, gives that width back.
        hidden = int(dim * mlp_ratio + 1e-6)
        self.mlp = Mlp(dim, hidden, drop=drop, act_drop=act_drop, activation=activation)
        self.drop_path = DropPath(drop_path)
        scaled = layer_scale is not None
        self.gamma_1 = nn.Parameter(torch.zeros(dim)) if scaled else None
        self.gamma_2 = nn.Parameter(torch.zeros(dim)) if scaled else None
        self.norm3 = nn.LayerNorm(dim, eps=eps) if extra_norm else None
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """The published initialisation of the factors per channel."""
        for gamma in (self.gamma_1, self.gamma_2):
            if gamma is not None and self.layer_scale is not None:
                nn.init.constant_(gamma, self.layer_scale)

    def forward(
        self,
        x: Tensor,
        plan: Plan,
        bias: Tensor | None = None,
        sample_index: Tensor | None = None,
        num_samples: int = 0,
        pads: RowMap | None = None,
        past: KeyValues | None = None,
    ) -> Tensor:
        """x [T, C] -> [T, C].

        plan, bias, pads and past as in `Attention.forward`; sample_index int64 [T] is needed for drop-path only.
        """
        inputs = (x, plan, bias, sample_index, num_samples, pads, past)
        if self.gradient_checkpointing and self.training:
            computed: Tensor = self._gradient_checkpointing_func(self._computed, *inputs)
            return computed
        return self._computed(*inputs)

    def _computed(
        self,
        x: Tensor,
        plan: Plan,
        bias: Tensor | None,
        sample_index: Tensor | None,
        num_samples: int,
        pads: RowMap | None,
        past: KeyValues | None,
    ) -> Tensor:
        def add(x: Tensor, branch: Tensor, gamma: Tensor | None) -> Tensor:
            branch = branch if gamma is None else gamma * branch
            return x + self.drop_path(branch, sample_index, num_samples)

        if self.norm == "pre":
            x = add(x, self.attn(self.norm1(x), plan, bias, pads, past), self.gamma_1)
            x = add(x, self.mlp(self.norm2(x)), self.gamma_2)
        elif self.norm == "res-post":
            x = add(x, self.norm1(self.attn(x, plan, bias, pads, past)), self.gamma_1)
            x = add(x, self.norm2(self.mlp(x)), self.gamma_2)
        else:
            x = self.norm1(add(x, self.attn(x, plan, bias, pads, past), self.gamma_1))
            x = self.norm2(add(x, self.mlp(x), self.gamma_2))
        return x if self.norm3 is None else self.norm3(x)
