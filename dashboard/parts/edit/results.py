"""What the model says about a fact, as loaded and with the edits: headline, chart, words, and the figures behind."""

from __future__ import annotations

import streamlit as st

from dashboard.charts import answers as probe_charts
from dashboard.charts.labels import percent
from dashboard.elements import figure, theme, widgets
from dashboard.parts.edit import foretold, inside, probe, scores, shown_fact
from dashboard.reading import model_readings
from dashboard.visitors.messages import Message
from dashboard.visitors.visitor import Visitor
from encore_core.errors import InputError
from encore_core.facts import Fact
from encore_core.forward.prompts import on_sink
from encore_core.measures.answers import Question
from encore_core.spreadsheets import neutral_csv


def show(visitor: Visitor) -> None:
    """What the model says about a fact, as loaded and with the edits."""
    fact = shown_fact.pick(visitor, visitor.edited_facts)
    if fact is None:
        with st.container(border=True, key="card_empty"):
            widgets.heading("What the model says")
            st.write("Complete the fact on the left: its probabilities appear here, before anything is edited.")
        return
    edited = visitor.after is not visitor.before
    try:
        free, is_edited = probe.free_prompt(), visitor.is_edited(fact)
        rows = model_readings.observe(fact, visitor.before, visitor.after, is_edited=is_edited, free=free)
    except InputError as error:
        widgets.problem(error)
        probe.field(fact)
        return
    colours = theme.palette()
    [answer] = visitor.after.answer_probabilities([Question(fact.text, fact.target_new, fact.join)])
    _headline(fact, rows, edited, answer.said)
    prompt = probe.show(visitor, fact)
    with st.container(border=True, key="card_chart"):
        widgets.heading("How probable each answer is", "before → after" if edited else "as loaded, nothing edited yet")
        figure.draw(
            probe_charts.probabilities(rows, colours, edited),
            key="probabilities",
            has_bar=False,
            alt="Probability of the new and the true answer for every prompt; the same values are in the table below.",
        )
        _beginning(fact, visitor)
    inside.show(visitor.session, fact, prompt)
    try:
        _details(fact, rows, visitor, colours)
    except InputError as error:
        widgets.problem(error)


def _beginning(fact: Fact, visitor: Visitor) -> None:
    """How texts begin in these figures, and what a program gets without the start token."""
    lm, pair = visitor.lm, [Question(fact.text, fact.target_new, fact.join)]
    if lm.start_text is not None:
        [measured], [bare] = (
            visitor.after.answer_probabilities(pair),
            visitor.after.answer_probabilities(pair, bare=True),
        )
        widgets.remark(
            f"Measured with the start token {lm.start_text} in front of every text: {fact.target_new} at "
            f"{percent(measured.probability)}. A program that puts nothing in front of the prompt gets "
            f"{percent(bare.probability)}."
        )
    elif on_sink(lm, [fact]):
        widgets.notice(
            Message(
                "warning",
                f"{fact.subject} is the first token of this prompt, and the model reads next to nothing of the first "
                "token of a text. It will hardly give the new answer here: put other words before the subject.",
            )
        )


def _headline(fact: Fact, rows, edited: bool, said: bool) -> None:
    """Three figures: the rewrite, the paraphrases, the neighbours.

    They count the same before and after: how often the new answer is ahead of the true one where it should be, and how
    often a neighbour's own answer is.

    Args:
        fact: what they are about.
        rows: as `model_readings.observe` makes them.
        edited: whether there are edits on the model.
        said: whether the new answer is the most probable one now.
    """
    first = rows.iloc[0]
    tone = "good" if first.verdict == "changed" else "bad" if first.verdict == "unchanged" else ""
    most = "its most probable answer" if said else "not its most probable answer"
    was = f"was {percent(first.new_before)}" if edited else "before any edit"
    items = [(f"New answer: {fact.target_new}", percent(first.new_after), f"{first.symbol} {most} · {was}", tone)]
    for kind, name, wanted in (
        ("paraphrase", "Paraphrases", f"{fact.target_new} ahead of {fact.target_true}"),
        ("neighbour", "Neighbours", f"own answer ahead of {fact.target_new}"),
    ):
        part = rows[rows.kind == kind]
        part = part[part.true.notna()]
        if part.empty:
            continue
        ahead = part.new_after > part.true_after if kind == "paraphrase" else part.true_after > part.new_after
        before = part.new_before > part.true_before if kind == "paraphrase" else part.true_before > part.new_before
        n, n_ahead = len(part), int(ahead.sum())
        best = n if kind == "paraphrase" else int(before.sum())
        is_waiting = not edited or not best or (kind == "paraphrase" and (part.verdict == "waiting").any())
        tone = "" if is_waiting else "good" if n_ahead >= best else "bad" if n_ahead == 0 else "warn"
        symbol = {"good": "✓ ", "bad": "✗ ", "warn": "▲ ", "": ""}[tone]
        was = f" (before: {int(before.sum())})" if edited else ""
        items.append((name, f"{n_ahead} of {n}", f"{symbol}{wanted}{was}", tone))
    widgets.tiles(items)
    missing = _not_counted(fact)
    if missing:
        widgets.remark(missing)


