"""Which runs are there, how do I share one? A searchable table of all runs, and the record of each."""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Sequence

import pandas as pd
import streamlit as st

from dashboard import links, page_list
from dashboard.elements import widgets
from dashboard.parts.run import live
from dashboard.reading import run_frames
from dashboard.reading.run_words import (
    STATUS,
    duration,
    label,
    left_out,
    moment,
    seconds_an_edit,
    short_model,
    status_line,
)
from dashboard.visitors import access
from dashboard.visitors.messages import Message
from dashboard.visitors.session_state import remembered
from encore_core.errors import InputError
from encore_core.runs import RunInfo, RunStore, series
from encore_core.runs.export import command_line, export_model, series_csv, settings_of_run
from encore_core.storage import data_folder, named_path

SERIES = {
    "norms": "norms of all layers",
    "scores": "scores of facts",
    "measures": "perplexity, generation entropy",
    "contributions": "residual stream",
    "downstream": "downstream tasks",
    "checkpoints": "checkpoints",
    "measuring": "time spent measuring",
    "timings": "time spent editing",
    "memory": "memory",
    "targets": "targets, fact by fact",
    "trajectories": "targets, step by step",
}
POLL_SECONDS = 2.0
ROW = 37  # height of a row of the table in pixels


# -- all runs ----------------------------------------------------------------------------------------------------------


def table(runs: Sequence[RunInfo]) -> None:
    """All runs; a click on a row opens it."""
    frame = pd.DataFrame(
        {
            "Status": [status_line(run) for run in runs],
            "Method": [run.method for run in runs],
            "Name": [run.name for run in runs],
            "Model": [short_model(run.model) for run in runs],
            "Edits": [f"{run.done:,} of {run.n_edits:,}" for run in runs],
            "Started": [moment(run.started or run.created) for run in runs],
            "Took": [duration(run.editing_seconds + run.measuring_seconds) for run in runs],
            "Tags": [", ".join(run.tags) for run in runs],
            "Id": [run.id for run in runs],
        }
    )
    st.dataframe(
        frame,
        hide_index=True,
        key="runs_table",
        selection_mode="single-row",
        on_select=_open_selected,
        row_height=ROW,
        height=min(ROW * (len(runs) + 1) + 4, 440),
        alt="All runs; the box below opens one, too.",
    )
    st.session_state["runs_listed"] = [run.id for run in runs]


def _open_selected() -> None:
    chosen = st.session_state["runs_table"]["selection"]["rows"]
    listed = st.session_state.get("runs_listed", [])
    if chosen and chosen[0] < len(listed):
        st.session_state["opened_run"] = listed[chosen[0]]


# -- one run -----------------------------------------------------------------------------------------------------------


def record(store: RunStore, run: RunInfo, runs: Sequence[RunInfo]) -> None:
    """Everything about a run, and what can be done with it."""
    with st.container(border=True, key="card_record"):
        widgets.heading(label(run), f"queued {moment(run.created)}")
        _head(run)
        _actions(store, run, runs)
        names = ["Settings", "Notices and log", "Downloads", "Edited model"]
        settings, told, downloads, model = st.tabs(names, key="record_tabs", on_change="rerun")
        if settings.open:
            with settings:
                _settings(run)
        if told.open:
            with told:
                _told(store, run)
        if downloads.open:
            with downloads:
                _downloads(store, run)
        if model.open:
            with model:
                _model(store, run)


