"""Can my model be edited, and what does it need first? A check from its configuration, and its key statistics."""

from __future__ import annotations

import re
from collections.abc import Callable

import streamlit as st

from dashboard import links, page_list
from dashboard.elements import widgets
from dashboard.parts.models import tuning
from dashboard.reading import model_check
from dashboard.visitors import access
from dashboard.visitors.state import Message, remembered
from encore_core.editing import stored_statistics
from encore_core.errors import InputError
from encore_core.methods import METHODS
from encore_core.model_check import ModelCheck, check_model
from encore_core.models.catalogue import CATALOGUE, is_ready
from encore_core.models.device_map import DEVICE_NAMES, DTYPES, choose_device
from encore_core.statistics import jobs
from encore_core.statistics.convergence import TOLERANCE
from encore_core.statistics.cost import shortages
from encore_core.statistics.request import Request
from encore_core.statistics.texts import SAMPLED, SOURCES, check_source
from encore_core.storage import absolute_folder, data_folder
from encore_core.tuned_rows import Shape, find_row

POLL_SECONDS = 1.0
SHOWN_JOBS = 6
ABOUT = {
    "wikitext": "Wikipedia paragraphs (wikitext-103) from the hub, fetched once.",
    "wikipedia": "Beginnings of English Wikipedia articles from the hub, fetched once.",
    "sampled": "The model's own continuations of single words. Needs no text, and takes several times as long.",
    "bundled": "The text that comes with the program, sampled from the embedded model.",
}
KEEP = {"persist_state": "session"}


# -- which model -------------------------------------------------------------------------------------------------------


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


# -- what is said about it ---------------------------------------------------------------------------------------------


def answer(check: ModelCheck) -> None:
    """Whether it can be edited here, and why not."""
    widgets.tiles(model_check.tiles(check))
    for line in check.problems:
        widgets.problem(line)
    for line in check.notes:
        widgets.notice(Message("warning", line))
    st.caption(
        f"{check.n_layers} layers · d_model {check.d_model:,} · d_mlp {check.d_mlp:,} · {check.n_vocab:,} tokens "
        f"known · {check.n_weights / 1e6:,.0f} M parameters · {check.dtype}. Its files were looked through for this; "
        "nothing of it is kept in memory."
    )


def details(check: ModelCheck) -> None:
    """Memory by part, and the hyper-parameters."""
    left, right = st.columns(2)
    with left, st.container(border=True, key="card_memory"):
        widgets.heading("Memory", "by part")
        columns = [("Part", "name"), ("", "about"), ("Needed", "right")]
        widgets.table(columns, model_check.memory_rows(check), "Memory by part")
    with right, st.container(border=True, key="card_hyper"):
        widgets.heading("Hyper-parameters of ENCORE", f"{check.settings.standing}: {check.source}")
        widgets.table([("Setting", ""), ("Value", "right")], model_check.settings_rows(check), "Hyper-parameters")


def tuned(check: ModelCheck) -> None:
    """What encore tune has found for a model of this shape, or how to have it search."""
    shape = Shape(check.model_type, check.n_layers, check.d_model, check.n_vocab)
    rows = {method: row for method in METHODS if (row := find_row(shape, method)) is not None}
    if not rows:
        tuning.how_to_get_one(check.name, "ENCORE")
        return
    if len(rows) > 1:
        # Another model may have rows of other methods.
        if st.session_state.get("models_tuned") not in rows:
            st.session_state["models_tuned"] = next(iter(rows))
        st.segmented_control("Method that was tuned", list(rows), key="models_tuned", required=True)
    tuning.show(rows[st.session_state["models_tuned"] if len(rows) > 1 else next(iter(rows))])


def statistics(check: ModelCheck) -> None:
    """Which key statistics there are, how to get others, and what gathers now."""
    with st.container(border=True, key="card_statistics"):
        widgets.heading("Key statistics, C0", "what edits must leave alone")
        columns = [
            ("Layer", "name"),
            ("Text", "name"),
            ("Tokens", "right"),
            ("of d_mlp", "right"),
            ("Made", "name"),
            ("", "name"),
        ]
        widgets.table(columns, model_check.statistics_rows(check), "Key statistics of the edited layers")
        looks = next((one.used.looks for one in check.statistics if one.used and one.used.looks), ())
        if looks:
            with st.expander("Were they enough?", key="models_looks"):
                st.caption(
                    "How far an edit moves text that is not in C0: it falls until more text teaches nothing new. "
                    f"Enough is when doubling the tokens changes it by less than {TOLERANCE:.0%} at every layer."
                )
                columns = [("Tokens", "right"), ("Disturbance", "right"), ("Change", "right")]
                widgets.table(columns, model_check.looks_rows(looks), "Disturbance against tokens")
        if any(one.used and one.used.chosen for one in check.statistics):
            st.button(
                "Use the bundled sample again", key="models_forget", on_click=_forget_choice, args=(check.name,),
                help="Deletes nothing; edits go back to statistics from the text that comes with the program.",
            )  # fmt: skip


def _forget_choice(name: str) -> None:
    key = stored_statistics.key_of(name)
    if key is not None:
        stored_statistics.forget_choice(key)


# -- gathering ---------------------------------------------------------------------------------------------------------


