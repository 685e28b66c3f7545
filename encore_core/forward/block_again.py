"""A block run again on the same tokens after its MLP output matrix alone has changed.

What its attention says, and what enters the matrix, is as it was the first time. So of the second run there is left the
matrix itself, and what the family does around it: norms, scaling, the sums of the residual stream.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from encore_core.forward.tracing import put_back, tensor_of
from encore_core.models.editable import EditableModel


@dataclass
class BlockRun:
    """What a run of a block leaves for the next one.

    Attributes:
        matrix_input: (n_rows, length, d_mlp) what entered the matrix.
        attention: what the attention module returned, as the family returns it; None where it can't be taken over,
            because the block called it more than once, or wrote into it.
        ends_with_matrix: whether the MLP returned what the matrix did, so that the rest of the MLP can be left out.
    """

    matrix_input: torch.Tensor | None = None
    attention: Any = None
    ends_with_matrix: bool = False


@contextmanager
def remembered(lm: EditableModel, layer: int) -> Iterator[BlockRun]:
    """Note what a run of a block leaves; there is one pass, without gradients, within this context."""
    found = BlockRun()
    attention, mlp, matrix = _parts(lm, layer)
    calls: dict[nn.Module, list[tuple[Any, int]]] = {module: [] for module in (attention, mlp, matrix)}

    def seen(module: nn.Module, inputs: tuple, output: Any) -> None:
        calls[module].append((output, tensor_of(output)._version))
        if module is matrix:
            found.matrix_input = inputs[0]

    with ExitStack() as stack:
        for module in calls:
            stack.callback(module.register_forward_hook(seen).remove)
        yield found
    said, version = calls[attention][0]
    if len(calls[attention]) == 1 and tensor_of(said)._version == version:
        found.attention = said
    whole, of_matrix = calls[mlp][0][0], calls[matrix][0][0]
    found.ends_with_matrix = mlp is not matrix and isinstance(whole, torch.Tensor) and whole.equal(of_matrix)


@contextmanager
def run_again(lm: EditableModel, layer: int, known: BlockRun) -> Iterator[None]:
    """Let the block's next run, of the same rows, take over what an earlier one left.

    Args:
        lm: the model; since then only the block's matrix has changed.
        layer: which block.
        known: from `remembered`.
    """
    attention, mlp, matrix = _parts(lm, layer)
    instead = {}
    if known.attention is not None:
        instead[attention] = lambda *args, **kwargs: known.attention
    if known.ends_with_matrix:
        instead[mlp] = lambda *args, **kwargs: matrix(known.matrix_input)
    previous = [module.__dict__.get("forward") for module in instead]
    try:
        for module, forward in instead.items():
            module.forward = forward
        yield
    finally:
        put_back(list(instead), previous)


def _parts(lm: EditableModel, layer: int) -> tuple[nn.Module, nn.Module, nn.Module]:
    return lm.parts.attentions[layer], lm.parts.mlps[layer], lm.parts.down_projections[layer]
