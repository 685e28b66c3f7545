"""One batch: its targets, keys and updates, solved on a draft of a session's matrices."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace

import torch

from encore_core.editing.batch_report import (
    BY_GRADIENT,
    SAID,
    TOO_FAR,
    EditedFact,
    EditProgress,
    OnProgress,
    Place,
)
from encore_core.editing.edited_matrices import Sums
from encore_core.editing.helpers import Helpers
from encore_core.editing.keys import KeyReader
from encore_core.editing.lyapunov import LyapunovMemory
from encore_core.editing.main_directions import weakened
from encore_core.editing.norm_anchor import brought_to_norm, in_proportion
from encore_core.editing.push import exact_copies, pushed
from encore_core.editing.shared_by_sessions import solve_device
from encore_core.editing.target_loss import TargetSettings, target_settings
from encore_core.editing.targets import Target, optimise_targets
from encore_core.editing.update_rule import LowRankUpdate, solve
from encore_core.editing.what_is_kept import Memory
from encore_core.errors import InputError
from encore_core.facts import Fact, check_batch
from encore_core.methods import Settings
from encore_core.models.editable import EditableModel


def batched(facts: Sequence[Fact], batch_size: int) -> Iterator[list[Fact]]:
    """Facts in order, `batch_size` at a time.

    Raises:
        InputError: when the size is below 1.
    """
    if batch_size < 1:
        raise InputError(f"Batch size {batch_size} is too small; give a whole number from 1.")
    for start in range(0, len(facts), batch_size):
        yield list(facts[start : start + batch_size])


FindTargets = Callable[[Sequence[Fact], OnProgress | None], Sequence[Target]]
"""Finds one target per fact, called with the session's matrices in the model."""

GivenTargets = Sequence[Target] | FindTargets | None


def checked_facts(facts: Sequence[Fact], targets: GivenTargets, known: str) -> tuple[list[Fact], list[str]]:
    """The distinct facts of a batch, and notices about those that were dropped.

    Args:
        facts: as given.
        targets: one per fact, if they have been found already.
        known: see `EditSession.edit`.

    Raises:
        InputError: no facts, facts that contradict each other, or targets that do not match them.
    """
    given = len(facts)
    facts, notices = check_batch(facts)
    if not facts:
        raise InputError("There is no fact to edit; give at least one.")
    if isinstance(targets, Sequence) and (known != "edit" or not len(targets) == len(facts) == given):
        raise InputError(
            f"{len(targets)} targets are given for {given} facts, {len(facts)} of them different; give one for "
            'each, facts without repetition, and known="edit".'
        )
    return facts, notices


@dataclass(frozen=True)
class SolvedBatch:
    """A batch that is solved and can be committed.

    Attributes:
        draft: the edited matrices with the batch in them.
        updates: by layer.
        preservation: by layer, the P that they were solved with, before the batch is added to what is preserved.
        targets: one per fact; None for methods without targets.
        seconds: by phase.
        far: the facts that are not edited, because their targets are out of proportion (see `norm_anchor`).
        anchor: what their norms were compared with; None without it.
        F: what turned the steps of the search; None for searches without it.
        ended, removed: earlier edits that were taken out first, see `AppliedBatch`.
        notices: things the user should know, one line each.
        passes: gradient steps of each fact, where they were edited without targets.
    """

    draft: Sums
    updates: dict[int, LowRankUpdate]
    preservation: dict[int, Memory]
    targets: tuple[Target | None, ...]
    seconds: dict[str, float]
    ended: tuple[Place, ...] = ()
    removed: dict[int, LowRankUpdate] = field(default_factory=dict)
    far: tuple[Fact, ...] = ()
    anchor: float | None = None
    F: torch.Tensor | None = None
    notices: tuple[str, ...] = ()
    passes: int = 1

    @classmethod
    def of_nothing(cls, sums: Sums) -> SolvedBatch:
        """A batch whose facts were all skipped: the matrices stay as they are."""
        return cls(sums, {}, {}, (), no_seconds())


