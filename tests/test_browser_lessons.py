"""The lesson plans and the tour that come with the program, from start to end in a browser: every step's page is opened
by the lesson's own buttons, what is to be pressed is pressed, and every text that is to be seen is looked for.
"""

from __future__ import annotations

import re

import pytest
import served
from test_browser import LONG, MISSING, wait_until_idle

from dashboard.talk import lessons, tour

pytestmark = [
    pytest.mark.browser,
    pytest.mark.embedded,
    pytest.mark.skipif(bool(MISSING), reason=f"not installed: {', '.join(MISSING)}"),
]


def play(page, step: lessons.LessonStep) -> None:
    """What a step asks for, on its page: the address, buttons, texts."""
    page.wait_for_url(re.compile(rf"/{'' if step.view.page == 'start' else step.view.page}(\?|$)"), timeout=LONG)
    wait_until_idle(page)
    main = page.locator("[data-testid=stMain]")
    for button in step.press:
        # A part of its name, in any case: without a model it says that one is loaded first, and it may name its keys.
        main.get_by_role("button", name=button).first.click(timeout=LONG)
    for text in step.see:
        main.get_by_text(text).locator("visible=true").first.wait_for(timeout=LONG)
    wait_until_idle(page)
    assert main.locator(".stException, .es-error").count() == 0
    assert main.locator("h1").count() == 1


@pytest.mark.slow
def test_the_three_plans_are_given_from_start_to_end():
    plans = lessons.bundled()
    assert len(plans) == 3
    with served.app() as address, served.browser() as browser:
        page = browser.new_page(viewport={"width": 1400, "height": 900})
        problems: list[str] = []
        page.on("pageerror", lambda error: problems.append(str(error)))
        page.goto(f"{address}/lessons", timeout=LONG)
        for number, lesson in enumerate(plans.values()):
            card = page.locator(f".st-key-lesson_{number}")
            card.get_by_text(lesson.title).wait_for(timeout=LONG)
            card.get_by_role("button", name="Give this lesson").click()
            page.get_by_role("link", name="Open this step's page").click()
            for place, step in enumerate(lesson.steps):
                page.locator(".es-lesson", has_text=step.title).wait_for(timeout=LONG)
                play(page, step)
                assert not problems, (lesson.title, step.title, problems)
                if place + 1 < len(lesson.steps):
                    page.get_by_role("button", name="Next step").click()
            page.get_by_role("button", name="End the lesson").click()
            page.locator(".es-lesson").wait_for(state="detached", timeout=LONG)
            page.get_by_role("link", name="Lessons").click()


@pytest.mark.slow
def test_the_tour_is_taken_from_start_to_end():
    steps = tour.plan().steps
    with served.app() as address, served.browser() as browser:
        page = browser.new_page(viewport={"width": 1400, "height": 900})
        problems: list[str] = []
        page.on("pageerror", lambda error: problems.append(str(error)))
        page.goto(address, timeout=LONG)
        page.get_by_role("button", name="Take the tour").click(timeout=LONG)
        card = page.locator(".st-key-tour")
        for place, step in enumerate(steps):
            card.get_by_text(f"Tour · {step.title}").wait_for(timeout=LONG)
            play(page, step)
            assert not problems, (step.title, problems)
            if place == 2:  # loaded anew, the page is at the same step
                page.reload(timeout=LONG)
                card.get_by_text(f"Tour · {step.title}").wait_for(timeout=LONG)
                wait_until_idle(page)
            if place + 1 < len(steps):
                card.get_by_role("button", name="Next").click()
        card.get_by_role("button", name="End the tour").click()
        card.wait_for(state="detached", timeout=LONG)
