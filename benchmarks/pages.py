"""Measure how soon the pages are there in a browser, and how soon they answer, with the runs that are recorded.

    python benchmarks/pages.py [--pages start compare] [--repeats 5] [--out FILE.json]

    first look    from the start of the navigation until something is to be seen (the browser's "first contentful
                  paint"): the page's title and, on Start, the curves. In a new tab of a browser with a profile that has
                  been here before, so that it has the app's scripts and what it compiled of them. Aim: 500 ms
    drawn         the same until the page's main chart or table is drawn by the app, ready to be used. Aim: 2.2 s
    first visit   drawn, in a private window, which has nothing of the app and asks for all of it
    answer        from the key or button going down that changes something until the first chart is drawn anew. Aim:
                  500 ms
    layout shift  how far what is to be seen moves by itself while a page opens, as browsers score it ("cumulative
                  layout shift"), with the look before. Aim: 0.1
    errors        lines in the browser's console that say error, and errors of scripts. Aim: none
    a bare page   until the heading of an app that is one heading is there: what Streamlit itself takes, of which a page
                  of ours can take nothing off

Medians, in headless Chromium on the machine that serves. What the first visitor after the server's start waits for is
measured once, on the Start page: Python's libraries are loaded then. Each page is opened once before it is timed, so
that the model is loaded where one is needed.
Runs of the store in ENCORE_HOME are read too: to measure with the recorded ones alone, point it to an empty folder.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))

import served

LOOK_AIM, DRAWN_AIM, ANSWER_AIM = 0.5, 2.2, 0.5  # seconds
SHIFT_AIM = 0.1
WAIT = 240_000  # ms
VIEWPORT = {"width": 1400, "height": 900}

CHART = ".es-figure .main-svg"
MAIN = {
    "start": CHART,
    "edit": CHART,
    "run": "[data-testid=stFormSubmitButton], .es-table, .es-queue",
    "runs": "[data-testid=stDataFrame]",
    "compare": CHART,
    "norms": CHART,
    "contributions": CHART,
    "overfitting": CHART,
    "downstream": CHART,
    "paper": CHART,
}
"""Page → what its visitor waits for."""

SWITCH = "[role=radiogroup]"
SLIDER = "[data-testid=stSlider] input[type=range]"
LIST = "[data-testid=stSelectbox] input"
CONTROLS = {
    ("compare", "scale switch"): (SWITCH, 0),
    ("compare", "checkpoint slider"): (SLIDER, 0),
    ("norms", "scale switch"): (SWITCH, 0),
    ("norms", "layers switch"): (SWITCH, 1),
    ("contributions", "measure switch"): (SWITCH, 0),
    ("overfitting", "list of facts"): (LIST, 1),
    ("downstream", "measure switch"): (SWITCH, 0),
    ("paper", "list of tables"): (LIST, 0),
}
"""Page and control → what it is, and which of its kind on the page."""

SHIFTS = """
window.shifted = 0;
new PerformanceObserver((list) => {
  for (const entry of list.getEntries()) if (!entry.hadRecentInput) window.shifted += entry.value;
}).observe({ type: 'layout-shift', buffered: true });
"""
SETTLED = 4000  # ms after the main thing was drawn, for what comes last

WATCH = """
const watch = () => {
  if (document.querySelector(MAIN)) window.drawn = performance.now();
  else requestAnimationFrame(watch);
};
requestAnimationFrame(watch);
"""
PATIENCE = 3000  # ms
IS_WITHOUT = """() => document.querySelector('[data-testid=stApp][data-test-script-state=notRunning]')
  && document.querySelector('[data-testid=stMain] h1') && !document.querySelector('.es-figure')"""
"""Whether a page has been drawn to its end and has no chart to wait for."""

LISTEN = """() => {
  window.began = window.drawn = undefined;
  const begin = () => { window.began ??= performance.now(); };
  for (const kind of ['pointerdown', 'keydown']) addEventListener(kind, begin, { capture: true, once: true });
  if (!window.react) {
    window.react = Plotly.react;
    Plotly.react = async (...what) => {
      await window.react(...what);
      if (window.began) window.drawn ??= performance.now();
    };
  }
}"""


def address_of(address: str, page: str) -> str:
    """The address of a page; Start, the default page, has none of its own."""
    return f"{address}/{'' if page == 'start' else page}"


def wait_until_idle(tab) -> None:
    tab.locator("[data-testid=stApp][data-test-script-state=notRunning]").wait_for(timeout=WAIT)


def bare_paints(browser, repeats: int) -> list[float | None]:
    """Seconds until the heading of a page that is one heading, served by Streamlit with our settings."""
    with tempfile.TemporaryDirectory() as folder:
        script = Path(folder) / "bare.py"
        script.write_text('import streamlit as st\n\nst.title("A bare page")\n', encoding="utf-8")
        with served.app(script=str(script)) as address:
            context = browser.kept_context(viewport=VIEWPORT)
            try:
                grow_used_to(context, f"{address}/", "h1")
                return [painted(context, f"{address}/", "h1")[1] for _ in range(repeats)]
            finally:
                context.close()


def painted(context, address: str, main: str) -> tuple[float, float | None]:
    """Seconds from the start of the navigation until something is to be seen, and until the main thing is drawn.

    None for the second where there is no such thing.
    """
    tab = context.new_page()
    # Nothing is asked of the tab meanwhile: Playwright would bring scripts of its own, a sixth of a second of them.
    tab.add_init_script(WATCH.replace("MAIN", json.dumps(main)))
    tab.goto(address, wait_until="commit", timeout=WAIT)
    drawn, was_without = None, False
    for _ in range(WAIT // PATIENCE):
        tab.wait_for_timeout(PATIENCE)
        drawn = tab.evaluate("window.drawn")
        if drawn or (was_without and tab.evaluate(IS_WITHOUT)):
            break
        was_without = tab.evaluate(IS_WITHOUT)  # or the script of what draws the chart is still on its way
    wait_until_idle(tab)
    look = tab.evaluate("performance.getEntriesByName('first-contentful-paint')[0].startTime")
    tab.close()
    return look / 1000, drawn / 1000 if drawn else None


def grow_used_to(context, address: str, main: str) -> None:
    """Open a page a few times: a browser keeps what it compiled of a script only when that is used again."""
    for _ in range(3):
        painted(context, address, main)


def first_visits(browser, address: str, page: str, repeats: int) -> list[float | None]:
    """Paints of a page, each in a private window, new each time."""
    found = []
    for _ in range(repeats):
        context = browser.new_context(viewport=VIEWPORT)
        try:
            found.append(painted(context, address_of(address, page), MAIN[page])[1])
        finally:
            context.close()
    return found


def paints_again(browser, address: str, page: str, repeats: int) -> tuple[list[float], list[float | None]]:
    """First looks and paints of a page in a browser that has been here before."""
    context = browser.kept_context(viewport=VIEWPORT)
    try:
        grow_used_to(context, address_of(address, page), MAIN[page])
        looks, drawn = zip(
            *(painted(context, address_of(address, page), MAIN[page]) for _ in range(repeats)), strict=True
        )
        return list(looks), list(drawn)
    finally:
        context.close()


def steadiness(browser, address: str, page: str) -> tuple[float, list[str]]:
    """The layout shift of a page that opens, and the errors in the browser's console meanwhile."""
    context = browser.new_context(viewport=VIEWPORT)
    try:
        painted(context, address_of(address, page), MAIN[page])
        tab, errors = context.new_page(), []
        tab.on("console", lambda line: errors.append(line.text) if line.type == "error" else None)
        tab.on("pageerror", lambda error: errors.append(str(error)))
        tab.add_init_script(SHIFTS)
        tab.goto(address_of(address, page), timeout=WAIT)
        tab.locator(MAIN[page]).first.wait_for(timeout=WAIT)
        wait_until_idle(tab)
        tab.wait_for_timeout(SETTLED)
        return tab.evaluate("window.shifted"), errors
    finally:
        context.close()


