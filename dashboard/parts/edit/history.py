"""The edits on the model: batch by batch, and as a file to keep or to load."""

from __future__ import annotations

import streamlit as st

from dashboard.elements import widgets
from dashboard.parts.edit import files
from dashboard.reading import fact_words
from dashboard.visitors.messages import Message
from dashboard.visitors.visitor import Visitor
from encore_core.editing.batch_report import BY_GRADIENT, EditedFact
from encore_core.editing.edit_file import keeps_history
from encore_core.errors import InputError
from encore_core.facts import MAX_BYTES
from encore_core.methods import GRADIENTS, Settings

_WAS_OPENED = "edits file was opened"  # in the session state


def batches(visitor: Visitor) -> None:
    """What was done batch by batch, the last one first."""
    applied = visitor.session.history
    if not applied:
        return
    with st.expander("Batch by batch: steps and time", key="batches_open"):
        if left := visitor.session.directions_left():
            st.caption(f"{left}.")
        rows = []
        for number, batch in reversed(list(enumerate(applied, start=1))):
            seconds = f"{sum(batch.report.seconds.values()):.1f} s"
            if batch.is_retraction:
                gone = ", ".join(fact_words.short(one.fact) for one in batch.report.retracted)
                rows.append((number, f"taken back: {gone}", "–", "–", seconds))
                continue
            edited = [item for item in batch.report.edited if item.is_edited]
            first = edited[0].fact
            what = fact_words.short(first) + (f" and {len(edited) - 1} more" if edited[1:] else "")
            steps = sorted(item.steps for item in edited)
            stops = sorted({stop_word(item, visitor.session.settings) for item in edited})
            rows.append(
                (
                    number,
                    what,
                    str(steps[0]) if steps[0] == steps[-1] else f"{steps[0]}–{steps[-1]}",
                    ", ".join(stops),
                    seconds,
                )
            )
        columns = [("#", "right"), ("Facts", ""), ("Steps", "right"), ("Stopped by", ""), ("Time", "right")]
        widgets.table(columns, rows[:50], "Batches on the model, the last one first")
        if len(rows) > 50:
            st.caption(f"and {len(rows) - 50} earlier ones")


def saved_edits(visitor: Visitor) -> None:
    """Edits as a file: those on the model to keep, and kept ones to put back onto it."""
    n_edits, busy = visitor.session.n_edits, visitor.is_busy
    with st.expander("Edits as a file", key="edits_file", on_change="rerun") as opened:
        # Drawn at the first opening, and from then on: a file that was given stays when the box is folded away.
        if not (opened.open or st.session_state.get(_WAS_OPENED)):
            return
        st.session_state[_WAS_OPENED] = True
        if visitor.session.history:
            st.download_button(
                "Download the edits", lambda: files.as_bytes(visitor.session), files.NAME,
                "application/octet-stream", on_click="ignore", width="stretch", disabled=busy, key="edits_download",
            )  # fmt: skip
            if not keeps_history(visitor.session):
                st.caption(
                    "This many edits are kept only as edited matrices: encore apply puts them onto the model, but "
                    "they cannot be loaded here again."
                )
        upload = st.file_uploader(
            "An edit file made on this model, here or by encore edit --edits-out",
            # Only a new key empties the box once a file has been loaded.
            key=f"edits_upload {st.session_state.get('edits_loaded', 0)}",
            max_upload_size=MAX_BYTES // 1_000_000,
        )
        if upload is not None and n_edits:
            these = f"the {n_edits} edits" if n_edits != 1 else "the edit"
            widgets.notice(Message("warning", f"Loading replaces {these} on your model."))
        # Not a callback, as for Undo: it may have to wait in line.
        if st.button("Load edits", key="edits_load", width="stretch", disabled=busy or upload is None):
            _load_edits(visitor, upload.getvalue())


def _load_edits(visitor: Visitor, uploaded: bytes) -> None:
    visitor.left_line = False
    try:
        with st.spinner("Putting the edits onto the model …"):
            visitor.load(files.session_of(uploaded, visitor.lm))
    except InputError as error:
        visitor.message = Message("error", str(error))
    else:
        st.session_state["edits_loaded"] = st.session_state.get("edits_loaded", 0) + 1
        st.session_state["edits_just_loaded"] = True
    st.rerun()


def stop_word(item: EditedFact, settings: Settings) -> str:
    """Why a fact's search stopped, or its batch's steps along gradients, in a word or two."""
    if item.stopped == BY_GRADIENT:
        if settings.preservation in GRADIENTS:
            return "one step"
        return "low loss" if item.passes < settings.steps else "last pass"
    return {"mpes": "MPES", "loss": "low loss", "steps": "last step"}.get(item.stopped, item.stopped)
