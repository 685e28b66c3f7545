"""Which target pass a model takes: the fastest with the plain pass's loss, found out once per model and layer."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import replace
from typing import Literal

import torch

from encore_core.editing.fast_target_pass import FastPass, Starts
from encore_core.editing.plain_target_pass import PlainPass
from encore_core.editing.target_loss import TargetSettings, evaluate
from encore_core.editing.target_rows import Example
from encore_core.models.editable import EditableModel

log = logging.getLogger(__name__)

CHECK_TOLERANCE = {torch.float32: 1e-3, torch.bfloat16: 5e-2}
"""Largest relative difference between the losses of the fast and the plain pass before the plain one is used."""

_FAMILY_ERRORS = (RuntimeError, TypeError, ValueError, AttributeError, IndexError, KeyError)
"""The errors that a family's forward pass raises for arguments it does not accept; the plain pass needs fewer."""

TargetPath = Literal["packed", "padded", "plain"]


def starts_of_fast_pass(
    lm: EditableModel, layer: int, examples: Sequence[Example], settings: TargetSettings
) -> Starts | None:
    """What the fast pass begins from, or None for a model on which no fast pass is right.

    This is found out once per model and layer: a fast pass must give the plain pass's loss for a fact with a nonzero δ.
    The first that does, packed before padded, is recorded in `lm.checked_paths`.

    Raises:
        RuntimeError: when there is too little memory to find out; nothing is recorded then.
    """
    if lm.checked_paths.get(layer) == "plain":
        return None
    reasons: list[str] = []
    try:
        starts = Starts.of(lm, layer, examples)
        if layer not in lm.checked_paths:
            lm.checked_paths[layer], reasons = _choose_path(lm, layer, examples[0], settings, starts)
    except _FAMILY_ERRORS as error:
        _raise_if_out_of_memory(error)
        lm.checked_paths[layer], reasons = "plain", [_reason(error)]
    path = lm.checked_paths[layer]
    if reasons:
        log.warning(
            "Model %s does not take the fastest target pass (%s); the %s one is used.",
            lm.name,
            "; ".join(reasons),
            path,
        )
    return starts if path != "plain" else None


def _raise_if_out_of_memory(error: Exception) -> None:
    """Raise an error that says nothing of the family: with more free memory, the fast pass may be right."""
    if isinstance(error, torch.OutOfMemoryError) or "DefaultCPUAllocator" in str(error):  # the computer's memory
        raise error


def _reason(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"


@torch.no_grad()
def _choose_path(
    lm: EditableModel, layer: int, example: Example, settings: TargetSettings, starts: Starts
) -> tuple[TargetPath, list[str]]:
    """The fastest pass that gives the plain pass's loss for a fact with a random δ, and why faster ones do not do."""
    plain = PlainPass(lm, layer, [example])
    direction = torch.randn(plain.h.shape, generator=torch.Generator().manual_seed(0)).to(plain.h)
    delta = 0.3 * plain.h.norm() * direction / direction.norm()
    # The divergence has its full weight here, so that a difference in the subject prompts' rows shows as well.
    # Products in bfloat16 would blur the comparison.
    settings = replace(settings, kl_factor=1.0, bfloat16=False)
    original = evaluate(plain, torch.zeros_like(delta), None, settings).subject_log_probs
    wanted = float(evaluate(plain, delta, original, settings).loss)
    reasons = []
    for path in ("packed", "padded"):
        try:
            forward = FastPass(lm, layer, [example], starts, packed=path == "packed")
            loss = float(evaluate(forward, delta, original, settings).loss)
        except _FAMILY_ERRORS as error:
            _raise_if_out_of_memory(error)
            reasons.append(f"{path}: {_reason(error)}")
            continue
        if abs(wanted - loss) <= CHECK_TOLERANCE.get(lm.dtype, 1e-3) * max(abs(wanted), 1e-6):
            return path, reasons
        reasons.append(f"{path}: losses {wanted:.6f} and {loss:.6f}")
    return "plain", reasons
