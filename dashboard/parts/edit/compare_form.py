"""Which methods a comparison takes: the paper's four, any other row, or the same one twice with other settings."""

from __future__ import annotations

import json
from collections.abc import Mapping

import streamlit as st

from dashboard.elements import widgets
from dashboard.reading.run_words import method_label
from dashboard.reading.settings_fields import layers_text
from dashboard.visitors.comparison import MOST_COLUMNS
from dashboard.visitors.messages import Message
from dashboard.visitors.visitor import Visitor
from dashboard.visitors.widget_state import remembered
from encore_core.editing.comparison import Arm
from encore_core.errors import InputError
from encore_core.methods import METHODS, SETTABLE, Settings, check_names
from encore_core.models.settings import settings_of
from encore_core.setting_values import converted

PAPERS = ("ENCORE", "MEMIT", "EMMET", "AlphaEdit")

MOST_LAYERS = 1000
"""An address may name a layer below it; whether the model has it is seen when it is edited."""

_PICKED, _OWN = "methods compared", "own columns"


def pick_methods(visitor: Visitor, wanted: Settings | None) -> None:
    """The picker of what is compared.

    Args:
        visitor: whose model decides what differs from its own settings.
        wanted: what the card of the method holds now; None where it cannot be used.
    """
    remembered(_PICKED, list(PAPERS))
    own: dict[str, Arm] = remembered(_OWN, {})
    options = [*PAPERS, *(name for name in METHODS if name not in PAPERS), *own]
    # A label of an arm that another visit has dropped would be refused by the widget.
    st.session_state[_PICKED] = [label for label in st.session_state[_PICKED] if label in options]
    picked = st.session_state[_PICKED]
    names = widgets.plain(", ".join(picked)) or "nothing picked"
    # Without on_change: with it, a box whose heading changes is another one, and closed.
    with st.expander(f"Compare: {names}", key="compare_open"):
        st.multiselect(
            f"Methods side by side, 2 to {MOST_COLUMNS}", options, key=_PICKED, max_selections=MOST_COLUMNS,
            format_func=method_label,
            persist_state="session",
        )  # fmt: skip
        arm = None if wanted is None else _arm_of(visitor, wanted)
        st.button(
            f"Add {wanted.method} as it is set above" if wanted else "Add the method as it is set above",
            key="add_column", width="stretch", on_click=_add, args=(arm,),
            disabled=arm is None or arm.label in picked or len(picked) >= MOST_COLUMNS,
            help="The same method twice: once with the model's own settings, once with yours.",
        )  # fmt: skip
        if len(picked) < 2:
            widgets.notice(Message("info", "Pick at least two methods to compare."))


def _arm_of(visitor: Visitor, wanted: Settings) -> Arm | None:
    """The method of the card as a column of its own; None where its settings are the model's."""
    table = settings_of(visitor.lm, wanted.method)
    settings = {name: getattr(wanted, name) for name in SETTABLE if getattr(wanted, name) != getattr(table, name)}
    return _labelled(wanted.method, settings) if settings else None


def _shown(value: object) -> str:
    if isinstance(value, bool):
        return "on" if value else "off"
    return layers_text(value) if isinstance(value, tuple) else f"{value}"


def _add(arm: Arm) -> None:
    st.session_state[_OWN] = {**st.session_state[_OWN], arm.label: arm}
    st.session_state[_PICKED] = [*st.session_state[_PICKED], arm.label][:MOST_COLUMNS]


def arms() -> list[Arm]:
    """The methods that are picked."""
    own = st.session_state.get(_OWN, {})
    return [own.get(label) or Arm(label) for label in st.session_state.get(_PICKED, PAPERS)]


# -- in an address -----------------------------------------------------------------------------------------------------


def as_text(arms: list[Arm]) -> str:
    """The methods for an address; "" for the paper's four."""
    if [arm.label or arm.method for arm in arms] == list(PAPERS):
        return ""
    return ",".join(
        ";".join([arm.method, *(f"{name}={_value_text(value)}" for name, value in arm.settings.items())])
        for arm in arms
    )


def _value_text(value: object) -> str:
    return "-".join(map(str, value)) if isinstance(value, tuple) else json.dumps(value)


def restore(text: str) -> None:
    """Take the methods that an address names, or the paper's four; what is no method, or no setting, is left out."""
    found: dict[str, Arm] = {}
    for part in text.split(","):
        arm = _arm_in(part)
        if arm is not None and len(found) < MOST_COLUMNS:
            found.setdefault(arm.label, arm)
    st.session_state[_PICKED] = list(found) or list(PAPERS)
    own = {label: arm for label, arm in found.items() if arm.settings}
    st.session_state[_OWN] = st.session_state.get(_OWN, {}) | own


def _arm_in(text: str) -> Arm | None:
    method, *pairs = text.split(";")
    if method not in METHODS:
        return None
    settings: dict[str, object] = {}
    for pair in pairs:
        name, _, value = pair.partition("=")
        try:
            check_names([name])
            wanted = tuple(map(int, value.split("-"))) if name == "layers" else json.loads(value)
            settings[name] = converted(name, wanted, MOST_LAYERS)
        except (InputError, ValueError):
            return None
    return _labelled(method, settings)


def _labelled(method: str, settings: Mapping[str, object]) -> Arm:
    said = ", ".join(f"{name} {_shown(value)}" for name, value in settings.items())
    return Arm(method, settings, f"{method}, {said}" if said else method)
