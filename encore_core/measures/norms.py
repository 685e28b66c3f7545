"""How large the edited matrices have grown: ‖W‖_F = (Σ_ij W_ij²)^½, and the same over ‖W₀‖_F.

The paper's second finding is that this norm grows without bound under sequential edits, so it is taken of the MLP
output matrix of every layer at every checkpoint. Tensors in, numbers out; which tensors, and when a norm taken before
still holds, is the caller's business:

    norms = matrix_norms({layer: lm.matrix(layer) for layer in range(lm.n_layers)})    # all layers, once
    norms |= matrix_norms({layer: lm.matrix(layer) for layer in edited_layers})        # the ones that changed, later
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch


def frobenius(matrix: torch.Tensor) -> float:
    """‖W‖_F, summed in float64 whatever W is stored in.

    Args:
        matrix: (d_model, d_mlp), or of any other shape and layout; on any device.

    Returns:
        the norm; NaN or infinite when an entry is.
    """
    # Apple's GPUs have no float64.
    matrix = matrix.detach().cpu() if matrix.device.type == "mps" else matrix.detach()
    return float(torch.linalg.vector_norm(matrix, dtype=torch.float64))


def matrix_norms(matrices: Mapping[int, torch.Tensor]) -> dict[int, float]:
    """‖W‖_F of several layers' matrices.

    Args:
        matrices: per layer its matrix.

    Returns:
        per layer its norm, in the order given.
    """
    return {layer: frobenius(matrix) for layer, matrix in matrices.items()}


def norm_ratios(norms: Mapping[int, float], originals: Mapping[int, float]) -> dict[int, float]:
    """‖W‖_F / ‖W₀‖_F, layer by layer.

    Args:
        norms: per layer ‖W‖_F now.
        originals: per layer ‖W₀‖_F of the unedited model; it may have more layers.

    Returns:
        per layer of `norms` the ratio; NaN for a matrix that was all zeros.
    """
    return {layer: norm / originals[layer] if originals[layer] else math.nan for layer, norm in norms.items()}
