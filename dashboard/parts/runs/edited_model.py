"""The model with the edits of a run in it, written as a folder of this machine."""

from __future__ import annotations

import streamlit as st

from dashboard.elements import widgets
from dashboard.visitors import access
from dashboard.visitors.messages import Message
from dashboard.visitors.widget_state import remembered
from encore_core.errors import InputError
from encore_core.runs import RunInfo, RunStore
from encore_core.runs.export import export_model
from encore_core.storage import data_folder, named_path


def offer(store: RunStore, run: RunInfo) -> None:
    """Write the edited model as a folder of this machine, where there is one to write."""
    if run.recorded:
        words = "A recorded run comes without its matrices. The command above makes them again."
        widgets.notice(Message("info", words))
        return
    if run.status in ("running", "queued"):
        widgets.notice(Message("info", "The edited model can be written when the run is over, or has been cancelled."))
        return
    if run.status != "done" and not store.states(run.id):
        widgets.notice(Message("info", "No state of this run was saved, so there is no edited model to write."))
        return
    edits = run.done if run.status == "done" else run.cursor
    st.caption(f"An ordinary transformers folder with the {edits:,} edits in it, loaded again and checked.")
    key = f"folder of {run.id}"
    remembered(key, str(data_folder() / "exports" / run.id))
    folder = st.text_input("Folder on this machine, new or empty", key=key)
    if not st.button("Write the model", icon=":material/save:", key="record_export"):
        return
    place = st.empty()
    try:
        if not folder.strip():
            raise InputError("The folder is blank; give one that is new or empty.")
        access.check_start()
        access.check_files("A folder of this machine")
        target = named_path(folder.strip())
        edits = export_model(
            store, run.id, target, lambda what, share: place.progress(min(1.0, max(0.0, share)), text=f"{what} …")
        )
    except InputError as error:
        place.empty()
        widgets.problem(error)
        return
    place.empty()
    widgets.notice(Message("success", f"Written to {target}, with {edits:,} edits."))