def use(tab, kind: str, control, number: int) -> None:
    """Use a control for the `number`-th time; from the press on that changes something, time is taken."""
    if kind == SWITCH:
        other = control.locator("[role=radio][aria-checked=false]").nth(0)
        tab.evaluate(LISTEN)
        other.click()
        return
    control.focus()
    if kind == LIST:
        tab.keyboard.press("ArrowDown")
        tab.wait_for_timeout(500)  # the list has opened
    tab.evaluate(LISTEN)
    tab.keyboard.press("Enter" if kind == LIST else "ArrowRight" if number % 2 else "ArrowLeft")


def answers(browser, address: str, page: str, kind: str, place: int, repeats: int) -> list[float]:
    """Seconds from a control being used until the first chart is drawn anew; empty where there is no such control."""
    context = browser.new_context(viewport=VIEWPORT)
    try:
        tab = context.new_page()
        tab.goto(address_of(address, page), timeout=WAIT)
        tab.locator("[data-testid=stMain] h1").wait_for(timeout=WAIT)
        wait_until_idle(tab)
        tab.wait_for_timeout(2000)  # the script may not have begun when it was looked at
        wait_until_idle(tab)
        control = tab.locator(kind).nth(place)
        if not control.count() or not tab.locator(".es-figure").count():
            return []
        tab.locator(CHART).first.wait_for(timeout=WAIT)
        found = []
        for number in range(repeats + 1):
            use(tab, kind, control, number)
            seconds = tab.wait_for_function("() => window.drawn && window.drawn - window.began", timeout=WAIT)
            found.append(seconds.json_value() / 1000)
            wait_until_idle(tab)
            tab.wait_for_timeout(300)
        return found[1:]  # the first one reads what later ones find in the cache
    finally:
        context.close()


