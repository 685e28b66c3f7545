"""The reader's fact: a subject, a prompt and an answer, the same on every step, and in the page's link."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import streamlit as st

from dashboard.elements import widgets
from dashboard.server import limits
from dashboard.visitors.widget_state import remembered
from encore_core.errors import InputError
from encore_core.facts import Fact

FIELDS = {"subject": "France", "prompt": "The capital of {} is", "answer": "Rome"}
"""Field → its value at first."""

LONGEST = 300
LABELS = {"subject": "Subject", "prompt": "Prompt, with {} for the subject", "answer": "New answer"}


def restore(asked: Mapping[str, Sequence[str]]) -> None:
    """Take over what a link says of the fact; fields that it leaves out are as at first."""
    if any(name in asked for name in FIELDS):
        for name, usual in FIELDS.items():
            st.session_state[f"learn_{name}"] = next(iter(asked.get(name, ())), usual)[:LONGEST]


def view() -> dict[str, str]:
    """What a link says of the fact: nothing, where it is the one at first."""
    values = {name: st.session_state.get(f"learn_{name}") or "" for name in FIELDS}
    return {} if values == FIELDS else values


def pick() -> Fact | None:
    """The fields, and the fact as a sentence; None with one line on what is wrong with it."""
    for name, usual in FIELDS.items():
        remembered(f"learn_{name}", usual)
    for column, (name, words) in zip(st.columns([2, 4, 2]), LABELS.items(), strict=True):
        column.text_input(words, key=f"learn_{name}", max_chars=LONGEST, persist_state="session")
    try:
        fact = current()
    except InputError as error:
        widgets.problem(error)
        return None
    widgets.sentence(fact)
    return fact


def current() -> Fact:
    """The fact as typed.

    Raises:
        InputError: naming the field and what is wrong with it, or the limit of this server that it goes beyond.
    """
    values = {name: st.session_state.get(f"learn_{name}", usual) or "" for name, usual in FIELDS.items()}
    fact = Fact(subject=values["subject"], prompt=values["prompt"], target_new=values["answer"])
    limits.check_fact(fact)
    return fact
