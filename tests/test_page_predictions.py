"""Predict first, on the pages about runs: while the class guesses, neither answer nor chart is in sight."""

from __future__ import annotations

import pytest
from tiny_pages import errors, figures, markup, opened, pressed

RUNS = {"run": ["recorded-memit-10000", "recorded-encore-10000"]}
PAIR = {"run": ["recorded-memit-bundled", "recorded-memit-mpes-bundled"]}


@pytest.mark.parametrize(("page", "query", "question"), [
    ("compare", RUNS, "After 5,000 edits, which model still works best?"),
    ("norms", RUNS, "which matrices will have grown most?"),
    ("contributions", RUNS, "how much of the residual stream do the edited layers write?"),
    ("downstream", RUNS, "how much of their skill in other tasks is lost?"),
    ("overfitting", PAIR, "How sure will the model be of an edited fact"),
    ("learn", RUNS | {"step": "again"}, "which model still works best?"),
    ("learn", RUNS | {"step": "breaks"}, "do the edited layers write most of the residual stream?"),
])  # fmt: skip
def test_an_answer_is_covered_until_it_is_asked_for(page, query, question):
    app = opened(page, present="1", predict="1", **query)
    assert question in markup(app) and not errors(app)
    assert 'class="es-answer"' not in markup(app) and not figures(app)
    app = pressed(app, "reveal")
    assert question not in markup(app) and not errors(app)
    assert 'class="es-answer"' in markup(app) and figures(app)
