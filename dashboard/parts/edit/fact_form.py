"""The facts to edit: an example, one that is typed, or a table that is pasted or uploaded."""

from __future__ import annotations

import streamlit as st
from streamlit.runtime.scriptrunner import get_script_run_ctx

from dashboard.elements import fact_rows, widgets
from dashboard.reading.bundled_facts import bundled_facts
from dashboard.server import limits
from dashboard.visitors import browser_session
from dashboard.visitors.messages import Message
from dashboard.visitors.widget_state import remembered
from encore_core.errors import InputError
from encore_core.facts import MAX_BYTES, SLOT, Fact, Neighbour, parse_facts, read_facts, spelling_note, spelt_as_in

FIELDS = ("subject", "prompt", "target_new", "target_true", "paraphrases", "neighbours")
MAX_TABLE = 1000


def pick_facts() -> None:
    """The card in which facts are picked, typed or pasted. What it holds is read by `facts_in_editor`."""
    remembered("source", "Example")
    for name, value in _as_fields(bundled_facts()[0]).items():
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
    facts = bundled_facts()
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
        fill_from_example()
    st.selectbox(
        f"Example · {len(chosen)} facts, type to search",
        chosen,
        key="example",
        format_func=lambda i: f"{facts[i].text} … {facts[i].target_true} → {facts[i].target_new}",
        on_change=fill_from_example,
        persist_state="session",
    )
    widgets.sentence(facts[st.session_state["example"]])


def fill_from_example() -> None:
    fact = bundled_facts()[st.session_state["example"]]
    st.session_state.update(_as_fields(fact))


@st.fragment
def _own_fact() -> None:
    """The form of a typed fact. A fragment, so that typing redraws the preview and nothing else."""
    if browser_session.current().asked and get_script_run_ctx().fragment_ids_this_run:
        st.rerun()  # the whole page, see `actions._ask`
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
            widgets.problem(error)
        right.button("Ask the model first", disabled=True, width="stretch")
        return
    with preview:
        widgets.sentence(fact)
        typed = st.session_state["subject"].strip()
        if fact.subject != typed:
            said = spelling_note(typed, fact.subject)
            widgets.notice(Message("info", f"{said[0].upper()}{said[1:]}."))
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
        subject=spelt_as_in(values["prompt"], values["subject"].strip()),
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
        rows = table_rows()
    except InputError as error:
        widgets.problem(error)
        return
    if rows.bad is not None and not fact_rows.offer(rows.bad):
        return
    facts = rows.facts
    size = st.session_state["batch_size"]
    n_batches = -(-len(facts) // size)
    read = f"{len(facts)} fact{'s' * (len(facts) != 1)} read, {n_batches} batch{'es' * (n_batches != 1)}."
    widgets.notice(Message("success", read))
    fact_rows.tell(rows)
    shown = [(fact.text, fact.target_new) for fact in facts[:4]]
    widgets.table([("Prompt", ""), ("New answer", "")], shown, "The first facts of the table")
    if len(facts) > len(shown):
        st.caption(f"and {len(facts) - len(shown)} more")


def table_rows() -> fact_rows.Rows:
    """The facts of the upload, or else of the pasted text, and what the reader had to say about them.

    Raises:
        InputError: naming what is wrong, when nothing can be used or a fact goes beyond a limit of this server.
    """
    limit = st.session_state.get("limit", 100)
    upload = st.session_state.get("upload")
    if upload is not None:
        limits.check_upload("The upload", upload.size)
        upload.seek(0)
        rows = fact_rows.read_rows(lambda notice: read_facts(upload, limit, notice=notice))
    else:
        text = st.session_state.get("pasted") or ""
        if not text.strip():
            raise InputError(
                "The table is empty: upload a file or paste at least one row below a line of column names."
            )
        limits.check_upload("The pasted table", len(text))
        rows = fact_rows.read_rows(lambda notice: parse_facts(text, "the pasted table", limit, notice=notice))
    for fact in rows.facts:
        limits.check_fact(fact)
    return rows


def table_facts() -> list[Fact]:
    """The facts of the table that would be edited.

    Raises:
        InputError: as `table_rows`, and for bad rows that the visitor has not chosen to leave out.
    """
    rows = table_rows()
    if rows.bad is not None and not fact_rows.left_out(rows.bad):
        raise rows.bad
    return rows.facts


def facts_in_editor() -> list[Fact]:
    """The facts that Apply would edit.

    Raises:
        InputError: as `typed_fact` and `table_facts`.
    """
    source = st.session_state["source"]
    if source == "Table":
        return table_facts()
    if source == "Example":
        return [bundled_facts()[st.session_state.get("example", 0)]]
    return [typed_fact()]
