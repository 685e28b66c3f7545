"""Facts, how many of them, in which order and batches, for new runs."""

from __future__ import annotations

import hashlib
import io
from typing import Any

import streamlit as st
from streamlit.delta_generator import DeltaGenerator

from dashboard.elements import fact_rows, widgets
from dashboard.reading.bundled_facts import bundled_facts, long_facts
from dashboard.server import limits
from dashboard.visitors import access
from dashboard.visitors.messages import Message
from dashboard.visitors.widget_state import KEEP, remembered
from encore_core.errors import InputError
from encore_core.facts import MAX_BYTES, Fact, parse_facts, read_facts
from encore_core.runs import RunPlan
from encore_core.storage import named_path

SOURCES = {"bundled": "Bundled", "long": "Long set", "upload": "Upload", "paste": "Paste", "file": "File"}
ORDERS = {"file": "as in the file", "shuffled": "shuffled"}
KNOWN = {"edit": "edit them too", "skip": "skip them"}
BATCH_SIZE = 20

Facts = tuple[list[Fact], str, tuple[object, ...]]  # facts, their name in the plan, what tells them from others
Found = tuple[fact_rows.Rows, str, tuple[object, ...]]  # rows, their name in the plan, what tells them from others


def pick_facts() -> dict[str, Any] | None:
    """Pick facts, their number and order. Returns fields of the plans with the facts; None on a problem."""
    with st.container(border=True, key="card_run_facts"):
        widgets.heading("2 · Facts")
        found = _pick_source()
        left, right = st.columns(2)
        fields = _pick_amounts(left, right, found) | _pick_checkpoints(left, right) | _pick_order(left, right)
        remembered("run_name", "")
        fields["name"] = st.text_input("Name (optional)", key="run_name", placeholder="method and size", **KEEP)
        n_edits = fields["n_edits"]
        try:
            RunPlan(**fields)
            if found is not None and n_edits is not None and n_edits > len(found[0]):
                raise InputError(
                    f"Edits {n_edits:,} are more than the {len(found[0]):,} facts; give a number up to "
                    f"{len(found[0]):,}, or more facts."
                )
        except InputError as error:
            widgets.problem(error)
            return None
    return None if found is None else fields | {"found": found}


def _pick_source() -> Facts | None:
    """The facts of the source that is chosen; None on a problem, and while there is nothing to read yet."""
    remembered("run_source", "bundled")
    st.segmented_control(
        "Where facts come from",
        list(SOURCES),
        key="run_source",
        required=True,
        width="stretch",
        format_func=SOURCES.get,
        label_visibility="collapsed",
        **KEEP,
    )
    try:
        found = _facts(st.session_state["run_source"])
    except InputError as error:
        widgets.problem(error)
        return None
    if found is not None:
        widgets.notice(
            Message("success", f"{len(found[0]):,} facts. First: {found[0][0].text} {found[0][0].target_new}")
        )
    return found


def _pick_amounts(left: DeltaGenerator, right: DeltaGenerator, found: Facts | None) -> dict[str, Any]:
    """How many facts, and how many per batch."""
    # Until the visitor types another number, it follows the facts.
    usual = min(200, len(found[0])) if found else 200
    if remembered("run_n", usual) == st.session_state.get("run_usual_n"):
        st.session_state["run_n"] = usual
    st.session_state["run_usual_n"] = usual
    remembered("run_batch", BATCH_SIZE)
    n_edits = left.number_input(
        "Edits",
        key="run_n",
        step=50,
        **KEEP,
        value=None,
        placeholder="all",
        help="Facts to edit, batch after batch; empty for all.",
    )
    batch = right.number_input(
        "Facts per batch",
        key="run_batch",
        step=10,
        value=None,
        placeholder=str(BATCH_SIZE),
        **KEEP,
        help="The facts of a batch are edited together.",
    )
    return {"n_edits": n_edits, "batch_size": BATCH_SIZE if batch is None else batch}


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
    """The facts of a source, with what the reader had to say; None while there is nothing to read yet.

    Raises:
        InputError: naming what is wrong.
    """
    found = _rows(source)
    if found is None:
        return None
    rows, called, token = found
    if rows.bad is not None and not fact_rows.offer(rows.bad):
        return None
    fact_rows.tell(rows)
    return rows.facts, called, token


def _rows(source: str) -> Found | None:
    """What a source holds; None while there is nothing to read yet.

    Raises:
        InputError: naming what is wrong, when nothing can be used.
    """
    if source == "bundled":
        return fact_rows.Rows(list(bundled_facts()), []), "bundled", ("bundled",)
    if source == "long":
        return fact_rows.Rows(list(long_facts()), []), "long", ("long",)
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
        upload.seek(0)
        data = upload.read()
        return _parsed(data, upload.name), upload.name, ("upload", hashlib.sha256(data).hexdigest())
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
        return (
            _parsed(text.encode("utf-8", "surrogatepass"), "pasted"),
            "pasted",
            ("paste", hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()),
        )
    path = st.text_input("File on this machine", key="run_path", placeholder="a path, e.g. facts.jsonl", **KEEP) or ""
    if not path.strip():
        st.caption("For files that are too large to upload.")
        return None
    access.check_files("A file of this machine")
    file = named_path(path.strip())
    try:
        stamp = (str(file), file.stat().st_mtime_ns, file.stat().st_size)
    except (OSError, ValueError):
        stamp = (str(file), 0, 0)  # reading it will say what is wrong
    return _read(*stamp), str(file), stamp


@st.cache_resource(show_spinner="Reading the facts …", max_entries=4)
def _read(path: str, changed: int, n_bytes: int) -> fact_rows.Rows:
    return fact_rows.read_rows(lambda notice: read_facts(path, notice=notice))


@st.cache_resource(show_spinner=False, max_entries=8)
def _parsed(data: bytes, name: str) -> fact_rows.Rows:
    if name == "pasted":
        text = data.decode("utf-8", "surrogatepass")
        return fact_rows.read_rows(lambda notice: parse_facts(text, "the pasted facts", notice=notice))
    stream = io.BytesIO(data)
    stream.name = name
    return fact_rows.read_rows(lambda notice: read_facts(stream, notice=notice))
