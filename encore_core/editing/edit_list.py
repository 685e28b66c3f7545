"""The edits of a history one by one: which are on the model, which were overwritten or taken back, which can be."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch

from encore_core.editing.batch_report import AppliedBatch, EditedFact, Place
from encore_core.errors import InputError, quoted
from encore_core.facts import Fact

Wanted = Fact | tuple[str, str] | int
"""An edit to take back: the fact, its `key`, or the edit's number."""


@dataclass(frozen=True)
class MadeEdit:
    """An edit of a history.

    Attributes:
        number: from 1, in the order in which the edits were made; skipped facts and retractions do not count.
        place: its batch and its number in it.
        edited: what the batch did to the fact, with the probabilities before and right after it.
        ended_by: index in the history of the entry that overwrote it or took it back; None while it is live.
        retracted: whether that entry took it back.
    """

    number: int
    place: Place
    edited: EditedFact
    ended_by: int | None = None
    retracted: bool = False

    @property
    def fact(self) -> Fact:
        return self.edited.fact

    @property
    def batch(self) -> int:
        """Index in the history of the batch that made it."""
        return self.place[0]

    @property
    def is_live(self) -> bool:
        """Whether it is on the model: neither overwritten nor taken back."""
        return self.ended_by is None

    def __str__(self) -> str:
        return f"{quoted(self.fact.text)} → {quoted(self.fact.target_new)}"


def made_edits(history: Sequence[AppliedBatch]) -> list[MadeEdit]:
    """Every edit of a history, in order.

    A later edit of the same fact overwrites an earlier one, even where the earlier one was not taken out first, as in
    edit files of version 1.
    """
    edits: dict[Place, MadeEdit] = {}
    live: dict[tuple[str, str], Place] = {}

    def end(place: Place, by: int, retracted: bool) -> None:
        edit = edits[place]
        if edit.is_live:
            edits[place] = replace(edit, ended_by=by, retracted=retracted)
            live.pop(edit.fact.key)

    for index, batch in enumerate(history):
        for place in batch.ended:
            end(place, index, batch.is_retraction)
        for column, item in enumerate(item for item in batch.report.edited if item.is_edited):
            if item.fact.key in live:
                end(live[item.fact.key], index, False)
            live[item.fact.key] = index, column
            edits[index, column] = MadeEdit(len(edits) + 1, (index, column), item)
    return list(edits.values())


def live_edits(history: Sequence[AppliedBatch]) -> list[MadeEdit]:
    """The edits that are on the model, in the order in which they were made."""
    return [edit for edit in made_edits(history) if edit.is_live]


def overwritten(
    history: Sequence[AppliedBatch], facts: Sequence[Fact], takes_back: bool = True
) -> tuple[tuple[Place, ...], list[str]]:
    """The edits that have to be taken out before some facts are edited, or with them when they are taken back.

    Args:
        history: of the session.
        facts: to be edited, or taken back.
        takes_back: whether the method can take edits out; else there are none, and the new edit comes on top.

    Returns:
        every edit of these facts that is still in the matrices, in order; and a line for people about each that is
        live.
    """
    keys, gone = {fact.key for fact in facts}, {place for batch in history for place in batch.ended}
    same = [edit for edit in made_edits(history) if edit.fact.key in keys and edit.place not in gone]
    happens = "is taken back, and this one takes its place" if takes_back else "stays, and this one comes on top of it"
    lines = [f"{edit} was edited in batch {edit.batch + 1}; that edit {happens}." for edit in same if edit.is_live]
    return tuple(edit.place for edit in same if takes_back), lines


def keys_of(history: Sequence[AppliedBatch], places: Sequence[Place], layer: int) -> torch.Tensor:
    """The keys of some edits at a layer, (d_mlp, n)."""
    return torch.stack([history[batch].updates[layer].K[:, column] for batch, column in places], dim=1)


def chosen_edits(history: Sequence[AppliedBatch], wanted: Sequence[Wanted]) -> list[MadeEdit]:
    """The live edits that somebody wants to take back, each once, in the order in which they were made.

    Args:
        history: of the session.
        wanted: facts, their keys, or numbers of edits.

    Raises:
        InputError: for none, and for an edit that was never made, was overwritten, or was taken back already.
    """
    if not wanted:
        raise InputError("There is no edit to take back; name at least one.")
    edits = made_edits(history)
    found = [_one(edits, one) for one in wanted]
    for edit in found:
        if edit.retracted:
            raise InputError(f"{edit} was taken back already, in batch {edit.ended_by + 1}.")
        if not edit.is_live:
            raise InputError(f"{edit} was edited again in batch {edit.ended_by + 1}; take that one back.")
    numbers = {edit.number for edit in found}
    return [edit for edit in edits if edit.number in numbers]


def _one(edits: Sequence[MadeEdit], wanted: Wanted) -> MadeEdit:
    """The last edit that is meant."""
    if isinstance(wanted, int):
        if not 1 <= wanted <= len(edits):
            right = f"give a number from 1 to {len(edits)}" if edits else "no edit has been made"
            raise InputError(f"There is no edit number {wanted}; {right}.")
        return edits[wanted - 1]
    key = wanted.key if isinstance(wanted, Fact) else tuple(wanted)
    same = [edit for edit in edits if edit.fact.key == key]
    if isinstance(wanted, Fact):
        same = [edit for edit in same if edit.fact.target_new == wanted.target_new]
    if not same:
        what = f"{quoted(wanted.text)} → {quoted(wanted.target_new)}" if isinstance(wanted, Fact) else quoted(str(key))
        raise InputError(f"{what} is not among the {len(edits)} edits of this session, so it cannot be taken back.")
    return same[-1]
