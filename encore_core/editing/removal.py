"""Taking facts back out of W and P: both become what they would be had these facts never been edited.

By `update_rule`, W is after every batch the least-squares solution over the facts so far: each asks for W k = v, and P
is the inverse of what is preserved, these facts' keys included. A fact can be taken out of such a solution without
solving it anew. With K (d_mlp, n) the keys of the facts to take out, E = V − W K what they still miss, and the
Cholesky factor L Lᵀ = I − Kᵀ P K,

    Δ = −E (I − Kᵀ P K)⁻¹ Kᵀ P        W ← W + Δ        P ← P + P K (I − Kᵀ P K)⁻¹ Kᵀ P

and with Z = P K L⁻ᵀ these are Δ = A Zᵀ with A = −E L⁻ᵀ, and P ← P + Z Zᵀ: thin factors, as those of an edit.
Nothing is searched for, and the model is not run. Taking back the last edit gives minus its Δ.

V need not be kept, because V − W K = A Lᵀ just before the batch, with A and L of the batch's own factors. (For EMMET
this is the V with which least squares gives its Δ.) L follows from L − L⁻ᵀ = Kᵀ Y.

Edit files of version 1 hold no keys. With P⁺ the (pseudo-)inverse of the batch's P, and M = Yᵀ P⁺ Y = I − L⁻¹ L⁻ᵀ, L⁻¹
is the Cholesky factor of I − M, and K = P⁺ Y Lᵀ. AlphaEdit's P inverts on the directions that it may use alone: its
keys come out without their part outside these, which P ignores.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch

from encore_core.editing.batch_report import Place
from encore_core.editing.update_rule import LowRankUpdate, Preservation, solve
from encore_core.errors import InputError

MOST_DISAGREEMENT = 0.01
"""Share of KᵀPK by which P and the updates may differ; statistics from another machine differ by rounding alone."""

_DO_NOT_FIT = (
    "The edits and the key statistics do not belong together, so no edit can be taken back; use the statistics that "
    "the edits were made with."
)


@dataclass(frozen=True)
class Entry:
    """What an entry of a history did at one layer.

    Attributes:
        ended: the facts that it took out first.
        removed: the update that took them out; None if there were none.
        added: the update for its own facts; None if it has none.
        restored: the update of a retraction that set states back, of which P knows nothing; None if it has none.
    """

    ended: tuple[Place, ...] = ()
    removed: LowRankUpdate | None = None
    added: LowRankUpdate | None = None
    restored: LowRankUpdate | None = None

    @property
    def signed(self) -> list[tuple[LowRankUpdate, int]]:
        """Everything that moved W; with 1 what joined P, with −1 what left it, and with 0 the rest."""
        parts = ((self.removed, -1), (self.added, 1), (self.restored, 0))
        return [(update, sign) for update, sign in parts if update is not None]


def removal(
    entries: Sequence[Entry],
    places: Sequence[Place],
    start: Preservation,
    current: Preservation,
    inverse: Callable[[], torch.Tensor],
    *,
    sequential: bool,
) -> LowRankUpdate:
    """The update that takes some facts out at one layer: W ← W + A Zᵀ, and P ← P + Z Zᵀ if they were preserved.

    Args:
        entries: of the whole history, in order.
        places: the facts to take out, none of which has been taken out yet.
        start, current: P before the first batch and after the last one.
        inverse: gives the inverse of `start`, (d_mlp, d_mlp) float64, or of a projection on its range; called only
            where keys are missing.
        sequential: whether the keys of each batch joined what is preserved.

    Returns:
        A (d_model, n) and Z (d_mlp, n) in float64, n the number of places.

    Raises:
        InputError: when the updates were not made from this P.
    """
    if any(entry.added is not None and entry.added.K is None for entry in entries):
        entries = with_keys(entries, inverse(), sequential=sequential)
    if not sequential:
        return _joined([_alone(entries, number, gone, start) for number, gone in _by_batch(places)])
    parts: list[LowRankUpdate] = []
    # Batch by batch from the last, each with those before it gone.
    for number, gone in _by_batch(places):
        update = entries[number].added
        K = update.K[:, gone]
        later = [moved for entry in entries[number + 1 :] for moved in entry.signed] + [(part, -1) for part in parts]
        L = factor_of(update.K.T @ update.Y)
        E = (update.A @ L.T)[:, gone] - update.A @ (update.Y.T @ K)
        # I − KᵀPK as a sum: as a difference it would lose all digits where P is nearly zero along K.
        rest = torch.cholesky_inverse(L)[gone][:, gone]
        for part, sign in later:
            YK = part.Y.T @ K
            E -= part.A @ YK
            rest = rest + sign * (YK.T @ YK)
        parts.append(_taken_out(K, E, rest, current.times(K)))
        current = current.without(parts[-1].Y)
    return _joined(parts)


def with_keys(entries: Sequence[Entry], inverse: torch.Tensor, *, sequential: bool) -> list[Entry]:
    """The same history with the keys of every fact that has not been taken out, worked out from the factors.

    Args:
        entries, sequential: as for `removal`.
        inverse: of P before the first batch; of a projection, on its range.

    Raises:
        InputError: when the updates were not made from this P.
    """
    found: list[Entry] = []
    preserved: dict[Place, torch.Tensor] = {}
    for number, entry in enumerate(entries):
        for place in entry.ended:
            preserved.pop(place, None)
        update = entry.added
        if update is not None and update.K is None:
            right = inverse @ update.Y
            if sequential and preserved:
                K = torch.stack(list(preserved.values()), dim=1)
                right += K @ (K.T @ update.Y)
            X = _cholesky(_eye(update.Y) - update.Y.T @ right)
            update = replace(update, K=torch.linalg.solve_triangular(X, right.T, upper=False).T)
        if update is not None:
            preserved |= {(number, column): update.K[:, column] for column in range(update.K.shape[1])}
        found.append(replace(entry, added=update))
    return found


def factor_of(KY: torch.Tensor) -> torch.Tensor:
    """The lower triangular L with L − L⁻ᵀ = KᵀY, (n, n)."""
    diagonal = KY.diagonal()
    return KY.tril(-1) + torch.diag((diagonal + (diagonal.square() + 4).sqrt()) / 2)


def _by_batch(places: Sequence[Place]) -> list[tuple[int, list[int]]]:
    """Batches, the last one first, and the columns of each that are to be taken out."""
    numbers = sorted({number for number, _ in places}, reverse=True)
    return [(number, [column for batch, column in places if batch == number]) for number in numbers]


def _alone(entries: Sequence[Entry], number: int, gone: list[int], start: Preservation) -> LowRankUpdate:
    """Take facts out of a batch that was solved as if there were no other."""
    update = entries[number].added
    ended = {column for entry in entries for batch, column in entry.ended if batch == number}
    live = [column for column in range(update.A.shape[1]) if column not in ended]
    K, V = update.K[:, live], (update.A @ factor_of(update.K.T @ update.Y).T)[:, live]
    now = solve(V, K, start.times(K), 1.0)
    gone = [live.index(column) for column in gone]
    E = V[:, gone] - now.A @ (now.Y.T @ K[:, gone])
    rest = torch.cholesky_inverse(factor_of(K.T @ now.Y))[gone][:, gone]
    return _taken_out(K[:, gone], E, rest, start.absorbed(now.Y).times(K[:, gone]))


def _taken_out(K: torch.Tensor, E: torch.Tensor, rest: torch.Tensor, PK: torch.Tensor) -> LowRankUpdate:
    """A and Z for keys K with the misses E; `rest` is I − KᵀPK, worked out from the updates alone.

    Raises:
        InputError: when P says otherwise, because it comes from other statistics.
    """
    L, KPK = _cholesky(rest), K.T @ PK
    A, Z = (torch.linalg.solve_triangular(L, side.T, upper=False).T for side in (-E, PK))
    agrees = float((KPK + rest).sub(_eye(K)).abs().max()) <= MOST_DISAGREEMENT * float(KPK.abs().max())
    if not agrees or not bool(torch.isfinite(A).all() and torch.isfinite(Z).all()):
        raise InputError(_DO_NOT_FIT)
    return LowRankUpdate(A, Z)


def _joined(parts: Sequence[LowRankUpdate]) -> LowRankUpdate:
    if len(parts) == 1:
        return parts[0]
    return LowRankUpdate(torch.cat([part.A for part in parts], 1), torch.cat([part.Y for part in parts], 1))


def _cholesky(matrix: torch.Tensor) -> torch.Tensor:
    """The lower Cholesky factor of a matrix that is symmetric but for rounding.

    Raises:
        InputError: when it is not positive definite.
    """
    L, info = torch.linalg.cholesky_ex((matrix + matrix.T) / 2)
    if int(info) or not bool(torch.isfinite(L).all()):
        raise InputError(_DO_NOT_FIT)
    return L


def _eye(Y: torch.Tensor) -> torch.Tensor:
    return torch.eye(Y.shape[1], dtype=Y.dtype, device=Y.device)
