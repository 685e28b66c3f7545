"""One run from its saved state to its end: edit, record, save, measure, and stop when asked.

    checkpoint 0 → [batch → record → save when due → measure when due] → … → done

A batch is recorded when it ends, for those who watch. A resumed run goes on from the last saved state, and drops what
was recorded after it. State is saved at every checkpoint, every few minutes and when the run is stopped, always before
the checkpoint is measured, so that a process killed while it measures loses no edit.
What comes before the first batch is in `session_of_run`.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch

from encore_core import processes
from encore_core.editing.batch import TooLargeChange
from encore_core.editing.batch_report import (
    BatchReport,
    EditedFact,
    EditProgress,
    OnProgress,
    refused_batch,
)
from encore_core.editing.session import EditSession
from encore_core.editing.team import Team, team_of
from encore_core.editing.team_member import LoadAs
from encore_core.errors import InputError
from encore_core.facts import Fact
from encore_core.runs import unedited
from encore_core.runs.fact_order import batch_ends, checkpoints
from encore_core.runs.heartbeat import Pulse, Stopped
from encore_core.runs.measuring import Measurer
from encore_core.runs.model_keeper import ModelKeeper
from encore_core.runs.ownership import LostRun
from encore_core.runs.progress import Progress
from encore_core.runs.resume_state import remove_others, save_matrices, save_state
from encore_core.runs.rows import BatchRecord, Claim, RunInfo, TargetRow, TrajectoryRow
from encore_core.runs.session_of_run import check_facts, note_statistics, open_session, restore
from encore_core.runs.store import RunStore
from encore_core.runs.time_left import Ahead
from encore_core.runtime import return_freed_memory

log = logging.getLogger(__name__)

SAVE_SECONDS = 300.0
"""State is saved at the end of a batch when the last save is older than this, whatever the checkpoints are."""


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
        threads: of torch, for a new run; a resumed one uses the number it was started with.
        save_seconds: see `SAVE_SECONDS`.

    Raises:
        Stopped: when it was asked to stop; its state is saved.
        InputError: when its facts, model, state or disk cannot be used. The run is as it was.
        LostRun: when another process has taken it.
    """
    _Execution(store, claim, pulse, models, threads, save_seconds).run()


