"""One run from where it stands to its end: edit, record, save, measure, and stop when asked.

    checkpoint 0 → [batch → record → save when due → measure when due] → … → done

What a batch did is recorded when it ends, for those who watch; what a resumed run goes on from is the last saved state,
and what was recorded behind it is dropped then. State is saved at every checkpoint, every few minutes and when the run
is stopped, always before the checkpoint is measured, so that a process killed while it measures has lost no edit.
"""

from __future__ import annotations

import logging
import math
import threading
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from encore_core import processes
from encore_core.editing.covariance import SAMPLED_TEXT, text_named
from encore_core.editing.report import BatchReport, EditedFact, EditProgress
from encore_core.editing.session import EditSession
from encore_core.editing.stored_statistics import folder_of as statistics_folder
from encore_core.errors import InputError, quoted
from encore_core.export.folder import versions
from encore_core.facts import Fact
from encore_core.forward.prompts import encode_contexts, encode_subject_prompts
from encore_core.methods import MARKS
from encore_core.models.editable import EditableModel, Progress, load_model
from encore_core.runs import key_statistics
from encore_core.runs.database import StoreError
from encore_core.runs.fact_order import batch_ends, checkpoints
from encore_core.runs.measuring import Measurer
from encore_core.runs.ownership import LostRun
from encore_core.runs.plan import RunPlan
from encore_core.runs.rows import BatchRecord, Claim, RunInfo, TargetRow, TrajectoryRow
from encore_core.runs.state import load_state, remove_others, save_matrices, save_state
from encore_core.runs.store import RunStore
from encore_core.runtime import return_freed_memory
from encore_core.storage import is_folder, named_path

log = logging.getLogger(__name__)

SAVE_SECONDS = 300.0
"""State is saved at the end of a batch when the last time was longer ago, whatever the checkpoints are."""

BEAT_SECONDS = 1.0
RECENT_BATCHES = 5
"""Batches from which speed and time left are told."""

CHECKED_AT_ONCE = 500
"""Facts that are tokenised together before the first edit."""


class Stopped(Exception):
    """The run has been asked to stop; carries "cancel" or "interrupt"."""


class Pulse:
    """Tells the store every second that a run lives and what it does, and hears from it whether it is to stop.

    A thread of its own, so that a long step of the run does not look like its death.

        with Pulse(store, claim) as pulse:
            pulse.tell(phase="editing", step=3)
            pulse.check()                        # raises Stopped
    """

    def __init__(self, store: RunStore, claim: Claim, seconds: float = BEAT_SECONDS):
        self.store, self.claim, self.seconds = store, claim, seconds
        self._detail: dict[str, Any] = {}
        self._stop: str | None = None
        self._lost = False
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._beat, name=f"pulse of {claim.id}", daemon=True)

    def __enter__(self) -> Pulse:
        self._thread.start()
        return self

    def __exit__(self, *_) -> None:
        self._over.set()
        self._thread.join()

    def tell(self, **detail: Any) -> None:
        """Say what the run does; values that stay are kept, None takes one away."""
        merged = self._detail | detail
        self._detail = {name: value for name, value in merged.items() if value is not None and _is_plain(value)}

    def ask(self, stop: str) -> None:
        """Ask the run to stop, as `store.cancel` and `store.interrupt` do."""
        self._stop = self._stop or stop

    def check(self) -> None:
        """Go on, or not.

        Raises:
            Stopped: when the run has been asked to stop.
            LostRun: when it is no longer this process's.
        """
        if self._lost:
            raise LostRun(self.claim.id)
        if self._stop:
            raise Stopped(self._stop)

    def _beat(self) -> None:
        while not self._over.wait(self.seconds):
            try:
                stop = self.store.beat(self.claim, self._detail)
            except LostRun:
                self._lost = True
                return
            except StoreError as error:
                # A full disk or a busy store is the run's to meet, in its own transactions.
                log.warning("No sign of life could be written: %s", error)
            except Exception:
                # Whatever it is, the next beat is tried: a run that hears nothing any more cannot be stopped.
                log.exception("No sign of life could be written.")
            else:
                self._stop = self._stop or stop


