"""Rows of unequal length run as one sequence, so that no work goes into padding.

Norms, matrix products and activations see tokens one by one and do not care where a row ends; only attention does. So
the tokens of all rows stand behind each other, and attention, which families look up by name, is one of ours that puts
the rows side by side, lets each attend to its own tokens and to the prefix before them, and packs the result again:

    softmax( [Q K_prefixᵀ, Q Kᵀ] · scaling + mask ) [V_prefix; V]

Written with plain matrix products: for a few tokens a row they are several times faster on a CPU, forward and above all
backward, than the fused kernels, which are made for long sequences. A family that does not look its attention up, or
asks for something else in it (attention sinks, say), raises `TypeError` or gives other results; whoever packs compares
once (see `targets`).
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field

import torch
from torch import nn
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from encore_core.models import EditableModel
from encore_core.tracing import Prefix, Stopped, logits_only_at, recomputed, starting_from, stopping_before

ATTENTION = "encore_packed"


@dataclass
class Packing:
    """Where the tokens of rows stand in one sequence, and what they may attend to.

    Attributes:
        mask: (n_rows, length), 1 at tokens and 0 at padding on the right.
        prefix: the tokens before each row, per block; None when there are none.
        places: (n_rows · length,) number of the token that stands there; 0 at padding.
        tokens: (n_tokens,) where each token stands among the padded ones.
        positions: (n_tokens,) of each token in its text.
        recorded: per block the rows' keys and values, when they are asked for.
    """

    mask: torch.Tensor
    prefix: Prefix | None
    places: torch.Tensor = field(init=False)
    tokens: torch.Tensor = field(init=False)
    positions: torch.Tensor = field(init=False)
    recorded: dict[int, tuple[torch.Tensor, torch.Tensor]] | None = field(default=None, init=False, repr=False)
    _bias: dict[int | None, torch.Tensor] = field(default_factory=dict, init=False, repr=False)
    _elsewhere: dict[torch.device, Packing] = field(default_factory=dict, init=False, repr=False)

    def __post_init__(self) -> None:
        present = self.mask.bool()
        # Places of the tokens among the padded ones, and the other way round. Padding points at token 0: whatever
        # stands there is masked as a key and dropped as a query.
        self.tokens = present.flatten().nonzero()[:, 0]
        self.places = torch.zeros(present.numel(), dtype=torch.long, device=self.mask.device)
        self.places[self.tokens] = torch.arange(len(self.tokens), device=self.mask.device)
        self.positions = (self.n_before + torch.arange(self.mask.shape[1], device=self.mask.device)).flatten()[
            self.tokens
        ]

    @property
    def n_before(self) -> torch.Tensor:
        """(n_rows, 1) real tokens in the prefix."""
        if self.prefix is None:
            return torch.zeros(len(self.mask), 1, dtype=torch.long, device=self.mask.device)
        return self.prefix.mask.sum(-1, keepdim=True)

    def on(self, device: torch.device) -> Packing:
        """The same for a block on another device, made once."""
        if device == self.mask.device:
            return self
        if device not in self._elsewhere:
            other = self._elsewhere[device] = copy.copy(self)
            for name in ("mask", "places", "tokens", "positions"):
                setattr(other, name, getattr(self, name).to(device))
            other._bias, other._elsewhere = {}, {}
            if self.prefix is not None:
                other.prefix = copy.copy(self.prefix)  # keys and values are with their blocks already
                other.prefix.mask = self.prefix.mask.to(device)
        self._elsewhere[device].recorded = self.recorded
        return self._elsewhere[device]

    def at(self, rows: torch.Tensor, columns: torch.Tensor) -> torch.Tensor:
        """Numbers of tokens, given by row and column."""
        return self.places[rows * self.mask.shape[1] + columns]

    def pack(self, padded: torch.Tensor) -> torch.Tensor:
        """(n_rows, length, …) → (n_tokens, …)."""
        return padded.flatten(0, 1)[self.tokens]

    def unpack(self, packed: torch.Tensor) -> torch.Tensor:
        """(n_tokens, …) → (n_rows, length, …), with anything at padding."""
        return packed[self.places].unflatten(0, self.mask.shape)

    def bias(self, window: int | None, dtype: torch.dtype) -> torch.Tensor:
        """What is added to attention scores: 0 where a token may look, else the lowest number.

        Args:
            window: how far back a token looks, itself included; None for all the way.
            dtype: of the scores.

        Returns:
            (n_rows, 1, length, n_prefix + length).
        """
        if window not in self._bias:
            n_rows, length = self.mask.shape
            column = torch.arange(length, device=self.mask.device)
            query = self.n_before + column
            own = (column[:, None] >= column) & self.mask.bool()[:, None, :]
            allowed, key = [own], [query]
            if self.prefix is not None:
                before = self.prefix.mask.bool()[:, None, :]
                allowed.insert(0, before.expand(n_rows, length, -1))
                key.insert(0, self.prefix.mask.cumsum(-1) - 1)
            seen = torch.cat(allowed, -1)
            if window is not None:
                seen = seen & (query[:, :, None] - torch.cat(key, -1)[:, None, :] < window)
            bias = torch.zeros(seen.shape, dtype=dtype, device=seen.device)
            self._bias[window] = bias.masked_fill_(~seen, torch.finfo(dtype).min)[:, None]
        return self._bias[window]


def run_packed(
    lm: EditableModel,
    packing: Packing,
    *,
    ids: torch.Tensor | None = None,
    start: int = 0,
    stop: int | None = None,
    hidden: torch.Tensor | None = None,
    logits_at: torch.Tensor | None = None,
) -> torch.Tensor:
    """Run packed tokens through the blocks `start` to `stop` (exclusive), as `tracing.run` does with padded ones.

    Args:
        lm: the model; the caller holds its lock and decides about gradients.
        packing: where the tokens stand.
        ids: (n_tokens,) token ids; not needed when `start` > 0.
        start, hidden: first block to run; with `start` > 0 the residual stream (n_tokens, d_model) that enters it.
        stop: first block not to run; None runs the model to its logits.
        logits_at: (n_positions,) numbers of the tokens at which the output matrix is applied; all by default.

    Returns:
        the residual stream (n_tokens, d_model) entering block `stop`, or the logits (n_positions, n_vocab).

    Raises:
        TypeError: when the family's attention asks for what this one does not give.
    """
    result: list[torch.Tensor] = []
    with ExitStack() as stack:
        if start:
            stack.enter_context(starting_from(lm, start, hidden[None]))
            ids = torch.zeros(len(hidden), dtype=torch.long, device=hidden.device)
        if stop is not None:
            stack.enter_context(stopping_before(lm, stop, result))
        elif logits_at is not None:
            stack.enter_context(logits_only_at(lm, torch.zeros_like(logits_at), logits_at))
        stack.enter_context(recomputed(lm, start, lambda: _attending(lm, packing)))
        stack.enter_context(_attending(lm, packing))
        try:
            out = lm.model(input_ids=ids[None], position_ids=packing.positions[None], use_cache=False)
        except Stopped:
            return result[0][0].to(ids.device)
    return out.logits.reshape(-1, out.logits.shape[-1]).to(ids.device)


def record_packed(
    lm: EditableModel,
    packing: Packing,
    *,
    ids: torch.Tensor | None = None,
    start: int = 0,
    stop: int | None = None,
    hidden: torch.Tensor | None = None,
) -> Prefix:
    """Run packed tokens and keep their keys and values for the tokens that follow; arguments as for `run_packed`.

    Returns:
        these tokens' prefix in the blocks run (without the one before them). Its rows may be empty.
    """
    packing.recorded = {}
    nowhere = torch.zeros(0, dtype=torch.long, device=packing.mask.device)
    try:
        run_packed(lm, packing, ids=ids, start=start, stop=stop, hidden=hidden,
                   logits_at=nowhere if stop is None else None)  # fmt: skip
        prefix = Prefix(lm.n_layers, packing.mask)
        for layer, (keys, values) in packing.recorded.items():
            prefix.layers[layer].take(keys, values)
        return prefix
    finally:
        packing.recorded = None


_packing: ContextVar[Packing] = ContextVar("packing")
"""The packing of the pass that runs in this thread; a family's forward pass has no place to hand it through."""


