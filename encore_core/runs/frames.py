"""Rows of the store as pandas frames, thinned where a line is long: what `series` is built on."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from encore_core.runs.schema import SINCE, later
from encore_core.runs.store import RunStore

if TYPE_CHECKING:
    import pandas as pd

MAX_POINTS = 1000


def thinned(
    frame: pd.DataFrame, line: Sequence[str], x: str, y: str, max_points: int | None = MAX_POINTS
) -> pd.DataFrame:
    """A frame whose lines have at most `max_points` points each, with the extremes of y and both ends kept.

    A line's points are divided into equal stretches; the lowest and highest point of each stay.

    Args:
        frame: with the columns below, ordered by x within each line.
        line: columns that distinguish lines.
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
        # Two points per stretch, and the two ends.
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


def read(
    store: RunStore,
    ids: Sequence[str],
    table: str,
    columns: Sequence[str],
    condition: str = "",
    values: Sequence[object] = (),
) -> pd.DataFrame:
    """Rows of a table that belong to some runs; none where the store is older than the table, and no value where it is
    older than a column.

    Args:
        store: where the runs are.
        ids: of the runs.
        table, columns: their names, from the program; they are not bound.
        condition: more of the WHERE clause, with `values` bound to its marks.
        values: see there.
    """
    ids = list(dict.fromkeys(ids))
    numbers = _numbers(store, ids)
    version = store.database.version
    if table in SINCE and SINCE[table] > version:
        return _framed(numbers, ids, columns, [])
    missing = later(table, version)
    selected = ", ".join(f"NULL AS {name}" if name in missing else name for name in columns)
    sql = f"SELECT run, {selected} FROM {table} WHERE run IN ({', '.join(map(str, numbers))}) {condition} ORDER BY run"
    # The primary keys begin with run and place, so this order needs no sorting.
    _, rows = store.query(sql + f", {columns[0]}", values)
    return _framed(numbers, ids, columns, rows)


def bucketed(
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


_TEXTS = (
    "subset", "metric", "task", "phase", "part", "label", "kind", "stopped", "left_out", "prompt", "answers", "text",
    "ended", "unjudged", "truth", "said", "likelier",
)  # fmt: skip
_COUNTS = ("edits", "fact", "facts", "step", "sublayer", "number", "test")


def _column(name: str, values: Sequence):
    import numpy as np
    import pandas as pd

    if name in _TEXTS:
        # Store each of the few distinct texts once: building and grouping by codes is many times quicker.
        codes: dict[str, int] = {}
        numbers = np.fromiter(
            (-1 if value is None else codes.setdefault(value, len(codes)) for value in values), np.int32, len(values)
        )
        return pd.Categorical.from_codes(numbers, categories=list(codes))
    if name in _COUNTS:
        return np.array(values, dtype=np.int64)
    if name == "layer":
        if None in values:
            return pd.array(values, dtype="Int64")
        return np.array(values, dtype=np.int64)
    return np.array(values, dtype=np.float64)  # None becomes NaN


def among(column: str, values: Sequence[str] | None) -> tuple[str, tuple[str, ...]]:
    if values is None:
        return "", ()
    return f" AND {column} IN ({', '.join('?' * len(values))})", tuple(values)
