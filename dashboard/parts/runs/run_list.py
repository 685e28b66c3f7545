"""The list of runs with their results: sortable columns, small curves, and rows to be ticked and sent to Compare."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence

import pandas as pd
import streamlit as st

from dashboard import page_list
from dashboard.elements import theme, widgets
from dashboard.reading import run_overviews
from dashboard.reading.run_overviews import GROWTH, GROWTH_CURVE, PERPLEXITY, PERPLEXITY_CURVE
from dashboard.reading.run_words import MOST_COMPARED
from encore_core.runs import RunInfo

ROW = 33  # height of a row in pixels
SHOWN_ROWS = 26  # as many as the recorded runs that are planned
TABLE = "runs_table"
OPENED = "Open"

WIDTHS = {"Edit score": 76, "Says it": 60, "Neighbours": 84}

ABOUT = {
    "Edit score": "Share of edited prompts after which the new answer is more probable than the true one, in %.",
    "Says it": "Share of edited prompts after which the model itself writes the new answer, in %.",
    "Paraphrases": "Share of paraphrases after which the new answer is more probable than the true one, in %.",
    "Neighbours": "Share of neighbouring facts that keep their own answer, in %.",
}


def show(runs: Sequence[RunInfo], opened: str | None, open_run: Callable[[str], None]) -> None:
    """The list, what its figures are, and the button that sends ticked rows to Compare.

    Args:
        runs: those to list.
        opened: the id of the run that is open, whose row is marked.
        open_run: called with the id of the run in whose row the visitor has clicked.
    """
    frame = run_overviews.listed(runs)
    ids = [run.id for run in runs]
    frame.insert(0, OPENED, ["▶" if run_id == opened else "" for run_id in ids])
    picked = _picked(runs)
    compare = st.container(horizontal=True, vertical_alignment="center", key="runs_compare")
    st.dataframe(
        frame,
        hide_index=True,
        key=table_key(ids),
        selection_mode=["multi-row", "single-cell"],
        on_select=lambda: _selected(ids, open_run),
        column_config=_columns(frame),
        row_height=ROW,
        placeholder="–",
        height=ROW * (min(len(runs), SHOWN_ROWS) + 1) + 4,
        alt="All runs with their results; the box below opens one, too.",
    )
    protocols = run_overviews.protocols_of(run_overviews.of(runs))
    widgets.caption(f"{protocols} Curves are logarithmic, on one scale in all rows.")
    with compare:
        _offer_comparison(picked, len(runs))


def table_key(ids: Sequence[str]) -> str:
    """The key of the table with these runs. Ticks are numbers of rows, so that other rows need another table."""
    return f"{TABLE}_{hashlib.sha256(' '.join(ids).encode()).hexdigest()[:12]}"


def _picked(runs: Sequence[RunInfo]) -> list[RunInfo]:
    """The runs whose rows are ticked."""
    selection = st.session_state.get(table_key([run.id for run in runs]), {}).get("selection", {})
    return [runs[row] for row in selection.get("rows", []) if row < len(runs)]


def _offer_comparison(picked: Sequence[RunInfo], n_runs: int) -> None:
    """The button, which says what is missing while it cannot be pressed."""
    ready = [run for run in picked if run.measuring_seconds]
    fits = 2 <= len(ready) <= MOST_COMPARED and len(ready) == len(picked)
    words = f"Compare these {len(ready)} runs" if fits else "Compare"
    if st.button(words, key="compare_picked", type="primary" if fits else "secondary", disabled=not fits,
                 icon=":material/compare_arrows:"):  # fmt: skip
        st.switch_page(page_list.script("compare"), query_params={"run": [run.id for run in ready]})
    if fits:
        said = ", ".join(run.method for run in ready)
    elif len(picked) > MOST_COMPARED:
        said = f"{len(picked)} runs are ticked; Compare shows up to {MOST_COMPARED}."
    elif len(ready) < len(picked):
        said = "One of the ticked runs has not been measured yet."
    else:
        rows = f"{n_runs} run{'s' * (n_runs != 1)}" + "; scroll in the table to see all" * (n_runs > SHOWN_ROWS)
        said = f"{rows}. Click a row to open it; tick 2 to {MOST_COMPARED} to compare them."
    st.caption(said)


def _selected(listed: Sequence[str], open_run: Callable[[str], None]) -> None:
    """Open the run in whose row a cell was clicked, or the only one that is ticked."""
    selection = st.session_state[table_key(listed)]["selection"]
    cells, rows = selection.get("cells", []), selection.get("rows", [])
    row = cells[0][0] if cells else rows[0] if len(rows) == 1 else None
    if row is not None and row < len(listed):
        open_run(listed[row])


def _columns(frame: pd.DataFrame) -> dict[str, object]:
    """How each column is shown; figures stay numbers, so that a click on a heading sorts by them."""
    number, text = st.column_config.NumberColumn, st.column_config.TextColumn
    curve = st.column_config.LineChartColumn
    colour = theme.palette().muted
    columns: dict[str, object] = {
        OPENED: text(" ", pinned=True, width=30, help="The mark is in the row of the run that is open below."),
        "Method": text(pinned=True, width=105),
        "Model": text(width=105),
        "Facts": text(width=118, help="The file of the facts, or the set that comes with the program."),
        "Status": text(width=96),
        "Seed": number(format="%d", width=45, help="Of the order, the sampled prefixes and the samples."),
        "Edits": number(format="localized", width=62, help="Edits made."),
        "Planned": number(format="localized", width=78, help="Edits that were planned."),
        "n": number(format="%d", width=36, help="Facts scored."),
        PERPLEXITY: number(format="%.3g", width=84, help="Perplexity on a fixed text against the unedited model's."),
        PERPLEXITY_CURVE: curve(
            width=80, y_min=-0.1, y_max=run_overviews.highest(frame, PERPLEXITY_CURVE, 0.3), color=colour,
            help="Over the edits, logarithm (base 10) of the ratio; the same scale in all rows.",
        ),
        GROWTH: number(format="%.2f", width=78, help="Norm of the edited matrix that grew most against its norm "
                       "as loaded."),
        GROWTH_CURVE: curve(
            width=66, y_min=-0.02, y_max=run_overviews.highest(frame, GROWTH_CURVE, 0.1), color=colour,
            help="Over the edits, logarithm (base 10) of the ratio; the same scale in all rows.",
        ),
        "Time, min": number(format="%.0f", width=72, help="Editing and measuring."),
        "Started": st.column_config.DatetimeColumn(format="YYYY-MM-DD HH:mm", width=140),
    }  # fmt: skip
    scores = {name: number(format="%.0f", width=WIDTHS.get(name, 90), help=about) for name, about in ABOUT.items()}
    return {name: column for name, column in (columns | scores).items() if name in frame}
