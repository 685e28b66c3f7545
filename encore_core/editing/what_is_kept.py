"""What a layer keeps between batches, by method: the kinds, their size, and how a saved state restores them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch

from encore_core.editing.gradient_rule import GradientMemory
from encore_core.editing.lyapunov import LyapunovMemory
from encore_core.editing.projected_gradient import CurvatureMemory
from encore_core.editing.renewed_projector import RenewedPreservation, Weights, no_keys
from encore_core.editing.update_rule import Preservation
from encore_core.methods import GRADIENTS, Settings

Memory = Preservation | LyapunovMemory | GradientMemory | CurvatureMemory
"""What a layer keeps: P, and more with some methods."""


def free_directions(settings: Settings, kept: Mapping[int, Memory]) -> tuple[int, int] | None:
    """The fewest and most directions of a layer that are left to a method which works in a null space; None for others.

    AlphaEdit's never leave the null space, but each edit makes some of them stiffer: tr P · L2 counts what is left of
    them. BetaEdit counts those that its projector has.

    Args:
        settings: of the session.
        kept: by layer, as after the edits so far; empty before the first.
    """
    if settings.preservation == "null_space":
        left = [round(settings.l2 * P.trace()) for P in kept.values()]
    elif settings.preservation == "weighted_null_space":
        left = [P.n_directions for P in kept.values()]
    else:
        left = []
    return (min(left), max(left)) if left else None


Take = Callable[[str, torch.dtype], torch.Tensor]
"""Gives a tensor of a saved state, by name, as a copy of that dtype."""


def restored(settings: Mapping[str, Any], numbers: Mapping[str, Any], take: Take) -> Memory:
    """What a layer kept when a state was saved.

    Args:
        settings: the state's values, which include those of the session's settings.
        numbers: what the state says of the layer beside its tensors.
        take: gives its tensors.

    Raises:
        InputError: when a tensor is missing.
    """
    if settings["preservation"] in GRADIENTS:
        whitens = settings["preservation"] == "whitened_gradients"
        names = ("mean", "squares", "products") if whitens else ("mean", "squares")
        sums = {name: take(name, torch.float64) for name in names}
        return GradientMemory(settings["l2"], settings["lr"], whitens, numbers["n"], **sums)
    if settings["preservation"] == "lyapunov":
        last = {name: take(name, torch.float64) if numbers["begun"] else None for name in ("keys", "missed")}
        C0, weights = take("C0", torch.float32), (settings["lambda_p"], settings["loss_budget"])
        queue = {name: numbers[name] for name in ("queue", "used", "first_loss")}
        return LyapunovMemory(C0, *weights, _keys(C0, numbers["H"], take), **last, **queue)
    if settings["preservation"] == "curvature":
        # States of earlier versions do not say how many tokens C0 is made from.
        n_text = numbers.get("n_text", settings["statistics_tokens"])
        weights = settings["curvature_energy"], n_text, numbers["n"]
        C0, F, products = take("C0", torch.float32), take("F", torch.float32), take("products", torch.float64)
        return CurvatureMemory(C0, F, *weights, _keys(C0, numbers["H"], take), products)
    start, recent, released = take("start", torch.float64), *_factors("", numbers, take)
    if settings["preservation"] != "weighted_null_space":
        return Preservation(start, recent, owns_start=True, released=released)
    return RenewedPreservation(
        start, recent, True, released,
        C0=take("C0", torch.float32),
        H=_keys(start, numbers["H"], take),
        n_edits=numbers["n_edits"],
        renewed_at=numbers["renewed_at"],
        n_directions=numbers["n_directions"],
        weights=Weights.of(settings),
    )  # fmt: skip


def _keys(like: torch.Tensor, numbers: Mapping[str, Any], take: Take) -> Preservation:
    """H, the sum of K Kᵀ."""
    start = take("H.start", torch.float64) if numbers["owns_start"] else no_keys(like).start
    recent, released = _factors("H.", numbers, take)
    return Preservation(start, recent, numbers["owns_start"], released)


def _factors(before: str, numbers: Mapping[str, Any], take: Take) -> tuple[tuple[torch.Tensor, ...], ...]:
    return tuple(
        tuple(take(f"{before}{name}.{number}", torch.float64) for number in range(numbers[name]))
        for name in ("recent", "released")
    )
