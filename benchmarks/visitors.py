"""Many visitors on one model: do all get what each would get alone, how long do they wait, what does each one cost?

    python benchmarks/visitors.py [--visitors 26] [--browsers 4] [--minutes 10] [--think 10] [--out FILE.json]

One process serves the app and holds the model. Visitors without a browser are `dashboard.visitors.state.Visitor`
objects, the ones that pages use, each in a thread: edit a fact, ask for the probabilities of its prompts, think, and so
on, each with facts of its own; every third time the last edit is taken back first. Visitors with a browser do the same
through the Edit page in headless Chromium. Afterwards every visitor's edits are made again alone, in the same order,
and every probability that was seen is compared; a checksum of all base weights is taken before and after.

    answer      from the click, or call, until the edit is on the model or the probabilities are there, waiting included
    memory      bytes of a visitor's matrices and factors; and growth of the process divided by the visitors
"""

from __future__ import annotations

import argparse
import asyncio
import hashlib
import json
import os
import platform
import re
import socket
import statistics
import sys
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))

from dashboard.visitors import state
from dashboard.visitors.state import Loading, Models, Visitor, overrides_of
from encore_core.editing.session import EditSession
from encore_core.facts import Fact
from encore_core.measures.scores import rate
from encore_core.methods import Settings
from encore_core.models.editable import EditableModel
from encore_core.models.settings import settings_of

ALLOWED = 1e-5
UNDO_EVERY = 3
WAIT = 600_000  # ms; as long as the test itself takes: thirty who never pause overload two cores
PHASES = ("edit", "probe", "undo")

Pairs = list[tuple[str, str]]


@dataclass
class Step:
    """Something a visitor did, and the probabilities seen after it: `what` is "edit" or "undo"."""

    what: str
    fact: Fact
    pairs: Pairs
    probabilities: list[float]


@dataclass
class Found:
    """What came out of it.

    Attributes:
        answers: per visitor, what was done and seen.
        waits: phase → seconds that answers took.
        errors: one line each.
        largest_difference: between what was seen and the same edits made alone.
        largest_change: that an edit made to the probability of its answer; a test of nothing would have 0.
        bytes_per_visitor: matrices and factors, the mean.
        resident_per_visitor: growth of the process, divided by the visitors.
    """

    answers: list[list[Step]] = field(default_factory=list)
    waits: dict[str, list[float]] = field(default_factory=lambda: {phase: [] for phase in PHASES})
    errors: list[str] = field(default_factory=list)
    largest_difference: float = 0.0
    largest_change: float = 0.0
    bytes_per_visitor: float = 0.0
    resident_per_visitor: float = 0.0

    @property
    def n_edits(self) -> int:
        return sum(step.what == "edit" for steps in self.answers for step in steps)


def pairs_of(fact: Fact) -> Pairs:
    """What is asked about a fact: the new and the true answer to its prompt and paraphrases, and its neighbours'."""
    answers = [fact.target_new, *([fact.target_true] if fact.target_true else [])]
    pairs = [(prompt, answer) for prompt in (fact.text, *fact.paraphrases) for answer in answers]
    return pairs + [(neighbour.prompt, neighbour.target) for neighbour in fact.neighbours]


# -- without a browser -------------------------------------------------------------------------------------------------


def visit(
    visitor: Visitor, facts: Sequence[Fact], go_on: Callable[[int], bool], think: float, found: Found, steps: list[Step]
) -> None:
    """One visitor: edit, look, think, and now and then undo."""

    def timed(phase: str, act: Callable[[], Any]) -> Any:
        started = time.perf_counter()
        try:
            return act()
        finally:
            found.waits[phase].append(time.perf_counter() - started)

    def look(what: str, fact: Fact) -> None:
        pairs = pairs_of(fact)
        seen = timed("probe", lambda: visitor.after.rate(pairs))
        steps.append(Step(what, fact, pairs, [answer.probability for answer in seen]))

    for number, fact in enumerate(facts):
        if not go_on(number):
            return
        if number % UNDO_EVERY == UNDO_EVERY - 1:
            last = visitor.session.history[-1].report.edited[0].fact
            timed("undo", visitor.undo)
            look("undo", last)
        visitor.begin([fact], 1, "skip")
        n_before = visitor.session.n_edits
        timed("edit", lambda: visitor.work(lambda words, share: None))
        if visitor.session.n_edits == n_before + 1:
            look("edit", fact)
        elif visitor.message.kind == "error":
            found.errors.append(visitor.message.text)
        time.sleep(think)


