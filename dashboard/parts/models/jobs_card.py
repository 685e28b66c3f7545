"""The jobs that gather statistics of a model: how far each is, and what can be done with it."""

from __future__ import annotations

from collections.abc import Callable

import streamlit as st

from dashboard.elements import widgets
from dashboard.reading import model_check_rows
from dashboard.visitors import access
from dashboard.visitors.messages import Message
from encore_core.errors import InputError
from encore_core.statistics import jobs
from encore_core.storage import absolute_folder

POLL_SECONDS = 1.0
SHOWN_JOBS = 6


def gathering(name: str) -> None:
    """The jobs of this model, alive while one runs."""
    mine = [job for job in jobs.jobs() if job.request.model in (name, absolute_folder(name))]
    if not mine:
        return
    busy = any(job.active for job in mine)
    st.fragment(_jobs, run_every=POLL_SECONDS if busy else None)(name, busy)


def _jobs(name: str, busy: bool) -> None:
    mine = [job for job in jobs.jobs() if job.request.model in (name, absolute_folder(name))]
    if any(job.active for job in mine) != busy:
        st.rerun()  # the whole page: polling begins or ends, and there may be new statistics
    with st.container(border=True, key="card_jobs"):
        widgets.heading("Gathering", "of this model")
        for job in mine[:SHOWN_JOBS]:
            with st.container(key=f"job_{job.id}"):
                st.html(widgets.rich("<b>{words}</b><br>{state}", words=model_check_rows.job_words(job),
                                     state=model_check_rows.job_state(job)))  # fmt: skip
                if job.active:
                    st.progress(job.share)
                _steer(job)


def _steer(job: jobs.Job) -> None:
    with st.container(horizontal=True):
        if job.active:
            st.button("Stop", key=f"stop {job.id}", icon=":material/stop:", on_click=attempt, args=(jobs.stop, job.id))
            return
        if job.status != "done":
            st.button(
                "Go on", key=f"resume {job.id}", icon=":material/play_arrow:", on_click=attempt,
                args=(resume, job.id),
            )  # fmt: skip
        st.button(
            "Take off the list", key=f"forget {job.id}", icon=":material/close:", on_click=attempt,
            args=(jobs.forget, job.id),
        )  # fmt: skip


def attempt(action: Callable[..., Message | None], *arguments: object) -> None:
    """Do something for a button, and remember how it went."""
    try:
        st.session_state["models_message"] = action(*arguments)
    except InputError as error:
        st.session_state["models_message"] = Message("error", str(error))


def resume(job_id: str) -> None:
    """Go on with a job that ended before it was done.

    Raises:
        InputError: without the access code, and when it cannot be gone on with.
    """
    access.check_start()
    jobs.resume(job_id)
