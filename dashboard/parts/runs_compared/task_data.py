"""Where the downstream tasks come from: fetched from the hub once, or a folder of your own."""

from __future__ import annotations

import logging

import streamlit as st

from dashboard.elements import widgets
from dashboard.visitors.messages import Message
from encore_core.errors import InputError
from encore_core.measures import task_sets

log = logging.getLogger(__name__)


def draw() -> None:
    """Say whether they are here and how a run asks them, or offer a button that fetches them."""
    with st.container(border=True, key="card_tasks"):
        widgets.heading("Data of the tasks")
        widgets.notice(st.session_state.pop("tasks_message", None))
        try:
            here = task_sets.is_fetched()
        except InputError as error:
            widgets.problem(error)
            return
        if here:
            st.caption("The six tasks are here. A run includes them when the field on the Run page says “hub”, or by")
            st.code("encore run … --downstream hub", language=None)
            return
        st.caption(
            "The tasks are SST-2, MRPC, CoLA, RTE and NLI (from GLUE) and MMLU. They are fetched from the Hugging Face "
            "hub once, about 1 MB; or put sst2.jsonl and the others into a folder and name it on the Run page."
        )
        if st.button("Fetch the tasks from the hub", icon=":material/download:", key="fetch_tasks"):
            _fetch()
            st.rerun()


def _fetch() -> None:
    """Fetch the tasks, and leave a message on how it went."""
    bar = st.progress(0.0, text="Asking the hub …")
    try:
        folder = task_sets.fetch_tasks(lambda what, share: bar.progress(min(1.0, share), text=f"{what} …"))
    except InputError as error:
        st.session_state["tasks_message"] = Message("error", str(error))
        return
    except Exception:
        log.exception("fetching the downstream tasks failed")
        st.session_state["tasks_message"] = Message(
            "error", "The tasks could not be fetched; the reason is in the server's log."
        )
        return
    if not st.session_state.get("run_downstream"):
        st.session_state["run_downstream"] = task_sets.HUB
    st.session_state["tasks_message"] = Message(
        "success", f"Fetched into {folder}. Runs that are started on the Run page now include them."
    )
