"""How the runs stand and what they took."""

from __future__ import annotations

from dashboard.elements import widgets
from dashboard.parts.runs_compared.view import View
from dashboard.reading import run_frames
from dashboard.reading.run_words import duration, seconds_an_edit, short_model, status_line
from encore_core.runs import RunInfo


def draw(view: View) -> None:
    """A row a run."""
    rows = [
        (
            line.name,
            run.id,
            short_model(run.model),
            f"{run.done:,} of {run.n_edits:,}",
            status_line(run),
            duration(run.editing_seconds),
            duration(run.measuring_seconds),
            _seconds(run),
        )
        for line, run in zip(view.lines, view.runs, strict=True)
    ]
    columns = [
        ("Run", "name"),
        ("Id", "about"),
        ("Model", "about"),
        ("Edits", "right"),
        ("Status", "name"),
        ("Editing", "right"),
        ("Measuring", "right"),
        ("s an edit, median", "right"),
    ]
    widgets.table(columns, rows, "The runs compared, and what they took")


def _seconds(run: RunInfo) -> str:
    found = run_frames.seconds_of_edits(run)
    return "–" if found is None else seconds_an_edit(found)