def measure(pages: Sequence[str], repeats: int) -> dict[str, Any]:
    """First looks, paints, first visits and answers of some pages: lists of seconds by name."""
    looks: dict[str, list[float]] = {}
    paints: dict[str, list[float | None]] = {}
    visits: dict[str, list[float | None]] = {}
    found: dict[str, list[float]] = {}
    shifts: dict[str, float] = {}
    errors: dict[str, list[str]] = {}
    with served.browser() as browser:
        bare = bare_paints(browser, repeats)
    with served.app() as address, served.browser() as browser:
        [after_start] = first_visits(browser, address, "start", 1)
        for page in pages:
            looks[page], paints[page] = paints_again(browser, address, page, repeats)
            visits[page] = first_visits(browser, address, page, repeats)
            shifts[page], errors[page] = steadiness(browser, address, page)
        for (page, name), (kind, place) in CONTROLS.items():
            if page in pages:
                found[f"{page}, {name}"] = answers(browser, address, page, kind, place, repeats)
    return {
        "bare_page": bare,
        "first_after_server_start": after_start,
        "first_look": looks,
        "drawn": paints,
        "first_visit": visits,
        "answer": found,
        "layout_shift": shifts,
        "console_errors": errors,
    }


def row(name: str, seconds: Sequence[float | None], aim: float) -> str:
    """A line of the table."""
    there = [value for value in seconds if value is not None]
    if not there:
        return f"{name:36} {'–':>8}   nothing to measure"
    median = statistics.median(there)
    verdict = "met" if median <= aim else "missed"
    return f"{name:36} {median:8.2f} {min(there):8.2f} {max(there):8.2f} {aim:6.1f}  {verdict}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pages", nargs="+", default=list(MAIN), choices=list(MAIN))
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--out", type=Path, help="write the figures as JSON")
    arguments = parser.parse_args()
    results = measure(arguments.pages, arguments.repeats)
    print(f"{'seconds':36} {'median':>8} {'least':>8} {'most':>8} {'aim':>6}")
    print(row("a bare page, drawn", results["bare_page"], DRAWN_AIM))
    print(row("start, drawn, first after the start", [results["first_after_server_start"]], DRAWN_AIM))
    for page, seconds in results["first_look"].items():
        print(row(f"{page}, first look", seconds, LOOK_AIM))
    for page, seconds in results["drawn"].items():
        print(row(f"{page}, drawn", seconds, DRAWN_AIM))
    for page, seconds in results["first_visit"].items():
        print(row(f"{page}, first visit", seconds, DRAWN_AIM))
    for name, seconds in results["answer"].items():
        print(row(name, seconds, ANSWER_AIM))
    for page, shift in results["layout_shift"].items():
        verdict = "met" if shift < SHIFT_AIM else "missed"
        print(f"{f'{page}, layout shift':36} {shift:8.3f} {'':17} {SHIFT_AIM:6.1f}  {verdict}")
    for page, lines in results["console_errors"].items():
        print(f"{f'{page}, console errors':36} {len(lines):8d}   {'; '.join(lines)[:120]}")
    if arguments.out:
        results |= {
            "date": time.strftime("%Y-%m-%d"),
            "cpus": os.cpu_count(),
            "load": os.getloadavg()[0],
            "python": platform.python_version(),
            "aims": {"look": LOOK_AIM, "drawn": DRAWN_AIM, "answer": ANSWER_AIM, "shift": SHIFT_AIM},
        }
        arguments.out.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
