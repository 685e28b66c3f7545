"""The Scores tab of the Edit page: both protocols with n and interval, the texts, and the sentence about the gap."""

from __future__ import annotations

import re

import pytest
from test_page_edited_facts import edited, server  # noqa: F401
from tiny_pages import errors, markup, opened, pressed

from encore_core.measures.generated import GenerationSettings
from encore_core.measures.generated_scores import evaluate_generated


def scored(app):
    """The page with the tab open."""
    app.session_state["details"] = "Scores"
    return app.run()


def said(app) -> str:
    """Captions and plain texts."""
    return " ".join(one.value for one in (*app.caption, *app.markdown))


def test_both_protocols_and_the_texts():
    app = scored(edited())
    page, visitor = markup(app), app.session_state["visitor"]
    assert not errors(app)
    assert "Teacher-forced scores of the edited facts" in page and "Scores of generated answers" in page
    with visitor.session.edited() as lm:
        found = evaluate_generated(lm, visitor.edited_facts, GenerationSettings())
    assert "no judge" in said(app) and "3 facts edited in this session" in said(app)
    for row in found.rows():
        assert row["prompt"] in page
    for row in found.rows():  # the longest word of each text; marks may be escaped
        assert max(re.findall(r"[A-Za-z]*", row["text"]), key=len) in page
    assert "Too few facts to tell" in page or "The protocols agree" in page


def test_many_facts_wait_for_a_button():
    table = "subject,prompt,target_new,target_true\n" + "".join(
        f"Land{n},The capital of {{}} is,Oslo,Madrid\n" for n in range(6)
    )
    app = scored(edited(table))
    assert "Scores of generated answers" not in markup(app)
    app = pressed(app, "measure")
    assert "Scores of generated answers" in markup(app) and not errors(app)


def test_before_any_edit():
    assert "appear here once the first edit" in said(scored(opened("edit")))


@pytest.mark.parametrize("has_template", [False, True])
def test_a_chat_template_is_offered_where_there_is_one(has_template, monkeypatch):
    app = edited()
    tokenizer = app.session_state["visitor"].session.lm.tokenizer
    template = "{% for m in messages %}User: {{ m['content'] }}\n{% endfor %}Answer:"
    monkeypatch.setattr(tokenizer, "chat_template", template if has_template else None)
    app = scored(app)
    assert [one.key for one in app.toggle if one.key == "generate_in_chat"] == ["generate_in_chat"] * has_template
    assert ("Generated: chat template" in said(app)) == has_template
