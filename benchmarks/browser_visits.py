"""Visitors of the load test with browsers: each edits on the Edit page in a window of headless Chromium."""

from __future__ import annotations

import asyncio
import re
import socket
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path

from visits import Found, Step

from encore_core.facts import Fact

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))

WAIT = 600_000  # ms; as long as the test itself takes: thirty who never pause overload two cores


def served() -> str:
    """Serve the app from this process, on a free port. Returns its address."""
    import uvicorn

    from dashboard.asgi import app

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    server = uvicorn.Server(uvicorn.Config(app, host="127.0.0.1", port=port, log_config=None, access_log=False))
    threading.Thread(target=server.run, daemon=True).start()
    end = time.monotonic() + 60
    while not server.started:
        if time.monotonic() > end:
            raise RuntimeError("the app did not start within 60 s")
        time.sleep(0.1)
    return f"http://127.0.0.1:{port}"


async def browse(page, address: str, fact: Fact, until: float, think: float, found: Found) -> list[Step]:
    """One visitor with a browser: types a fact, applies it, looks, takes it back, looks, and again; at least once."""
    steps: list[Step] = []

    async def shown(moment: str) -> list[float]:
        return await page.evaluate(
            """(moment) => ['new', 'true'].map((role) => document.querySelector('.es-figure').data
                 .find((trace) => trace.name === `${role} answer${moment}`).x[0])""",
            moment,
        )

    async def edits(n: int) -> None:
        # By a locator: the page's own rules forbid functions that are made of text.
        await page.locator("[data-testid=n-edits]", has_text=re.compile(f"^{n}$")).wait_for(timeout=WAIT)
        await page.locator("[data-testid=stApp][data-test-script-state=notRunning]").wait_for(timeout=WAIT)

    await page.goto(f"{address}/edit", timeout=WAIT)
    await edits(0)
    await page.get_by_role("radio", name="Your own").click()
    await page.get_by_role("button", name="Clear").click()
    # What is typed before the fields have been emptied would be emptied, too.
    for _ in range(WAIT // 200):
        if not await page.get_by_role("textbox", name="Subject", exact=True).input_value():
            break
        await page.wait_for_timeout(200)
    for name, text in (("Subject", fact.subject), ("Prompt", fact.prompt), ("New answer", fact.target_new),
                       ("True answer (optional)", fact.target_true)):  # fmt: skip
        await page.get_by_role("textbox", name=name, exact=True).fill(text)
    await page.locator(".es-sentence mark", has_text=fact.subject).first.wait_for(timeout=WAIT)
    await page.get_by_role("button", name="Ask the model first").click()
    await page.wait_for_timeout(1000)
    await edits(0)
    pairs = [(fact.text, fact.target_new), (fact.text, fact.target_true)]
    while not steps or time.monotonic() < until:
        for phase, button, n, moment in (("edit", "Apply edit", 1, ", after"), ("undo", "Undo last", 0, "")):
            started = time.perf_counter()
            await page.get_by_role("button", name=button).click(timeout=WAIT)
            await edits(n)
            found.waits[phase].append(time.perf_counter() - started)
            steps.append(Step(phase, fact, pairs, await shown(moment)))
            await page.wait_for_timeout(1000 * think)
    return steps


async def browsers(address: str, facts: Sequence[Fact], until: float, think: float, found: Found) -> None:
    """As many visitors with a browser as there are facts; each has a browser window that shares nothing."""
    import served as own
    from playwright.async_api import async_playwright

    async with async_playwright() as playwright:
        chromium = await playwright.chromium.launch(executable_path=own.CHROMIUM, args=own.FLAGS)

        async def one(fact: Fact) -> None:
            context = await chromium.new_context(viewport={"width": 1300, "height": 900})
            context.set_default_timeout(WAIT)
            page = await context.new_page()
            page.on("pageerror", lambda error: found.errors.append(f"in the browser: {error}"))
            try:
                found.answers.append(await browse(page, address, fact, until, think, found))
            except Exception as error:
                found.errors.append(f"browser: {type(error).__name__}: {str(error).splitlines()[0]}")
            if await page.locator(".stException, .es-error").count():
                found.errors.append(f"shown: {await page.locator('.stException, .es-error').first.inner_text()}")
            await context.close()

        await asyncio.gather(*(one(fact) for fact in facts))
        await chromium.close()
