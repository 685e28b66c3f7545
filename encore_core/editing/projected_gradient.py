"""Gradients kept out of the directions that general text needs: CrispEdit (arXiv 2602.15823).

With A = E[a aᵀ] the second moment of a matrix's inputs and B = E[g gᵀ] that of the gradients by its output, general
text loses ½ tr(B Δ A Δᵀ) by a change Δ (K-FAC). In the eigenvectors of both,

    A = U_A S_A U_Aᵀ        B = U_B S_B U_Bᵀ

the pair (i, j) of an output and an input direction weighs s^B_i s^A_j. The heaviest pairs, which together have a share
γ of the whole weight, are taken out of every gradient G of the matrix, and Adam steps along what is left:

    G' = U_B ((U_Bᵀ G U_A) ∘ M) U_Aᵀ,        M_ij = [s^B_i s^A_j below the lightest pair that is taken out]

Adam scales every element by itself, so its steps, unlike the gradients, do reach a little into what is taken out. After
a batch the edited facts join A and B, weighted by their tokens.

A is C0 and B is F, the gradient by the block's output. In families that add the MLP's output to the residual stream as
it is, that equals the gradient by the output of the MLP's matrix. Where a norm or a factor comes between (Gemma 2 and
3, OLMo 2, Granite), F stands for B in other directions, or on another scale, than the matrix's own.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch

from encore_core.editing.renewed_projector import no_keys
from encore_core.editing.update_rule import LowRankUpdate, Preservation
from encore_core.errors import InputError

BETAS, EPS = (0.9, 0.999), 1e-8
"""Of Adam, as published."""


@dataclass(frozen=True)
class Projection:
    """What is taken out of the gradients of one matrix.

    Only the eigenvectors of some pair that is taken out are held: of heavy pairs there are few, and a gradient less its
    share in them costs a fraction of two full rotations.

    Attributes:
        U_A: (d_mlp, a) input directions.
        U_B: (d_model, b) output directions.
        out: (b, a), 1 where a pair is taken out and 0 where it is left.
        leaves_nothing: whether all pairs are taken out.
    """

    U_A: torch.Tensor
    U_B: torch.Tensor
    out: torch.Tensor
    leaves_nothing: bool

    def of(self, G: torch.Tensor) -> torch.Tensor:
        """G' of a gradient G, (d_model, d_mlp)."""
        if self.leaves_nothing:
            return torch.zeros_like(G)  # and not the rounding of a difference, which Adam would scale up
        return G - self.U_B @ ((self.U_B.T @ G @ self.U_A) * self.out) @ self.U_A.T

    def to(self, like: torch.Tensor) -> Projection:
        """The same on another tensor's device, in its dtype."""
        return Projection(self.U_A.to(like), self.U_B.to(like), self.out.to(like), self.leaves_nothing)


def projection(A: torch.Tensor, B: torch.Tensor, energy: float) -> Projection:
    """The projection of two second moments.

    Args:
        A: (d_mlp, d_mlp) float64, of inputs.
        B: (d_model, d_model) float64, of gradients by the output.
        energy: γ, the share of the weight that is taken out: 0 leaves gradients as they are, 1 takes out all pairs that
            weigh anything.

    Raises:
        InputError: when a moment is not finite.
    """
    if not bool(torch.isfinite(A).all() and torch.isfinite(B).all()):
        raise InputError("The moments of keys or gradients are not finite; undo the last edits, or lower lr.")
    s_A, U_A = torch.linalg.eigh(A)
    s_B, U_B = torch.linalg.eigh(B)
    # Rounding gives moments of less than full rank eigenvalues below 0.
    weights = torch.outer(s_B.clamp_min(0), s_A.clamp_min(0))
    out = weights >= _lightest_taken_out(weights, energy)
    rows, columns = out.any(1), out.any(0)
    return Projection(U_A[:, columns], U_B[:, rows], out[rows][:, columns].to(A.dtype), bool(out.all()))


def _lightest_taken_out(weights: torch.Tensor, energy: float) -> float:
    """The weight of the lightest of the heaviest pairs that together have a share of all of it."""
    if energy <= 0:
        return torch.inf
    ordered = weights.flatten().sort(descending=True).values
    reached = ordered.cumsum(0)
    place = int(torch.searchsorted(reached, energy * reached[-1]))
    return float(ordered[min(place, len(ordered) - 1)])


