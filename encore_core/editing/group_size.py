"""How many tokens are run at once where gradients are wanted: in the search for targets, in edits along gradients."""

from __future__ import annotations

from encore_core.models.device_map import total_memory
from encore_core.models.editable import EditableModel
from encore_core.models.memory import CPU_TOKENS, GPU_TOKENS, Sizes

LEAST_TOKENS = 64
"""Tokens of a group when memory is shortest; a fact with more tokens is run on its own."""


def default_max_tokens(lm: EditableModel, layer: int) -> int:
    """Tokens to run at once: enough for the processor's matrix units, and few enough for the device's memory.

    It depends on the device's total memory, not on what is free at the moment, so that a batch is divided, and
    therefore rounded, in the same way every time.

    Args:
        lm: the model.
        layer: index of the last edited block; the backward pass goes through the blocks above it.
    """
    most = CPU_TOKENS if lm.device.type == "cpu" else GPU_TOKENS
    sizes = Sizes.of_model(lm.model, lm.parts)
    # Offloaded blocks are run again one by one, and their weights are not on the device.
    weights, n_above = (0, 1) if lm.offloaded else (sizes.n_weights * lm.dtype.itemsize, lm.n_layers - 1 - layer)
    room = (total_memory(lm.device) - weights) / 2
    fitting = room / max(1, sizes.saved_per_token(n_above) * lm.dtype.itemsize)
    while most > max(fitting, LEAST_TOKENS):
        most //= 2
    return most
