"""Other ways to compute a case, each given its input in the layout it likes best.

A peer never pays for what its users would not pay: the projections are taken out of published modules, dense
bias and mask are given summed where a bare function is measured, padded batches are given padded.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.cases import Case, Lengths, Tensors, Windows
from benchmarks.timm_import import Unavailable, import_timm
from unitrans import Plan

Forward = Callable[[], Tensor]


@dataclass
class Prepared:
    """Something to time.

    Attributes:
        forward: computes the output from the leaves.
        leaves: what gradients are taken of.
        grad_out: the gradient of the output.
        unpack: output -> [T, N, D], rows in the order of the stream; None where it computes something else.
    """

    forward: Forward
    leaves: list[Tensor]
    grad_out: Tensor
    unpack: Callable[[Tensor], Tensor] | None = lambda out: out
    forward_only: bool = False

    def without_gradients(self) -> Tensor:
        with torch.inference_mode():
            return self.forward()

    def with_gradients(self) -> tuple[Tensor, ...]:
        return torch.autograd.grad(self.forward(), self.leaves, self.grad_out)


@dataclass(frozen=True)
class Peer:
    """A way to compute a case. `layer`: it makes the bias planes of windows from the module's parameters."""

    name: str
    layer: bool
    prepare: Callable[[Case, Tensors, torch.dtype], Prepared]


def _leaf(x: Tensor) -> Tensor:
    return x.detach().clone().requires_grad_()


# -- ours


def ours(case: Case, t: Tensors, dtype: torch.dtype, *, layer: bool, backend: str | None = None) -> Prepared:
    """The op on the projection's output; `layer`: the planes of windows are made from their table as well."""
    t = t.to(dtype)
    qkv = _leaf(t.qkv)
    module = t.position_bias
    if layer and module is not None:
        leaves = [qkv, *module.parameters()]
        return Prepared(lambda: t.run(qkv, module(), case.cosine, backend), leaves, t.grad_out)
    bias = None if t.bias is None else _leaf(t.bias)
    leaves = [qkv] if bias is None else [qkv, bias]
    return Prepared(lambda: t.run(qkv, bias, case.cosine, backend), leaves, t.grad_out)


def own_level(isa: str) -> Peer:
    """Our own kernels at a lower instruction set."""

    def prepare(case: Case, t: Tensors, dtype: torch.dtype) -> Prepared:
        return ours(case, t, dtype, layer=False, backend=f"cpu-{isa}")

    return Peer(f"unitrans {isa}", False, prepare)


def _own_torch(case: Case, t: Tensors, dtype: torch.dtype) -> Prepared:
    """What users without our library for GPUs have."""
    return ours(case, t, dtype, layer=False, backend="torch")


def _own_fp32(case: Case, t: Tensors, dtype: torch.dtype) -> Prepared:
    if dtype == torch.float32:
        raise Unavailable("it is the same")
    return ours(case, t, torch.float32, layer=False)


