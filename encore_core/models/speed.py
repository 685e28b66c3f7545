"""How fast a device computes, measured on one matrix product, and how long gathering statistics takes at that speed."""

from __future__ import annotations

import time

import torch

from encore_core.models.memory import Sizes

EFFICIENCY = 0.6
"""Approximate share of a bare matrix product's speed that running text reaches."""


def rough_seconds(
    sizes: Sizes,
    layers: tuple[int, ...],
    tokens: int,
    gradient_tokens: int,
    dtype: torch.dtype,
    device: torch.device,
) -> float:
    """Seconds that gathering C0 and F would take, from the operations they need and the speed of one matrix product.

    Args:
        sizes: of the model.
        layers: whose statistics are gathered.
        tokens: number of tokens of the text.
        gradient_tokens: how many of them F is made from, at most.
        dtype, device: of the model.
    """
    in_blocks = sizes.n_weights - sizes.n_vocab * sizes.d_model
    per_token = 2 * in_blocks * (max(layers) + 1) / sizes.n_layers
    keys = 2 * len(layers) * sizes.d_mlp**2
    fast, precise = speed(dtype, device), speed(torch.float32, device)
    # F: all blocks and the head, forth and back.
    gradients = min(tokens, gradient_tokens) * 6 * (in_blocks + sizes.n_head) / fast
    return (tokens * (per_token / fast + keys / precise) + gradients) / EFFICIENCY


def speed(dtype: torch.dtype, device: torch.device) -> float:
    """Operations per second of a matrix product."""
    n = 512 if device.type == "cpu" else 4096
    A = torch.ones(n, n, dtype=dtype, device=device)

    def once() -> float:
        began = time.perf_counter()
        # Reading a number waits for the device.
        float((A @ A)[0, 0])
        return time.perf_counter() - began

    once()
    return 2 * n**3 / min(once() for _ in range(3))
