"""A handful of facts edited in a sandbox under other settings, and what that costs. Knows no streamlit.

The sandbox is a session of its own on the shared model: it touches nobody's edits and is gone when it has been scored.
What is left on the model serves a class that asks for the same: the trials, and the search for their targets.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from encore_core.editing.batch_report import EditProgress
from encore_core.editing.session import EditSession
from encore_core.editing.shared_search import SharedSearch
from encore_core.facts import Fact
from encore_core.measures.scores import evaluate
from encore_core.methods import Settings
from encore_core.models.editable import EditableModel

N_FACTS = 5
NO_MPES = None


@dataclass(frozen=True)
class Choice:
    """Settings of a trial.

    Attributes:
        lambda_n: price of the norm.
        extra: steps after MPES; None searches on without MPES, until the loss is small.
    """

    lambda_n: float
    extra: int | None

    @property
    def method(self) -> str:
        return "MEMIT+norm" if self.extra is NO_MPES else "ENCORE"

    @property
    def settings(self) -> dict[str, float]:
        """What it sets beside its method's own values."""
        extra = {} if self.extra is NO_MPES else {"mpes_extra_steps": self.extra}
        return {"lambda_n": self.lambda_n} | extra

    @property
    def name(self) -> str:
        stop = "no MPES" if self.extra is NO_MPES else f"MPES + {self.extra}"
        return f"λn {self.lambda_n:g}, {stop}"


@dataclass(frozen=True)
class Trial:
    """The result of a trial.

    Attributes:
        choice: its settings.
        growth: of the edited matrix that has grown most, in % of its norm as loaded.
        edit, paraphrase, neighbourhood: scores from 0 to 100; None where the facts have no such prompts.
        probability: of the new answers, mean over the facts.
        steps: of the search for a target, mean over the facts.
        facts: how many.
    """

    choice: Choice
    growth: float
    edit: float
    paraphrase: float | None
    neighbourhood: float | None
    probability: float
    steps: float
    facts: int


EXTRA = (0, 1, 2, 4, 8, NO_MPES)
"""The choices for the extra steps."""


def facts_for(facts: Sequence[Fact]) -> list[Fact]:
    """The facts of a trial: the first ones that the embedded model knows, one per kind, so that none helps another."""
    by_kind: dict[str, Fact] = {}
    for fact in facts:
        if fact.known and fact.relation:
            by_kind.setdefault(fact.relation, fact)
    return list(by_kind.values())[:N_FACTS]


def attempt(
    lm: EditableModel, facts: Sequence[Fact], choice: Choice, seed: int, show: Callable[[str, float], None]
) -> Trial:
    """Edit facts as one batch under some settings, score them, and forget the edits; or what came of it before.

    Args:
        lm: the model.
        facts: the batch.
        choice: the settings.
        seed: of the sampled prefixes.
        show: gets what is being done, and the share that is done.

    Raises:
        InputError: when a fact cannot be edited on this model.
    """
    key = _key(lm, facts, seed)
    with lm.lock:  # one turn: others wait for a trial, not between its parts
        done: dict[Choice, Trial] = lm.shared.setdefault(key, {})
        if choice not in done:
            done[choice] = _attempt(_session(lm, choice, seed), facts, choice, show)
        return done[choice]


def done_before(lm: EditableModel, facts: Sequence[Fact], choice: Choice, seed: int) -> Trial | None:
    """A trial that some visitor has made on this model, under the settings in force; at once, without a turn."""
    return lm.shared.get(_key(lm, facts, seed), {}).get(choice)


def _attempt(session: EditSession, facts: Sequence[Fact], choice: Choice, show: Callable[[str, float], None]) -> Trial:
    lm, kept = session.lm, set(session.lm.shared)
    try:
        session.prepare(lambda what, share: show(what, 0.1 * share))
        report = session.edit(
            facts,
            known="edit",
            targets=_search(lm, session.seed).of(session),
            on_progress=lambda at: show(*_told(at, session.settings.steps)),
        )
        show("Scoring", 0.9)
        with session.edited() as edited:
            scores = evaluate(edited, facts, generate=False)
        norms = session.norms()
    finally:
        _forget_starts(lm, kept)
    targets = [item.target for item in report.edited]
    return Trial(
        choice,
        growth=max(100 * (after / before - 1) for before, after in norms.values()),
        edit=scores.edit_score,
        paraphrase=scores.paraphrase_score,
        neighbourhood=scores.neighborhood_score,
        probability=sum(item.probability_after for item in report.edited) / len(targets),
        steps=sum(target.steps for target in targets) / len(targets),
        facts=len(targets),
    )


def _key(lm: EditableModel, facts: Sequence[Fact], seed: int) -> tuple:
    """All that a trial depends on besides its choice."""
    sessions = _sessions(lm, seed)
    files = tuple(sessions[0].statistics_files.items())
    return "learn trials", seed, lm.start_token, tuple(facts), _rules(sessions), files


def _session(lm: EditableModel, choice: Choice, seed: int) -> EditSession:
    return EditSession(lm, choice.method, seed=seed, settings=choice.settings, keep_history=False)


def _sessions(lm: EditableModel, seed: int) -> list[EditSession]:
    """One for each choice of the extra steps; λn has no part in a search."""
    return [_session(lm, Choice(0.0, extra), seed) for extra in EXTRA]


def _rules(sessions: Sequence[EditSession]) -> tuple[Settings, ...]:
    return tuple(session.settings for session in sessions)


def _search(lm: EditableModel, seed: int) -> SharedSearch:
    """The search of all trials: one that stops later goes on where another stopped. The caller holds the lock."""
    rules = _rules(_sessions(lm, seed))
    key = ("learn search", seed, lm.start_token, rules)
    if key not in lm.shared:
        for other in [other for other in lm.shared if other[0] == key[0]]:
            del lm.shared[other]  # of settings that are not in force any more, or of another seed
        lm.shared[key] = SharedSearch(lm, rules)
    return lm.shared[key]


def _told(at: EditProgress, steps: int) -> tuple[str, float]:
    if at.phase == "update":
        return f"Updating layer {at.done} of {at.total}", 0.85
    return f"Searching targets · step {at.step} · {at.done} of {at.total} facts done", 0.1 + 0.75 * min(
        1.0, max(at.step / steps, at.done / at.total)
    )


def _forget_starts(lm: EditableModel, kept: set[tuple]) -> None:
    """Free the starting matrices that only this trial needed: a new λn makes one for every edited layer."""
    for key in [key for key in lm.shared if key not in kept and key[0] == "P"]:
        del lm.shared[key]
