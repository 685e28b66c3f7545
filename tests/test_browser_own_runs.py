"""In a browser: after two runs of one's own every page shows the recorded evidence, and one's own at one press."""

from __future__ import annotations

import re

import made_up_runs
import pytest
import served
import test_browser
from made_up_runs import MadeUp
from test_browser import LONG, wait_until_idle

from encore_core.runs import RunStore

pytestmark = test_browser.pytestmark

PAGES = ("compare", "norms", "contributions", "downstream", "overfitting", "learn?step=again", "learn?step=breaks")
SHORT = [
    MadeUp(method, {0: 1, 40: 1.01}, {}, {0: 0.18, 40: 0.2}, growth=1.004, p=p)
    for method, p in (("MEMIT", 0.98), ("MEMIT+MPES", 0.6))
]


@pytest.mark.slow
def test_recorded_evidence_stays_and_ones_own_is_a_press_away(tmp_path, monkeypatch, tiny_folder, statistics_text):
    monkeypatch.setenv("ENCORE_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("ENCORE_MODEL", str(tiny_folder))
    own = [made_up_runs.write(RunStore(), run, tiny_folder, statistics_text) for run in SHORT]
    with served.app() as address, served.browser() as browser:
        for name in PAGES:
            page = browser.new_page(viewport={"width": 1400, "height": 900})
            problems: list[str] = []
            page.on("pageerror", lambda error, problems=problems: problems.append(str(error)))
            page.goto(f"{address}/{name}", timeout=LONG)
            answer = page.locator("div.es-answer").first
            answer.wait_for(timeout=LONG)
            wait_until_idle(page)
            recorded = answer.inner_text()
            assert "run=recorded-" in page.url and not any(run in page.url for run in own), name
            page.get_by_role("button", name="Show my runs").click()
            page.wait_for_url(re.compile(f"run={own[0]}"), timeout=LONG)
            wait_until_idle(page)
            assert answer.inner_text() != recorded and "run=recorded-" not in page.url, name
            # They stay chosen when the address is opened anew.
            page.reload(timeout=LONG)
            page.get_by_role("button", name="Show recorded runs").wait_for(timeout=LONG)
            assert not problems and page.locator(".stException, .es-error").count() == 0, name
            page.close()
        for name in ("", "paper?table=1"):
            page = browser.new_page(viewport={"width": 1400, "height": 900})
            page.goto(f"{address}/{name}", timeout=LONG)
            page.locator("div.es-answer").first.wait_for(timeout=LONG)
            wait_until_idle(page)
            assert page.get_by_text("recorded", exact=False).locator("visible=true").count(), name
            assert not any(run in page.url for run in own), name
            page.close()
