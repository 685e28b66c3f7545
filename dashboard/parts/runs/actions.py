"""What can be done with a run: stop it or go on, rename it, link to it, compare it, delete it."""

from __future__ import annotations

from collections.abc import Sequence

import streamlit as st

from dashboard import links
from dashboard.elements import widgets
from dashboard.parts.run import live
from dashboard.visitors.messages import Message
from encore_core.runs import RunInfo, RunStore


def offer(store: RunStore, run: RunInfo, runs: Sequence[RunInfo]) -> None:
    """The buttons, and the question before a run is deleted; `runs` are those it may be compared with."""
    with st.container(horizontal=True, vertical_alignment="center", key="record_actions"):
        live.steer(store, run, "record")
        if not run.recorded:
            _rename_fields(store, run)
        with st.popover("Link", icon=":material/link:", key="record_link"):
            st.code(links.address({"run": run.id}), language=None, wrap_lines=True)
        live.compare_link(run, runs)
        if run.status != "running" and not run.recorded:
            st.button("Delete", icon=":material/delete:", key="record_delete", on_click=_ask, args=(run.id,))
    if st.session_state.get("delete_asked") == run.id and run.status != "running":
        widgets.notice(
            Message(
                "warning",
                f"Delete {run.id} with its {run.done:,} edits, its series and its files? This cannot be undone.",
            )
        )
        with st.container(horizontal=True):
            st.button(
                "Delete it for good",
                type="primary",
                key="delete_yes",
                on_click=live.attempt,
                args=(_delete, store, run.id),
            )
            st.button("Keep it", key="delete_no", on_click=_ask, args=(None,))


def _rename_fields(store: RunStore, run: RunInfo) -> None:
    with st.popover("Rename or tag", icon=":material/edit:", key="record_rename"):
        # Each run has its own fields, so that what was typed for one does not show up at another.
        name_key, tags_key = f"name of {run.id}", f"tags of {run.id}"
        _fill(name_key, run.name)
        _fill(tags_key, ", ".join(run.tags))
        st.text_input("Name", key=name_key)
        st.text_input("Tags", key=tags_key, placeholder="lecture, week 3", help="Separated by commas.")
        st.button("Save", key="record_save", on_click=_rename, args=(store, run.id, name_key, tags_key))


def _ask(run_id: str | None) -> None:
    st.session_state["delete_asked"] = run_id


def _delete(store: RunStore, run_id: str) -> Message:
    st.session_state["delete_asked"] = None
    store.delete(run_id)
    return Message("success", f"{run_id} is deleted.")


def _fill(key: str, stored: str) -> None:
    """Fill a field with what is stored, until something else is typed there."""
    if key not in st.session_state or not _is_typed(key):
        st.session_state[key] = st.session_state[_filled(key)] = stored


def _filled(key: str) -> str:
    return f"{key}, as stored"


def _is_typed(key: str) -> bool:
    return st.session_state[key] != st.session_state.get(_filled(key))


def _rename(store: RunStore, run_id: str, name_key: str, tags_key: str) -> None:
    """Save what was typed for name and tags; the other one may have been changed by somebody else meanwhile."""
    tags = [word.strip() for word in st.session_state[tags_key].split(",") if word.strip()]

    def save(store: RunStore, run_id: str) -> Message:
        if _is_typed(name_key):
            store.rename(run_id, st.session_state[name_key])
            st.session_state[_filled(name_key)] = st.session_state[name_key]
        if _is_typed(tags_key):
            store.tag(run_id, tags)
            st.session_state[_filled(tags_key)] = st.session_state[tags_key]
        return Message("success", f"{run_id} is renamed and tagged.")

    live.attempt(save, store, run_id)
