"""Long runs: thousands of sequential edits that survive whatever happens to the process, the terminal and the machine.

What a run is to do:

    plan            the plan and its fields
    preparing       a plan checked against facts, model and machine: a run that can start
    fact_order      which facts, in which batches, with which checkpoints; `facts_file` keeps them
    key_statistics  which key statistics it uses
    estimate        what it will cost

Where it is kept:

    store           runs, their queue and their series, in one SQLite file: `RunStore`, which others use
    database, schema, rows, folders     the file, its tables, what stands in them, and what lies beside it
    lookup, queue, labels, worker_liveness, ownership, series_rows     what `RunStore` is asked for, by subject

How it is done:

    worker          the process that serves a device's queue; `launch` starts it
    model_keeper    its model, kept from one run to the next
    runner          one run from where it stands to its end; `session_of_run` is what comes before its first batch
    heartbeat       signs of life, and whether the run is to stop
    measuring       what is measured at its checkpoints
    resume_state    what it needs to go on, on disk

What comes of it:

    series          the series as pandas frames
    compare         what differs between runs that are compared
    export          what leaves the store
    recorded        runs that come with the program

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