class ModelKeeper:
    """Keeps the last model loaded for the next run on it.

    What sessions share on a model was computed by so many threads, and another number of them may sum in another
    order: a model is kept for runs of the same number only. A folder that has changed is loaded anew.
    """

    def __init__(self) -> None:
        self._key: tuple | None = None
        self._lm: EditableModel | None = None

    def get(self, plan: RunPlan, threads: int, progress: Progress) -> EditableModel:
        """The model of a plan.

        Raises:
            InputError: as `models.load_model`.
        """
        key = (plan.model, plan.device, plan.dtype, plan.start_token, threads, _stamp(plan.model))
        if key != self._key:
            self._key, self._lm = None, None  # the old one goes before the new one comes
            self._lm = load_model(plan.model, plan.device, plan.dtype, progress, plan.start_token)
            self._key = key
        return self._lm


def execute(
    store: RunStore,
    claim: Claim,
    pulse: Pulse,
    models: ModelKeeper,
    *,
    threads: int,
    save_seconds: float = SAVE_SECONDS,
) -> None:
    """Bring a run that was claimed to its end.

    Args:
        store: where it is.
        claim: the caller's right to it.
        pulse: of the run, beating.
        models: gives its model.
        threads: of torch, for a run that starts; one that goes on takes the number it was started with.
        save_seconds: see `SAVE_SECONDS`.

    Raises:
        Stopped: when it was asked to stop; its state is saved.
        InputError: whatever is wrong with its facts, model, state or disk. The run is as it was.
        LostRun: when another process has taken it.
    """
    _Execution(store, claim, pulse, models, threads, save_seconds).run()


