"""Did my edit work, and what else changed?

Left: pick facts and a method, apply, undo. Right: what the model says about them, as loaded and with the edits.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import streamlit as st
from streamlit.delta_generator import DeltaGenerator

from dashboard import links, page_list
from dashboard.elements import presentation_mode, widgets
from dashboard.parts.edit import (
    actions,
    compare_form,
    compared,
    edited_facts,
    fact_form,
    history,
    inside,
    method_form,
    prediction,
    results,
)
from dashboard.reading.bundled_facts import bundled_facts
from dashboard.talk import presenter
from dashboard.visitors import browser_session
from dashboard.visitors.comparison import Column
from dashboard.visitors.model_loading import DEFAULT_METHOD
from dashboard.visitors.visitor import Visitor
from encore_core.errors import InputError
from encore_core.methods import METHODS

# Name in the address → field of a typed fact.
IN_LINK = {"subject": "subject", "prompt": "prompt", "new": "target_new", "true": "target_true",
           "paraphrases": "paraphrases", "neighbours": "neighbours"}  # fmt: skip
LONGEST_IN_LINK = 1000


def restore(asked: Mapping[str, Sequence[str]]) -> None:
    """Take what a link asks for: an example by its id, or a fact that was typed; a method; a prompt to try.

    Anything else is ignored. Texts are cut to the length that our own links keep to.
    """
    first = {name: values[0][:LONGEST_IN_LINK] for name, values in asked.items() if values}
    wanted = first.get("fact")
    place = next((place for place, fact in enumerate(bundled_facts()) if fact.id == wanted), None)
    if place is not None:
        fact = bundled_facts()[place]
        st.session_state.update(source="Example", relation="any", known_only=bool(fact.known), example=place)
        fact_form.fill_from_example()
    elif any(name in first for name in IN_LINK):
        st.session_state["source"] = "Your own"
        for name, key in IN_LINK.items():
            st.session_state[key] = first.get(name, "")
    if first.get("method") in METHODS:
        st.session_state["method"] = first["method"]
    compare_form.restore(first.get("compare", ""))
    inside.restore(asked)
    st.session_state["free_prompt"] = first.get("try", "")


def view() -> dict[str, str]:
    """The query of a link to the page: the fact in the editor, the method, the prompt to try.

    A table is left out: it may be a file. So are paraphrases and neighbours that are too long for an address.
    """
    said = {"try": st.session_state.get("free_prompt") or ""}
    if st.session_state["source"] == "Example":
        said["fact"] = bundled_facts()[st.session_state.get("example", 0)].id or ""
    elif st.session_state["source"] == "Your own":
        said |= {name: st.session_state.get(key) or "" for name, key in IN_LINK.items()}
    said |= inside.view()
    said["compare"] = compare_form.as_text(compare_form.arms())
    if st.session_state["method"] != DEFAULT_METHOD:
        said["method"] = st.session_state["method"]
    return {name: text for name, text in said.items() if len(text) <= LONGEST_IN_LINK}


@dataclass(frozen=True)
class Parts:
    """The containers of the page's parts.

    `outcome` is for progress and what came of an action, in the bar that is always in sight; `fact` holds the fact as a
    sentence where the editor is out of sight.
    """

    strip: DeltaGenerator
    outcome: DeltaGenerator
    editor: DeltaGenerator
    actions: DeltaGenerator
    history: DeltaGenerator
    results: DeltaGenerator
    fact: DeltaGenerator | None = None


def arranged() -> Parts:
    """Choices on the left, results on the right."""
    bar = st.container(key="status")
    st.title(page_list.question("edit"), anchor=False)
    left, right = st.container(key="edit_columns").columns([5, 8], gap="medium")
    with left:
        editor = st.container(key="editor")
        pressed, past = st.container(), st.container()
    return Parts(bar.container(), bar.container(), editor, pressed, past, right.container(key="results"))


def arranged_to_compare() -> Parts:
    """Buttons in a row, the editor folded away, and the columns below as wide as the page."""
    bar = st.container(key="status")
    st.title(page_list.question("edit"), anchor=False)
    fact, pressed = st.container(), st.container()
    with st.expander("Fact and methods", icon=":material/edit_note:", key="compare_editor"):
        editor, past = st.container(key="editor"), st.container()
    came_of_it = st.container(key="results")
    return Parts(bar.container(), bar.container(), editor, pressed, past, came_of_it, fact)


def arranged_for_a_class() -> Parts:
    """Buttons and results first, as wide as the page; what was picked before the talk is below."""
    st.title(page_list.question("edit"), anchor=False)
    fact, pressed, outcome, came_of_it = st.container(), st.container(), st.container(), st.container(key="results")
    with st.expander("Fact, method and edits", icon=":material/edit_note:", key="class_editor"):
        editor = {"strip": st.container(key="status"), "editor": st.container(key="editor"), "history": st.container()}
        return Parts(**editor, outcome=outcome, actions=pressed, results=came_of_it, fact=fact)


def arrangement(visitor: Visitor) -> Parts:
    """What suits the visitor: a class, a comparison, or one model."""
    if presentation_mode.is_on():
        return arranged_for_a_class()
    return arranged() if visitor.comparison is None else arranged_to_compare()


def the_fact() -> None:
    """The fact in the editor as a sentence; for a table, how many more there are."""
    try:
        facts = fact_form.facts_in_editor()
    except InputError as error:
        widgets.problem(error)
        return
    widgets.sentence(facts[0])
    if len(facts) > 1:
        st.caption(f"and {len(facts) - 1:,} more")


def main() -> None:
    visitor = browser_session.current()
    asked = links.opened("edit")
    if asked is not None:
        restore(asked)
        if visitor.message is not None and visitor.message.kind == "success":
            visitor.message = None  # of what was done before, and here something else is asked
    if st.session_state.pop("edits_just_loaded", False):
        # Before the fields are drawn, so that they show the settings that the edits were made with.
        method_form.restore_settings(visitor, visitor.session.settings, visitor.session.seed)
    parts = arrangement(visitor)
    with parts.editor:
        fact_form.pick_facts()
        ready = method_form.pick_method(visitor)
    if parts.fact is not None:
        with parts.fact:
            the_fact()
    with parts.actions:
        actions.buttons(visitor, ready)
    with parts.strip:
        widgets.status_strip(visitor)
    with parts.outcome:
        progress = actions.outcome(visitor)
    with parts.results:
        finished = show_results(visitor)
    if visitor.comparison is None and not prediction.is_covered(visitor):
        # After the results, which read what the list asks for in the same pass.
        with parts.history:
            edited_facts.show(visitor)
            history.batches(visitor)
            history.saved_edits(visitor)
    if visitor.is_busy:
        visitor.work(actions.teller(progress), finished)
        st.rerun()
    links.write("edit", view())


def show_results(visitor: Visitor) -> Callable[[Column], None]:
    """What came of the edits. Returns what draws a column of a comparison that has just been done."""
    is_covered = prediction.is_covered(visitor)
    if is_covered and not visitor.is_busy:
        prediction.predict(visitor)
    if visitor.comparison is not None:
        return compared.show(visitor, covered=is_covered)
    if not is_covered:
        if presenter.is_predicting() and not visitor.session.n_edits:
            prediction.vote_first()
        results.show(visitor)
    return lambda column: None


main()
