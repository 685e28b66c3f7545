"""All facts of a pair of runs: how probable their answers became, in how many steps, and the paper's figures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial

import pandas as pd
import streamlit as st

from dashboard.charts import overfitting as charts
from dashboard.charts.overfitting import Arm
from dashboard.elements import chart_card, widgets
from dashboard.parts.overfitting.search_pairs import KNOWN, arms_of, with_arms
from dashboard.reading import mpes_pairs, paper_tables, run_frames
from dashboard.reading.answers import stopping
from dashboard.reading.mpes_pairs import Pair
from dashboard.reading.run_words import EDITING, PHASES, seconds_an_edit, short_model
from dashboard.visitors.messages import Message


def answer(pair: Pair) -> None:
    """The page's question answered from all facts of a pair; nothing while no batch is complete."""
    frame = mpes_pairs.common_facts(run_frames.read("targets", pair.runs), pair)
    if frame.empty:
        return
    runs = {"without": pair.without, "stopped": pair.stopped}
    known = mpes_pairs.known_facts(pair.runs[0])
    found = {arm: run.id for arm, run in runs.items() if run is not None}
    widgets.answer(stopping.answer(frame, found, known[1].tolist() if known else ()))


def cards(pair: Pair) -> None:
    """The cards about all facts of a pair: probabilities, steps, seconds, and the paper's figures."""
    arms = arms_of(pair)
    frame = mpes_pairs.common_facts(run_frames.read("targets", pair.runs), pair)
    if frame.empty:
        widgets.notice(Message("info", "No batch of facts is complete in these runs yet; their targets appear here."))
        return
    frame = with_arms(frame, arms)
    groups = [(arm, frame.loc[frame["arm"] == arm.key, "probability"]) for arm in arms.values()]
    known = mpes_pairs.known_facts(pair.runs[0])
    shown = groups + ([(KNOWN, known[1])] if known else [])
    timings = run_frames.read("timings", pair.runs)
    seconds = {arms[run.id].key: mpes_pairs.seconds_by_phase(timings, run.id) for run in pair.runs}
    with st.container(border=True, key="card_overfitting_many"):
        everything = pd.concat([values.rename("probability").to_frame().assign(group=a.name) for a, values in shown])
        chart_card.show(
            partial(charts.distributions, shown),
            key="overfitting probabilities",
            heading="How sure the model becomes of edited facts",
            aside="p of the answer, diamond: the mean",
            alt="Distributions of the probability of edited facts with and without MPES and of facts that the model "
            "knows by itself; their means are in the table below.",
            frame=everything[["group", "probability"]],
            commands=chart_card.commands_of(pair.runs),
            revision=pair.key,
        )
        st.caption(
            "p of edited facts: when the search for the target stops, before the matrices are changed (mean over six "
            "contexts of the geometric mean of the answer's tokens). "
            + (
                f"Known by itself: {len(known[1])} of {known[0]} whose true answer the unedited model gives, p of that "
                "answer, measured in the same way."
                if known
                else "What this model knows by itself was recorded for the embedded model only, so it is not shown."
            )
        )
    with st.container(border=True, key="card_overfitting_steps"):
        chart_card.show(
            partial(charts.step_counts, _steps(frame, arms)),
            key="overfitting step counts",
            heading="What stopping early saves",
            aside="steps per fact",
            alt="Share of facts by the number of steps after which they stopped, with and without MPES; the means are "
            "in the table below.",
            frame=frame[["run", "arm", "fact", "steps", "stopped"]],
            commands=chart_card.commands_of(pair.runs),
            revision=pair.key,
        )
        _costs(frame, arms, seconds)
    with st.container(border=True, key="card_overfitting_table"):
        widgets.heading("Compared with the paper's table 1", paper_tables.SOURCE)
        _table_1(pair, groups, known, seconds)


def _steps(frame: pd.DataFrame, arms: Mapping[str, Arm]) -> list[tuple[Arm, pd.Series]]:
    return [(arm, frame.loc[frame["arm"] == arm.key, "steps"].astype(int)) for arm in arms.values()]


def _costs(frame: pd.DataFrame, arms: Mapping[str, Arm], seconds: Mapping[str, Mapping[str, float]]) -> None:
    """A table of steps and seconds per edit."""
    phases = EDITING
    rows = []
    for arm in arms.values():
        of_arm, took = frame[frame["arm"] == arm.key], seconds[arm.key]
        cells = [seconds_an_edit(took[phase]) if phase in took else "–" for phase in phases]
        total = seconds_an_edit(sum(took.values())) if took else "–"
        early = 100 * (of_arm["stopped"] != "steps").mean()
        rows.append((arm.name, f"{of_arm['steps'].mean():.1f}", f"{early:.0f} %", total, *cells))
    columns = [
        ("Search for targets", "name"),
        ("Steps, mean", "right"),
        ("Stopped before the last step", "right"),
        ("Seconds per edit", "right"),
        *((PHASES[phase], "right") for phase in phases),
    ]
    widgets.table(columns, rows, "Steps and seconds per edit with and without MPES")
    st.caption("Seconds are from the run's machine, which may have been busy; steps do not depend on the machine.")


def _table_1(
    pair: Pair,
    groups: Sequence[tuple[Arm, pd.Series]],
    known: tuple[str, pd.Series] | None,
    seconds: Mapping[str, Mapping[str, float]],
) -> None:
    """What was measured here, above the paper's figures."""
    means = {arm.key: f"{values.mean():.2f}" for arm, values in groups}
    took = {key: seconds_an_edit(sum(phases.values())) for key, phases in seconds.items() if phases}
    ours = (
        (f"{short_model(pair.runs[0].model)}, here", "good"),
        " / ".join(run.method for run in pair.runs),
        f"{known[1].mean():.2f}" if known else "–",
        means.get("without", "–"),
        means.get("stopped", "–"),
        took.get("without", "–"),
        took.get("stopped", "–"),
    )
    columns = (
        "original_fact_prob",
        "edited_fact_prob_without_mpes",
        "edited_fact_prob_with_mpes",
        "seconds_per_edit_without_mpes",
        "seconds_per_edit_with_mpes",
    )
    published = paper_tables.filtered(1)
    rows = [ours]
    for (method, model), part in published.groupby(["method", "model"], sort=False):
        values = dict(zip(part["quantity"], part["value"], strict=True))
        rows.append((model, method, *(f"{values[name]:.2f}" if name in values else "–" for name in columns)))
    heads = ["p, known facts", "p, without MPES", "p, with MPES", "s, without", "s, with"]
    widgets.table(
        [("Model", "name"), ("Method", "name"), *((head, "right") for head in heads)],
        rows,
        "Probability of known and of edited facts, and seconds per edit, here and in the paper",
    )
    st.caption(
        "p: of facts that the model knows by itself, and of edited ones; s: seconds per edit. The paper's models are "
        "11 to 60 times as large as the embedded one and were edited on GPUs, on CounterFact: compare columns within a "
        "row rather than rows."
    )
