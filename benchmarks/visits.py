"""Visitors of the load test in threads: what each did and saw, and the same edits made again with nobody else there.

They are `dashboard.visitors.visitor.Visitor` objects, the ones that pages use. Nothing here needs a browser.
"""

from __future__ import annotations

import statistics
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import psutil

from dashboard.visitors.model_loading import Loading
from dashboard.visitors.models import Models
from dashboard.visitors.visitor import Visitor, overrides_of
from encore_core.editing.session import EditSession
from encore_core.facts import Fact
from encore_core.measures.answers import answer_probabilities
from encore_core.methods import Settings
from encore_core.models.editable import EditableModel

UNDO_EVERY = 3
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
        seen = timed("probe", lambda: visitor.after.answer_probabilities(pairs))
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
            before = answer_probabilities(lm, step.pairs)[0].probability
        if step.what == "edit":
            session.edit([step.fact], known="edit")
        else:
            session.undo()
        with session.edited() if session.history else session.pristine():
            alone = [answer.probability for answer in answer_probabilities(lm, step.pairs)]
        difference = max([difference, *(abs(a - b) for a, b in zip(alone, step.probabilities, strict=True))])
        change = max(change, abs(alone[0] - before))
    return difference, change
