"""The update: one closed form, in which every method is a choice of P and S.

A batch of n facts gives keys K (d_mlp, n) and residuals R (d_model, n). With P (d_mlp, d_mlp) the inverse of everything
that is to be preserved and S (n, n) the slack,

    Δ = R (S + Kᵀ P K)⁻¹ Kᵀ P        W ← W + Δ        P ← P − P K (I + Kᵀ P K)⁻¹ Kᵀ P

The last formula is recursive least squares (Woodbury): the batch joins what is to be preserved without a new inverse,
so a batch costs O(d_mlp² n). With the Cholesky factor L Lᵀ = I + Kᵀ P K and Y = P K L⁻ᵀ both become products of thin
matrices,

    P ← P − Y Yᵀ        Δ = A Yᵀ,  A = R (S + Kᵀ P K)⁻¹ L

so (A, Y) is all that W and P need of a batch; K is kept with them to take facts out again (see `removal`). Everything
here is float64.

Initial P:  MEMIT, EMMET (λp C0)⁻¹ · ENCORE (λp C0 + λn I)⁻¹ (arXiv 2502.01636) · AlphaEdit U Uᵀ / L2 with U the
eigenvectors of C0 with eigenvalue below a threshold (arXiv 2410.02355). Slack: I, but εI for EMMET (arXiv 2403.14236).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch

from encore_core.errors import InputError


def inverse_preservation(C0: torch.Tensor, lambda_p: float, lambda_n: float = 0.0) -> torch.Tensor:
    """P = (λp C0 + λn I)⁻¹.

    Args:
        C0: (d_mlp, d_mlp) second moment of keys.
        lambda_p: weight of preserving what general text needs.
        lambda_n: weight of keeping the matrix near its norm; 0 without the constraint.

    Returns:
        (d_mlp, d_mlp) float64.

    Raises:
        InputError: when the sum has no inverse, because the statistics come from too little text.
    """
    A = lambda_p * C0.double()
    A.diagonal().add_(lambda_n)
    factor, info = torch.linalg.cholesky_ex(A)
    # A pivot divided by its diagonal element is the share that the directions before it leave. For a singular C0 this
    # is only rounding in its own type, seldom more than the square root of eps; for sufficient statistics it is some
    # per cent. λn puts a floor below all pivots, so that only the rounding of the sum counts.
    left = factor.diagonal().square() / A.diagonal()
    rounding = torch.finfo(C0.dtype).eps ** 0.5 if lambda_n == 0 else len(A) * torch.finfo(A.dtype).eps
    if int(info) or not float(left.min()) > rounding:
        raise InputError(
            f"The key statistics have rank {int(torch.linalg.matrix_rank(C0))} of {len(C0)}, so λp·C0 has no inverse; "
            "collect them from more text, or choose a method with λn > 0."
        )
    # LAPACK's inverse from a factor takes four times as long as solving for the identity.
    return torch.cholesky_solve(torch.eye(len(A), dtype=A.dtype, device=A.device), factor)


def null_space_preservation(C0: torch.Tensor, threshold: float, l2: float) -> torch.Tensor:
    """P = U Uᵀ / L2, U the eigenvectors of C0 whose eigenvalue is below the threshold.

    Args:
        C0: (d_mlp, d_mlp) second moment of keys.
        threshold: eigenvalues below it count as unused directions.
        l2: weight of the ridge term.

    Returns:
        (d_mlp, d_mlp) float64.

    Raises:
        InputError: when no eigenvalue is below the threshold.
    """
    eigenvalues, vectors = torch.linalg.eigh(C0.double())
    U = vectors[:, eigenvalues < threshold]
    if U.shape[1] == 0:
        raise InputError(
            f"No eigenvalue of the key statistics is below {threshold} (smallest {float(eigenvalues[0]):.3g}); "
            "raise null_threshold."
        )
    return U @ U.T / l2


@dataclass(frozen=True)
class LowRankUpdate:
    """Δ = A Yᵀ of one batch at one layer.

    Attributes:
        A: (d_model, n) float64.
        Y: (d_mlp, n) float64.
        K: (d_mlp, n) float64, the keys; None in edit files of version 1, and in what takes facts out.
        kept: what else some methods remember of it, float64, by name: "joining" is Y of what joins P, where another Y
            moved W (see `main_directions`).
    """

    A: torch.Tensor
    Y: torch.Tensor
    K: torch.Tensor | None = None
    kept: Mapping[str, torch.Tensor] = field(default_factory=dict)

    BLOCK_BYTES = 30_000_000
    """Bytes of the rows that Δ is added to at once: what the allocator reuses, see `runtime.keep_freed_memory`."""

    def delta(self) -> torch.Tensor:
        """Δ, (d_model, d_mlp) float64."""
        return self.A @ self.Y.T

    @property
    def joining(self) -> torch.Tensor:
        """Y of what joins P, (d_mlp, n)."""
        return self.kept.get("joining", self.Y)

    def norm(self) -> float:
        """‖Δ‖ (Frobenius)."""
        return max(0.0, float(((self.A.T @ self.A) * (self.Y.T @ self.Y)).sum())) ** 0.5

    @property
    def tensors(self) -> dict[str, torch.Tensor]:
        """What there is of A, Y, K and what else is kept, by name."""
        keys = {} if self.K is None else {"K": self.K}
        return {"A": self.A, "Y": self.Y, **keys, **self.kept}

    def add_to(self, W: torch.Tensor) -> None:
        """W ← W + Δ in place, summed in float64 and rounded once to W's dtype.

        Args:
            W: (d_model, d_mlp), of any dtype and device.
        """
        # In blocks of rows: for a large matrix, allocating all of Δ in float64 would take longer than computing it.
        n_rows = max(1, self.BLOCK_BYTES // (self.Y.shape[0] * self.Y.itemsize))
        for low in range(0, len(W), n_rows):
            rows = W[low : low + n_rows]
            exact = rows.to(self.A.device, torch.float64, copy=True)
            rows.copy_(exact.addmm_(self.A[low : low + n_rows], self.Y.T))


def solve(R: torch.Tensor, K: torch.Tensor, PK: torch.Tensor, slack: float) -> LowRankUpdate:
    """The update of one batch.

    Args:
        R: (d_model, n) residuals.
        K: (d_mlp, n) keys.
        PK: (d_mlp, n) P K.
        slack: s in S = s I.

    Raises:
        InputError: when S + Kᵀ P K is singular (facts share a key and there is no slack), or when R or K is not
            finite.
    """
    G = K.T @ PK
    G = (G + G.T) / 2
    if not bool(torch.isfinite(G).all() and torch.isfinite(R).all()):
        raise InputError("Keys or targets of the batch are not finite; undo the last edits, or lower lr.")
    eye = torch.eye(len(G), dtype=G.dtype, device=G.device)
    L = torch.linalg.cholesky(eye + G)
    # Slack keeps the eigenvalues of S + G away from zero; without it only the facts' keys do.
    rounding = len(G) * torch.finfo(G.dtype).eps * float(G.diagonal().max())
    singular = slack <= rounding and float(torch.linalg.eigvalsh(G)[0]) + slack <= rounding
    # A (S + G) = R L  ⇔  A = R (S + G)⁻¹ L, and S + G is symmetric.
    X, info = torch.linalg.solve_ex(slack * eye + G, L)
    A = R @ X
    if singular or int(info) or not bool(torch.isfinite(A).all()):
        raise InputError("Two facts of the batch have the same key and the method allows no slack; split the batch.")
    Y = torch.linalg.solve_triangular(L, PK.T, upper=False).T
    return LowRankUpdate(A, Y, K)


@dataclass(frozen=True)
class Preservation:
    """P of one layer: a start minus the Y Yᵀ of the batches so far, plus the Z Zᵀ of what was taken back.

    Nothing here is ever written to, so sessions and saved states may share it. Batches are kept as thin factors, and
    folded into a new start once they are many, so a visitor with a handful of edits costs kilobytes and a run of
    thousands costs one matrix.

    Attributes:
        start: (d_mlp, d_mlp) float64.
        recent: Y of the batches not folded in, each (d_mlp, n) float64.
        owns_start: whether the start was made for this session, so that its memory is counted as the session's.
        released: Z of the facts taken back and not folded in, each (d_mlp, n) float64.
    """

    start: torch.Tensor
    recent: tuple[torch.Tensor, ...] = ()
    owns_start: bool = False
    released: tuple[torch.Tensor, ...] = ()

    FOLD_RANK_SHARE = 0.125
    """Fold when the thin factors have more than this share of d_mlp columns: then they cost more than folding does."""

    FOLD_BLOCK = 2048
    """Rows that are folded at once."""

    def times(self, K: torch.Tensor) -> torch.Tensor:
        """P K for K (d_mlp, n): (d_mlp, n)."""
        # P is symmetric, and a wide product is nearly twice as fast as a tall one.
        PK = (K.T @ self.start).T.contiguous()
        for Y in self.recent:
            PK -= Y @ (Y.T @ K)
        for Z in self.released:
            PK += Z @ (Z.T @ K)
        return PK

    @property
    def is_renewed(self) -> bool:
        """Whether P no longer follows from its start and the edits by the recursion alone."""
        return False

    def begun(self) -> Preservation:
        """P at the beginning of a batch; other rules make it anew now and then."""
        return self

    def joined(self, update: LowRankUpdate) -> Preservation:
        """P once a batch's keys are preserved, too."""
        return self.absorbed(update.joining)

    def absorbed(self, Y: torch.Tensor) -> Preservation:
        """P − Y Yᵀ for Y (d_mlp, n), as one more thin factor."""
        return replace(self, recent=(*self.recent, Y))

    def without(self, Z: torch.Tensor, keys: Callable[[], torch.Tensor] | None = None) -> Preservation:
        """P + Z Zᵀ for Z (d_mlp, n) from `removal`: what these keys asked for is no longer preserved.

        Args:
            Z: of what is taken out.
            keys: gives the keys, (d_mlp, n), to rules that need them.
        """
        return replace(self, released=(*self.released, Z))

    def compact(self) -> Preservation:
        """The same P, with its thin factors folded into a new start if they are many, else unchanged."""
        if sum(Y.shape[1] for Y in (*self.recent, *self.released)) <= self.FOLD_RANK_SHARE * len(self.start):
            return self
        start = self.start.clone()
        for factors, sign in ((self.recent, -1), (self.released, 1)):
            if factors:
                _add_square(start, torch.cat(factors, dim=1), sign, self.FOLD_BLOCK)
        return replace(self, start=start, recent=(), released=(), owns_start=True)

    def trace(self) -> float:
        """tr P. Of AlphaEdit's P, times L2, it is the number of directions that are still free."""
        joined, gone = (sum(float(Y.square().sum()) for Y in some) for some in (self.recent, self.released))
        return float(self.start.diagonal().sum()) - joined + gone

    def owned(self) -> list[torch.Tensor]:
        """The tensors that are this session's own, and not shared."""
        return [*self.recent, *self.released, *([self.start] if self.owns_start else [])]

    def pieces(self) -> Iterator[tuple[str, torch.Tensor]]:
        """The tensors of a saved state, by name."""
        yield "start", self.start
        yield from ((f"recent.{number}", Y) for number, Y in enumerate(self.recent))
        yield from ((f"released.{number}", Z) for number, Z in enumerate(self.released))

    def numbers(self) -> dict[str, Any]:
        """What else a saved state holds of it."""
        return {"recent": len(self.recent), "released": len(self.released)}

    def dense(self) -> torch.Tensor:
        """P as one matrix, (d_mlp, d_mlp)."""
        P = self.start.clone()
        for Y in self.recent:
            P.addmm_(Y, Y.T, alpha=-1)
        for Z in self.released:
            P.addmm_(Z, Z.T)
        return P


def _add_square(P: torch.Tensor, Y: torch.Tensor, sign: int, block: int) -> None:
    """P ← P ± Y Yᵀ in place; P is symmetric, so only the blocks up to the diagonal are computed, and then mirrored."""
    for low in range(0, len(Y), block):
        high = min(low + block, len(Y))
        P[low:high, :high].addmm_(Y[low:high], Y[:high].T, alpha=sign)
        P[:low, low:high] = P[low:high, :low].T
