"""The entries of a history as rows and tensors of an edit file, and back."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch

from encore_core.editing.batch_report import (
    SAID,
    AnswerChange,
    AppliedBatch,
    BatchReport,
    EditedFact,
    OtherEdits,
    Place,
    RetractedFact,
)
from encore_core.editing.edit_file_values import CHANGES, PROBABILITIES, SERIES, fact_of, is_edited
from encore_core.editing.shared_by_sessions import solve_device
from encore_core.editing.targets import Target
from encore_core.editing.update_rule import LowRankUpdate
from encore_core.errors import InputError
from encore_core.facts import Fact
from encore_core.models.editable import EditableModel

KEPT = {"joining": "d_mlp", "missed": "d_model", "queue": "1", "gradient": "d_model", "token_gradient": "d_model"}
"""What methods keep of an update beside A, Y and K, see `LowRankUpdate`, and how many rows each has."""

ROWS = {"A": "d_model", "Y": "d_mlp", "K": "d_mlp", **KEPT}

REMOVED = "removed."
"""Begins the names of the tensors that took earlier edits out."""


def tensors_of(number: int, batch: AppliedBatch) -> Iterator[tuple[str, torch.Tensor]]:
    """The tensors of an entry by name, on the CPU."""
    for before, updates in ((REMOVED, batch.removed), ("", batch.updates)):
        for layer, update in updates.items():
            for name, tensor in update.tensors.items():
                yield f"{number}.{before}{name}.{layer}", tensor.cpu().contiguous()
    targets = [item.target for item in batch.report.edited if item.target]
    for name in ("z", "h") if targets else ():
        yield f"{number}.{name}", torch.stack([getattr(target, name).cpu() for target in targets], 1).contiguous()


def row_of(batch: AppliedBatch) -> dict[str, Any]:
    """Everything else of an entry, as plain JSON values."""
    edited = []
    for item in batch.report.edited:
        row = {"fact": item.fact.to_dict(), "before": item.probability_before, "after": item.probability_after}
        if item.probability_bare is not None:
            row["bare"] = item.probability_bare
        if item.target:
            row |= {"steps": item.steps, "stopped": item.stopped}
            row |= {name: list(getattr(item.target, name)) for name in SERIES}
        elif item.outcome != SAID:
            row["outcome"] = item.outcome
            row |= {"passes": item.passes} if item.passes != 1 else {}
        edited.append(row)
    report = batch.report
    norms = {str(layer): list(pair) for layer, pair in report.norms.items()}
    row = {"edited": edited, "seconds": report.seconds, "norms": norms, "notices": list(report.notices)}
    if batch.ended:
        row["ended"] = list(map(list, batch.ended))
    if report.retracted:
        row["retracted"] = list(map(_retracted_row, report.retracted))
    if batch.is_retraction and batch.updates:
        row["restored"] = next(iter(batch.updates.values())).Y.shape[1]
    if report.others is not None:
        row["others"] = vars(report.others)
    return row


def batch_of(
    number: int, row: Mapping[str, Any], tensors: Mapping[str, torch.Tensor], layers: Sequence[int], lm: EditableModel
) -> AppliedBatch:
    """The entry that a row and its tensors describe.

    Args:
        number: of the entry, from 0.
        row: checked by `edit_file_values.check_values`.
        tensors: of the whole file.
        layers: edited blocks.
        lm: the model that the edits belong to.

    Raises:
        InputError: for a fact or tensor that cannot be used.
    """

    def take(name: str, rows: int, columns: int, dtype: torch.dtype) -> torch.Tensor:
        tensor = tensors.get(f"{number}.{name}")
        if tensor is None or tensor.shape != (rows, columns) or not columns or tensor.dtype != dtype:
            raise InputError(f"Batch {number + 1} of the edit file has no usable tensor {name}; it is damaged.")
        # A copy in torch's own memory: the file is mapped, and may be gone before the session is.
        return tensor.clone()

    def updates(before: str, columns: int) -> dict[int, LowRankUpdate]:
        found = {}
        for layer in layers if columns else ():
            # Files of version 1 hold no keys.
            names = [name for name in ("K", *KEPT) if f"{number}.{before}{name}.{layer}" in tensors]
            here = dict.fromkeys(("A", "Y", *names), columns)
            factor = tensors.get(f"{number}.{before}A.{layer}")
            width = 0 if factor is None or factor.ndim != 2 else factor.shape[1]
            if "queue" in names:  # A and Y have columns for the batch before, too, or one for each row of W
                here |= {"A": width, "Y": width, "queue": 3}
            elif "gradient" in names:  # a column is a token
                here = dict.fromkeys(here, width)
            elif "token_gradient" in names:  # A and Y have a column for each row of W, the others one for each token
                here |= dict.fromkeys(("A", "Y"), width)
                here |= dict.fromkeys(names, tensors[f"{number}.{before}token_gradient.{layer}"].shape[-1])
            rows = {"d_model": lm.d_model, "d_mlp": lm.d_mlp, "1": 1}
            factors = {
                name: take(f"{before}{name}.{layer}", rows[ROWS[name]], width, torch.float64).to(solve_device(lm))
                for name, width in here.items()
            }
            kept = {name: factors.pop(name) for name in KEPT if name in factors}
            found[layer] = LowRankUpdate(**factors, kept=kept)
        return found

    n_targets = sum("steps" in item for item in row["edited"])
    n_solved = row.get("restored", sum(map(is_edited, row["edited"])))
    edited = _edited(row["edited"], [take(name, lm.d_model, n_targets, torch.float32) for name in "zh" if n_targets])
    report = BatchReport(
        edited,
        {phase: float(value) for phase, value in row["seconds"].items()},
        {layer: tuple(map(float, row["norms"][str(layer)])) for layer in layers},
        tuple(row["notices"]),
        tuple(map(_retracted, row.get("retracted", ()))),
        OtherEdits(**row["others"]) if row.get("others") is not None else None,
    )
    ended = tuple((batch, column) for batch, column in row.get("ended", ()))
    return AppliedBatch(report, updates("", n_solved), ended, updates(REMOVED, len(ended)))


def live_facts(rows: Sequence[Mapping[str, Any]]) -> list[Fact]:
    """The facts of rows that are on the model, in order: neither skipped, nor overwritten, nor taken back."""
    facts: dict[Place, Fact] = {}
    live: dict[tuple[str, str], Place] = {}
    for number, row in enumerate(rows):
        for batch, column in row.get("ended", ()):
            key = facts[batch, column].key
            if live.get(key) == (batch, column):
                del live[key]
        for column, item in enumerate(item for item in row["edited"] if is_edited(item)):
            fact = facts[number, column] = fact_of(item.get("fact"))
            live.pop(fact.key, None)
            live[fact.key] = number, column
    return [facts[place] for place in live.values()]


def _edited(rows: Sequence[Mapping[str, Any]], states: Sequence[torch.Tensor]) -> tuple[EditedFact, ...]:
    """What a batch did to its facts; `states` are their z and h, (d_model, n) each, if it edited any."""
    edited, column = [], 0
    for item in rows:
        target = None
        if "steps" in item:
            series = {name: tuple(map(float, item[name])) for name in SERIES}
            z, h = (state[:, column].clone() for state in states)
            target = Target(z, h, item["steps"], item["stopped"], **series)
            column += 1
        before, after, bare = (_optional(item.get(name)) for name in PROBABILITIES)
        outcome = item.get("outcome", SAID)
        passes = item.get("passes", 1)
        edited.append(EditedFact(fact_of(item.get("fact")), target, before, after, bare, outcome, passes))
    return tuple(edited)


def _retracted_row(one: RetractedFact) -> dict[str, Any]:
    row = {"fact": one.fact.to_dict(), "batch": one.batch, "new": vars(one.new), "is_back": one.is_back}
    return row | ({"own": vars(one.own)} if one.own is not None else {})


def _retracted(row: Mapping[str, Any]) -> RetractedFact:
    new, own = (
        AnswerChange(change["text"], *(_optional(change.get(name)) for name in CHANGES)) if change else None
        for change in (row["new"], row.get("own"))
    )
    return RetractedFact(fact_of(row.get("fact")), row["batch"], new, own, row.get("is_back"))


def _optional(value: float | None) -> float | None:
    return None if value is None else float(value)
