"""Updates weakened along the main directions of a matrix's rows: SPHERE (arXiv 2510.01172).

With Ŵ the rows of the present W at unit norm, and U the first eigenvectors of ŴᵀŴ / d_model,

    Δ ← Δ (I − α U Uᵀ)

as many of them as have a cumulative share of at most η of all eigenvalues, and one more. The eigenvectors come from the
small Gram matrix ŴŴᵀ, which has the same eigenvalues but for zeros. What is preserved learns the keys as ever.
"""

from __future__ import annotations

from dataclasses import replace

import torch

from encore_core.editing.update_rule import LowRankUpdate


def main_directions(W: torch.Tensor, energy: float) -> torch.Tensor:
    """The main directions of a matrix's rows.

    Args:
        W: (d_model, d_mlp) float64.
        energy: η, from 0 to 1.

    Returns:
        U (d_mlp, r), orthonormal columns.
    """
    rows = W / (W.norm(dim=1, keepdim=True) + 1e-8)
    values, vectors = torch.linalg.eigh(rows @ rows.T / len(rows))
    values, vectors = values.flip(0).clamp_min(0), vectors.flip(1)
    # Directions beyond the rank of W have no share, and nothing that could be normalised.
    rank = int((values > values[0] * len(rows) * torch.finfo(W.dtype).eps).sum())
    r = min(int((values.cumsum(0) / values.sum() <= energy).sum()) + 1, rank)
    return rows.T @ (vectors[:, :r] / (values[:r] * len(rows)).sqrt())


def weakened(update: LowRankUpdate, W: torch.Tensor, strength: float, energy: float) -> LowRankUpdate:
    """Δ (I − α U Uᵀ), thin as it was; what joins P is unchanged.

    Args:
        update: of one batch at one layer.
        W: (d_model, d_mlp) float64, the matrix before it.
        strength: α, from 0 to 1.
        energy: η, from 0 to 1.
    """
    U = main_directions(W, energy)
    return replace(update, Y=update.Y - strength * (U @ (U.T @ update.Y)), kept={"joining": update.Y})
