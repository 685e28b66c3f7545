"""Did my edit work, and what else changed?

Left: pick facts and a method, apply, undo. Right: what the model says about them, as loaded and with the edits.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import streamlit as st
from streamlit.delta_generator import DeltaGenerator
from streamlit.runtime.scriptrunner import get_script_run_ctx

from dashboard import edit_files, figure, limits, links, page_list, presenter, probes, state, theme, widgets
from dashboard.charts import probes as probe_charts
from dashboard.charts.text import percent
from dashboard.state import Message, Visitor, remembered
from encore_core.edit_file import keeps_history
from encore_core.editor import settings_of
from encore_core.errors import InputError
from encore_core.facts import MAX_BYTES, SLOT, Fact, Neighbour, parse_facts, read_facts
from encore_core.methods import METHODS, SETTABLE, Settings
from encore_core.tables import neutral_csv

MAIN_METHODS = ("ENCORE", "MEMIT", "EMMET", "AlphaEdit")
FIELDS = ("subject", "prompt", "target_new", "target_true", "paraphrases", "neighbours")
# Name in the address → field of a typed fact.
IN_LINK = {"subject": "subject", "prompt": "prompt", "new": "target_new", "true": "target_true",
           "paraphrases": "paraphrases", "neighbours": "neighbours"}  # fmt: skip
LONGEST_IN_LINK = 1000
MAX_TABLE = 1000
SCORED_AT_ONCE = 5

# Name → (label, help, step), in the order shown; `None` for the step means text.
SETTINGS = {
    "layers": ("Edited layers", "Blocks whose MLP output matrix is changed, e.g. 6-10 or 6,7,8.", None),
    "steps": ("Steps at most", "Optimisation steps for the target of each fact.", 1),
    "lr": ("Learning rate", "Of the optimisation of targets.", 0.1),
    "lambda_p": ("λp, preservation", "How strongly what the matrix did before is kept.", 100.0),
    "lambda_n": ("λn, norm constraint", "How strongly the matrix is kept from growing.", 5.0),
    "mpes_extra_steps": (
        "Extra steps after MPES",
        "Steps taken after the new answer has become the most probable one in every context.",
        1,
    ),
    "epsilon": ("ε, slack", "EMMET's slack for batches of more than one fact.", 0.05),
    "null_threshold": (
        "Null-space threshold",
        "AlphaEdit: eigenvalues of C0 below it count as unused.",
        0.01,
    ),
    "l2": ("L2", "AlphaEdit's ridge weight.", 1.0),
    "clamp": ("Clamp", "Longest change of the hidden state, as a share of its length.", 0.05),
    "weight_decay": ("Weight decay", "Pull of the change towards zero.", 0.1),
    "kl_factor": ("KL factor", "How strongly what is said about the subject in general is kept.", 0.0125),
    "statistics_tokens": ("Tokens of statistics", "Length of the general text behind C0.", 1000),
}


# -- the address -------------------------------------------------------------------------------------------------------


def restore(asked: Mapping[str, Sequence[str]]) -> None:
    """Take what a link asks for: an example by its id, or a fact that was typed; a method; a prompt to try.

    Anything else is left out, and texts are cut where no link of ours would have them longer.
    """
    first = {name: values[0][:LONGEST_IN_LINK] for name, values in asked.items() if values}
    wanted = first.get("fact")
    place = next((place for place, fact in enumerate(state.bundled_facts()) if fact.id == wanted), None)
    if place is not None:
        fact = state.bundled_facts()[place]
        st.session_state.update(source="Example", relation="any", known_only=bool(fact.known), example=place)
        _fill_from_example()
    elif any(name in first for name in IN_LINK):
        st.session_state["source"] = "Your own"
        for name, key in IN_LINK.items():
            st.session_state[key] = first.get(name, "")
    if first.get("method") in METHODS:
        st.session_state["method"] = first["method"]
    if "try" in first:
        st.session_state["free_prompt"] = first["try"]


def view() -> dict[str, str]:
    """What a link says of the page: the fact in the editor, the method, the prompt that is tried.

    A table is left out: it may be a file. So are paraphrases and neighbours that are too long for an address.
    """
    said = {"try": st.session_state.get("free_prompt") or ""}
    if st.session_state["source"] == "Example":
        said["fact"] = state.bundled_facts()[st.session_state.get("example", 0)].id or ""
    elif st.session_state["source"] == "Your own":
        said |= {name: st.session_state.get(key) or "" for name, key in IN_LINK.items()}
    if st.session_state["method"] != state.DEFAULT_METHOD:
        said["method"] = st.session_state["method"]
    return {name: text for name, text in said.items() if len(text) <= LONGEST_IN_LINK}


# -- the facts ---------------------------------------------------------------------------------------------------------


def pick_facts() -> None:
    """The card in which facts are picked, typed or pasted. What it holds is read by `facts_in_editor`."""
    remembered("source", "Example")
    for name, value in _as_fields(state.bundled_facts()[0]).items():
        remembered(name, value)
    with st.container(border=True, key="card_fact"):
        widgets.heading("1 · Fact")
        source = st.segmented_control(
            "Where facts come from",
            ["Example", "Your own", "Table"],
            key="source",
            required=True,
            label_visibility="collapsed",
            width="stretch",
            persist_state="session",
        )
        if source == "Example":
            _example()
        elif source == "Your own":
            _own_fact()
        else:
            _table()


def _as_fields(fact: Fact) -> dict[str, str]:
    return {
        "subject": fact.subject,
        "prompt": fact.prompt,
        "target_new": fact.target_new,
        "target_true": fact.target_true or "",
        # With the slot in them they follow when somebody types another subject.
        "paraphrases": "\n".join(text.replace(fact.subject, SLOT, 1) for text in fact.paraphrases),
        "neighbours": "\n".join(f"{n.prompt} => {n.target}" for n in fact.neighbours),
    }


def _example() -> None:
    facts = state.bundled_facts()
    relations = sorted({fact.relation for fact in facts})
    left, right = st.columns([5, 4], vertical_alignment="bottom")
    relation = left.selectbox(
        "Kind",
        ["any", *relations],
        key="relation",
        format_func=lambda r: r.replace("_", " "),
        persist_state="session",
    )
    remembered("known_only", True)
    known_only = right.checkbox("known only", key="known_only", persist_state="session",
                                help="Facts that the embedded model knows: the clearest demonstrations.")  # fmt: skip
    chosen = [
        index
        for index, fact in enumerate(facts)
        if relation in ("any", fact.relation) and (fact.known or not known_only)
    ]
    if not chosen:
        widgets.notice(Message("info", "The model knows none of this kind; untick the box to see them all."))
        return
    remembered("example", chosen[0])
    if st.session_state["example"] not in chosen:
        st.session_state["example"] = chosen[0]
        _fill_from_example()
    st.selectbox(
        f"Example · {len(chosen)} facts, type to search",
        chosen,
        key="example",
        format_func=lambda i: f"{facts[i].text} … {facts[i].target_true} → {facts[i].target_new}",
        on_change=_fill_from_example,
        persist_state="session",
    )
    widgets.sentence(facts[st.session_state["example"]])


def _fill_from_example() -> None:
    fact = state.bundled_facts()[st.session_state["example"]]
    st.session_state.update(_as_fields(fact))


@st.fragment
def _own_fact() -> None:
    """The form of a typed fact. A fragment, so that typing redraws the preview and nothing else."""
    if state.current().asked and get_script_run_ctx().fragment_ids_this_run:
        st.rerun()  # the whole page, see `_ask`
    preview = st.container()
    keep = {"live": True, "persist_state": "session"}
    st.text_input("Subject", key="subject", placeholder="France", **keep)
    st.text_input("Prompt", key="prompt", placeholder="The capital of {} is", **keep,
                  help="The text before the answer, with {} or the subject itself once in it.")  # fmt: skip
    left, right = st.columns(2)
    left.text_input("New answer", key="target_new", placeholder="Rome", **keep)
    right.text_input("True answer (optional)", key="target_true", placeholder="Paris", **keep)
    with st.expander("Paraphrases and neighbours", key="more_prompts", on_change="rerun"):
        st.text_area(
            "Paraphrases, one a line", key="paraphrases", height=90, persist_state="session",
            help="Other ways to ask the same. They should change, too.",
        )  # fmt: skip
        st.text_area(
            "Neighbours, one a line: prompt => answer", key="neighbours", height=150, persist_state="session",
            help="Similar questions about other things. Their answers should stay.",
        )  # fmt: skip
    left, right = st.columns(2)
    left.button("Clear", on_click=_clear_fields, width="stretch")
    try:
        fact = typed_fact()
    except InputError as error:
        with preview:
            widgets.notice(Message("error", str(error)))
        right.button("Ask the model first", disabled=True, width="stretch")
        return
    with preview:
        widgets.sentence(fact)
        n_foreign = sum(fact.subject not in text for text in fact.paraphrases)
        if n_foreign:
            widgets.notice(
                Message("warning", f"{n_foreign} of the paraphrases below do not mention the subject: adapt them.")
            )
    if right.button("Ask the model first", width="stretch", help="Shows what the model says now."):
        st.rerun()


def _clear_fields() -> None:
    st.session_state.update(dict.fromkeys(FIELDS, ""))


def typed_fact() -> Fact:
    """The fact in the form.

    Raises:
        InputError: naming the field, its value and what would be right.
    """
    values = {name: st.session_state.get(name) or "" for name in FIELDS}
    neighbours: list[str | Neighbour] = []
    for line in values["neighbours"].splitlines():
        if line.strip():
            prompt, arrow, answer = line.rpartition("=>")
            neighbours.append(Neighbour(prompt, answer) if arrow else line)
    fact = Fact(
        subject=values["subject"],
        prompt=values["prompt"],
        target_new=values["target_new"],
        target_true=values["target_true"],
        paraphrases=[line for line in values["paraphrases"].splitlines() if line.strip()],
        neighbours=neighbours,
    )
    limits.check_fact(fact)
    return fact


def _table() -> None:
    upload = st.file_uploader(
        "Upload CSV, JSON or JSONL", type=["csv", "tsv", "txt", "json", "jsonl"], key="upload",
        max_upload_size=MAX_BYTES // 1_000_000,
    )  # fmt: skip
    st.text_area(
        "or paste it here" if upload is None else "Pasted text (the upload above is used)",
        key="pasted",
        height=150,
        persist_state="session",
        placeholder="subject,prompt,target_new,target_true\nFrance,The capital of {} is,Rome,Paris",
    )
    if upload is None and not (st.session_state.get("pasted") or "").strip():
        st.caption(
            "Columns: subject, prompt, target_new; optional target_true, paraphrases, neighbours. "
            "CounterFact, EasyEdit and zsRE files are read as they are."
        )
        return
    left, right = st.columns(2)
    remembered("limit", 100)
    remembered("batch_size", 20)
    left.number_input("Use the first … facts", 1, MAX_TABLE, key="limit", persist_state="session")
    right.number_input("Facts a batch", 1, MAX_TABLE, key="batch_size", persist_state="session",
                       help="Facts of a batch are solved for together; Undo takes back one batch.")  # fmt: skip
    try:
        facts, notices = table_facts()
    except InputError as error:
        widgets.notice(Message("error", str(error)))
        return
    size = st.session_state["batch_size"]
    n_batches = -(-len(facts) // size)
    read = f"{len(facts)} fact{'s' * (len(facts) != 1)} read, {n_batches} batch{'es' * (n_batches != 1)}."
    widgets.notice(Message("success", read))
    for line in notices[:3]:
        widgets.notice(Message("info", line))
    shown = [(fact.text, fact.target_new) for fact in facts[:4]]
    widgets.table([("Prompt", ""), ("New answer", "")], shown, "The first facts of the table")
    if len(facts) > len(shown):
        st.caption(f"and {len(facts) - len(shown)} more")


def table_facts() -> tuple[list[Fact], list[str]]:
    """The facts of the upload, or else of the pasted text, and what the reader had to say about them.

    Raises:
        InputError: naming the row, the field and the value.
    """
    notices: list[str] = []
    limit = st.session_state.get("limit", 100)
    upload = st.session_state.get("upload")
    if upload is not None:
        limits.check_upload("The upload", upload.size)
        upload.seek(0)
        facts = read_facts(upload, limit, notice=notices.append)
    else:
        text = st.session_state.get("pasted") or ""
        if not text.strip():
            raise InputError(
                "The table is empty: upload a file or paste at least one row below a line of column names."
            )
        limits.check_upload("The pasted table", len(text))
        facts = parse_facts(text, "the pasted table", limit, notice=notices.append)
    for fact in facts:
        limits.check_fact(fact)
    return facts, notices


def facts_in_editor() -> list[Fact]:
    """The facts that Apply would edit.

    Raises:
        InputError: as `typed_fact` and `table_facts`.
    """
    source = st.session_state["source"]
    if source == "Table":
        return table_facts()[0]
    if source == "Example":
        return [state.bundled_facts()[st.session_state.get("example", 0)]]
    return [typed_fact()]


# -- the method --------------------------------------------------------------------------------------------------------


def pick_method(visitor: Visitor) -> bool:
    """The card in which the method and its settings are picked. Returns whether they can be applied as they stand."""
    names = [*MAIN_METHODS, *(name for name in METHODS if name not in MAIN_METHODS)]
    remembered("method", visitor.session.settings.method)
    remembered("seed", visitor.session.seed)
    with st.container(border=True, key="card_method"):
        widgets.heading("2 · Method")
        method = st.selectbox(
            "Method",
            names,
            key="method",
            format_func=lambda name: name if name in MAIN_METHODS else f"{name} · ablation",
            label_visibility="collapsed",
            persist_state="session",
        )
        st.caption(METHODS[method].summary)
        with st.expander("Settings", key="settings_open", on_change="rerun"):
            overrides = _settings_unseen(visitor, method) | _settings_form(visitor, method)
        try:
            wanted = settings_of(visitor.lm, method, overrides)
        except InputError as error:
            widgets.notice(Message("error", str(error)))
            return False
        seed = int(st.session_state["seed"])
        if (wanted, seed) == (visitor.session.settings, visitor.session.seed):
            return True
        if not visitor.session.history and visitor.job is None:
            visitor.start_over(wanted, seed)
            return True
        _offer_fresh_start(visitor, wanted, seed)
        return False


def _settings_key(visitor: Visitor, method: str, name: str) -> str:
    # A model and a method have settings of their own, and what was typed for one is not lost by looking at another.
    return f"setting {visitor.lm.fingerprint} {method} {name}"


def _shown_settings(settings: Settings) -> list[str]:
    """The settings that this method uses."""
    row = METHODS[settings.method]
    unused = {
        "lambda_p": row.preservation == "null_space",
        "lambda_n": not row.norm_constraint,
        "epsilon": not row.equality,
        "null_threshold": row.preservation != "null_space",
        "l2": row.preservation != "null_space",
        "mpes_extra_steps": not settings.mpes,
    }
    return [name for name in SETTINGS if not unused.get(name, False)]


def _settings_unseen(visitor: Visitor, method: str) -> dict[str, object]:
    """Settings of the edits on the model that the form has no field for: those of loaded edits may be unusual."""
    present = visitor.session.settings
    if not visitor.session.history or method != present.method:
        return {}
    seen = {*_shown_settings(present), "sequential"}
    return {name: getattr(present, name) for name in SETTABLE if name not in seen}


def _settings_form(visitor: Visitor, method: str) -> dict[str, object]:
    """The settings as fields, filled with the model's. Returns what they hold."""
    table = settings_of(visitor.lm, method)
    overrides: dict[str, object] = {}
    columns = st.columns(2)
    for place, name in enumerate(_shown_settings(table)):
        label, about, step = SETTINGS[name]
        key, value = _settings_key(visitor, method, name), getattr(table, name)
        column = columns[place % 2]
        if step is None:
            remembered(key, _layers_text(value))
            overrides[name] = column.text_input(label, key=key, help=about, persist_state="session")
        else:
            remembered(key, value)
            overrides[name] = column.number_input(
                label, key=key, help=about, step=step, format=None if isinstance(step, int) else "%g",
                persist_state="session",
            )  # fmt: skip
            if overrides[name] is None:  # an emptied field means the model's own value
                overrides[name] = value
    columns[(place + 1) % 2].number_input("Seed", 0, 2**31 - 1, key="seed", step=1, persist_state="session",
                                          help="Of the sampled prefixes before prompts.")  # fmt: skip
    key = _settings_key(visitor, method, "sequential")
    remembered(key, table.sequential)
    overrides["sequential"] = st.toggle("Later batches preserve earlier edits", key=key, persist_state="session")
    st.caption("On by default for every method, MEMIT too: so does the authors' code.")
    st.button("Back to the model's own settings", on_click=_restore_settings, args=(visitor, table, 0))
    return overrides


