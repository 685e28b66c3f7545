"""The residual stream between the blocks, read in one pass."""

from __future__ import annotations

from contextlib import ExitStack

import torch

from encore_core.errors import InputError, quoted
from encore_core.forward.tracing import Prefix, run, tensor_of
from encore_core.models.editable import EditableModel


def residual_streams(
    lm: EditableModel, ids: torch.Tensor, mask: torch.Tensor, prefix: Prefix | None = None
) -> list[torch.Tensor]:
    """Run tokens through all blocks and keep the stream before the first one and after each.

    Args:
        lm: the model; the caller holds its lock and decides about gradients.
        ids, mask, prefix: as for `tracing.run`.

    Returns:
        n_layers + 1 tensors (n_rows, length, d_model) on the device of `ids`: what enters the first block, then the
        output of each block.

    Raises:
        InputError: when the stream has another shape.
    """
    found: list[torch.Tensor] = []

    def keep(states: torch.Tensor) -> None:
        if states.ndim != 3 or states.shape[:2] != ids.shape:
            raise InputError(f"Model {quoted(lm.name)} has more than one residual stream, which cannot be read.")
        # A copy, because a family may later add to the tensor in place.
        found.append(states.to(ids.device, copy=True))

    def entering(module, args, kwargs):
        keep(args[0] if args else kwargs["hidden_states"])

    with ExitStack() as stack:
        hooks = [lm.blocks[0].register_forward_pre_hook(entering, with_kwargs=True)]
        hooks += [block.register_forward_hook(lambda _, args, out: keep(tensor_of(out))) for block in lm.blocks]
        for hook in hooks:
            stack.callback(hook.remove)
        run(lm, ids, mask, stop=lm.n_layers, prefix=prefix)
    return found


def shown_tokens(lm: EditableModel, ids: list[int] | tuple[int, ...]) -> tuple[str, ...]:
    """Each token as text, decoded by itself; bytes that are part of a character become a replacement mark."""
    return tuple(lm.tokenizer.decode([token]) for token in ids)
