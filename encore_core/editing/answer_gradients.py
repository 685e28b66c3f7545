"""Inputs of edited matrices where answers are predicted, and gradients by their outputs: one pass for all layers."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import torch
from torch.nn import functional as F

from encore_core.autograd import gradients
from encore_core.editing.batch import Clock, SolvedBatch, check_change, no_seconds
from encore_core.editing.batch_report import EditProgress, OnProgress
from encore_core.editing.edited_matrices import Sums
from encore_core.editing.group_size import default_max_tokens
from encore_core.editing.shared_by_sessions import solve_device
from encore_core.editing.what_is_kept import Memory
from encore_core.errors import InputError
from encore_core.facts import Fact
from encore_core.forward.prompts import Encoded, Text, batches_by_length, encode_all, pad
from encore_core.forward.tracing import run
from encore_core.methods import Settings
from encore_core.models.editable import EditableModel

Gathered = dict[int, tuple[torch.Tensor, torch.Tensor]]
"""By layer, K (d_mlp, T) and G (d_model, T), both float64 on the device of solving."""


def answer_gradients(
    lm: EditableModel, facts: Sequence[Fact], layers: Sequence[int], tell: Callable[[int], None] | None = None
) -> Gathered:
    """K and G of some facts; each token's gradient is that of the sum of its answer's cross-entropies.

    Args:
        lm: the model as it is to be read; the caller holds its lock.
        facts: any; their tokens come in this order.
        layers: blocks, ascending.
        tell: called with the number of facts done.

    Raises:
        InputError: when a fact does not fit into the model's context.
    """
    rows = encode_all(lm, [Text(fact.text, fact.target_new, join=fact.join) for fact in facts])
    lengths = [len(row.ids) - 1 for row in rows]
    starts = torch.tensor([0, *(row.n_target for row in rows)]).cumsum(0)
    device, total, done = solve_device(lm), int(starts[-1]), 0
    shapes = ((lm.d_mlp, total), (lm.d_model, total))
    found = {layer: tuple(torch.empty(s, dtype=torch.float64, device=device) for s in shapes) for layer in layers}
    for group in batches_by_length(lengths, default_max_tokens(lm, layers[0])):
        columns = torch.cat([torch.arange(int(starts[i]), int(starts[i]) + rows[i].n_target) for i in group]).to(device)
        for layer, parts in _of_group(lm, [rows[i] for i in group], layers).items():
            for whole, part in zip(found[layer], parts, strict=True):
                whole[:, columns] = part.T.to(whole)
        done += len(group)
        if tell is not None:
            tell(done)
    return found


@gradients(True)
def _of_group(
    lm: EditableModel, rows: Sequence[Encoded], layers: Sequence[int]
) -> dict[int, tuple[torch.Tensor, torch.Tensor]]:
    """By layer, inputs and gradients at the answers' tokens, (T, d_mlp) and (T, d_model)."""
    # The last token predicts nothing.
    batch = pad(lm, [row.ids[:-1] for row in rows])
    places = [(r, column) for r, row in enumerate(rows) for column in range(row.n_prompt - 1, len(row.ids) - 1)]
    at = tuple(torch.tensor(values, device=lm.device) for values in zip(*places, strict=True))
    wanted = torch.tensor([token for row in rows for token in row.target_ids], device=lm.device)
    with traced(lm, layers) as (inputs, outputs):
        logits = run(lm, batch.ids, batch.mask, logits_at=at)
        loss = F.cross_entropy(logits.float(), wanted, reduction="sum")
        by_output = torch.autograd.grad(loss, [outputs[layer] for layer in layers])
    found = {}
    for layer, gradient in zip(layers, by_output, strict=True):
        read = tuple(index.to(gradient.device) for index in at)
        of_rows = (value.detach().view(*batch.ids.shape, -1)[read] for value in (inputs[layer], gradient))
        found[layer] = tuple(of_rows)
    return found


@contextmanager
def traced(lm: EditableModel, layers: Sequence[int]) -> Iterator[tuple[dict, dict]]:
    """Inputs and outputs of edited matrices during a run; the graph begins at the output of the lowest."""
    inputs: dict[int, torch.Tensor] = {}
    outputs: dict[int, torch.Tensor] = {}

    def hook(layer: int):
        def keep(module, args, output):
            inputs[layer] = args[0].detach()
            outputs[layer] = output if output.requires_grad else output.detach().requires_grad_()
            return outputs[layer]

        return keep

    handles = [lm.down_projections[layer].register_forward_hook(hook(layer)) for layer in layers]
    try:
        yield inputs, outputs
    finally:
        for handle in handles:
            handle.remove()


def solve_by_gradients(
    lm: EditableModel,
    facts: Sequence[Fact],
    settings: Settings,
    kept: dict[int, Memory],
    draft: Sums,
    on_progress: OnProgress | None = None,
) -> SolvedBatch:
    """One batch of a method that follows gradients: all layers at once, from the model as it is before the batch.

    Args:
        lm: the model; the caller holds its lock.
        facts: the batch.
        settings, kept, draft, on_progress: as for `solve_batch`.

    Raises:
        InputError: when a fact does not fit the model, or what comes out is not finite.
    """
    seconds = no_seconds()
    clock, total = Clock(seconds), len(facts)
    tell = on_progress or (lambda progress: None)
    with lm.matrices_replaced(draft.run):
        read = answer_gradients(lm, facts, settings.layers, lambda done: tell(EditProgress("targets", done, total)))
    clock.add("targets")
    updates = {layer: kept[layer].update(*read[layer]) for layer in settings.layers}
    for number, (layer, update) in enumerate(updates.items(), start=1):
        draft.add(lm, layer, update)
        if not bool(torch.isfinite(draft.run[layer]).all()):
            raise InputError(f"The update of layer {layer} is not finite; lower lr, or reset the session.")
        check_change(update, total, layer, settings)
        tell(EditProgress("update", number, len(updates)))
    clock.add("update")
    return SolvedBatch(draft, updates, kept, (None,) * total, seconds)
