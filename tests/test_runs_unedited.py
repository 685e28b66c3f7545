"""The runs of a comparison measure the unedited model once."""

from __future__ import annotations

from dataclasses import replace

import pytest
import tiny_runs

from encore_core.errors import InputError
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


def test_verdicts_that_are_missing_are_not_taken_over(tiny_folder, statistics_text, tmp_path, monkeypatch):
    """A judge that lies in the folder of the command is found by the worker; what it did not judge is asked again."""
    judge = tmp_path / "judge.sh"
    judge.write_text("#!/bin/sh\nexit 1\n", encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    measure = replace(tiny_runs.QUICK, protocols=("generated",), judge="./judge.sh", max_tokens=2)
    with pytest.raises(InputError, match=r"The judge's program './judge.sh' is not there, or may not be executed"):
        tiny_runs.prepared(tiny_folder, statistics_text, measure=measure)
    judge.chmod(0o755)
    store = RunStore(tmp_path / "runs")
    ids = []
    for method in METHODS:
        run = tiny_runs.prepared(tiny_folder, statistics_text, method=method, measure=measure, n_edits=2)
        ids += store.submit([run])
        monkeypatch.chdir("/")
        tiny_runs.worker(store).serve()
        monkeypatch.chdir(tmp_path)
        judge.write_text("#!/bin/sh\necho yes\n", encoding="utf-8")
    assert store.get(ids[0]).plan.measure.judge == str(judge)
    assert "The judge gave no verdict on" in store.read_log(ids[0]) and "exit code 1" in store.read_log(ids[0])
    _, rows = store.query("SELECT run, edits, judged FROM answers")
    missing, judged = ([judged for run, _, judged in rows if run == store.get(one).number] for one in ids)
    assert set(missing) == {None} and set(judged) == {1}
    assert "is taken over" not in store.read_log(ids[1])
