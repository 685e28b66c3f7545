"""What a student does on Edit, in a headless Chromium: reload, Ctrl+Enter in a field, the gallery, a typed fact."""

from __future__ import annotations

import re

import pytest
import served
import test_browser
from test_browser import LONG, wait_for_edits, wait_until_idle

from dashboard.server.browser_cookie import NAME

pytestmark = test_browser.pytestmark

PASTED = "subject,prompt,target_new,target_true\nSpain,The capital of {} is,Oslo,Madrid\n"


@pytest.fixture
def address(tmp_path, monkeypatch, tiny_folder):
    """The app on the tiny model, with a data folder of the test's own."""
    monkeypatch.setenv("ENCORE_HOME", str(tmp_path))
    monkeypatch.setenv("ENCORE_MODEL", str(tiny_folder))
    with served.app() as found:
        yield found


def fact_typed(page, **values: str) -> None:
    page.get_by_role("radio", name="Your own").click()
    for name, text in values.items():
        page.get_by_role("textbox", name=name, exact=True).fill(text, timeout=LONG)
        page.keyboard.press("Control+Enter")


@pytest.mark.slow
def test_edits_come_back_after_a_reload_for_this_browser_alone(address):
    with served.browser() as browser:
        mine = browser.new_context()
        page = mine.new_page()
        page.goto(f"{address}/edit", timeout=LONG)
        wait_for_edits(page, 0)
        [secret] = [one for one in mine.cookies() if one["name"] == NAME]
        assert secret["httpOnly"] and secret["sameSite"] == "Lax" and NAME not in page.evaluate("document.cookie")
        page.get_by_role("button", name="Apply edit").click()
        wait_for_edits(page, 1)
        fact_typed(page, Subject="Peru", Prompt="The capital of {} is", **{"New answer": "Oslo"})
        page.locator(".es-sentence mark", has_text="Peru").wait_for(timeout=LONG)
        wait_until_idle(page)

        page.reload()
        wait_for_edits(page, 1)
        page.locator(".es-notice", has_text="Your edit is still here.").wait_for()
        assert page.locator(".es-sentence mark").first.inner_text() == "Peru"
        # A field is filled a moment after it is drawn.
        page.wait_for_function("[...document.querySelectorAll('input')].some((field) => field.value === 'Oslo')")

        # A second tab beside it, another browser, and one with a secret of its own making: each begins afresh.
        beside, other, forger = mine.new_page(), browser.new_context().new_page(), browser.new_context()
        forger.add_cookies([{"name": NAME, "value": "A" * 43, "url": address}])
        for stranger in (beside, other, forger.new_page()):
            stranger.goto(f"{address}/edit", timeout=LONG)
            wait_for_edits(stranger, 0)
            assert stranger.get_by_text("still here").count() == 0
        assert secret["value"] not in page.content() and secret["value"] not in page.url

        # A tab that is closed by mistake: the next one has what was in it.
        beside.close()
        page.close()
        page = mine.new_page()
        page.goto(f"{address}/edit", timeout=LONG)
        wait_for_edits(page, 1)
        page.get_by_role("button", name="Undo last").click()
        wait_for_edits(page, 0)


@pytest.mark.slow
def test_ctrl_enter_in_a_field_accepts_the_text_and_outside_applies(address):
    with served.browser() as browser:
        page = browser.new_page()
        page.goto(f"{address}/edit", timeout=LONG)
        wait_for_edits(page, 0)
        fact_typed(
            page,
            Subject="Peru",
            Prompt="The capital of {} is",
            **{"New answer": "Oslo", "True answer (optional)": "Lima"},
        )
        page.locator(".es-sentence ins", has_text="Oslo").wait_for(timeout=LONG)
        page.wait_for_timeout(1000)  # an edit that was asked for would have begun
        wait_for_edits(page, 0)

        page.get_by_role("radio", name="Table").click()
        field = page.locator(".st-key-pasted textarea")
        field.fill(PASTED, timeout=LONG)
        page.keyboard.press("Control+Enter")
        page.get_by_text("1 fact read, 1 batch.").wait_for(timeout=LONG)
        page.wait_for_timeout(1000)
        wait_for_edits(page, 0)
        assert field.input_value() == PASTED

        page.locator("h1").click()  # the focus leaves the field
        page.keyboard.press("Control+Enter")
        wait_for_edits(page, 1)


