"""The method of the next edits and its settings, filled with the model's own."""

from __future__ import annotations

from dataclasses import replace

import streamlit as st

from dashboard.elements import tuned_for, widgets
from dashboard.parts.edit import compare_form
from dashboard.parts.edit.compare_form import PAPERS
from dashboard.reading.run_words import method_label
from dashboard.reading.settings_fields import SETTINGS, layers_text, settings_read, used_settings, words_of_sequential
from dashboard.visitors.messages import Message
from dashboard.visitors.visitor import Visitor
from dashboard.visitors.widget_state import remembered
from encore_core.errors import InputError
from encore_core.method_cards import card_of, source_of
from encore_core.methods import METHODS, SETTABLE, Settings, lengths_of
from encore_core.models.settings import settings_of
from encore_core.tuned_rows import TunedFor


def pick_method(visitor: Visitor) -> bool:
    """The card in which the methods and their settings are picked: one to apply, and several to compare.

    Returns:
        whether the one can be applied as it is.
    """
    names = [*PAPERS, *(name for name in METHODS if name not in PAPERS)]
    remembered("method", visitor.session.settings.method)
    remembered("seed", visitor.session.seed)
    with st.container(border=True, key="card_method"):
        widgets.heading("2 · Method")
        method = st.selectbox(
            "Method",
            names,
            key="method",
            format_func=method_label,
            label_visibility="collapsed",
            persist_state="session",
        )
        st.caption(METHODS[method].summary)
        _about(method)
        length = tuned_for.pick(method, visitor.lm.shape, _tuned_key(visitor, method))
        with st.expander("Settings", key="settings_open", on_change="rerun") as opened:
            if opened.open:
                _settings_form(visitor, method, length)
        overrides = _settings_unseen(visitor, method) | _settings_wanted(visitor, method, length)
        try:
            wanted = settings_of(visitor.lm, method, overrides)
        except InputError as error:
            widgets.problem(error)
            compare_form.pick_methods(visitor, None)
            return False
        compare_form.pick_methods(visitor, wanted)
        seed = int(st.session_state["seed"])
        if visitor.comparison is not None or (wanted, seed) == (visitor.session.settings, visitor.session.seed):
            return True
        if not visitor.session.history and not visitor.is_busy:
            visitor.start_over(wanted, seed)
            return True
        _offer_fresh_start(visitor, wanted, seed)
        return False


def _about(method: str) -> None:
    """The method's card: formula, source, what it keeps."""
    card = card_of(method)
    with st.popover("About this method", width="content"):
        st.markdown(card.changes)
        st.code(card.formula, language=None, wrap_lines=True)
        rows = [
            ["Source", source_of(method) or "this program"],
            ["Licence of the authors' code", card.licence],
            ["Kept between batches", card.keeps],
        ]
        widgets.table([("", "name"), (method, "")], [*rows, *([["Notes", card.note]] if card.note else [])], "Card")


def _settings_key(visitor: Visitor, method: str, name: str, length: TunedFor) -> str:
    # Each model and method has its own settings, so looking at another one loses nothing that was typed.
    return f"setting {visitor.lm.fingerprint} {method} {name}{'' if length == 'few' else f' {length}'}"


def _tuned_key(visitor: Visitor, method: str) -> str:
    return _settings_key(visitor, method, "tuned_for", "few")


def _settings_unseen(visitor: Visitor, method: str) -> dict[str, object]:
    """Settings of the edits on the model that the form has no field for: those of loaded edits may be unusual."""
    present = visitor.session.settings
    if not visitor.session.history or method != present.method:
        return {}
    seen = {*(setting.name for setting in used_settings(method)), "sequential"}
    return {name: getattr(present, name) for name in SETTABLE if name not in seen}


