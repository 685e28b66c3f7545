"""Scale and layers of charts of norms: the same controls, and the same names in links, on every page that has them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pandas as pd
import streamlit as st

from dashboard.visitors.widget_state import remembered
from encore_core.runs import RunInfo

SCALES = {"ratio": "‖W‖ / ‖W₀‖", "linear": "‖W‖", "log": "‖W‖, log"}
LAYERS = {"edited": "edited layers", "last": "last edited", "all": "all layers", "some": "choose"}
"""What can be chosen, the usual one first."""


def restore(page: str, asked: Mapping[str, Sequence[str]]) -> None:
    """Set a page's controls to what a link asks for (`scale=`, `layers=`, `layer=`), or to what is usual."""
    for name, choices in (("scale", SCALES), ("layers", LAYERS)):
        wanted = next(iter(asked.get(name, ())), None)
        st.session_state[f"{page}_{name}"] = wanted if wanted in choices else next(iter(choices))
    if "layer" in asked:
        st.session_state[f"{page}_layer"] = [int(text) for text in asked["layer"] if text.isdecimal() and len(text) < 7]


def pick(page: str, runs: Sequence[RunInfo], norms: pd.DataFrame) -> tuple[str, list[int] | None]:
    """Pick the scale and the layers to draw: None for each run's edited ones, which are also drawn if none is chosen.

    Args:
        page: names it; the controls' keys begin with it.
        runs: those shown.
        norms: has a column `layer` with all layers there are.
    """
    remembered(f"{page}_scale", next(iter(SCALES)))
    remembered(f"{page}_layers", next(iter(LAYERS)))
    with st.container(horizontal=True, key=f"{page}_controls"):
        keep = {"required": True, "persist_state": "session"}
        scale = st.segmented_control("Scale", list(SCALES), key=f"{page}_scale", format_func=SCALES.get, **keep)
        how = st.segmented_control("Layers", list(LAYERS), key=f"{page}_layers", format_func=LAYERS.get, **keep)
    there = sorted(int(layer) for layer in norms["layer"].unique())
    last_edited = sorted({max(run.layers) for run in runs if run.layers})
    chosen = {"last": last_edited, "all": there}.get(how)
    return scale, _chosen_one_by_one(f"{page}_layer", there, last_edited) if how == "some" else chosen


def _chosen_one_by_one(key: str, there: list[int], at_first: list[int]) -> list[int] | None:
    remembered(key, at_first)
    st.session_state[key] = [layer for layer in st.session_state[key] if layer in there]
    chosen = st.multiselect(
        "Layers", there, key=key, persist_state="session", format_func=lambda layer: f"layer {layer}"
    )
    return sorted(chosen) or None


def view(page: str) -> dict[str, str | list[str]]:
    """The query of a link to the scale and layers."""
    shown = st.session_state
    some = shown.get(f"{page}_layer", ()) if shown[f"{page}_layers"] == "some" else ()
    return {
        "scale": shown[f"{page}_scale"],
        "layers": shown[f"{page}_layers"],
        "layer": [str(layer) for layer in some],
    }
