"""Matrices held in bfloat16 while products are computed in it.

Under autocast every product rounds its operands, and weights that need no gradient are rounded again each time: another
pass over all of them at every step.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn
from transformers.pytorch_utils import Conv1D

from encore_core.models.editable import EditableModel


@contextmanager
def matrices_in_bfloat16(lm: EditableModel, start: int) -> Iterator[None]:
    """Hold the matrices of the blocks from `start` on, and the output matrix, rounded to bfloat16.

    Use it around passes under autocast, which accepts them; other passes would meet operands of two dtypes. If the
    model's weights are offloaded, none are held: they come and go block by block.

    Args:
        lm: the model; the caller holds its lock.
        start: first block.
    """
    modules = [module for block in lm.blocks[start:] for module in block.modules()]
    modules.append(lm.model.get_output_embeddings())
    before = {
        module: module.weight
        for module in modules
        if isinstance(module, nn.Linear | Conv1D) and module.weight.dtype != torch.bfloat16 and not lm.offloaded
    }
    try:
        for module, weight in before.items():
            module.weight = nn.Parameter(weight.detach().bfloat16(), requires_grad=False)
        yield
    finally:
        for module, weight in before.items():
            module.weight = weight