def _own_full_windows(case: Case, t: Tensors, dtype: torch.dtype) -> Prepared:
    """As many windows of as many tokens, none of them left out."""
    assert isinstance(case.cut, Windows) and case.cut.visible == 20
    rows, columns = (g // w for g, w in zip(case.cut.grid, case.cut.window, strict=True))
    plan = Plan.windows((4 * rows, 5 * columns), (4, 5)).repeat(case.cut.batch).to(t.qkv.device)
    full = Tensors(plan, t.qkv, t.grad_out, t.scale, torch.randn(case.heads, 400), None)
    prepared = ours(case, full, dtype, layer=False)
    prepared.unpack = None
    return prepared


# -- windows


def _window_order(case: Case) -> Tensor:
    """int64 [num_windows, L]: the stream row of every place, as roll and partition would order them."""
    cut = case.cut
    assert isinstance(cut, Windows)
    (rows, columns), (wh, ww) = cut.grid, cut.window
    index = torch.arange(cut.batch * rows * columns).view(cut.batch, rows, columns)
    index = index.roll((-cut.shift, -cut.shift), (1, 2))
    index = index.view(cut.batch, rows // wh, wh, columns // ww, ww).permute(0, 1, 3, 2, 4)
    return index.reshape(-1, wh * ww)


def _window_mask(case: Case, order: Tensor) -> Tensor | None:
    """bool [windows of a map, L, L]: pairs of different regions of a shifted map; None without a shift."""
    cut = case.cut
    assert isinstance(cut, Windows)
    if cut.shift == 0:
        return None
    places = order[: order.shape[0] // cut.batch]  # of the first map
    rows, columns = places // cut.grid[1], places % cut.grid[1]
    region = (rows < cut.shift) * 2 + (columns < cut.shift)  # what the roll carried to the other side
    return region[:, :, None] != region[:, None, :]


def _from_windows(out: Tensor, order: Tensor) -> Tensor:
    """Output in the layout of `_partitioned` -> [T, N, D]."""
    rows = out.reshape(order.shape[0], -1, *out.shape[2:]).transpose(1, 2).flatten(0, 1)
    return torch.empty_like(rows).index_copy(0, order.flatten(), rows)


def _partitioned(case: Case, t: Tensors) -> tuple[list[Tensor], Tensor, Tensor]:
    """q, k, v contiguous, bias and mask summed, the order.

    q, k, v are [windows, N, L, D] with the planes [1, N, L, L]; with a shift they are [B, windows of a map * N, L, D]
    with [1, windows of a map * N, L, L], so that the sum is not repeated for every map.
    """
    cut = case.cut
    assert isinstance(cut, Windows) and t.bias is not None
    order = _window_order(case)
    places = order.shape[1]
    q, k, v = (x.transpose(1, 2) for x in t.qkv[order].unbind(2))
    if case.cosine:
        q = F.normalize(q, dim=-1) * t.scale[:, None, None].to(q.dtype) * case.head_dim**0.5
        k = F.normalize(k, dim=-1)
    dense = t.bias.view(1, case.heads, places, places)
    mask = _window_mask(case, order)
    if mask is not None:
        dense = dense.masked_fill(mask[:, None], -torch.inf).view(1, -1, places, places)
        q, k, v = (x.reshape(cut.batch, -1, places, case.head_dim) for x in (q, k, v))
    return [x.contiguous() for x in (q, k, v)], dense.to(q.dtype).contiguous(), order


def _sdpa_windows(case: Case, t: Tensors, dtype: torch.dtype) -> Prepared:
    """The bare function on input that is partitioned, contiguous, normalised; bias and mask are summed."""
    if not isinstance(case.cut, Windows) or case.cut.visible is not None:
        raise Unavailable("not dense windows")
    t = t.to(dtype)
    qkv, dense, order = _partitioned(case, t)
    leaves = [_leaf(x) for x in qkv]
    bias = _leaf(dense)
    grad = t.grad_out[order].transpose(1, 2).reshape(leaves[0].shape).contiguous()
    return Prepared(
        lambda: F.scaled_dot_product_attention(*leaves, attn_mask=bias),
        [*leaves, bias],
        grad,
        lambda out: _from_windows(out, order),
    )


def _flex_windows(case: Case, t: Tensors, dtype: torch.dtype) -> Prepared:
    """flex_attention with the bias in its score function: compiled; no gradients on a CPU, none of the bias."""
    if not isinstance(case.cut, Windows) or case.cut.visible is not None:
        raise Unavailable("not dense windows")
    from torch.nn.attention.flex_attention import flex_attention

    t = t.to(dtype)
    qkv, dense, order = _partitioned(case, t)
    forward_only = t.qkv.device.type == "cpu"  # it refuses input that wants gradients there
    leaves = qkv if forward_only else [_leaf(x) for x in qkv]
    grad = t.grad_out[order].transpose(1, 2).reshape(qkv[0].shape).contiguous()
    plane = dense.expand(qkv[0].shape[0], -1, -1, -1)

    def score(s: Tensor, b: Tensor, h: Tensor, i: Tensor, j: Tensor) -> Tensor:
        return s + plane[b, h, i, j]

    compiled = torch.compile(flex_attention)
    return Prepared(
        lambda: compiled(*leaves, score_mod=score),
        leaves,
        grad,
        lambda out: _from_windows(out, order),
        forward_only=forward_only,
    )


class _Given(torch.autograd.Function):
    """Stands for a projection whose output is given: its own input gets a gradient that costs nothing."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, given: Tensor, grad_x: Tensor) -> Tensor:
        ctx.grad_x = grad_x
        return given.view_as(given)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, None]:
        return ctx.grad_x, grad, None


class _GivenProjection(torch.nn.Module):
    def __init__(self, given: Tensor, width: int) -> None:
        super().__init__()
        self.given = given
        self.grad_x = torch.zeros(given.shape[0], given.shape[1], width, dtype=given.dtype)
        self.weight = torch.empty(0)  # read by V2, which adds biases itself

    def forward(self, x: Tensor) -> Tensor:
        return _Given.apply(x, self.given, self.grad_x)


def _timm_block(case: Case, fused: bool, dtype: torch.dtype) -> torch.nn.Module:
    config = import_timm("timm.layers.config")
    cut = case.cut
    assert isinstance(cut, Windows)
    config.set_fused_attn(fused, experimental=fused)
    if case.cosine:
        block = import_timm("timm.models.swin_transformer_v2").SwinTransformerV2Block
    else:
        block = import_timm("timm.models.swin_transformer").SwinTransformerBlock
    made = block(
        case.heads * case.head_dim,
        cut.grid,
        case.heads,
        window_size=cut.window[0],
        shift_size=cut.shift,
        **({"qkv_bias": False} if case.cosine else {}),
    )
    return made.to(dtype)


def timm_windows(fused: bool, compiled: bool = False) -> Peer:
    """timm's block from roll to roll, its projections taken out: their output is given, partitioned."""

    def prepare(case: Case, t: Tensors, dtype: torch.dtype) -> Prepared:
        if not isinstance(case.cut, Windows) or case.cut.visible is not None:
            raise Unavailable("not dense windows")
        if fused and case.cosine:
            raise Unavailable("timm has no fused path for Swin V2")
        block: Any = _timm_block(case, fused, dtype)
        t = t.to(dtype)
        order, width = _window_order(case), case.heads * case.head_dim
        given = _leaf(t.qkv[order].flatten(2))
        attn = block.attn
        attn.qkv, attn.proj = _GivenProjection(given, width), torch.nn.Identity()
        assert t.position_bias is not None
        with torch.no_grad():
            if case.cosine:
                attn.logit_scale.copy_(t.scale.log()[:, None, None])
                theirs = [p for name, p in attn.named_parameters() if "cpb_mlp" in name]
                for to, value in zip(theirs, t.position_bias.parameters(), strict=True):
                    to.copy_(value)
            else:
                attn.relative_position_bias_table.copy_(
                    next(t.position_bias.parameters()).view(-1, case.heads)
                )
        x = _leaf(torch.zeros(case.cut.batch, *case.cut.grid, width, dtype=dtype))
        parameters = [p for p in attn.parameters() if p is not attn.qkv.weight]
        run = torch.compile(block._attn) if compiled else block._attn
        return Prepared(
            lambda: run(x),
            [given, x, *parameters],
            t.grad_out.view_as(x),
            lambda out: out.reshape(-1, case.heads, case.head_dim),
        )

    how = "fused" if fused else "off"
    return Peer(f"timm {how}{' compiled' if compiled else ''}", True, prepare)


# -- packed


def _padded(case: Case, t: Tensors) -> tuple[Tensor, Tensor, Tensor | None]:
    """qkv [B, S, 3, N, D] with zeros, the true rows bool [B, S], dense bias with -inf at padding or None."""
    assert isinstance(case.cut, Lengths)
    lengths = torch.tensor(case.cut.lengths)
    kept = torch.arange(case.cut.longest) < lengths[:, None]
    qkv = t.qkv.new_zeros(*kept.shape, *t.qkv.shape[1:])
    qkv[kept] = t.qkv
    if not case.cut.ragged and bool(kept.all()):
        return qkv, kept, None
    shape = (len(lengths), case.heads if case.cut.ragged else 1, case.cut.longest, case.cut.longest)
    dense = torch.zeros(shape)
    if t.bias is not None:
        begin = 0
        for b, n in enumerate(case.cut.lengths):
            dense[b, :, :n, :n] = t.bias[:, begin : begin + n * n].view(-1, n, n)
            begin += n * n
    dense = dense.masked_fill(~kept[:, None, None, :], -torch.inf).to(t.qkv.dtype)
    return qkv, kept, dense


def _padded_peer(eager: bool) -> Peer:
    def prepare(case: Case, t: Tensors, dtype: torch.dtype) -> Prepared:
        if not isinstance(case.cut, Lengths):
            raise Unavailable("not a padded batch")
        t = t.to(dtype)
        values, kept, dense = _padded(case, t)
        qkv = _leaf(values)
        leaves = [qkv]
        if dense is not None and case.cut.ragged:
            dense = _leaf(dense)
            leaves.append(dense)
        grad = qkv.new_zeros(*kept.shape, *t.grad_out.shape[1:])
        grad[kept] = t.grad_out

        def forward() -> Tensor:
            q, k, v = (x.transpose(1, 2) for x in qkv.unbind(2))
            if not eager:
                out = F.scaled_dot_product_attention(q, k, v, attn_mask=dense)
            else:
                scores = (q * case.head_dim**-0.5) @ k.transpose(-1, -2)
                out = (scores if dense is None else scores + dense).softmax(-1) @ v
            return out.transpose(1, 2).contiguous()

        return Prepared(forward, leaves, grad, lambda out: out[kept])

    return Peer("padded eager" if eager else "padded sdpa", False, prepare)


def _sdpa_loop(case: Case, t: Tensors, dtype: torch.dtype) -> Prepared:
    """One call per sequence on views of the packed stream."""
    if not isinstance(case.cut, Lengths) or case.cut.ragged:
        raise Unavailable("not packed sequences without bias")
    lengths = list(case.cut.lengths)
    t = t.to(dtype)
    qkv = _leaf(t.qkv)

    def forward() -> Tensor:
        parts = []
        for part in qkv.split(lengths):
            q, k, v = (x.transpose(0, 1)[None] for x in part.unbind(1))
            parts.append(F.scaled_dot_product_attention(q, k, v)[0].transpose(0, 1))
        return torch.cat(parts)

    return Prepared(forward, [qkv], t.grad_out)


def _flash_varlen(case: Case, t: Tensors, dtype: torch.dtype) -> Prepared:
    """torch's flash attention on the packed stream itself, of which there is none for CPUs."""
    if not isinstance(case.cut, Lengths) or case.cut.ragged:
        raise Unavailable("not packed sequences without bias")
    if dtype == torch.float32:
        raise Unavailable("it takes half precision only")
    from torch.nn.attention.varlen import varlen_attn

    t = t.to(dtype)
    qkv, ends, longest = _leaf(t.qkv), t.plan.cu_seqlens.int(), case.cut.longest

    def forward() -> Tensor:
        out = varlen_attn(*qkv.unbind(1), ends, ends, longest, longest, scale=case.head_dim**-0.5)
        assert isinstance(out, Tensor)
        return out

    return Prepared(forward, [qkv], t.grad_out)


def peers_of(case: Case, dtype: torch.dtype, *, compiled: bool, device: str = "cpu") -> list[Peer]:
    """What a case is measured against."""
    if isinstance(case.cut, Windows) and case.cut.visible is not None:
        own = [Peer("unitrans full windows", False, _own_full_windows)]
    elif isinstance(case.cut, Windows):
        own = [timm_windows(False), timm_windows(True), Peer("sdpa partitioned", False, _sdpa_windows)]
        if compiled:
            own += [timm_windows(False, True), timm_windows(True, True)]
            own += [Peer("flex_attention compiled", False, _flex_windows)]
    else:
        own = [_padded_peer(False), _padded_peer(True), Peer("sdpa loop", False, _sdpa_loop)]
        own += [] if device == "cpu" else [Peer("flash varlen", False, _flash_varlen)]
    if device != "cpu":
        own.append(Peer("unitrans torch", False, _own_torch))
    if dtype != torch.float32:
        return [*own, Peer("unitrans fp32", False, _own_fp32)]
    return [*own, own_level("avx2")] if device == "cpu" else own