def _settings_form(visitor: Visitor, method: str, length: TunedFor) -> None:
    """The settings as fields, filled with the model's until something else is typed."""
    table = settings_of(visitor.lm, method, {"tuned_for": length})
    search = remembered(_settings_key(visitor, method, "search", length), table.search)
    columns = st.columns(2)
    for place, setting in enumerate(settings_read([replace(table, search=search)])):
        column, key = columns[place % 2], _settings_key(visitor, method, setting.name, length)
        remembered(key, _as_typed(table, setting.name))
        if setting.choices:
            column.selectbox(
                setting.label, setting.choices, key=key, help=setting.about, persist_state="session",
                format_func=setting.choice_words,
            )  # fmt: skip
        elif setting.step is None:
            column.text_input(setting.label, key=key, help=setting.about, persist_state="session")
        else:
            column.number_input(
                setting.label, key=key, help=setting.about, step=setting.step, persist_state="session",
                format=None if isinstance(setting.step, int) else "%g",
            )  # fmt: skip
    columns[(place + 1) % 2].number_input(
        "Seed", 0, 2**31 - 1, key="seed", step=1, persist_state="session",
        help="Without effect here: this method samples nothing." if table.from_gradients else
        "For the prefixes sampled before prompts.",
    )  # fmt: skip
    key = _settings_key(visitor, method, "sequential", length)
    remembered(key, table.sequential)
    switch, about = words_of_sequential(method)
    st.toggle(switch, key=key, persist_state="session")
    st.caption(about)
    st.button("Back to the model's own settings", on_click=restore_settings, args=(visitor, table, 0))


def _as_typed(settings: Settings, name: str) -> object:
    """A setting in the form that its field holds."""
    value = getattr(settings, name)
    return layers_text(value) if name == "layers" else value


def _settings_wanted(visitor: Visitor, method: str, length: TunedFor) -> dict[str, object]:
    """What the fields hold, be they in sight or folded away; the model's own value where one is empty."""
    table = settings_of(visitor.lm, method, {"tuned_for": length})
    # Without a choice, edits that were loaded keep what they were made with.
    has_choice = len(lengths_of(visitor.lm.shape, method)) > 1
    wanted: dict[str, object] = {"tuned_for": length} if has_choice else {}
    for name in (*(setting.name for setting in used_settings(method)), "sequential"):
        usual = _as_typed(table, name)
        held = st.session_state.get(_settings_key(visitor, method, name, length), usual)
        wanted[name] = usual if held is None else held
    return wanted


def restore_settings(visitor: Visitor, settings: Settings, seed: int) -> None:
    """Fill the method's card with the given settings."""
    st.session_state["method"], st.session_state["seed"] = settings.method, seed
    # The row may be another machine's.
    length = settings.tuned_for if settings.tuned_for in lengths_of(visitor.lm.shape, settings.method) else "few"
    st.session_state[_tuned_key(visitor, settings.method)] = length
    for name in (*(setting.name for setting in SETTINGS), "sequential"):
        st.session_state[_settings_key(visitor, settings.method, name, length)] = _as_typed(settings, name)


def _offer_fresh_start(visitor: Visitor, wanted: Settings, seed: int) -> None:
    present, n_edits = visitor.session.settings, visitor.session.n_edits
    what = wanted.method if wanted.method != present.method else "the changed settings"
    widgets.notice(
        Message(
            "warning",
            f"The {n_edits} edit{'s' * (n_edits != 1)} on the model {'were' if n_edits != 1 else 'was'} made with "
            f"{present.method}. One set of edits has one method and one set of settings: take the edits back and go on "
            f"with {what}, or keep what is there.",
        )
    )
    left, right = st.columns(2)
    if left.button("Start over", key="start_over", width="stretch", disabled=visitor.is_busy):
        visitor.start_over(wanted, seed)
        visitor.message = Message("info", f"Started over with {wanted.method}. The model is as it was loaded.")
        st.rerun()
    right.button(
        f"Keep {present.method}", key="keep_method", width="stretch", on_click=restore_settings,
        args=(visitor, present, visitor.session.seed),
    )  # fmt: skip