class _Execution:
    """A run in the making: what `execute` keeps while it is at it."""

    def __init__(
        self, store: RunStore, claim: Claim, pulse: Pulse, models: ModelKeeper, threads: int, save_seconds: float
    ):
        self.store, self.claim, self.pulse, self.save_seconds = store, claim, pulse, save_seconds
        self.info: RunInfo = store.get(claim.id)
        self.plan = self.info.plan
        self.folder = store.folder_of(claim.id)
        self.facts = store.facts(claim.id)
        self.ends = batch_ends(self.facts, self.plan.batch_size)
        self.checkpoints = set(checkpoints(self.ends, self.plan.checkpoint_every))
        kept = min(self.plan.measure.trajectory_facts, len(self.facts))
        self.trajectories = {number * len(self.facts) // kept for number in range(kept)}
        self.threads = self.info.threads or threads
        self.models = models
        self.recent: deque[tuple[int, float]] = deque(maxlen=RECENT_BATCHES)
        self.saved_at = time.monotonic()

    def run(self) -> None:
        session = self._session()
        self.done = self._restore(session)
        self._check_facts(session)
        self.pulse.tell(phase="getting ready", what="key statistics", share=0.0)
        session.prepare(self._show)
        session.stop_sharing()
        self._note_statistics(session)
        self.measurer = Measurer(self.plan, self.facts, self.ends, session)
        try:
            self._measure_if_due(session)
            for end in self.ends:
                if end > self.done:
                    self._batch(session, end)
                    self._measure_if_due(session)
        except (Stopped, LostRun) as reason:
            if isinstance(reason, Stopped) and self.done > self.store.get(self.claim.id).cursor:
                self._save(session)
            raise
        digest = save_matrices(self.folder, session.matrices())
        log.info("Done: %d edits; the edited matrices have the digest %s.", self.done, digest)
        self.store.finish(self.claim, "done", weights_digest=digest)
        remove_others(self.folder, ())

    # -- getting ready -------------------------------------------------------------------------------------------------

    def _session(self) -> EditSession:
        """A session with the run's settings on its model.

        Raises:
            InputError: when the model, or what the settings mean, is no longer what the run was started with.
        """
        info, plan = self.info, self.plan
        torch.set_num_threads(self.threads)
        self.pulse.tell(phase="loading", done=info.cursor, total=len(self.facts))
        lm = self.models.get(plan, self.threads, self._show)
        self.pulse.check()
        if info.fingerprint not in (None, lm.fingerprint):
            then = info.versions.get("model")
            raise InputError(
                f"The model {quoted(plan.model)} has changed since the run was started (fingerprint {lm.fingerprint}, "
                f"then {info.fingerprint}{f', {then}' if then else ''}); put the model back, or start a new run."
            )
        text, files = self._statistics(lm)
        session = EditSession(
            lm,
            plan.method,
            seed=plan.seed,
            settings=dict(plan.overrides),
            statistics_text=text,
            keep_history=False,
            statistics_files=files,
        )
        now = asdict(session.settings) | {"layers": list(session.settings.layers)}
        for name, value in info.settings.items():
            if name not in MARKS and now.get(name) != value:
                raise InputError(
                    f"Setting {name} is {quoted(now.get(name))} in this version of the program and was {quoted(value)} "
                    "when the run was started; use that version, or start a new run."
                )
        self.store.note(
            self.claim,
            fingerprint=lm.fingerprint,
            start_token=[lm.start_text] if lm.start_text is not None else [],
            threads=self.threads,
            # The commit that a name of the hub meant: a branch moves on.
            versions=versions() | ({"model": lm.origin} if lm.origin else {}),
            code_commit=processes.commit(),
        )
        log.info("%s on %s, %d threads, %s.", plan.method, plan.model, self.threads, lm.device)
        return session

    def _statistics(self, lm: EditableModel) -> tuple[Path | None, dict[int, Path] | None]:
        """The text and the files of the run's statistics: those it was submitted with, whatever was chosen since.

        Raises:
            InputError: when they are no longer what they were then.
        """
        info = self.info
        text = text_named(self.plan.statistics_text)
        if info.statistics_used and self.store.states(info.id):
            # The saved state holds what was made of them, so they need not even be there any more.
            folder = statistics_folder(lm.texts_key)
            return text or SAMPLED_TEXT, {row["layer"]: folder / row["file"] for row in info.statistics_used}
        if not info.statistics_wanted:  # submitted by an earlier version of the program
            return text, None
        n_tokens = info.settings["statistics_tokens"]
        return text or SAMPLED_TEXT, key_statistics.files_of(lm, info.statistics_wanted, n_tokens, text)

    def _note_statistics(self, session: EditSession) -> None:
        """Write down what the session has read; of a run that goes on that was done when it began."""
        if not self.done:
            self.store.note(self.claim, statistics_used=key_statistics.used(session.statistics_files))
        if used := self.store.get(self.claim.id).statistics_used:
            log.info("Key statistics: %s.", key_statistics.described(used))

    def _restore(self, session: EditSession) -> int:
        """Bring the session to where the run stands. Returns the number of facts handled."""
        saved = self.store.states(self.claim.id)
        edits = load_state(self.folder, saved, session) if saved else 0
        self.store.rewind(self.claim, edits)
        remove_others(self.folder, [state.file for state in saved if state.edits <= edits])
        if edits:
            log.info("Resumed after %d edits.", edits)
        self.pulse.tell(done=edits)
        return edits

    def _check_facts(self, session: EditSession) -> None:
        """Refuse facts that cannot be edited now, and not after hours when their turn comes."""
        lm = session.lm
        self.pulse.tell(phase="getting ready", what="facts")
        longest = max(session.prefixes, key=len)
        for start in range(self.done, len(self.facts), CHECKED_AT_ONCE):
            some = self.facts[start : start + CHECKED_AT_ONCE]
            try:
                _check_editable(lm, some, longest)
            except InputError:
                # One of them; which one, only each by itself tells.
                for place, fact in enumerate(some, start):
                    try:
                        _check_editable(lm, [fact], longest)
                    except InputError as error:
                        raise InputError(f"Fact {place + 1} of the run cannot be edited: {error}") from error
                raise
            self.pulse.check()

    def _show(self, what: str, share: float) -> None:
        self.pulse.tell(what=what, share=round(share, 3))
        self.pulse.check()

    # -- going on ------------------------------------------------------------------------------------------------------

    def _batch(self, session: EditSession, end: int) -> None:
        """Edit the facts up to `end`, record it, and save when it is time to."""
        start = self.done
        facts = self.facts[start:end]

        def tell(progress: EditProgress) -> None:
            self.pulse.tell(
                phase=progress.phase,
                what=None,
                share=None,
                batch_done=progress.done,
                batch_total=progress.total,
                step=progress.step,
                loss=progress.loss,
            )
            self.pulse.check()

        self.pulse.check()
        began = time.perf_counter()
        report = session.edit(facts, known=self.plan.known, measure=False, on_progress=tell)
        # What a batch's longest texts took is not kept for the rest of the run; memory that still grows is a leak.
        return_freed_memory()
        self.store.record_batch(self.claim, self._record(report, start, end, session))
        self.recent.append((end - start, time.perf_counter() - began))
        self.done = end
        self._tell_speed()
        for notice in report.notices:
            log.info("%s", notice)
        log.info("%d edits, %.2f s an edit.", end, self.recent[-1][1] / self.recent[-1][0])
        if end in self.checkpoints or time.monotonic() - self.saved_at > self.save_seconds:
            self._save(session)

    def _record(self, report: BatchReport, start: int, end: int, session: EditSession) -> BatchRecord:
        resident, peak = processes.memory_bytes()
        device = session.lm.device
        rows = list(zip(range(start, end), report.edited, strict=True))
        return BatchRecord(
            edits=end,
            facts=end - start,
            skipped=sum(1 for item in report.edited if item.target is None),
            seconds=report.seconds,
            targets=[_target_row(place, item) for place, item in rows],
            trajectories=[
                row for place, item in rows if place in self.trajectories for row in _trajectory(place, item)
            ],
            resident_bytes=resident,
            peak_bytes=peak,
            device_peak_bytes=torch.cuda.max_memory_allocated(device) if device.type == "cuda" else None,
        )

    def _save(self, session: EditSession) -> None:
        began = time.perf_counter()
        self.pulse.tell(phase="saving")
        # Only the newest state stays beside the one being written: a state of a large model is large.
        remove_others(self.folder, [state.file for state in self.store.states(self.claim.id)[:1]])
        saved = save_state(self.folder, self.done, session)
        self.store.record_state(self.claim, saved, time.perf_counter() - began)
        self.saved_at = time.monotonic()

    def _measure_if_due(self, session: EditSession) -> None:
        if self.done not in self.checkpoints or self.done in self.store.measured(self.claim.id):
            return
        info = self.store.get(self.claim.id)
        in_full = self.done in (0, len(self.facts)) or self.plan.measure.share_cap is None
        budget = math.inf if in_full else self.plan.measure.share_cap * info.editing_seconds

        def tell(part: str) -> None:
            self.pulse.tell(phase="measuring", what=part, share=None, step=None, loss=None)
            self.pulse.check()

        record = self.measurer.measure(session, self.done, budget, self.store.part_seconds(self.claim.id), tell)
        self.store.record_checkpoint(self.claim, record)
        left_out = f"; left out: {', '.join(record.left_out)}" if record.left_out else ""
        log.info("Measured after %d edits in %.1f s%s.", self.done, sum(record.seconds.values()), left_out)

    def _tell_speed(self) -> None:
        facts, seconds = (sum(column) for column in zip(*self.recent, strict=True))
        info = self.store.get(self.claim.id)
        measuring = info.measuring_seconds / max(info.editing_seconds, 1e-9)
        left = (len(self.facts) - self.done) * seconds / facts * (1 + measuring)
        self.pulse.tell(done=self.done, seconds_per_edit=round(seconds / facts, 4), seconds_left=round(left, 1))


def _check_editable(lm: EditableModel, facts: Sequence[Fact], longest_prefix: str) -> None:
    """Whether all texts by which facts are edited can be made of tokens and fit the model."""
    encode_contexts(lm, facts, (longest_prefix,))
    encode_subject_prompts(lm, facts)


def _target_row(place: int, item: EditedFact) -> TargetRow:
    target = item.target
    if target is None:
        return TargetRow(place, 0, item.stopped, *[None] * 6)
    last = (series[-1] for series in (target.loss, target.nll, target.kl, target.decay, target.probability))
    return TargetRow(place, target.steps, target.stopped, *last, target.probability[0])


def _trajectory(place: int, item: EditedFact) -> list[TrajectoryRow]:
    target = item.target
    if target is None:
        return []
    series = zip(target.loss, target.nll, target.kl, target.decay, target.probability, strict=True)
    return [TrajectoryRow(place, step, *values) for step, values in enumerate(series)]


def _stamp(name: str) -> tuple | None:
    """What tells whether a model folder's files are still the ones that were loaded; None for models by name."""
    if not is_folder(name):
        return None
    folder = named_path(name)
    files = sorted([*folder.glob("*.json"), *folder.glob("*.safetensors")])
    return tuple((file.name, stat.st_size, stat.st_mtime_ns) for file in files if (stat := file.stat()))


def _is_plain(value: Any) -> bool:
    """Whether JSON takes a value; a loss that is not a number it does not."""
    return isinstance(value, str | int) or (isinstance(value, float) and math.isfinite(value))
