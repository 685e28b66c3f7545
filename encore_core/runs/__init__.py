"""Long runs: thousands of sequential edits that survive whatever happens to the process, the terminal and the machine.

    plan        what a run is to do
    preparing   a plan checked against facts, model and machine; `fact_order` and `facts_file` have its facts
    store       the runs, their queue and their series, in one SQLite file; `database` opens it, `rows` and `schema` say
                what is in it, `places` what lies beside it; `lookup`, `queue`, `labels`, `liveness`, `ownership` and
                `series_rows` do what it is asked for
    series      the series as pandas frames
    runner      one run from where it stands to its end
    measuring   what is measured at its checkpoints
    state       what it needs to go on, on disk
    worker      the process that serves a device's queue; `launch` starts it
    estimate    what a run will cost
    compare     what differs between runs that are compared
    export      what leaves the store

How a run is started:

    ready = prepare(RunPlan(method="ENCORE", n_edits=200, batch_size=20))
    [run_id] = (store := RunStore()).submit([ready])
    start_worker(store, ready.plan.device)

and how it is looked at: `store.get(run_id)`, `series.norms(store, [run_id])`.
"""

from encore_core.runs.launch import start_worker
from encore_core.runs.plan import MeasurePlan, RunPlan
from encore_core.runs.preparing import PreparedRun, prepare
from encore_core.runs.rows import RunInfo
from encore_core.runs.store import RunStore

__all__ = ["MeasurePlan", "PreparedRun", "RunInfo", "RunPlan", "RunStore", "prepare", "start_worker"]
