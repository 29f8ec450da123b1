"""The reference backend: the formula of the op in plain PyTorch, on padded groups.

It is the oracle of every other backend, runs in fp64 for gradcheck, supports double backward and can be
exported without custom operators. It spends G * N * Lq * Lk memory, which is why it is not the default.
Shape letters: G groups, N heads, D head_dim, Lq / Lk longest group, P plane entries, Tq / Tk stream rows.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from unitrans.ops.philox import dropout_keep
from unitrans.ops.plan import Plan

#: Told the probabilities of every call (`unitrans.attention_maps`); None: nobody asks.
observer: Callable[[Tensor, Tensor, Tensor, int, int], None] | None = None


def _padded_groups(
    cu_seqlens: Tensor, token_index: Tensor | None, position: Tensor | None, longest: int, num_rows: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Rows, positions and validity of every group, padded to the longest: three [G, longest] tensors.

    A padded place points at row `num_rows`, the zero row that the caller appends to the stream.
    """
    place = torch.arange(longest, device=cu_seqlens.device)
    start, end = cu_seqlens[:-1, None].long(), cu_seqlens[1:, None].long()
    slot = start + place
    valid = slot < end
    slot = torch.where(valid, slot, torch.zeros_like(slot))

    def pick(listed: Tensor | None, default: Tensor) -> Tensor:
        if listed is None:
            return default
        return F.pad(listed, (0, 1))[slot].long()  # the extra entry keeps an empty list indexable

    row = torch.where(valid, pick(token_index, slot), torch.full_like(slot, num_rows))
    return row, pick(position, place.expand_as(slot)), valid


def _unit_rows(x: Tensor, eps: float = 1e-12) -> Tensor:
    """Rows of x [..., D] divided by max(norm, eps); a row with norm below eps gets gradient 0."""
    norm = torch.linalg.vector_norm(x, dim=-1, keepdim=True)
    small = norm < eps
    return torch.where(small, x.detach() / eps, x / norm.masked_fill(small, 1.0))


def _plane_bias(
    bias: Tensor, plan: Plan, query_position: Tensor, key_position: Tensor, pair: Tensor
) -> Tensor:
    """The bias of every pair of places: [N, G, Lq, Lk], 0 where a group has no plane."""
    assert plan.bias_offset is not None and plan.bias_row_stride is not None
    offset = plan.bias_offset[:, None, None]
    stride = plan.bias_row_stride[:, None, None].long()
    index = offset + query_position[:, :, None] * stride + key_position[:, None, :]
    index = torch.where(pair & (offset >= 0), index, torch.full_like(index, bias.shape[1]))
    return F.pad(bias, (0, 1))[:, index]


def attention_reference(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    plan: Plan,
    bias: Tensor | None,
    scale: Tensor,
    qk_norm: bool,
    dropout_p: float,
    dropout_seed: Tensor | None,
) -> tuple[Tensor, Tensor]:
    """Attention over the groups of a plan; arguments as the op receives them from `unitrans.attention`.

    Returns:
        out [Tq, N, D] in the dtype of q, and lse [Tq, N] in fp32 (fp64 for fp64).
    """
    compute = torch.float64 if q.dtype == torch.float64 else torch.float32
    key_cu, key_index, key_pos = plan.cu_seqlens, plan.token_index, plan.position
    key_longest = plan.max_group_size
    if plan.key_cu_seqlens is not None:
        key_cu, key_index, key_pos = plan.key_cu_seqlens, plan.key_token_index, plan.key_position
        assert plan.max_key_group_size is not None
        key_longest = plan.max_key_group_size
    row_q, position_q, valid_q = _padded_groups(
        plan.cu_seqlens, plan.token_index, plan.position, plan.max_group_size, q.shape[0]
    )
    row_k, position_k, valid_k = _padded_groups(key_cu, key_index, key_pos, key_longest, k.shape[0])

    def gather(x: Tensor, row: Tensor) -> Tensor:  # [G, N, L, D]; padded places are zeros
        return F.pad(x.to(compute), (0, 0, 0, 0, 0, 1))[row].transpose(1, 2)

    q_g, k_g, v_g = gather(q, row_q), gather(k, row_k), gather(v, row_k)
    if qk_norm:
        q_g, k_g = _unit_rows(q_g), _unit_rows(k_g)
    scores = (q_g * scale[:, None, None]) @ k_g.transpose(-1, -2)

    pair = valid_q[:, :, None] & valid_k[:, None, :]
    if plan.reach is not None:
        distance = torch.arange(key_longest, device=q.device) - torch.arange(
            plan.max_group_size, device=q.device
        ).unsqueeze(1)
        left, right = plan.reach[:, :1, None], plan.reach[:, 1:, None]
        pair = pair & ((left < 0) | (distance >= -left)) & ((right < 0) | (distance <= right))
    if bias is not None and plan.bias_offset is not None:
        scores = scores + _plane_bias(bias, plan, position_q, position_k, pair).transpose(0, 1)
    scores = scores.masked_fill(~pair[:, None], -torch.inf)

    # One zero column keeps amax defined when there is no key at all; it never counts.
    peak = F.pad(scores.detach(), (0, 1), value=-torch.inf).amax(-1, keepdim=True)
    peak = peak.masked_fill(peak == -torch.inf, 0.0)
    weights = (scores - peak).exp()
    total = weights.sum(-1, keepdim=True)
    empty = total == 0
    total = total.masked_fill(empty, 1.0)
    weights = weights / total
    lse_g = (peak + total.log()).masked_fill(empty, -torch.inf)[..., 0]
    if observer is not None:
        observer(weights, row_q, row_k, q.shape[0], k.shape[0])
    if dropout_p > 0:
        assert dropout_seed is not None
        keep = dropout_keep(dropout_seed, dropout_p, row_q, row_k, q.shape[1])
        weights = weights * keep / (1.0 - dropout_p)
    out_g = weights @ v_g

    out = q.new_zeros((q.shape[0] + 1, q.shape[1], v.shape[2]), dtype=compute)
    out = out.index_put((row_q,), out_g.transpose(1, 2))[:-1]
    lse = q.new_full((q.shape[0] + 1, q.shape[1]), -torch.inf, dtype=compute)
    lse = lse.index_put((row_q,), lse_g.transpose(1, 2))[:-1]
    return out.to(q.dtype), lse