def _layers_text(layers: tuple[int, ...]) -> str:
    if len(layers) > 2 and layers == tuple(range(layers[0], layers[-1] + 1)):
        return f"{layers[0]}-{layers[-1]}"
    return ",".join(map(str, layers))


def _restore_settings(visitor: Visitor, settings: Settings, seed: int) -> None:
    """Fill the method's card with some settings."""
    st.session_state["method"], st.session_state["seed"] = settings.method, seed
    for name in (*SETTINGS, "sequential"):
        value = getattr(settings, name)
        st.session_state[_settings_key(visitor, settings.method, name)] = (
            _layers_text(value) if name == "layers" else value
        )


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
    if left.button("Start over", key="start_over", width="stretch", disabled=visitor.job is not None):
        visitor.start_over(wanted, seed)
        visitor.message = Message("info", f"Started over with {wanted.method}. The model is as it was loaded.")
        st.rerun()
    right.button(
        f"Keep {present.method}", key="keep_method", width="stretch", on_click=_restore_settings,
        args=(visitor, present, visitor.session.seed),
    )  # fmt: skip


# -- apply, undo, history ----------------------------------------------------------------------------------------------


def actions(visitor: Visitor, ready: bool):
    """Apply, Undo, Reset and how they went. Returns the place for the progress of a job."""
    busy = visitor.job is not None
    with st.container(key="actions"):
        st.button(
            "Apply edit" if st.session_state["source"] != "Table" else "Apply edits",
            type="primary", key="apply", shortcut="Ctrl+Enter", width="stretch", disabled=busy or not ready,
            on_click=_ask, args=(visitor, "apply"),
        )  # fmt: skip
        undo, reset = st.columns(2)
        undo.button(
            "Undo last", icon=":material/undo:", key="undo", width="stretch",
            disabled=busy or not visitor.session.history, on_click=_ask, args=(visitor, "undo"),
        )  # fmt: skip
        reset.button("Reset", icon=":material/restart_alt:", key="reset", width="stretch",
                     on_click=_ask, args=(visitor, "reset"))  # fmt: skip
        _do_asked(visitor, ready)
        place = st.empty()
        if busy:
            st.button("Stop", key="stop", on_click=visitor.cancel, width="stretch")
        is_given_away = is_covered(visitor) and visitor.message is not None and visitor.message.kind == "success"
        widgets.notice(Message("success", "Done. What came of it is covered.") if is_given_away else visitor.message)
    return place


