"""Charts in a browser when something goes wrong: one that cannot be drawn, one that goes away while it is drawn."""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest
import served
from test_browser import LONG, pytestmark  # noqa: F401

PAGE = """
import streamlit as st

from dashboard.elements import figure
from dashboard.charts.chart import Chart

figure.load_library()
second = st.checkbox("The second")
for name in ("first", "second", "third"):
    if name != "second" or second:
        drawn = Chart([{"type": "scatter", "x": [0, 1], "y": [0, 1]}], {"height": 200}, {"height": 200})
        figure.draw(drawn, key=name, alt=name)
"""

INSTEAD = """
let library;
Object.defineProperty(window, 'Plotly', {
  configurable: true,
  get: () => library,
  set: (plotly) => {
    library = plotly;
    const react = plotly.react;
    plotly.react = async (node, ...rest) => { NAMED; return react(node, ...rest); };
  },
});
"""
"""Plotly with something of the test's own in front of its drawing."""


@pytest.fixture(scope="module")
def served_charts(tmp_path_factory) -> Iterator[tuple[object, str]]:
    """A browser, and the address of the page."""
    script = tmp_path_factory.mktemp("charts") / "charts.py"
    script.write_text(PAGE, encoding="utf-8")
    with served.app(script=str(script)) as address, served.browser() as browser:
        yield browser, address


def opened(browser, address: str, before_drawing: str):
    """A page whose Plotly does this first, and a list of the errors in it."""
    page = browser.new_page()
    problems: list[str] = []
    page.on("pageerror", lambda error: problems.append(str(error)))
    page.add_init_script(INSTEAD.replace("NAMED", before_drawing))
    page.goto(address, timeout=LONG)
    return page, problems


def chart(page, name: str):
    return page.get_by_role("figure", name=re.compile(f"^{name}$"))


@pytest.mark.slow
def test_what_cannot_be_drawn_leaves_the_others_and_is_told(served_charts):
    page, problems = opened(*served_charts, "if (node.ariaLabel === 'first') throw new Error('not this one')")
    chart(page, "third").locator(".main-svg").first.wait_for(timeout=LONG)
    assert chart(page, "first").locator(".main-svg").count() == 0
    assert problems == ["not this one"]


def test_what_goes_away_while_it_is_drawn_is_cleared_up_afterwards(served_charts):
    # Drawn, it waits to be let go and then does what Plotly does last: it tells those who listen.
    page, problems = opened(
        *served_charts,
        "if (node.ariaLabel === 'second') { window.second = node; await react(node, ...rest); "
        "await new Promise((go) => { window.letGo = go; }); node.emit('plotly_afterplot'); return; }",
    )
    chart(page, "third").locator(".main-svg").first.wait_for(timeout=LONG)
    box = page.get_by_text("The second")
    box.click()
    page.wait_for_function("!!window.letGo", timeout=LONG)
    box.click()
    chart(page, "second").wait_for(state="detached", timeout=LONG)
    assert page.evaluate("'emit' in second")
    page.evaluate("letGo()")
    page.wait_for_function("!('emit' in second)", timeout=LONG)
    assert not problems