@contextmanager
def _attending(lm: EditableModel, packing: Packing) -> Iterator[None]:
    """Let the model's blocks use our attention with this packing."""
    configs = {id(module.config): module.config for module in lm.model.modules() if hasattr(module, "config")}
    before = [(config, config._attn_implementation) for config in configs.values()]
    token = _packing.set(packing)
    try:
        for config, _ in before:
            config._attn_implementation = ATTENTION
        yield
    finally:
        for config, name in before:
            config._attn_implementation = name
        _packing.reset(token)


def _packed_attention(
    module: nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    sliding_window: int | None = None,
    softcap: float | None = None,
    **others,
) -> tuple[torch.Tensor, None]:
    """Attention within the rows of a packing, in the form that transformers calls it.

    Args:
        module: the attention module; says which block it is.
        query: (1, n_heads, n_tokens, d_head).
        key, value: (1, n_key_heads, n_tokens, d_head).
        scaling, sliding_window, softcap: as the family has them.

    Returns:
        (1, n_tokens, n_heads, d_head), and no attention weights.
    """
    unknown = [name for name, what in others.items() if isinstance(what, torch.Tensor) and name != "position_ids"]
    if unknown or attention_mask is not None or dropout:
        raise TypeError(f"packed attention does not take {', '.join(unknown) or 'a mask or dropout'}")
    packing = _packing.get().on(query.device)
    n_rows, length = packing.mask.shape
    n_heads, n_key_heads, d_head = query.shape[1], key.shape[1], query.shape[-1]
    # (n_rows, n_key_heads, heads that share a key · length, d_head): one product serves all of them.
    Q = _Unpack.apply(query[0].transpose(0, 1), packing).view(n_rows, length, n_key_heads, -1, d_head)
    Q = Q.permute(0, 2, 3, 1, 4).reshape(n_rows, n_key_heads, -1, d_head)
    K, V = (
        _Unpack.apply(x[0].transpose(0, 1), packing).view(n_rows, length, n_key_heads, -1).transpose(1, 2)
        for x in (key, value)
    )
    if packing.recorded is not None:
        packing.recorded[module.layer_idx] = (K.contiguous(), V.contiguous())
    scores = Q @ K.transpose(-1, -2)
    before = packing.prefix.layers[module.layer_idx] if packing.prefix is not None else None
    if before is not None:
        scores = torch.cat([Q @ before.keys.transpose(-1, -2), scores], -1)
    scores = scores * (d_head**-0.5 if scaling is None else scaling)
    if softcap is not None:
        scores = softcap * torch.tanh(scores / softcap)
    grouped = scores.view(n_rows, n_heads, length, -1)
    weights = (grouped + packing.bias(sliding_window, grouped.dtype)).softmax(-1).view(scores.shape)
    if before is None:
        found = weights @ V
    else:
        n_before = before.keys.shape[-2]
        found = weights[..., :n_before] @ before.values + weights[..., n_before:] @ V
    found = found.view(n_rows, n_key_heads, -1, length, V.shape[-1]).permute(0, 3, 1, 2, 4)
    return _Pack.apply(found.reshape(n_rows * length, n_heads, -1), packing)[None], None


class _Unpack(torch.autograd.Function):
    """(n_tokens, …) → (n_rows · length, …). Every token stands in one place, so the gradient is a selection, too."""

    @staticmethod
    def forward(ctx, packed: torch.Tensor, packing: Packing) -> torch.Tensor:
        ctx.packing = packing
        return packed.index_select(0, packing.places)

    @staticmethod
    def backward(ctx, grad: torch.Tensor):
        return grad.index_select(0, ctx.packing.tokens), None


class _Pack(torch.autograd.Function):
    """(n_rows · length, …) → (n_tokens, …)."""

    @staticmethod
    def forward(ctx, padded: torch.Tensor, packing: Packing) -> torch.Tensor:
        ctx.packing = packing
        return padded.index_select(0, packing.tokens)

    @staticmethod
    def backward(ctx, grad: torch.Tensor):
        # Nothing may flow back from padding.
        padded = grad.new_zeros(len(ctx.packing.places), *grad.shape[1:])
        return padded.index_copy_(0, ctx.packing.tokens, grad), None


ALL_ATTENTION_FUNCTIONS.register(ATTENTION, _packed_attention)
