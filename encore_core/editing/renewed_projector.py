"""P on the null space of what is used, made anew as edits use more of it: BetaEdit (arXiv 2605.09285).

With H = Σ K Kᵀ over the t edits so far, and U the eigenvectors of M whose eigenvalue is below a threshold,

    P = U (Uᵀ (λ₁ C0 + H) U + λ₂ I)⁻¹ Uᵀ

M is C0 at first. After every τ edits it is (H/t + λ₁ C0) / (λ₁ + 1), so that directions which edits have come to use
leave U. Between two such times the recursion of `update_rule` keeps P up to date, with slack I.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch

from encore_core.editing.update_rule import LowRankUpdate, Preservation
from encore_core.errors import InputError
from encore_core.methods import Settings


@dataclass(frozen=True)
class Weights:
    """The numbers of the rule: λ₁ (`lambda_p`), λ₂ (`l2`), the threshold of eigenvalues, and τ (`refresh_every`)."""

    lambda_1: float
    lambda_2: float
    threshold: float
    every: int

    @classmethod
    def of(cls, settings: Settings | Mapping[str, Any]) -> Weights:
        """From a session's settings, or the values of a saved state."""
        names = ("lambda_p", "l2", "null_threshold", "refresh_every")
        values = settings if isinstance(settings, Mapping) else vars(settings)
        return cls(*(values[name] for name in names))


def weighted_null_space(M: torch.Tensor, weight: torch.Tensor, weights: Weights) -> tuple[torch.Tensor, int]:
    """P = U (Uᵀ weight U + λ₂ I)⁻¹ Uᵀ, and how many columns U has.

    Args:
        M: (d_mlp, d_mlp) float64, whose eigenvectors with an eigenvalue below the threshold are U.
        weight: (d_mlp, d_mlp) float64.
        weights: of the rule.

    Raises:
        InputError: when no eigenvalue is below the threshold.
    """
    values, vectors = torch.linalg.eigh(M)
    U = vectors[:, values < weights.threshold]
    if U.shape[1] == 0:
        raise InputError(
            f"No direction is left that is used less than {weights.threshold} (smallest {float(values[0]):.3g}); "
            "raise null_threshold."
        )
    inner = U.T @ weight @ U
    inner = (inner + inner.T) / 2
    inner.diagonal().add_(weights.lambda_2)
    return U @ torch.cholesky_solve(U.T, torch.linalg.cholesky(inner)), U.shape[1]


def no_keys(like: torch.Tensor) -> Preservation:
    """H before any edit: a sum like P, of K Kᵀ; the zeros take no memory."""
    return Preservation(torch.zeros((), dtype=torch.float64, device=like.device).expand(like.shape))


@dataclass(frozen=True)
class RenewedPreservation(Preservation):
    """P of one layer with what it is made anew from.

    Attributes:
        C0: (d_mlp, d_mlp), shared by sessions.
        H: the sum of K Kᵀ of the edits so far.
        n_edits, renewed_at: how many edits there are, and how many there were when the projector was made anew.
        n_directions: columns of U.
        weights: of the rule.
    """

    C0: torch.Tensor | None = None
    H: Preservation | None = None
    n_edits: int = 0
    renewed_at: int = 0
    n_directions: int = 0
    weights: Weights | None = None

    @classmethod
    def first(cls, start: torch.Tensor, n_directions: int, C0: torch.Tensor, weights: Weights) -> RenewedPreservation:
        """Before any edit; arguments as the attributes."""
        return cls(start, C0=C0, H=no_keys(start), n_directions=n_directions, weights=weights)

    @property
    def is_renewed(self) -> bool:
        return self.renewed_at > 0

    def begun(self) -> RenewedPreservation:
        """The same at the beginning of a batch: made anew if that is due."""
        if self.n_edits - self.renewed_at < self.weights.every:
            return self
        weighted, H = self.weights.lambda_1 * self.C0.double(), self.H.dense()
        M = (H / self.n_edits + weighted) / (self.weights.lambda_1 + 1)
        start, n_directions = weighted_null_space(M, weighted + H, self.weights)
        return replace(
            self, start=start, recent=(), released=(), owns_start=True, renewed_at=self.n_edits,
            n_directions=n_directions,
        )  # fmt: skip

    def joined(self, update: LowRankUpdate) -> RenewedPreservation:
        """P and H once a batch's keys are preserved, too."""
        n_edits = self.n_edits + update.K.shape[1]
        return replace(self.absorbed(update.joining), H=self.H.without(update.K), n_edits=n_edits)

    def without(self, Z: torch.Tensor, keys: Callable[[], torch.Tensor] | None = None) -> RenewedPreservation:
        """P + Z Zᵀ and H without the keys that this takes out."""
        P = super().without(Z)
        if keys is None:
            return P
        K = keys()
        return replace(P, H=P.H.absorbed(K), n_edits=P.n_edits - K.shape[1])

    def compact(self) -> RenewedPreservation:
        """The same P and H, each folded if it has many thin factors."""
        return replace(super().compact(), H=self.H.compact())

    def owned(self) -> list[torch.Tensor]:
        """The tensors that are this session's own."""
        return [*super().owned(), *self.H.owned()]

    def pieces(self) -> Iterator[tuple[str, torch.Tensor]]:
        """The tensors of a saved state, by name."""
        yield from super().pieces()
        yield "C0", self.C0
        yield from ((f"H.{name}", piece) for name, piece in self.H.pieces() if name != "start" or self.H.owns_start)

    def numbers(self) -> dict[str, Any]:
        """What else a saved state holds of it."""
        own = super().numbers() | {
            "n_edits": self.n_edits,
            "renewed_at": self.renewed_at,
            "n_directions": self.n_directions,
        }
        return own | {"H": self.H.numbers() | {"owns_start": self.H.owns_start}}
