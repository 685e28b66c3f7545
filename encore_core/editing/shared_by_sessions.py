"""What sessions on one model share: sampled prefixes, its answers without edits, and the initial P under some settings.

The model keeps them in `EditableModel.shared`; a bound on memory limits how many matrices it keeps.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch

from encore_core.editing import stored_statistics
from encore_core.editing.covariance import second_moments
from encore_core.editing.gradient_moments import gradient_moments
from encore_core.editing.gradient_rule import GradientMemory
from encore_core.editing.lyapunov import LyapunovMemory
from encore_core.editing.projected_gradient import CurvatureMemory
from encore_core.editing.renewed_projector import RenewedPreservation, Weights, weighted_null_space
from encore_core.editing.update_rule import Preservation, inverse_preservation, null_space_preservation
from encore_core.editing.what_is_kept import Memory
from encore_core.forward.prompts import prefixes
from encore_core.measures.answers import Answer, Question, answer_probabilities
from encore_core.methods import GRADIENTS, Settings
from encore_core.models.editable import EditableModel, Progress

SHARED_BYTES = 2_000_000_000
"""Memory that the initial P of one model may take in all; the least recently used are dropped first."""

BASE_ANSWERS = 1000
"""Answers of the unedited model that are kept; each takes some hundred bytes."""


def shared_prefixes(lm: EditableModel, seed: int) -> tuple[str, ...]:
    """The sampled prefixes of a seed, sampled from the base model."""
    key = ("prefixes", seed)
    if key not in lm.shared:
        with lm.matrices_replaced({}):
            lm.shared[key] = prefixes(lm, seed)
    lm.shared.move_to_end(key)
    return lm.shared[key]


def base_answers(lm: EditableModel, asked: Sequence[Question]) -> list[Answer]:
    """`answer_probabilities` of the base model. Methods that are compared ask for the same, one after the other."""
    with lm.lock:
        known: dict[Question, Answer] = lm.shared.setdefault(("answers", lm.start_token), {})
        missing = [question for question in dict.fromkeys(asked) if question not in known]
        if missing:
            with lm.matrices_replaced({}):
                known |= zip(missing, answer_probabilities(lm, missing), strict=True)
        found = [known[question] for question in asked]
        while len(known) > BASE_ANSWERS:
            del known[next(iter(known))]  # the one that was asked first
        return found


def initial_preservation(
    lm: EditableModel,
    settings: Settings,
    statistics: dict[int, Path],
    text: Path | None = None,
    progress: Progress | None = None,
) -> dict[int, Memory]:
    """What each edited layer keeps before any edit: P, for most methods.

    Args:
        lm: the model.
        settings: they determine P.
        statistics: by edited layer, the file of its C0, which is gathered if missing.
        text: file to gather them from; by default the bundled sample.
        progress: called while they are gathered.
    """
    s = settings
    if s.preservation in GRADIENTS:
        whitens, device = s.preservation == "whitened_gradients", solve_device(lm)
        return {layer: GradientMemory.first(s.l2, s.lr, whitens, lm.d_mlp, lm.d_model, device) for layer in s.layers}
    if s.preservation == "lyapunov":
        kept = moments_kept(lm, s, statistics, text, progress)
        return {layer: LyapunovMemory.first(kept[layer], s.lambda_p, s.loss_budget) for layer in s.layers}
    if s.preservation == "curvature":
        kept = moments_kept(lm, s, statistics, text, progress)
        Fs = gradients_kept(lm, statistics, text, progress)
        n_text = {layer: _tokens_in(file) or s.statistics_tokens for layer, file in statistics.items()}
        return {
            layer: CurvatureMemory.first(kept[layer], Fs[layer], s.curvature_energy, n_text[layer])
            for layer in s.layers
        }
    keys = _keys_of_initial_P(s, statistics)
    C0s = moments_kept(lm, s, statistics, text, progress) if s.preservation == "weighted_null_space" else {}
    starts = {layer: lm.shared[key] for layer, key in keys.items() if key in lm.shared}
    missing = [layer for layer in s.layers if layer not in starts]
    if missing:
        with lm.matrices_replaced({}):
            moments = C0s or second_moments(lm, missing, s.statistics_tokens, text, progress, statistics)
        for layer in missing:
            C0 = moments[layer].to(solve_device(lm))
            if C0s:
                C0 = C0.double()
                starts[layer], n = weighted_null_space(C0, s.lambda_p * C0, Weights.of(s))
                lm.shared["directions", keys[layer]] = n
            else:
                starts[layer] = _initial_P(C0, s)
            _remember(lm, keys[layer], starts[layer])
    for layer in s.layers:
        if keys[layer] in lm.shared:
            lm.shared.move_to_end(keys[layer])
    if C0s:
        directions = {layer: lm.shared["directions", keys[layer]] for layer in s.layers}
        return {
            layer: RenewedPreservation.first(starts[layer], directions[layer], C0s[layer], Weights.of(s))
            for layer in s.layers
        }
    return {layer: Preservation(starts[layer]) for layer in s.layers}


def moments_kept(
    lm: EditableModel,
    settings: Settings,
    statistics: dict[int, Path],
    text: Path | None = None,
    progress: Progress | None = None,
) -> dict[int, torch.Tensor]:
    """C0 by edited layer, float32 on the device of solving, for methods that need it in every batch; arguments as for
    `initial_preservation`. Sessions on a model share it."""
    keys = {layer: ("C0", settings.statistics_tokens, statistics[layer].name, layer) for layer in settings.layers}
    missing = [layer for layer, key in keys.items() if key not in lm.shared]
    found = {layer: lm.shared[key] for layer, key in keys.items() if key in lm.shared}
    if missing:
        with lm.matrices_replaced({}):
            moments = second_moments(lm, missing, settings.statistics_tokens, text, progress, statistics)
        for layer in missing:
            found[layer] = moments[layer].to(solve_device(lm))
            _remember(lm, keys[layer], found[layer])
    return found


def gradients_kept(
    lm: EditableModel, statistics: dict[int, Path], text: Path | None = None, progress: Progress | None = None
) -> dict[int, torch.Tensor]:
    """F by layer, (d_model, d_model) float32 on the CPU, see `gradient_moments`; sessions on a model share it.

    Args:
        lm: the model.
        statistics: by layer, the file of its C0.
        text, progress: as for `initial_preservation`.
    """
    keys = {layer: ("F", file.name, layer) for layer, file in statistics.items()}
    missing = {layer: statistics[layer] for layer, key in keys.items() if key not in lm.shared}
    found = {layer: lm.shared[key] for layer, key in keys.items() if key in lm.shared}
    if missing:
        found |= gradient_moments(lm, missing, text, progress)
        for layer in missing:
            _remember(lm, keys[layer], found[layer])
    return found


def inverse_of_initial_P(
    lm: EditableModel,
    settings: Settings,
    layer: int,
    start: torch.Tensor,
    statistics: dict[int, Path],
    text: Path | None = None,
) -> torch.Tensor:
    """The inverse of a layer's initial P, (d_mlp, d_mlp) float64; of AlphaEdit's, on the directions that it may use.

    Args:
        lm: the model.
        settings, statistics, text: as for `initial_preservation`.
        layer: which.
        start: its initial P.
    """
    if settings.preservation == "null_space":
        return settings.l2**2 * start  # P = U Uᵀ / L2
    if settings.preservation == "weighted_null_space":
        return torch.linalg.pinv(start, hermitian=True)
    with lm.matrices_replaced({}):
        C0 = second_moments(lm, [layer], settings.statistics_tokens, text, None, statistics)[layer]
    inverse = settings.lambda_p * C0.to(start.device, start.dtype)
    inverse.diagonal().add_(settings.lambda_n)
    return inverse


def forget_initial_P(lm: EditableModel, settings: Settings, statistics: dict[int, Path]) -> None:
    """Let the model forget the initial P it keeps for other sessions; arguments as for `initial_preservation`."""
    for key in _keys_of_initial_P(settings, statistics).values():
        lm.shared.pop(key, None)


def solve_device(lm: EditableModel) -> torch.device:
    """The device of P and of solving updates, in float64, which Apple's GPUs do not have."""
    return torch.device("cpu") if lm.device.type == "mps" else lm.device