def gather(check: ModelCheck, device: str | None, dtype: str | None) -> None:
    """What to gather, what that costs, and Start."""
    with st.container(border=True, key="card_gather"):
        widgets.heading("Gather statistics", "a process of its own; closing this page does not stop it")
        left, middle, right = st.columns([2, 1, 1])
        typed = remembered("models_source", SOURCES[0])
        source = left.selectbox(
            "Text",
            list(dict.fromkeys([*SOURCES, *([typed] if typed else [])])),
            key="models_source",
            accept_new_options=True,
            help="Or type a UTF-8 text file on this machine, passages parted by blank lines.",
            **KEEP,
        )
        usual = ",".join(map(str, check.settings.layers))
        layers_text = middle.text_input("Layers", key="models_layers", placeholder=usual, **KEEP)
        tokens = right.number_input(
            "Tokens at most",
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
            help=f"Looks whenever the tokens have doubled, and stops when text that was held out is disturbed by edits "
            f"less than {TOLERANCE:.0%} differently.",
            **KEEP,
        )
        source = (source or "").strip()
        if source in ABOUT:
            st.caption(ABOUT[source])
        ready = False
        try:
            layers = layers_of(layers_text, check)
            n_tokens = tokens or (4 if enough else 1) * check.statistics_tokens
            if n_tokens < check.d_mlp:
                raise InputError(
                    f"{n_tokens:,} tokens say too little about {check.d_mlp:,} directions; give at least "
                    f"{2 * check.d_mlp:,}."
                )
            st.caption(model_check.cost_line(check, len(layers), n_tokens, enough, source == SAMPLED))
            for line in shortages(model_check.needed(check, layers, n_tokens, enough), choose_device(device)):
                widgets.notice(Message("warning", line))
            ready = bool(source)
        except InputError as error:
            widgets.problem(error)
            layers, n_tokens = (), 0
        request = Request(check.name, source, layers, n_tokens, enough, device, dtype)
        st.button(
            "Start gathering", type="primary", key="models_start", disabled=not ready, on_click=_attempt,
            args=(_start, request),
        )  # fmt: skip
        widgets.notice(st.session_state.pop("models_message", None))
        st.caption("The same from a shell, and how to take over statistics that MEMIT-style codes publish (.npz):")
        model = check.name if re.fullmatch(r"[\w./-]+", check.name) else f"'{check.name}'"
        st.code(
            f"encore statistics --model {model} --source wikitext --enough\n"
            f"encore statistics --model {model} --import transformer.h.13.mlp.c_proj_float32_mom2_100000.npz",
            language=None,
            wrap_lines=True,
        )


def layers_of(text: str | None, check: ModelCheck) -> tuple[int, ...]:
    """Blocks from "6-10" or "6,7,8"; the edited ones for a blank.

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


def _attempt(action: Callable[..., Message | None], *arguments: object) -> None:
    """Do something for a button, and remember how it went."""
    try:
        st.session_state["models_message"] = action(*arguments)
    except InputError as error:
        st.session_state["models_message"] = Message("error", str(error))


def _start(request: Request) -> Message:
    access.check_start()
    if request.source not in SOURCES:
        access.check_files("A text file of this machine")
    check_source(request.source)
    jobs.start(request)
    return Message("success", "Started. It goes on without this page, and edits use the result when it is done.")


def _resume(job_id: str) -> None:
    access.check_start()
    jobs.resume(job_id)


# -- jobs --------------------------------------------------------------------------------------------------------------


def gathering(name: str) -> None:
    """The jobs of this model, alive while one runs."""
    mine = [job for job in jobs.jobs() if job.request.model in (name, absolute_folder(name))]
    if not mine:
        return
    busy = any(job.active for job in mine)
    st.fragment(_jobs, run_every=POLL_SECONDS if busy else None)(name, busy)


def _jobs(name: str, busy: bool) -> None:
    mine = [job for job in jobs.jobs() if job.request.model in (name, absolute_folder(name))]
    if any(job.active for job in mine) != busy:
        st.rerun()  # the whole page: polling begins or ends, and there may be new statistics
    with st.container(border=True, key="card_jobs"):
        widgets.heading("Gathering", "of this model")
        for job in mine[:SHOWN_JOBS]:
            with st.container(key=f"job_{job.id}"):
                st.html(widgets.rich("<b>{words}</b><br>{state}", words=model_check.job_words(job),
                                     state=model_check.job_state(job)))  # fmt: skip
                if job.active:
                    st.progress(job.share)
                _steer(job)


def _steer(job: jobs.Job) -> None:
    with st.container(horizontal=True):
        if job.active:
            st.button("Stop", key=f"stop {job.id}", icon=":material/stop:", on_click=_attempt, args=(jobs.stop, job.id))
            return
        if job.status != "done":
            st.button(
                "Go on", key=f"resume {job.id}", icon=":material/play_arrow:", on_click=_attempt,
                args=(_resume, job.id),
            )  # fmt: skip
        st.button(
            "Take off the list", key=f"forget {job.id}", icon=":material/close:", on_click=_attempt,
            args=(jobs.forget, job.id),
        )  # fmt: skip


# -- the page ----------------------------------------------------------------------------------------------------------


def main() -> None:
    st.title(page_list.question("models"), anchor=False)
    asked = links.opened("models")
    if asked is not None and "model" in asked:
        st.session_state["models_name"] = asked["model"][0]
    name, device, dtype = pick()
    links.write("models", {"model": name})
    if not name:
        catalogue()
        return
    try:
        access.check_model(name)
        check = checked(name, device, dtype, stamp_of(name))
    except InputError as error:
        widgets.problem(error)
        catalogue()
        return
    answer(check)
    details(check)
    tuned(check)
    statistics(check)
    gather(check, device, dtype)
    gathering(name)


main()
