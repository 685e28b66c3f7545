"""Steps 6 and 7: what λn and the extra steps after MPES do to norm and scores, computed on a handful of facts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial

import pandas as pd
import streamlit as st

from dashboard.charts import learn as charts
from dashboard.elements import chart_card, compute_button, widgets
from dashboard.parts.learn import recorded_france
from dashboard.parts.learn.sandbox import EXTRA, NO_MPES, Choice, Trial, attempt, done_before, facts_for
from dashboard.reading.bundled_facts import bundled_facts
from dashboard.server import device_queue
from dashboard.visitors import browser_session
from dashboard.visitors.messages import Message
from dashboard.visitors.visitor import Visitor
from dashboard.visitors.widget_state import remembered
from encore_core.facts import Fact
from encore_core.models.settings import settings_of

FACTOR, STEPS = "learn_factor", "learn_extra"
FACTORS = {"0": "0", "0.25": "¼", "1": "1", "4": "4", "16": "16", "64": "64"}
"""λn over the model's own value: in links → on the slider."""

NO_STEPS = "none"
ENOUGH = 20
"""Facts from which on a change of a score is not called too little to tell."""


def restore(asked: Mapping[str, Sequence[str]]) -> None:
    """Set the sliders to what a link asks for, or to ENCORE's own settings."""
    for name, key, known in (("lambda_n", FACTOR, FACTORS), ("extra", STEPS, _steps())):
        wanted = next(iter(asked.get(name, ())), None)
        st.session_state[key] = wanted if wanted in known else "1"


def view() -> dict[str, str]:
    """The query of a link to the sliders."""
    return {"lambda_n": st.session_state.get(FACTOR, "1"), "extra": st.session_state.get(STEPS, "1")}


def _steps() -> dict[str, str]:
    return {NO_STEPS if n is NO_MPES else str(n): "no MPES" if n is NO_MPES else f"+ {n}" for n in EXTRA}


def show() -> None:
    facts = facts_for(bundled_facts())
    with st.container(border=True, key="card_learn"):
        widgets.heading(
            "Try it yourself",
            f"{len(facts)} facts edited as one batch in a sandbox on your model; your own edits are not touched",
        )
        choice = _pick()
        own = settings_of(browser_session.current().lm, "ENCORE").lambda_n if "visitor" in st.session_state else None
        if own is not None:
            st.caption(f"That is {chosen_settings(own, choice).name}; this model's own value of λn is {own:g}.")

        compute_button.button("learn_trial", "Compute", lambda visitor, tell: compute(visitor, choice, facts, tell))
        with st.expander("The facts"):
            rows = [(fact.text, fact.target_true or "–", fact.target_new) for fact in facts]
            widgets.table([("Prompt", ""), ("True answer", ""), ("New answer", "")], rows, "The facts of the sandbox")
        done = trials()
        if not done:
            recorded = recorded_france.trials()
            widgets.remark(f"These trials were {recorded_france.where()}. The button computes one on your model.")
            _shown(recorded, recorded_france.named(choice), recorded)
            return
        recorded = [
            trial for trial in recorded_france.trials_as_on(browser_session.current()) if trial.choice not in done
        ]
        if recorded:
            widgets.remark(f"The pale points were {recorded_france.where()}, in the same way.")
        _shown([*recorded, *done.values()], st.session_state["learn_trial_newest"], recorded)


def _pick() -> tuple[str, str]:
    """λn and the extra steps, as the sliders are set."""
    for key, names in ((FACTOR, FACTORS), (STEPS, _steps())):
        if remembered(key, "1") not in names:
            st.session_state[key] = "1"
    left, right = st.columns(2)
    left.select_slider(
        "λn, × the model's own value", list(FACTORS), key=FACTOR, format_func=FACTORS.get, persist_state="session"
    )
    right.select_slider(
        "Steps after the answer is the most probable one (MPES)",
        list(_steps()),
        key=STEPS,
        format_func=_steps().get,
        persist_state="session",
    )
    return st.session_state[FACTOR], st.session_state[STEPS]


def trials() -> dict[Choice, Trial]:
    """What was computed in this session on the model that is loaded now, with the visitor's seed."""
    if "visitor" not in st.session_state:
        return {}
    visitor = browser_session.current()
    made_with = (visitor.loading, visitor.session.seed)
    kept = st.session_state.get("learn_trials")
    if kept is None or kept[0] != made_with:
        kept = st.session_state["learn_trials"] = (made_with, {})
    return kept[1]


def compute(visitor: Visitor, chosen: tuple[str, str], facts: Sequence[Fact], tell: compute_button.Show) -> None:
    """Compute what was chosen, unless that was done before, by this visitor or by another.

    Raises:
        InputError: when a fact cannot be edited on this model.
    """
    choice = chosen_settings(settings_of(visitor.lm, "ENCORE").lambda_n, chosen)
    seed = visitor.session.seed
    found = trials().get(choice) or done_before(visitor.lm, facts, choice, seed)
    if found is None:
        with device_queue.work(device_queue.EDIT, len(facts)):
            found = attempt(visitor.lm, facts, choice, seed, tell)
    trials()[choice] = found
    st.session_state["learn_trial_newest"] = choice.name


