"""Which runs are there, how do I share one? A searchable table of all runs, and the record of each."""

from __future__ import annotations

import streamlit as st

from dashboard import links, page_list
from dashboard.elements import widgets
from dashboard.parts.runs import choice, refreshing, run_record
from dashboard.reading import run_frames
from dashboard.visitors.messages import Message
from encore_core.errors import InputError


def main() -> None:
    st.title(page_list.question("runs"), anchor=False)
    try:
        runs = run_frames.all_runs()
    except InputError as error:
        widgets.problem(error)
        return
    widgets.notice(st.session_state.pop("run_message", None))
    choice.restore(links.opened("runs"))
    if not runs:
        widgets.notice(Message("info", "There is no run yet. Start some on the Run page, or with `encore run`."))
        return
    opened = choice.pick(runs)
    if opened is not None:
        try:
            store = run_frames.store_of(opened)
            run_record.show(store, store.get(opened.id), runs)
        except InputError as error:  # deleted in another tab, between the lines above
            widgets.problem(error)
    links.write("runs", {"run": opened.id if opened is not None else ""})
    refreshing.follow(runs)


main()
