"""Start and watch 100 to 10,000 sequential edits: a plan, its cost, and the runs in progress."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any

import streamlit as st

from dashboard import links, page_list
from dashboard.elements import access_code, widgets
from dashboard.parts.run import live, start_card
from dashboard.parts.run.fact_fields import BATCH_SIZE, KNOWN, ORDERS, pick_facts
from dashboard.parts.run.measure_fields import pick_measures
from dashboard.parts.run.model_fields import pick_model
from dashboard.reading.run_words import MAIN_METHODS, MOST_COMPARED
from dashboard.visitors.visitor import Visitor
from encore_core.cluster.plan_file import Place
from encore_core.errors import InputError
from encore_core.methods import METHODS
from encore_core.runs import MeasurePlan, PreparedRun, RunStore
from encore_core.runs.seeds import seeds_of

# Name in the address → field of the plan, and its usual value.
NUMBERS = {
    "edits": ("run_n", None), "batch": ("run_batch", BATCH_SIZE), "every": ("run_every", None), "seed": ("run_seed", 0),
}  # fmt: skip
# Name in the address → field of the plan, and what can be chosen, the usual one first.
CHOICES = {"order": ("run_order", ORDERS), "known": ("run_known", KNOWN)}


LINKED = ("bundled", "long")
"""Sources of facts that a link can name: those that come with the program."""


def restore(asked: Mapping[str, Sequence[str]]) -> None:
    """Fill the plan with what a link asks for, and watch the run that it names; invalid values are ignored."""
    first = {name: values[0] for name, values in asked.items() if values}
    methods = [method for method in dict.fromkeys(asked.get("method", ())) if method in METHODS]
    if methods:
        st.session_state["run_methods"] = methods[:MOST_COMPARED]
    for name, (key, _) in NUMBERS.items():
        if first.get(name, "").isdecimal() and len(first[name]) < 8:
            st.session_state[key] = int(first[name])
    for name, (key, known) in CHOICES.items():
        if first.get(name) in known:
            st.session_state[key] = first[name]
    if first.get("facts") in LINKED:
        st.session_state["run_source"] = first["facts"]
    if "model" in first:
        st.session_state["run_model"] = first["model"]
    if "seeds" in first:
        with suppress(InputError):
            st.session_state["run_seeds"] = ", ".join(map(str, seeds_of(first["seeds"])))
    if "run" in first:
        st.session_state["watched"] = first["run"]
    else:
        st.session_state["new_runs"] = True


def view(loaded: str) -> dict[str, str | list[str]]:
    """The query of a link to the page: what differs from the usual plan, and the run that is watched.

    Facts that a visitor gave are not in it, and so neither is how many of them are to be edited.

    Args:
        loaded: name of the visitor's model.
    """
    shown = st.session_state
    said: dict[str, str | list[str]] = {}
    if shown["run_methods"] != list(MAIN_METHODS):
        said["method"] = shown["run_methods"]
    if shown["run_source"] in LINKED[1:]:
        said["facts"] = shown["run_source"]
    if (shown["run_model"] or loaded) != loaded:
        said["model"] = shown["run_model"]
    for name, (key, usual_number) in NUMBERS.items():
        is_linked = name != "edits" or shown["run_source"] in LINKED
        if is_linked and shown[key] not in (None, shown["run_usual_n"] if name == "edits" else usual_number):
            said[name] = str(shown[key])
    said |= {name: shown[key] for name, (key, known) in CHOICES.items() if shown[key] != next(iter(known))}
    if shown["run_seeds"].strip():
        said["seeds"] = shown["run_seeds"].replace(" ", "")
    return said | watched()


def watched() -> dict[str, str]:
    """The same of the run that is watched."""
    chosen = st.session_state.get("watched", live.FOLLOW)
    return {} if chosen == live.FOLLOW else {"run": chosen}


def new_runs(visitor: Visitor, store: RunStore) -> None:
    """Four fields, their cost and Start; all other fields are under More."""
    with st.container(key="plan_main"):
        places = st.columns([1.3, 2.3, 1, 0.85])
    below, card = st.container(), st.container(key="card_start")
    more = st.expander("More: batches, seeds, settings, what is measured", key="run_more", on_change="rerun")
    columns = more.container(key="plan").columns(3)
    # Fields are drawn even while they are folded away: what was chosen there counts.
    model = pick_model(visitor, places[0], places[1], columns[0])
    facts = pick_facts(places[2], places[3], below, columns[1])
    with columns[1]:
        seeds = start_card.pick_seeds()
        place = start_card.pick_place()
    measure = pick_measures(columns[2])
    with card:
        _start(visitor, store, model, facts, measure, seeds, place)


def _start(
    visitor: Visitor,
    store: RunStore,
    model: dict[str, Any] | None,
    facts: dict[str, Any] | None,
    measure: MeasurePlan | None,
    seeds: Sequence[int] | None,
    place: Place | bool,
) -> None:
    """What to know before the start, the cost, and the button; fields with a problem are None, and the place False."""
    runs: list[PreparedRun] = []
    if place and None not in (model, facts, measure, seeds):
        try:
            runs = start_card.prepared(model, facts, measure, seeds)
        except InputError as error:
            widgets.problem(error)
    if runs:
        start_card.notices(runs)
        if place is True:
            start_card.cost(visitor, runs, store)
    unlocked = access_code.ask_code()
    n_runs = len(runs)
    n_edits = sum(len(run.facts) for run in runs)
    total = f"{n_edits:,} edit{'s' * (n_edits != 1)}"
    st.button(
        f"Start {n_runs} run{'s' * (n_runs != 1)}, {total}" if runs else "Start",
        type="primary",
        key="start",
        disabled=not (runs and unlocked),
        on_click=start_card.start,
        args=(store, runs, place),
    )
    if not runs:
        st.caption("Complete the plan, here or under More; it says what is missing or wrong.")


def main() -> None:
    st.title(page_list.question("run"), anchor=False)
    visitor: Visitor | None = st.session_state.get("visitor")
    try:
        store = RunStore()
        busy = any(not run.ended for run in store.runs())
    except InputError as error:
        widgets.problem(error)
        return
    asked = links.opened("run")
    if asked is not None:
        restore(asked)
    if "new_runs" not in st.session_state:
        st.session_state["new_runs"] = visitor is not None and not busy
    with st.expander("New runs", icon=":material/add_circle:", key="new_runs", on_change="rerun"):
        if visitor is None:
            st.caption("Opening this loads the model.")
        else:
            new_runs(visitor, store)
    widgets.notice(st.session_state.pop("start_message", None))
    try:
        live.watch(store, lambda: links.write("run", view(visitor.lm.name) if visitor is not None else watched()))
    except InputError as error:
        widgets.problem(error)


main()
