"""What an update costs general text, foretold from statistics: a meter that reads no text.

To second order, and with the key of a token taken as independent of its gradient (K-FAC, as in arXiv 2602.15823), the
mean loss of a text token rises by about

    ½ Σ_ℓ tr( F_ℓ Δ_ℓ C0_ℓ Δ_ℓᵀ )

over the edited layers ℓ; F is that of `gradient_moments`, C0 that of `covariance`. For one fact that moves the output
of a block by δ at a key k, the smallest such update costs ½ δᵀFδ / (kᵀ C0⁻¹ k). Everything is in nats per token. It
ranks edits well and understates them: on the embedded model KL was two to five times as large over a run, and 1.2 to 8
times for single facts (benchmarks/RESULTS.md).
"""

from __future__ import annotations

import math

import torch

MOST_NATS = 700.0
"""Above this, exp of it is beyond all numbers."""


def perplexity_factor(damage: float) -> float:
    """How many times as large perplexity is foretold to become; infinite for damage beyond all numbers.

    Args:
        damage: in nats per token.
    """
    return math.exp(damage) if damage <= MOST_NATS else math.inf


def of_change(F: torch.Tensor, change: torch.Tensor, C0: torch.Tensor) -> float:
    """½ tr(F Δ C0 Δᵀ) of one layer, in nats per token.

    Args:
        F: (d_model, d_model).
        change: (d_model, d_mlp), Δ.
        C0: (d_mlp, d_mlp).
    """
    change = change.double()
    F, C0 = F.to(change), C0.to(change)
    return 0.5 * float(((F @ change) * (change @ C0)).sum())


def of_facts(F: torch.Tensor, delta: torch.Tensor, C0_inverse: torch.Tensor, keys: torch.Tensor) -> torch.Tensor:
    """½ δᵀFδ / (kᵀ C0⁻¹ k) of single facts, (n,) float64.

    Args:
        F: (d_model, d_model).
        delta: (n, d_model), what each moves the block's output by.
        C0_inverse: (d_mlp, d_mlp).
        keys: (d_mlp, n).
    """
    delta, keys = delta.double(), keys.double()
    moved = ((delta @ F.double()) * delta).sum(-1)
    return 0.5 * moved / (keys * (C0_inverse.double() @ keys)).sum(0)
