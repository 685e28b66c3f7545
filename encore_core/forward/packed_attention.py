"""Attention of packed rows (see `packing`), with its gradient written out.

Rows are put side by side, each attends to its own tokens and the prefix before them, and the result is packed again:

    A = softmax( cap([Q K_prefixᵀ, Q Kᵀ] · scaling) + bias ),    O = A [V_prefix; V],    cap(s) = c tanh(s / c) or s

    dV = Aᵀ dO        dS = cap'(S) · A (dA - Σ A dA)  with dA = dO [V_prefix; V]ᵀ
    dQ = scaling · dS [K_prefix; K]        dK = dSᵀ Q · scaling

It uses plain matrix products: for a few tokens per row they are several times faster on a CPU, forward and above all
backward, than the fused kernels, which are made for long sequences. It is one autograd function because for short rows
the steps between the products (moving, masking, scaling) take most of the time, and autograd would store each of them
and run each backward.
"""

from __future__ import annotations

from contextlib import nullcontext

import torch

from encore_core.forward.packing import Packing
from encore_core.forward.tracing import PrefixLayer


def attend(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    packing: Packing,
    before: PrefixLayer | None,
    *,
    scaling: float,
    window: int | None,
    softcap: float | None,
) -> torch.Tensor:
    """Let every token of a packing attend to the tokens of its row up to itself, and to the prefix before them.

    Even under autocast a CPU computes these products in float32: they are small, and rounding their operands would
    take longer than computing them.

    Args:
        query: (n_tokens, n_heads, d_head).
        key, value: (n_tokens, n_key_heads, d_head).
        packing: the positions of the tokens; on the same device.
        before: keys and values of the prefix, (n_rows, n_key_heads, n_prefix, d_head); no gradient flows into them.
        scaling, window, softcap: as the family defines them.

    Returns:
        (n_tokens, n_heads, d_head).
    """
    device, dtype = query.device.type, query.dtype
    rounding = torch.amp.is_autocast_available(device) and torch.is_autocast_enabled(device)
    if rounding:
        dtype = torch.float32 if device == "cpu" else torch.get_autocast_dtype(device)
    prefix = None if before is None else (before.keys.to(dtype).flatten(0, 1), before.values.to(dtype).flatten(0, 1))
    with torch.autocast(device, enabled=False) if rounding else nullcontext():
        query, key, value = query.to(dtype), key.to(dtype), value.to(dtype)
        return _Attention.apply(query, key, value, packing, prefix, scaling, packing.bias(window, dtype), softcap)


def side_by_side(states: torch.Tensor, packing: Packing) -> torch.Tensor:
    """Keys or values (n_tokens, n_key_heads, d_head) → (n_rows, n_key_heads, length, d_head)."""
    n_key_heads = states.shape[1]
    heads = packing.heads(n_key_heads, n_key_heads)
    spread = states.reshape(-1, states.shape[-1]).index_select(0, heads.keys)
    return spread.view(len(packing.mask), n_key_heads, -1, states.shape[-1])


class _Attention(torch.autograd.Function):
    """`attend` on operands of one dtype; a prefix is given as keys and values, each (n_batches, n_prefix, d_head)."""

    @staticmethod
    def forward(ctx, query, key, value, packing, prefix, scaling, bias, softcap):
        heads = packing.heads(query.shape[1], key.shape[1])
        Q, K, V = (
            states.reshape(-1, states.shape[-1]).index_select(0, index).view(heads.n_batches, -1, states.shape[-1])
            for states, index in ((query, heads.queries), (key, heads.keys), (value, heads.keys))
        )
        Q.mul_(scaling)
        scores = torch.bmm(Q, K.transpose(1, 2))
        if prefix is not None:
            scores = torch.cat([torch.bmm(Q, prefix[0].transpose(1, 2)), scores], -1)
        bent = None
        if softcap is not None:
            bent = scores.div_(softcap).tanh_()
            scores = softcap * bent
        n_rows, length = packing.mask.shape
        scores.view(n_rows, -1, length, scores.shape[-1]).add_(bias)
        A = scores.softmax(-1)
        n_before = 0 if prefix is None else prefix[0].shape[1]
        found = torch.bmm(A[..., n_before:], V)
        if prefix is not None:
            found.baddbmm_(A[..., :n_before], prefix[1])
        ctx.save_for_backward(Q, K, V, A, bent, *(prefix or ()))
        ctx.heads, ctx.scaling = heads, scaling
        return _taken(found, heads.queries_packed, query.shape[1])

    @staticmethod
    def backward(ctx, gradient):
        Q, K, V, A, bent, *prefix = ctx.saved_tensors
        heads, n_before = ctx.heads, A.shape[-1] - K.shape[1]
        n_heads, n_key_heads = gradient.shape[1], len(heads.keys_packed) // len(gradient)
        # No gradient comes from padding.
        dO = V.new_zeros(len(heads.queries), V.shape[-1])
        dO = dO.index_copy_(0, heads.queries_packed, gradient.reshape(-1, V.shape[-1])).view(*Q.shape[:2], -1)
        dV = torch.bmm(A[..., n_before:].transpose(1, 2), dO)
        dA = torch.bmm(dO, V.transpose(1, 2))
        if prefix:
            dA = torch.cat([torch.bmm(dO, prefix[1].transpose(1, 2)), dA], -1)
        dS = torch._softmax_backward_data(dA, A, -1, A.dtype)
        if bent is not None:
            dS.addcmul_(dS, bent.square(), value=-1)
        dK = torch.bmm(dS[..., n_before:].transpose(1, 2), Q)  # Q is scaled already
        dQ = torch.bmm(dS[..., n_before:], K)
        if prefix:
            dQ.baddbmm_(dS[..., :n_before], prefix[0])
        return (
            _taken(dQ.mul_(ctx.scaling), heads.queries_packed, n_heads),
            _taken(dK, heads.keys_packed, n_key_heads),
            _taken(dV, heads.keys_packed, n_key_heads),
            *[None] * 5,
        )


def _taken(states: torch.Tensor, places: torch.Tensor, n_heads: int) -> torch.Tensor:
    """Side by side (…, d_head) → packed (n_tokens, n_heads, d_head)."""
    return states.view(-1, states.shape[-1]).index_select(0, places).view(-1, n_heads, states.shape[-1])
