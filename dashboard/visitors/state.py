"""What outlives a rerun: models loaded once per server, and each visitor's own edits.

Models are loaded on threads of their own, so that a visitor who leaves does not stop the loading for those who wait.
A visitor's edits live in an `EditSession` in Streamlit's session state; nobody else's script ever sees it.
"""

from __future__ import annotations

import logging
import os
import threading
import weakref
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, fields
from typing import Any, Literal

import streamlit as st

from dashboard.charts.text import percent
from dashboard.reading.probes import Readings
from dashboard.server import device_queue, limits
from dashboard.server.device_queue import DeviceQueue, Place
from encore_core.editing.report import BatchReport, EditProgress
from encore_core.editing.session import EditSession
from encore_core.errors import InputError
from encore_core.facts import Fact, check_batches, read_facts
from encore_core.methods import SETTABLE, Settings
from encore_core.models.editable import EditableModel, load_model
from encore_core.models.settings import settings_of

log = logging.getLogger(__name__)

DEFAULT_MODEL = "smollm2-135m"
DEFAULT_METHOD = "ENCORE"
EXPECTED_PARTS = 6
"""Of getting a model ready: unpacking, loading and looking through it, its statistics, prefixes, and the check of the
fast pass."""

KEPT_MODELS = 2
"""Loaded models that the server keeps for the next visitor, beside those in use."""


# -- models, one for all visitors --------------------------------------------------------------------------------------


class Loading:
    """A model being loaded, or loaded: where it stands, for everybody who waits for it.

    Attributes:
        what, share: what is being done, and how much of it, from 0 to 1.
        lm: the model once it is there. Its lock is the line for its device.
        before: readings of the model as loaded, shared by all visitors.
        error: one line on why it could not be loaded.
        done: set in either case.
    """

    def __init__(self, name: str, device: str, dtype: str, queue_of: Callable[[str], DeviceQueue]):
        self.what, self.share = "Starting", 0.0
        self.lm: EditableModel | None = None
        self.before: Readings | None = None
        self.error: str | None = None
        self.done = threading.Event()
        self._parts, self._from = 0, 0.0
        self._queue_of = queue_of
        threading.Thread(target=self._load, args=(name, device, dtype), daemon=True).start()

    def _load(self, name: str, device: str, dtype: str) -> None:
        try:
            lm = load_model(name, device, dtype, progress=self._tell)
            lm.lock = self._queue_of(str(lm.device))
            # The statistics belong to getting ready: the first edit is then as fast as any other.
            EditSession(lm, DEFAULT_METHOD).prepare(self._tell)
            self.before = Readings(lambda: _pristine(lm))
            self.lm = lm
        except InputError as error:
            self.error = str(error)
        except Exception:
            log.exception("loading %r failed", name)
            self.error = f"Model {name!r} could not be loaded; the reason is in the server's log."
        finally:
            self.done.set()

    def _tell(self, what: str, share: float) -> None:
        """What is being done, and a bar that never goes back, whatever the parts of it say of themselves."""
        # Behind a colon stands how far a part is.
        if what.partition(":")[0] != self.what.partition(":")[0]:
            self._parts += 1
            self._from = self.share
        self.what = what
        left = 1.0 - self._from
        self.share = max(self.share, self._from + left * share / max(2, EXPECTED_PARTS - self._parts))

    def wait(self, show: Callable[[str, float], None]) -> None:
        """Return when it is done; meanwhile tell where it stands a few times a second."""
        while not self.done.wait(0.2):
            show(self.what, self.share)


@contextmanager
def _pristine(lm: EditableModel) -> Iterator[EditableModel]:
    with lm.matrices_replaced({}):
        yield lm


class Models:
    """The models of this server, each loaded once, and who uses them.

    Attributes:
        visitors: those there are. Held weakly: a visitor ends with the session in which it is.
    """

    def __init__(self) -> None:
        self.visitors: weakref.WeakSet[Visitor] = weakref.WeakSet()
        self._loadings: OrderedDict[tuple[str, str, str], Loading] = OrderedDict()
        self._queues: dict[str, DeviceQueue] = {}
        self._lock = threading.Lock()

    def queue(self, device: str) -> DeviceQueue:
        """The line for a device: one for all models on it."""
        with self._lock:
            return self._queues.setdefault(device, DeviceQueue())

    def queues(self) -> dict[str, DeviceQueue]:
        """Device → its line."""
        with self._lock:
            return dict(self._queues)

    def loadings(self) -> list[Loading]:
        """Models that are loaded, or being loaded, those included that only visitors hold any more."""
        with self._lock:
            kept = list(self._loadings.values())
        return list(dict.fromkeys([*kept, *(visitor.loading for visitor in list(self.visitors))]))

    def enter(self, loading: Loading) -> Visitor:
        """A new visitor.

        Raises:
            InputError: when there is no room for one more.
        """
        with self._lock:
            limits.check_room(len(self.visitors))
            newcomer = Visitor(loading)
            self.visitors.add(newcomer)
            return newcomer

    def get(self, name: str, device: str = "auto", dtype: str = "auto") -> Loading:
        """The loading of a model, begun now if it was not before. One that failed is tried again."""
        key = (name, device, dtype)
        with self._lock:
            known = self._loadings.get(key)
            if known is None or known.error is not None:
                known = self._loadings[key] = Loading(*key, self.queue)
            self._loadings.move_to_end(key)
            finished = [other for other, loading in self._loadings.items() if loading.done.is_set() and other != key]
            for other in finished[: max(0, len(self._loadings) - KEPT_MODELS)]:
                del self._loadings[other]
            return known


@st.cache_resource(show_spinner=False, max_entries=1)
def models() -> Models:
    """The one `Models` of this server."""
    return Models()