class ProjectedAdam:
    """Adam on one matrix, with every gradient projected.

        m ← β₁ m + (1 − β₁) G'        v ← β₂ v + (1 − β₂) G'²
        W ← W − lr m / (1 − β₁ᵗ) / (√(v / (1 − β₂ᵗ)) + ε)

    Args:
        W: (d_model, d_mlp), written to.
        out_of: the projection.
        lr: the step.
    """

    def __init__(self, W: torch.Tensor, out_of: Projection, lr: float):
        self.W, self.lr, self.steps, self.projection = W, lr, 0, out_of.to(W)
        self.mean, self.square = torch.zeros_like(W), torch.zeros_like(W)

    def step(self, G: torch.Tensor) -> None:
        """One step.

        Args:
            G: (d_model, d_mlp), the gradient by W, of its dtype.
        """
        G = self.projection.of(G)
        self.steps += 1
        of_mean, of_square = (1 - beta**self.steps for beta in BETAS)
        self.mean.mul_(BETAS[0]).add_(G, alpha=1 - BETAS[0])
        self.square.mul_(BETAS[1]).addcmul_(G, G, value=1 - BETAS[1])
        self.W.addcdiv_(self.mean, (self.square / of_square).sqrt_().add_(EPS), value=-self.lr / of_mean)


@dataclass(frozen=True)
class CurvatureMemory:
    """What a layer keeps between batches. Nothing here is ever written to.

    Attributes:
        C0: (d_mlp, d_mlp) float32, shared by sessions.
        F: (d_model, d_model) float32, see `gradient_moments`.
        energy: γ.
        n_text: how many tokens C0 is made from, for which general text counts beside those of edits.
        n: tokens of edits so far.
        H: the sum of K Kᵀ of the edits so far.
        products: (d_model, d_model) float64, that of g gᵀ.
    """

    C0: torch.Tensor
    F: torch.Tensor
    energy: float
    n_text: int
    n: int
    H: Preservation
    products: torch.Tensor

    is_renewed = False

    @classmethod
    def first(cls, C0: torch.Tensor, F: torch.Tensor, energy: float, n_text: int) -> CurvatureMemory:
        """Before any edit; arguments as the attributes."""
        F = F.to(C0.device)
        return cls(C0, F, energy, n_text, 0, no_keys(C0), torch.zeros_like(F, dtype=torch.float64))

    def moments(self) -> tuple[torch.Tensor, torch.Tensor]:
        """A (d_mlp, d_mlp) and B (d_model, d_model) of text and edits together, float64."""
        total = self.n_text + self.n
        A = self.H.dense().add_(self.C0.double(), alpha=self.n_text).div_(total)
        return A, self.products.add(self.F.double(), alpha=self.n_text).div_(total)

    def projection(self) -> Projection:
        """What is taken out of the gradients of the next batch."""
        return projection(*self.moments(), self.energy)

    def begun(self) -> CurvatureMemory:
        """The same at the beginning of a batch."""
        return self

    def joined(self, update: LowRankUpdate) -> CurvatureMemory:
        """The same after a batch."""
        G = update.kept["token_gradient"]
        return replace(
            self, n=self.n + G.shape[1], H=self.H.without(update.K), products=torch.addmm(self.products, G, G.T)
        )

    def compact(self) -> CurvatureMemory:
        """The same, with H folded if it has many thin factors."""
        return replace(self, H=self.H.compact())

    def owned(self) -> list[torch.Tensor]:
        """The tensors that are this session's own."""
        return [*self.H.owned(), self.products]

    def pieces(self) -> Iterator[tuple[str, torch.Tensor]]:
        """The tensors of a saved state, by name."""
        yield "C0", self.C0
        yield "F", self.F
        yield "products", self.products
        yield from ((f"H.{name}", piece) for name, piece in self.H.pieces() if name != "start" or self.H.owns_start)

    def numbers(self) -> dict[str, Any]:
        """What else a saved state holds of it."""
        return {"n": self.n, "n_text": self.n_text, "H": self.H.numbers() | {"owns_start": self.H.owns_start}}
