"""What a session holds of its edits: an immutable value, which the session replaces in one assignment."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial

import torch

from encore_core.editing.batch import SolvedBatch
from encore_core.editing.batch_report import AppliedBatch
from encore_core.editing.edit_list import keys_of, live_edits
from encore_core.editing.edited_matrices import EditedMatrices, Sums
from encore_core.editing.update_rule import LowRankUpdate
from encore_core.editing.what_is_kept import Memory
from encore_core.facts import Fact
from encore_core.models.device_map import free_memory
from encore_core.models.editable import EditableModel
from encore_core.models.memory import bytes_of_matrices

log = logging.getLogger(__name__)

ROOM_FOR_SESSIONS = 50
"""Sessions hold their own matrices if the free memory has room for this many such sessions, else factors."""


def memory_is_short(lm: EditableModel, layers: Sequence[int]) -> bool:
    """Whether free memory is too small for every session to hold its own matrices of these layers."""
    needed = bytes_of_matrices(lm.dtype, len(layers), lm.d_model, lm.d_mlp)
    return ROOM_FOR_SESSIONS * needed > free_memory(lm.device)


@dataclass(frozen=True)
class Contents:
    """What a session holds of its edits. It is replaced as a whole; nothing in it is changed.

    Attributes:
        matrices: the edited matrices.
        preservation: P by edited layer; empty before the first edit.
        history: the batches and retractions, if the session keeps them.
        n_edits: edits on the model; without history, edits made, be they of the same fact.
        edited_keys: `Fact.key` of each.
        anchor: the norm that targets are brought to, see `norm_anchor`; None before the first edit, and without it.
        F: what turns the steps of the search, see `search_step`; None before the first edit, and without it.
    """

    matrices: EditedMatrices
    preservation: dict[int, Memory] = field(default_factory=dict)
    history: tuple[AppliedBatch, ...] = ()
    n_edits: int = 0
    edited_keys: frozenset[tuple[str, str]] = frozenset()
    anchor: float | None = None
    F: torch.Tensor | None = None

    @property
    def updates(self) -> list[dict[int, LowRankUpdate]]:
        """What has been added to the matrices, in order."""
        return [updates for batch in self.history for updates in batch.all_updates]

    @property
    def is_edited(self) -> bool:
        """Whether the matrices are others than the base weights, be it that all edits have been taken back."""
        return self.n_edits > 0 or bool(self.history)

    def sums(self) -> Sums:
        """The edited matrices, which must not be written to. The caller holds the model's lock."""
        with self.matrices.lm.matrices_replaced({}):
            return self.matrices.current(self.updates)

    def handed_out(self, matrices: dict[int, torch.Tensor]) -> dict[int, torch.Tensor]:
        """Some of `sums`, by layer, for whoever keeps them: copies of those that the next batch writes over."""
        if not self.matrices.from_factors:
            return dict(matrices)
        return {layer: matrix.clone() for layer, matrix in matrices.items()}

    def with_batch(
        self, batch: SolvedBatch, applied: AppliedBatch, facts: Sequence[Fact], *, sequential: bool, keep_history: bool
    ) -> Contents:
        """The contents after a batch.

        Args:
            batch: as solved from these contents, or a retraction.
            applied: its entry in the history.
            facts: those of its facts that were edited.
            sequential: whether its keys are added to what is preserved.
            keep_history: whether the entry is added to the history.
        """
        preservation = batch.preservation
        if sequential and not applied.is_retraction:
            absorbed = {layer: preservation[layer].joined(update) for layer, update in batch.updates.items()}
            preservation = preservation | absorbed
        keys = self.edited_keys - {item.fact.key for item in applied.report.retracted} | {fact.key for fact in facts}
        return Contents(
            self.matrices.committed(batch.draft),
            preservation,
            (*self.history, applied) if keep_history else (),
            len(keys) if keep_history else self.n_edits + len(facts),
            keys,
            batch.anchor or self.anchor,
            self.F if batch.F is None else batch.F,
        )

    def replayed(
        self, batches: Sequence[AppliedBatch], preservation: dict[int, Memory], *, sequential: bool
    ) -> Contents:
        """The contents after some batches on the base weights: the same sums in the same order give the same bits.

        Args:
            batches: in order.
            preservation: by layer, P before the first batch; empty when there are no batches.
            sequential: as for `with_batch`.
        """
        preservation = dict(preservation)
        if sequential:
            for batch in batches:
                for layer, P in preservation.items():
                    if layer in batch.removed:
                        P = P.without(batch.removed[layer].Y, partial(keys_of, batches, batch.ended, layer))
                    if layer in batch.updates and not batch.is_retraction:
                        P = P.begun().joined(batch.updates[layer])
                    preservation[layer] = P.compact()
        keys = frozenset(edit.fact.key for edit in live_edits(batches))
        matrices = self.matrices.replayed([updates for batch in batches for updates in batch.all_updates])
        # Without a batch nothing is fixed, because other statistics may be chosen before the next one.
        fixed = (self.anchor, self.F) if batches else ()
        return Contents(matrices, preservation, tuple(batches), len(keys), keys, *fixed)

    def compacted(self) -> Iterator[Contents]:
        """The same with P compacted, layer by layer, so that there is at most one extra P at a time."""
        contents = self
        for layer, P in self.preservation.items():
            try:
                compact = P.compact()
            except (MemoryError, RuntimeError) as error:  # torch raises a different error for each kind of memory
                log.warning("P of layer %d stays as it is: there is no memory to compact it (%s).", layer, error)
                return
            contents = replace(contents, preservation=contents.preservation | {layer: compact})
            yield contents

    def nbytes(self) -> int:
        """Bytes of memory that these contents alone hold: their matrices, P, and what is kept of batches."""
        tensors = [*self.matrices.held.exact.values(), *self.matrices.held.run.values()]
        for preservation in self.preservation.values():
            tensors += preservation.owned()
        for batch in self.history:
            for updates in batch.all_updates:
                tensors += [tensor for update in updates.values() for tensor in update.tensors.values()]
            tensors += [item.target.z for item in batch.report.edited if item.target is not None]
        # P and the history share their factors.
        storages = {tensor.untyped_storage().data_ptr(): tensor.untyped_storage().nbytes() for tensor in tensors}
        return sum(storages.values())
