"""Facts, how many of them, in which order and batches, for new runs."""

from __future__ import annotations

from typing import Any, NamedTuple

import streamlit as st
from streamlit.delta_generator import DeltaGenerator

from dashboard.elements import fact_rows, hub_set_field, widgets
from dashboard.reading import fact_words
from dashboard.reading.bundled_facts import bundled_facts, long_facts
from dashboard.server import limits
from dashboard.visitors import access
from dashboard.visitors.widget_state import KEEP, remembered
from encore_core.errors import InputError
from encore_core.facts import MAX_BYTES, Fact
from encore_core.runs import RunPlan
from encore_core.storage import named_path

SOURCES = {
    "bundled": "Bundled facts", "long": "Long set, over 10,000", "upload": "Upload a file", "paste": "Paste a table",
    "hub": "Data set of the hub", "file": "File on this machine",
}  # fmt: skip
HUB_SET = "run_set"
ORDERS = {"file": "as in the file", "shuffled": "shuffled"}
KNOWN = {"edit": "edit them too", "skip": "skip them"}
BATCH_SIZE = 20


class Facts(NamedTuple):
    """The facts of a source.

    Attributes:
        facts: those that can be used.
        name: what the plan calls them.
        token: what tells them from others.
        by_rule, without_bad: how they were read: with subjects found by a rule, and without rows that cannot be used.
    """

    facts: list[Fact]
    name: str
    token: tuple[object, ...]
    by_rule: bool = False
    without_bad: bool = False


def pick_facts(
    source: DeltaGenerator, amount: DeltaGenerator, below: DeltaGenerator, more: DeltaGenerator
) -> dict[str, Any] | None:
    """Pick facts, their number and order.

    Args:
        source, amount: where these two fields go.
        below: where the facts of a source are given, and what was found in them.
        more: where all other fields go.

    Returns:
        fields of the plans with the facts; None on a problem.
    """
    with source:
        chosen = _pick_source()
    with below:
        found = _found(chosen)
    n_edits = _pick_amount(amount, found)
    with more.container(border=True, key="card_run_facts"):
        widgets.heading("Batches and order")
        left, right = st.columns(2)
        fields = {"n_edits": n_edits, "batch_size": _pick_batch(left)}
        fields |= _pick_checkpoints(right, left) | _pick_order(right, left)
        remembered("run_name", "")
        fields["name"] = right.text_input("Name (optional)", key="run_name", placeholder="method and size", **KEEP)
    with below:
        try:
            RunPlan(**fields)
            if found is not None and n_edits is not None and n_edits > len(found.facts):
                raise InputError(
                    f"Edits {n_edits:,} are more than the {len(found.facts):,} facts; give a number up to "
                    f"{len(found.facts):,}, or more facts."
                )
        except InputError as error:
            widgets.problem(error)
            return None
    return None if found is None else fields | {"found": found}


def _pick_source() -> str:
    remembered("run_source", "bundled")
    return st.selectbox("Fact set", list(SOURCES), key="run_source", format_func=SOURCES.get, **KEEP)


def _found(source: str) -> Facts | None:
    """The facts of the source that is chosen; None on a problem, and while there is nothing to read yet."""
    try:
        found = _facts(source)
    except InputError as error:
        widgets.problem(error)
        return None
    if found is not None:
        first = found.facts[0]
        n = f"{len(found.facts):,} fact{'s' * (len(found.facts) != 1)}"
        answers = f"{first.target_true or ''} → {first.target_new}".strip()
        said = f"{n}. First edit: {first.text} {answers}{fact_words.marked(first)}"
        widgets.remark(said)
    return found


def _pick_amount(place: DeltaGenerator, found: Facts | None) -> int | None:
    """How many facts."""
    # Until the visitor types another number, it follows the facts.
    usual = min(200, len(found.facts)) if found else 200
    if remembered("run_n", usual) == st.session_state.get("run_usual_n"):
        st.session_state["run_n"] = usual
    st.session_state["run_usual_n"] = usual
    return place.number_input(
        "Number of facts",
        key="run_n",
        step=50,
        **KEEP,
        value=None,
        placeholder="all",
        help="Facts to edit, batch after batch; empty for all.",
    )


