"""Run part of a model on packed rows (see `packing`), as `tracing` does on padded ones.

The blocks run through the family's own forward pass; attention, which families look up by name, is `packed_attention`.
A family that does not look its attention up, or needs more from it (attention sinks, say), raises `TypeError` or gives
other results. So callers compare with a plain pass once (see `pass_choice`).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from contextvars import ContextVar

import torch
from torch import nn
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from encore_core.forward.packed_attention import attend, side_by_side
from encore_core.forward.packing import Packing
from encore_core.forward.tracing import Prefix, Stopped, logits_only_at, recomputed, starting_from, stopping_before
from encore_core.models.editable import EditableModel

ATTENTION = "encore_packed"


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
        packing: the positions of the tokens.
        ids: (n_tokens,) token ids; not needed when `start` > 0.
        start, hidden: first block to run; with `start` > 0 the residual stream (n_tokens, d_model) that enters it.
        stop: first block not to run; None runs the model to its logits.
        logits_at: (n_positions,) indices of the tokens at which the output matrix is applied; all by default.

    Returns:
        the residual stream (n_tokens, d_model) entering block `stop`, or the logits (n_positions, n_vocab).

    Raises:
        TypeError: when the family's attention needs something that packed attention does not support.
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
"""The packing of the pass running in this thread; a family's forward pass cannot pass it on as an argument."""


@contextmanager
def _attending(lm: EditableModel, packing: Packing) -> Iterator[None]:
    """Let the model's blocks use packed attention with this packing."""
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
    """Attention within the rows of a packing, with the signature that transformers expects.

    Args:
        module: the attention module, which knows its block's index.
        query: (1, n_heads, n_tokens, d_head).
        key, value: (1, n_key_heads, n_tokens, d_head).
        scaling, sliding_window, softcap: as the family defines them.

    Returns:
        (1, n_tokens, n_heads, d_head), and no attention weights.
    """
    unknown = [name for name, what in others.items() if isinstance(what, torch.Tensor) and name != "position_ids"]
    if unknown or attention_mask is not None or dropout:
        raise TypeError(f"packed attention does not take {', '.join(unknown) or 'a mask or dropout'}")
    packing = _packing.get().on(query.device)
    queries, keys, values = (states[0].transpose(0, 1) for states in (query, key, value))
    if packing.recorded is not None:
        packing.recorded[module.layer_idx] = (side_by_side(keys, packing), side_by_side(values, packing))
    before = packing.prefix.layers[module.layer_idx] if packing.prefix is not None else None
    found = attend(
        queries,
        keys,
        values,
        packing,
        before,
        scaling=query.shape[-1] ** -0.5 if scaling is None else scaling,
        window=sliding_window,
        softcap=softcap,
    )
    return found[None], None


ALL_ATTENTION_FUNCTIONS.register(ATTENTION, _packed_attention)
