"""The tour: a card above every page that can be left and taken up again, and whose step stands in every address."""

from __future__ import annotations

import pytest
from streamlit.testing.v1 import AppTest
from tiny_pages import address_of, opened, pressed, words

from dashboard.talk import tour

STEPS = tour.plan().steps


@pytest.fixture(autouse=True)
def places(monkeypatch, tmp_path, tiny_folder, surroundings):
    monkeypatch.setenv("ENCORE_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("ENCORE_MODEL", str(tiny_folder))


def step_of(app: AppTest) -> int | None:
    """The number of the step on the card, from 1; None without a card."""
    found = [number for number in range(1, len(STEPS) + 1) if f"step {number} of {len(STEPS)}" in words(app)]
    on_card = [number for number in found if f"Tour · {STEPS[number - 1].title}" in words(app)]
    return on_card[0] if on_card else None


def test_nobody_is_on_the_tour_at_first():
    app = opened("start")
    assert step_of(app) is None and "tour" not in address_of(app)
    assert app.button(key="tour_begin").label == "Take the tour"


def test_it_leads_through_all_of_its_pages():
    app = pressed(opened("start"), "tour_begin")
    for number, step in enumerate(STEPS, start=1):
        assert step_of(app) == number and step.say in words(app) and step.watch in words(app)
        address = address_of(app)
        assert address["tour"] == [str(number)]
        assert app.session_state["tour_place"] == number - 1
        if number < len(STEPS):
            pressed(app, "tour_on")
    assert app.button(key="tour_on").disabled and not app.button(key="tour_back").disabled
    pressed(app, "tour_back")
    assert step_of(app) == len(STEPS) - 1


def test_it_is_left_and_taken_up_again():
    app = opened("start")
    pressed(app, "tour_begin")
    pressed(app, "tour_on")
    pressed(app, "tour_on")
    assert step_of(app) == 3
    pressed(app, "tour_leave")
    assert step_of(app) is None and "tour" not in address_of(app)
    app.query_params.clear()
    app.switch_page("../pages/start.py").run()
    assert step_of(app) is None
    assert app.button(key="tour_begin").label == f"Go on with the tour: step 3 of {len(STEPS)}"
    pressed(app, "tour_begin")
    assert step_of(app) == 3


def test_at_its_end_it_begins_anew():
    app = opened("start", tour=str(len(STEPS)))
    assert app.button(key="tour_leave").label == "End the tour"
    pressed(app, "tour_leave")
    assert app.button(key="tour_begin").label == "Take the tour"


def test_it_stays_when_one_looks_elsewhere_and_leads_back():
    app = opened("start", tour="4")
    app.query_params.clear()
    app.switch_page("../pages/system.py").run()
    assert step_of(app) == 4 and address_of(app)["tour"] == ["4"]
    pressed(app, "tour_page")
    assert step_of(app) == 4 and STEPS[3].see[0] in words(app)


@pytest.mark.parametrize(
    ("asked", "step"), [("2", 2), ("99", len(STEPS)), ("0", 1), ("x", None), ("", None), ("-1", None)]
)
def test_a_link_takes_one_to_a_step(asked, step):
    assert step_of(opened("start", tour=asked)) == step


def test_its_pages_and_buttons_are_named_as_they_are_in_the_app():
    views = [step.view.page for step in STEPS]
    assert views[0] == "start" and {"edit", "learn", "compare", "norms", "runs", "lessons"} < set(views)
    assert all(step.see for step in STEPS)  # the browser test looks for these