def driven(
    models: Models,
    loading: Loading,
    *,
    n_visitors: int,
    facts: Sequence[Fact],
    rounds: int = 10**6,
    seconds: float = float("inf"),
    think: float = 0.0,
    settings: Settings | None = None,
) -> Found:
    """Visitors at once, each in a thread; then the same edits alone, and what differs.

    Args:
        models, loading: the server's, and the model.
        n_visitors: how many.
        facts: dealt out among them.
        rounds, seconds: when each of them stops.
        think: seconds between two edits.
        settings: of ENCORE; the model's own by default.
    """
    found, here, began = Found(), [], time.monotonic()
    resident = psutil.Process().memory_info().rss
    threads = []

    def run(visitor: Visitor, own: Sequence[Fact], steps: list[Step]) -> None:
        try:
            visit(visitor, own, lambda n: n < rounds and time.monotonic() - began < seconds, think, found, steps)
        except Exception as error:
            found.errors.append(f"{type(error).__name__}: {error}")

    for place in range(n_visitors):
        visitor = models.enter(loading)
        if settings is not None:
            visitor.start_over(settings, 0)
        here.append(visitor)
        found.answers.append([])
        threads.append(threading.Thread(target=run, args=(visitor, facts[place::n_visitors], found.answers[place])))
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    found.bytes_per_visitor = statistics.fmean(visitor.session.nbytes() for visitor in here)
    found.resident_per_visitor = (psutil.Process().memory_info().rss - resident) / n_visitors
    for steps in found.answers:
        difference, change = against_alone(loading.lm, here[0].session.settings, steps)
        found.largest_difference = max(found.largest_difference, difference)
        found.largest_change = max(found.largest_change, change)
    return found


def against_alone(lm: EditableModel, settings: Settings, steps: Sequence[Step]) -> tuple[float, float]:
    """Make a visitor's edits again with nobody else there: largest difference from what was seen, largest change."""
    session = EditSession(lm, settings.method, settings=overrides_of(settings))
    difference = change = 0.0
    for step in steps:
        with session.edited():
            before = rate(lm, step.pairs)[0].probability
        if step.what == "edit":
            session.edit([step.fact], known="edit")
        else:
            session.undo()
        with session.edited() if session.history else session.pristine():
            alone = [answer.probability for answer in rate(lm, step.pairs)]
        difference = max([difference, *(abs(a - b) for a, b in zip(alone, step.probabilities, strict=True))])
        change = max(change, abs(alone[0] - before))
    return difference, change


