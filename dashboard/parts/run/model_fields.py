"""Model, methods and their settings, for new runs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, replace
from typing import Any

import streamlit as st
from streamlit.delta_generator import DeltaGenerator

from dashboard.elements import tuned_for, widgets
from dashboard.reading.run_words import MAIN_METHODS, MOST_COMPARED, method_label
from dashboard.reading.settings_fields import Setting, as_text, settings_read, words_of_sequential
from dashboard.visitors import access
from dashboard.visitors.visitor import Visitor
from dashboard.visitors.widget_state import KEEP, remembered
from encore_core.editing.covariance import BUNDLED
from encore_core.errors import InputError
from encore_core.methods import METHODS, Settings, settings_for
from encore_core.models.device_map import DEVICE_NAMES
from encore_core.models.editable import CATALOGUE, DTYPES, describe_model
from encore_core.tuned_rows import Shape


def pick_model(
    visitor: Visitor, model: DeltaGenerator, methods: DeltaGenerator, more: DeltaGenerator
) -> dict[str, Any] | None:
    """Pick the model and methods with their settings.

    Args:
        visitor: whose loaded model is offered first.
        model, methods: where these two fields go.
        more: where all others go.

    Returns:
        fields of the plans, per method; None on a problem.
    """
    loaded = visitor.lm.name
    with model:
        name = _pick_name(loaded)
    with methods:
        chosen = _pick_methods()
    with more.container(border=True, key="card_model"):
        widgets.heading("Model and methods")
        left, right = st.columns(2)
        remembered("run_device", "auto" if name != loaded else str(visitor.lm.device))
        remembered("run_dtype", "auto" if name != loaded else str(visitor.lm.dtype).removeprefix("torch."))
        devices = list(dict.fromkeys(["auto", *DEVICE_NAMES, str(visitor.lm.device)]))
        device = left.selectbox("Device", devices, key="run_device", accept_new_options=True, **KEEP)
        dtype = right.selectbox("Number format", ["auto", *DTYPES], key="run_dtype", **KEEP)
        shape = _shape(visitor, name, None if dtype == "auto" else dtype, model) if name else None
        with st.expander("Settings of the methods", key="run_settings", on_change="rerun") as opened:
            # Fields are drawn even when it is closed: what was typed in them counts, and its problems show.
            overrides, right_all = _settings(chosen, shape, opened.open)
        statistics = st.session_state.get("run_statistics", "").strip()
        if statistics not in ("", BUNDLED):
            try:
                access.check_files("A text file of this machine")
            except InputError as error:
                widgets.problem(error)
                return None
    if shape is None or not chosen or not right_all:
        return None
    machine = {"device": None if device == "auto" else device, "dtype": None if dtype == "auto" else dtype}
    return {"model": name, "methods": overrides, "statistics_text": statistics or None, **machine}


def _pick_name(loaded: str) -> str:
    remembered("run_model", loaded)
    name = st.selectbox(
        "Model",
        list(dict.fromkeys([loaded, *CATALOGUE])),
        key="run_model",
        accept_new_options=True,
        **KEEP,
        format_func=lambda n: f"{n} · loaded" if n == loaded else n,
        help="A name from the list, or type a folder that holds a transformers model, or a hub id: org/name, "
        "or org/name@revision for one of its branches, tags or commits.",
    )
    name = (name or "").strip()
    if not name:
        widgets.problem("Model is blank: pick a name, or type a folder or a hub id.")
    return name


def _pick_methods() -> list[str]:
    remembered("run_methods", list(MAIN_METHODS))
    st.multiselect(
        "Methods, one run each",
        [*MAIN_METHODS, *(m for m in METHODS if m not in MAIN_METHODS)],
        key="run_methods",
        format_func=method_label,
        max_selections=MOST_COMPARED,
        placeholder="Pick one to four",
        **KEEP,
        help="All of them get the same facts in the same order, with the same seed.",
    )
    if not st.session_state["run_methods"]:
        widgets.problem("No method is picked; pick one to four.")
    return st.session_state["run_methods"]


def _shape(visitor: Visitor, name: str, dtype: str | None, place: DeltaGenerator) -> Shape | None:
    try:
        access.check_model(name)
        return _described(name, dtype)
    except InputError as error:
        with place:
            widgets.problem(error)
        return None


@st.cache_resource(show_spinner=False, max_entries=20, ttl=60)
def _described(name: str, dtype: str | None) -> Shape:
    return describe_model(name, dtype)


def _field(column: Any, setting: Setting, key: str, table: Settings) -> str | None:
    """A field that is empty as long as the model's own value counts."""
    own = as_text(table, setting.name)
    if setting.choices:
        return column.selectbox(
            setting.label, setting.choices, index=None, key=key, help=setting.about, format_func=setting.choice_words,
            placeholder=setting.choice_words(own), **KEEP,
        )  # fmt: skip
    return column.text_input(setting.label, key=key, help=setting.about, placeholder=own, **KEEP)


def _settings(methods: Sequence[str], shape: Shape | None, is_open: bool) -> tuple[dict[str, dict], bool]:
    """Fields that override a method's settings; an empty field means the model's own value, shown in it."""
    overrides: dict[str, dict[str, Any]] = {method: {} for method in methods}
    if shape is None or not methods:
        if is_open:
            st.caption("Appears when a model and a method are picked.")
        return overrides, True
    well = True
    known = asdict(shape)
    for method, tab in zip(methods, st.tabs(list(methods)), strict=True):
        with tab:
            length = tuned_for.pick(method, shape, f"run {method} tuned_for")
            if length != "few":
                overrides[method]["tuned_for"] = length
            table = settings_for(method, **known, overrides=overrides[method])
            search = st.session_state.get(f"run {method} search") or table.search
            columns = st.columns(2)
            for place, setting in enumerate(settings_read([replace(table, search=search)])):
                value = _field(columns[place % 2], setting, f"run {method} {setting.name}", table)
                if (value or "").strip():
                    overrides[method][setting.name] = value.strip()
            key = f"run {method} sequential"
            remembered(key, table.sequential)
            switch, about = words_of_sequential(method)
            if st.toggle(switch, key=key, help=about, **KEEP) != table.sequential:
                overrides[method]["sequential"] = not table.sequential
            try:
                settings_for(method, **known, overrides=overrides[method])
            except InputError as error:
                well = False
                widgets.problem(error)
    remembered("run_statistics", "")
    st.text_input(
        "Text for C0, all methods",
        key="run_statistics",
        **KEEP,
        placeholder="what the Models page gathered, else the bundled sample",
        help='A text file on this machine, from which C0 is taken, or "bundled".',
    )
    return overrides, well