def _ask(visitor: Visitor, what: Literal["apply", "undo", "reset"]) -> None:
    """Note what a button asks for, as its callback.

    The run of the page that a press begins is not sure to come to the button: another run can end it before, and one
    that is begun by Ctrl+Enter in a field not yet sent redraws the form of a typed fact alone. So a press is noted, and
    done by the next run of the whole page; not in the callback, which cannot show that one stands in line.
    """
    visitor.asked = what


def _do_asked(visitor: Visitor, ready: bool) -> None:
    if visitor.asked is None:
        return
    if visitor.asked == "undo":
        visitor.undo()
    elif visitor.asked == "reset":
        visitor.reset()
    elif ready:
        _begin(visitor)
    # No call to Streamlit, nor its session state, before this line: a rerun could otherwise do the same twice.
    visitor.asked = None
    st.rerun()


def _begin(visitor: Visitor) -> None:
    is_table = st.session_state["source"] == "Table"
    try:
        facts = facts_in_editor()
        visitor.begin(facts, st.session_state.get("batch_size", 20), "skip" if is_table else "refuse")
    except InputError as error:
        visitor.message = Message("error", str(error))


def history(visitor: Visitor) -> None:
    """The batches on the model, the last one first."""
    batches = visitor.session.history
    if not batches:
        return
    with st.container(border=True, key="card_history"):
        widgets.heading("Edits on the model", visitor.session.settings.method)
        rows = []
        for number, batch in reversed(list(enumerate(batches, start=1))):
            edited = [item for item in batch.report.edited if item.target]
            first = edited[0].fact
            what = f"{first.subject} → {first.target_new}" + (f" and {len(edited) - 1} more" if edited[1:] else "")
            steps = sorted(item.steps for item in edited)
            stops = sorted({_stop_word(item.stopped) for item in edited})
            rows.append(
                (
                    number,
                    what,
                    str(steps[0]) if steps[0] == steps[-1] else f"{steps[0]}–{steps[-1]}",
                    ", ".join(stops),
                    f"{sum(batch.report.seconds.values()):.1f} s",
                )
            )
        columns = [("#", "right"), ("Facts", ""), ("Steps", "right"), ("Stopped by", ""), ("Time", "right")]
        widgets.table(columns, rows[:50], "Batches on the model, the last one first")
        if len(rows) > 50:
            st.caption(f"and {len(rows) - 50} earlier ones")


