"""Files of a run: its series as CSV, one or all, and its settings as JSON."""

from __future__ import annotations

import io
import json
import zipfile

import streamlit as st

from encore_core.runs import RunInfo, RunStore, series
from encore_core.runs.export import series_csv, settings_of_run

SERIES = {
    "norms": "norms of all layers",
    "scores": "scores of facts",
    "fact_scores": "scores, fact by fact",
    "scored": "which facts were scored",
    "answers": "generated answers, text by text",
    "measures": "perplexity, generation entropy, estimated damage",
    "contributions": "residual stream",
    "downstream": "downstream tasks",
    "task_answers": "downstream tasks, answer by answer",
    "checkpoints": "checkpoints",
    "measuring": "time spent measuring",
    "timings": "time spent editing",
    "memory": "memory",
    "targets": "targets, fact by fact",
    "trajectories": "targets, step by step",
}


def offer(store: RunStore, run: RunInfo) -> None:
    """The buttons, each of which makes its file when it is pressed."""
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
