"""Updates that follow the gradient of the answer: UltraEdit (arXiv 2505.14679) and StableEdit (ICML 2026).

They need no subject, no target and no C0.

For every token of the new answers, where it is predicted, let k be the input of an edited matrix, a row of K
(T, d_mlp), and g the gradient of the answers' cross-entropy by its output. Mean and variance of [k; g] run along over
all edits, and take in a batch before it is used. With k̂ and ĝ the normalised k and g, and v = −lr ‖k̂‖² ĝ the rows of
V (T, d_model),

    Δᵀ = (KᵀK + ρ I)⁻¹ KᵀV = Kᵀ (K Kᵀ + ρ I)⁻¹ V

of which the second form solves for T tokens, not d_mlp directions. UltraEdit takes ρ = 1. StableEdit takes ρ = 10 and
the biased variance of a batch, and once there are more tokens than d_model it whitens: ĝ = Σ^(−½) (g − mean), Σ the
running covariance of g.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch

from encore_core.editing.update_rule import LowRankUpdate
from encore_core.errors import InputError

EPS = torch.finfo(torch.float32).eps
"""Added to a spread before dividing by it, as published."""

LEAST_SHARE = 1e-6
"""Eigenvalues of Σ count at least as this share of their mean. The published floor is a number, and gradients have no
scale of their own."""


@dataclass(frozen=True)
class GradientMemory:
    """What a layer keeps between batches. Nothing here is ever written to.

    Attributes:
        ridge, lr: ρ and the learning rate.
        whitens: whether it is StableEdit's.
        n: tokens so far.
        mean, squares: (d_mlp + d_model,), of [k; g]: the mean, and the sum of squares around it.
        products: (d_model, d_model), the same of products of g; None unless it whitens.
    """

    ridge: float
    lr: float
    whitens: bool
    n: int
    mean: torch.Tensor
    squares: torch.Tensor
    products: torch.Tensor | None = None

    is_renewed = False

    @classmethod
    def first(cls, ridge: float, lr: float, whitens: bool, d_mlp: int, d_model: int, device) -> GradientMemory:
        """Before any edit."""
        zeros = lambda *shape: torch.zeros(shape, dtype=torch.float64, device=device)  # noqa: E731
        products = zeros(d_model, d_model) if whitens else None
        return cls(ridge, lr, whitens, 0, zeros(d_mlp + d_model), zeros(d_mlp + d_model), products)

    def taking_in(self, K: torch.Tensor, G: torch.Tensor) -> GradientMemory:
        """The same with more tokens: K (d_mlp, T) their inputs, G (d_model, T) their gradients, float64."""
        x = torch.cat([K, G])
        T, n = x.shape[1], self.n + x.shape[1]
        shift = x.mean(1) - self.mean
        between = self.n * T / n
        # UltraEdit's public code multiplies the unbiased variance by T, which for one token is NaN.
        variance = x.var(1, correction=0 if self.whitens or T == 1 else 1)
        squares = self.squares + T * variance + between * shift.square()
        products = self.products
        if self.whitens:
            apart, moved = G - G.mean(1, keepdim=True), shift[len(K) :]
            products = products + apart @ apart.T + between * torch.outer(moved, moved)
        return replace(self, n=n, mean=self.mean + T * shift / n, squares=squares, products=products)

    def normalised(self, K: torch.Tensor, G: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """k̂ (d_mlp, T) and ĝ (d_model, T)."""
        spread = (self.squares / (self.n - 1 + EPS)).sqrt() + EPS
        x = (torch.cat([K, G]) - self.mean[:, None]) / spread[:, None]
        k, g = x[: len(K)], x[len(K) :]
        if self.whitens and self.n > len(G) + 1:
            values, vectors = torch.linalg.eigh(self.products / (self.n - len(G) - 1))
            values = values.clamp_min(LEAST_SHARE * float(values.mean()))
            g = vectors @ ((vectors.T @ (G - self.mean[len(K) :, None])) / values.sqrt()[:, None])
        return k, g

    def update(self, K: torch.Tensor, G: torch.Tensor) -> LowRankUpdate:
        """The update of a batch.

        Args:
            K: (d_mlp, T) float64, inputs of the matrix at the tokens.
            G: (d_model, T) float64, gradients by its output.

        Raises:
            InputError: when something is not finite, or the first batch has one token, which has no spread.
        """
        if not bool(torch.isfinite(K).all() and torch.isfinite(G).all()):
            raise InputError("Gradients of the batch are not finite; undo the last edits, or lower lr.")
        after = self.taking_in(K, G)
        if after.n < 2:
            raise InputError(
                "The first batch has one token to learn, and this method scales by how much tokens differ; edit two "
                "facts or more, or an answer of several tokens."
            )
        k, g = after.normalised(K, G)
        V = -self.lr * k.square().sum(0) * g
        inner = K.T @ K
        inner.diagonal().add_(self.ridge)
        return LowRankUpdate(torch.cholesky_solve(V.T, torch.linalg.cholesky(inner)).T, K, None, {"gradient": G})

    def begun(self) -> GradientMemory:
        """The same at the beginning of a batch."""
        return self

    def joined(self, update: LowRankUpdate) -> GradientMemory:
        """The same after a batch."""
        return self.taking_in(update.Y, update.kept["gradient"])

    def compact(self) -> GradientMemory:
        """The same: it does not grow."""
        return self

    def owned(self) -> list[torch.Tensor]:
        """The tensors that are this session's own."""
        return [tensor for _, tensor in self.pieces()]

    def pieces(self) -> Iterator[tuple[str, torch.Tensor]]:
        """The tensors of a saved state, by name."""
        yield "mean", self.mean
        yield "squares", self.squares
        if self.products is not None:
            yield "products", self.products

    def numbers(self) -> dict[str, Any]:
        """What else a saved state holds of it."""
        return {"n": self.n}
