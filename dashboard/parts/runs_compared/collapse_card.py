"""The line that a model must not cross, set by the reader, and after how many edits each run's model crosses it."""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence

import streamlit as st

from dashboard.charts.downstream import MEAN
from dashboard.charts.runs import RATIO
from dashboard.elements import theme, widgets
from dashboard.parts.runs_compared.view import View
from dashboard.reading.answers.courses import PERPLEXITIES, SHARES, Course, Lines
from dashboard.reading.answers.crossings import span_words
from dashboard.visitors.widget_state import KEEP, remembered

PERPLEXITY, TASKS = "compare_perplexity", "compare_tasks"
TOO_FAR_RIGHT = 0.6
"""From this share of the slider on, a mark's name stands on its left."""

ABOUT = (
    "These are ranges because models are measured only at checkpoints; they are wider where the 95 % interval of the "
    "tasks contains the threshold. Perplexity is one figure per run, on one fixed text."
)


def restore(first: Mapping[str, str]) -> None:
    """Set the lines to what a link asks for (`perplexity=`, `tasks=`); the usual ones are not in a link."""
    usual = Lines()
    for name, key, choices, otherwise in (("perplexity", PERPLEXITY, PERPLEXITIES, usual.perplexity),
                                          ("tasks", TASKS, SHARES, usual.tasks)):  # fmt: skip
        found = (choice for choice in choices if f"{choice:g}" == first.get(name))
        st.session_state[key] = next(found, otherwise)


def chosen() -> Lines:
    """The lines as they are set."""
    usual = Lines()
    return Lines(remembered(PERPLEXITY, usual.perplexity), remembered(TASKS, usual.tasks))


def address(lines: Lines) -> dict[str, str]:
    """The lines for a link; empty for the usual ones."""
    usual = Lines()
    return {
        "perplexity": f"{lines.perplexity:g}" if lines.perplexity != usual.perplexity else "",
        "tasks": f"{lines.tasks:g}" if lines.tasks != usual.tasks else "",
    }


def limits(view: View, courses: Sequence[Course]) -> dict[tuple[str, str], float]:
    """(measure, run) → the value that is not to be reached."""
    found = {(RATIO, run): view.limits.perplexity for run in view.ids}
    return found | {
        (MEAN, run): one.tasks_line for run, one in zip(view.ids, courses, strict=True) if one.tasks_line is not None
    }


def draw(lines: Lines, courses: Sequence[Course]) -> None:
    """The controls of the lines, and the edits until each is crossed."""
    widgets.heading(
        "Edits until collapse",
        "A range names the checkpoints between which a model crosses the threshold and does not come back. Unedited "
        "models are at × 1 and 100 %.",
    )
    with st.container(horizontal=True, key="collapse_lines"):
        st.segmented_control(
            "Perplexity rises to", list(PERPLEXITIES), key=PERPLEXITY, required=True,
            format_func=lambda ratio: f"× {ratio:g}", **KEEP,
        )  # fmt: skip
        st.segmented_control(
            "Tasks fall to", list(SHARES), key=TASKS, required=True,
            format_func=lambda share: f"{100 * share:g} %", **KEEP,
        )  # fmt: skip
    rows = [(one.name, span_words(one.perplexity), span_words(one.tasks), _edits(one)) for one in courses]
    columns = [("Run", "name"), (f"Perplexity × {lines.perplexity:g}", ""), (f"Tasks {lines.tasks_fallen}", ""),
               ("Edits", "")]  # fmt: skip
    widgets.table(columns, rows, "Edits until each run's model collapses")
    widgets.caption(ABOUT)


def _edits(one: Course) -> str:
    if one.cut_short:
        return f"{one.cut_short} after {one.done:,} of {one.planned:,}"
    return f"{one.done:,}" if one.done == one.planned else f"{one.done:,} of {one.planned:,} so far"


def marks(view: View, courses: Sequence[Course], checkpoints: Sequence[int]) -> None:
    """Marks below the slider: where each run's model collapses.

    Args:
        view: what is shown.
        courses: the runs.
        checkpoints: the slider's positions, which are equally far apart.
    """
    if len(checkpoints) < 2:
        return
    colours = theme.palette()
    rows = "".join(
        _mark(one, colours.method(line.method), checkpoints)
        for line, one in zip(view.lines, courses, strict=True)
        if one.measured
    )
    st.html(f'<div class="es-marks">{rows}</div>')


def _mark(one: Course, colour: str, checkpoints: Sequence[int]) -> str:
    """One run's mark with its name."""
    found, name = one.collapse, html.escape(one.name)
    if found is None:
        return (
            f'<div><b style="right:0;border-color:{colour}">{name}<span>: not within {one.reached:,}</span></b></div>'
        )
    what = "perplexity" if found is one.perplexity else "tasks"
    left, right = (_place(edits, checkpoints) for edits in (found.after, found.by))
    side = f"right:calc({100 * (1 - left):.1f}% + 8px)" if right > TOO_FAR_RIGHT else \
        f"left:calc({100 * right:.1f}% + 8px)"  # fmt: skip
    return (
        f'<div><i style="left:{100 * left:.1f}%;width:{100 * (right - left):.1f}%;background:{colour}"></i>'
        f'<b style="{side};border-color:{colour}">{name}<span>: {what}, {found.after:,} to '
        f"{found.by:,}</span></b></div>"
    )


def _place(edits: int, checkpoints: Sequence[int]) -> float:
    """Where some edits are on the slider, from 0 to 1."""
    before = sum(point <= edits for point in checkpoints) - 1
    return max(0, before) / (len(checkpoints) - 1)
