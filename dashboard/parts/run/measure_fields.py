"""What new runs measure at checkpoints."""

from __future__ import annotations

from typing import Any

import streamlit as st
from streamlit.delta_generator import DeltaGenerator

from dashboard.elements import widgets
from dashboard.reading.run_words import SUBSETS
from dashboard.visitors import access
from dashboard.visitors.widget_state import KEEP, remembered
from encore_core.errors import InputError
from encore_core.measures.generated import CHAT_TOKENS, CHATS, TOKENS
from encore_core.measures.generated_scores import PROTOCOLS
from encore_core.runs import MeasurePlan

ABOUT = {
    "generate": "Whether greedy decoding gives the new answer; the slowest part of the scores.",
    "perplexity": "On a fixed text.",
    "foretold_damage": "What the edits cost general text, estimated from statistics: reads no text.",
    "generation_entropy": "Of sampled continuations.",
    "contributions": "What each sublayer adds to the residual stream.",
}


def pick_measures(more: DeltaGenerator) -> MeasurePlan | None:
    """Pick what is measured at checkpoints, in the place given; None on a problem."""
    with more.container(border=True, key="card_measure"):
        widgets.heading("Measured at checkpoints", "norms of all layers always are")
        usually = MeasurePlan()
        remembered("run_subsets", list(usually.subsets))
        subsets = st.multiselect(
            "Scores of", list(SUBSETS), key="run_subsets", format_func=SUBSETS.get, **KEEP, placeholder="no scores"
        )
        values: dict[str, Any] = {"subsets": tuple(subsets)}
        values |= _pick_protocols(usually) if subsets else {}
        left, right = st.columns(2)
        values |= _pick_counts(left, right, usually) | _pick_kinds(left, right, usually)
        values |= _pick_limits(left, right, usually) | _pick_downstream(usually)
        try:
            if values["downstream"] not in (None, "hub"):
                access.check_files("A folder of this machine")
            return MeasurePlan(**values)
        except InputError as error:
            widgets.problem(error)
            return None


def _pick_protocols(usually: MeasurePlan) -> dict[str, Any]:
    """How facts are scored, and how answers are generated where they are."""
    remembered("run_protocols", list(usually.protocols))
    protocols = st.multiselect(
        "Scored",
        list(PROTOCOLS),
        key="run_protocols",
        **KEEP,
        placeholder="give one at least",
        help="Teacher-forced: how probable the answers are. Generated: what the model writes by itself; takes about as "
        "long again. With a judge: encore run --judge.",
    )
    values: dict[str, Any] = {"protocols": tuple(protocols)}
    if "generated" not in protocols:
        return values
    left, right = st.columns(2)
    remembered("run_chat", usually.chat)
    values["chat"] = left.selectbox(
        "Chat template", list(CHATS), key="run_chat", **KEEP, help="auto: where the model has one."
    )
    remembered("run_max_tokens", usually.max_tokens)
    values["max_tokens"] = right.number_input(
        "Longest answer",
        key="run_max_tokens",
        step=4,
        value=None,
        placeholder="usual",
        **KEEP,
        help=f"In tokens; usually {TOKENS}, in a chat {CHAT_TOKENS}. Most answers end before.",
    )
    return values


def _pick_counts(left: DeltaGenerator, right: DeltaGenerator, usually: MeasurePlan) -> dict[str, Any]:
    """How many facts are scored."""
    values: dict[str, Any] = {}
    for place, (name, words) in enumerate(
        (("sample_facts", "Facts in the sample"), ("batch_facts", "Facts of a batch"))
    ):
        remembered(f"run_{name}", getattr(usually, name))
        value = (left, right)[place].number_input(words, key=f"run_{name}", step=10, value=None, **KEEP)
        values[name] = getattr(usually, name) if value is None else value
    return values


def _pick_kinds(left: DeltaGenerator, right: DeltaGenerator, usually: MeasurePlan) -> dict[str, Any]:
    """What is measured besides the scores that cost little."""
    values: dict[str, Any] = {}
    for place, (name, words) in enumerate(
        (
            ("generate", "Generation"),
            ("perplexity", "Perplexity"),
            ("foretold_damage", "Damage"),
            ("generation_entropy", "Entropy"),
            ("contributions", "Residuals"),
        )
    ):
        remembered(f"run_{name}", getattr(usually, name))
        values[name] = (left, right)[place % 2].toggle(words, key=f"run_{name}", help=ABOUT[name], **KEEP)
    return values


def _pick_limits(left: DeltaGenerator, right: DeltaGenerator, usually: MeasurePlan) -> dict[str, Any]:
    """How long measuring may take, and for how many facts every step is kept."""
    remembered("run_cap", 25.0)
    cap = left.number_input(
        "Cap, %",
        key="run_cap",
        step=5.0,
        value=None,
        format="%g",
        **KEEP,
        placeholder="no cap",
        help="Between the first and last checkpoints, measuring takes at most this share of the editing time; the run "
        "records what was left out. Empty for no cap.",
    )
    remembered("run_trajectory_facts", usually.trajectory_facts)
    kept = right.number_input(
        "Trajectories",
        key="run_trajectory_facts",
        step=50,
        value=None,
        placeholder=str(usually.trajectory_facts),
        help="For how many facts every step of the target optimisation is kept.",
        **KEEP,
    )
    return {
        "share_cap": None if cap is None else cap / 100,
        "trajectory_facts": usually.trajectory_facts if kept is None else kept,
    }


def _pick_downstream(usually: MeasurePlan) -> dict[str, Any]:
    """The downstream tasks, if any."""
    remembered("run_downstream", "")
    folder = st.text_input(
        "Folder with the downstream tasks (optional)",
        key="run_downstream",
        help="It holds sst2.jsonl and the others; or “hub”, which fetches them once.",
        **KEEP,
    )
    values: dict[str, Any] = {"downstream": folder.strip() or None}
    if values["downstream"]:
        remembered("run_downstream_tests", usually.downstream_tests)
        tests = st.number_input("Tests per task", key="run_downstream_tests", step=10, value=None, **KEEP)
        values["downstream_tests"] = usually.downstream_tests if tests is None else tests
    return values
