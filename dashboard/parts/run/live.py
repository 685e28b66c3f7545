"""Runs under way: the queue, and one run in progress. The store is polled only while something happens."""

from __future__ import annotations

import html
from collections.abc import Callable, Sequence

import streamlit as st

from dashboard import page_list
from dashboard.elements import widgets
from dashboard.parts.run import curves
from dashboard.reading.run_words import (
    STATUS,
    doing,
    duration,
    label,
    named,
    reached,
    seconds_an_edit,
    status_line,
    together_with,
    written,
)
from dashboard.visitors import access
from dashboard.visitors.messages import Message
from dashboard.visitors.models import models
from dashboard.visitors.widget_state import remembered
from encore_core.errors import InputError
from encore_core.runs import RunInfo, RunStore, start_worker
from encore_core.runs.rows import RESUMABLE

POLL_SECONDS = 1.0
VISITOR_SECONDS = 0.2
"""What every visitor adds to the time between two polls: a class that watches one run leaves the server time for
others."""

RECENT = 12
"""How many ended runs can be watched here; all are on the Runs page."""

FOLLOW = "whichever is running"
LOG_LINES = 200


def watch(store: RunStore, after: Callable[[], None]) -> None:
    """The live queue and the chosen run. While a run is queued or running, the store is polled: every second for one
    visitor, every six for thirty.

    Args:
        store: where runs are.
        after: called whenever it has been drawn.
    """
    busy = any(not run.ended for run in store.runs())
    seconds = max(POLL_SECONDS, VISITOR_SECONDS * len(models().visitors))
    st.fragment(_watched, run_every=seconds if busy else None)(store, busy, after)


def _watched(store: RunStore, busy: bool, after: Callable[[], None]) -> None:
    try:
        runs = store.runs()
    except InputError as error:
        widgets.problem(error)
        return
    active = sorted((run for run in runs if not run.ended), key=lambda run: (run.position or 0, run.created))
    if bool(active) != busy:
        st.rerun()  # the whole page, so that polling begins or ends
    if not runs:
        st.session_state.pop("watched", None)  # a link may name one
        widgets.notice(
            Message("info", "No run yet. Runs started here appear on this page and go on after you close it.")
        )
    else:
        _chosen(store, runs, active)
    if active:
        with st.container(border=True, key="card_queue"):
            n_queued = sum(run.status == "queued" for run in active)
            widgets.heading("Queue", f"{len(active) - n_queued} running, {n_queued} waiting")
            queue(active)
    after()


def queue(runs: Sequence[RunInfo]) -> None:
    """Runs that are running or waiting, with how far they have come."""
    rows = "".join(
        "<tr>"
        + widgets.rich(
            '<td dir="auto">{name}</td><td class="es-name">{status}</td>', name=named(run), status=status_line(run)
        )
        + f"<td>{bar(run)}</td>"
        + widgets.rich('<td class="es-right">{left}</td>', left=_left(run))
        + "</tr>"
        for run in runs
    )
    head = (
        '<thead><tr><th scope="col">Run</th><th scope="col">Status</th><th scope="col">Edits</th>'
        '<th scope="col" class="es-right">Time left</th></tr></thead>'
    )
    st.html(widgets.table_markup(f"{head}<tbody>{rows}</tbody>", "Runs under way", kind="es-queue"))


def bar(run: RunInfo) -> str:
    """Markup of a bar that shows how many of its edits a run has made."""
    share = 100 * reached(run) / run.n_edits
    words = f"{int(reached(run)):,} of {run.n_edits:,}"
    return (
        f'<div class="es-bar es-tone-{STATUS[run.status][2]}" role="progressbar" aria-valuemin="0" aria-valuemax="100" '
        f'aria-valuenow="{share:.0f}" aria-label="{html.escape(words)} edits"><span style="width:{share:.1f}%"></span>'
        f"</div><small>{words}</small>"
    )


def _left(run: RunInfo) -> str:
    if run.status != "running":
        return "–"
    seconds = run.detail.get("seconds_left")
    return duration(seconds) if isinstance(seconds, int | float) else "…"


def _left_remark(run: RunInfo) -> str:
    if run.status != "running":
        return ""
    if "seconds_left" not in run.detail:
        return "known after the first checkpoint and some edits"
    return f"with measuring, which took {duration(run.measuring_seconds)} so far"