def _not_counted(fact: Fact) -> str:
    """What the headline cannot count for want of prompts or of a true answer; "" where nothing is missing."""
    parts = []
    if not fact.neighbours:
        parts.append("This fact has no neighbours, so side effects are not tested.")
    if not fact.paraphrases:
        parts.append("It has no paraphrases, so other wordings are not tested.")
    elif fact.target_true is None:
        parts.append("Its true answer is not given, so its paraphrases are shown but not counted.")
    return " ".join(parts)


def _details(fact: Fact, rows, visitor: Visitor, colours) -> None:
    """The figures of the charts: table, scores, norms."""
    edited = visitor.after is not visitor.before
    with st.container(border=True, key="card_details"):
        names = ["Table", "Scores", "Matrix norms", "Cost to other text"]
        table, scored, norms, cost = st.tabs(names, key="details", on_change="rerun")
        if table.open:
            with table:
                _rows_table(fact, rows, edited)
        if scored.open:
            with scored:
                scores.show(visitor)
        if norms.open:
            with norms:
                _norms(visitor, colours)
        if cost.open:
            with cost:
                foretold.show(visitor)


def _rows_table(fact: Fact, rows, edited: bool) -> None:
    def figures(before, after) -> str:
        if before is None:
            return "–"
        return f"{percent(before)}\u00a0→\u00a0{percent(after)}" if edited else percent(before)

    def cell(answer, before, after) -> str:
        if answer is None:
            return "–"
        short = answer if len(answer) <= 24 else answer[:23] + "…"
        return f"{short}\n{figures(before, after)}"

    shown = [
        (
            row.prompt,
            cell(row.new, row.new_before, row.new_after),
            cell(row.true, row.true_before, row.true_after),
            (f"{row.symbol} {row.meaning}" if row.word else probe_charts.SECTIONS[row.kind].lower(), row.tone),
        )
        for row in rows.itertuples()
    ]
    columns = [("Prompt", ""), ("New answer", "figures"), ("True answer", "figures"), ("Verdict", "")]
    widgets.table(columns, shown, "Probability of each answer before and after")
    names = [name for name in rows.columns if name not in ("symbol", "word", "tone", "meaning")]
    st.download_button(
        "Download as CSV",
        lambda: neutral_csv(names, rows[names].to_numpy().tolist()),
        "encore-edit.csv",
        "text/csv",
        on_click="ignore",
    )


def _norms(visitor: Visitor, colours) -> None:
    import pandas as pd

    norms = visitor.session.norms()
    if visitor.after is visitor.before:
        st.write("How much the edited matrices grow appears here once the first edit has been made.")
        return
    table = pd.DataFrame([(layer, *pair) for layer, pair in norms.items()], columns=["layer", "before", "after"])
    figure.draw(
        probe_charts.norm_growth(table, colours),
        key="growth of norms",
        has_bar=False,
        alt="Growth of each edited matrix in percent; the values are in the table below.",
    )  # fmt: skip
    widgets.table(
        [("Layer", "right"), ("‖W₀‖", "right"), ("‖W‖", "right"), ("‖W‖ / ‖W₀‖", "right")],
        [(row.layer, f"{row.before:.2f}", f"{row.after:.2f}", f"{row.after / row.before:.5f}")
         for row in table.itertuples()],
        "Frobenius norms of the edited matrices",
    )  # fmt: skip
