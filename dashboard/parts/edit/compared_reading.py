"""What one column of a comparison is read for: every prompt's probabilities, the next words, the text."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import pandas as pd

from dashboard.reading import model_readings
from dashboard.reading.compared_words import Outcome
from dashboard.visitors.comparison import Column, Comparison
from dashboard.visitors.visitor import Visitor
from encore_core.facts import Fact
from encore_core.measures.answers import Question
from encore_core.measures.writing import Writing, Written

IN_COLUMN = Writing(tokens=8)
"""How a column's text is written: no longer than fits, because every token of every column takes its time."""


@dataclass(frozen=True)
class Seen:
    """What a column's model says.

    Attributes:
        rows: as `model_readings.observe` makes them.
        said: whether greedy decoding gives exactly the new answer at the fact's prompt.
        text: what it writes after the prompt that is continued.
    """

    rows: pd.DataFrame
    said: bool
    text: Written


def see(visitor: Visitor, column: Column, fact: Fact, prompt: str, free: str, like: Written | None = None) -> Seen:
    """Read a column's model.

    Args:
        visitor: whose comparison it is.
        column: one that has a session.
        fact: what it is asked about.
        prompt: what it continues.
        free: a prompt of the visitor's own; may be empty.
        like: what another column writes, which may well be alike; by default what the unedited model is known to write.

    Raises:
        InputError: for a prompt that the model cannot take.
    """
    after = column.after if column.n_edits else visitor.before
    is_edited = visitor.comparison.is_edited(column, fact)
    rows = model_readings.observe(fact, visitor.before, after, is_edited=is_edited, free=free)
    [answer] = after.answer_probabilities([Question(fact.text, fact.target_new, fact.join)])
    like = like or visitor.before.greedy_text(prompt)
    return Seen(rows, answer.said, after.written(prompt, IN_COLUMN, like))


def outcomes_of(comparison: Comparison, fact: Fact, seen: Mapping[str, Seen]) -> list[Outcome]:
    """What each column that has edited a fact did to it; a column that was stopped before it is left out.

    Args:
        comparison: the columns.
        fact: what they are asked about.
        seen: label → what was read of a column.
    """
    return [
        outcome_of(column, fact, seen[column.label].rows)
        for column in comparison.columns
        if column.label in seen and comparison.is_edited(column, fact)
    ]


def outcome_of(column: Column, fact: Fact, rows: pd.DataFrame) -> Outcome:
    """What a column did to a fact, for the sentence on top.

    Args:
        column: of the comparison.
        fact: one that it edited.
        rows: as in `Seen`.
    """
    first, around = rows.iloc[0], rows[rows.kind == "neighbour"]
    neighbours = around[around.verdict != "unknown"]
    stops = [
        item.stopped for report in column.reports for item in report.edited if item.fact == fact and item.is_edited
    ]
    moved = tuple((neighbours.true_after - neighbours.true_before).abs().tolist())
    others = rows[(rows.kind == "paraphrase") & rows.true.notna()]
    changed = int((others.new_after > others.true_after).sum()), len(others)
    stopped = stops[-1] if stops else None
    return Outcome(column.label, first.new_after, first.true_after, stopped, moved, changed, len(around) - len(moved))
