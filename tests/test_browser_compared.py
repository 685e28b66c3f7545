"""The Edit page in a real browser: four methods at one press, keep one, predict, probe, take an edit back."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import served
import test_browser
from test_browser import LONG, wait_for_edits, wait_until_idle

pytestmark = test_browser.pytestmark

NAMES = ["ENCORE", "MEMIT", "EMMET", "AlphaEdit"]


@pytest.fixture(scope="module")
def browsing(tmp_path_factory, tiny_folder):
    """A served app on the tiny model, and a browser."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ENCORE_HOME", str(tmp_path_factory.mktemp("home")))
        patch.setenv("ENCORE_MODEL", str(tiny_folder))
        with served.app() as address, served.browser() as browser:
            yield address, browser


def opened(browsing, query: str = "", width: int = 1400):
    """The Edit page, and what went wrong in its scripts."""
    address, browser = browsing
    page = browser.new_page(viewport={"width": width, "height": 900})
    page.problems = []
    page.on("pageerror", lambda error: page.problems.append(str(error)))
    page.goto(f"{address}/edit{query}", timeout=LONG)
    page.get_by_role("button", name="Compare 4 methods").wait_for(timeout=LONG)
    wait_until_idle(page)
    return page


def compare(page) -> None:
    page.get_by_role("button", name="Compare 4 methods").click()
    page.get_by_role("button", name="Keep AlphaEdit").wait_for(timeout=LONG)
    wait_until_idle(page)


def lefts(page) -> list[float]:
    """Where the columns begin, in pixels from the left."""
    return [round(box.bounding_box()["x"]) for box in page.locator(".es-column").all()]


# What a bar that glides is drawn sixty times a second with, on the cores that edit.
WATCH_THE_BAR = """() => {
    window.glides = []
    const look = () => document.querySelectorAll('[data-testid=stProgressBarTrack], [data-testid=stProgressBarTrack] *')
        .forEach(part => window.glides.push(getComputedStyle(part).transitionDuration))
    new MutationObserver(look).observe(document.body, { subtree: true, childList: true })
}"""


def test_one_press_then_one_is_kept(browsing):
    page = opened(browsing)
    page.evaluate(WATCH_THE_BAR)
    compare(page)
    assert set(page.evaluate("window.glides")) == {"0s"}
    assert page.locator(".es-column h2").all_inner_texts() == NAMES
    assert page.locator(".es-differs").inner_text().count("Rome") >= 1
    page.wait_for_function("document.querySelectorAll('.st-key-compared .es-figure .main-svg').length >= 4")
    assert len(set(lefts(page))) == 4  # beside each other
    with page.expect_download() as download:
        page.get_by_role("button", name="Download as CSV").click()
    text = Path(download.value.path()).read_text(encoding="utf-8-sig")
    assert all(f"{name}," in text for name in NAMES)
    page.get_by_role("button", name="Keep MEMIT").click()
    page.get_by_role("button", name="Compare 4 methods").wait_for(timeout=LONG)
    wait_for_edits(page, 1)
    assert page.locator(".es-column").count() == 0
    assert page.locator(".es-status dd", has_text="MEMIT").count() == 1
    assert not page.problems


@pytest.mark.slow
def test_columns_stand_below_each_other_on_a_phone(browsing):
    page = opened(browsing, width=390)
    compare(page)
    assert len(set(lefts(page))) == 1
    scrolls = "document.querySelector('[data-testid=stMain]').scrollWidth - window.innerWidth"
    assert page.evaluate(scrolls) <= 0  # nothing is cut off
    assert not page.problems


@pytest.mark.slow
def test_predicted_and_revealed(browsing):
    page = opened(browsing, "?present=1&predict=1")
    page.get_by_role("button", name="Compare 4 methods").click()
    page.get_by_role("button", name="Show the answer").wait_for(timeout=LONG)
    wait_until_idle(page)
    assert page.locator(".es-column h2").all_inner_texts() == NAMES and page.locator(".es-words").count() == 0
    page.get_by_role("button", name="Show the answer").click()
    page.wait_for_function("document.querySelectorAll('.es-words').length == 4", timeout=LONG)
    assert page.locator(".es-differs").count() == 1 and not page.problems


