"""A presentation with the keyboard alone, in a browser: on and back, play, the covered answer, leave."""

from __future__ import annotations

import re

import pytest
import served
from test_browser import LONG, MISSING, tiny_home, wait_until_idle  # noqa: F401  (a fixture)

from dashboard.talk.method_steps import STEPS

pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(bool(MISSING), reason=f"not installed: {', '.join(MISSING)}"),
]


@pytest.mark.slow
def test_a_talk_is_given_with_the_keyboard(tiny_home):  # noqa: F811
    with served.app() as address, served.browser() as browser:
        page = browser.new_page(viewport={"width": 1280, "height": 800})
        problems: list[str] = []
        page.on("pageerror", lambda error: problems.append(str(error)))

        def press(key: str, where: str) -> None:
            page.get_by_role("button", name="Leave").wait_for(timeout=LONG)  # the last of the bar: its keys are heard
            wait_until_idle(page)
            page.keyboard.press(key)
            page.locator(".es-where", has_text=where).wait_for(timeout=LONG)

        n_steps = len(STEPS)
        page.goto(f"{address}/learn?step={STEPS[-2].key}&present=1", timeout=LONG)
        page.locator(".es-where", has_text=f"Learn · step {n_steps - 1} of {n_steps}").wait_for(timeout=LONG)
        page.locator("[data-testid=stSidebar]").wait_for(state="hidden", timeout=LONG)  # not there, or not seen
        assert page.evaluate("getComputedStyle(document.documentElement).fontSize") == "19px"  # 22 on a wider screen
        press("PageDown", f"Learn · step {n_steps} of {n_steps}")
        press("PageDown", "Lessons · page 3 of")
        press("PageUp", f"Learn · step {n_steps} of {n_steps}")
        press("PageUp", f"Learn · step {n_steps - 1} of {n_steps}")

        # The slider of Compare plays from the first checkpoint to the last one.
        runs = "run=recorded-memit-1000&run=recorded-encore-1000"
        page.goto(f"{address}/compare?{runs}&at=950&present=1", timeout=LONG)
        page.get_by_role("heading", name="After 950 edits").wait_for(timeout=LONG)
        press("p", "Compare · page")
        page.get_by_role("heading", name="After 1,000 edits").wait_for(timeout=LONG)
        page.get_by_role("button", name="Play").wait_for(timeout=LONG)  # at the end it has stopped

        # Predict first: the answer comes when it is asked for.
        page.goto(f"{address}/compare?{runs}&present=1&predict=1", timeout=LONG)
        page.get_by_text("which model still works best?").wait_for(timeout=LONG)
        page.get_by_role("button", name="Show the answer").wait_for(timeout=LONG)
        wait_until_idle(page)
        assert page.locator(".es-figure").count() == 0
        page.keyboard.press("a")
        page.locator(".es-figure .main-svg").first.wait_for(timeout=LONG)
        assert "predict=1" in page.url and "present=1" in page.url
        # Who has pressed a button of the bar can go on with the keys: they scroll, and they show the answer.
        wait_until_idle(page)
        page.get_by_role("button", name="Predict first").click()
        page.wait_for_function("document.activeElement.matches('[data-testid=stMain]')", timeout=LONG)
        wait_until_idle(page)
        page.keyboard.press("ArrowDown")
        page.wait_for_function("document.querySelector('[data-testid=stMain]').scrollTop > 0", timeout=LONG)

        wait_until_idle(page)
        page.keyboard.press("Escape")
        page.locator(".es-where").wait_for(state="detached", timeout=LONG)
        page.wait_for_url(re.compile(r"^(?!.*(present|predict)=)"), timeout=LONG)
        assert not problems
