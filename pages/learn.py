"""How does editing work, and how does ENCORE mend it? The method in seven steps, each with an element to try.

The page needs no model; parts that use one load it at the press of a button.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import streamlit as st

from dashboard import links, page_list
from dashboard.elements import run_picker, widgets
from dashboard.parts.learn import (
    block_drawing,
    own_fact,
    recorded_run_cards,
    sandbox_card,
    target_search_card,
    token_card,
    update_card,
)
from dashboard.talk.method_steps import BY_KEY, STEPS, Step
from dashboard.visitors.widget_state import remembered
from encore_core.errors import InputError
from encore_core.runs import RunInfo

STEP = "learn_step"
FIELDS = ("fact", "target", "update")
RUNS = ("again", "breaks")
TRIALS = ("mpes", "norm")

# Step → what can be tried there; those about runs return the runs that they show.
ELEMENTS: Mapping[str, Callable[[], list[RunInfo] | None]] = {
    "fact": token_card.show,
    "target": target_search_card.show,
    "update": update_card.show,
    "again": recorded_run_cards.again,
    "breaks": recorded_run_cards.breaks,
    "mpes": sandbox_card.show,
    "norm": sandbox_card.show,
}


def restore(asked: Mapping[str, Sequence[str]]) -> None:
    """Set the page to what a link asks for; invalid values are ignored."""
    first = {name: values[0] for name, values in asked.items() if values}
    if first.get("step") in BY_KEY:
        st.session_state[STEP] = first["step"]
    own_fact.restore(asked)
    sandbox_card.restore(asked)
    if "run" in asked:
        run_picker.restore(asked, run_picker.measured_runs())
    at = first.get("at", "")
    if at.isdecimal() and len(at) < 9:
        st.session_state[recorded_run_cards.AT] = int(at)


def view(step: Step, runs: Sequence[RunInfo]) -> dict[str, str | list[str]]:
    """The query of a link to the page as it is."""
    said: dict[str, str | list[str]] = {"step": step.key}
    if step.key in FIELDS:
        said |= own_fact.view()
    elif step.key in TRIALS:
        said |= sandbox_card.view()
    elif runs:
        said["run"] = [run.id for run in runs]
        if recorded_run_cards.AT in st.session_state:  # not while the answer is covered
            said["at"] = str(st.session_state[recorded_run_cards.AT])
    return said


def pick_step() -> Step:
    """The list of steps."""
    remembered(STEP, STEPS[0].key)
    names = {step.key: f"{number} · {step.short}" for number, step in enumerate(STEPS, start=1)}
    st.segmented_control(
        "Step",
        list(names),
        key=STEP,
        format_func=names.get,
        required=True,
        label_visibility="collapsed",
        width="stretch",
        persist_state="session",
    )
    return BY_KEY[st.session_state[STEP]]


def explain(step: Step) -> None:
    """Text and equations of a step."""
    number = STEPS.index(step) + 1
    with st.container(key="learn_text"):
        st.html(widgets.rich('<h2 class="es-step">{number} · {title}</h2>', number=number, title=step.title))
        told, drawn = st.columns([5, 6], vertical_alignment="center", gap="medium")
        told.html("".join(widgets.rich("<p>{text}</p>", text=text) for text in step.text))
        with drawn:
            block_drawing.draw(step.lit, step.drawn)
        for equation in step.equations:
            st.latex(equation)
        st.html(widgets.rich('<p class="es-symbols">{text}</p>', text=step.symbols))


def go_on(step: Step) -> None:
    """Buttons to the previous and the next step."""
    place = STEPS.index(step)
    left, right = st.columns(2)
    for column, key, to, words, icon in (
        (left, "learn_previous", place - 1, "Previous", ":material/arrow_back:"),
        (right, "learn_next", place + 1, "Next", ":material/arrow_forward:"),
    ):
        is_there = 0 <= to < len(STEPS)
        column.button(
            f"{words}: {STEPS[to].title}" if is_there else words,
            key=key,
            icon=icon,
            width="stretch",
            disabled=not is_there,
            on_click=_go,
            args=(STEPS[to].key if is_there else step.key,),
        )


def _go(key: str) -> None:
    st.session_state[STEP] = key


def main() -> None:
    st.title(page_list.question("learn"), anchor=False)
    runs: list[RunInfo] = []
    try:
        asked = links.opened("learn")
        if asked is not None:
            restore(asked)
    except InputError as error:
        widgets.problem(error)
    step = pick_step()
    explain(step)
    try:
        runs = ELEMENTS[step.key]() or []
    except InputError as error:
        widgets.problem(error)
    go_on(step)
    links.write("learn", view(step, runs))
    run_picker.follow(runs)


main()
