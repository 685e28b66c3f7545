"""The Scores tab of the Edit page: both protocols with n and interval, the texts, and the sentence about the gap."""

from __future__ import annotations

import re

import pytest
from judge_server import judge_server
from test_page_edited_facts import edited, server  # noqa: F401
from tiny_pages import errors, markup, opened, pressed, words

from dashboard.visitors import access
from encore_core.errors import InputError
from encore_core.measures import intervals
from encore_core.measures.generated import GenerationSettings
from encore_core.measures.generated_scores import evaluate_generated
from encore_core.measures.judging import Judge


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


@pytest.fixture
def judge():
    with judge_server() as replies:
        yield replies


def with_judge(app, where: str, model: str = "big"):
    """The tab with a judge named."""
    app.segmented_control(key="judge_who").set_value("Your own").run()
    app.text_input(key="judge_model").set_value(model)
    return app.text_input(key="judge_where").set_value(where).run()


def test_a_judge_is_asked_by_a_press_alone_and_counted(judge, monkeypatch):
    monkeypatch.setenv("ENCORE_JUDGE_KEY", "very secret")
    app = with_judge(scored(edited()), judge["address"])
    assert not judge["seen"] and "Scores by the judge" not in markup(app) and "no judge" in said(app)
    judge["content"] = lambda body: "yes" if "Peru" in body["messages"][0]["content"] else "Hard to say."
    app = pressed(app, "scores_judge_ask")
    n_asked, page = len(judge["seen"]), words(app)
    assert n_asked and "Scores by the judge" in page and "judged by big" in page and not errors(app)
    assert re.search(r"\d+ of \d+ answers have no verdict", page) and "neither yes nor no: 'Hard to say.'" in page
    assert {key for *_, key in judge["seen"]} == {"Bearer very secret"}
    assert "very secret" not in page + said(app) + str(dict(app.query_params)) + str(app.session_state)
    app.run()
    assert len(judge["seen"]) == n_asked  # nobody is asked twice without a press
    judge["content"] = "no"
    app = pressed(app, "scores_judge_again")
    assert "have no verdict" not in words(app) and not [one for one in app.button if one.key == "scores_judge_again"]


def test_a_judge_that_is_not_there_costs_nothing_but_its_verdicts():
    app = with_judge(scored(edited()), "http://127.0.0.1:9/v1")
    app = pressed(app, "scores_judge_ask")
    assert "no reply" in words(app) and "Scores of generated answers" in markup(app) and not errors(app)
    for where, what in (("http://u:pw@h/v1", "has a name, a password"), ("http://", "is not an address")):
        app = with_judge(app, where)
        assert any(what in text for text in errors(app)) and "pw@" not in words(app)
    app.segmented_control(key="judge_who").set_value("No judge").run()
    assert not errors(app)


def test_a_server_for_others_asks_no_address_that_a_visitor_names(judge, monkeypatch, tmp_path):
    app = scored(edited())
    monkeypatch.setattr(access.limits, "may_name_judge", lambda at_the_machine: False)
    app.run()
    assert not [one for one in app.segmented_control if one.key == "judge_who"]
    with pytest.raises(InputError, match="cannot be named here"):
        access.check_judge(Judge(judge["address"], "big"))
    file = tmp_path / "limits.toml"
    file.write_text(f'[judge]\naddress = "{judge["address"]}"\nmodel = "large"\n', encoding="utf-8")
    monkeypatch.setenv("ENCORE_CONFIG", str(file))
    app.run()
    assert app.segmented_control(key="judge_who").options == ["No judge", "This server's"]
    app.segmented_control(key="judge_who").set_value("This server's").run()
    app = pressed(app, "scores_judge_ask")
    assert "judged by large" in words(app) and judge["seen"][0][1]["model"] == "large"


def test_intervals_are_drawn_once(monkeypatch):
    app = scored(edited())
    drawn = []
    original = intervals._drawn_means
    monkeypatch.setattr(intervals, "_drawn_means", lambda *given: drawn.append(1) or original(*given))
    app.run()
    assert "Scores of generated answers" in markup(app) and not drawn


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
