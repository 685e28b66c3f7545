"""Targets brought to one norm: NAS (arXiv 2602.02543).

At the subject's last token of the plain prompt let v₀ be the output of the MLP of the last edited layer and h that of
the block. A search gives δ, and so v* = v₀ + δ, the output that the MLP should have. The anchor a is the mean of ‖v*‖
over facts on the unedited model, found once per model and layer. Then

    v* ← a v* / ‖v*‖,        z = (h − v₀) + v*

and a fact with ‖v*‖ > 2a is not edited: its target is one that drags other facts along.
"""

from __future__ import annotations

import hashlib
import json
import logging
import math
from collections.abc import Sequence
from dataclasses import astuple, replace

import torch

from encore_core.autograd import gradients
from encore_core.editing.target_loss import TargetSettings, target_settings
from encore_core.editing.targets import Target, optimise_targets
from encore_core.errors import InputError, quoted
from encore_core.facts import Fact, read_facts
from encore_core.forward.prompts import batches_by_length, encode_contexts, pad, tokens_of_pass
from encore_core.forward.tracing import run, tensor_of
from encore_core.models.editable import EditableModel, Progress
from encore_core.models.settings import settings_of
from encore_core.storage import data_folder, replacing

log = logging.getLogger(__name__)

LARGEST_LEFT_OUT = 0.05
"""Share of facts, those with the largest ‖v*‖, that do not count for the anchor."""

MOST_NORMS = 2.0
"""A fact with a larger ‖v*‖ than this many anchors is not edited."""

AT_ONCE = 50
"""Facts whose targets are searched for together."""


@torch.no_grad()
def mlp_outputs(lm: EditableModel, facts: Sequence[Fact], prefixes: Sequence[str], layer: int) -> torch.Tensor:
    """v₀: the outputs of a block's MLP matrix at the subjects, in the plain prompts.

    Args:
        lm: the model as it is to be read; the caller holds its lock.
        facts: any.
        prefixes: those of the search for targets, because v₀ and h must come from the same context (see `prompts`).
        layer: index of the block.

    Returns:
        (n, d_model) float32.
    """
    rows = [contexts[0] for contexts in encode_contexts(lm, facts, prefixes[:1])]
    found = torch.empty(len(rows), lm.d_model, device=lm.device)
    for group in batches_by_length([row.lookup + 1 for row in rows], tokens_of_pass(lm)):
        batch = pad(lm, [rows[i].ids[: rows[i].lookup + 1] for i in group])
        seen: list[torch.Tensor] = []
        keep = lambda module, inputs, output, seen=seen: seen.append(tensor_of(output))  # noqa: E731
        handle = lm.down_projections[layer].register_forward_hook(keep)
        try:
            run(lm, batch.ids, batch.mask, stop=layer + 1)
        finally:
            handle.remove()
        places = torch.tensor([rows[i].lookup for i in group], device=seen[0].device)
        output = seen[0].view(*batch.ids.shape, -1)
        found[torch.tensor(group, device=lm.device)] = output[torch.arange(len(group)), places].to(found)
    return found


def brought_to_norm(
    lm: EditableModel,
    facts: Sequence[Fact],
    targets: Sequence[Target],
    prefixes: Sequence[str],
    layer: int,
    anchor: float,
) -> list[Target | None]:
    """Targets whose v* has the anchor's norm; None for a fact that is not edited because its own is more than twice it.

    Args:
        lm: the model that the targets were found on, in the same state; the caller holds its lock.
        facts, targets: of a batch.
        prefixes: with which the targets were found.
        layer: the last edited block.
        anchor: a.

    Raises:
        InputError: when a target is not finite.
    """
    found: list[Target | None] = []
    for fact, target, v0 in zip(facts, targets, mlp_outputs(lm, facts, prefixes, layer), strict=True):
        v = v0.to(target.z) + target.z - target.h
        norm = float(v.norm())
        if not math.isfinite(norm):
            raise InputError(
                f"The target of {quoted(fact.text)} is not finite: earlier edits have broken the model; reset the "
                "session, or edit fewer facts."
            )
        z = target.z - v + v * (anchor / norm) if norm else target.z
        found.append(replace(target, z=z) if norm <= MOST_NORMS * anchor else None)
    return found