class _Execution:
    """A run in progress: what `execute` keeps while it works."""

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
        # Workers on the cores of one machine share them.
        shared = self.plan.workers if self.plan.device == "cpu" else 1
        self.threads = self.info.threads or max(1, threads // shared)
        self.team: Team | None = None
        self.models = models
        ahead = Ahead(self.ends, sorted(self.checkpoints), self.plan.measure.share_cap)
        self.progress = Progress(ahead, int(self.info.settings.get("steps") or 1))
        self.saved_at = time.monotonic()
        self.elsewhere: dict[str, float] = {}

    def run(self) -> None:
        torch.set_num_threads(self.threads)
        self.pulse.tell(phase="loading", done=self.info.cursor, total=len(self.facts))
        session = open_session(self.store, self.claim, self.info, self.pulse, self.models, self.threads)
        self.done = restore(self.store, self.claim, self.pulse, session)
        known = self.store.get(self.claim.id)
        self.progress.resumed(
            self.done, known.editing_seconds, self.store.part_seconds(self.claim.id), self.store.measured(self.claim.id)
        )
        self.pulse.follow(self.progress.detail)
        check_facts(session, self.facts, self.done, self.pulse)
        self.pulse.tell(phase="getting ready", what="key statistics", share=0.0)
        self._prepare(session)
        session.stop_sharing()
        note_statistics(self.store, self.claim, session, self.done)
        self.measurer = Measurer(self.plan, self.facts, self.ends, session)
        self.store.note(self.claim, protocols=self.measurer.protocols)
        try:
            with self._helped(session):
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

    def _prepare(self, session: EditSession) -> None:
        """Gather what edits and measurements need before the clock of either runs."""
        session.prepare(self.pulse.show)
        if self.plan.measure.foretold_damage:
            try:
                session.prepare_foretelling(self.pulse.show)
            except InputError as error:
                log.info("What edits cost general text cannot be estimated: %s", error)

    @contextmanager
    def _helped(self, session: EditSession) -> Iterator[None]:
        """With the workers that the plan asks for besides this process, if any."""
        plan = self.plan
        if plan.workers == 1:
            yield
            return
        self.pulse.tell(phase="getting ready", what="workers")
        how = LoadAs(plan.model, plan.device, plan.dtype, plan.start_token, self.threads)
        with team_of(how, session.lm, plan.workers) as self.team:
            self.team.begin_from(session.exact_matrices())
            log.info("%d workers, %d threads each.", plan.workers, self.threads)
            session.helpers = self.team
            try:
                yield
            finally:
                session.helpers = self.team = None

    def _batch(self, session: EditSession, end: int) -> None:
        """Edit the facts up to `end`, record the batch, and save when it is time to."""
        start = self.done
        facts = self.facts[start:end]

        def tell(progress: EditProgress) -> None:
            self.progress.within_batch(progress)
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
        self.progress.batch_begins()
        report = self._edited(session, facts, tell)
        # Do not keep the memory of a batch's longest texts for the rest of the run; what still grows is a leak.
        return_freed_memory()
        self.store.record_batch(self.claim, self._record(report, start, end, session))
        per_edit = self.progress.batch_ends(end, self.store.get(self.claim.id).editing_seconds)
        self.done = end
        self.pulse.tell(done=end, batch_done=None, batch_total=None)
        for notice in report.notices:
            log.info("%s", notice)
        log.info("%d edits, %.2f s per edit.", end, per_edit)
        if end in self.checkpoints or time.monotonic() - self.saved_at > self.save_seconds:
            self._save(session)

    def _edited(self, session: EditSession, facts: Sequence[Fact], tell: OnProgress) -> BatchReport:
        """Edit a batch. One that would change a matrix too much is left out: a resumed run would stop there again."""
        began = time.perf_counter()
        try:
            report = session.edit(facts, known=self.plan.known, measure=False, on_progress=tell)
        except TooLargeChange as error:
            if self.team is not None:
                self.team.drop()
            return refused_batch(facts, str(error), time.perf_counter() - began)
        if self.team is not None:
            self.team.keep()
        return report

    def _record(self, report: BatchReport, start: int, end: int, session: EditSession) -> BatchRecord:
        resident, peak = processes.memory_bytes()
        device = session.lm.device
        rows = list(zip(range(start, end), report.edited, strict=True))
        begins_in_full = not 0 < session.settings.contexts_at_once <= len(session.prefixes)
        return BatchRecord(
            edits=end,
            facts=end - start,
            skipped=sum(1 for item in report.edited if not item.is_edited),
            seconds=report.seconds,
            targets=[_target_row(place, item, begins_in_full) for place, item in rows],
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
        if self.team is not None:
            self.team.check(session.matrices())
        # Keep only the newest state beside the one being written: a state of a large model is large.
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

        parts = set(self.measurer.parts)

        def tell(part: str) -> None:
            if part in parts:  # else a step within one
                self.progress.part_begins(part)
            self.pulse.tell(phase="measuring", what=part, share=None, step=None, loss=None)
            self.pulse.check()

        spent = self.store.part_seconds(self.claim.id)
        # What a part took elsewhere says what it will take here.
        spent |= {part: [seconds, *spent[part][1:]] for part, seconds in self.elsewhere.items() if spent.get(part)}
        known = unedited.measured_elsewhere(self.store.database, self.claim.id) if self.done == 0 else None
        record = self.measurer.measure(session, self.done, budget, spent, tell, known.record if known else None)
        self.store.record_checkpoint(self.claim, record)
        if known:
            self.elsewhere = known.seconds
            log.info("What the unedited model says was measured by run %s, and is taken over.", known.run)
        self.progress.checkpoint_ends({**record.seconds, **(known.seconds if known else {})})
        left_out = f"; left out: {', '.join(record.left_out)}" if record.left_out else ""
        log.info("Measured after %d edits in %.1f s%s.", self.done, sum(record.seconds.values()), left_out)


def _target_row(place: int, item: EditedFact, begins_in_full: bool) -> TargetRow:
    target = item.target
    if target is None:
        return TargetRow(place, item.steps, item.stopped, *[None] * 6)
    last = (series[-1] for series in (target.loss, target.nll, target.kl, target.decay, target.probability))
    return TargetRow(place, target.steps, target.stopped, *last, target.probability[0] if begins_in_full else None)


def _trajectory(place: int, item: EditedFact) -> list[TrajectoryRow]:
    target = item.target
    if target is None:
        return []
    series = zip(target.loss, target.nll, target.kl, target.decay, target.probability, strict=True)
    return [TrajectoryRow(place, step, *values) for step, values in enumerate(series)]
