"""Long runs: thousands of sequential edits that survive the loss of the process, the terminal or the machine.

What a run will do:

    plan, seeds     the plan and its fields, and one plan with several seeds
    preparing       a plan checked against facts, model and machine: a run that can start
    fact_order      which facts, in which batches, with which checkpoints
    facts_file      the facts of a run, copied when it is submitted
    key_statistics  which key statistics it uses
    estimate        what it will cost

Where it is kept:

    store           runs, their queue and their series, in one SQLite file: `RunStore`, which others use
    database, schema, rows, folders     the file, its tables, their rows, and the files beside it
    lookup, queue, labels, worker_liveness, ownership, series_rows     the work of `RunStore`, by subject

    carried         a run in a folder of its own, to another machine and back

How it is done:

    worker, launch  the process that serves a device's queue, and starting it
    model_keeper    its model, kept from one run to the next
    runner          one run from its saved state to its end
    session_of_run  what comes before its first batch
    heartbeat       signs of life, and whether the run must stop
    progress, time_left     facts within the batch, speed, and the time that editing and measuring will take
    measuring       what is measured at its checkpoints
    unedited        the first of them, taken over from another run that has measured the same
    fact_values     its scores fact by fact, with intervals and differences
    resume_state    what it needs to resume, on disk

What it yields:

    series, frames  the series as pandas frames, and reading them
    overview        many runs at a glance: last scores, curves of perplexity and growth
    compare         what differs between runs that are compared
    paired          how far two runs lie apart on the same facts or tests
    export          files made from the store
    recorded        runs that come with the program

To start a run:

    ready = prepare(RunPlan(method="ENCORE", n_edits=200, batch_size=20))
    [run_id] = (store := RunStore()).submit([ready])
    start_worker(store, ready.plan.device)

and to look at it: `store.get(run_id)`, `series.norms(store, [run_id])`.
"""

from encore_core.runs.launch import start_worker
from encore_core.runs.plan import MeasurePlan, RunPlan
from encore_core.runs.preparing import PreparedRun, prepare
from encore_core.runs.rows import RunInfo
from encore_core.runs.store import RunStore

__all__ = ["MeasurePlan", "PreparedRun", "RunInfo", "RunPlan", "RunStore", "prepare", "start_worker"]
