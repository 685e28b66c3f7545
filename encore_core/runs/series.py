"""The series of runs as pandas frames: what the pages draw and what `export` writes.

Every frame begins with the column `run` (the run's id, categorical) and, but for `targets` and `trajectories`, the
column `edits`: facts handled so far; 0 is the model as it was loaded. Rows are in order of run, then place. Frames
without rows have all their columns. A line of more than `max_points` points is thinned, its extremes and both ends
kept; `max_points=None` gives every row.

    norms(store, ["encore-7k2q", "memit-x9d3"], layers=(10,))
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from encore_core.runs.store import RunStore
from encore_core.spreadsheets import neutral_csv

if TYPE_CHECKING:
    import pandas as pd

MAX_POINTS = 1000


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
    frame = _read(store, ids, "norms", ("edits", "layer", "norm", "ratio"), condition)
    return thinned(frame, ("run", "layer"), "edits", "norm", max_points)


def scores(
    store: RunStore,
    ids: Sequence[str],
    subsets: Sequence[str] | None = None,
    metrics: Sequence[str] | None = None,
    max_points: int | None = MAX_POINTS,
) -> pd.DataFrame:
    """Scores of facts, see `metrics.Scores`.

    At 0 edits they are those of the unedited model on the facts to come: the sample of all of the run's facts, and its
    first batch (which is the newest one, too).

    Args:
        store, ids, max_points: as for `norms`; a line is run, subset and metric.
        subsets: some of `plan.SUBSETS`; all by default.
        metrics: names of metrics; all by default.

    Returns:
        run, edits, subset, metric, value (None where the facts have no such prompts).
    """
    condition, values = _among("subset", subsets)
    more, more_values = _among("metric", metrics)
    frame = _read(
        store, ids, "scores", ("edits", "subset", "metric", "value"), condition + more, (*values, *more_values)
    )
    return thinned(frame, ("run", "subset", "metric"), "edits", "value", max_points)


def contributions(
    store: RunStore, ids: Sequence[str], edits: Sequence[int] | None = None, max_points: int | None = MAX_POINTS
) -> pd.DataFrame:
    """What each sublayer adds to the residual stream, see `contributions` in the engine.

    Args:
        store, ids, max_points: as for `norms`; a line is run and sublayer.
        edits: only at these checkpoints; all by default.

    Returns:
        run, edits, sublayer (place from the input up), label, kind, layer (missing for the input), share, signed_share.
    """
    condition = f"AND edits IN ({', '.join(str(int(at)) for at in edits)})" if edits is not None else ""
    columns = ("edits", "sublayer", "label", "kind", "layer", "share", "signed_share")
    frame = _read(store, ids, "contributions", columns, condition)
    return thinned(frame, ("run", "sublayer"), "edits", "share", max_points)


def measures(store: RunStore, ids: Sequence[str], max_points: int | None = MAX_POINTS) -> pd.DataFrame:
    """Perplexity on the fixed text, and generation entropy.

    Returns:
        run, edits, metric ("perplexity", "generation_entropy"), value.
    """
    frame = _read(store, ids, "measures", ("edits", "metric", "value"))
    return thinned(frame, ("run", "metric"), "edits", "value", max_points)


def downstream(store: RunStore, ids: Sequence[str], max_points: int | None = MAX_POINTS) -> pd.DataFrame:
    """Scores of the downstream tasks.

    Returns:
        run, edits, task, metric, value.
    """
    frame = _read(store, ids, "downstream", ("edits", "task", "metric", "value"))
    return thinned(frame, ("run", "task", "metric"), "edits", "value", max_points)


def checkpoints(store: RunStore, ids: Sequence[str]) -> pd.DataFrame:
    """Which checkpoints have been measured, and what the cap on measuring left out at them.

    Returns:
        run, edits, left_out (a JSON object: part and why, "cost" or an error), seconds (spent on measuring).
    """
    return _read(
        store,
        ids,
        "(SELECT c.run, c.edits, c.left_out, coalesce(sum(m.seconds), 0) AS seconds FROM checkpoints AS c "
        "LEFT JOIN measuring AS m ON m.run = c.run AND m.edits = c.edits GROUP BY c.run, c.edits)",
        ("edits", "left_out", "seconds"),
    )


def measuring(store: RunStore, ids: Sequence[str]) -> pd.DataFrame:
    """What measuring took.

    Returns:
        run, edits, part, seconds.
    """
    return _read(store, ids, "measuring", ("edits", "part", "seconds"))


def timings(store: RunStore, ids: Sequence[str], max_points: int | None = MAX_POINTS) -> pd.DataFrame:
    """What editing took, by phase. Of long runs neighbouring batches are added up.

    Returns:
        run, edits (at the end of the batch or batches), phase, seconds, facts (edited in that time, so that
        seconds / facts is the time of an edit).
    """
    return _bucketed(
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
    """The worker's memory at the end of batches; of long runs the most of neighbouring batches.

    Returns:
        run, edits, resident_bytes, peak_bytes (since the worker's start), device_peak_bytes.
    """
    names = ("resident_bytes", "peak_bytes", "device_peak_bytes")
    summary = ", ".join(f"max({name}) AS {name}" for name in names)
    return _bucketed(store, ids, "batches", (), summary, ("edits", *names), max_points)


def targets(store: RunStore, ids: Sequence[str]) -> pd.DataFrame:
    """How the target of every fact was found: the values at the end of its optimisation.

    Returns:
        run, fact (place in the run's facts, from 0), edits (at its batch's end), steps, stopped, loss, nll, kl, decay,
        probability, probability_before.
    """
    columns = (
        "fact", "edits", "steps", "stopped", "loss", "nll", "kl", "decay", "probability", "probability_before",
    )  # fmt: skip
    return _read(store, ids, "targets", columns)


def target_means(store: RunStore, ids: Sequence[str], max_points: int | None = MAX_POINTS) -> pd.DataFrame:
    """Means of `targets` over the facts of a batch, or of neighbouring batches: quick to read and to draw.

    Returns:
        run, edits, steps, loss, nll, kl, decay, probability, probability_before.
    """
    names = ("steps", "loss", "nll", "kl", "decay", "probability", "probability_before")
    summary = ", ".join(f"avg({name}) AS {name}" for name in names)
    return _bucketed(store, ids, "targets", (), summary, ("edits", *names), max_points)


def trajectories(store: RunStore, ids: Sequence[str], facts: Sequence[int] | None = None) -> pd.DataFrame:
    """The target optimisation step by step, of the facts of which it was kept (`MeasurePlan.trajectory_facts`).

    Args:
        store, ids: as for `norms`.
        facts: only these places in the run's facts; all that were kept by default.

    Returns:
        run, fact, step, edits, loss, nll, kl, decay, probability.
    """
    condition = f"AND fact IN ({', '.join(str(int(fact)) for fact in facts)})" if facts is not None else ""
    columns = ("fact", "step", "edits", "loss", "nll", "kl", "decay", "probability")
    return _read(store, ids, "trajectories", columns, condition)


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
}
"""Every series by name."""


def every_row(store: RunStore, name: str, ids: Sequence[str]) -> pd.DataFrame:
    """A series without anything left out or added up."""
    thinning = name not in ("checkpoints", "measuring", "targets", "trajectories")
    return ALL[name](store, ids, **({"max_points": None} if thinning else {}))


def as_csv(frame: pd.DataFrame) -> bytes:
    """A frame as CSV, harmless in a spreadsheet; missing values are empty cells."""
    cells = frame.astype(object).where(frame.notna(), None)
    return neutral_csv(list(frame.columns), cells.itertuples(index=False, name=None))


# -- reading -----------------------------------------------------------------------------------------------------------


def thinned(
    frame: pd.DataFrame, line: Sequence[str], x: str, y: str, max_points: int | None = MAX_POINTS
) -> pd.DataFrame:
    """A frame whose lines have at most `max_points` points each, with the extremes of y and both ends kept.

    A line's points are parted into equal stretches, of each of which its lowest and its highest point stay.

    Args:
        frame: with the columns below, ordered by x within each line.
        line: columns that tell lines apart.
        x, y: names of columns.
        max_points: 4 or more, or None to keep all.
    """
    import numpy as np

    if max_points is None or not len(frame):
        return frame
    grouped = frame.groupby(list(line), observed=True, sort=False)
    if grouped.size().max() <= max_points:
        return frame
    kept: list[np.ndarray] = []
    for places in grouped.indices.values():
        if len(places) <= max_points:
            kept.append(places)
            continue
        values = frame[y].to_numpy(dtype=float, na_value=np.nan)[places]
        # Two points a stretch, and the two ends.
        stretches = np.array_split(np.arange(len(places)), (max_points - 2) // 2)
        chosen = {0, len(places) - 1}
        for stretch in stretches:
            part = values[stretch]
            if np.isnan(part).all():
                chosen.add(int(stretch[0]))
            else:
                chosen |= {int(stretch[np.nanargmin(part)]), int(stretch[np.nanargmax(part)])}
        kept.append(places[sorted(chosen)])
    return frame.iloc[np.sort(np.concatenate(kept))].reset_index(drop=True)


def _read(
    store: RunStore,
    ids: Sequence[str],
    table: str,
    columns: Sequence[str],
    condition: str = "",
    values: Sequence[object] = (),
) -> pd.DataFrame:
    """Rows of a table that belong to some runs. Names come from this module alone; values are bound."""
    ids = list(dict.fromkeys(ids))
    numbers = _numbers(store, ids)
    sql = (
        f"SELECT run, {', '.join(columns)} FROM {table} WHERE run IN ({', '.join(map(str, numbers))}) {condition} "
        "ORDER BY run"
    )
    # The primary keys begin with run and place, so this order costs no sorting.
    _, rows = store.query(sql + f", {columns[0]}", values)
    return _framed(numbers, ids, columns, rows)


def _bucketed(
    store: RunStore,
    ids: Sequence[str],
    table: str,
    line: Sequence[str],
    summary: str,
    columns: Sequence[str],
    max_points: int | None,
) -> pd.DataFrame:
    """Rows summed up over stretches of edits, in the database, so that long runs are not read row by row."""
    ids = list(dict.fromkeys(ids))
    numbers = _numbers(store, ids)
    inside = ", ".join(map(str, numbers))
    _, spans = store.query(f"SELECT run, count(*), max(edits) FROM batches WHERE run IN ({inside}) GROUP BY run")
    width = 1
    for _, count, last in spans:
        if max_points is not None and count > max_points:
            width = max(width, -(-last // max_points))
    grouping = ", ".join(("run", f"(edits - 1) / {width}", *line))
    names = ", ".join(("run", "max(edits) AS edits", *line, summary))
    _, rows = store.query(
        f"SELECT {names} FROM {table} WHERE run IN ({inside}) GROUP BY {grouping} ORDER BY run, edits"
    )
    return _framed(numbers, ids, columns, rows)


def _numbers(store: RunStore, ids: Sequence[str]) -> list[int]:
    """Keys of runs, in the order of their ids.

    Raises:
        InputError: for an id that the store does not have.
    """
    if not ids:
        return []
    _, rows = store.query(f"SELECT id, number FROM runs WHERE id IN ({', '.join('?' * len(ids))})", list(ids))
    known = dict(rows)
    return [known[run_id] if run_id in known else store.get(run_id).number for run_id in ids]


def _framed(numbers: Sequence[int], ids: Sequence[str], columns: Sequence[str], rows: Sequence[tuple]) -> pd.DataFrame:
    import numpy as np
    import pandas as pd

    by_column = list(zip(*rows, strict=True)) or [()] * (len(columns) + 1)
    place = {number: code for code, number in enumerate(numbers)}
    codes = np.array([place[number] for number in by_column[0]], dtype=np.int32)
    data = {"run": pd.Categorical.from_codes(codes, categories=list(ids))}
    for name, values in zip(columns, by_column[1:], strict=True):
        data[name] = _column(name, values)
    return pd.DataFrame(data)


_TEXTS = ("subset", "metric", "task", "phase", "part", "label", "kind", "stopped", "left_out")
_COUNTS = ("edits", "fact", "facts", "step", "sublayer")


def _column(name: str, values: Sequence):
    import numpy as np
    import pandas as pd

    if name in _TEXTS:
        # Of the few distinct texts each is stored once: building and grouping by codes is many times quicker.
        codes: dict[str, int] = {}
        numbers = np.fromiter((codes.setdefault(value, len(codes)) for value in values), np.int32, len(values))
        return pd.Categorical.from_codes(numbers, categories=list(codes))
    if name in _COUNTS:
        return np.array(values, dtype=np.int64)
    if name == "layer":
        if None in values:
            return pd.array(values, dtype="Int64")
        return np.array(values, dtype=np.int64)
    return np.array(values, dtype=np.float64)  # None becomes NaN


def _among(column: str, values: Sequence[str] | None) -> tuple[str, tuple[str, ...]]:
    if values is None:
        return "", ()
    return f" AND {column} IN ({', '.join('?' * len(values))})", tuple(values)