def chosen_settings(own: float, chosen: tuple[str, str]) -> Choice:
    """What the sliders stand for on a model whose own λn is given."""
    factor, extra = chosen
    return Choice(own * float(factor), NO_MPES if extra == NO_STEPS else int(extra))


def _shown(done: Sequence[Trial], ringed: str | None, recorded: Sequence[Trial]) -> None:
    """One trial in figures, and all of them as a chart and a table; some were recorded.

    Args:
        done: the trials.
        ringed: name of the choice that is shown in figures; None where it has no trial.
        recorded: those of the trials that come with the program.
    """
    is_own = len(recorded) < len(done)
    if ringed is None:
        widgets.notice(Message("info", "The sliders' choice was not recorded; Compute tries it on your model."))
        aside = "a point for each choice"
    else:
        _tiles(next(trial for trial in done if trial.choice.name == ringed))
        aside = f"a point for each choice; the {'newest' if is_own else 'one of the sliders'} is ringed"
    frame = _frame(done, recorded)
    chart_card.show(
        partial(charts.trade_off, frame, ringed),
        key="learn trade-off",
        heading="Norm against scores",
        aside=aside,
        alt="Edit, paraphrase and neighbourhood score against the growth of the norm; values are in the table below.",
        frame=frame,
    )
    marks = {} if ringed is None else {ringed: "newest" if is_own else "ringed"}
    _table(done, marks, recorded if is_own else ())
    if words := comparison(done):
        widgets.remark(words)
    if len(done) == 1:
        widgets.notice(Message("info", "Move a slider and compute again: the points show the trade-off."))


def comparison(done: Sequence[Trial]) -> str:
    """What the choice that grows least gains over the one that grows most, and what it costs; "" for fewer than two."""
    if len(done) < 2:
        return ""
    most, least = max(done, key=lambda trial: trial.growth), min(done, key=lambda trial: trial.growth)
    if most.growth <= least.growth:
        return "All choices grow alike here."
    moved = [
        f"{name} {_score(getattr(most, name))} → {_score(getattr(least, name))}"
        for name in ("edit", "paraphrase", "neighbourhood")
        if getattr(most, name) != getattr(least, name)
    ]
    scores = f"the scores that change are {', '.join(moved)}" if moved else "no score changes"
    few = f"; {most.facts} facts are too few to tell a score's change from chance" if most.facts < ENOUGH else ""
    return (
        f"{least.choice.name} makes ‖W‖ grow by {least.growth:.3f} % instead of {most.growth:.3f} % "
        f"({most.choice.name}), and {scores}{few}. What less growth is good for shows only later: see step 4."
    )


def _tiles(one: Trial) -> None:
    widgets.tiles(
        [
            ("Growth of ‖W‖", f"{one.growth:.3f} %", one.choice.name, ""),
            ("Edit score", _score(one.edit), f"× 100, {one.facts} facts", ""),
            ("Paraphrase score", _score(one.paraphrase), "", ""),
            ("Neighbourhood score", _score(one.neighbourhood), "", ""),
            ("p of the answers", f"{one.probability:.2f}", f"after {one.steps:.1f} steps per fact", ""),
        ]
    )


def _frame(done: Sequence[Trial], recorded: Sequence[Trial]) -> pd.DataFrame:
    """Trials as the chart draws them."""
    return pd.DataFrame(
        [
            (
                trial.choice.name,
                trial.choice.lambda_n,
                trial.choice.extra is not NO_MPES,
                trial.growth,
                trial.edit,
                trial.paraphrase,
                trial.neighbourhood,
                trial.probability,
                trial.steps,
                trial in recorded,
            )
            for trial in done
        ],
        columns=[
            "name", "lambda_n", "mpes", "growth", "edit", "paraphrase", "neighbourhood", "probability", "steps",
            "recorded",
        ],
    )  # fmt: skip


def _table(done: Sequence[Trial], marked: Mapping[str, str], recorded: Sequence[Trial]) -> None:
    """The trials by growth; `marked` says what is special of a choice, by its name."""
    rows = [
        (
            " · ".join(
                filter(None, (trial.choice.name, marked.get(trial.choice.name), "recorded" * (trial in recorded)))
            ),
            f"{trial.growth:.3f} %",
            _score(trial.edit),
            _score(trial.paraphrase),
            _score(trial.neighbourhood),
            f"{trial.probability:.2f}",
            f"{trial.steps:.1f}",
        )
        for trial in sorted(done, key=lambda trial: trial.growth)
    ]
    columns = [
        ("Settings", "name"),
        ("Growth of ‖W‖", "right"),
        ("Edit", "right"),
        ("Paraphrase", "right"),
        ("Neighbourhood", "right"),
        ("p of the answers", "about"),
        ("Steps per fact", "about"),
    ]
    widgets.table(columns, rows, "The result of each choice, the least growth first")


def _score(value: float | None) -> str:
    return "–" if value is None else f"{value:.0f}"
