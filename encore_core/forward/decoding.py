"""Generation of more tokens, for measures that let the model continue a text.

A continuation grows by one token at a time, and each attends to the keys and values of all before it. `GrowingPrefix`
keeps these without copying them at every step, and can follow tokens that all rows share (the examples of a few-shot
task), which are held once, however many rows there are.

    cache = GrowingPrefix(lm, n_rows=3, capacity=20, before=examples)
    logits = cache.run(lm, batch.ids, batch.mask, logits_at=ends)       # the prompts
    logits = cache.run(lm, token_ids, torch.ones_like(token_ids))       # and what follows
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from transformers import GenerationConfig

from encore_core.forward.prompts import pad
from encore_core.forward.tracing import Prefix, PrefixLayer, record_prefix, run
from encore_core.models.editable import EditableModel


def end_tokens(lm: EditableModel) -> set[int]:
    """Ids of the tokens that end a text: the tokenizer's, and those that the model's folder names."""
    named = lm.model.generation_config.eos_token_id
    listed = named if isinstance(named, list) else [named]
    return {token for token in (*listed, lm.tokenizer.eos_token_id) if token is not None}


def shared_start(lm: EditableModel, rows: Sequence[Sequence[int]]) -> tuple[int, Prefix | None]:
    """What all rows of token ids begin with, run once; at least one token of each row is left over.

    Args:
        lm: the model; the caller holds its lock and needs no gradients.
        rows: at least one.

    Returns:
        how many tokens they share, and the prefix, one row; None if they share none.
    """
    length = min(map(len, rows)) - 1
    while any(row[:length] != rows[0][:length] for row in rows):
        length -= 1
    if not length:
        return 0, None
    batch = pad(lm, [rows[0][:length]])
    return length, record_prefix(lm, batch.ids, batch.mask)[0]


@contextmanager
def nothing_but_asked(lm: EditableModel) -> Iterator[None]:
    """Let `generate` use only its caller's arguments while the `with` block runs.

    A model's folder may set defaults for arguments that a caller leaves out: tokens to suppress, penalties, a minimum
    length and more. Then the result is no greedy continuation. The tokens that end a text stay those of the folder.

    Args:
        lm: the model; the caller holds its lock.
    """
    of_folder = lm.model.generation_config
    lm.model.generation_config = GenerationConfig(
        eos_token_id=sorted(end_tokens(lm)) or None, pad_token_id=lm.tokenizer.pad_token_id
    )
    try:
        yield
    finally:
        lm.model.generation_config = of_folder


class _GrowingLayer(PrefixLayer):
    """Keys and values of one block, in tensors with room for more.

    Attributes:
        length: how many of their positions are in use.
    """

    def __init__(self, capacity: int, before: PrefixLayer | None):
        super().__init__()
        self.capacity, self.before, self.length = capacity, before, 0

    def update(self, key_states: torch.Tensor, value_states: torch.Tensor, *args, **kwargs):
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
            self.keys, self.values = (
                states.new_empty((*states.shape[:2], self.capacity, states.shape[-1]))
                for states in (key_states, value_states)
            )
        n_new = key_states.shape[-2]
        # narrow, unlike a slice, fails when there is no room.
        self.keys.narrow(2, self.length, n_new).copy_(key_states)
        self.values.narrow(2, self.length, n_new).copy_(value_states)
        self.length += n_new
        keys, values = self.keys[:, :, : self.length], self.values[:, :, : self.length]
        if self.before is None or not self.before.is_initialized:
            return keys, values
        # Joined only while the block runs: otherwise every row would hold a copy of what they share.
        shared = (states.expand(len(keys), -1, -1, -1) for states in (self.before.keys, self.before.values))
        return tuple(torch.cat(pair, dim=-2) for pair in zip(shared, (keys, values), strict=True))


class GrowingPrefix(Prefix):
    """Keys and values of all tokens run so far, with room for more.

    Args:
        lm: gives the number of blocks and the device.
        n_rows: rows that are run at a time.
        capacity: at most how many tokens per row, not counting `before`.
        before: prefix of all rows: one row that every row shares, or one per row.
    """

    def __init__(self, lm: EditableModel, n_rows: int, capacity: int, before: Prefix | None = None):
        mask = torch.zeros((n_rows, 0), dtype=torch.long, device=lm.device)
        super().__init__(0, mask if before is None else before.mask.expand(n_rows, -1))
        self.layers = [
            _GrowingLayer(capacity, before.layers[index] if before is not None else None)
            for index in range(lm.n_layers)
        ]

    def run(
        self,
        lm: EditableModel,
        ids: torch.Tensor,
        mask: torch.Tensor,
        logits_at: tuple[torch.Tensor, torch.Tensor] | None = None,
    ) -> torch.Tensor:
        """Run tokens after all previous ones, and keep them.

        Args:
            lm: the model; the caller holds its lock.
            ids, mask: (n_rows, length), padded on the right.
            logits_at: as for `tracing.run`.

        Returns:
            the logits, as `tracing.run` gives them.
        """
        logits = run(lm, ids, mask, prefix=self, logits_at=logits_at)
        self.mask = torch.cat([self.mask, mask], dim=1)
        return logits

    def forget(self, n_tokens: int) -> None:
        """Remove the last `n_tokens` tokens of every row, padding included."""
        self.mask = self.mask[:, : self.mask.shape[1] - n_tokens]
        for layer in self.layers:
            layer.length -= n_tokens

    def keep(self, rows: torch.Tensor) -> None:
        """Go on with some of the rows alone: indices (n_kept,)."""
        self.mask = self.mask[rows]
        for layer in self.layers:
            if layer.is_initialized:
                of_layer = rows.to(layer.keys.device)
                layer.keys, layer.values = layer.keys[of_layer], layer.values[of_layer]