@st.cache_resource(show_spinner=False, max_entries=1)
def bundled_facts() -> tuple[Fact, ...]:
    """The example facts that come with the program; immutable, so that all visitors can share them uncopied."""
    return tuple(read_facts("bundled"))


# -- one visitor -------------------------------------------------------------------------------------------------------


@dataclass
class Job:
    """Batches that are being applied; what a rerun of the page interrupts is taken up again by the next run.

    Attributes:
        batches: all of them.
        known: what happens to facts that the model says already, as in `EditSession.edit`.
        at: index of the batch to apply next.
        n_edited: facts edited so far.
        notices: what the user should know when all is done.
    """

    batches: list[list[Fact]]
    known: Literal["refuse", "skip"]
    at: int = 0
    n_edited: int = 0
    notices: list[str] = field(default_factory=list)


class _Dropped(Exception):
    """The batches that a script applies are no longer wanted: they were stopped, or others are in their place."""


@dataclass(frozen=True)
class Message:
    """One line for the visitor: `kind` is "error", "warning", "info" or "success"."""

    kind: str
    text: str


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
        session, n_batches = self.session, len(job.batches)

        def go_on(progress: EditProgress) -> None:
            # Stopping interrupts the script as a rule; one that has missed it must not go on behind the visitor's back.
            if self.job is not job:
                raise _Dropped
            show(*_progress(progress, job.at + 1, n_batches, session.settings))

        try:
            show("Getting ready", 0.0)
            session.prepare(lambda what, share: show(what, 0.0))
            while job.at < n_batches:
                if self.job is not job:
                    raise _Dropped
                batch, number = job.batches[job.at], job.at + 1
                with device_queue.work(device_queue.EDIT, len(batch)):
                    report = session.edit(batch, known=job.known, on_progress=go_on)
                # No call to Streamlit between these lines: a rerun could otherwise apply the batch twice.
                job.at = number
                job.n_edited += sum(1 for item in report.edited if item.target)
                job.notices += report.notices
                self._edits_changed()
            if self._end(job, _done_message(job, report)):
                self.shown = job.batches[-1][0] if n_batches == 1 else job.batches[0][0]
        except _Dropped:
            self._correct_count(job)
        except InputError as error:
            where = f"Batch {job.at + 1} of {n_batches}: " if n_batches > 1 else ""
            so_far = f" The {job.at} batches before it are on the model." if job.at else ""
            self._end(job, Message("error", f"{where}{error}{so_far}"))
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
        if self.message == _stopped_message(job.at - 1):
            self.message = _stopped_message(job.at)

    def cancel(self) -> None:
        """Stop the batches that are being applied; those that are done stay."""
        if self.job is not None:
            done = self.job.at
            self.job = None
            self.message = _stopped_message(done)

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


def _progress(p: EditProgress, number: int, n_batches: int, settings: Settings) -> tuple[str, float]:
    """The words and the share for a progress bar. Finding targets takes nearly all of a batch's time."""
    batch = f"Batch {number} of {n_batches} · " if n_batches > 1 else ""
    if p.phase == "targets":
        loss = f" · loss {p.loss:.3f}" if p.loss is not None else ""
        facts = f" · {p.done} of {p.total} facts done" if p.total > 1 else ""
        within = 0.9 * max(p.done / p.total, min(1.0, p.step / settings.steps))
        words = f"{batch}Looking for the target · step {p.step} of at most {settings.steps}{loss}{facts}"
    else:
        within = 0.9 + 0.1 * p.done / p.total
        words = f"{batch}Updating layer {p.done} of {p.total}"
    return words, (number - 1 + min(1.0, within)) / n_batches


def _done_message(job: Job, last: BatchReport) -> Message:
    notices = " ".join(job.notices[:3]) + (f" … and {len(job.notices) - 3} more." if len(job.notices) > 3 else "")
    if not job.n_edited:
        return Message("warning", f"Nothing was edited. {notices}".strip())
    if job.n_edited == 1 and len(job.batches) == 1:
        item = next(item for item in last.edited if item.target)
        before, after = percent(item.probability_before), percent(item.probability_after)
        what = f"Applied. {item.fact.target_new}: {before} → {after} in {sum(last.seconds.values()):.1f} s."
    else:
        in_batches = f" in {len(job.batches)} batches" if len(job.batches) > 1 else ""
        what = f"Edited {job.n_edited} facts{in_batches}."
    return Message("warning" if job.notices else "success", f"{what} {notices}".strip())


def _stopped_message(n_batches: int) -> Message:
    return Message("info", f"Stopped. Batches applied before that: {n_batches}.")


def usual_model() -> Loading:
    """The loading of the model that visitors begin with, begun now if it was not before."""
    return models().get(os.environ.get("ENCORE_MODEL") or DEFAULT_MODEL)


def visitor(show: Callable[[str, float], None]) -> Visitor:
    """This browser session's `Visitor`, made on its first run.

    Args:
        show: told how the loading of the model gets on.

    Raises:
        InputError: when the model cannot be loaded.
    """
    known = st.session_state.get("visitor")
    if known is None:
        loading = usual_model()
        loading.wait(show)
        if loading.error:
            raise InputError(loading.error)
        known = st.session_state["visitor"] = models().enter(loading)
    return known


def current() -> Visitor:
    """The visitor of a page: the frame has made it before any page runs."""
    return st.session_state["visitor"]


KEEP: dict[str, Any] = {"persist_state": "session"}
"""Of a widget: its value is there when the visitor comes back to the page."""


def remembered(key: str, value: Any) -> Any:
    """A widget's value from the session state, set to `value` when it has none yet."""
    return st.session_state.setdefault(key, value)
