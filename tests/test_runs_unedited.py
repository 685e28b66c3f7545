"""The runs of a comparison measure the unedited model once."""

from __future__ import annotations

from dataclasses import replace

import pytest
import tiny_runs

from encore_core.runs import RunStore
from encore_core.runs.measuring import MEASURED, Measurer
from encore_core.runs.plan import MeasurePlan
from encore_core.runs.unedited import OWN

METHODS = ("ENCORE", "MEMIT")


def first_rows(store: RunStore, run_id: str, table: str) -> list[tuple]:
    columns, rows = store.query(
        f"SELECT * FROM {table} WHERE edits = 0 AND run = (SELECT number FROM runs WHERE id = ?)", [run_id]
    )
    return sorted(
        (tuple(value for name, value in zip(columns, row, strict=True) if name != "run") for row in rows), key=repr
    )


@pytest.fixture(scope="module")
def done(tiny_folder, statistics_text, tmp_path_factory):
    """Two methods and one with another seed in one store, and MEMIT alone in another."""

    def make(*runs) -> tuple[RunStore, list[str]]:
        store = RunStore(tmp_path_factory.mktemp("runs"))
        prepared = [
            tiny_runs.prepared(tiny_folder, statistics_text, method=method, seed=seed, measure=MeasurePlan())
            for method, seed in runs
        ]
        ids = store.submit(prepared)
        tiny_runs.worker(store).serve()
        return store, ids

    return make(("ENCORE", 0), ("MEMIT", 0), ("MEMIT", 1)), make(("MEMIT", 0))


def test_what_is_taken_over_is_what_would_have_been_measured(done):
    (store, [encore, memit, other_seed]), (alone, [by_itself]) = done
    assert {run.status for run in store.runs()} == {"done"}
    for table in (*MEASURED, "scored"):
        rows = first_rows(store, memit, table)
        assert rows == first_rows(alone, by_itself, table), table
        assert rows or table in ("downstream", "task_answers")
    for run_id, takes_over in ((encore, False), (memit, True), (other_seed, False)):
        assert ("is taken over" in store.read_log(run_id)) == takes_over
        seconds = store.part_seconds(run_id)
        assert all((part[0] == 0) == takes_over for name, part in seconds.items() if name not in OWN), seconds
        # So a run that was measured has always spent time on it, by which pages know it.
        assert all(seconds[name][0] > 0 for name in OWN)
        # Time that was not spent is not claimed.
        assert store.get(run_id).measuring_seconds == pytest.approx(sum(map(sum, seconds.values())))
    # Later checkpoints are each run's own.
    assert store.part_seconds(memit)["scores"][-1] > 0


def test_a_run_with_other_measures_measures_itself(done, tiny_folder, statistics_text, monkeypatch):
    (store, _), _ = done
    asked = []
    measure = Measurer.measure

    def noted(self, session, edits, *rest):
        asked.append((edits, rest[-1]))
        return measure(self, session, edits, *rest)

    monkeypatch.setattr(Measurer, "measure", noted)
    changed = replace(MeasurePlan(), sample_facts=3)
    store.submit([tiny_runs.prepared(tiny_folder, statistics_text, method="MEMIT", seed=0, measure=changed)])
    tiny_runs.worker(store).serve()
    assert asked[0] == (0, None)
