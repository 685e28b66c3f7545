"""One visitor: the edits on the model, the work at hand, and what is shown.

The edits live in an `EditSession`; nobody else's script ever sees it.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Sequence
from dataclasses import fields
from typing import Any, Literal

from dashboard.reading import fact_words
from dashboard.reading.model_readings import Readings
from dashboard.server import device_queue, limits
from dashboard.server.device_queue import Place
from dashboard.visitors.applying_edits import (
    Dropped,
    Job,
    apply,
    done_message,
    refused_message,
    retracted_message,
    stopped_message,
)
from dashboard.visitors.comparison import Column, Comparison
from dashboard.visitors.messages import Message
from dashboard.visitors.model_loading import DEFAULT_METHOD, Loading
from encore_core.editing.comparison import Arm
from encore_core.editing.session import EditSession
from encore_core.errors import InputError
from encore_core.facts import Fact, check_batches
from encore_core.methods import SETTABLE, Settings
from encore_core.models.editable import EditableModel
from encore_core.models.settings import settings_of

log = logging.getLogger(__name__)

Asked = Literal["apply", "compare", "undo", "retract", "reset"]


class Visitor:
    """One browser session: its edits, the work at hand, and what it shows.

    Attributes:
        loading: the model it uses.
        session: its edits of that model.
        comparison: several methods side by side, while they are shown; `session` waits behind them, unchanged.
        job: the batches being applied to `session`, if any.
        message: the outcome of the last action.
        asked: what a button has asked for and the page has still to do.
        to_retract: number of the edit that is to be taken back then.
        left_line: whether it refuses to wait for the device; work that would make it wait is then refused.
        draft, shown: the fact in the editor when the page last ran, and the fact that the results are about.
    """

    def __init__(self, loading: Loading):
        self.job: Job | None = None
        self.message: Message | None = None
        self.asked: Asked | None = None
        self.to_retract: int | None = None
        self.left_line = False
        self._at_work = threading.Lock()
        self.draft: Fact | None = None
        self.shown: Fact | None = None
        self.use(loading)

    def renew(self) -> None:
        """Reset everything to how it was when the visitor came; the model stays."""
        self.message = self.draft = self.shown = self.asked = None
        self.left_line = False
        self.use(self.loading)

    def use(self, loading: Loading) -> None:
        """Change to another loaded model; edits on the previous one are dropped."""
        self.loading, self.comparison = loading, None
        self.start_over(settings_of(loading.lm, DEFAULT_METHOD), seed=0)

    def start_over(self, settings: Settings, seed: int) -> None:
        """An empty session with other settings."""
        self.session = EditSession(self.lm, settings.method, seed=seed, settings=overrides_of(settings))
        self.job = None
        self._edits_changed()

    @property
    def lm(self) -> EditableModel:
        return self.loading.lm

    @property
    def before(self) -> Readings:
        """Readings of the model as loaded."""
        return self.loading.before

    @property
    def after(self) -> Readings:
        """Readings of the model with this visitor's edits; the same object as `before` when there are none."""
        return self._after if self.session.history else self.before

    @property
    def is_busy(self) -> bool:
        """Whether edits are being applied."""
        return self.job is not None or (self.comparison is not None and self.comparison.is_working)

    @property
    def n_edits(self) -> int:
        """Facts on the model of its session, and of every method that it compares."""
        return self.session.n_edits + (self.comparison.n_edits if self.comparison else 0)

    def nbytes(self) -> int:
        """Bytes of memory that its edits hold."""
        compared = self.comparison.columns if self.comparison else ()
        sessions = [self.session, *(column.session for column in compared if column.session is not None)]
        return sum(session.nbytes() for session in sessions)

    @property
    def n_sessions(self) -> int:
        """Sessions that it holds."""
        return 1 + (self.comparison.n_sessions if self.comparison else 0)

    @property
    def edited_facts(self) -> list[Fact]:
        """Every fact that is on the model, in order, only the last edit of each."""
        return [edit.fact for edit in self.session.live_edits()]

    def is_edited(self, fact: Fact) -> bool:
        """Whether this fact, with this answer, is on the model."""
        return any(fact.key == other.key and fact.target_new == other.target_new for other in self.edited_facts)

    def _edits_changed(self) -> None:
        self._after = Readings(self.session.edited)

    # -- actions -------------------------------------------------------------------------------------------------------

    def begin(self, facts: Sequence[Fact], batch_size: int, known: Literal["refuse", "skip"]) -> None:
        """Queue facts for editing.

        Raises:
            InputError: when a batch of them cannot be edited, when they go beyond a limit of this server, or while
                others are being edited. Nothing is begun then.
        """
        self._check_free()
        if self.comparison is not None:
            self._begin_side_by_side(self.comparison, facts, batch_size, known)
            return
        # What was taken back still counts: the history keeps it, so that it can be undone.
        limits.check_edits(facts, batch_size, len(self.session.edits()))
        batches, notices = check_batches(facts, batch_size)
        self.message, self.left_line = None, False
        self.job = Job(batches, known, notices=notices)

    def compare(
        self, arms: Sequence[Arm], seed: int, facts: Sequence[Fact], batch_size: int, known: Literal["refuse", "skip"]
    ) -> None:
        """Queue facts for a new comparison, each method on the unedited model. A comparison from before is dropped.

        Args:
            arms: the methods with their settings.
            seed: of the sampled prefixes.
            facts, batch_size, known: as for `begin`.

        Raises:
            InputError: as `begin`, and for methods that cannot be compared. The comparison from before stays then.
        """
        self._check_free()
        comparison = Comparison(self.lm, arms, seed)
        self._begin_side_by_side(comparison, facts, batch_size, known)
        self.comparison = comparison

    def _check_free(self) -> None:
        if self.is_busy:
            raise InputError("Your edits before these are still being applied; wait for them, or stop them.")

    def _begin_side_by_side(
        self, comparison: Comparison, facts: Sequence[Fact], batch_size: int, known: Literal["refuse", "skip"]
    ) -> None:
        limits.check_edits(facts, batch_size, self.session.n_edits + comparison.n_edits, comparison.n_sessions)
        batches, notices = check_batches(facts, batch_size)
        self.message, self.left_line = None, False
        comparison.begin(batches, known, notices)

    def work(
        self, show: Callable[[str, float], None], finished: Callable[[Column], None] = lambda column: None
    ) -> None:
        """Apply what is queued, reporting its progress. Afterwards there is a message, and nothing is queued.

        Every batch is a separate turn at the device, and waits in line for it.

        Args:
            show: gets the words and the share for a progress bar.
            finished: called with every column of a comparison that is done.
        """
        # When a browser comes back, its script may start again before the previous one has noticed that it must end.
        while not self._at_work.acquire(timeout=device_queue.TOLD_SECONDS):
            show("Finishing what was begun before", 0.0)
        try:
            if self.job is not None:
                self._work(self.job, show)
            elif self.comparison is not None and self.comparison.is_working:
                self._compare(self.comparison, show, finished)
        finally:
            self._at_work.release()

    def _work(self, job: Job, show: Callable[[str, float], None]) -> None:
        try:
            report = apply(
                job, self.session, show, is_wanted=lambda: self.job is job, edits_changed=self._edits_changed
            )
            if self._end(job, done_message(job, report)):
                self.shown = job.batches[-1][0] if len(job.batches) == 1 else job.batches[0][0]
        except Dropped:
            self._correct_count(job)
        except InputError as error:
            self._end(job, refused_message(job, error))
        except Exception:
            log.exception("editing failed")
            self._end(job, Message("error", "This edit failed inside the program; the model is as it was before it. "
                                   "The reason is in the server's log."))  # fmt: skip

    def _compare(
        self, comparison: Comparison, show: Callable[[str, float], None], finished: Callable[[Column], None]
    ) -> None:
        try:
            message = comparison.work(show, lambda: self.comparison is comparison, finished)
        except Dropped:
            return
        self.message = message
        self.shown = next(iter(comparison.edited_facts[-1:]), self.shown)

    def _end(self, job: Job, message: Message) -> bool:
        """End a job with a message. If the job is no longer the visitor's, neither job nor message is touched.

        Returns:
            whether the job was the visitor's.
        """
        if self.job is not job:
            self._correct_count(job)
            return False
        self.job, self.message = None, message
        return True

    def _correct_count(self, job: Job) -> None:
        """Correct the message of Stop: a batch may have ended after it was counted."""
        if self.message == stopped_message(job.at - 1):
            self.message = stopped_message(job.at)

    def cancel(self) -> None:
        """Stop what is being applied; batches that are done stay."""
        if self.comparison is not None and self.comparison.is_working:
            self.message = self.comparison.stop()
        if self.job is not None:
            done = self.job.at
            self.job = None
            self.message = stopped_message(done)

    def leave_line(self) -> None:
        """Stop waiting for the device: edits that wait are dropped, and pages do not read what they would wait for."""
        self.left_line = True
        self.cancel()

    def ask_again(self) -> None:
        """Join the queue again."""
        self.left_line = False

    def check_waiting(self, place: Place) -> None:
        """Check that it still wants to wait; for `device_queue.tell_waiting`.

        Raises:
            InputError: when it does not.
        """
        if self.left_line:
            raise InputError("You left the queue, so this was not computed. Press Ask again to rejoin it.")

    def keep(self, column: Column) -> None:
        """Take a column of the comparison over as the visitor's own session, in place of the one before.

        Raises:
            InputError: while edits are being applied, or for a column without edits.
        """
        self._check_free()
        if column.session is None or not column.n_edits:
            raise InputError(f"{column.label} has no edits that could be kept.")
        n_gone, self.session, self.comparison = self.session.n_edits, column.session, None
        self._after = column.after
        n_edits = column.n_edits
        gone = f", in place of the {n_gone} that {'were' if n_gone != 1 else 'was'} on your model" if n_gone else ""
        what = f"Kept: {n_edits} edit{'s' * (n_edits != 1)} by {column.label}"
        self.message = Message("success", f"{what}{gone}. The other columns are gone.")

    def close_comparison(self) -> None:
        """Drop the comparison; the visitor's own session is as it was."""
        self.comparison, self.message = None, None

    def undo(self) -> None:
        """Take the last batch back, from all columns of a comparison."""
        self.left_line = False
        if self.comparison is not None:
            self._undo_side_by_side(self.comparison)
            return
        try:
            batch = self.session.undo()
        except InputError as error:
            self.message = Message("error", str(error))
            return
        self._edits_changed()
        n_facts = sum(1 for item in batch.report.edited if item.is_edited)
        left = self.session.n_edits
        if batch.is_retraction:
            back = ", ".join(fact_words.short(one.fact) for one in batch.report.retracted)
            self.message = Message("success", f"Undone: what was taken back is on the model again: {back}.")
            return
        what = "Undone: the last edit" if n_facts == 1 else f"Undone: the last batch of {n_facts} facts"
        if left:
            rest = f"{left} still on the model."
        elif self.session.history:  # taking edits back leaves the matrices near those loaded, not at them
            rest = "No edit is left on the model."
        else:
            rest = "The model is as it was loaded, bit for bit."
        self.message = Message("success", f"{what}. {rest}")

    def _undo_side_by_side(self, comparison: Comparison) -> None:
        n_undone = comparison.undo()
        if not n_undone:
            self.message = Message("error", "There is nothing to undo: no method of the comparison has an edit.")
            return
        columns = f"{n_undone} column{'s' * (n_undone != 1)}"
        left = max(column.n_edits for column in comparison.columns)
        rest = f"{left} fact{'s' * (left != 1)} still edited." if left else "All are as loaded, bit for bit."
        self.message = Message("success", f"Undone in {columns}: the last batch. {rest}")

    def ask_to_retract(self, number: int) -> None:
        """Ask the next run of the page to take an edit back."""
        self.asked, self.to_retract = "retract", number

    def retract(self) -> None:
        """Take the edit back that was asked for, whichever it is."""
        self.left_line = False
        number, self.to_retract = self.to_retract, None
        try:
            self._check_free()
            report = self.session.retract([number])
        except InputError as error:
            self.message = Message("error", str(error))
            return
        self._edits_changed()
        self.message = retracted_message(report)

    def load(self, session: EditSession) -> None:
        """Replace the session by another one on the visitor's model, with saved edits.

        Raises:
            InputError: while edits are being applied.
        """
        if self.is_busy:
            raise InputError("Your edits are still being applied; wait for them, or stop them, and load again.")
        n_gone, self.session, self.comparison = self.session.n_edits, session, None
        self._edits_changed()
        self.shown = next(iter(self.edited_facts[-1:]), None)  # a file may hold edits that were taken back
        n_edits = session.n_edits
        what = f"Loaded: {n_edits} edit{'s' * (n_edits != 1)} by {session.settings.method}"
        gone = f", in place of the {n_gone} that {'were' if n_gone != 1 else 'was'} on the model" if n_gone else ""
        self.message = Message("success", f"{what}{gone}. Undo takes them back batch by batch.")

    def reset(self) -> None:
        """Forget every edit. Cannot fail: when the session cannot be rewound, it is replaced.

        Beside a comparison it takes back what was edited there and closes it; the visitor's own edits are as they were.
        """
        self.job, self.left_line = None, False
        if self.comparison is not None:
            n_columns, own = len(self.comparison.columns), self.session.n_edits
            self.comparison = None
            rest = f"Your own {own} edit{'s are' if own != 1 else ' is'} on the model, as before." if own else (
                "The model is as it was loaded, bit for bit.")  # fmt: skip
            self.message = Message("success", f"Reset: the comparison of {n_columns} methods is taken back. {rest}")
            return
        n_edits = self.session.n_edits
        try:
            self.session.reset()
        except Exception:
            log.exception("reset failed; starting a new session")
            self.start_over(self.session.settings, self.session.seed)
        self._edits_changed()
        what = f"{n_edits} edit{'s' * (n_edits != 1)} taken back" if n_edits else "there were no edits"
        self.message = Message("success", f"Reset: {what}. The model is as it was loaded, bit for bit.")


def overrides_of(settings: Settings) -> dict[str, Any]:
    """Settings as overrides. Values equal to the table's leave it validated, so all can be passed on."""
    return {item.name: getattr(settings, item.name) for item in fields(Settings) if item.name in SETTABLE}
