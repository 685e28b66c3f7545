"""The tab with the scores of all edited facts, by both protocols, and the texts that the model wrote."""

from __future__ import annotations

import streamlit as st

from dashboard.elements import widgets
from dashboard.parts.edit import judge_form
from dashboard.reading import score_rows
from dashboard.visitors.visitor import Visitor
from dashboard.visitors.widget_state import KEEP, remembered
from encore_core.facts import Fact
from encore_core.measures.generated import GenerationSettings, has_chat_template
from encore_core.measures.generated_scores import GeneratedScores
from encore_core.measures.scores import PROTOCOL
from encore_core.models.editable import EditableModel
from encore_core.spreadsheets import neutral_csv

SCORED_AT_ONCE = 5
TEXTS = 200
"""Texts shown on the page; the file has all of them."""
CHAT = "generate_in_chat"


def show(visitor: Visitor) -> None:
    """The scores before and after; for many facts a button asks for them."""
    facts = visitor.edited_facts
    if not facts:
        st.write("Scores of all facts of this session appear here once the first edit has been made.")
        return
    state = id(visitor.session), len(visitor.session.history)
    if len(facts) > SCORED_AT_ONCE and st.session_state.get("scored") != state:
        if not st.button(f"Measure the {len(facts)} edited facts", key="measure"):
            st.caption("Takes about a second for every fact on two cores: the model writes answers to all its prompts.")
            return
        st.session_state["scored"] = state
    settings = GenerationSettings.usual(pick_template(visitor.session.lm))
    with st.spinner("Measuring …"):
        was, now = visitor.before.scores(facts), visitor.after.scores(facts)
        wrote, writes = visitor.before.generated(facts, settings), visitor.after.generated(facts, settings)
    about = f"{len(facts):,} fact{'s' * (len(facts) != 1)} edited in this session; 95 % intervals over facts"
    st.caption(f"{about}. {PROTOCOL[0].upper()}{PROTOCOL[1:]}.")
    columns = [("Score", ""), ("Before", "right"), ("After", "right"), ("n", "right"), ("What it is", "about")]
    widgets.table(columns, score_rows.forced_rows(was, now), "Teacher-forced scores of the edited facts")
    st.caption(f"{writes.protocol[0].upper()}{writes.protocol[1:]}.")
    columns = [("Texts after", "name"), ("Right answer", "about"), ("Text contains it, before", "right"),
               ("after", "right"), ("Text is exactly it, after", "right"), ("n", "right")]  # fmt: skip
    widgets.table(columns, score_rows.generated_rows(wrote, writes), "Scores of generated answers")
    widgets.remark(score_rows.gap_sentence(now, writes))
    wrote, writes = _judged(wrote, writes)
    _texts(facts, wrote, writes)


def _judged(wrote: GeneratedScores, writes: GeneratedScores) -> tuple[GeneratedScores, GeneratedScores]:
    """The same texts with the verdicts of a judge, if the visitor names one, and their scores."""
    judge = judge_form.pick()
    found = judge_form.judged(judge, (wrote, writes), "scores_judge") if judge is not None else None
    if found is None:
        return wrote, writes
    wrote, writes = found
    widgets.remark(f"{writes.protocol[0].upper()}{writes.protocol[1:]}.")
    columns = [("Texts after", "name"), ("Judged right, before", "right"), ("after", "right"), ("n, before", "right"),
               ("after", "right")]  # fmt: skip
    if rows := score_rows.judged_rows(wrote, writes):
        widgets.table(columns, rows, "Scores by the judge")
    return wrote, writes


def pick_template(lm: EditableModel) -> bool:
    """Whether prompts go into the model's chat template: a choice for models that have one."""
    if not has_chat_template(lm):
        return False
    remembered(CHAT, True)
    return st.toggle("Generate in the model's chat template", key=CHAT, **KEEP)


def _texts(facts: list[Fact], wrote: GeneratedScores, writes: GeneratedScores) -> None:
    """Every text, to be read and taken along."""
    before, after = wrote.rows(), writes.rows()
    with st.expander(f"The {len(after):,} texts"):
        shown = [
            (
                new["prompt"],
                new["answers"],
                old["text"],
                (f"{'✓' if new['contained'] else '✗'} {new['text']}", "good" if new["contained"] else "bad"),
            )
            for old, new in zip(before[:TEXTS], after[:TEXTS], strict=True)
        ]
        columns = [("Prompt", ""), ("Right answer", ""), ("Before", "about"), ("After", "")]
        widgets.table(columns, shown, "What the model wrote before and after")
        if len(after) > TEXTS:
            st.caption(f"and {len(after) - TEXTS:,} more in the file")
    rows = [{"moment": "before", **row, "protocol": wrote.protocol} for row in before]
    rows += [{"moment": "after", **row, "protocol": writes.protocol} for row in after]
    st.download_button(
        "Download the texts as CSV",
        lambda: neutral_csv(list(rows[0]), [list(row.values()) for row in rows]),
        "encore-texts.csv",
        "text/csv",
        on_click="ignore",
    )
