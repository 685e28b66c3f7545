"""Several methods side by side: what differs in one line, and a column for each of them as it is done."""

from __future__ import annotations

from collections.abc import Callable

import streamlit as st
from streamlit.delta_generator import DeltaGenerator

from dashboard.charts import compared as charts
from dashboard.charts.labels import percent
from dashboard.elements import figure, theme, widgets
from dashboard.parts.edit import compared_files, compared_scores, foretold, inside, probe, shown_fact
from dashboard.parts.edit.compared_reading import Seen, outcomes_of, see
from dashboard.parts.edit.history import stop_word
from dashboard.reading import model_readings
from dashboard.reading.compared_words import difference, why_early
from dashboard.server import limits
from dashboard.visitors.comparison import Column, Comparison
from dashboard.visitors.visitor import Visitor
from encore_core.editing.shared_search import share_search
from encore_core.errors import InputError
from encore_core.facts import Fact
from encore_core.methods import GRADIENTS

Finished = Callable[[Column], None]

LEGEND = (
    '<p class="es-aside">In every column: <span class="es-key-new">●</span> new answer, '
    '<span class="es-key-true">◆</span> true answer; hollow before the edit, full after it. '
    "The figures are those after it.</p>"
)

WORDS = 6
"""Most probable next words in a column."""


def show(visitor: Visitor, *, covered: bool = False) -> Finished:
    """Draw the comparison of a visitor.

    Args:
        visitor: who compares.
        covered: whether the class has yet to predict what comes out: names alone are shown.

    Returns:
        what draws a column that has just been done.
    """
    comparison = visitor.comparison
    fact = shown_fact.pick(visitor, comparison.edited_facts)
    if fact is None:
        st.write("Complete the fact in the editor: every method's answer to it appears here.")
        return lambda column: None
    prompt = "" if covered else probe.pick_prompt(fact)
    words = st.empty()
    st.html(LEGEND)
    places = _grid(comparison)
    seen: dict[str, Seen] = {}

    def draw(column: Column) -> None:
        with places[column.label].container():
            _heading(column)
            if covered:
                st.caption("Covered until you show the answer.")
            elif not comparison.is_done(column):
                st.caption("Not done yet …")
            else:
                _column(visitor, column, fact, prompt, seen)
        if not covered:
            _difference(words, fact, comparison, seen)

    for column in comparison.columns:
        draw(column)
    if not covered and not visitor.is_busy:
        inside.show_compared(comparison, fact, prompt)
        compared_files.offer(comparison, fact, seen, compared_scores.show(visitor))
        foretold.show_compared(visitor)
    return draw


def _grid(comparison: Comparison) -> dict[str, DeltaGenerator]:
    """A place for each column, by its label; the style sheet puts them beside or below each other."""
    places = {}
    with st.container(key="compared"):
        for number, (column, box) in enumerate(
            zip(comparison.columns, st.columns(len(comparison.columns)), strict=True)
        ):
            with box, st.container(border=True, key=f"compared_{number}"):
                places[column.label] = st.empty()
    return places


# -- a column ----------------------------------------------------------------------------------------------------------


def _heading(column: Column) -> None:
    """The method in its colour, and its own settings below."""
    method, _, settings = column.label.partition(", ")
    st.html(
        widgets.rich(
            '<div class="es-column" style="border-color:{colour}"><h2>{method}</h2><small>{settings}</small></div>',
            colour=theme.palette().method(column.arm.method),
            method=method,
            settings=settings,
        )
    )


def _column(visitor: Visitor, column: Column, fact: Fact, prompt: str, seen: dict[str, Seen]) -> None:
    if column.error is not None:
        widgets.problem(column.error)
    if column.session is None:
        return
    try:
        limits.check_text("Your own prompt", st.session_state.get("free_prompt") or "")
        free = st.session_state.get("free_prompt") or ""
        before = next(reversed(seen.values())).text if seen else None
        found = seen[column.label] = see(visitor, column, fact, prompt, free, before)
    except InputError as error:
        widgets.problem(error)
        return
    _tiles(fact, found)
    number = visitor.comparison.columns.index(column)
    figure.draw(
        charts.column(found.rows, theme.palette()), key=f"column {number}", has_bar=False,
        alt=f"{column.label}: probability of the new and the true answer for every prompt, before and after.",
    )  # fmt: skip
    _says(column, fact, prompt, found)
    earlier = (other for other in visitor.comparison.columns[:number] if _shares_search(other, column))
    _figures(column, next(earlier, None))
    if not visitor.is_busy:
        st.button(f"Keep {column.arm.method}", key=f"keep_{number}", icon=":material/check:", width="stretch",
                  disabled=not column.n_edits, on_click=_keep, args=(visitor, column),
                  help="Go on with this method's model alone; the others are dropped.")  # fmt: skip