def saved_edits(visitor: Visitor) -> None:
    """Edits as a file: those on the model to keep, and kept ones to put back onto it."""
    n_edits, busy = visitor.session.n_edits, visitor.job is not None
    with st.expander("Edits as a file", key="edits_file"):
        if visitor.session.history:
            st.download_button(
                "Download the edits", lambda: edit_files.as_bytes(visitor.session), edit_files.NAME,
                "application/octet-stream", on_click="ignore", width="stretch", disabled=busy, key="edits_download",
            )  # fmt: skip
            if not keeps_history(visitor.session):
                st.caption(
                    "So many edits are kept as the edited matrices alone: encore apply puts them onto the model, and "
                    "they cannot be loaded here again."
                )
        upload = st.file_uploader(
            "An edit file made on this model, here or by encore edit --edits-out",
            # A file that has been loaded is taken out of the box, which only another key does.
            key=f"edits_upload {st.session_state.get('edits_loaded', 0)}",
            max_upload_size=MAX_BYTES // 1_000_000,
        )
        if upload is not None and n_edits:
            these = f"the {n_edits} edits" if n_edits != 1 else "the edit"
            widgets.notice(Message("warning", f"Loading takes back {these} on your model now."))
        # No callback, as for Undo: it may have to stand in line.
        if st.button("Load edits", key="edits_load", width="stretch", disabled=busy or upload is None):
            _load_edits(visitor, upload.getvalue())


