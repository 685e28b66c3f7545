"""Which model the Models page is about, and the check of it."""

from __future__ import annotations

import streamlit as st

from dashboard.elements import widgets
from dashboard.visitors.widget_state import KEEP, remembered
from encore_core.editing import stored_statistics
from encore_core.model_check import ModelCheck, check_model
from encore_core.models.catalogue import CATALOGUE, is_ready
from encore_core.models.device_map import DEVICE_NAMES, DTYPES
from encore_core.storage import data_folder


def pick() -> tuple[str, str | None, str | None]:
    """Model, device and number format; the name is blank when nothing is picked."""
    visitor = st.session_state.get("visitor")
    loaded = visitor.lm.name if visitor is not None else None
    ready = [name for name in CATALOGUE if is_ready(name)]
    typed = remembered("models_name", loaded or next(iter(ready), None))
    known = [one.name for one in stored_statistics.known_models() if one.name]
    names = list(dict.fromkeys(name for name in (loaded, *CATALOGUE, *known, typed) if name))
    with st.container(border=True, key="card_pick"):
        left, middle, right = st.columns([3, 1, 1], vertical_alignment="bottom")
        name = left.selectbox(
            "Model",
            names,
            key="models_name",
            accept_new_options=True,
            placeholder="Pick one, or type a folder or a hub id",
            help="A name from the list, or type a folder that holds a transformers model, or a hub id: org/name, or "
            "org/name@revision for one of its branches, tags or commits.",
            **KEEP,
        )
        device = middle.selectbox("Device", ["auto", *DEVICE_NAMES], key="models_device", **KEEP)
        dtype = right.selectbox("Number format", ["auto", *DTYPES], key="models_dtype", **KEEP)
    return (name or "").strip(), None if device == "auto" else device, None if dtype == "auto" else dtype


def catalogue() -> None:
    """What is known by name, for those who have not picked yet."""
    rows = [
        (
            entry.name,
            f"{entry.parameters:,} M",
            ("✓ ready", "good") if is_ready(entry.name) else "embedded" if entry.embedded else "from the hub",
            entry.licence,
        )
        for entry in CATALOGUE.values()
    ]
    columns = [("Model", "name"), ("Parameters", "right"), ("", ""), ("Licence", "about")]
    with st.container(border=True, key="card_catalogue"):
        widgets.heading("Models known by name", "any folder or hub id of a decoder may be typed above")
        widgets.table(columns, rows, "Models known by name")


@st.cache_resource(show_spinner="Looking through its files …", max_entries=20, ttl=60)
def checked(name: str, device: str | None, dtype: str | None, stamp: tuple[object, ...]) -> ModelCheck:
    """The check of a model; `stamp` changes with its statistics, and with rows that were tuned."""
    return check_model(name, device, dtype)


def stamp_of(name: str) -> tuple[object, ...]:
    """What changes when statistics of a model come, go, or are chosen, and when hyper-parameters are found."""
    key = stored_statistics.key_of(name)
    there = stored_statistics.stored(key) if key else []
    rows = sorted((str(file), file.stat().st_mtime_ns) for file in (data_folder() / "tuned").glob("*/*.json"))
    return (*((one.file.name, one.made, one.chosen) for one in there), *rows)
