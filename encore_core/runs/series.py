"""The series of runs as pandas frames: what the pages draw and what `export` writes.

Every frame begins with the column `run` (the run's id, categorical) and, except `targets` and `trajectories`, the
column `edits`: facts handled so far; 0 is the model as it was loaded. Rows are in order of run, then place. Frames
without rows have all their columns. A line of more than `max_points` points is thinned, its extremes and both ends
kept; `max_points=None` gives every row.

    norms(store, ["encore-7k2q", "memit-x9d3"], layers=(10,))
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from encore_core.measures.downstream import PROTOCOLS as TASK_PROTOCOLS
from encore_core.runs.fact_values import protocol
from encore_core.runs.frames import MAX_POINTS, among, bucketed, read, thinned
from encore_core.runs.store import RunStore
from encore_core.spreadsheets import neutral_csv

if TYPE_CHECKING:
    import pandas as pd


WITH_INTERVAL = ("value", "n", "low", "high")


def norms(
    store: RunStore, ids: Sequence[str], layers: Sequence[int] | None = None, max_points: int | None = MAX_POINTS
) -> pd.DataFrame:
    """Frobenius norms of the MLP output matrices.

    Args:
        store: where the runs are.
        ids: of the runs wanted.
        layers: only these; all of them by default.
        max_points: of a line (run and layer) at most.

    Returns:
        run, edits, layer, norm, ratio (to the norm of the unedited matrix).
    """
    condition = f"AND layer IN ({', '.join(str(int(layer)) for layer in layers)})" if layers is not None else ""
    frame = read(store, ids, "norms", ("edits", "layer", "norm", "ratio"), condition)
    return thinned(frame, ("run", "layer"), "edits", "norm", max_points)


def scores(
    store: RunStore,
    ids: Sequence[str],
    subsets: Sequence[str] | None = None,
    metrics: Sequence[str] | None = None,
    max_points: int | None = MAX_POINTS,
) -> pd.DataFrame:
    """Scores of facts, see `measures.scores.Scores`.

    At 0 edits they are those of the unedited model on the facts to come: the sample of all of the run's facts, and its
    first batch (which is the newest one, too).

    Args:
        store, ids, max_points: as for `norms`; a line is run, subset and metric.
        subsets: some of `plan.SUBSETS`; all by default.
        metrics: names of metrics; all by default.

    Returns:
        run, edits, subset, metric, value (None where the facts have no such prompts), n (facts), low, high (the 95 %
        interval). The last three are missing in runs that were recorded without values per fact.
    """
    condition, values = among("subset", subsets)
    more, more_values = among("metric", metrics)
    frame = read(
        store, ids, "scores", ("edits", "subset", "metric", *WITH_INTERVAL), condition + more, (*values, *more_values)
    )
    return thinned(frame, ("run", "subset", "metric"), "edits", "value", max_points)


def contributions(
    store: RunStore, ids: Sequence[str], edits: Sequence[int] | None = None, max_points: int | None = MAX_POINTS
) -> pd.DataFrame:
    """What each sublayer adds to the residual stream, see `measures.contributions`.

    Args:
        store, ids, max_points: as for `norms`; a line is run and sublayer.
        edits: only at these checkpoints; all by default.

    Returns:
        run, edits, sublayer (place from the input up), label, kind, layer (missing for the input), share, signed_share.
    """
    columns = ("edits", "sublayer", "label", "kind", "layer", "share", "signed_share")
    frame = read(store, ids, "contributions", columns, _at(edits))
    return thinned(frame, ("run", "sublayer"), "edits", "share", max_points)


def measures(store: RunStore, ids: Sequence[str], max_points: int | None = MAX_POINTS) -> pd.DataFrame:
    """Perplexity on the fixed text, generation entropy, and foretold damage.

    Returns:
        run, edits, metric ("perplexity", "generation_entropy", "foretold_damage", and that of layer 6 as
        "foretold_damage.6"), value.
    """
    frame = read(store, ids, "measures", ("edits", "metric", "value"))
    return thinned(frame, ("run", "metric"), "edits", "value", max_points)


def downstream(store: RunStore, ids: Sequence[str], max_points: int | None = MAX_POINTS) -> pd.DataFrame:
    """Scores of the downstream tasks.

    Returns:
        run, edits, task, metric, value, n (tests), low, high (the 95 % interval); the last three are missing for what
        is no score, and in runs recorded without the answers to each test.
    """
    frame = read(store, ids, "downstream", ("edits", "task", "metric", *WITH_INTERVAL))
    return thinned(frame, ("run", "task", "metric"), "edits", "value", max_points)


def scored(store: RunStore, ids: Sequence[str]) -> pd.DataFrame:
    """Which facts were scored at which checkpoint.

    Returns:
        run, edits, subset, fact (place in the run's facts, from 0).
    """
    return read(store, ids, "scored", ("edits", "subset", "fact"))


def fact_scores(store: RunStore, ids: Sequence[str], edits: Sequence[int] | None = None) -> pd.DataFrame:
    """The scores of every fact, see `fact_values`.

    Args:
        store, ids: as for `norms`.
        edits: only at these checkpoints; all by default.

    Returns:
        run, edits, fact, metric, value (from 0 to 1).
    """
    return read(store, ids, "fact_scores", ("edits", "fact", "metric", "value"), _at(edits))


def answers(store: RunStore, ids: Sequence[str], edits: Sequence[int] | None = None) -> pd.DataFrame:
    """What the model wrote after the facts' prompts.

    Args:
        store, ids, edits: as for `fact_scores`.

    Returns:
        run, edits, fact, number (of the prompt within the fact), part, kind, prompt, answers (the right ones, as a JSON
        list), text, ended, exact, contained, judged (1 or 0; missing without a verdict), unjudged (why).
    """
    columns = (
        "edits", "fact", "number", "part", "kind", "prompt", "answers", "text", "ended", "exact", "contained",
        "judged", "unjudged",
    )  # fmt: skip
    return read(store, ids, "answers", columns, _at(edits))


def task_answers(store: RunStore, ids: Sequence[str], edits: Sequence[int] | None = None) -> pd.DataFrame:
    """The answers to each test of the downstream tasks.

    Args:
        store, ids, edits: as for `fact_scores`.

    Returns:
        run, edits, task, test (place among the task's tests), truth, said (missing for none of the options), likelier.
    """
    return read(store, ids, "task_answers", ("edits", "task", "test", "truth", "said", "likelier"), _at(edits))


def _at(edits: Sequence[int] | None) -> str:
    return "" if edits is None else f"AND edits IN ({', '.join(str(int(at)) for at in edits)})"


def checkpoints(store: RunStore, ids: Sequence[str]) -> pd.DataFrame:
    """Which checkpoints have been measured, and what was left out at them.

    Returns:
        run, edits, left_out (a JSON object: part and why, "cost" or an error), seconds (spent on measuring).
    """
    return read(
        store,
        ids,
        "(SELECT c.run, c.edits, c.left_out, coalesce(sum(m.seconds), 0) AS seconds FROM checkpoints AS c "
        "LEFT JOIN measuring AS m ON m.run = c.run AND m.edits = c.edits GROUP BY c.run, c.edits)",
        ("edits", "left_out", "seconds"),
    )


def measuring(store: RunStore, ids: Sequence[str]) -> pd.DataFrame:
    """The time that measuring took.

    Returns:
        run, edits, part, seconds.
    """
    return read(store, ids, "measuring", ("edits", "part", "seconds"))


def timings(store: RunStore, ids: Sequence[str], max_points: int | None = MAX_POINTS) -> pd.DataFrame:
    """The time that editing took, by phase. In long runs neighbouring batches are added up.

    Returns:
        run, edits (at the end of the batch or batches), phase, seconds, facts (edited in that time, so that
        seconds / facts is the time of an edit).
    """
    return bucketed(
        store,
        ids,
        "(SELECT t.run, t.edits, t.phase, t.seconds, b.facts FROM timings AS t "
        "JOIN batches AS b ON b.run = t.run AND b.edits = t.edits)",
        ("phase",),
        "sum(seconds) AS seconds, sum(facts) AS facts",
        ("edits", "phase", "seconds", "facts"),
        max_points,
    )


def memory(store: RunStore, ids: Sequence[str], max_points: int | None = MAX_POINTS) -> pd.DataFrame:
    """The worker's memory at the end of batches; in long runs the maximum of neighbouring batches.

    Returns:
        run, edits, resident_bytes, peak_bytes (since the worker's start), device_peak_bytes.
    """
    names = ("resident_bytes", "peak_bytes", "device_peak_bytes")
    summary = ", ".join(f"max({name}) AS {name}" for name in names)
    return bucketed(store, ids, "batches", (), summary, ("edits", *names), max_points)


def targets(store: RunStore, ids: Sequence[str]) -> pd.DataFrame:
    """How the target of every fact was found: the values at the end of its optimisation.

    Returns:
        run, fact (place in the run's facts, from 0), edits (at its batch's end), steps, stopped, loss, nll, kl, decay,
        probability, probability_before.
    """
    columns = (
        "fact", "edits", "steps", "stopped", "loss", "nll", "kl", "decay", "probability", "probability_before",
    )  # fmt: skip
    return read(store, ids, "targets", columns)


def trajectories(store: RunStore, ids: Sequence[str], facts: Sequence[int] | None = None) -> pd.DataFrame:
    """The target optimisation step by step, for the facts for which it was kept (`MeasurePlan.trajectory_facts`).

    Args:
        store, ids: as for `norms`.
        facts: only these places in the run's facts; all that were kept by default.

    Returns:
        run, fact, step, edits, loss, nll, kl, decay, probability.
    """
    condition = f"AND fact IN ({', '.join(str(int(fact)) for fact in facts)})" if facts is not None else ""
    columns = ("fact", "step", "edits", "loss", "nll", "kl", "decay", "probability")
    return read(store, ids, "trajectories", columns, condition)


ALL: dict[str, Callable[..., pd.DataFrame]] = {
    "norms": norms,
    "scores": scores,
    "contributions": contributions,
    "measures": measures,
    "downstream": downstream,
    "checkpoints": checkpoints,
    "measuring": measuring,
    "timings": timings,
    "memory": memory,
    "targets": targets,
    "trajectories": trajectories,
    "scored": scored,
    "fact_scores": fact_scores,
    "answers": answers,
    "task_answers": task_answers,
}
"""Every series by name."""

THINNED = ("norms", "scores", "contributions", "measures", "downstream", "timings", "memory")
"""Those of them that are thinned unless told otherwise."""


def every_row(store: RunStore, name: str, ids: Sequence[str]) -> pd.DataFrame:
    """A series with every row, neither thinned nor added up; scores with their protocol, for files are read alone."""
    frame = ALL[name](store, ids, **({"max_points": None} if name in THINNED else {}))
    if name not in ("scores", "downstream"):
        return frame
    if name == "downstream":
        return frame.assign(protocol=[TASK_PROTOCOLS.get(metric, "") for metric in frame["metric"]])
    of_run = {run_id: store.get(run_id).protocols for run_id in dict.fromkeys(ids)}
    pairs = zip(frame["run"], frame["metric"], strict=True)
    return frame.assign(
        protocol=["" if metric == "facts" else protocol(metric, of_run[run_id]) for run_id, metric in pairs]
    )


def as_csv(frame: pd.DataFrame) -> bytes:
    """A frame as CSV, safe in a spreadsheet; missing values are empty cells."""
    cells = frame.astype(object).where(frame.notna(), None)
    return neutral_csv(list(frame.columns), cells.itertuples(index=False, name=None))
