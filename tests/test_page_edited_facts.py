"""The list of edited facts on the Edit page: before, after, now; forgotten ones stand out; any can be taken back."""

from __future__ import annotations

import re

import pytest
from streamlit.testing.v1 import AppTest
from tiny_pages import errors, markup, opened, pressed, words

from dashboard.visitors.models import models
from encore_core.measures.answers import Question

TABLE = (
    "subject,prompt,target_new,target_true\n"
    "Spain,The capital of {} is,Oslo,Madrid\n"
    "Peru,The capital of {} is,Rome,Lima\n"
    "Hungary,The capital of {} is,Lima,Budapest\n"
)


@pytest.fixture(scope="module", autouse=True)
def server(tiny_folder, tmp_path_factory):
    """A server of its own on the tiny model."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ENCORE_MODEL", str(tiny_folder))
        patch.setattr("encore_core.runs.recorded.RECORDED", tmp_path_factory.mktemp("nothing") / "recorded")
        models.clear()
        yield
        models.clear()


def edited(text: str = TABLE) -> AppTest:
    """The page after the facts of a table were edited one by one."""
    app = opened("edit")
    app.segmented_control(key="source").set_value("Table").run()
    app.text_area(key="pasted").set_value(text).run()
    app.number_input(key="batch_size").set_value(1).run()
    return pressed(app, "apply")


def listed(app: AppTest) -> list[tuple[str, bool]]:
    """The facts of the list from the top, and whether each is marked as forgotten."""
    table = next(part for part in markup(app).split("<table")[1:] if "<caption>Facts on the model" in part)
    rows = re.findall(r"<tr>(.*?)</tr>", table.partition("<tbody>")[2])
    return [(re.findall(r"<td[^>]*>(.*?)</td>", row)[1], "✗" in row) for row in rows]


def test_every_fact_is_listed_with_what_became_of_it():
    app = edited()
    visitor = app.session_state["visitor"]
    found = dict(listed(app))
    assert set(found) == {"Spain → Oslo", "Peru → Rome", "Hungary → Lima"}
    for edit in visitor.session.live_edits():
        fact = edit.fact
        new, true = visitor.after.answer_probabilities(
            [Question(fact.text, fact.target_new), Question(fact.text, fact.target_true)]
        )
        assert found[f"{fact.subject} → {fact.target_new}"] == (new.log_probability <= true.log_probability)
    n = sum(found.values())
    assert f"{n} of 3 {'is' if n == 1 else 'are'} forgotten" in words(app) or "All 3 are still there" in words(app)


def test_forgotten_facts_stand_on_top():
    """The same subject under other prompts with other answers: the first edit gives way."""
    rows = "".join(f"Peru,{prompt},{answer},Lima\n" for prompt, answer in (
        ("The capital of {} is", "Rome"), ("The capital city of {} is", "Oslo"), ("{} has the capital", "Paris"),
    ))  # fmt: skip
    app = edited(f"subject,prompt,target_new,target_true\n{rows}")
    marks = [forgotten for _, forgotten in listed(app)]
    assert marks == sorted(marks, reverse=True)
    visitor = app.session_state["visitor"]
    facts = [edit.fact for edit in visitor.session.live_edits()]
    ratings = visitor.after.answer_probabilities(
        [Question(fact.text, answer) for fact in facts for answer in (fact.target_new, "Lima")]
    )
    n_behind = sum(
        new.log_probability <= true.log_probability for new, true in zip(ratings[::2], ratings[1::2], strict=True)
    )
    assert sum(marks) == n_behind


def test_any_edit_is_taken_back_and_what_that_left_is_said():
    app = edited()
    visitor = app.session_state["visitor"]
    assert app.selectbox(key="edit_to_take_back").options == ["3: Hungary → Lima", "2: Peru → Rome", "1: Spain → Oslo"]
    app.selectbox(key="edit_to_take_back").set_value(1).run()
    pressed(app, "take_back")
    assert [fact.subject for fact in visitor.edited_facts] == ["Peru", "Hungary"] and not errors(app)
    assert "Taken back: Spain → Oslo. The capital of Spain is: Oslo" in words(app) and "2 other edits: mean" in words(
        app
    )
    assert {name for name, _ in listed(app)} == {"Peru → Rome", "Hungary → Lima"}
    assert "taken back: Spain → Oslo" in words(app)  # batch by batch
    pressed(app, "undo")
    assert "Spain → Oslo" in dict(listed(app)) and "is on the model again: Spain → Oslo" in words(app)


def test_a_fact_that_is_edited_again_takes_the_place_of_the_first():
    app = edited()
    app.text_area(key="pasted").set_value(
        "subject,prompt,target_new,target_true\nSpain,The capital of {} is,Rome,Madrid\n"
    ).run()
    pressed(app, "apply")
    names = [name for name, _ in listed(app)]
    assert "Spain → Rome" in names and "Spain → Oslo" not in names and len(names) == 3
    assert "takes its place" in words(app)


def test_an_edit_that_is_gone_by_now_gives_a_line():
    app = edited()
    visitor = app.session_state["visitor"]
    visitor.ask_to_retract(2)
    app.run()
    visitor.ask_to_retract(2)
    app.run()
    assert any("was taken back already" in text for text in errors(app)) and visitor.session.n_edits == 2


def test_many_facts_are_asked_about_only_on_request(monkeypatch):
    monkeypatch.setattr("dashboard.parts.edit.edited_facts.ASKED_AT_ONCE", 2)
    app = edited()
    assert app.button(key="ask_edited").label.startswith("Ask what the model says of the 3 facts")
    assert "✓" not in str(listed(app))
    pressed(app, "ask_edited")
    assert "forgotten" in words(app) or "All 3 are still there" in words(app)
