"""What is measured at checkpoints of new runs."""

from __future__ import annotations

from typing import Any

import streamlit as st
from streamlit.delta_generator import DeltaGenerator

from dashboard.elements import widgets
from dashboard.reading.run_words import SUBSETS
from dashboard.visitors import access
from dashboard.visitors.widget_state import KEEP, remembered
from encore_core.errors import InputError
from encore_core.runs import MeasurePlan

ABOUT = {
    "generate": "Whether greedy decoding says the new answer; the costliest part of the scores.",
    "perplexity": "On a fixed text.",
    "generation_entropy": "Of sampled continuations.",
    "contributions": "What each sublayer adds to the residual stream.",
}


def pick_measures() -> MeasurePlan | None:
    """What is measured at checkpoints; None on a problem."""
    with st.container(border=True, key="card_measure"):
        widgets.heading("3 · Measured at checkpoints", "norms of all layers always are")
        usually = MeasurePlan()
        remembered("run_subsets", list(usually.subsets))
        subsets = st.multiselect(
            "Scores of", list(SUBSETS), key="run_subsets", format_func=SUBSETS.get, **KEEP, placeholder="no scores"
        )
        left, right = st.columns(2)
        values: dict[str, Any] = {"subsets": tuple(subsets)}
        values |= _pick_counts(left, right, usually) | _pick_kinds(left, right, usually)
        values |= _pick_limits(left, right, usually) | _pick_downstream(usually)
        try:
            if values["downstream"] not in (None, "hub"):
                access.check_files("A folder of this machine")
            return MeasurePlan(**values)
        except InputError as error:
            widgets.problem(error)
            return None


def _pick_counts(left: DeltaGenerator, right: DeltaGenerator, usually: MeasurePlan) -> dict[str, Any]:
    """Of how many facts scores are measured."""
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
            ("generation_entropy", "Entropy"),
            ("contributions", "Residuals"),
        )
    ):
        remembered(f"run_{name}", getattr(usually, name))
        values[name] = (left, right)[place % 2].toggle(words, key=f"run_{name}", help=ABOUT[name], **KEEP)
    return values


def _pick_limits(left: DeltaGenerator, right: DeltaGenerator, usually: MeasurePlan) -> dict[str, Any]:
    """How long measuring may take, and of how many facts every step is kept."""
    remembered("run_cap", 25.0)
    cap = left.number_input(
        "Cap, %",
        key="run_cap",
        step=5.0,
        value=None,
        format="%g",
        **KEEP,
        placeholder="no cap",
        help="Measuring between the first and the last checkpoint stops short of this share of "
        "the time spent on editing; what is left out is told. Empty for no cap.",
    )
    remembered("run_trajectory_facts", usually.trajectory_facts)
    kept = right.number_input(
        "Trajectories",
        key="run_trajectory_facts",
        step=50,
        value=None,
        placeholder=str(usually.trajectory_facts),
        help="Of so many facts every step of the target optimisation is kept.",
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
        help="With sst2.jsonl and the others in it; or “hub”, which fetches them once.",
        **KEEP,
    )
    values: dict[str, Any] = {"downstream": folder.strip() or None}
    if values["downstream"]:
        remembered("run_downstream_tests", usually.downstream_tests)
        tests = st.number_input("Tests a task", key="run_downstream_tests", step=10, value=None, **KEEP)
        values["downstream_tests"] = usually.downstream_tests if tests is None else tests
    return values