def solve_batch(
    lm: EditableModel,
    facts: Sequence[Fact],
    prefixes: Sequence[str],
    settings: Settings,
    preservation: dict[int, Memory],
    draft: Sums,
    *,
    targets: GivenTargets = None,
    fast_targets: bool = True,
    F: torch.Tensor | None = None,
    anchor: float | None = None,
    helpers: Helpers | None = None,
    on_progress: OnProgress | None = None,
) -> SolvedBatch:
    """Find the targets, keys and updates of a batch.

    Args:
        lm: the model; the caller holds its lock.
        facts: the batch.
        prefixes: sampled prefixes.
        settings: of the session.
        preservation: by layer, P before the batch.
        draft: a draft of the session's matrices; the updates are added to it.
        targets: one per fact, if they have been found already, or what finds them; by default they are found here.
        fast_targets: use the fast pass where it agrees with the plain one, see `optimise_targets`.
        F: (d_model, d_model) at the last edited layer, for the natural gradient (see `search_step`).
        anchor: the norm that targets are brought to, see `norm_anchor`; None to take them as they are.
        helpers: who shares the work, see `helpers`; None to do all of it here.
        on_progress: called after steps and layers.

    Raises:
        InputError: when the batch cannot be solved, would change a matrix by more than `most_change`, or what comes out
            is not finite.
    """
    clock, far = Clock(seconds := no_seconds()), ()
    preservation = {layer: P.begun() for layer, P in preservation.items()}
    clock.add("update")
    with lm.matrices_replaced(draft.run):
        if callable(targets):
            targets = targets(facts, on_progress)
        search = helpers.find_targets if helpers is not None else find_targets
        targets = targets or search(
            lm, facts, prefixes, settings.layers[-1], target_settings(settings), F, fast_targets, on_progress
        )
        if anchor is not None:
            rescaled = brought_to_norm(lm, facts, targets, prefixes, settings.layers[-1], anchor)
            facts, targets, far = in_proportion(facts, rescaled)
        clock.add("targets")
        if not facts:
            return replace(SolvedBatch.of_nothing(draft), far=far)
        z, slack = torch.stack([target.z for target in targets], dim=1), settings.slack(len(facts))
        updates = add_updates(lm, facts, prefixes, settings, preservation, draft, z, slack, clock, on_progress, helpers)
        for layer in settings.layers:
            if not bool(torch.isfinite(draft.run[layer]).all()):
                raise InputError(
                    f"The update of layer {layer} is not finite; raise lambda_p or lower lr, or reset the session."
                )
        clock.add("update")
    return SolvedBatch(draft, updates, preservation, tuple(targets), seconds, far=far, anchor=anchor, F=F)


def find_targets(
    lm: EditableModel,
    facts: Sequence[Fact],
    prefixes: Sequence[str],
    layer: int,
    settings: TargetSettings,
    F: torch.Tensor | None,
    fast: bool,
    on_progress: OnProgress | None,
) -> list[Target]:
    """`optimise_targets`, which reports its steps as the progress of a batch."""
    tell = on_progress or (lambda progress: None)
    return optimise_targets(
        lm,
        facts,
        prefixes,
        layer,
        settings,
        F=F,
        fast=fast,
        on_step=lambda done, step, loss: tell(EditProgress("targets", done, len(facts), step, loss)),
    )


def add_updates(
    lm: EditableModel,
    facts: Sequence[Fact],
    prefixes: Sequence[str],
    settings: Settings,
    preservation: dict[int, Memory],
    draft: Sums,
    z: torch.Tensor,
    slack: float,
    clock: Clock,
    on_progress: OnProgress | None = None,
    helpers: Helpers | None = None,
) -> dict[int, LowRankUpdate]:
    """Solve layer by layer from the lowest, each with those below it edited, and add the updates to the draft.

    Args:
        lm: the model with the draft in it; the caller holds its lock.
        facts, prefixes, settings, preservation, draft, on_progress, helpers: as for `solve_batch`.
        z: (d_model, n), the wanted states.
        slack: s in S = s I.
        clock: takes the time.
    """
    s, device = settings, solve_device(lm)
    z = z.to(device, torch.float64)
    reader = (helpers.reader if helpers is not None else KeyReader)(lm, facts, prefixes, s.layers)
    updates: dict[int, LowRankUpdate] = {}
    before = exact_copies(draft, s.layers) if s.pushes else {}
    for j, layer in enumerate(s.layers):
        K = reader.keys(layer).to(device, torch.float64)
        h = reader.states(layer).to(device, torch.float64)
        clock.add("keys")
        R = (z - h) / (len(s.layers) - j)
        updates[layer] = layer_update(lm, layer, R, K, s, preservation[layer], draft, slack)
        draft.add(lm, layer, updates[layer])
        reader.added(layer, updates[layer])
        clock.add("update")
        if j + 1 < len(s.layers):
            reader.advance(layer, s.layers[j + 1])
        clock.add("keys")
        if on_progress is not None:
            on_progress(EditProgress("update", j + 1, len(s.layers)))
    if s.pushes:
        solved, updates = updates, pushed(lm, facts, prefixes, s, preservation, draft, before, z, slack, updates)
        for layer, update in updates.items():
            check_change(update, len(facts), layer, s)
        if any(updates[layer] is not solved[layer] for layer in s.layers):
            reader.replaced(updates)
        clock.add("update")
    return updates


