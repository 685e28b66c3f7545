"""Scores of a comparison's facts by both protocols, a column per method, where a table was edited."""

from __future__ import annotations

import streamlit as st

from dashboard.elements import widgets
from dashboard.parts.edit import judge_form
from dashboard.parts.edit.scores import pick_template
from dashboard.reading import score_rows
from dashboard.reading.score_rows import Column
from dashboard.visitors.visitor import Visitor
from encore_core.errors import InputError
from encore_core.measures.generated import GenerationSettings

AS_LOADED = "as loaded"
MEASURED = "compared scores of"


def show(visitor: Visitor) -> list[Column]:
    """A button that measures, and the tables; the columns of scores that are shown, none before the press."""
    comparison = visitor.comparison
    facts = comparison.edited_facts
    columns = [column for column in comparison.columns if column.session is not None and column.n_edits]
    if len(facts) < 2 or not columns:
        return []
    with st.container(border=True, key="card_compared_scores"):
        widgets.heading("Scores of all facts", f"{len(facts):,} facts; 95 % intervals over facts")
        state = (id(comparison), *(len(column.session.history) for column in columns))
        if st.session_state.get(MEASURED) != state:
            words = f"Measure the {len(facts):,} facts with {len(columns)} method{'s' * (len(columns) != 1)}"
            if not st.button(words, key="measure_compared"):
                st.caption("Takes about a second for every fact and method on two cores: the models write answers.")
                return []
            st.session_state[MEASURED] = state
        settings = GenerationSettings.usual(pick_template(visitor.lm))
        readings = {AS_LOADED: visitor.before} | {column.label: column.after for column in columns}
        found: list[Column] = []
        try:
            for label, reading in readings.items():
                with st.spinner(f"Measuring: {label} …"):
                    found.append((label, reading.scores(facts), reading.generated(facts, settings)))
        except InputError as error:
            widgets.problem(error)
            return []
        found = _judged(found)
        for table in score_rows.compared_tables(found):
            widgets.remark(table.caption)
            columns_shown = [(name, "right" if place else "name") for place, name in enumerate(table.columns)]
            widgets.table(columns_shown, table.rows, table.caption)
    return found


def _judged(found: list[Column]) -> list[Column]:
    """The same with the verdicts of a judge, if the visitor names one."""
    judge = judge_form.pick()
    judged = judge_form.judged(judge, [written for *_, written in found], "compared_judge") if judge else None
    if judged is None:
        return found
    return [(label, forced, written) for (label, forced, _), written in zip(found, judged, strict=True)]
