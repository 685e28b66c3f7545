"""Pushes (ours): facts that the model does not say after an update ask once more for what they did not get.

λp holds every fact back a little, those with common keys most, and a larger λp protects general text at the price of
facts left unsaid. With pushes it is the unsaid ones alone that cost more. Once the updates of all m layers are in
place, let U be the facts whose new answer is not yet the most probable one in the plain prompt, z their targets and h
their states; then in every layer

    R_U ← R_U + (z − h)_U / m        Δ = R (S + Kᵀ P K)⁻¹ Kᵀ P

with the keys that the layer had, up to `pushes` times, or until all are said. So it is still one update per layer, of
another R: P, what is kept, and taking edits back are as without.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch

from encore_core.editing.edited_matrices import Sums
from encore_core.editing.keys import KeyReader
from encore_core.editing.update_rule import LowRankUpdate, solve
from encore_core.editing.what_is_kept import Memory
from encore_core.facts import Fact
from encore_core.measures.answers import answer_probabilities, questions
from encore_core.methods import Settings
from encore_core.models.editable import EditableModel


def exact_copies(draft: Sums, layers: Sequence[int]) -> dict[int, torch.Tensor]:
    """The matrices before a batch, which `pushed` starts from again."""
    return {layer: draft.exact[layer].clone() for layer in layers}


def pushed(
    lm: EditableModel,
    facts: Sequence[Fact],
    prefixes: Sequence[str],
    settings: Settings,
    preservation: Mapping[int, Memory],
    draft: Sums,
    before: Mapping[int, torch.Tensor],
    z: torch.Tensor,
    slack: float,
    updates: Mapping[int, LowRankUpdate],
) -> dict[int, LowRankUpdate]:
    """Push on the facts that are not said, and put the updates that come of it into the draft.

    The draft is the matrices before plus one update per layer, rounded once, as whoever replays the batch makes it.

    Args:
        lm: the model with the draft in it; the caller holds its lock.
        facts: the batch.
        prefixes: of the session; a fact that begins with its subject is read after the first, as when it was edited.
        settings: of the session; a method whose update follows from R, K and P alone.
        preservation: by layer, P before the batch.
        draft: the matrices with the updates in them; written to.
        before: by layer, the exact matrices without them, from `exact_copies`.
        z: (d_model, n) float64, the wanted states.
        slack: s in S = s I.
        updates: by layer, as solved.

    Returns:
        by layer, the update of R with what was pushed; the same objects where nothing was.
    """
    found, layers, PK = dict(updates), settings.layers, {}
    for _ in range(settings.pushes):
        said = torch.tensor([answer.said for answer in answer_probabilities(lm, questions(facts))])
        if bool(said.all()):
            break
        h = KeyReader(lm, facts, prefixes[:1], layers).states(layers[0]).to(z)
        R = (z - h) * (~said).to(z) / len(layers)
        PK = PK or {layer: preservation[layer].times(found[layer].K) for layer in layers}
        for layer in layers:
            more = solve(R, found[layer].K, PK[layer], slack)
            found[layer] = replace(found[layer], A=found[layer].A + more.A)
            draft.exact[layer].copy_(before[layer])
            draft.add(lm, layer, found[layer])
    return found