def _tokens_in(file: Path) -> int:
    """How many tokens a file's C0 is made from; 0 where an imported one does not say."""
    head = stored_statistics.read_head(file)
    return 0 if head is None else head.tokens


def _initial_P(C0: torch.Tensor, settings: Settings) -> torch.Tensor:
    if settings.preservation == "null_space":
        return null_space_preservation(C0, settings.null_threshold, settings.l2)
    return inverse_preservation(C0, settings.lambda_p, settings.lambda_n)


def _keys_of_initial_P(settings: Settings, statistics: dict[int, Path]) -> dict[int, tuple]:
    """By edited layer, the key in `EditableModel.shared` of its initial P."""
    s = settings
    if s.from_gradients:
        return {}
    identity = ("P", s.preservation, s.lambda_p, s.lambda_n, s.null_threshold, s.l2, s.statistics_tokens)
    # The file's name without its layer identifies what the statistics were made from.
    return {layer: (*identity, statistics[layer].name.partition("-")[2], layer) for layer in s.layers}


def _remember(lm: EditableModel, key: tuple, matrix: torch.Tensor) -> None:
    """Keep an initial P for the next session, and drop the oldest when there are too many."""
    lm.shared[key] = matrix
    matrices = [k for k, value in lm.shared.items() if isinstance(value, torch.Tensor)]
    total = sum(lm.shared[k].nbytes for k in matrices)
    for old in matrices:
        if total <= SHARED_BYTES or old[:-1] == key[:-1]:
            break
        total -= lm.shared.pop(old).nbytes
