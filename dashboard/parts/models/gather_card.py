"""Gathering key statistics: from which text, for which layers, what that costs, and Start."""

from __future__ import annotations

import re

import streamlit as st

from dashboard.elements import widgets
from dashboard.parts.models.jobs_card import attempt
from dashboard.reading import model_check_rows
from dashboard.visitors import access
from dashboard.visitors.messages import Message
from dashboard.visitors.widget_state import KEEP, remembered
from encore_core.errors import InputError
from encore_core.model_check import ModelCheck
from encore_core.models.device_map import choose_device
from encore_core.statistics import jobs
from encore_core.statistics.convergence import TOLERANCE
from encore_core.statistics.cost import shortages
from encore_core.statistics.request import Request
from encore_core.statistics.texts import SAMPLED, SOURCES, check_source

ABOUT = {
    "wikitext": "Wikipedia paragraphs (wikitext-103) from the hub, fetched once.",
    "wikipedia": "Beginnings of English Wikipedia articles from the hub, fetched once.",
    "sampled": "The model's own continuations of single words. Needs no text, and takes several times as long.",
    "bundled": "The text that comes with the program, sampled from the embedded model.",
}


def gather(check: ModelCheck, device: str | None, dtype: str | None) -> None:
    """What to gather, what that costs, and Start."""
    with st.container(border=True, key="card_gather"):
        widgets.heading("Gather statistics", "a process of its own; closing this page does not stop it")
        source, layers_text, tokens, enough = _fields(check)
        if source in ABOUT:
            st.caption(ABOUT[source])
        request = _request(check, source, layers_text, tokens, enough, device, dtype)
        st.button(
            "Start gathering",
            type="primary",
            key="models_start",
            disabled=request is None or not source,
            on_click=attempt,
            args=(start, request),
        )
        widgets.notice(st.session_state.pop("models_message", None))
        _by_shell(check.name)


def _fields(check: ModelCheck) -> tuple[str, str | None, int | None, bool]:
    """The text, the layers as typed, the limit of tokens, and whether to stop when they are enough."""
    left, middle, right = st.columns([2, 1, 1])
    typed = remembered("models_source", SOURCES[0])
    source = left.selectbox(
        "Text",
        list(dict.fromkeys([*SOURCES, *([typed] if typed else [])])),
        key="models_source",
        accept_new_options=True,
        help="Or type the path of a UTF-8 text file on this machine, with blank lines between passages.",
        **KEEP,
    )
    usual = ",".join(map(str, check.settings.layers))
    layers_text = middle.text_input("Layers", key="models_layers", placeholder=usual, **KEEP)
    tokens = right.number_input(
        "Maximum tokens",
        key="models_tokens",
        value=None,
        step=10_000,
        min_value=1,
        placeholder=f"{check.statistics_tokens:,}",
        **KEEP,
    )
    enough = st.toggle(
        "Stop when more would change little",
        key="models_enough",
        help=f"Checks whenever the tokens have doubled, and stops when the disturbance of held-out text by edits has "
        f"changed by less than {TOLERANCE:.0%}.",
        **KEEP,
    )
    return (source or "").strip(), layers_text, tokens, enough


def _request(
    check: ModelCheck,
    source: str,
    layers_text: str | None,
    tokens: int | None,
    enough: bool,
    device: str | None,
    dtype: str | None,
) -> Request | None:
    """What Start would begin, after a line on its cost; None, after a message, when something is wrong."""
    try:
        layers = layers_of(layers_text, check)
        n_tokens = tokens or (4 if enough else 1) * check.statistics_tokens
        if n_tokens < check.d_mlp:
            raise InputError(
                f"{n_tokens:,} tokens say too little about {check.d_mlp:,} directions; give at least "
                f"{2 * check.d_mlp:,}."
            )
        st.caption(model_check_rows.cost_line(check, len(layers), n_tokens, enough, source == SAMPLED))
        for line in shortages(model_check_rows.needed(check, layers, n_tokens, enough), choose_device(device)):
            widgets.notice(Message("warning", line))
    except InputError as error:
        widgets.problem(error)
        return None
    return Request(check.name, source, layers, n_tokens, enough, device, dtype)


def layers_of(text: str | None, check: ModelCheck) -> tuple[int, ...]:
    """Blocks from "6-10" or "6,7,8"; the edited ones if it is blank.

    Raises:
        InputError: for anything else, and for blocks that the model does not have.
    """
    if not (text or "").strip():
        return check.settings.layers
    found: list[int] = []
    for part in text.split(","):
        match = re.fullmatch(r"\s*(\d{1,4})\s*(?:-\s*(\d{1,4})\s*)?", part)
        if match is None:
            found = []
            break
        found += range(int(match[1]), int(match[2] or match[1]) + 1)
    if not found or max(found) >= check.n_layers:
        raise InputError(f'Layers {text!r} are no blocks from 0 to {check.n_layers - 1}; write "6-10" or "6,7,8".')
    return tuple(sorted(set(found)))


def start(request: Request) -> Message:
    """Start a separate process that gathers.

    Raises:
        InputError: without the access code, and for a text that cannot be had or named here.
    """
    access.check_start()
    if request.source not in SOURCES:
        access.check_files("A text file of this machine")
    check_source(request.source)
    jobs.start(request)
    return Message("success", "Started. It runs on without this page, and edits use the result when it is done.")


def _by_shell(name: str) -> None:
    """The commands that do the same."""
    st.caption(
        "The same from a shell, how to take statistics to another machine, and how to take over what MEMIT-style code "
        "publishes (.npz):"
    )
    model = name if re.fullmatch(r"[\w./-]+", name) else f"'{name}'"
    st.code(
        f"encore statistics --model {model} --source wikitext --enough\n"
        f"encore statistics --model {model} --export FOLDER\n"
        f"encore statistics --model {model} --import transformer.h.13.mlp.c_proj_float32_mom2_100000.npz",
        language=None,
        wrap_lines=True,
    )
