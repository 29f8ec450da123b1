"""The `torch` backend: torch's own `scaled_dot_product_attention` on the groups, for GPUs without our library.

Groups are sorted by size into buckets, and a bucket is one call: its groups gathered to [g, N, L, D], its bias (one
plane for all where the plan shares it) and its mask summed. Groups of one size need no mask, so windows without a bias,
whole sentences and causal ones reach torch's flash attention. Nothing else of size pairs is made.
Shape letters: g groups of a bucket, N heads, Lq / Lk their longest, T rows of the stream, P plane entries.
"""

import weakref
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from unitrans.ops.compiled import is_eager
from unitrans.ops.plan import Plan
from unitrans.ops.reference import _padded_groups, _unit_rows, attention_reference

#: Sizes of groups that are told apart; where a plan has more, they are rounded up and the rest is masked.
_MOST_SIZES = 16
#: What `run` gives to the reference, in words, for `unitrans doctor`.
NOTE = (
    "scaled_dot_product_attention on groups of one size; calls with lse or dropout go to the reference, as torch's "
    "kernels return no differentiable log-sum-exp and do not draw our mask"
)


@dataclass(frozen=True)
class _Bucket:
    """Groups of one size (or less, with a mask).

    Attributes:
        rows, key_rows: int64 [g, Lq] and [g, Lk]; a padded place points behind the stream.
        pair: bool [g or 1, Lq, Lk], which keys a query may look at; None: all.
        dead: bool [g or 1, Lq], queries that may look at none; None: there is no such query.
        causal: `pair` is j <= i, which torch's kernels know by name.
        entry: int64 [g or 1, Lq, Lk], plane entry of each pair, -1 where there is none; None: no planes.
    """

    rows: Tensor
    key_rows: Tensor
    pair: Tensor | None
    dead: Tensor | None
    causal: bool
    entry: Tensor | None


@dataclass(frozen=True)
class _Buckets:
    buckets: tuple[_Bucket, ...]
    padded: bool  # some place points behind the stream
    every_row: bool  # every row of q is listed


_State = tuple[tuple[int, int], ...]
_CACHE: "weakref.WeakKeyDictionary[Plan, tuple[_State, _Buckets]]" = weakref.WeakKeyDictionary()


def _state(plan: Plan) -> _State:
    """Which tensors a plan holds, and how often somebody has written into each."""
    return tuple((id(x), 0 if x.is_inference() else x._version) for _, x in plan._tensors())


def _buckets(plan: Plan) -> _Buckets:
    """Of a plan, made once as long as its lists stay as they are: it reads the sizes of the groups on the host."""
    state, found = _state(plan), _CACHE.get(plan)
    if found is None or found[0] != state:
        with torch.no_grad(), torch.inference_mode(False):
            found = _CACHE[plan] = (state, _make_buckets(plan))
    return found[1]


