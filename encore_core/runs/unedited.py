"""What the unedited model says, taken over from another run of the store that has measured the same.

The first checkpoint of a run shows the model before any edit. The runs of a comparison differ in their methods alone,
so all of them would measure the same there, for minutes each where answers are generated or tasks are asked. The first
one measures it; the others take it over, if facts, seed, what is measured, weights, and program are the same. What is
foretold from statistics depends on the edited layers, and is measured by each, as are norms.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from encore_core.runs.database import Database
from encore_core.runs.lookup import all_runs, get
from encore_core.runs.measuring import MEASURED
from encore_core.runs.preparing import PreparedRun
from encore_core.runs.rows import CheckpointRecord, RunInfo

OWN = ("norms", "foretold")
"""Parts that each run measures itself: norms take milliseconds, and what is foretold depends on the method's layers."""

OWN_MEASURES = ("foretold_damage",)


@dataclass(frozen=True)
class Elsewhere:
    """A first checkpoint that another run has measured.

    Attributes:
        run: its id.
        record: what it measured, without what depends on the method; no part took time here.
        seconds: what each part took there.
    """

    run: str
    record: CheckpointRecord
    seconds: dict[str, float]


def measured_elsewhere(database: Database, run_id: str) -> Elsewhere | None:
    """The first checkpoint of another run that is this one's, too; None where there is none.

    Args:
        database: of the store.
        run_id: a run whose model is loaded, so that its weights and the program's version are noted.
    """
    run = get(database, run_id)
    for other in all_runs(database):
        if other.id != run.id and _basis(other) == _basis(run) and (found := _first(database, other)) is not None:
            return found
    return None


def same_before_edits(one: PreparedRun, other: PreparedRun) -> bool:
    """Whether two runs that have not started will have the same first checkpoint, on one machine and program."""
    basis = [
        (
            run.plan.model,
            run.plan.start_token,
            run.plan.workers,
            run.order_digest,
            len(run.facts),
            *_of_plan(vars(run.plan)),
        )
        for run in (one, other)
    ]
    return basis[0] == basis[1]


def _of_plan(plan: Mapping[str, Any]) -> tuple[object, ...]:
    return tuple(plan.get(name) for name in ("batch_size", "seed", "device", "dtype", "measure"))


def _basis(run: RunInfo) -> tuple[object, ...]:
    """All that the first checkpoint depends on."""
    return (
        run.fingerprint, run.start_token, run.order_digest, run.n_edits, run.protocols, run.versions, run.commit,
        run.threads, *_of_plan(run.plan_json),
    )  # fmt: skip


def _first(database: Database, other: RunInfo) -> Elsewhere | None:
    rows: dict[str, list[tuple]] = {}
    with database.reading() as db:
        checkpoint = db.execute(
            "SELECT left_out FROM checkpoints WHERE run = ? AND edits = 0", (other.number,)
        ).fetchone()
        # What could not be measured there is tried again.
        if checkpoint is None or checkpoint["left_out"] != "{}":
            return None
        for table in (*MEASURED, "scored", "measuring"):
            found = db.execute(f"SELECT * FROM {table} WHERE run = ? AND edits = 0", (other.number,)).fetchall()
            rows[table] = [tuple(row[name] for name in row.keys() if name not in ("run", "edits")) for row in found]  # noqa: SIM118
        judged = other.plan_json.get("measure", {}).get("judge") is not None
        unjudged = "SELECT 1 FROM answers WHERE run = ? AND edits = 0 AND judged IS NULL"
        if judged and db.execute(unjudged, (other.number,)).fetchone():
            return None
    seconds = {part: value for part, value in rows.pop("measuring") if part not in OWN}
    rows["norms"] = []
    rows["measures"] = [row for row in rows["measures"] if not row[0].startswith(OWN_MEASURES)]
    if not any(seconds.values()):  # it took them over itself
        return None
    return Elsewhere(other.id, CheckpointRecord(0, seconds=dict.fromkeys(seconds, 0.0), left_out={}, **rows), seconds)
