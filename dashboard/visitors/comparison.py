"""A visitor's comparison: a session for each of several methods, all given the same facts."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Literal

from dashboard.reading.model_readings import Readings
from dashboard.visitors.applying_edits import Dropped, Job, apply
from dashboard.visitors.messages import Message
from encore_core.editing.batch_report import BatchReport, OnProgress
from encore_core.editing.comparison import Arm, ComparedSessions
from encore_core.editing.session import EditSession
from encore_core.errors import InputError
from encore_core.facts import Fact
from encore_core.models.editable import EditableModel

log = logging.getLogger(__name__)

MOST_COLUMNS = 4
"""Methods side by side on a page; `encore compare` takes more."""


@dataclass(eq=False)
class Column:
    """One method of a comparison.

    Attributes:
        arm: the method with its settings, and what the column is called.
        session: its edits; None where the model cannot take these settings.
        after: readings of the model with these edits.
        error: what stopped it in the last work; it may have edits from before.
        seconds: that its last facts took, with the search if it was the first to need one.
        asked: of each of its batches, the press that asked for it and its number there, from 1.
    """

    arm: Arm
    session: EditSession | None
    after: Readings | None
    error: str | None = None
    seconds: float = 0.0
    asked: list[tuple[int, int]] = field(default_factory=list)

    @property
    def label(self) -> str:
        """What the column is called."""
        return self.arm.label

    @property
    def reports(self) -> list[BatchReport]:
        """What its batches did, in order."""
        return [batch.report for batch in self.session.history] if self.session else []

    @property
    def edited_facts(self) -> list[Fact]:
        """Every fact that is on its model, in order."""
        return [edit.fact for edit in self.session.live_edits()] if self.session else []

    @property
    def n_edits(self) -> int:
        """Facts that are on its model."""
        return self.session.n_edits if self.session else 0


@dataclass(eq=False)
class _Work:
    """Batches for every column, how far each is, and which press asked for them."""

    jobs: dict[str, Job]
    began: float
    press: int


class Comparison:
    """Columns that take the same facts, undo them together, and can be kept one at a time.

    Args:
        lm: the visitor's model.
        arms: two to `MOST_COLUMNS` methods.
        seed: of the sampled prefixes.

    Attributes:
        columns: in the order asked for.

    Raises:
        InputError: for too few or too many methods, and as `ComparedSessions`.
    """

    def __init__(self, lm: EditableModel, arms: Sequence[Arm], seed: int):
        if not 2 <= len(arms) <= MOST_COLUMNS:
            raise InputError(f"{len(arms)} methods are picked for a comparison; pick 2 to {MOST_COLUMNS}.")
        self._compared = ComparedSessions(lm, arms, seed=seed)
        self.seed = seed
        self.columns: list[Column] = []
        for arm in self._compared.arms:
            session = self._compared.sessions.get(arm.label)
            after = Readings(session.edited) if session else None
            self.columns.append(Column(arm, session, after, self._compared.refused.get(arm.label)))
        self._work: _Work | None = None
        self._presses = 0

    @property
    def arms(self) -> tuple[Arm, ...]:
        """The methods with their settings."""
        return self._compared.arms

    @property
    def n_edits(self) -> int:
        """Facts on the models of all columns together."""
        return sum(column.n_edits for column in self.columns)

    @property
    def n_sessions(self) -> int:
        """Sessions that it holds, each as large as a visitor's own."""
        return len(self._compared.sessions)

    @property
    def edited_facts(self) -> list[Fact]:
        """Every fact that is on the model of some column, in order, only the last edit of each."""
        found: dict[tuple[str, str], Fact] = {}
        for column in self.columns:
            for fact in column.edited_facts:
                found.pop(fact.key, None)
                found[fact.key] = fact
        return list(found.values())

    def is_edited(self, column: Column, fact: Fact) -> bool:
        """Whether this fact, with this answer, is on the model of a column."""
        return any(fact.key == one.key and fact.target_new == one.target_new for one in column.edited_facts)

    # -- work ----------------------------------------------------------------------------------------------------------

    @property
    def is_working(self) -> bool:
        """Whether there is something left to do."""
        return self._work is not None

    def begin(self, batches: Sequence[Sequence[Fact]], known: Literal["refuse", "skip"], notices: list[str]) -> None:
        """Queue batches for all columns."""
        taking = [column for column in self.columns if column.session is not None]
        for column in taking:
            column.error, column.seconds = None, 0.0
        jobs = {column.label: Job([list(batch) for batch in batches], known) for column in taking}
        if taking:
            jobs[taking[0].label].notices += notices
        self._presses += 1
        self._work = _Work(jobs, time.perf_counter(), self._presses)

    def is_done(self, column: Column) -> bool:
        """Whether nothing is left to do for a column."""
        job = self._work.jobs.get(column.label) if self._work else None
        return job is None or column.error is not None or job.at >= len(job.batches)

    def work(
        self,
        show: Callable[[str, float], None],
        is_wanted: Callable[[], bool],
        finished: Callable[[Column], None],
    ) -> Message:
        """Do what is queued, column by column; what an interruption left is taken up where it was.

        Args:
            show: gets the words and the share for a progress bar.
            is_wanted: whether the visitor still wants this.
            finished: called with every column that is done.

        Returns:
            the outcome for the visitor.

        Raises:
            Dropped: when it is no longer wanted.
        """
        work = self._work

        def still() -> bool:
            return work is not None and self._work is work and is_wanted()

        for place, column in enumerate(self.columns):
            if not still():
                raise Dropped
            if not self.is_done(column):
                self._do(column, work, place, show, still)
            finished(column)
        self._work = None
        return self._outcome(work)

    def _do(
        self,
        column: Column,
        work: _Work,
        place: int,
        show: Callable[[str, float], None],
        is_wanted: Callable[[], bool],
    ) -> None:
        n_columns, began, job = len(self.columns), time.perf_counter(), work.jobs[column.label]

        def show_here(words: str, share: float) -> None:
            show(f"{column.label}, {place + 1} of {n_columns} · {words}", (place + share) / n_columns)

        def edit(facts: list[Fact], known: Literal["refuse", "skip"], on_progress: OnProgress) -> BatchReport:
            return self._compared.edit(column.label, facts, known=known, on_progress=on_progress)

        def edits_changed() -> None:
            column.after = Readings(column.session.edited)
            if len(column.asked) < len(column.session.history):
                column.asked.append((work.press, job.at))

        try:
            apply(job, column.session, show_here, is_wanted=is_wanted, edits_changed=edits_changed, edit=edit)
        except InputError as error:
            column.error = str(error)
        except Dropped:
            raise
        except Exception:
            log.exception("editing with %s failed", column.label)
            column.error = "This edit failed inside the program; the reason is in the server's log."
        finally:
            column.seconds += time.perf_counter() - began

    def _outcome(self, work: _Work) -> Message:
        n_columns = len(self.columns)
        failed = [column.label for column in self.columns if column.error is not None]
        edited = [job.n_edited for job in work.jobs.values() if job.n_edited]
        told = " ".join(list(dict.fromkeys(notice for job in work.jobs.values() for notice in job.notices))[:3])
        if not edited:
            why = next((column.error for column in self.columns if column.error is not None), "")
            what = "No method could edit this." if why else "No method edited this."
            return Message("error" if why else "warning", " ".join(filter(None, (what, why, told))))
        facts = f"{min(edited)} to {max(edited)}" if min(edited) < max(edited) else f"{max(edited)}"
        what = f"{facts} fact{'s' * (max(edited) != 1)} edited with {len(edited)} of {n_columns} methods"
        why = f" {', '.join(failed)}: see the column." if failed else ""
        took = time.perf_counter() - work.began
        return Message("warning" if failed or told else "success", f"{what} in {took:.1f} s.{why} {told}".strip())

    def stop(self) -> Message:
        """Drop what is still to do; what is done stays."""
        done = [column.label for column in self.columns if column.session is not None and self.is_done(column)]
        left = [column.label for column in self.columns if not self.is_done(column)]
        for column in self.columns:
            if not self.is_done(column):
                column.error = "Stopped before this method was done."
        self._work = None
        told = f"Done: {', '.join(done)}. " if done else ""
        return Message("info", f"Stopped. {told}{'Not done: ' + ', '.join(left) + '.' if left else ''}".strip())

    # -- history -------------------------------------------------------------------------------------------------------

    def undo(self) -> int:
        """Take the batch that was asked for last back, from all columns that have it. Returns how many they are."""
        last = max((column.asked[-1] for column in self.columns if column.asked), default=None)
        undone = 0
        for column in self.columns:
            if column.asked and column.asked[-1] == last:
                column.session.undo()
                column.asked.pop()
                column.after, column.error = Readings(column.session.edited), None
                undone += 1
        return undone
