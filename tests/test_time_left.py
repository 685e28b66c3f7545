"""The time left of a run: against the logs of runs that were really made, and rule by rule."""

from __future__ import annotations

import statistics

import pytest

from encore_core.editing.batch_report import EditProgress
from encore_core.runs.progress import RECENT_BATCHES, Progress
from encore_core.runs.recorded import recorded_runs
from encore_core.runs.rows import RunInfo
from encore_core.runs.store import RunStore
from encore_core.runs.time_left import Ahead, Standing, batch_share, facts_left, seconds_left

STEADY = 1.5
"""Where the slowest tenth of the batches takes at most so many times as long as the fastest, nobody else used the
machine in turns: a run whose speed doubles and halves ends at a time that nobody can foresee."""


class Clock:
    def __init__(self):
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


# -- logs of runs ------------------------------------------------------------------------------------------------------


class Log:
    """What a recorded run took, batch by batch and part by part."""

    def __init__(self, store: RunStore, run: RunInfo):
        _, batches = store.query("SELECT edits, facts FROM batches WHERE run = ? ORDER BY edits", (run.number,))
        _, timings = store.query("SELECT edits, sum(seconds) FROM timings WHERE run = ? GROUP BY edits", (run.number,))
        _, parts = store.query("SELECT edits, part, seconds FROM measuring WHERE run = ? ORDER BY edits", (run.number,))
        self.facts, self.editing = dict(batches), dict(timings)
        self.measuring: dict[int, dict[str, float]] = {}
        for edits, part, seconds in parts:
            self.measuring.setdefault(edits, {})[part] = seconds
        cap = run.plan_json["measure"].get("share_cap")
        self.ahead = Ahead(tuple(self.facts), tuple(self.measuring), cap)

    @property
    def seconds(self) -> float:
        return sum(self.editing.values()) + sum(sum(parts.values()) for parts in self.measuring.values())

    def is_steady(self) -> bool:
        each = [self.editing[edits] / facts for edits, facts in self.facts.items()]
        tenths = statistics.quantiles(each, n=10) if len(each) >= 10 else [0.0, 1.0]
        return tenths[-1] <= STEADY * tenths[0]

    def told(self) -> list[tuple[float, float]]:
        """After every batch: the time left that is told, and the one that it took."""
        clock, told = Clock(), []
        progress = Progress(self.ahead, 20, clock)
        began = self._measure(progress, 0)
        for edits in self.facts:
            progress.batch_begins()
            clock.now += self.editing[edits]
            began += self.editing[edits]
            progress.batch_ends(edits, progress.editing_seconds + self.editing[edits])
            told.append((progress.detail()["seconds_left"], self.seconds - began))
            began += self._measure(progress, edits)
        return told

    def _measure(self, progress: Progress, edits: int) -> float:
        parts = self.measuring.get(edits)
        if parts is not None:
            progress.checkpoint_ends(parts)
        return sum((parts or {}).values())


def steady_logs() -> dict[str, Log]:
    store = recorded_runs()
    logs = {run.id: Log(store, run) for run in store.runs()}
    return {run_id: log for run_id, log in logs.items() if log.seconds > 120 and log.is_steady()}


def test_there_are_recorded_logs_to_look_at():
    assert len(steady_logs()) >= 3


@pytest.mark.parametrize("run_id", steady_logs())
def test_the_time_left_of_a_recorded_run_is_told_within_30_per_cent(run_id):
    """Until nine tenths of its time are over."""
    log = steady_logs()[run_id]
    early = [(told, took) for told, took in log.told() if took > 0.1 * log.seconds]
    assert len(early) >= 8
    for told, took in early:
        assert told == pytest.approx(took, rel=0.3)


def test_without_measuring_the_same_logs_would_be_told_too_short():
    """What the old estimate did at a checkpoint: no edits to make, so no time."""
    for log in steady_logs().values():
        told = dict(enumerate(log.told()))
        last = told[len(told) - 1]
        assert last[0] > 0.5 * last[1] > 0  # all edits are made, and the last checkpoint is still to be measured


# -- rules -------------------------------------------------------------------------------------------------------------

AHEAD = Ahead(ends=(20, 40, 60, 80), checkpoints=(0, 20, 40, 60, 80), share_cap=0.25)
PARTS = {"norms": [1.0], "scores": [10.0], "perplexity": [4.0]}