def checksum(lm: EditableModel) -> str:
    """Of every base weight, bit for bit."""
    import torch

    digest = hashlib.sha256()
    with lm.matrices_replaced({}):
        for name, weight in lm.model.state_dict().items():
            digest.update(name.encode())
            digest.update(weight.detach().cpu().contiguous().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


# -- with a browser ----------------------------------------------------------------------------------------------------


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


# -- together ----------------------------------------------------------------------------------------------------------


def measure(arguments: argparse.Namespace) -> dict[str, Any]:
    """The whole test. Returns what is printed and written."""
    if arguments.model:
        os.environ["ENCORE_MODEL"] = arguments.model
    models = state.models()
    loading = models.get(os.environ.get("ENCORE_MODEL") or state.DEFAULT_MODEL)
    loading.wait(lambda what, share: None)
    if loading.error:
        raise SystemExit(loading.error)
    lm, before = loading.lm, checksum(loading.lm)
    known = [fact for fact in state.bundled_facts() if fact.known and fact.target_true]
    typed = [Fact(f.subject, f.prompt, f.target_new, f.target_true) for f in known[: arguments.browsers]]
    with_browser, seconds = Found(), 60 * arguments.minutes
    thread = None
    if arguments.browsers:
        address, until = served(), time.monotonic() + seconds
        thread = threading.Thread(
            target=lambda: asyncio.run(browsers(address, typed, until, arguments.think, with_browser))
        )
        thread.start()
    found = driven(
        models, loading, n_visitors=arguments.visitors, facts=known[arguments.browsers :] * 20, seconds=seconds,
        think=arguments.think,
    )  # fmt: skip
    if thread is not None:
        thread.join()
        settings = settings_of(lm, state.DEFAULT_METHOD)
        for steps in with_browser.answers:
            difference, change = against_alone(lm, settings, steps)
            found.largest_difference = max(found.largest_difference, difference)
            found.largest_change = max(found.largest_change, change)
        found.answers += with_browser.answers
        found.errors += with_browser.errors
    waits = {"without a browser": found.waits, "with a browser": with_browser.waits}
    return {
        "visitors": arguments.visitors,
        "browsers": arguments.browsers,
        "minutes": arguments.minutes,
        "think_seconds": arguments.think,
        "model": lm.name,
        "edits": found.n_edits,
        "probabilities_compared": sum(len(step.pairs) for steps in found.answers for step in steps),
        "fewest_edits_of_a_visitor": min(sum(s.what == "edit" for s in steps) for steps in found.answers),
        "largest_difference_from_alone": found.largest_difference,
        "largest_change_by_an_edit": found.largest_change,
        "base_weights_unchanged": checksum(lm) == before,
        "errors": found.errors,
        "answers": {who: {p: summary(s) for p, s in phases.items() if s} for who, phases in waits.items()},
        "bytes_per_visitor": found.bytes_per_visitor,
        "resident_bytes_per_visitor": found.resident_per_visitor,
        "resident_bytes": psutil.Process().memory_info().rss,
        "turns": models.queue(str(lm.device)).state().finished,
    }


def summary(seconds: Sequence[float]) -> dict[str, float]:
    """Median and 95th percentile of some times."""
    ordered = sorted(seconds)
    high = ordered[min(len(ordered) - 1, round(0.95 * (len(ordered) - 1)))]
    return {"n": len(ordered), "median": statistics.median(ordered), "p95": high, "most": ordered[-1]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--visitors", type=int, default=26, help="without a browser")
    parser.add_argument("--browsers", type=int, default=4, help="with one")
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--think", type=float, default=10.0, help="seconds between two edits of a visitor")
    parser.add_argument("--model", help="the embedded one by default")
    parser.add_argument("--out", type=Path, help="write the figures as JSON")
    arguments = parser.parse_args()
    results = measure(arguments)
    n_visitors = results["visitors"] + results["browsers"]
    fewest = results["fewest_edits_of_a_visitor"]
    print(f"{n_visitors} visitors, {results['browsers']} of them browsers, {results['minutes']:g} min on "
          f"{results['model']}: {results['edits']} edits, at least {fewest} each")  # fmt: skip
    print(f"{'answer, seconds':34} {'n':>6} {'median':>8} {'p95':>8} {'most':>8}")
    for who, phases in results["answers"].items():
        for phase, told in phases.items():
            row = f"{told['n']:6} {told['median']:8.2f} {told['p95']:8.2f} {told['most']:8.2f}"
            print(f"{f'{phase}, {who}':34} {row}")
    print(f"largest difference from the same edits alone: {results['largest_difference_from_alone']:.2g} of "
          f"{results['probabilities_compared']} probabilities (allowed {ALLOWED:g}; edits changed them by up to "
          f"{results['largest_change_by_an_edit']:.2g})")  # fmt: skip
    print(f"base weights unchanged: {'yes' if results['base_weights_unchanged'] else 'NO'}")
    print(f"memory of a visitor: {results['bytes_per_visitor'] / 1e6:.1f} MB of matrices and factors; the process grew "
          f"by {results['resident_bytes_per_visitor'] / 1e6:.1f} MB for each")  # fmt: skip
    print(f"errors: {len(results['errors'])}", *results["errors"][:10], sep="\n  ")
    if arguments.out:
        results |= {
            "date": time.strftime("%Y-%m-%d"),
            "cpus": os.cpu_count(),
            "load": os.getloadavg()[0],
            "python": platform.python_version(),
        }
        arguments.out.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    good = results["base_weights_unchanged"] and results["largest_difference_from_alone"] <= ALLOWED
    sys.stdout.flush()
    # The server's thread has no end of its own.
    os._exit(0 if good and not results["errors"] else 1)


if __name__ == "__main__":
    main()