def _load_edits(visitor: Visitor, uploaded: bytes) -> None:
    visitor.left_line = False
    try:
        with st.spinner("Putting the edits onto the model …"):
            visitor.load(edit_files.session_of(uploaded, visitor.lm))
    except InputError as error:
        visitor.message = Message("error", str(error))
    else:
        st.session_state["edits_loaded"] = st.session_state.get("edits_loaded", 0) + 1
        st.session_state["edits_just_loaded"] = True
    st.rerun()


def _stop_word(reason: str) -> str:
    return {"mpes": "MPES", "loss": "low loss", "steps": "last step"}.get(reason, reason)


# -- predict, then reveal ----------------------------------------------------------------------------------------------


def _answer(visitor: Visitor) -> tuple[int, int]:
    return visitor.session.seed, visitor.session.n_edits


def is_covered(visitor: Visitor) -> bool:
    """Whether the class is still to predict what the edits on the model did."""
    return visitor.session.n_edits > 0 and presenter.covers("edit", _answer(visitor))


def _choices(fact: Fact) -> list[str]:
    """What a class can vote for."""
    return [
        f"{fact.target_new}, however it is asked; its neighbours are as before.",
        f"{fact.target_new}, but not in all other words; its neighbours are as before.",
        f"{fact.target_new} in exactly these words, and in no others.",
        f"{fact.target_new}, and of its neighbours, too.",
        "What it said before.",
    ]