def standing(done: int, **values) -> Standing:
    usual = {"batch_share": 0.0, "fact_seconds": 2.0, "editing_seconds": 2.0 * done, "spent": PARTS,
             "measured": frozenset(edits for edits in AHEAD.checkpoints if edits < done)}  # fmt: skip
    return Standing(done=done, **(usual | values))


def test_nothing_is_told_before_anything_is_known():
    assert seconds_left(AHEAD, standing(0, spent={}, measured=frozenset())) is None
    assert seconds_left(AHEAD, standing(0, fact_seconds=None, measured=frozenset({0}))) is None


def test_parts_that_would_exceed_their_share_are_not_counted():
    # After 20 edits each of two parts may take 0.25 · 40 s / 2 = 5 s, after 40 it is 10 s, after 60 it is 15 s.
    # Norms always; scores at 40; perplexity at 20 (4 s), at 40 (8 s in all) and at 60 (12 s); all at 80.
    told = seconds_left(AHEAD, standing(20))
    assert told == 60 * 2.0 + 3 * 1.0 + 10.0 + 3 * 4.0 + (1 + 10 + 4)
    uncapped = Ahead(AHEAD.ends, AHEAD.checkpoints, None)
    assert seconds_left(uncapped, standing(20)) == 60 * 2.0 + 4 * 15.0


def test_all_edits_made_leaves_the_last_checkpoint():
    assert seconds_left(AHEAD, standing(80)) == 15.0
    under_way = {"at_checkpoint": {"norms": 1.5, "scores": 4.0}, "part": "scores"}
    assert seconds_left(AHEAD, standing(80, **under_way)) == (10 - 4) + 4.0
    # What takes longer than ever still has something left.
    over = {"at_checkpoint": {"norms": 1.5, "scores": 1.0, "perplexity": 50.0}, "part": "perplexity"}
    assert seconds_left(AHEAD, standing(80, **over)) == pytest.approx(10.0)
    done = standing(80, measured=frozenset(AHEAD.checkpoints))
    assert seconds_left(AHEAD, done) == 0.0


def test_facts_within_the_batch_count():
    assert batch_share(0, 20, 0, 20) == 0 and batch_share(20, 20, 20, 20) == 1
    assert batch_share(10, 20, 10, 20) == 0.75
    assert facts_left(AHEAD, standing(20, batch_share=0.25)) == 55
    assert seconds_left(AHEAD, standing(20)) - seconds_left(AHEAD, standing(20, batch_share=0.25)) == 10.0


def test_the_first_batch_tells_a_speed_before_it_ends():
    clock = Clock()
    progress = Progress(AHEAD, 20, clock)
    assert progress.detail() == {"batch_share": 0.0, "seconds_per_edit": None, "seconds_left": None}
    for part, seconds in PARTS.items():
        progress.part_begins(part)
        clock.now += seconds[0]
    assert progress.detail()["seconds_left"] is None  # the first checkpoint has nothing to be compared with
    progress.checkpoint_ends({part: seconds[0] for part, seconds in PARTS.items()})
    progress.batch_begins()
    clock.now += 2.0
    progress.within_batch(EditProgress("targets", 0, 20, 1, 1.0))
    assert progress.detail()["seconds_left"] is None  # a twentieth tells too little
    clock.now += 8.0
    progress.within_batch(EditProgress("targets", 0, 20, 5, 1.0))
    told = progress.detail()
    assert told["batch_share"] == 0.25 and told["seconds_per_edit"] == 2.0
    assert told["seconds_left"] == 75 * 2.0 + 4 * 1.0 + 10.0 + 3 * 4.0 + 14.0
    progress.within_batch(EditProgress("targets", 1, 20, 2, 1.0))
    assert progress.detail()["batch_share"] == 0.25  # it never goes back
    progress.within_batch(EditProgress("update", 1, 5))
    assert progress.detail()["batch_share"] == 1.0


def test_a_batch_during_which_the_machine_slept_does_not_count():
    clock = Clock()
    progress = Progress(Ahead(range(10, 210, 10), (0, 200), None), 20, clock)
    progress.checkpoint_ends({"norms": 0.0})
    for number in range(1, RECENT_BATCHES):
        progress.batch_begins()
        clock.now += 3600.0 if number == 4 else 10.0
        progress.batch_ends(10 * number, clock.now)
    assert progress.detail()["seconds_per_edit"] == 1.0
