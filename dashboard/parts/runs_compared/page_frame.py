"""What every page about several runs does: pick them, draw them, write the address, and follow them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import streamlit as st
from streamlit.delta_generator import DeltaGenerator

from dashboard import links
from dashboard.elements import run_picker, widgets
from dashboard.reading import recorded_choice
from dashboard.visitors.messages import Message
from encore_core.errors import InputError
from encore_core.runs import RunInfo

Asked = Mapping[str, Sequence[str]]
Known = Mapping[str, RunInfo]
ANSWER = "answer"
"""Key of the place of a page's answer, above the choice of runs."""

Drawn = tuple[links.View, Sequence[RunInfo]]  # what the address shall say, and the runs to follow


def show(
    page: str,
    *,
    ask: str,
    none_yet: str,
    restore: Callable[[Asked, Known], None],
    draw: Callable[[Sequence[RunInfo], DeltaGenerator], Drawn],
    below: Callable[[], None] = lambda: None,
    has: recorded_choice.Has = recorded_choice.anything,
) -> None:
    """Show everything of a page below its title.

    Args:
        page: names it.
        ask: to pick runs, and how many.
        none_yet: said while there are no runs to pick.
        restore: sets the page's controls to what a link asks for, given the known runs.
        draw: draws everything below the choice of runs, and the answer into the place above it; an `InputError` that
            it raises is shown.
        below: draws what the page has below all of that, runs or not.
        has: whether a run has what the page needs to answer its question.
    """
    try:
        known = run_picker.measured_runs()
    except InputError as error:
        widgets.problem(error)
        return
    asked = links.opened(page)
    if asked is not None:
        restore(asked, known)
    if not known:
        widgets.notice(Message("info", f"No run has reached its first checkpoint yet. {none_yet}"))
        below()
        return
    place = st.container(key=ANSWER)
    runs = run_picker.pick(page, known, ask, has)
    if not runs:
        widgets.notice(Message("info", f"{ask} above."))
        links.write(page, {})
        below()
        return
    run_picker.warn_of_differences(runs)
    try:
        address, followed = draw(runs, place)
    except InputError as error:
        widgets.problem(error)
        return
    below()
    links.write(page, address)
    run_picker.follow(followed)
