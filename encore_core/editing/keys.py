"""Keys and current states of a batch of facts, read layer by layer as the layers are edited.

The key of a fact at a layer is the input of the MLP output matrix at the subject's last token,

    k = ( k_plain + mean over the sampled contexts of k_context ) / 2

and the current state h is the block output of the last edited layer at that token in the plain prompt. Both depend on
the layers already edited in this batch, but not on anything after the subject's last token or above the last edited
layer. So later tokens are cut, the residual stream entering the next layer to edit is kept rather than recomputed, and
the edited block's second run takes over what its edit has not changed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass

import torch

from encore_core.editing.update_rule import LowRankUpdate
from encore_core.facts import Fact
from encore_core.forward.block_again import BlockRun, remembered, run_again
from encore_core.forward.prefix_cache import SharedStarts
from encore_core.forward.prompts import Encoded, batches_by_length, encode_contexts, pad, tokens_of_pass
from encore_core.forward.tracing import Prefix, run
from encore_core.models.editable import EditableModel

KEPT_TOKENS = 16384
"""Of at most as many tokens is kept what a block's second run can take over; of an 8B model's, 0.6 GB in bfloat16."""


@dataclass
class _Chunk:
    """Rows of similar length: the tokens they do not share, and the residual stream entering the next block to edit.

    If this block has been run, `known` is what its next run can take over.
    """

    rows: torch.Tensor
    contexts: torch.Tensor
    ids: torch.Tensor
    mask: torch.Tensor
    lookups: torch.Tensor
    entering: torch.Tensor | None = None
    known: BlockRun | None = None


class KeyReader:
    """Reads keys and states of a batch, moving up with `advance` after each layer has been edited.

        reader = KeyReader(lm, facts, prefixes, layers)
        for layer in layers:
            K, h = reader.keys(layer), reader.states(layer)
            ...                       # edit the layer
            reader.advance(layer, next_layer)

    Args:
        lm: the model with all edits so far in it; the caller holds its lock.
        facts: the batch.
        prefixes: sampled prefixes.
        layers: edited blocks, ascending.
    """

    @torch.no_grad()
    def __init__(self, lm: EditableModel, facts: Sequence[Fact], prefixes: Sequence[str], layers: Sequence[int]):
        self.lm, self.last = lm, layers[-1]
        self.n_facts, self.n_contexts = len(facts), 1 + len(prefixes)
        contexts = list(zip(*encode_contexts(lm, facts, prefixes), strict=True))
        self.starts = SharedStarts.of(lm, contexts)
        self.starts_entering: torch.Tensor | None = None
        rows = [(context, row) for context, encoded in enumerate(contexts) for row in encoded]
        # Row r is fact r % n_facts in context r // n_facts: the plain prompts come first, in separate chunks.
        plain = self._chunks(rows, range(self.n_facts))
        self.n_plain_chunks = len(plain)
        self.chunks = plain + self._chunks(rows, range(self.n_facts, len(rows)))
        if layers[0]:
            self.advance(0, layers[0])

    def _chunks(self, rows: Sequence[tuple[int, Encoded]], numbers: Sequence[int]) -> list[_Chunk]:
        own = {number: self.starts.rest(rows[number][1], rows[number][0]) for number in numbers}
        groups = batches_by_length([own[number][1] + 1 for number in numbers], tokens_of_pass(self.lm))
        return [self._chunk(rows, own, [numbers[i] for i in group]) for group in groups]

    def _chunk(self, rows: Sequence[tuple[int, Encoded]], own: dict, numbers: Sequence[int]) -> _Chunk:
        device = self.lm.device
        # Nothing after the lookup position is needed, so each row ends there.
        batch = pad(self.lm, [own[number][0][: own[number][1] + 1] for number in numbers])
        contexts = torch.tensor([rows[number][0] for number in numbers], device=device)
        return _Chunk(torch.tensor(numbers, device=device), contexts, batch.ids, batch.mask, batch.mask.sum(-1) - 1)

    @torch.no_grad()
    def keys(self, layer: int) -> torch.Tensor:
        """K of a layer, (d_mlp, n_facts), in float64, or float32 on devices without float64.

        The layer must be the one that `advance` has reached.
        """
        found = torch.empty(self.n_contexts * self.n_facts, self.lm.d_mlp, dtype=self._precise, device=self.lm.device)
        prefix, _ = self.starts.record(self.lm, layer, layer + 1, self.starts_entering)
        kept = 0
        for chunk in self.chunks:
            with remembered(self.lm, layer) as block:
                self._run(chunk, prefix, layer, layer + 1)
            entering = block.matrix_input.view(*chunk.ids.shape, -1)
            found[chunk.rows] = _at(entering, chunk.lookups.to(entering.device)).to(found)
            kept += chunk.ids.numel()
            chunk.known = block if kept <= KEPT_TOKENS else None
        per_context = found.view(self.n_contexts, self.n_facts, -1)
        if self.n_contexts == 1:
            return per_context[0].T
        return ((per_context[0] + per_context[1:].mean(0)) / 2).T

    @torch.no_grad()
    def states(self, layer: int) -> torch.Tensor:
        """h at the last edited layer, (d_model, n_facts) and of K's dtype, run from the layer `advance` has reached."""
        found = torch.empty(self.n_facts, self.lm.d_model, dtype=self._precise, device=self.lm.device)
        prefix, _ = self.starts.record(self.lm, layer, self.last + 1, self.starts_entering)
        for chunk in self.chunks[: self.n_plain_chunks]:
            hidden = self._run(chunk, prefix, layer, self.last + 1)
            found[chunk.rows] = _at(hidden, chunk.lookups).to(found.dtype)
        return found.T

    @torch.no_grad()
    def advance(self, layer: int, to: int) -> None:
        """Move the residual stream from the input of `layer`, now edited, to the input of `to`."""
        prefix, self.starts_entering = self.starts.record(self.lm, layer, to, self.starts_entering)
        for chunk in self.chunks:
            chunk.entering = self._run(chunk, prefix, layer, to)
            chunk.known = None

    def added(self, layer: int, update: LowRankUpdate) -> None:
        """The layer has been edited; here the model shows it. Others are told, see `team`."""

    def replaced(self, updates: Mapping[int, LowRankUpdate]) -> None:
        """All layers have other updates; as for `added`."""

    @property
    def _precise(self) -> torch.dtype:
        return torch.float32 if self.lm.device.type == "mps" else torch.float64

    def _run(self, chunk: _Chunk, prefix: Prefix | None, start: int, stop: int) -> torch.Tensor:
        before = prefix.rows(chunk.contexts) if prefix is not None else None
        known = run_again(self.lm, start, chunk.known) if chunk.known is not None else nullcontext()
        with known:
            return run(self.lm, chunk.ids, chunk.mask, start=start, stop=stop, hidden=chunk.entering, prefix=before)


def _at(values: torch.Tensor, columns: torch.Tensor) -> torch.Tensor:
    """Values (n_rows, length, width) at one column per row: (n_rows, width)."""
    return values[torch.arange(len(columns), device=columns.device), columns]