def _head(run: RunInfo) -> None:
    symbol, word, tone = STATUS[run.status]
    seconds = run_frames.seconds_of_edits(run)
    per_edit = f"{seconds_an_edit(seconds)} s an edit (median)" if seconds is not None else ""
    widgets.tiles(
        [
            (
                "Status",
                f"{symbol}\u00a0{word}",
                live.doing(run) or f"since {moment(run.finished or run.created)}",
                tone,
            ),
            (
                "Edits",
                f"{run.done:,}",
                f"of {run.n_edits:,}" + (f", {run.skipped:,} skipped" if run.skipped else ""),
                "",
            ),
            ("Editing", duration(run.editing_seconds), per_edit, ""),
            ("Measuring", duration(run.measuring_seconds), "at checkpoints", ""),
        ]
    )
    if run.stop and run.status == "running":
        widgets.notice(Message("info", "The worker has been told to stop; it does so within the batch it is at."))
    if run.error:
        widgets.notice(Message("error" if run.status == "failed" else "warning", run.error))
    try:
        command = command_line(run.plan)
    except InputError as error:  # a plan that another version wrote
        widgets.notice(Message("warning", str(error)))
        return
    st.caption("The command that repeats it")
    st.code(command, language=None, wrap_lines=True)


def _actions(store: RunStore, run: RunInfo, runs: Sequence[RunInfo]) -> None:
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
                f"Delete {run.id} with its {run.done:,} edits, its series and its files? This cannot be taken back.",
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
        # A run has fields of its own, so that what was typed for one does not show up at another.
        name_key, tags_key = f"name of {run.id}", f"tags of {run.id}"
        remembered(name_key, run.name)
        remembered(tags_key, ", ".join(run.tags))
        st.text_input("Name", key=name_key)
        st.text_input("Tags", key=tags_key, placeholder="lecture, week 3", help="Words between commas.")
        st.button("Save", key="record_save", on_click=_rename, args=(store, run.id, name_key, tags_key))


def _ask(run_id: str | None) -> None:
    st.session_state["delete_asked"] = run_id


def _delete(store: RunStore, run_id: str) -> Message:
    st.session_state["delete_asked"] = None
    store.delete(run_id)
    return Message("success", f"{run_id} is deleted.")


def _rename(store: RunStore, run_id: str, name_key: str, tags_key: str) -> None:
    tags = [word.strip() for word in st.session_state[tags_key].split(",") if word.strip()]

    def save(store: RunStore, run_id: str) -> Message:
        store.rename(run_id, st.session_state[name_key])
        store.tag(run_id, tags)
        return Message("success", f"{run_id} is renamed and tagged.")

    live.attempt(save, store, run_id)


def _settings(run: RunInfo) -> None:
    plan, measure = dict(run.plan_json), run.plan_json.get("measure") or {}
    rows = [(name, _shown(value)) for name, value in run.settings.items()]
    rows += [
        (name, _shown(plan.get(name)))
        for name in (
            "model",
            "facts",
            "n_edits",
            "batch_size",
            "checkpoint_every",
            "order",
            "seed",
            "known",
            "device",
            "dtype",
        )
    ]
    rows += [(f"measured: {name}", _shown(value)) for name, value in dict(measure).items()]
    rows += [
        ("facts digest", run.facts_digest),
        ("order digest", run.order_digest),
        ("statistics", run.key_statistics),
        ("in front of every text", run.in_front),
        ("model fingerprint", _shown(run.fingerprint)),
        ("threads", _shown(run.threads)),
        ("commit", _shown(run.commit)),
        ("digest of the edited matrices", _shown(run.weights_digest)),
    ]
    rows += [(f"version of {name}", _shown(value)) for name, value in run.versions.items()]
    widgets.table([("Setting", ""), ("Value", "")], rows, f"Settings of {run.id}")


def _shown(value: object) -> str:
    return ", ".join(map(str, value)) if isinstance(value, list | tuple) else "–" if value is None else str(value)


def _told(store: RunStore, run: RunInfo) -> None:
    if run.notices:
        widgets.notice(Message("info", "\n".join(run.notices)))
    lines = left_out([str(text) for text in run_frames.read("checkpoints", [run])["left_out"]])
    if lines:
        widgets.notice(Message("info", "\n".join(lines)))
    st.caption("The last lines of its log")
    text = store.read_log(run.id, 100)
    st.code(text or "Nothing has been logged yet.", language=None, height=380, wrap_lines=True)


