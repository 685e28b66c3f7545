"""One visitor: the edits on the model, what is being done, and what is looked at.

The edits live in an `EditSession`; nobody else's script ever sees it.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Sequence
from dataclasses import fields
from typing import Any, Literal

from dashboard.reading.model_readings import Readings
from dashboard.server import device_queue, limits
from dashboard.server.device_queue import Place
from dashboard.visitors.applying_edits import Dropped, Job, apply, done_message, refused_message, stopped_message
from dashboard.visitors.messages import Message
from dashboard.visitors.model_loading import DEFAULT_METHOD, Loading
from encore_core.editing.session import EditSession
from encore_core.errors import InputError
from encore_core.facts import Fact, check_batches
from encore_core.methods import SETTABLE, Settings
from encore_core.models.editable import EditableModel
from encore_core.models.settings import settings_of

log = logging.getLogger(__name__)


class Visitor:
    """One browser session: its edits, what is being done, and what it looks at.

    Attributes:
        loading: the model it uses.
        session: its edits of that model.
        job: the batches being applied, if any.
        message: the outcome of the last action.
        asked: what a button has asked for and the page has not done yet.
        left_line: whether it does not want to wait for the device; whatever would make it wait is then refused.
        draft, shown: the fact in the editor when the page last ran, and the fact that the results are about.
    """

    def __init__(self, loading: Loading):
        self.job: Job | None = None
        self.message: Message | None = None
        self.asked: Literal["apply", "undo", "reset"] | None = None
        self.left_line = False
        self._at_work = threading.Lock()
        self.draft: Fact | None = None
        self.shown: Fact | None = None
        self.use(loading)

    def renew(self) -> None:
        """Put everything back to how it was when the visitor came; the model stays."""
        self.message = self.draft = self.shown = self.asked = None
        self.left_line = False
        self.use(self.loading)

    def use(self, loading: Loading) -> None:
        """Change to a model that has been loaded; edits of the one before are dropped."""
        self.loading = loading
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
    def edited_facts(self) -> list[Fact]:
        """Every fact that is on the model, in order, the last edit of each only."""
        found: dict[tuple[str, str], Fact] = {}
        for batch in self.session.history:
            for item in batch.report.edited:
                if item.target is not None:
                    found.pop(item.fact.key, None)
                    found[item.fact.key] = item.fact
        return list(found.values())

    def is_edited(self, fact: Fact) -> bool:
        """Whether this fact, with this answer, is on the model."""
        return any(fact.key == other.key and fact.target_new == other.target_new for other in self.edited_facts)

    def _edits_changed(self) -> None:
        self._after = Readings(self.session.edited)

    # -- actions -------------------------------------------------------------------------------------------------------

    def begin(self, facts: Sequence[Fact], batch_size: int, known: Literal["refuse", "skip"]) -> None:
        """Line facts up for editing.

        Raises:
            InputError: when a batch of them cannot be edited, when they go beyond a limit of this server, or while
                others are being edited; nothing has been begun then.
        """
        if self.job is not None:
            raise InputError("Your edits before these are still being applied; wait for them, or stop them.")
        limits.check_edits(facts, batch_size, self.session.n_edits)
        batches, notices = check_batches(facts, batch_size)
        self.message, self.left_line = None, False
        self.job = Job(batches, known, notices=notices)

    def work(self, show: Callable[[str, float], None]) -> None:
        """Apply what is lined up, telling where it stands. Afterwards there is a message, and no job.

        Every batch is a turn of its own at the device, and stands in line for it.
        """
        # When a browser comes back, its script may begin again before the one before has noticed that it is to end.
        while not self._at_work.acquire(timeout=device_queue.TOLD_SECONDS):
            show("Finishing what was begun before", 0.0)
        try:
            if self.job is not None:
                self._work(self.job, show)
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

    def _end(self, job: Job, message: Message) -> bool:
        """A piece of work is over. When it is no longer the visitor's, neither its job nor what is said is touched.

        Returns:
            whether it was the visitor's.
        """
        if self.job is not job:
            self._correct_count(job)
            return False
        self.job, self.message = None, message
        return True

    def _correct_count(self, job: Job) -> None:
        """A batch may have come to its end after Stop had told how many there were."""
        if self.message == stopped_message(job.at - 1):
            self.message = stopped_message(job.at)

    def cancel(self) -> None:
        """Stop the batches that are being applied; those that are done stay."""
        if self.job is not None:
            done = self.job.at
            self.job = None
            self.message = stopped_message(done)

    def leave_line(self) -> None:
        """Stop waiting for the device: edits that wait are dropped, and what a page wants to read is not read."""
        self.left_line = True
        self.cancel()

    def ask_again(self) -> None:
        """Stand in line again."""
        self.left_line = False

    def check_waiting(self, place: Place) -> None:
        """Whether it still wants to wait; for `device_queue.tell_waiting`.

        Raises:
            InputError: when it does not.
        """
        if self.left_line:
            raise InputError("You have left the line for the model, so this is not read. Press Ask again to wait.")

    def undo(self) -> None:
        """Take the last batch back."""
        self.left_line = False
        try:
            batch = self.session.undo()
        except InputError as error:
            self.message = Message("error", str(error))
            return
        self._edits_changed()
        n_facts = sum(1 for item in batch.report.edited if item.target)
        left = self.session.n_edits
        what = "Undone: the last edit" if n_facts == 1 else f"Undone: the last batch of {n_facts} facts"
        rest = f"{left} still on the model." if left else "The model is as it was loaded, bit for bit."
        self.message = Message("success", f"{what}. {rest}")

    def load(self, session: EditSession) -> None:
        """Take over a session on the visitor's model, with edits that were kept, in place of the one there is.

        Raises:
            InputError: while edits are being applied.
        """
        if self.job is not None:
            raise InputError("Your edits are still being applied; wait for them, or stop them, and load again.")
        n_gone, self.session = self.session.n_edits, session
        self._edits_changed()
        self.shown = self.edited_facts[-1]
        n_edits = session.n_edits
        what = f"Loaded: {n_edits} edit{'s' * (n_edits != 1)} by {session.settings.method}"
        gone = f", in place of the {n_gone} that {'were' if n_gone != 1 else 'was'} on the model" if n_gone else ""
        self.message = Message("success", f"{what}{gone}. Undo takes them back batch by batch.")

    def reset(self) -> None:
        """Forget every edit. Cannot fail: when the session cannot be rewound, it is replaced."""
        self.job, self.left_line = None, False
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
    """Settings as overrides. Those equal to the table's values leave them validated, so all can be handed over."""
    return {item.name: getattr(settings, item.name) for item in fields(Settings) if item.name in SETTABLE}