def _chosen(store: RunStore, runs: Sequence[RunInfo], active: Sequence[RunInfo]) -> None:
    known = {run.id: run for run in runs}
    shown = [*active, *[run for run in runs if run.ended][:RECENT]]
    options = [FOLLOW, *(run.id for run in shown)] if active else [run.id for run in shown]
    # Among ended runs, one with something to see.
    first = FOLLOW if active else next((run.id for run in shown if run.measuring_seconds), options[0])
    asked = remembered("watched", first)
    if asked not in options and asked in known:
        options.append(asked)  # an older one that a link names
    elif asked not in options:
        if asked != FOLLOW:
            widgets.notice(Message("warning", f"There is no run {asked!r} here (any more), so another one is shown."))
        st.session_state["watched"] = first
    with st.container(border=True, key="card_watched"):
        chosen = st.selectbox(
            "Watch",
            options,
            key="watched",
            persist_state="session",
            format_func=lambda run: (
                f"{FOLLOW}, always" if run == FOLLOW else label(known[run]) if run in known else run
            ),
        )
        run = known[chosen] if chosen != FOLLOW else active[0]
        _state(run)
        _buttons(store, run, runs)
        _curves(run)
        with st.expander("Log", key="watched_log", on_change="rerun") as log:
            if log.open:
                st.code(
                    store.read_log(run.id, LOG_LINES) or "Nothing has been logged yet.",
                    language=None,
                    height=320,
                    wrap_lines=True,
                )


def _state(run: RunInfo) -> None:
    """The state of the run, in figures and words."""
    symbol, word, tone = STATUS[run.status]
    speed = run.detail.get("seconds_per_edit")
    if not isinstance(speed, int | float):
        speed = run.editing_seconds / run.done if run.done else None
    items = [
        (
            "Status",
            f"{symbol}\u00a0{word}",
            f"number {run.position} in the queue" if run.position else doing(run),
            tone,
        ),
        ("Edits", f"{int(reached(run)):,}", written(run), ""),
        ("Speed", f"{seconds_an_edit(speed)} s" if speed is not None else "–", "per edit", ""),
        ("Time left", _left(run), _left_remark(run), ""),
    ]
    widgets.tiles(items)
    st.html(f'<div class="es-wide-bar">{bar(run)}</div>')
    if run.stop and run.status == "running":
        what = "Cancelling" if run.stop == "cancel" else "Stopping"
        widgets.notice(Message("info", f"{what}: the worker stops the run within the current batch, and saves it."))
    if run.error:
        widgets.notice(Message("error" if run.status == "failed" else "warning", run.error))


def _buttons(store: RunStore, run: RunInfo, runs: Sequence[RunInfo]) -> None:
    with st.container(horizontal=True, vertical_alignment="center", key="watched_buttons"):
        steer(store, run, "watched")
        compare_link(run, runs)
        st.page_link(
            page_list.script("runs"), label="Open its record", icon=":material/list_alt:", query_params={"run": run.id}
        )
    widgets.notice(st.session_state.pop("run_message", None))


def steer(store: RunStore, run: RunInfo, key: str) -> None:
    """Buttons to cancel a run or to resume it, where that is possible.

    Args:
        store: where the run is.
        run: which.
        key: of their place; their keys begin with it.
    """
    if not run.ended:
        st.button(
            "Cancel",
            icon=":material/stop_circle:",
            key=f"{key}_cancel",
            disabled=run.stop is not None,
            on_click=attempt,
            args=(cancel, store, run.id),
        )
    if run.status in RESUMABLE and not run.recorded:
        st.button(
            "Resume",
            icon=":material/resume:",
            key=f"{key}_resume",
            on_click=attempt,
            args=(resume, store, run.id),
        )


def compare_link(run: RunInfo, runs: Sequence[RunInfo]) -> None:
    """A link to the comparison of a run with those that belong to it, once there is something to compare."""
    if run.measuring_seconds:
        together = [other.id for other in together_with(run, runs) if other.measuring_seconds]
        st.page_link(
            page_list.script("compare"),
            label="Compare with related runs",
            icon=":material/compare_arrows:",
            query_params={"run": together},
        )


def attempt(act: Callable[[RunStore, str], Message], store: RunStore, run_id: str) -> None:
    """Act on a run for a visitor; the page shows the result, or why it cannot be done."""
    try:
        st.session_state["run_message"] = act(store, run_id)
    except InputError as error:
        st.session_state["run_message"] = Message("error", str(error))


def cancel(store: RunStore, run_id: str) -> Message:
    """Cancel a run.

    Raises:
        InputError: when it is over already, or gone.
    """
    run = store.cancel(run_id)
    return Message(
        "info", f"{run_id} is cancelled. It can be resumed." if run.ended else f"{run_id} has been told to stop."
    )


def resume(store: RunStore, run_id: str) -> Message:
    """Queue a run again, and make sure that there is a worker.

    Raises:
        InputError: when it cannot be resumed, is gone, goes beyond a limit of this server, or no worker can be
            started.
    """
    access.check_runs(store, [store.get(run_id).n_edits])
    run = store.resume(run_id)
    start_worker(store, run.device)
    return Message("success", f"{run_id} is in the queue again and goes on after {run.cursor:,} edits.")


def _curves(run: RunInfo) -> None:
    """Norms and scores so far. Figures are made again only at checkpoints; the polls between cost no more than text."""
    if run.measuring_seconds:
        curves.draw(run, "live")
    elif not run.ended:
        st.caption("Curves begin with the first checkpoint, which is measured before the first edit.")
