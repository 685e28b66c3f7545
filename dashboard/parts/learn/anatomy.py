"""An edit taken apart: K, R, S + KᵀPK, Δ and the norms of every edited layer. Knows no streamlit.

A session keeps only a batch's targets z and, per layer, Δ = A Yᵀ. The engine's own functions compute the rest again on
the matrices as they were before the batch: keys and hidden states, layer by layer. P itself is not kept,
but Y = P K L⁻ᵀ with L Lᵀ = I + KᵀPK, so KᵀY = L − L⁻ᵀ; L⁻ᵀ is upper triangular with the diagonal 1/l, which gives L,
and KᵀPK = L Lᵀ − I.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from encore_core.editing.batch_report import AppliedBatch
from encore_core.editing.edited_matrices import Sums
from encore_core.editing.keys import KeyReader
from encore_core.editing.session import EditSession
from encore_core.errors import InputError
from encore_core.facts import Fact


@dataclass(frozen=True)
class LayerEdit:
    """What a batch did at one layer; norms are Frobenius norms.

    Attributes:
        layer: its index.
        K, R, system, delta: shapes of K, R, S + KᵀPK and Δ.
        key_norm, residual_norm, delta_norm: ‖K‖, ‖R‖, ‖Δ‖.
        system_range: smallest and largest eigenvalue of S + KᵀPK.
        missing: ‖z − h‖ before the layer was changed, mean over the batch's facts.
        error: relative difference between A as the session keeps it and R (S + KᵀPK)⁻¹ L as computed here.
        norm_before, norm_after: ‖W‖.
    """

    layer: int
    K: tuple[int, int]
    R: tuple[int, int]
    system: tuple[int, int]
    delta: tuple[int, int]
    key_norm: float
    residual_norm: float
    delta_norm: float
    system_range: tuple[float, float]
    missing: float
    error: float
    norm_before: float
    norm_after: float


@dataclass(frozen=True)
class Anatomy:
    """A batch taken apart.

    Attributes:
        facts: that it edited.
        number: which batch of the session it was, from 1.
        layers: one entry per layer, in order.
        left: ‖z − h‖ after all layers, mean over the facts.
        seconds: that the batch took, by phase.
    """

    facts: tuple[Fact, ...]
    number: int
    layers: tuple[LayerEdit, ...]
    left: float
    seconds: dict[str, float]


def take_apart(session: EditSession) -> Anatomy:
    """The last batch of a session, which is left as it is; it must have one, whatever was taken back since.

    Raises:
        InputError: for a method that is no row of the update rule.
    """
    lm, settings = session.lm, session.settings
    if settings.from_gradients or settings.preservation == "lyapunov":
        raise InputError(
            f"{settings.method} does not solve S + KᵀPK, so there is nothing to take apart; choose one of the paper's "
            "methods on the Edit page."
        )
    place = max(number for number, batch in enumerate(session.history) if not batch.is_retraction)
    last = session.history[place]
    edited = [item for item in last.report.edited if item.target is not None]
    facts = [item.fact for item in edited]
    found: list[LayerEdit] = []
    with session.pristine(), torch.no_grad():
        matrices = _before(session, place)
        with lm.matrices_replaced(matrices):
            z = torch.stack([item.target.z for item in edited], dim=1).double().cpu()
            reader = KeyReader(lm, facts, session.prefixes, settings.layers)
            for j, layer in enumerate(settings.layers):
                K, h = (tensor.double().cpu() for tensor in (reader.keys(layer), reader.states(layer)))
                found.append(_layer(last, layer, K, z - h, len(settings.layers) - j, settings.slack(len(facts))))
                # The matrix is our own copy, and takes the same update as the session's did.
                last.updates[layer].add_to(lm.oriented(layer, matrices[layer]))
                if layer != settings.layers[-1]:
                    reader.advance(layer, settings.layers[j + 1])
            left = z - reader.states(settings.layers[-1]).double().cpu()
    seconds = dict(last.report.seconds)
    return Anatomy(tuple(facts), place + 1, tuple(found), float(left.norm(dim=0).mean()), seconds)


def _before(session: EditSession, place: int) -> dict[int, torch.Tensor]:
    """The session's matrices as they were before a batch was solved, made again: per layer as the family stores them.

    Facts that the batch overwrote had been taken out by then.
    """
    history = session.history
    added = [updates for batch in history[:place] for updates in batch.all_updates]
    removed = [history[place].removed] if history[place].removed else []
    sums = Sums.added_up(session.lm, [*added, *removed])
    sums.begin(session.lm, session.settings.layers)
    return sums.run


def _layer(batch: AppliedBatch, layer: int, K: torch.Tensor, missing: torch.Tensor, spread: int, slack: float):
    update = batch.updates[layer]
    A, Y = update.A.double().cpu(), update.Y.double().cpu()
    R = missing / spread
    L = factor_of(K.T @ update.joining.double().cpu())
    eye = torch.eye(len(L), dtype=L.dtype)
    system = slack * eye + L @ L.T - eye
    eigenvalues = torch.linalg.eigvalsh(system)
    norm_before, norm_after = batch.report.norms[layer]
    return LayerEdit(
        layer,
        K=tuple(K.shape),
        R=tuple(R.shape),
        system=tuple(system.shape),
        delta=(len(A), len(Y)),
        key_norm=float(K.norm()),
        residual_norm=float(R.norm()),
        # ‖A Yᵀ‖² = tr(YᵀY AᵀA): Δ itself, which is large, is never formed.
        delta_norm=float(((Y.T @ Y) * (A.T @ A)).sum().clamp_min(0).sqrt()),
        system_range=(float(eigenvalues[0]), float(eigenvalues[-1])),
        missing=float(missing.norm(dim=0).mean()),
        error=float((R @ torch.linalg.solve(system, L) - A).norm() / A.norm()),
        norm_before=norm_before,
        norm_after=norm_after,
    )


def factor_of(KY: torch.Tensor) -> torch.Tensor:
    """The lower triangular L with L − L⁻ᵀ = KᵀY.

    Args:
        KY: (n, n).
    """
    diagonal = KY.diagonal()
    return KY.tril(-1) + torch.diag((diagonal + (diagonal.square() + 4).sqrt()) / 2)