def _pick_batch(place: DeltaGenerator) -> int:
    remembered("run_batch", BATCH_SIZE)
    batch = place.number_input(
        "Facts per batch",
        key="run_batch",
        step=10,
        value=None,
        placeholder=str(BATCH_SIZE),
        **KEEP,
        help="The facts of a batch are edited together.",
    )
    return BATCH_SIZE if batch is None else batch


def _pick_checkpoints(left: DeltaGenerator, right: DeltaGenerator) -> dict[str, Any]:
    """How often to measure, and the seed."""
    remembered("run_every", None)
    remembered("run_seed", 0)
    every = left.number_input(
        "Checkpoint every",
        key="run_every",
        step=50,
        value=None,
        **KEEP,
        placeholder="tenth",
        help="Edits between checkpoints; a tenth of the run when empty. At each, norms and scores are measured and "
        "the state is saved; there is always one at 0 and one at the end.",
    )
    seed = right.number_input(
        "Seed",
        key="run_seed",
        step=1,
        value=None,
        placeholder="0",
        **KEEP,
        help="For shuffling, sampled prefixes, and samples for measuring.",
    )
    return {"checkpoint_every": every, "seed": 0 if seed is None else seed}


def _pick_order(left: DeltaGenerator, right: DeltaGenerator) -> dict[str, Any]:
    """In which order to edit facts, and what to do with known ones."""
    remembered("run_order", "file")
    remembered("run_known", "edit")
    order = left.selectbox("Order", list(ORDERS), key="run_order", format_func=ORDERS.get, **KEEP)
    skip = right.selectbox(
        "Known facts",
        list(KNOWN),
        key="run_known",
        format_func=KNOWN.get,
        help="Facts that the model already says. If they are edited too, all methods see the same facts.",
        **KEEP,
    )
    return {"order": order, "known": skip}


def _facts(source: str) -> Facts | None:
    """The facts of a source, with what the reader had to say; None on a problem, and while there is nothing to read.

    Raises:
        InputError: naming what is wrong.
    """
    if source == "bundled":
        return Facts(list(bundled_facts()), "bundled", ("bundled",))
    if source == "long":
        return Facts(list(long_facts()), "long", ("long",))
    given = _given(source)
    rows = fact_rows.choose(given) if given is not None else None
    if rows is None:
        return None
    fact_rows.tell(rows, "run_facts")
    called = given.path if source == "file" else given.name
    by_rule = fact_rows.asks_rule(given)
    return Facts(rows.facts, called, (source, given.token, by_rule), by_rule, rows.leaves_out)


def _given(source: str) -> fact_rows.Given | None:
    """What the visitor gives; None while there is nothing yet.

    Raises:
        InputError: when it is too large, or may not be named here.
    """
    if source == "upload":
        upload = st.file_uploader(
            "CSV, JSON or JSONL",
            type=["csv", "tsv", "txt", "json", "jsonl"],
            key="run_upload",
            max_upload_size=MAX_BYTES // 1_000_000,
        )
        if upload is None:
            st.caption(
                "CounterFact, EasyEdit and zsRE files are read as they are, and CSV with the columns subject, "
                "prompt, target_new; optional target_true, paraphrases, neighbours."
            )
            return None
        limits.check_upload("The upload", upload.size)
        return fact_rows.Given.upload(upload)
    if source == "paste":
        text = st.text_area(
            "Facts",
            key="run_pasted",
            height=150,
            **KEEP,
            placeholder="subject,prompt,target_new,target_true\nFrance,The capital of {} is,Rome,Paris",
        )
        if not (text or "").strip():
            st.caption("A line of column names, then one fact per line; or JSON.")
            return None
        limits.check_upload("The pasted text", len(text))
        return fact_rows.Given.pasted(text, "pasted")
    if source == "hub":
        hub_set_field.pick(HUB_SET)
        name = st.session_state.get(HUB_SET)
        return hub_set_field.given(name) if name else None
    path = st.text_input("File on this machine", key="run_path", placeholder="a path, e.g. facts.jsonl", **KEEP) or ""
    if not path.strip():
        st.caption("For files that are too large to upload.")
        return None
    access.check_files("A file of this machine")
    return fact_rows.Given.file(named_path(path.strip()))
