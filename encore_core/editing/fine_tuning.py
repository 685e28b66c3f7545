"""One batch by fine-tuning: gradient steps on all edited matrices at once, until the new answers are said (CrispEdit).

Each step takes some facts in their order, and the mean cross-entropy of their answers' tokens; a pass takes all of
them. It ends after a pass whose mean loss was small enough, or after `steps` passes; facts whose loss is that small
already cause no step. Adam begins anew with every batch (the authors' keeps its averages), so that what a batch does
follows from the matrices and from A and B alone.

The gradient of a matrix is Σ g kᵀ over all tokens, k its input and g the gradient by its output. Blocks below the
lowest edited one do not change, so what enters it is computed once.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch.nn import functional as F

from encore_core.autograd import gradients
from encore_core.editing.answer_gradients import answer_gradients, traced
from encore_core.editing.batch import Clock, SolvedBatch, check_change, no_seconds
from encore_core.editing.batch_report import EditProgress, OnProgress
from encore_core.editing.edited_matrices import Sums, exact_dtype
from encore_core.editing.group_size import default_max_tokens
from encore_core.editing.projected_gradient import CurvatureMemory, ProjectedAdam
from encore_core.editing.shared_by_sessions import solve_device
from encore_core.editing.update_rule import LowRankUpdate
from encore_core.errors import InputError
from encore_core.facts import Fact
from encore_core.forward.prompts import Encoded, Text, batches_by_length, encode_all, pad
from encore_core.forward.tracing import run
from encore_core.methods import Settings
from encore_core.models.editable import EditableModel


@dataclass(frozen=True)
class Rows:
    """Some facts as one batch of tokens.

    Attributes:
        ids, mask: (n_rows, length); the last token of a fact is not among them, because it predicts nothing.
        hidden: (n_rows, length, d_model), what enters the lowest edited block; None if that is the model's first.
        at: rows and columns of the tokens that predict an answer's, each (T,).
        wanted: (T,) token ids of the answers.
    """

    ids: torch.Tensor
    mask: torch.Tensor
    hidden: torch.Tensor | None
    at: tuple[torch.Tensor, torch.Tensor]
    wanted: torch.Tensor


def steps_of(lm: EditableModel, facts: Sequence[Fact], lowest: int, per_step: int) -> list[tuple[int, list[Rows]]]:
    """The facts of each step of a pass: how many, and as batches of tokens that are run one after the other.

    Args:
        lm: the model; the caller holds its lock.
        facts: the batch, in order.
        lowest: the lowest edited block.
        per_step: facts per step.

    Raises:
        InputError: when a fact does not fit into the model's context.
    """
    rows = encode_all(lm, [Text(fact.text, fact.target_new, join=fact.join) for fact in facts])
    room = default_max_tokens(lm, lowest)
    found = []
    for start in range(0, len(rows), per_step):
        some = rows[start : start + per_step]
        groups = batches_by_length([len(row.ids) - 1 for row in some], room)
        found.append((len(some), [_rows(lm, [some[i] for i in group], lowest) for group in groups]))
    return found


@torch.no_grad()
def _rows(lm: EditableModel, rows: Sequence[Encoded], lowest: int) -> Rows:
    batch = pad(lm, [row.ids[:-1] for row in rows])
    places = [(r, column) for r, row in enumerate(rows) for column in range(row.n_prompt - 1, len(row.ids) - 1)]
    at = tuple(torch.tensor(values, device=lm.device) for values in zip(*places, strict=True))
    wanted = torch.tensor([token for row in rows for token in row.target_ids], device=lm.device)
    hidden = run(lm, batch.ids, batch.mask, stop=lowest) if lowest else None
    return Rows(batch.ids, batch.mask, hidden, at, wanted)


@gradients(True)
def loss_and_gradients(
    lm: EditableModel, groups: Sequence[Rows], layers: Sequence[int]
) -> tuple[float, dict[int, torch.Tensor]]:
    """The mean cross-entropy of the answers' tokens, and its gradient by each edited matrix.

    Args:
        lm: the model with the matrices in it; the caller holds its lock.
        groups: of one step.
        layers: edited blocks, ascending.

    Returns:
        the loss, and by layer (d_model, d_mlp) in the dtype that matrices are summed in.
    """
    n_tokens = sum(len(rows.wanted) for rows in groups)
    total, found = 0.0, {}
    for rows in groups:
        with traced(lm, layers) as (inputs, outputs):
            logits = run(lm, rows.ids, rows.mask, start=layers[0], hidden=rows.hidden, logits_at=rows.at)
            loss = F.cross_entropy(logits.float(), rows.wanted, reduction="sum") / n_tokens
            by_output = torch.autograd.grad(loss, [outputs[layer] for layer in layers])
        total += float(loss.detach())
        for layer, gradient in zip(layers, by_output, strict=True):
            g, k = (tensor.reshape(-1, tensor.shape[-1]).to(exact_dtype(lm)) for tensor in (gradient, inputs[layer]))
            found[layer] = found[layer].addmm_(g.T, k) if layer in found else g.T @ k
    return total, found


@dataclass(frozen=True)
class Pass:
    """One pass over a batch: its number from 1, and the mean loss of its facts, each before its step, in nats."""

    number: int
    loss: float


def passes(
    lm: EditableModel, facts: Sequence[Fact], settings: Settings, work: Sums, adam: dict[int, ProjectedAdam]
) -> Iterator[Pass]:
    """Fine-tune matrices, pass by pass, until the answers are said or the passes are used up.

    Args:
        lm: the model with `work` in it; the caller holds its lock.
        facts: the batch.
        settings: of the session.
        work: the edited matrices, written to.
        adam: by layer, over its matrix in `work`.

    Raises:
        InputError: when a fact does not fit the model, or the loss is not finite.
    """
    s = settings
    steps = steps_of(lm, facts, s.layers[0], s.facts_per_step)
    for number in range(1, s.steps + 1):
        mean = 0.0
        for n, groups in steps:
            loss, by_matrix = loss_and_gradients(lm, groups, s.layers)
            mean += loss * n / len(facts)
            if not math.isfinite(loss):
                raise InputError(f"The loss of the batch is {loss} in pass {number}; lower lr, or reset the session.")
            if loss >= s.stop_loss:
                for layer, G in by_matrix.items():
                    adam[layer].step(G)
                    if work.run[layer] is not work.exact[layer]:
                        work.run[layer].copy_(work.exact[layer])
        yield Pass(number, mean)
        if mean < s.stop_loss:
            return


def solve_by_fine_tuning(
    lm: EditableModel,
    facts: Sequence[Fact],
    settings: Settings,
    kept: dict[int, CurvatureMemory],
    draft: Sums,
    on_progress: OnProgress | None = None,
) -> SolvedBatch:
    """One batch, fine-tuned.

    Args:
        lm: the model; the caller holds its lock.
        facts, settings, kept, draft, on_progress: as for `solve_batch`.

    Raises:
        InputError: when a fact does not fit the model, or what comes out is not finite.
    """
    seconds = no_seconds()
    clock, total = Clock(seconds), len(facts)
    tell = on_progress or (lambda progress: None)
    work = draft.copy()
    with lm.matrices_replaced(work.run):
        adam = {
            layer: ProjectedAdam(lm.oriented(layer, work.exact[layer]), kept[layer].projection(), settings.lr)
            for layer in settings.layers
        }
        clock.add("update")  # projections cost the same for one fact as for a hundred
        for last in passes(lm, facts, settings, work, adam):
            tell(EditProgress("targets", 0, total, last.number - 1, last.loss))
        clock.add("targets")
        # What the facts ask for once they are edited, as the authors do: it joins A and B.
        read = answer_gradients(lm, facts, settings.layers, lambda done: tell(EditProgress("targets", done, total)))
        clock.add("keys")
    updates = {}
    for number, layer in enumerate(settings.layers, start=1):
        updates[layer] = _whole_change(lm, layer, draft, work, *read[layer])
        draft.add(lm, layer, updates[layer])
        if not bool(torch.isfinite(draft.run[layer]).all()):
            raise InputError(f"The update of layer {layer} is not finite; lower lr, or reset the session.")
        check_change(updates[layer], total, layer, settings)
        tell(EditProgress("update", number, len(settings.layers)))
    clock.add("update")
    return SolvedBatch(
        draft, updates, kept, (None,) * total, seconds, notices=_told(last, settings), passes=last.number
    )


def _whole_change(
    lm: EditableModel, layer: int, draft: Sums, work: Sums, K: torch.Tensor, G: torch.Tensor
) -> LowRankUpdate:
    """Δ of one layer, which is not thin, as an update: A is the identity, and Y is Δᵀ."""
    before, after = (
        lm.oriented(layer, sums.exact[layer]).to(solve_device(lm), torch.float64) for sums in (draft, work)
    )
    eye = torch.eye(lm.d_model, dtype=torch.float64, device=before.device)
    return LowRankUpdate(eye, (after - before).T.contiguous(), K, {"token_gradient": G})


def _told(last: Pass, settings: Settings) -> tuple[str, ...]:
    """A notice if the answers were not learned to the end."""
    if last.loss < settings.stop_loss:
        return ()
    return (
        f"After {last.number} passes the mean loss was {last.loss:.3g}, not yet below stop_loss = "
        f"{settings.stop_loss:g}; more steps or a smaller curvature_energy bring it lower.",
    )
