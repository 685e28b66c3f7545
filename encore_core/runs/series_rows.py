"""The rows of a run's series and of its saved states: writing and reading them.

They are keyed by run and place, so that none can occur twice. A batch and a checkpoint are one transaction each, so a
killed process leaves all of it or nothing.
"""

from __future__ import annotations

from encore_core.runs.database import Database, as_json
from encore_core.runs.lookup import get
from encore_core.runs.ownership import owned
from encore_core.runs.rows import BatchRecord, CheckpointRecord, Claim, SavedState
from encore_core.runs.schema import BY_EDITS, END_AT


def record_batch(database: Database, claim: Claim, batch: BatchRecord) -> None:
    """Record a batch that has been edited.

    Raises:
        LostRun: when the run is no longer the caller's.
    """
    run, edits = claim.number, batch.edits
    with owned(database, claim) as db:
        db.execute(
            "INSERT INTO batches VALUES (?, ?, ?, ?, ?, ?, ?)",
            (run, edits, batch.facts, batch.skipped, batch.resident_bytes, batch.peak_bytes,
             batch.device_peak_bytes),
        )  # fmt: skip
        db.executemany(
            "INSERT INTO timings VALUES (?, ?, ?, ?)",
            [(run, edits, phase, seconds) for phase, seconds in batch.seconds.items()],
        )
        db.executemany(
            "INSERT INTO targets VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
            [(run, t.fact, edits, t.steps, t.stopped, t.loss, t.nll, t.kl, t.decay, t.probability,
              t.probability_before) for t in batch.targets],
        )  # fmt: skip
        db.executemany(
            "INSERT INTO trajectories VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
            [(run, t.fact, t.step, edits, t.loss, t.nll, t.kl, t.decay, t.probability)
             for t in batch.trajectories],
        )  # fmt: skip
        db.execute(
            "UPDATE runs SET done = ?, skipped = skipped + ?, editing_seconds = editing_seconds + ? WHERE number = ?",
            (edits, batch.skipped, sum(batch.seconds.values()), run),
        )


def record_state(database: Database, claim: Claim, state: SavedState, seconds: float) -> None:
    """Move the cursor to a state that is on disk. The previous state is kept as a fallback, older ones are not.

    Args:
        claim: the caller's right to the run.
        state: what was saved.
        seconds: what saving took; counted with the batch's phases.

    Raises:
        LostRun: when the run is no longer the caller's.
    """
    run = claim.number
    with owned(database, claim) as db:
        db.execute("INSERT OR REPLACE INTO states VALUES (?, ?, ?, ?)", (run, state.edits, state.file, state.digest))
        db.execute(
            """DELETE FROM states WHERE run = ?1 AND edits NOT IN
                   (SELECT edits FROM states WHERE run = ?1 ORDER BY edits DESC LIMIT 2)""",
            (run,),
        )
        db.execute(
            "INSERT INTO timings VALUES (?, ?, 'saving', ?) "
            "ON CONFLICT (run, edits, phase) DO UPDATE SET seconds = seconds + excluded.seconds",
            (run, state.edits, seconds),
        )
        db.execute(
            "UPDATE runs SET cursor = ?, editing_seconds = editing_seconds + ? WHERE number = ?",
            (state.edits, seconds, run),
        )


def record_checkpoint(database: Database, claim: Claim, checkpoint: CheckpointRecord) -> None:
    """Record what was measured at a checkpoint.

    Raises:
        LostRun: when the run is no longer the caller's.
    """
    run, edits = claim.number, checkpoint.edits
    with owned(database, claim) as db:
        db.execute("INSERT INTO checkpoints VALUES (?, ?, ?)", (run, edits, as_json(checkpoint.left_out)))
        for table, rows in (
            ("norms", checkpoint.norms),
            ("scores", checkpoint.scores),
            ("contributions", checkpoint.contributions),
            ("measures", checkpoint.measures),
            ("downstream", checkpoint.downstream),
            ("scored", checkpoint.scored),
            ("fact_scores", checkpoint.fact_scores),
            ("answers", checkpoint.answers),
            ("task_answers", checkpoint.task_answers),
            ("measuring", checkpoint.seconds.items()),
        ):
            rows = [(run, edits, *row) for row in rows]
            if rows:
                db.executemany(f"INSERT INTO {table} VALUES ({', '.join('?' * len(rows[0]))})", rows)
        db.execute(
            "UPDATE runs SET measuring_seconds = measuring_seconds + ? WHERE number = ?",
            (sum(checkpoint.seconds.values()), run),
        )


def rewind(database: Database, claim: Claim, edits: int) -> None:
    """Go back to the state after `edits` edits: drop what was recorded later.

    Raises:
        LostRun: when the run is no longer the caller's.
    """
    with owned(database, claim) as db:
        for table in BY_EDITS:
            db.execute(f"DELETE FROM {table} WHERE run = ? AND edits > ?", (claim.number, edits))
        db.execute(END_AT, (claim.number, edits))


def states(database: Database, run_id: str) -> list[SavedState]:
    """Saved states of a run, the newest first."""
    run = get(database, run_id)
    with database.reading() as db:
        rows = db.execute(
            "SELECT edits, file, digest FROM states WHERE run = ? ORDER BY edits DESC", (run.number,)
        ).fetchall()
    return [SavedState(*row) for row in rows]


def measured(database: Database, run_id: str) -> set[int]:
    """The checkpoints of a run that have been measured."""
    run = get(database, run_id)
    with database.reading() as db:
        return {row[0] for row in db.execute("SELECT edits FROM checkpoints WHERE run = ?", (run.number,))}


def part_seconds(database: Database, run_id: str) -> dict[str, list[float]]:
    """Seconds of each part of measuring, at each checkpoint at which it was measured, in order."""
    run = get(database, run_id)
    with database.reading() as db:
        rows = db.execute("SELECT part, seconds FROM measuring WHERE run = ? ORDER BY edits", (run.number,))
        seconds: dict[str, list[float]] = {}
        for row in rows:
            seconds.setdefault(row["part"], []).append(row["seconds"])
        return seconds