def predict(visitor: Visitor) -> None:
    """The question in the place of the results."""
    fact = visitor.edited_facts[-1]
    words = f"The model has been told: {fact.text} {fact.target_new}. What does it say now?"
    presenter.cover("edit", _answer(visitor), words, _choices(fact))


def vote_first() -> None:
    """The question before the edit: above what the model says as loaded."""
    try:
        fact = facts_in_editor()[0]
    except InputError:
        return
    words = f"We are about to tell the model: {fact.text} {fact.target_new}. What will it say then?"
    presenter.ask(words, _choices(fact))


# -- the results -------------------------------------------------------------------------------------------------------


def results(visitor: Visitor) -> None:
    """What the model says about a fact, as loaded and with the edits."""
    fact = _pick_shown(visitor)
    if fact is None:
        with st.container(border=True, key="card_empty"):
            widgets.heading("What the model says")
            st.write("Complete the fact on the left: its probabilities appear here, before anything is edited.")
        return
    remembered("free_prompt", "")
    free = st.session_state["free_prompt"]
    edited = visitor.after is not visitor.before
    try:
        limits.check_text("Your own prompt", free)
        rows = probes.observe(fact, visitor.before, visitor.after, is_edited=visitor.is_edited(fact), free=free)
    except InputError as error:
        widgets.notice(Message("error", str(error)))
        st.text_input("Your own prompt", key="free_prompt", persist_state="session")
        return
    colours = theme.palette()
    _headline(fact, rows, edited)
    with st.container(border=True, key="card_chart"):
        widgets.heading("How probable each answer is", "before → after" if edited else "as loaded, nothing edited yet")
        figure.draw(
            probe_charts.probabilities(rows, colours, edited),
            key="probabilities",
            has_bar=False,
            alt="Probability of the new and the true answer for every prompt; the same figures are in the table below.",
        )
        st.text_input(
            "Try a prompt of your own", key="free_prompt", persist_state="session",
            placeholder=f"e.g. a traveller who visits {fact.subject} will see",
        )  # fmt: skip
    _said(fact, rows, visitor, colours, edited)
    try:
        _details(fact, rows, visitor, colours)
    except InputError as error:
        widgets.notice(Message("error", str(error)))


def _pick_shown(visitor: Visitor) -> Fact | None:
    """The fact that the results are about: the one in the editor, or another that has been edited."""
    try:
        draft = facts_in_editor()[0]
    except InputError:
        draft = visitor.draft if st.session_state["source"] == "Your own" else None
    if draft != visitor.draft:
        visitor.draft = visitor.shown = draft
    edited = visitor.edited_facts[::-1]
    options = list(dict.fromkeys(([draft] if draft else []) + edited[:200]))
    if not options:
        return None
    if visitor.shown not in options:
        visitor.shown = options[0]
    if len(options) > 1:
        # The widget's key changes with its options, for a fact picked elsewhere has to show up in it.
        chosen = st.selectbox(
            "Show",
            range(len(options)),
            index=options.index(visitor.shown),
            key=f"shown {hash((tuple(options), visitor.shown))}",
            format_func=lambda i: (
                f"{options[i].text} → {options[i].target_new}" + ("" if options[i] in edited else "   (not edited)")
            ),
        )
        if options[chosen] != visitor.shown:
            visitor.shown = options[chosen]
            st.rerun()
    return visitor.shown


