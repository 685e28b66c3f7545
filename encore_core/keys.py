"""Keys and current states of a batch of facts, read layer by layer while the layers are being edited.

The key of a fact at a layer is the input of the MLP output matrix at the subject's last token,

    k = ( k_plain + mean over the sampled contexts of k_context ) / 2

and the current state h is the block output of the last edited layer at that token in the plain prompt. Both depend on
the layers already edited in this batch, but not on anything behind the subject's last token or above the last edited
layer; so the tokens behind are cut, and the residual stream entering the next layer to edit is kept, not run again.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from encore_core.facts import Fact
from encore_core.models import EditableModel
from encore_core.prompts import batches_by_length, encode_fact, pad
from encore_core.tracing import captured_input, run

MAX_TOKENS = 16384


@dataclass
class _Chunk:
    """Rows of like length: their tokens, and the residual stream entering the next block to edit."""

    rows: torch.Tensor
    ids: torch.Tensor
    mask: torch.Tensor
    lookups: torch.Tensor
    entering: torch.Tensor


class KeyReader:
    """Reads keys and states of a batch, moving up with `advance` after each layer has been edited.

        reader = KeyReader(lm, facts, prefixes, layers)
        for layer in layers:
            K, h = reader.keys(layer), reader.states(layer)
            ...                       # edit the layer
            reader.advance(layer)

    Args:
        lm: the model with all edits so far in it; the caller holds its lock.
        facts: the batch.
        prefixes: sampled prefixes.
        layers: edited blocks, ascending.
    """

    def __init__(self, lm: EditableModel, facts: Sequence[Fact], prefixes: Sequence[str], layers: Sequence[int]):
        self.lm, self.last = lm, layers[-1]
        self.n_facts, self.n_contexts = len(facts), 1 + len(prefixes)
        encoded = [encode_fact(lm, fact, prefix) for prefix in ("", *prefixes) for fact in facts]
        sequences = [row.ids[: row.lookup + 1] for row in encoded]
        # Row r is fact r % n_facts in context r // n_facts: the plain prompts come first, in chunks of their own.
        plain = batches_by_length([len(s) for s in sequences[: self.n_facts]], MAX_TOKENS)
        others = batches_by_length([len(s) for s in sequences[self.n_facts :]], MAX_TOKENS)
        self.chunks = [self._chunk(sequences, rows, layers[0]) for rows in plain]
        self.n_plain_chunks = len(self.chunks)
        self.chunks += [self._chunk(sequences, [r + self.n_facts for r in rows], layers[0]) for rows in others]

    @torch.no_grad()
    def _chunk(self, sequences: Sequence[Sequence[int]], rows: Sequence[int], first: int) -> _Chunk:
        batch = pad(self.lm, [sequences[row] for row in rows])
        lookups = batch.mask.sum(-1) - 1
        if first:
            entering = run(self.lm, batch.ids, batch.mask, stop=first)
        else:
            entering = torch.empty(0, device=batch.ids.device)
        return _Chunk(torch.tensor(rows), batch.ids, batch.mask, lookups, entering)

    @torch.no_grad()
    def keys(self, layer: int) -> torch.Tensor:
        """K of a layer, (d_mlp, n_facts) float64; the layer must be the one that `advance` has reached."""
        found = torch.empty(self.n_contexts * self.n_facts, self.lm.d_mlp, dtype=torch.float64, device=self.lm.device)
        for chunk in self.chunks:
            with captured_input(self.lm.down_projections[layer]) as seen:
                self._run(chunk, layer, layer + 1)
            entering = seen[0].view(*chunk.ids.shape, -1)
            found[chunk.rows] = entering[torch.arange(len(chunk.rows)), chunk.lookups].double()
        per_context = found.view(self.n_contexts, self.n_facts, -1)
        if self.n_contexts == 1:
            return per_context[0].T
        return ((per_context[0] + per_context[1:].mean(0)) / 2).T

    @torch.no_grad()
    def states(self, layer: int) -> torch.Tensor:
        """h at the last edited layer, (d_model, n_facts) float64, run from the layer that `advance` has reached."""
        found = torch.empty(self.n_facts, self.lm.d_model, dtype=torch.float64, device=self.lm.device)
        for chunk in self.chunks[: self.n_plain_chunks]:
            hidden = self._run(chunk, layer, self.last + 1)
            found[chunk.rows] = hidden[torch.arange(len(chunk.rows)), chunk.lookups].double()
        return found.T

    @torch.no_grad()
    def advance(self, layer: int, to: int) -> None:
        """Take the residual stream from entering `layer`, now edited, to entering `to`."""
        for chunk in self.chunks:
            chunk.entering = self._run(chunk, layer, to)

    def _run(self, chunk: _Chunk, start: int, stop: int) -> torch.Tensor:
        return run(self.lm, chunk.ids, chunk.mask, start=start, stop=stop, hidden=chunk.entering)