def _rounded(size: int) -> int:
    """At most an eighth more, from a list of few sizes."""
    step = 8
    while step * 8 < size:
        step *= 2
    return -(-size // step) * step


def _make_buckets(plan: Plan) -> _Buckets:
    sizes = plan.cu_seqlens.diff().tolist()
    key_sizes = sizes if plan.key_cu_seqlens is None else plan.key_cu_seqlens.diff().tolist()
    if len(set(zip(sizes, key_sizes, strict=True))) > _MOST_SIZES:
        cuts = [(_rounded(a), _rounded(b)) for a, b in zip(sizes, key_sizes, strict=True)]
    else:
        cuts = list(zip(sizes, key_sizes, strict=True))
    members: dict[tuple[int, int], list[int]] = {}
    for g, (size, key_size, cut) in enumerate(zip(sizes, key_sizes, cuts, strict=True)):
        if size and key_size:  # others have nothing to attend to
            members.setdefault(cut, []).append(g)
    device = plan.cu_seqlens.device
    buckets = tuple(
        _make_bucket(plan, torch.tensor(groups, device=device), cut)
        for cut, groups in sorted(members.items())
    )
    padded = any(bool((b.rows == plan.num_tokens).any()) for b in buckets) or any(
        bool((b.key_rows == _num_keys(plan)).any()) for b in buckets
    )
    listed = sum(size for size, key_size in zip(sizes, key_sizes, strict=True) if key_size)
    return _Buckets(buckets, padded, listed == plan.num_tokens)


def _num_keys(plan: Plan) -> int:
    return plan.num_tokens if plan.num_keys is None else plan.num_keys


def _make_bucket(plan: Plan, groups: Tensor | None, longest: tuple[int, int]) -> _Bucket:
    """The chosen groups, None: all, which is the one way that reads no values of the plan (for tracing)."""

    def of(per_group: Tensor) -> Tensor:
        return per_group if groups is None else per_group[groups]

    query = (plan.cu_seqlens, plan.token_index, plan.position)
    key = query
    if plan.key_cu_seqlens is not None:
        key = (plan.key_cu_seqlens, plan.key_token_index, plan.key_position)
    rows, position, _ = (of(x) for x in _padded_groups(*query, longest[0], plan.num_tokens))
    key_rows, key_position, valid = (of(x) for x in _padded_groups(*key, longest[1], _num_keys(plan)))
    pair = valid[:, None, :].expand(-1, longest[0], -1)
    causal = False
    if plan.reach is not None:
        reach = of(plan.reach)
        distance = torch.arange(longest[1], device=pair.device) - torch.arange(
            longest[0], device=pair.device
        ).unsqueeze(1)
        left, right = reach[:, :1, None], reach[:, 1:, None]
        pair = pair & ((left < 0) | (distance >= -left)) & ((right < 0) | (distance <= right))
        if groups is not None and longest[0] == longest[1] and bool(valid.all()):
            causal = bool((reach == torch.tensor([-1, 0], device=reach.device)).all())
    entry = None
    if plan.bias_offset is not None and plan.bias_row_stride is not None:
        offset, stride = of(plan.bias_offset)[:, None, None], of(plan.bias_row_stride)[:, None, None].long()
        entry = offset + position[:, :, None] * stride + key_position[:, None, :]
        inside = valid[:, None, :] & (rows < plan.num_tokens)[:, :, None] & (offset >= 0)
        entry = entry.masked_fill(~inside, -1)
    if groups is None:
        return _Bucket(rows, key_rows, pair, ~pair.any(-1), False, entry)
    dead = ~pair.any(-1)
    return _Bucket(
        rows,
        key_rows,
        None if bool(pair.all()) else _once(pair),
        _once(dead) if bool(dead.any()) else None,
        causal,
        None if entry is None or bool((entry < 0).all()) else _once(entry),
    )


def _once(x: Tensor) -> Tensor:
    """[1, ...] where all groups have the same, so that what it makes is broadcast."""
    return x[:1].clone() if bool((x == x[:1]).all()) else x.contiguous()


def attention_torch(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    plan: Plan,
    bias: Tensor | None,
    scale: Tensor,
    qk_norm: bool,
    dropout_p: float,
    dropout_seed: Tensor | None,
    need_lse: bool = True,
) -> tuple[Tensor, Tensor]:
    """Same arguments and results as `attention_reference`; lse is of use only where it was asked for.

    With a gradient of its own (autograd); d(bias) is summed by torch's deterministic gather gradient. What `NOTE` names
    goes to the reference.
    """
    if need_lse or dropout_p > 0:
        return attention_reference(q, k, v, plan, bias, scale, qk_norm, dropout_p, dropout_seed)
    if is_eager(q, k, v, bias, scale, plan.cu_seqlens):
        found = _buckets(plan)
    else:
        longest = (
            plan.max_group_size,
            (plan.max_group_size if plan.max_key_group_size is None else plan.max_key_group_size),
        )
        found = _Buckets((_make_bucket(plan, None, longest),), True, False)
    if not found.buckets:
        return attention_reference(q, k, v, plan, bias, scale, qk_norm, dropout_p, dropout_seed)

    compute = torch.float64 if q.dtype == torch.float64 else torch.float32
    if qk_norm:
        q, k = _unit_rows(q.to(compute)), _unit_rows(k.to(compute)).to(v.dtype)
    if found.padded:  # the row behind the stream
        q, k, v = (F.pad(x, (0, 0, 0, 0, 0, 1)) for x in (q, k, v))
    if bias is not None:
        bias = F.pad(bias, (0, 1))
    scale = scale.to(compute)[:, None, None]
    results = [
        _bucket_attention(b, q, k, v, bias, scale, plan.key_cu_seqlens is not None) for b in found.buckets
    ]
    rows = _joined([b.rows.reshape(-1) for b in found.buckets])
    values = _joined([r.transpose(1, 2).reshape(-1, *q.shape[1:]) for r in results])
    num_rows = plan.num_tokens
    if found.every_row and not found.padded:
        out = torch.empty_like(values).index_copy_(0, rows, values)
    else:
        out = values.new_zeros((num_rows + 1, *values.shape[1:])).index_copy_(0, rows, values)[:num_rows]
    return out, out


def _joined(parts: list[Tensor]) -> Tensor:
    """One after the other; a single one is not copied."""
    return parts[0] if len(parts) == 1 else torch.cat(parts)


def _bucket_attention(
    bucket: _Bucket, q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None, scale: Tensor, keys_repeat: bool
) -> Tensor:
    """[g, N, Lq, D]; scale [N, 1, 1]."""

    def gather(x: Tensor, rows: Tensor, repeats: bool) -> Tensor:
        # The gradient of x[rows] sums repeated rows in a fixed order; index_select is faster and adds nothing up here.
        picked = x[rows.reshape(-1)] if repeats else x.index_select(0, rows.reshape(-1))
        return picked.view(*rows.shape, *x.shape[1:]).transpose(1, 2)

    q, k, v = (
        gather(q, bucket.rows, False),
        gather(k, bucket.key_rows, keys_repeat),
        gather(v, bucket.key_rows, keys_repeat),
    )
    q = (q * scale).to(
        v.dtype
    )  # rows of q that were gathered lie close together, those of a packed qkv do not
    mask: Tensor | None = None
    dead = None if bucket.dead is None else bucket.dead[:, None, :, None]
    if bias is not None and bucket.entry is not None:
        mask = bias[:, bucket.entry].transpose(0, 1).to(q.dtype)
        if bucket.pair is not None:
            mask = mask.masked_fill(~bucket.pair[:, None], -torch.inf)
        dead = (mask == -torch.inf).all(-1, keepdim=True)  # -inf in the bias may leave a query without keys
    elif bucket.pair is not None and not bucket.causal:
        mask = bucket.pair[:, None]
    if (
        dead is not None and mask is not None
    ):  # a softmax of nothing is NaN: let it be one of something, and drop it
        mask = mask.masked_fill(dead, True if mask.dtype == torch.bool else 0.0)
    causal = bucket.causal and mask is None
    out = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, is_causal=causal, scale=1.0)
    return out if dead is None else out.masked_fill(dead, 0.0)


def attention_torch_qkv(qkv: Tensor, *arguments: Any) -> tuple[Tensor, Tensor]:
    """`attention_torch` on q, k, v in one tensor [T, 3, N, D]."""
    q, k, v = qkv.unbind(1)
    return attention_torch(q, k, v, *arguments)
