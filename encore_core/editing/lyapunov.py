"""Least squares in which general text weighs more the more of it has been lost: LyapLock (arXiv 2505.15702).

With E = W − W₀, and V_p = W_p K_p what the matrix gave for an earlier batch right after it, a batch minimises

    ‖(W + Δ) K − V‖² + Σ_p ‖(W + Δ) K_p − V_p‖² + λ q tr((E + Δ) C0 (E + Δ)ᵀ),        V = W K + R

    Δ = [R Kᵀ − λ q E C0 + Σ_p (V_p − W K_p) K_pᵀ] M⁻¹,        M = K Kᵀ + H + λ q C0,  H = Σ_p K_p K_pᵀ

The queue q is 1 at first. With D = tr(E C0 Eᵀ) after a batch and D₁ after the first one, q ← max(1, q + D/(α D₁) − 1).

W solves the same equations of the batch before, in which q was q₋, the keys K₋, and L = V₋ − W K₋ what they still miss.
So the bracket is the thin [R, −L] [K, K₋]ᵀ − λ (q − q₋) E C0, and Δ is thin as long as q stands still.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch

from encore_core.editing.renewed_projector import no_keys
from encore_core.editing.update_rule import LowRankUpdate, Preservation
from encore_core.errors import InputError


@dataclass(frozen=True)
class LyapunovMemory:
    """What a layer keeps between batches. Nothing here is ever written to.

    Attributes:
        C0: (d_mlp, d_mlp), shared by sessions.
        weight, budget: λ and α.
        H: the sum of K Kᵀ of the edits so far.
        keys, missed: K₋ (d_mlp, n) and L (d_model, n) of the last batch; None before the first.
        queue, used: q of the next batch and of the last; `used` is 0 before the first.
        first_loss: D₁; None before the first batch.
    """

    C0: torch.Tensor
    weight: float
    budget: float
    H: Preservation
    keys: torch.Tensor | None = None
    missed: torch.Tensor | None = None
    queue: float = 1.0
    used: float = 0.0
    first_loss: float | None = None

    is_renewed = False

    @classmethod
    def first(cls, C0: torch.Tensor, weight: float, budget: float) -> LyapunovMemory:
        """Before any edit."""
        return cls(C0, weight, budget, no_keys(C0))

    def update(self, R: torch.Tensor, K: torch.Tensor, E: torch.Tensor) -> LowRankUpdate:
        """The update of a batch, with what `joined` takes from it.

        Args:
            R: (d_model, n) float64 residuals.
            K: (d_mlp, n) float64 keys.
            E: (d_model, d_mlp) float64, what earlier batches have changed.

        Raises:
            InputError: when M has no inverse, because the statistics come from too little text, or when something is
                not finite.
        """
        if not bool(torch.isfinite(K).all() and torch.isfinite(R).all()):
            raise InputError("Keys or targets of the batch are not finite; undo the last edits, or lower lr.")
        C0 = self.C0.double()
        M = self.H.dense().add_(C0, alpha=self.weight * self.queue).addmm_(K, K.T)
        factor, info = torch.linalg.cholesky_ex(M)
        if int(info):
            raise InputError(
                f"The key statistics have rank {int(torch.linalg.matrix_rank(C0))} of {len(C0)}, so λq·C0 has no "
                "inverse; collect them from more text."
            )
        A, keys = (R, K) if self.keys is None else (torch.cat([R, -self.missed], 1), torch.cat([K, self.keys], 1))
        Y = torch.cholesky_solve(keys, factor)
        if self.queue != self.used and bool(E.any()):
            moved = A @ keys.T - self.weight * (self.queue - self.used) * (E @ C0)
            A, Y = torch.eye(len(E), dtype=E.dtype, device=E.device), torch.cholesky_solve(moved.T, factor)
        changed = E + A @ Y.T
        loss = float(((changed @ C0) * changed).sum())
        first = loss if self.first_loss is None else self.first_loss
        queue = max(1.0, self.queue + (loss / (self.budget * first) if first else 0.0) - 1.0)
        numbers = torch.tensor([[self.queue, queue, first]], dtype=torch.float64, device=E.device)
        return LowRankUpdate(A, Y, K, {"missed": R - A @ (Y.T @ K), "queue": numbers})

    def begun(self) -> LyapunovMemory:
        """The same at the beginning of a batch."""
        return self

    def joined(self, update: LowRankUpdate) -> LyapunovMemory:
        """The same after a batch."""
        used, queue, first_loss = update.kept["queue"][0].tolist()
        return replace(
            self, H=self.H.without(update.K), keys=update.K, missed=update.kept["missed"], queue=queue, used=used,
            first_loss=first_loss,
        )  # fmt: skip

    def compact(self) -> LyapunovMemory:
        """The same, with H folded if it has many thin factors."""
        return replace(self, H=self.H.compact())

    def owned(self) -> list[torch.Tensor]:
        """The tensors that are this session's own."""
        return [*self.H.owned(), *([] if self.keys is None else [self.keys, self.missed])]

    def pieces(self) -> Iterator[tuple[str, torch.Tensor]]:
        """The tensors of a saved state, by name."""
        yield "C0", self.C0
        yield from ((f"H.{name}", piece) for name, piece in self.H.pieces() if name != "start" or self.H.owns_start)
        if self.keys is not None:
            yield "keys", self.keys
            yield "missed", self.missed

    def numbers(self) -> dict[str, Any]:
        """What else a saved state holds of it."""
        own = {name: getattr(self, name) for name in ("queue", "used", "first_loss")}
        return own | {"H": self.H.numbers() | {"owns_start": self.H.owns_start}, "begun": self.keys is not None}
