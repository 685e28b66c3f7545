"""The page Lessons: the list, a lesson that is given, plans of one's own, and the bar in the sidebar of other pages."""

from __future__ import annotations

import html
import re
import time

import pytest
from streamlit.testing.v1 import AppTest
from test_lessons import HOSTILE, plan
from tiny_pages import markup, opened, pressed, words

from dashboard.talk import lesson_play, lessons
from dashboard.talk.lessons import read
from dashboard.visitors import models

LESSONS = lessons.bundled()
TEN = LESSONS["one-edit"]


@pytest.fixture(autouse=True)
def places(monkeypatch, tmp_path, tiny_folder, surroundings):
    monkeypatch.setenv("ENCORE_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("ENCORE_MODEL", str(tiny_folder))


def links(app: AppTest) -> list[tuple[str, str]]:
    """Page and query of every page link in the main part."""
    return [(element.proto.page, element.proto.query_string) for element in app.main.get("page_link")]


def test_the_lessons_are_listed_with_their_minutes_and_steps():
    app = opened("lessons")
    for lesson in LESSONS.values():
        assert lesson.title in words(app) and f"{lesson.minutes:g} minutes" in words(app)
        assert all(step.title in words(app) for step in lesson.steps)
    assert "visitor" not in app.session_state


def test_a_lesson_is_played_to_its_end_and_every_step_has_its_link():
    app = pressed(opened("lessons"), "give one-edit")
    for number, step in enumerate(TEN.steps, start=1):
        assert f"{number} of {len(TEN.steps)} · {step.title}" in words(app)
        for text in (step.say, step.ask, *step.press, step.watch):
            assert text in words(app)
        assert app.query_params == {"lesson": "one-edit", "step": str(number), "give": f"one-edit.{number}"}
        [(page, query)] = links(app)[:1]
        assert page == step.view.page and (not step.view.query or all(name in query for name in step.view.query))
        if number < len(TEN.steps):
            pressed(app, "lesson_next")
    assert app.button(key="lesson_next").disabled
    pressed(app, "lesson_previous")
    assert f"{len(TEN.steps) - 1} of" in words(app)
    assert "Give this lesson" in [button.label for button in pressed(app, "lesson_all").button]


def test_a_link_opens_a_lesson_at_its_step():
    app = opened("lessons", lesson="lab", step="4")
    assert f"4 of 7 · {LESSONS['lab'].steps[3].title}" in words(app)
    app = opened("lessons", lesson="lab", step="99")
    assert f"7 of 7 · {LESSONS['lab'].steps[6].title}" in words(app)
    assert "Give this lesson" in [button.label for button in opened("lessons", lesson="nobody", step="-1").button]


def test_tasks_and_the_answer_sheet_of_the_lab():
    app = opened("lessons", lesson="lab", step="1")
    lab = LESSONS["lab"]
    assert all(task.text in words(app) for task in lab.tasks)
    assert all(question.text in words(app) for question in lab.questions)
    assert len(links(app)) == 1 + sum(task.view is not None for task in lab.tasks)


@pytest.mark.parametrize(
    ("place", "seconds", "told"),
    [
        (0, 30, "30 s"),
        (1, 60, "1 min 00 s, 30 s ahead of the plan"),
        (2, 600, "10 min 00 s, 4 min 00 s behind the plan"),
        (5, 600, "10 min 00 s"),
    ],
)
def test_time_against_the_plan(place, seconds, told):
    """The steps of this plan begin after 0, 1.5, 3, 6, 8 and 9.5 minutes."""
    assert lesson_play.pace(TEN, place, seconds) == told


def test_the_clock_starts_with_the_lesson_and_anew():
    app = pressed(opened("lessons"), "give one-edit")
    app.session_state["lesson_started"] = time.time() - 240
    app.run()
    assert "4 min 0" in words(app) and "behind the plan" in words(app)
    assert "behind the plan" not in words(pressed(app, "lesson_again"))


# -- in the sidebar of other pages -------------------------------------------------------------------------------------


def test_the_lesson_goes_on_from_page_to_page():
    app = opened("lessons", lesson="collapse-and-rescue", step="1")
    steps = LESSONS["collapse-and-rescue"].steps
    app.query_params.clear()
    app.switch_page("../pages/start.py").run()
    assert f"step 1 of {len(steps)}" in words(app) and steps[0].say in words(app)
    pressed(app, "lesson_on")
    assert "Doing it thousands of times" in words(app) and "after 100 edits" in words(app)
    assert app.query_params["at"] == "100" and f"step 2 of {len(steps)}" in words(app)
    pressed(app, "lesson_on")
    assert app.query_params["at"] == "1000" and "after 1,000 edits" in words(app)
    pressed(app, "lesson_back")
    assert app.query_params["at"] == "100" and "after 100 edits" in words(app)
    pressed(app, "lesson_end")
    assert "Lesson · step" not in words(app)


@pytest.mark.parametrize(
    ("asked", "step"), [("lab.3", 3), ("lab.99", 7), ("lab.0", 1), ("lab", None), ("own-x.1", None)]
)
def test_a_page_that_is_loaded_anew_is_still_in_the_lesson(asked, step):
    app = opened("system", give=asked)
    found = re.findall(r"Lesson · step (\d) of 7", words(app))
    assert found == ([str(step)] if step else [])
    assert app.query_params == ({"give": f"lab.{step}"} if step else {})


def test_giving_a_lesson_has_the_model_made_ready(monkeypatch):
    asked = []
    monkeypatch.setattr(models, "usual_model", lambda: asked.append(1))
    pressed(opened("lessons"), "give lab")
    assert asked


def test_without_a_lesson_there_is_no_bar():
    assert "Lesson · step" not in words(opened("start"))


# -- plans of one's own ------------------------------------------------------------------------------------------------


def uploaded(app: AppTest, text: str | bytes, name: str = "plan.toml") -> AppTest:
    data = text if isinstance(text, bytes) else text.encode()
    app.file_uploader(key="lesson_upload").upload(name, data, "application/toml").run()
    assert not app.exception, app.exception
    return app


def test_a_plan_of_ones_own_is_kept_given_and_removed():
    app = uploaded(opened("lessons"), plan(title='"Mine"', say='"Hello class"'))
    assert "Mine" in words(app) and "· yours" in words(app) and "Read: Mine, 1 steps" in words(app)
    [key] = app.session_state[lesson_play.OWN]
    app = pressed(app, f"give {key}")
    assert "Hello class" in words(app) and app.query_params == {}
    app = pressed(app, "lesson_all")
    app = pressed(app, f"remove {key}")
    assert not app.session_state[lesson_play.OWN] and "· yours" not in words(app)
    assert "Mine" not in words(opened("lessons"))  # another visitor's session


def test_a_plan_is_shown_as_text_and_never_as_markup():
    import json

    quoted = json.dumps(HOSTILE)
    app = uploaded(opened("lessons"), plan(title=quoted, say=quoted, step_title=quoted, step=f"see = [{quoted}]"))
    [key] = app.session_state[lesson_play.OWN]
    app = pressed(app, f"give {key}")
    assert HOSTILE in words(app) and "<img" not in markup(app)
    shown = [*app.markdown, *app.caption, *app.button, *app.expander]
    assert not any("onerror" in (getattr(element, "label", "") or getattr(element, "value", "")) for element in shown)
    app.switch_page("../pages/start.py").run()
    assert HOSTILE in words(app) and "<img" not in markup(app)


@pytest.mark.parametrize(
    ("data", "told"),
    [
        (b"\xff\xfe\x00", "not UTF-8"),
        (b"nonsense", "The upload is not TOML"),
        (b"x" * 100_001, "at most 100,000"),
        (plan(open='"javascript:alert(1)"').encode(), "The upload, step 1: open"),
    ],
)
def test_an_upload_that_is_no_plan_is_one_line(data, told):
    app = uploaded(opened("lessons"), data)
    [line] = re.findall(r'role="alert".*?</div>', markup(app), re.DOTALL)
    assert told in html.unescape(line) and lesson_play.OWN not in app.session_state


def test_the_oldest_of_many_plans_goes():
    app = opened("lessons")
    for number in range(7):
        app = uploaded(app, plan(title=f'"Plan {number}"'), f"{number}.toml")
    kept = [lesson.title for lesson in app.session_state[lesson_play.OWN].values()]
    assert kept == [f"Plan {number}" for number in range(2, 7)]


def test_a_plan_that_was_being_given_and_is_gone_is_no_trouble():
    app = uploaded(opened("lessons"), plan(title='"Mine"'))
    [key] = app.session_state[lesson_play.OWN]
    app = pressed(app, f"give {key}")
    app.session_state[lesson_play.OWN] = {}
    app.run()
    assert not app.exception and "Give this lesson" in [button.label for button in app.button]


def test_what_is_downloaded_is_the_file_itself():
    text = plan(title='"Mine"') + "\n# a comment"
    assert read(text.encode(), "x").source == text


def test_a_link_brings_an_example_to_the_edit_page():
    """Lessons open it so; whatever else stands in the address is left out."""
    app = opened("edit", fact="language/Argentina")
    assert app.session_state["subject"] == "Argentina" and "Argentina" in words(app)
    assert app.query_params == {"fact": "language/Argentina"}
    app.segmented_control(key="source").set_value("Your own").run()
    assert "fact" not in app.query_params and app.query_params["subject"] == "Argentina"
    assert opened("edit", fact="<b>nobody</b>").query_params == {"fact": "capital/France"}
