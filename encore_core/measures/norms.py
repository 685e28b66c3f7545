"""How large the edited matrices have grown: ‖W‖_F = (Σ_ij W_ij²)^½, and its ratio to ‖W₀‖_F.

The paper's second finding is that this norm grows without bound under sequential edits, so the norm of every layer's
MLP output matrix is measured at every checkpoint. Tensors in, numbers out; the caller decides which tensors to measure,
and when an earlier norm still holds:

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
        matrices: by layer.

    Returns:
        the norms by layer, in the order given.
    """
    return {layer: frobenius(matrix) for layer, matrix in matrices.items()}


def norm_ratios(norms: Mapping[int, float], originals: Mapping[int, float]) -> dict[int, float]:
    """‖W‖_F / ‖W₀‖_F, layer by layer.

    Args:
        norms: present ‖W‖_F by layer.
        originals: ‖W₀‖_F of the unedited model by layer; may have more layers.

    Returns:
        the ratio for each layer of `norms`; NaN for a matrix that was all zeros.
    """
    return {layer: norm / originals[layer] if originals[layer] else math.nan for layer, norm in norms.items()}