@pytest.mark.slow
def test_any_prompt_is_put_to_both_models(browsing):
    page = opened(browsing)
    page.get_by_role("button", name="Apply edit").click()
    wait_for_edits(page, 1)
    field = page.get_by_role("textbox", name="Try any prompt")
    field.fill("A traveller who visits France will see")
    field.press("Enter")
    page.locator(".es-verbatim", has_text="A traveller who visits France will see").nth(1).wait_for(timeout=LONG)
    wait_until_idle(page)
    assert page.locator(".es-verbatim").count() == 2
    page.get_by_text("Every token it wrote").click()
    page.locator(".es-small .es-token").first.wait_for(timeout=LONG)
    shares = page.locator(".es-small .es-token small").all_inner_texts()
    assert shares and all(re.search(r"%$", share) for share in shares)
    assert not page.problems


@pytest.mark.slow
def test_the_first_of_two_edits_is_taken_back(browsing):
    page = opened(browsing)
    page.get_by_role("radio", name="Table").click()
    page.get_by_role("textbox", name="or paste it here").fill(
        "subject,prompt,target_new,target_true\n"
        "Spain,The capital of {} is,Oslo,Madrid\nPeru,The capital of {} is,Rome,Lima"
    )
    page.keyboard.press("Control+Enter")
    page.get_by_text("2 facts read").wait_for(timeout=LONG)
    wait_until_idle(page)
    page.get_by_role("button", name="Apply edits").click()
    wait_for_edits(page, 2)
    wait_until_idle(page)  # a list that opens while the page is still drawn is shut again
    edit = page.get_by_role("combobox", name="Any edit can be taken back")
    edit.scroll_into_view_if_needed()
    page.wait_for_timeout(500)  # and one that opens while the page scrolls
    edit.click()
    page.get_by_role("option", name="1: Spain → Oslo").click()
    page.wait_for_function("box => box.value === '1: Spain → Oslo'", arg=edit.element_handle())
    wait_until_idle(page)
    page.get_by_role("button", name="Take it back").click()
    wait_for_edits(page, 1)
    page.locator(".es-notice", has_text="Taken back: Spain → Oslo").wait_for(timeout=LONG)
    assert page.get_by_role("cell", name="Peru → Rome").count() == 1
    assert page.get_by_role("cell", name="Spain → Oslo", exact=True).count() == 0
    assert not page.problems


@pytest.mark.slow
def test_results_follow_the_fact_that_is_typed(browsing):
    page = opened(browsing)
    page.get_by_role("radio", name="Your own").click()
    page.get_by_role("textbox", name="Subject").fill("Italy")
    page.get_by_role("textbox", name="Prompt", exact=True).fill("The largest city of {} is")
    page.get_by_role("textbox", name="New answer").fill("Oslo")
    # Nothing is pressed: a moment after the last key the results are about this fact.
    page.locator(".es-tiles dt", has_text="New answer: Oslo").wait_for(timeout=LONG)
    page.locator(".es-verbatim", has_text="The largest city of Italy is").first.wait_for(timeout=LONG)
    wait_until_idle(page)
    assert page.get_by_role("textbox", name="New answer").input_value() == "Oslo"
    assert page.evaluate("getComputedStyle(document.querySelector('.st-key-results')).opacity") == "1"
    assert not page.problems


@pytest.mark.slow
@pytest.mark.parametrize("key", ["compare_open", "probe_how"])
def test_a_box_whose_heading_says_what_is_in_it_stays_open_while_that_changes(browsing, key):
    page = opened(browsing)
    box = page.locator(f".st-key-{key}")
    heading = box.inner_text()
    box.locator("summary").click()
    if key == "compare_open":
        box.locator("[data-testid=stMultiSelect] svg").first.click()  # takes the first method out
    else:
        box.locator("input[type=range]").focus()
        page.keyboard.press("ArrowRight")
    page.wait_for_function(
        "([key, was]) => !document.querySelector(`.st-key-${key}`).innerText.startsWith(was)", arg=[key, heading]
    )
    wait_until_idle(page)
    inside = "[data-testid=stMultiSelect]" if key == "compare_open" else "input[type=range]"
    assert box.locator(inside).first.is_visible() and not page.problems
    page.close()