def layer_update(
    lm: EditableModel,
    layer: int,
    R: torch.Tensor,
    K: torch.Tensor,
    settings: Settings,
    kept: Memory,
    draft: Sums,
    slack: float,
) -> LowRankUpdate:
    """The update of one layer, by the rule of the method.

    Args:
        lm, settings, draft, slack: as for `add_updates`.
        layer: which.
        R, K: (d_model, n) residuals and (d_mlp, n) keys, float64.
        kept: what the layer keeps of earlier batches.
    """
    s = settings
    if isinstance(kept, LyapunovMemory):
        with lm.matrices_replaced({}):
            original = lm.oriented(layer, lm.parameter(layer).data)
        W = lm.oriented(layer, draft.exact[layer])
        update = kept.update(R, K, W.to(R.device, torch.float64) - original.to(R.device, torch.float64))
    else:
        update = solve(R, K, kept.times(K), slack)
        if s.sphere_strength:
            W = lm.oriented(layer, draft.exact[layer]).to(R.device, torch.float64)
            update = weakened(update, W, s.sphere_strength, s.sphere_energy)
    check_change(update, R.shape[1], layer, s)
    return update


class TooLargeChange(InputError):
    """A batch that would change a matrix by more than `most_change`."""


def check_change(update: LowRankUpdate, n_facts: int, layer: int, settings: Settings) -> None:
    """Refuse an update that changes a matrix too much; without a limit in the settings none does.

    Raises:
        TooLargeChange: when ‖Δ‖/√n is above `most_change`, n facts.
    """
    most = settings.most_change
    change = update.norm() / n_facts**0.5 if most else 0.0
    if change > most:
        raise TooLargeChange(
            f"{settings.method} refuses this batch: it would change layer {layer} by ‖Δ‖/√n = {change:.3g}, more "
            f"than most_change = {most:g}. The batch was not edited; leave out facts, or raise most_change."
        )


def edited_facts(
    batch: SolvedBatch,
    facts: Sequence[Fact],
    edited: Sequence[Fact],
    before: Sequence[float | None],
    after: Sequence[float | None],
    bare: Sequence[float | None],
    by_gradient: bool,
) -> tuple[EditedFact, ...]:
    """What a batch did to each of its facts.

    Args:
        batch: solved.
        facts: all of the batch.
        edited: those that were edited, in the order of the batch's targets.
        before, after, bare: probabilities, one per fact, see `EditedFact`.
        by_gradient: whether they were edited without targets.
    """
    found, far = dict(zip(map(id, edited), batch.targets, strict=True)), {id(fact) for fact in batch.far}
    outcome = lambda key: TOO_FAR if key in far else BY_GRADIENT if by_gradient and key in found else SAID  # noqa: E731
    return tuple(
        EditedFact(fact, found.get(id(fact)), *measured, outcome(id(fact)), batch.passes)
        for fact, *measured in zip(facts, before, after, bare, strict=True)
    )


def no_seconds() -> dict[str, float]:
    """The phases of a batch, none of which has taken any time yet."""
    return {"targets": 0.0, "keys": 0.0, "update": 0.0}


class Clock:
    """Adds the time since its last call to a phase.

    Args:
        seconds: by phase; written to.
    """

    def __init__(self, seconds: dict[str, float]):
        self.seconds, self.last = seconds, time.perf_counter()

    def add(self, phase: str) -> None:
        """Add the time since the last call, or since the beginning, to a phase."""
        now = time.perf_counter()
        self.seconds[phase] += now - self.last
        self.last = now