@pytest.mark.slow
def test_the_gallery_is_searched_and_picked_from_by_keyboard_alone(address):
    with served.browser() as browser:
        page = browser.new_page(viewport={"width": 390, "height": 844})
        problems: list[str] = []
        page.on("pageerror", lambda error: problems.append(str(error)))
        page.goto(f"{address}/edit", timeout=LONG)
        wait_for_edits(page, 0)
        cards = page.locator("[class*=st-key-gallery_kind_] button")
        assert cards.count() == 12
        page.get_by_role("button", name="✓ France: Paris → Rome", exact=True).wait_for()
        assert page.evaluate("document.documentElement.scrollWidth") <= 390

        search = page.get_by_role("textbox", name="Search 1,653 facts")
        search.fill("eiffel")
        page.wait_for_function("document.querySelectorAll('[class*=st-key-gallery_kind_] button').length < 5")
        wait_until_idle(page)
        for _ in range(8):  # kind, known only and its help lie in between
            page.keyboard.press("Tab")
            if page.evaluate("document.activeElement.innerText").startswith("Eiffel Tower"):
                break
        page.keyboard.press("Enter")
        page.locator(".es-sentence mark", has_text="Eiffel Tower").first.wait_for(timeout=LONG)
        wait_until_idle(page)
        assert page.evaluate("document.activeElement.innerText").startswith("Eiffel Tower")  # where one was
        page.get_by_role("button", name="✓ Eiffel Tower").first.wait_for()
        page.wait_for_url("**fact=landmark**", timeout=LONG)
        assert search.input_value() == "eiffel" and not problems


@pytest.mark.slow
def test_a_fact_of_ones_own_gets_its_answer_and_its_neighbours():
    """On the embedded model, which knows capitals."""
    with served.app() as address, served.browser() as browser:
        page = browser.new_page()
        page.goto(f"{address}/edit", timeout=LONG)
        wait_for_edits(page, 0)
        page.get_by_role("radio", name="Your own").click()
        page.get_by_role("button", name="Clear").click()
        page.locator(".es-error", has_text="subject").wait_for(timeout=LONG)
        wait_until_idle(page)
        fact_typed(page, Subject="Italy", Prompt="The capital of {} is", **{"New answer": "Madrid"})
        page.get_by_role("button", name="Ask the model first").click()
        page.get_by_role("button", name="Use it").click(timeout=LONG)
        page.locator(".es-sentence del", has_text="Rome").wait_for(timeout=LONG)
        page.get_by_role("button", name="Propose some").click()
        page.get_by_text("5 neighbours proposed").wait_for(timeout=LONG)
        wait_until_idle(page)
        assert page.locator(".st-key-neighbours textarea").input_value().count("The capital of ") == 5
        tile = page.locator(".es-tiles > div", has_text="Neighbours").locator("dd").first
        assert tile.inner_text() == "5 of 5"


@pytest.mark.slow
def test_a_reload_in_the_middle_of_a_table_loses_nothing(address):
    n_facts = 60
    table = "subject,prompt,target_new\n" + "".join(f"Land{n},The capital of {{}} is,Rome\n" for n in range(n_facts))
    with served.browser() as browser:
        page = browser.new_page()
        page.goto(f"{address}/edit", timeout=LONG)
        wait_for_edits(page, 0)
        page.get_by_role("radio", name="Table").click()
        page.locator(".st-key-pasted textarea").fill(table, timeout=LONG)
        page.keyboard.press("Control+Enter")
        page.get_by_role("spinbutton", name="Facts per batch").fill("1", timeout=LONG)
        page.keyboard.press("Enter")
        page.get_by_text(f"{n_facts} facts read, {n_facts} batches.").wait_for(timeout=LONG)
        wait_until_idle(page)
        page.get_by_role("button", name="Apply edits").click()
        page.get_by_text(re.compile(rf"Batch ([3-9]|\d\d) of {n_facts}")).first.wait_for(timeout=LONG)
        page.reload()
        page.get_by_text(re.compile(rf"Batch \d+ of {n_facts}")).first.wait_for(timeout=LONG)  # it goes on
        # The tiny model says some answers by itself after a few edits; all batches are done all the same.
        done = page.locator(".es-notice", has_text=re.compile(rf"Edited \d+ facts in {n_facts} batches"))
        n_edits = int(re.search(r"Edited (\d+)", done.inner_text(timeout=LONG)).group(1))
        assert n_edits > 2 and page.locator(".st-key-pasted textarea").input_value() == table
        wait_for_edits(page, n_edits)
        page.get_by_role("button", name="Undo last").click()
        wait_for_edits(page, n_edits - 1)
