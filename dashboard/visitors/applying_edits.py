"""Applying a visitor's batches, and the words for the progress and the outcome."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal

from dashboard.charts.labels import percent
from dashboard.reading import fact_words
from dashboard.server import device_queue
from dashboard.visitors.messages import Message
from encore_core.editing.batch_report import BatchReport, EditProgress, OnProgress
from encore_core.editing.retraction import told
from encore_core.editing.session import EditSession
from encore_core.errors import InputError
from encore_core.facts import Fact
from encore_core.methods import Settings


@dataclass
class Job:
    """Batches that are being applied; if a rerun of the page interrupts them, the next run resumes.

    Attributes:
        batches: all of them.
        known: what to do with facts that the model already says, as in `EditSession.edit`.
        at: index of the batch to apply next.
        n_edited: facts edited so far.
        notices: for the user, when all is done.
    """

    batches: list[list[Fact]]
    known: Literal["refuse", "skip"]
    at: int = 0
    n_edited: int = 0
    notices: list[str] = field(default_factory=list)


class Dropped(Exception):
    """The batches that a script applies are no longer wanted: they were stopped, or replaced by others."""


def apply(
    job: Job,
    session: EditSession,
    show: Callable[[str, float], None],
    *,
    is_wanted: Callable[[], bool],
    edits_changed: Callable[[], None],
    edit: Callable[[list[Fact], Literal["refuse", "skip"], OnProgress], BatchReport] | None = None,
) -> BatchReport | None:
    """Apply the remaining batches of a job, each as a separate turn at the device.

    Args:
        job: the batches; it is updated while they are applied.
        session: takes the edits.
        show: gets the words and the share for a progress bar.
        is_wanted: whether the visitor still wants this job.
        edits_changed: called when a batch has been applied.
        edit: applies one batch, given what to do with known facts and whom to tell; by default the session does.

    Returns:
        the report of the last batch; None where all had been applied before.

    Raises:
        Dropped: when the job is no longer wanted.
        InputError: when a batch cannot be edited.
    """
    n_batches, report = len(job.batches), None
    edit = edit or (lambda facts, known, tell: session.edit(facts, known=known, on_progress=tell))

    def go_on(progress: EditProgress) -> None:
        # Stopping usually interrupts the script; one that missed it must not go on unnoticed.
        if not is_wanted():
            raise Dropped
        show(*_progress(progress, job.at + 1, n_batches, session.settings))

    show("Getting ready", 0.0)
    session.prepare(lambda what, share: show(what, 0.0))
    while job.at < n_batches:
        if not is_wanted():
            raise Dropped
        batch, number = job.batches[job.at], job.at + 1
        with device_queue.work(device_queue.EDIT, len(batch)):
            report = edit(batch, job.known, go_on)
        # Do not call Streamlit between these lines: a rerun could apply the batch twice.
        job.at = number
        job.n_edited += sum(1 for item in report.edited if item.is_edited)
        job.notices += report.notices
        edits_changed()
    return report


def _progress(p: EditProgress, number: int, n_batches: int, settings: Settings) -> tuple[str, float]:
    """The words and the share for a progress bar. Finding targets takes nearly all of a batch's time."""
    batch = f"Batch {number} of {n_batches} · " if n_batches > 1 else ""
    if p.phase == "targets":
        loss = f" · loss {p.loss:.3f}" if p.loss is not None else ""
        facts = f" · {p.done} of {p.total} facts done" if p.total > 1 else ""
        within = 0.9 * max(p.done / p.total, min(1.0, p.step / settings.steps))
        what = "Following the gradient" if settings.from_gradients else "Looking for the target"
        words = f"{batch}{what} · step {p.step} of at most {settings.steps}{loss}{facts}"
    else:
        within = 0.9 + 0.1 * p.done / p.total
        words = f"{batch}Updating layer {p.done} of {p.total}"
    return words, (number - 1 + min(1.0, within)) / n_batches


def done_message(job: Job, last: BatchReport) -> Message:
    """The message when all batches are on the model; `last` is the report of the last one."""
    notices = " ".join(job.notices[:3]) + (f" … and {len(job.notices) - 3} more." if len(job.notices) > 3 else "")
    if not job.n_edited:
        return Message("warning", f"Nothing was edited. {notices}".strip())
    if job.n_edited == 1 and len(job.batches) == 1:
        item = next(item for item in last.edited if item.is_edited)
        before, after = percent(item.probability_before), percent(item.probability_after)
        what = f"Applied. {item.fact.target_new}: {before} → {after} in {sum(last.seconds.values()):.1f} s."
    else:
        in_batches = f" in {len(job.batches)} batches" if len(job.batches) > 1 else ""
        what = f"Edited {job.n_edited} fact{'s' * (job.n_edited != 1)}{in_batches}."
    return Message("warning" if job.notices else "success", f"{what} {notices}".strip())


def refused_message(job: Job, error: InputError) -> Message:
    """The message when a batch cannot be edited: which one, why, and what is on the model."""
    n_batches = len(job.batches)
    where = f"Batch {job.at + 1} of {n_batches}: " if n_batches > 1 else ""
    so_far = f" The {job.at} batches before it are on the model." if job.at > 1 else \
        " The batch before it is on the model." if job.at else ""  # fmt: skip
    return Message("error", f"{where}{error}{so_far}")


def stopped_message(n_batches: int) -> Message:
    """The message when the visitor has stopped a job after some of its batches."""
    return Message("info", f"Stopped. Batches applied before that: {n_batches}.")


def retracted_message(report: BatchReport) -> Message:
    """The message when edits have been taken back: which, and what that left behind."""
    gone = ", ".join(fact_words.short(one.fact) for one in report.retracted)
    is_back = all(one.is_back is not False for one in report.retracted)
    return Message("success" if is_back else "warning", f"Taken back: {gone}. {'. '.join(told(report))}.")