def _headline(fact: Fact, rows, edited: bool) -> None:
    """Three figures: the rewrite, the paraphrases, the neighbours."""
    first = rows.iloc[0]
    change = "good" if first.verdict == "changed" else "bad" if first.verdict == "unchanged" else ""
    items = []
    if edited:
        word = f"{first.symbol} {first.word} · " if first.word else ""
        items.append(("New answer", percent(first.new_after),
                      f"{word}was {percent(first.new_before)}", change))  # fmt: skip
    else:
        items.append(("New answer", percent(first.new_before), "before any edit", ""))
    for kind, name, wanted, verb in (
        ("paraphrase", "Paraphrases", ("changed",), "changed"),
        ("neighbour", "Neighbours", ("kept", "weakened"), "stayed"),
    ):
        part = rows[rows.kind == kind]
        if part.empty:
            continue
        if not edited or (kind == "paraphrase" and (part.verdict == "waiting").any()):
            right = (part.true_before > part.new_before).sum() if part.true.notna().all() else None
            count = "–" if right is None else f"{right} of {len(part)}"
            items.append((name, count, "true answer ahead", ""))
            continue
        counted = part[part.verdict != "unknown"]
        n_right = int(counted.verdict.isin(wanted).sum())
        tone = "good" if n_right == len(counted) else "bad" if n_right == 0 else "warn"
        symbol = {"good": "✓", "bad": "✗", "warn": "▲"}[tone] if len(counted) else "○"
        unknown = len(part) - len(counted)
        word = {"good": verb, "bad": f"none {verb}", "warn": f"some {verb}"}[tone]
        remark = f"{symbol} {word}" + (f" · {unknown} not known before" if unknown else "")
        items.append((name, f"{n_right} of {len(counted)}", remark, tone if len(counted) else ""))
    widgets.tiles(items)


def _said(fact: Fact, rows, visitor: Visitor, colours, edited: bool) -> None:
    """What the model goes on to say after one of the prompts, and which words it weighed."""
    with st.container(border=True, key="card_said"):
        widgets.heading("What it says", "most probable words, one after the other")
        prompts = list(dict.fromkeys(rows.prompt))
        names = dict(zip(rows.prompt[::-1], rows.kind[::-1], strict=True))
        remembered("said_prompt", prompts[0])
        if st.session_state["said_prompt"] not in prompts:
            st.session_state["said_prompt"] = prompts[0]
        prompt = st.selectbox(
            "Prompt to continue",
            prompts,
            key="said_prompt",
            format_func=lambda p: f"{'your own' if names[p] == 'free' else names[p]}: {p}",
        )
        try:
            texts = {"Before": visitor.before.continuation(prompt)}
            if edited:
                texts["After"] = visitor.after.continuation(prompt)
            tokens = probes.tokens_table(prompt, fact, visitor.before, visitor.after)
        except InputError as error:
            widgets.notice(Message("error", str(error)))
            return
        for column, (moment, text) in zip(st.columns(len(texts)), texts.items(), strict=True):
            with column:
                st.caption(moment if edited else "As loaded")
                widgets.verbatim(f"{prompt}{text}")
        figure.draw(
            probe_charts.next_tokens(tokens, colours),
            key="next tokens",
            has_bar=False,
            alt="The most probable next words with their probabilities.",
        )


def _details(fact: Fact, rows, visitor: Visitor, colours) -> None:
    """The figures behind the pictures: table, scores, norms."""
    edited = visitor.after is not visitor.before
    with st.container(border=True, key="card_details"):
        table, scores, norms = st.tabs(["Table", "Scores", "Matrix norms"], key="details", on_change="rerun")
        if table.open:
            with table:
                _rows_table(fact, rows, edited)
        if scores.open:
            with scores:
                _scores(visitor)
        if norms.open:
            with norms:
                _norms(visitor, colours)


def _rows_table(fact: Fact, rows, edited: bool) -> None:
    def figures(before, after) -> str:
        if before is None:
            return "–"
        return f"{percent(before)}\u00a0→\u00a0{percent(after)}" if edited else percent(before)

    def cell(answer, before, after) -> str:
        if answer is None:
            return "–"
        short = answer if len(answer) <= 24 else answer[:23] + "…"
        return f"{short}\n{figures(before, after)}"

    shown = [
        (
            row.prompt,
            cell(row.new, row.new_before, row.new_after),
            cell(row.true, row.true_before, row.true_after),
            (f"{row.symbol} {row.meaning}" if row.word else probe_charts.SECTIONS[row.kind].lower(), row.tone),
        )
        for row in rows.itertuples()
    ]
    columns = [("Prompt", ""), ("New answer", "figures"), ("True answer", "figures"), ("Verdict", "")]
    widgets.table(columns, shown, "Probability of each answer before and after")
    names = [name for name in rows.columns if name not in ("symbol", "word", "tone", "meaning")]
    st.download_button(
        "Download as CSV",
        lambda: neutral_csv(names, rows[names].to_numpy().tolist()),
        "encore-edit.csv",
        "text/csv",
        on_click="ignore",
    )


SCORES = (
    ("edit_score", "Edit score", "share of edited prompts where the new answer beats the true one"),
    ("paraphrase_score", "Paraphrase score", "the same for the paraphrases"),
    ("neighborhood_score", "Neighbourhood score", "share of neighbours whose own answer beats the new one"),
    ("overall_score", "Overall score", "harmonic mean of the three"),
    ("accuracy", "Accuracy", "share of facts whose new answer is the most probable"),
    (
        "generation_efficacy",
        "Generation efficacy",
        "share of facts whose new answer appears in what is generated",
    ),
    ("magnitude", "Magnitude", "mean of p(new) − p(true)"),
)


