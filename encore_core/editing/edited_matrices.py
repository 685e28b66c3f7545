"""A session's edited matrices W₀ + Δ₁ + Δ₂ + …: drafted for a batch, and committed once all of it has succeeded.

The sum is kept in at least float32 and rounded to the model's dtype only to be run: in bfloat16 itself the part of
every Δ below half a unit in the last place would be lost, batch after batch. Where memory is short, a session keeps
only its batches' thin factors (see `LowRankUpdate`) and adds them up when its model is run. Both ways sum the same
products in the same order, so they give the same bits.

    matrices = EditedMatrices(lm, from_factors=False)
    draft = matrices.draft(batches, layers)     # a copy, or sums that can be rebuilt: nothing the session relies on
    draft.add(lm, layer, update)                # may fail at any point; the session runs what it ran before
    matrices = matrices.committed(draft)        # a new object, which the session takes over in one assignment
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch

from encore_core.editing.update_rule import LowRankUpdate
from encore_core.models.editable import EditableModel

_ADDED_UP = ("added up",)
"""Key in `EditableModel.shared` of the sums last made from factors; one set serves all sessions."""

Updates = Mapping[int, LowRankUpdate]
"""The updates of a batch, by layer."""


@dataclass
class Sums:
    """Edited matrices, by layer, as the family stores them.

    Attributes:
        exact: W₀ + Δ₁ + Δ₂ + …, in float32 or the model's dtype, whichever is finer.
        run: the same in the model's dtype; the same tensors where the two dtypes are equal.
    """

    exact: dict[int, torch.Tensor] = field(default_factory=dict)
    run: dict[int, torch.Tensor] = field(default_factory=dict)

    @classmethod
    def of(cls, lm: EditableModel, exact: dict[int, torch.Tensor]) -> Sums:
        """Sums from the exact matrices alone."""
        return cls(exact, {layer: matrix.to(lm.dtype) for layer, matrix in exact.items()})

    @classmethod
    def added_up(cls, lm: EditableModel, batches: Sequence[Updates]) -> Sums:
        """The base weights plus all batches, in order; the caller has put the base weights into the model."""
        sums = cls()
        for updates in batches:
            sums.begin(lm, list(updates))
            for layer, update in updates.items():
                sums.add(lm, layer, update)
        return sums

    def copy(self) -> Sums:
        """A deep copy."""
        exact = {layer: matrix.clone() for layer, matrix in self.exact.items()}
        run = {
            layer: exact[layer] if matrix is self.exact[layer] else matrix.clone() for layer, matrix in self.run.items()
        }
        return Sums(exact, run)

    def begin(self, lm: EditableModel, layers: Sequence[int]) -> None:
        """Start from W₀ at layers that have not been edited yet."""
        for layer in layers:
            if layer not in self.exact:
                self.run[layer] = lm.parameter(layer).data.clone()
                self.exact[layer] = self.run[layer].to(exact_dtype(lm))

    def add(self, lm: EditableModel, layer: int, update: LowRankUpdate) -> None:
        """W ← W + Δ, in place."""
        update.add_to(lm.oriented(layer, self.exact[layer]))
        if self.run[layer] is not self.exact[layer]:
            self.run[layer].copy_(self.exact[layer])


class EditedMatrices:
    """What a session holds of its edited matrices. Nothing here writes to tensors that are in use.

    Args:
        lm: the model; the caller holds its lock and has the base weights in it whenever a method is called.
        from_factors: hold no matrices; add up the batches' factors, which the caller keeps, when needed.
        sums: the matrices of a session that holds them; none by default.
    """

    def __init__(self, lm: EditableModel, from_factors: bool, sums: Sums | None = None):
        self.lm, self.from_factors = lm, from_factors
        self.held = sums or Sums()

    def current(self, batches: Sequence[Updates]) -> Sums:
        """The sums to run, which must not be written to.

        Args:
            batches: all batches so far, in order; used only if the session holds factors.
        """
        if not self.from_factors or not batches:
            return self.held
        owner, sums = self.lm.shared.get(_ADDED_UP, (None, None))
        if owner is not self:
            self.lm.shared.pop(_ADDED_UP, None)  # first, because there is room for only one set
            sums = Sums.added_up(self.lm, batches)
            self.lm.shared[_ADDED_UP] = self, sums
        return sums

    def draft(self, batches: Sequence[Updates], layers: Sequence[int]) -> Sums:
        """Sums that the next batch may write to, even if it fails.

        Args:
            batches: as for `current`.
            layers: the layers that the batch edits.
        """
        sums = self.current(batches)
        if self.lm.shared.get(_ADDED_UP, (None, None))[0] is self:
            # Sums made from factors may be overwritten, because they can be rebuilt.
            del self.lm.shared[_ADDED_UP]
        else:
            sums = sums.copy()
        sums.begin(self.lm, layers)
        return sums

    def committed(self, draft: Sums) -> EditedMatrices:
        """The matrices of the session after the batch that wrote the draft."""
        if not self.from_factors:
            return EditedMatrices(self.lm, False, draft)
        after = EditedMatrices(self.lm, True)
        self.lm.shared[_ADDED_UP] = after, draft
        return after

    def replayed(self, batches: Sequence[Updates]) -> EditedMatrices:
        """The matrices after some batches on the base weights: the same sums in the same order give the same bits."""
        return EditedMatrices(
            self.lm, self.from_factors, None if self.from_factors else Sums.added_up(self.lm, batches)
        )


def exact_dtype(lm: EditableModel) -> torch.dtype:
    """The dtype in which edited matrices are summed."""
    return torch.promote_types(lm.dtype, torch.float32)


def weights_digest(matrices: Mapping[int, torch.Tensor]) -> str:
    """SHA-256 of edited matrices, their layers and shapes: equal for equal bits, 64 hex digits."""
    digest = hashlib.sha256()
    for layer, matrix in sorted(matrices.items()):
        digest.update(f"{layer} {tuple(matrix.shape)} {matrix.dtype}\n".encode())
        digest.update(matrix.detach().cpu().contiguous().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