def in_proportion(
    facts: Sequence[Fact], found: Sequence[Target | None]
) -> tuple[list[Fact], list[Target], tuple[Fact, ...]]:
    """The facts that are edited, their targets, and the facts that are not, from `brought_to_norm`."""
    pairs = [(fact, target) for fact, target in zip(facts, found, strict=True) if target is not None]
    far = tuple(fact for fact, target in zip(facts, found, strict=True) if target is None)
    return [fact for fact, _ in pairs], [target for _, target in pairs], far


def too_far(fact: Fact) -> str:
    """A line for people about a fact that is not edited."""
    return (
        f"Not edited: {quoted(fact.text)} → {quoted(fact.target_new)} needs an output of the MLP more than "
        f"{MOST_NORMS:g} times as long as usual (NAS leaves such facts alone)."
    )


# -- the anchor --------------------------------------------------------------------------------------------------------


def anchor_of(lm: EditableModel, layer: int, n_facts: int, progress: Progress | None = None) -> float:
    """a of a model and block, from the data folder where it has been found before.

    Args:
        lm: the model.
        layer: the last edited block.
        n_facts: over how many facts of the bundled set.
        progress: called while it is found.
    """
    settings = target_settings(settings_of(lm, "MEMIT"))
    name = anchor_name(layer, n_facts, settings)
    if ("anchor", name) in lm.shared:
        return lm.shared["anchor", name]
    file = data_folder() / "anchors" / lm.texts_key / name
    try:
        found = float(json.loads(file.read_text(encoding="utf-8"))["anchor"])
    except FileNotFoundError:
        found = _measured(lm, layer, settings, n_facts, progress)
        _write(file, {"anchor": found, "facts": n_facts})
    except (OSError, ValueError, TypeError, KeyError) as error:
        log.warning("The anchor in %s cannot be read (%s); it is found again.", file, error)
        found = _measured(lm, layer, settings, n_facts, progress)
        _write(file, {"anchor": found, "facts": n_facts})
    lm.shared["anchor", name] = found
    return found


def anchor_name(layer: int, n_facts: int, settings: TargetSettings) -> str:
    """The name of an anchor's file, and with "anchor" its key in `EditableModel.shared`."""
    digest = hashlib.sha256(repr(astuple(settings)).encode()).hexdigest()[:12]
    return f"layer{layer}-{n_facts}-{digest}.json"


def mean_without_largest(norms: torch.Tensor) -> float:
    """The mean of norms (n,) without the largest of them, see `LARGEST_LEFT_OUT`."""
    n = len(norms) - int(len(norms) * LARGEST_LEFT_OUT)
    return float(norms.sort().values[:n].mean())


@gradients(False)
def _measured(
    lm: EditableModel, layer: int, settings: TargetSettings, n_facts: int, progress: Progress | None
) -> float:
    facts = _readable(lm, tuple(read_facts("bundled", limit=n_facts)))
    norms = []
    with lm.matrices_replaced({}):
        for start in range(0, len(facts), AT_ONCE):
            some = facts[start : start + AT_ONCE]
            if progress is not None:
                progress(f"Anchor of NAS: {start} of {len(facts)} facts", start / len(facts))
            targets = optimise_targets(lm, some, (), layer, settings)
            delta = torch.stack([target.z - target.h for target in targets])
            norms.append((mlp_outputs(lm, some, (), layer).to(delta) + delta).norm(dim=-1).cpu())
    return mean_without_largest(torch.cat(norms))


def _readable(lm: EditableModel, facts: tuple[Fact, ...]) -> list[Fact]:
    """The facts that the model's tokenizer can write."""

    def fits(some: Sequence[Fact]) -> bool:
        try:
            encode_contexts(lm, some, ())
        except InputError:
            return False
        return True

    return list(facts) if fits(facts) else [fact for fact in facts if fits([fact])]


def _write(file, values: dict) -> None:
    try:
        with replacing(file) as part:
            part.write_text(json.dumps(values), encoding="utf-8")
    except OSError as error:
        log.warning("The anchor cannot be written to %s (%s).", file, error)
