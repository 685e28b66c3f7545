"""What edits cost other text, as the Edit page tells it."""

from __future__ import annotations

import pytest
from test_page_edited_facts import edited, server  # noqa: F401
from tiny_pages import errors, markup, pressed

from dashboard.parts.edit import foretold
from encore_core.words import decimal


@pytest.mark.parametrize(
    ("total", "said"),
    [
        (0.0, "Nothing is on the model"),
        (1e-5, "less than 0.1 %"),
        (0.02, "about 2.0 %"),
        (0.7, "about 101.4 %"),
        (5.0, "multiplies perplexity on general text by 150."),
        (1e4, "by more than any number"),
    ],
)
def test_the_sentence_says_what_the_figure_means(total, said):
    assert said in foretold.sentence(total)


def test_a_press_foretells_the_cost_of_what_is_on_the_model():
    app = edited()
    app.session_state["details"] = "Cost to other text"
    app = app.run()
    assert "Estimated damage by edited layer" not in markup(app)
    app = pressed(app, "foretold")
    found = app.session_state["visitor"].session.foretold_damage()
    assert not errors(app) and all(one > 0 for one in found.values())
    page = markup(app)
    assert foretold.sentence(sum(found.values())) in page.replace("\u00a0", " ")
    assert all(decimal(one) in page for one in found.values()) and "e-0" not in foretold.sentence(2.4e-5)
