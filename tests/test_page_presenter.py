"""Presenting: large type, a bar that moves on, a slider that plays, answers that stay covered, and a reset of all."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import streamlit as st
from streamlit.testing.v1 import AppTest
from tiny_pages import IDS, address_of, errors, figures, markup, opened, pressed, words

from dashboard import app as frame
from dashboard.elements import presentation_mode
from dashboard.talk import presenter
from dashboard.talk.method_steps import STEPS
from dashboard.visitors.visitor import Visitor
from encore_core.facts import Fact

PAGES = [page for pages in frame.PAGES.values() for page in pages]


@pytest.fixture(autouse=True)
def places(monkeypatch, tmp_path, tiny_folder, recorded_folder, surroundings):
    """No runs but the two recorded ones of ten edits; the tiny model."""
    monkeypatch.setenv("ENCORE_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("ENCORE_MODEL", str(tiny_folder))
    monkeypatch.setattr("encore_core.runs.recorded.RECORDED", Path(recorded_folder))


def keys(app: AppTest) -> set[str]:
    return {button.key for button in app.button}


def gone_to(app: AppTest, page: str) -> AppTest:
    """The same visitor on another page, by the list of pages."""
    app.query_params.clear()
    app.switch_page(f"../pages/{page}.py").run()
    assert not app.exception, app.exception
    return app


# -- the bar -----------------------------------------------------------------------------------------------------------


def test_who_does_not_present_has_no_bar():
    app = opened("start")
    assert "present" in keys(app) and not {"present_on", "present_leave"} & keys(app)
    assert "present" not in address_of(app) and "font-size: 22px" not in str(app.get("html"))


def test_presenting_goes_from_page_to_page_and_its_address_says_so():
    app = pressed(opened("start"), "present")
    assert {"present_on", "present_leave", "present_reset"} <= keys(app)
    assert address_of(app)["present"] == ["1"] and f"page 1 of {len(PAGES)}" in words(app)
    assert app.button(key="present_back").disabled
    pressed(app, "present_on")
    assert f"Learn · step 1 of {len(STEPS)}" in words(app) and address_of(app)["present"] == ["1"]
    pressed(app, "present_leave")
    assert "present_on" not in keys(app) and "present" not in address_of(app)
    app.run()
    assert "present_on" not in keys(app)


def test_a_hall_sees_one_sentence_of_an_answer_and_the_rest_on_a_press():
    plain = markup(opened("contributions"))
    shown = markup(opened("contributions", present="1"))
    [first, rest] = re.search(
        r'(<div class="es-answer".*?</p>)(<p class="es-(?:further|aside)">.*?)</div>', plain
    ).groups()
    assert "es-more" not in plain
    assert f'{first}<details class="es-more"><summary>More figures</summary>{rest}</details></div>' in shown


def test_on_learn_it_goes_through_the_steps_and_then_on():
    app = opened("learn", present="1", step=STEPS[-2].key)
    assert f"step {len(STEPS) - 1} of {len(STEPS)}" in words(app)
    pressed(app, "present_on")
    assert f"step {len(STEPS)} of {len(STEPS)}" in words(app) and address_of(app)["step"] == [STEPS[-1].key]
    pressed(app, "present_on")
    assert "Which lesson shall I teach?" in app.title[0].value  # and back again, in a browser: test_browser_presenter


def test_in_a_lesson_it_goes_through_the_lessons_steps():
    app = gone_to(opened("lessons", lesson="collapse-and-rescue", step="1", present="1"), "start")
    assert "1 of 9 ·" in words(app) and app.button(key="present_back").disabled
    pressed(app, "present_on")
    assert "2 of 9 ·" in words(app) and "Doing it thousands of times" in words(app)
    pressed(app, "present_back")
    assert "1 of 9 ·" in words(app)


def test_charts_are_larger_for_a_class():
    plain, large = (figures(opened("norms", **query))[0]["layouts"]["wide"] for query in ({}, {"present": "1"}))
    assert large["height"] == pytest.approx(presentation_mode.LARGER * plain["height"])
    assert large["font"]["size"] == pytest.approx(presentation_mode.LARGER * plain["font"]["size"])


# -- play --------------------------------------------------------------------------------------------------------------


def test_play_moves_the_slider_from_checkpoint_to_checkpoint_and_stops(monkeypatch):
    monkeypatch.setattr(presenter, "PLAY_SECONDS", 0.0)
    seen: list[int] = []
    plays_over = presenter.plays_over

    def watched(key: str, checkpoints: list[int]) -> bool:
        moved = plays_over(key, checkpoints)
        seen.append(st.session_state[key])
        return moved

    app = opened("compare", run=list(IDS), at="10", present="1")
    assert "After 10 edits" in words(app) and not seen
    monkeypatch.setattr(presenter, "plays_over", watched)
    pressed(app, "present_play")  # from the last one it begins at the first
    assert list(dict.fromkeys(seen)) == [0, 4, 8, 10] and seen == sorted(seen)
    assert "present_play" in keys(app) and "After 10 edits" in words(app)
    assert address_of(app)["at"] == ["10"]


def test_play_is_stopped_where_it_is():
    app = pressed(opened("compare", run=list(IDS), at="4", present="1"), "present_play")
    assert "present_stop" in keys(app) and "After 4 edits" in words(app)
    pressed(app, "present_stop")
    assert "present_play" in keys(app) and "After 4 edits" in words(app)


def test_there_is_nothing_to_play_on_pages_without_a_slider():
    assert not {"present_play", "present_stop"} & keys(opened("start", present="1"))


# -- predict, then reveal ----------------------------------------------------------------------------------------------


def test_compare_is_covered_until_the_answer_is_asked_for():
    app = opened("compare", run=list(IDS), present="1", predict="1")
    assert "which model still works best?" in words(app) and not figures(app)
    assert "MEMIT" in words(app) and "ENCORE" in words(app)
    pressed(app, "reveal")
    assert figures(app) and "After 10 edits" in words(app) and "reveal" not in keys(app)
    # Another comparison is another question.
    app.multiselect(key="chosen_runs").set_value([IDS[0]]).run()
    assert "reveal" in keys(app) and not figures(app)


def test_what_an_edit_did_is_covered_and_its_message_too():
    app = opened("edit", present="1", predict="1")
    assert figures(app) and "reveal" not in keys(app)  # nothing is edited yet: nothing to predict
    pressed(app, "apply")
    assert "What does it say now?" in words(app) and not figures(app)
    assert "Done. The result is covered." in words(app) and "Applied." not in words(app) and "%" not in words(app)
    pressed(app, "reveal")
    assert figures(app) and "Applied." in words(app)
    pressed(app, "undo")
    assert figures(app)
    # Another fact is another question, though it is one edit again.
    visitor = app.session_state["visitor"]
    visitor.begin([Fact("Spain", "The capital of {} is", "Oslo", "Madrid")], 1, "skip")
    visitor.work(lambda *_: None)
    app.run()
    assert visitor.session.n_edits == 1 and "reveal" in keys(app) and not figures(app)


def test_predictions_end_with_the_presentation():
    app = pressed(opened("compare", run=list(IDS), present="1", predict="1"), "present_leave")
    assert figures(app) and "predict" not in address_of(app)


def test_a_link_of_somebody_who_does_not_present_covers_too():
    """A teacher may have a class answer on its own computers."""
    app = opened("compare", run=list(IDS), predict="1")
    assert "reveal" in keys(app) and "present_on" not in keys(app)


# -- reset everything --------------------------------------------------------------------------------------------------


def test_reset_everything_takes_all_back_and_says_what_it_did():
    app = opened("edit", lesson="one-edit")
    visitor = app.session_state["visitor"]
    pressed(app, "apply")
    assert visitor.session.n_edits == 1
    app = pressed(gone_to(app, "lessons"), "give lab")
    app = pressed(gone_to(app, "start"), "tour_begin")
    app = pressed(gone_to(app, "edit"), "reset_everything")
    assert "1 edit taken back, the lesson is ended, the tour is left, " in words(app)
    assert app.title[0].value.startswith("What happens to a model")
    assert app.session_state["visitor"] is visitor and visitor.session.n_edits == 0 and visitor.message is None
    assert "lesson_played" not in app.session_state and address_of(app) == {}
    app.run()
    assert "Reset:" not in words(app)  # it is said once


def test_reset_everything_works_where_the_visitor_cannot_be_put_back(monkeypatch):
    app = opened("edit")
    broken = app.session_state["visitor"]
    monkeypatch.setattr(Visitor, "renew", lambda self: 1 / 0)
    app = pressed(app, "reset_everything")
    assert "Reset:" in words(app) and not errors(app)
    assert "visitor" not in app.session_state
    app = gone_to(app, "edit")
    assert app.session_state["visitor"] is not broken and not errors(app)


def test_reset_everything_while_edits_are_being_applied():
    app = opened("edit")
    visitor = app.session_state["visitor"]
    visitor.begin([Fact("Peru", "The capital of {} is", "Rome")], 1, "skip")
    app = pressed(gone_to(app, "start"), "reset_everything")
    assert visitor.job is None and "there were no edits" in words(app)


def test_there_is_nothing_to_reset_and_that_is_said_too():
    app = pressed(opened("start"), "reset_everything")
    assert "there were no edits" in words(app) and "visitor" not in app.session_state


def test_the_style_of_a_presentation_is_markup_of_ours():
    app = opened("start", present="1")
    styles = [element.proto.body for element in app.get("html") if "<style>" in element.proto.body]
    assert any("font-size: 22px" in style for style in styles) and "22px" not in markup(app)