def _keep(visitor: Visitor, column: Column) -> None:
    visitor.keep(column)
    # The card of the method then shows the settings that the edits were made with.
    st.session_state["edits_just_loaded"] = True


def _tiles(fact: Fact, found: Seen) -> None:
    rows = found.rows
    first = rows.iloc[0]
    tone = {"changed": "good", "unchanged": "bad"}.get(first.verdict, "")
    said = "its most probable answer" if found.said else "not its most probable answer"
    items = [(fact.target_new, percent(first.new_after), f"was {percent(first.new_before)} · {said}", tone)]
    for kind, name, wanted in (
        ("paraphrase", "New answer ahead in paraphrases", ("changed", "ahead")),
        ("neighbour", "Neighbours still ahead", ("kept", "weakened")),
    ):
        part = rows[(rows.kind == kind) & (rows.verdict != "unknown")]
        if len(part):
            n_right = int(part.verdict.isin(wanted).sum())
            tone = "good" if n_right == len(part) else "bad" if n_right == 0 else "warn"
            moved = 100 * (part.true_after - part.true_before).abs().mean()
            remark = f"moved {moved:.1f} points" if kind == "neighbour" else ""
            items.append((name, f"{n_right} of {len(part)}", remark, tone if first.verdict != "waiting" else ""))
    widgets.tiles(items)


def _says(column: Column, fact: Fact, prompt: str, found: Seen) -> None:
    """How the model goes on, and the words that it weighed."""
    # The name again: on a phone the heading is out of sight by now.
    st.caption(f"What {column.arm.method} says")
    widgets.verbatim(f"{prompt}{found.text.text}{'…' if found.text.is_cut else ''}")
    rows = ""
    for word, probability, role in model_readings.first_words(found.text, fact)[:WORDS]:
        rows += widgets.rich(
            '<tr><td class="es-word es-{role}" dir="auto">{word}</td><td><div class="es-bar es-bar-{role}">'
            '<span style="width:{width}%"></span></div></td><td class="es-right">{share}</td></tr>',
            role=role,
            word=word,
            width=f"{100 * probability:.1f}",
            share=percent(probability),
        )
    st.html(widgets.table_markup(f"<tbody>{rows}</tbody>", "Most probable next words", "es-words"))


def _shares_search(other: Column, column: Column) -> bool:
    """Whether the other column's search served this one; only the first edits, of the unedited model, share one."""
    sessions = (other.session, column.session)
    if None in sessions or len(column.reports) != 1 or column.session.n_edits != len(column.reports[0].edited):
        return False
    return share_search(*(session.settings for session in sessions))


def _figures(column: Column, first: Column | None) -> None:
    """Growth of the matrices, steps, why the search stopped, and time; `first` made the search that it shares."""
    norms = column.session.norms()
    layer, (was, now) = max(norms.items(), key=lambda item: item[1][1] / item[1][0])
    items = [item for report in column.reports for item in report.edited if item.is_edited]
    told = [f"‖W‖ {100 * (now / was - 1):+.3f} % at most (layer {layer})"]
    if items:
        steps = sorted(item.steps for item in items)
        stops = ", ".join(sorted({stop_word(item, column.session.settings) for item in items}))
        shown = str(steps[0]) if steps[0] == steps[-1] else f"{steps[0]}–{steps[-1]}"
        if column.session.settings.preservation in GRADIENTS:
            told.append("one step along the gradient")
        else:
            told.append(f"{shown} {'step' if shown == '1' else 'steps'}, stopped by {stops}")
    if left := column.session.directions_left():
        told.append(left)
    if column.seconds:
        shared = f", with the search of {first.arm.method}" if first is not None else ""
        told.append(f"{column.seconds:.1f} s{shared}")
    widgets.remark(" · ".join(told))


# -- what differs ------------------------------------------------------------------------------------------------------


def _difference(words: DeltaGenerator, fact: Fact, comparison: Comparison, seen: dict[str, Seen]) -> None:
    outcomes = outcomes_of(comparison, fact, seen)
    if len(outcomes) < 2:
        return
    words.html(
        widgets.rich(
            '<p class="es-differs" role="status" dir="auto">{text}</p><p class="es-aside">{aside}</p>',
            text=difference(fact.target_new, outcomes),
            aside=why_early(outcomes, comparison.n_edits // max(1, comparison.n_sessions)),
        )
    )
