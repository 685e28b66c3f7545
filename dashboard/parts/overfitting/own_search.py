"""A visitor's fact: the search for its target with and without MPES on the Edit page's model."""

from __future__ import annotations

import logging
import time
from dataclasses import asdict, dataclass
from functools import partial

import pandas as pd
import streamlit as st

from dashboard.charts import overfitting as charts
from dashboard.elements import chart_card, widgets
from dashboard.parts.overfitting.search_pairs import LOSS_COLUMNS, STOPPING, WITHOUT, fact_tiles
from dashboard.reading.bundled_facts import bundled_facts
from dashboard.reading.run_words import duration, short_model
from dashboard.server import limits
from dashboard.visitors import browser_session
from dashboard.visitors.messages import Message
from dashboard.visitors.widget_state import remembered
from encore_core.editing.batch_report import EditProgress
from encore_core.errors import InputError
from encore_core.facts import Fact

log = logging.getLogger(__name__)
SOURCES = {"example": "Example", "own": "Your own"}


@dataclass(frozen=True)
class Tried:
    """A fact that was optimised on the visitor's model, with and without MPES.

    Attributes:
        fact: the fact.
        model: what it was tried on, see `_model`.
        about: the model, and its edits, in words.
        trajectory: arm, step, loss, nll, kl, decay, probability.
        stopped: arm → why it stopped.
        seconds: arm → how long it took.
    """

    fact: Fact
    model: tuple[object, ...]
    about: str
    trajectory: pd.DataFrame
    stopped: dict[str, str]
    seconds: dict[str, float]


def card() -> None:
    """The card in which a visitor's fact is optimised on the Edit page's model."""
    with st.container(border=True, key="card_overfitting_live"):
        widgets.heading("Try it on your model", "the one of the Edit page, with the edits on it; nothing is edited")
        remembered("overfitting_source", "example")
        st.segmented_control(
            "Where the fact comes from",
            list(SOURCES),
            key="overfitting_source",
            format_func=SOURCES.get,
            required=True,
            label_visibility="collapsed",
            persist_state="session",
        )
        try:
            fact = _example() if st.session_state["overfitting_source"] == "example" else _typed()
        except InputError as error:
            widgets.notice(Message("info", str(error)))
            fact = None
        if fact is not None:
            widgets.sentence(fact)
        if "visitor" not in st.session_state:
            st.caption("The model is loaded first, which takes some seconds (at the first start up to a minute).")
        asked = st.button(
            "Search for its target twice: with and without MPES",
            type="primary",
            key="overfitting_try",
            disabled=fact is None,
        )
        if asked and fact is not None:
            _try(fact)
        widgets.notice(st.session_state.pop("overfitting_message", None))
        tried = st.session_state.get("overfitting_tried")
        if tried is not None and (tried.fact, tried.model) == (fact, _model()):
            _show(tried)


def _model() -> tuple[object, ...]:
    """What tells the visitor's model, with the edits on it, from another one; empty before one is loaded."""
    if "visitor" not in st.session_state:
        return ()
    visitor = browser_session.current()
    return id(visitor.loading), visitor.session.seed, *map(id, visitor.session.history)


def _example() -> Fact:
    facts = bundled_facts()
    known = [place for place, fact in enumerate(facts) if fact.known]
    remembered("overfitting_example", known[0])
    place = st.selectbox(
        f"Example · {len(known)} facts, type to search",
        known,
        key="overfitting_example",
        format_func=lambda i: f"{facts[i].text} … {facts[i].target_true} → {facts[i].target_new}",
        persist_state="session",
    )
    return facts[place]


def _typed() -> Fact:
    """The fact as typed.

    Raises:
        InputError: naming what is missing, wrong or too long.
    """
    left, middle, right = st.columns([2, 3, 2])
    keep = {"persist_state": "session"}
    subject = left.text_input("Subject", key="overfitting_subject", placeholder="France", **keep)
    prompt = middle.text_input("Prompt", key="overfitting_prompt", placeholder="The capital of {} is", **keep)
    answer = right.text_input("New answer", key="overfitting_answer", placeholder="Rome", **keep)
    if not any((text or "").strip() for text in (subject, prompt, answer)):
        raise InputError("Type a subject, a prompt with {} or the subject in it, and the new answer.")
    fact = Fact(subject=subject or "", prompt=prompt or "", target_new=answer or "")
    limits.check_fact(fact)
    return fact


def _try(fact: Fact) -> None:
    """Optimise a fact twice, and keep the outcome, or a message on why there is none."""
    bar = st.progress(0.0, text="Getting the model ready …")
    try:
        visitor = browser_session.visitor(lambda what, share: bar.progress(0.3 * min(1.0, share), text=f"{what} …"))
        session = visitor.session
        frames, stopped, seconds = [], {}, {}
        for number, arm in enumerate((WITHOUT, STOPPING)):

            def told(at: EditProgress, number: int = number, name: str = arm.name) -> None:
                share = (number + min(1.0, at.step / session.settings.steps)) / 2
                bar.progress(0.3 + 0.7 * share, text=f"Searching {name} · step {at.step} · loss {at.loss:.3f}")

            started = time.perf_counter()
            [target] = session.find_targets([fact], mpes=arm.mpes, on_progress=told)
            seconds[arm.key] = time.perf_counter() - started
            stopped[arm.key] = target.stopped
            frame = pd.DataFrame({name: getattr(target, name) for name in LOSS_COLUMNS})
            frames.append(frame.assign(arm=arm.key, step=range(len(frame))))
        edits = f"{session.n_edits} edit{'s' * (session.n_edits != 1)} on it" if session.n_edits else "as loaded"
        about = f"{short_model(visitor.lm.name)}, {edits}"
        st.session_state["overfitting_tried"] = Tried(fact, _model(), about, pd.concat(frames), stopped, seconds)
    except InputError as error:
        st.session_state["overfitting_message"] = Message("error", str(error))
    except Exception:
        log.exception("the search for a target failed")
        st.session_state["overfitting_message"] = Message(
            "error", "This search failed inside the program; nothing was edited. The reason is in the server's log."
        )
    bar.empty()


def _show(tried: Tried) -> None:
    """The result for a fact."""
    asked = f"{tried.fact.text} → {tried.fact.target_new}"
    fact_tiles(tried.trajectory, tried.stopped)
    chart_card.show(
        partial(charts.steps, tried.trajectory, [WITHOUT, STOPPING]),
        key="overfitting live",
        heading=asked if len(asked) <= 70 else asked[:69] + "…",
        aside=f"{tried.about} · "
        + ", ".join(f"{arm.name} {duration(tried.seconds[arm.key])}" for arm in (WITHOUT, STOPPING))
        + " · stars: the stopping points",
        alt="Probability of the new answer, loss and its terms by step with and without MPES; where they end is said "
        "above the chart.",
        frame=tried.trajectory[["arm", "step", *LOSS_COLUMNS]].assign(
            **{name: asdict(tried.fact)[name] for name in ("subject", "prompt", "target_new")}
        ),
        revision=asked,
    )