def _scores(visitor: Visitor) -> None:
    facts = visitor.edited_facts
    if not facts:
        st.write("Scores of all facts of this session appear here once the first edit has been made.")
        return
    measured = st.session_state.get("scored") == (id(visitor.session), len(visitor.session.history))
    if len(facts) > SCORED_AT_ONCE and not measured:
        if not st.button(f"Measure the {len(facts)} edited facts", key="measure"):
            st.caption("Takes about a second for every three facts on two cores.")
            return
        st.session_state["scored"] = (id(visitor.session), len(visitor.session.history))
    with st.spinner("Measuring …"):
        was, now = visitor.before.scores(facts), visitor.after.scores(facts)

    def shown(scores, name) -> str:
        value = getattr(scores, name)
        return "–" if value is None else f"{value:+.2f}" if name == "magnitude" else f"{value:.0f}"

    rows = [(label, shown(was, name), shown(now, name), about) for name, label, about in SCORES]
    columns = [("Score", ""), ("Before", "right"), ("After", "right"), ("What it is", "")]
    widgets.table(columns, rows, f"Scores of the {len(facts)} facts edited in this session")


def _norms(visitor: Visitor, colours) -> None:
    import pandas as pd

    norms = visitor.session.norms()
    if visitor.after is visitor.before:
        st.write("How much the edited matrices grow appears here once the first edit has been made.")
        return
    table = pd.DataFrame([(layer, *pair) for layer, pair in norms.items()], columns=["layer", "before", "after"])
    figure.draw(
        probe_charts.norm_growth(table, colours),
        key="growth of norms",
        has_bar=False,
        alt="Growth of each edited matrix in percent; the figures are in the table below.",
    )  # fmt: skip
    widgets.table(
        [("Layer", "right"), ("‖W₀‖", "right"), ("‖W‖", "right"), ("‖W‖ / ‖W₀‖", "right")],
        [(row.layer, f"{row.before:.2f}", f"{row.after:.2f}", f"{row.after / row.before:.5f}")
         for row in table.itertuples()],
        "Frobenius norms of the edited matrices",
    )  # fmt: skip


# -- the page ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Parts:
    """Where the parts of the page stand; `fact` is for the fact as a sentence, where the editor is out of sight."""

    strip: DeltaGenerator
    editor: DeltaGenerator
    actions: DeltaGenerator
    history: DeltaGenerator
    results: DeltaGenerator
    fact: DeltaGenerator | None = None


def arranged() -> Parts:
    """What is picked on the left, what comes of it on the right."""
    strip = st.container(key="status")
    st.title(page_list.question("edit"), anchor=False)
    left, right = st.container(key="edit_columns").columns([5, 8], gap="medium")
    with left:
        editor = st.container(key="editor")
        return Parts(strip, editor, st.container(), st.container(), right.container(key="results"))


def arranged_for_a_class() -> Parts:
    """Buttons and results first, as wide as the page; what was picked before the talk stands below."""
    st.title(page_list.question("edit"), anchor=False)
    fact, actions, results = st.container(), st.container(), st.container(key="results")
    with st.expander("Fact, method and edits", icon=":material/edit_note:", key="class_editor"):
        return Parts(st.container(key="status"), st.container(key="editor"), actions, st.container(), results, fact)


def the_fact() -> None:
    """The fact in the editor as a sentence; how many there are, of a table."""
    try:
        facts = facts_in_editor()
    except InputError as error:
        widgets.notice(Message("error", str(error)))
        return
    widgets.sentence(facts[0])
    if len(facts) > 1:
        st.caption(f"and {len(facts) - 1:,} more")


def main() -> None:
    visitor = state.current()
    asked = links.opened("edit")
    if asked is not None:
        restore(asked)
    if st.session_state.pop("edits_just_loaded", False):
        # Before there are fields: they show the settings that the edits were made with.
        _restore_settings(visitor, visitor.session.settings, visitor.session.seed)
    parts = arranged_for_a_class() if presenter.is_on() else arranged()
    with parts.editor:
        pick_facts()
        ready = pick_method(visitor)
    if parts.fact is not None:
        with parts.fact:
            the_fact()
    with parts.actions:
        progress = actions(visitor, ready)
    with parts.history:
        history(visitor)
        saved_edits(visitor)
    with parts.strip:
        widgets.status_strip(visitor)
    with parts.results:
        if is_covered(visitor):
            predict(visitor)
        else:
            if presenter.is_predicting() and not visitor.session.n_edits:
                vote_first()
            results(visitor)
    if visitor.job is not None:
        visitor.work(lambda words, share: progress.progress(min(1.0, share), text=words))
        st.rerun()
    links.write("edit", view())


main()