def _downloads(store: RunStore, run: RunInfo) -> None:
    with st.container(horizontal=True, vertical_alignment="bottom"):
        name = st.selectbox("Series", list(SERIES), key="record_series", format_func=SERIES.get, width=320)
        st.download_button(
            "CSV",
            lambda: series_csv(store, name, [run.id]),
            f"{run.id}-{name}.csv",
            "text/csv",
            on_click="ignore",
            icon=":material/download:",
            key="record_csv",
        )
        st.download_button(
            "All series, zipped CSV",
            lambda: zipped(store, run),
            f"{run.id}.zip",
            "application/zip",
            on_click="ignore",
            icon=":material/folder_zip:",
            key="record_zip",
        )
        st.download_button(
            "Settings, JSON",
            lambda: settings_file(run),
            f"{run.id}.json",
            "application/json",
            on_click="ignore",
            icon=":material/data_object:",
            key="record_json",
        )
    st.caption("Charts as PNG or SVG, and a report as one HTML file: on the Compare page.")


def settings_file(run: RunInfo) -> bytes:
    """The settings of a run, and the command that repeats it, as JSON."""
    return json.dumps(settings_of_run(run), indent=1, ensure_ascii=False).encode()


def zipped(store: RunStore, run: RunInfo) -> bytes:
    """Every series of a run as CSV, and its settings, in a zip file."""
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as archive:
        for name in series.ALL:
            archive.writestr(f"{run.id}/{name}.csv", series_csv(store, name, [run.id]))
        archive.writestr(f"{run.id}/run.json", settings_file(run))
    return stream.getvalue()


def _model(store: RunStore, run: RunInfo) -> None:
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


# -- the page ----------------------------------------------------------------------------------------------------------


@st.fragment(run_every=POLL_SECONDS)
def follow(shown: list[tuple[object, ...]]) -> None:
    """Draw the page anew when a run that goes on has come further."""
    try:
        now = [_stand(run) for run in run_frames.all_runs()]
    except InputError:
        return  # the page says so when it is drawn the next time
    if now != shown:
        st.rerun()


def _stand(run: RunInfo) -> tuple[object, ...]:
    return run.id, run.status, run.done, run.stop, run.position, run.name, run.tags


def main() -> None:
    st.title(page_list.question("runs"), anchor=False)
    try:
        runs = run_frames.all_runs()
    except InputError as error:
        widgets.problem(error)
        return
    widgets.notice(st.session_state.pop("run_message", None))
    asked = links.opened("runs")
    if asked is not None and asked.get("run"):
        st.session_state["opened_run"] = asked["run"][0]
        st.session_state["runs_search"] = ""
    if not runs:
        widgets.notice(Message("info", "There is no run yet. Start some on the Run page, or with `encore run`."))
        return
    known = {run.id: run for run in runs}
    opened = st.session_state.get("opened_run")
    if opened is not None and opened not in known:
        widgets.notice(Message("warning", f"There is no run {opened} in this store; it may have been deleted."))
        st.session_state["opened_run"] = None
    remembered("runs_search", "")
    search = st.text_input(
        "Search",
        key="runs_search",
        placeholder="words of name, method, model, tag, status or id",
        icon=":material/search:",
        live=True,
        persist_state="session",
    )
    found = run_frames.all_runs(search) if search.strip() else runs
    if found:
        table(found)
    else:
        widgets.notice(Message("info", f"No run has all of these words: {search}"))
    st.caption(f"{len(found)} of {len(runs)} runs" if len(found) < len(runs) else f"{len(runs)} runs")
    st.selectbox(
        "Open a run",
        list(known),
        key="opened_run",
        format_func=lambda run: label(known[run]),
        index=None,
        placeholder="Pick one here, or click its row above",
        persist_state="session",
    )
    opened = st.session_state["opened_run"]
    if opened is not None:
        try:
            opened_run = known[opened]
            store = run_frames.store_of(opened_run)
            record(store, store.get(opened), runs)
        except InputError as error:  # deleted in another tab, between the lines above
            widgets.problem(error)
    links.write("runs", {"run": opened or ""})
    if not all(run.ended for run in runs):
        follow([_stand(run) for run in runs])


main()
