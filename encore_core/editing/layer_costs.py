"""Which blocks to edit: what a fact would cost general text at each, foretold before any edit.

For each block taken as the last edited one, targets of some facts are searched there, and each fact's cost is

    ½ δᵀFδ / (kᵀ C0⁻¹ k)        in nats per token of general text (see `foretold_damage`)

with δ what the search found and k the fact's key at that block. It is the least damage by which that block alone could
give the target. It says nothing of how well a fact carries over to paraphrases, or how long it lasts.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any

import torch

from encore_core.editing import foretold_damage
from encore_core.editing.covariance import files_used, second_moments
from encore_core.editing.keys import KeyReader
from encore_core.editing.shared_by_sessions import gradients_kept, shared_prefixes
from encore_core.editing.target_loss import target_settings
from encore_core.editing.targets import optimise_targets
from encore_core.editing.update_rule import inverse_preservation
from encore_core.errors import InputError
from encore_core.facts import Fact
from encore_core.methods import Settings
from encore_core.models.editable import EditableModel, Progress
from encore_core.models.settings import settings_of

REACHED = ("mpes", "loss")
"""Ways in which a search stops that mean: the model would say it."""

NEAR = 0.95
"""A block counts for the proposal if at least this share of the facts that the best block reaches is reached there."""


@dataclass(frozen=True)
class BlockCost:
    """What facts cost at one block.

    Attributes:
        layer: the block, as the last edited one.
        damage: of each fact, in nats per token, in the order of the facts.
        steps: gradient steps of each.
        reached: of each, whether the search came to where the model would say it.
    """

    layer: int
    damage: tuple[float, ...]
    steps: tuple[int, ...]
    reached: tuple[bool, ...]

    @property
    def median_damage(self) -> float:
        """The median over facts, in nats per token."""
        return median(self.damage)

    @property
    def share_reached(self) -> float:
        """The share of facts that were reached."""
        return sum(self.reached) / len(self.reached)

    def as_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        means = {"median_damage": self.median_damage, "median_steps": median(self.steps)}
        return asdict(self) | means | {"share_reached": self.share_reached}


def candidates(n_layers: int) -> tuple[int, ...]:
    """Blocks that are tried: all but the last, or every second one of a model with more than 16."""
    return tuple(range(0, n_layers - 1, 2 if n_layers > 16 else 1))


def layer_costs(
    lm: EditableModel,
    facts: Sequence[Fact],
    method: str = "ENCORE-N",
    layers: Sequence[int] | None = None,
    *,
    settings: dict[str, Any] | None = None,
    seed: int = 0,
    text: Path | None = None,
    progress: Progress | None = None,
) -> list[BlockCost]:
    """What facts would cost at each of some blocks.

    Args:
        lm: the model; it is read with its base weights.
        facts: some dozens say enough.
        method: whose search finds the targets.
        layers: blocks, each taken as the last edited one; by default `candidates`.
        settings: overrides of the method's.
        seed: of the sampled prefixes.
        text: for statistics, as for `EditSession`.
        progress: called with the share done.

    Returns:
        an entry per block, in order.

    Raises:
        InputError: no facts, facts that do not fit the model, unknown settings, or a method without targets.
    """
    if not facts:
        raise InputError("There is no fact to search a target for; give at least one.")
    layers = candidates(lm.n_layers) if layers is None else tuple(layers)
    tell = progress or (lambda what, share: None)
    own = [settings_of(lm, method, (settings or {}) | {"layers": (layer,)}) for layer in layers]
    if own[0].from_gradients:
        raise InputError(f"{own[0].method} edits without targets; choose a method that has them.")
    files = files_used(lm, layers, own[0].statistics_tokens, text)
    with lm.lock, lm.matrices_replaced({}):
        C0s = second_moments(lm, layers, own[0].statistics_tokens, text, progress, files)
        Fs = gradients_kept(lm, files, text, progress)
        prefixes = shared_prefixes(lm, seed)
    found = []
    for number, (layer, of_layer) in enumerate(zip(layers, own, strict=True)):
        tell(f"Searching targets at block {layer}", number / len(layers))
        # Between two blocks others may use the model.
        with lm.lock, lm.matrices_replaced({}):
            found.append(_cost(lm, facts, prefixes, of_layer, C0s[layer], Fs[layer]))
    return found


def _cost(
    lm: EditableModel,
    facts: Sequence[Fact],
    prefixes: Sequence[str],
    settings: Settings,
    C0: torch.Tensor,
    F: torch.Tensor,
) -> BlockCost:
    """What facts cost at the one block of these settings; C0 and F are those of this block."""
    [layer] = settings.layers
    targets = optimise_targets(lm, facts, prefixes, layer, target_settings(settings), F=F)
    keys = KeyReader(lm, facts, prefixes, (layer,)).keys(layer).cpu()
    # λn keeps the inverse finite where text says nothing of a direction, as in ENCORE's P.
    inverse = inverse_preservation(C0, 1.0, (settings.lambda_n or 1.0) / settings.lambda_p)
    delta = torch.stack([target.z - target.h for target in targets]).cpu()
    return BlockCost(
        layer,
        tuple(foretold_damage.of_facts(F, delta, inverse, keys).tolist()),
        tuple(target.steps for target in targets),
        tuple(target.stopped in REACHED for target in targets),
    )


def proposed(costs: Sequence[BlockCost], n_layers: int) -> tuple[int, ...]:
    """The blocks to edit that the costs speak for: those up to the cheapest block at which facts are reached.

    Args:
        costs: from `layer_costs`.
        n_layers: how many blocks to edit, at most.
    """
    best = max(cost.share_reached for cost in costs)
    last = min((cost for cost in costs if cost.share_reached >= NEAR * best), key=lambda cost: cost.median_damage).layer
    return tuple(range(max(0, last - n_layers + 1), last + 1))
