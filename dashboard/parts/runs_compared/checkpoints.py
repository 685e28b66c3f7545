"""Which checkpoints are read. Until a visitor chooses others, they are the usual ones, which move as runs go on."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd
import streamlit as st

from dashboard.charts import norm_layers
from dashboard.talk import presenter
from dashboard.visitors.widget_state import remembered

ONE, ONE_USUAL = "compare_at", "compare_end"
SEVERAL, SEVERAL_USUAL = "norms_at", "norms_usual_at"
"""In the session state: what is chosen, and what was chosen for the visitor when the page last ran. While both are the
same, the choice follows the usual one."""


# -- one, of the Compare page ------------------------------------------------------------------------------------------


def restore_one(edits: str) -> None:
    """Choose the checkpoint that a link asks for, or the last one."""
    st.session_state[ONE_USUAL] = None
    if edits.isdecimal() and len(edits) < 9:
        st.session_state[ONE] = int(edits)
    else:
        st.session_state.pop(ONE, None)


def pick_one(checkpoints: Sequence[int]) -> int:
    """Pick the checkpoint of the table; at first it stays at the end of runs in progress."""
    end = checkpoints[-1]
    remembered(ONE, end)
    if presenter.plays_over(ONE, checkpoints):
        st.session_state[ONE_USUAL] = None
    follows = st.session_state.get(ONE_USUAL) == st.session_state[ONE]
    st.session_state[ONE] = end if follows else _nearest(st.session_state[ONE], checkpoints)
    st.session_state[ONE_USUAL] = end
    if len(checkpoints) > 1:
        st.select_slider(
            "After … edits",
            list(checkpoints),
            key=ONE,
            persist_state="session",
            format_func=lambda edits: f"{edits:,}",
        )
    return st.session_state[ONE]


def _nearest(at: int, checkpoints: Sequence[int]) -> int:
    """The checkpoint at some edits, or the last one before them, or the first one."""
    return max((point for point in checkpoints if point <= at), default=checkpoints[0])


# -- several, of the page Norm growth ----------------------------------------------------------------------------------


def restore_several(edits: Sequence[str]) -> None:
    """Choose the checkpoints that a link asks for; invalid values are ignored."""
    st.session_state[SEVERAL] = [int(text) for text in edits if text.isdecimal() and len(text) < 9]
    st.session_state[SEVERAL_USUAL] = None


def pick_several(norms: pd.DataFrame) -> list[int]:
    """Pick the checkpoints at which all layers are shown; until others are chosen, the usual ones."""
    there, at_first = sorted(int(at) for at in norms["edits"].unique()), usual(norms)
    chosen = [at for at in remembered(SEVERAL, at_first) if at in there][: norm_layers.MOST_CHECKPOINTS]
    if not chosen or st.session_state.get(SEVERAL_USUAL) == st.session_state[SEVERAL]:
        chosen = at_first
    st.session_state[SEVERAL], st.session_state[SEVERAL_USUAL] = chosen, at_first
    st.multiselect(
        "After … edits",
        there,
        key=SEVERAL,
        max_selections=norm_layers.MOST_CHECKPOINTS,
        persist_state="session",
        format_func=lambda edits: f"{edits:,}" if edits else "0, as loaded",
    )
    return sorted(st.session_state[SEVERAL]) or at_first


def usual(norms: pd.DataFrame) -> list[int]:
    """0, half and all of the edits that every run has reached, or the nearest checkpoints."""
    common = set.intersection(*(set(part["edits"]) for _, part in norms.groupby("run", sort=False)))
    if max(common, default=0) == 0:
        common = set(norms["edits"])
    last = max(common)
    half = min(common, key=lambda at: (abs(at - last / 2), at))
    return sorted({int(min(common)), int(half), int(last)})


def several_of_address(checkpoints: Sequence[int]) -> list[str]:
    """The checkpoints for a link; empty for the usual ones, which move as runs go on."""
    return [str(at) for at in checkpoints] if list(checkpoints) != st.session_state[SEVERAL_USUAL] else []
