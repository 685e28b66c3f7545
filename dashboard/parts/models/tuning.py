"""The evidence for hyper-parameters that `encore tune` has found: what was tried, and how it scored."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import pandas as pd
import streamlit as st

from dashboard.charts import tuning as charts
from dashboard.elements import chart_card, widgets
from dashboard.reading.run_words import duration
from dashboard.visitors.messages import Message
from encore_core.tuned_rows import TunedRow
from encore_core.tuning.lives import HELD_OUT

SETTINGS = {
    "layers": "Edited layers", "lambda_p": "λp", "lambda_n": "λn", "null_threshold": "Null-space threshold", "l2": "L2",
    "lr": "Learning rate", "search_step": "η, step",
}  # fmt: skip
"""Setting that is searched over → its title, in the order of the panels."""


def show(row: TunedRow) -> None:
    """The evidence of a row: scores against the values tried, where facts are recalled, and every trial."""
    trials = row.evidence.get("trials") or []
    with st.container(border=True, key="card_tuning"):
        if not trials:
            widgets.heading("What encore tune has found", row.method)
            widgets.notice(
                Message("warning", "These settings were stored without their trials, so there is no evidence to show.")
            )
            return
        frame = searched(row)
        titles = {name: title for name, title in SETTINGS.items() if name in set(frame["setting"])}
        facts = f"{row.evidence.get('facts', '?')} facts"
        if titles:
            chart_card.show(
                partial(charts.searched, frame, titles),
                key="tuning",
                heading="What encore tune has tried",
                aside=f"{row.method}, scores of {facts} in per cent; ◆ is what was chosen",
                alt="Scores against the values of each setting that was searched; the same values are in the table.",
                frame=frame,
                commands=[command(row.model, row.method)],
            )
        else:
            widgets.heading("What encore tune has tried", f"{row.method}: no other value in the time allowed")
        for line in verdict(row):
            widgets.notice(line)
        _trace(row)
        with st.expander(f"All {len(trials)} trials", key="tuning_trials"):
            columns, rows = table(trials)
            widgets.table(columns, rows, "Every trial of the search, in order")
    if not row.in_force:
        before, after = held_out(row)
        did_worse = before and after and after["overall"] < before["overall"]
        why = "they scored lower on facts that the search has not seen" if did_worse else "the published one is"
        st.caption(f"These settings are not in use: {why}. encore tune --adopt uses these instead.")


def _trace(row: TunedRow) -> None:
    trace = row.evidence.get("trace")
    if not trace:
        return
    edited = set(row.settings.get("layers", ()))
    rows = [(layer, effect, layer in edited) for layer, effect in enumerate(trace["effects"])]
    frame = pd.DataFrame(rows, columns=["layer", "effect", "edited"])
    chart_card.show(
        partial(charts.recalled, frame),
        key="tuning trace",
        heading="Where facts are recalled",
        aside=f"causal trace of {trace['facts']} facts: how much of the answer each block restores under noise",
        alt="Average indirect effect of each block; the values are in the CSV file.",
        frame=frame,
        commands=[command(row.model, row.method)],
    )


def how_to_get_one(model: str, method: str) -> None:
    """The command that searches, where no row has been found."""
    with st.container(border=True, key="card_tuning"):
        widgets.heading("Find hyper-parameters for this model", "a search on 50 facts; it resumes where it was stopped")
        found = command(model, method)
        st.code(f"{found} --estimate\n{found}\n{found} --horizon 2000", language=None, wrap_lines=True)
        st.caption("--horizon judges settings by what is left of the model after so many edits; it takes hours.")


def command(model: str, method: str) -> str:
    """The command that searches."""
    return shlex.join(["encore", "tune", "--model", model, "--method", method])


# -- rows and lines ----------------------------------------------------------------------------------------------------


def searched(row: TunedRow) -> pd.DataFrame:
    """What the chart shows.

    For each setting that was searched over: its trials, and others that differ from them only in it, such as the one
    where the search along it began.

    Returns:
        setting, place (0, 1, … in order of the values), value (as text), taken (whether it is the row's), the scores
        of `charts.SCORES`, norm_ratio, perplexity_ratio.
    """
    trials = [trial for trial in row.evidence["trials"] if not trial["stage"].startswith(HELD_OUT)]
    columns = [*charts.SCORES, "norm_ratio", "perplexity_ratio"]
    found = []
    for name in SETTINGS:
        lines = [_others(trial, name) for trial in trials if trial["stage"] == name]
        of_it = [trial for trial in trials if _others(trial, name) in lines]
        for place, trial in enumerate(sorted(of_it, key=lambda trial: trial["settings"][name])):
            value = trial["settings"][name]
            taken = value == row.settings.get(name)
            found.append((name, place, as_text(value), taken, *(trial[column] for column in columns)))
    return pd.DataFrame(found, columns=["setting", "place", "value", "taken", *columns])


def _others(trial: Mapping[str, Any], name: str) -> dict[str, Any]:
    return {key: value for key, value in trial["settings"].items() if key != name}


def held_out(row: TunedRow) -> tuple[Mapping[str, Any] | None, Mapping[str, Any] | None]:
    """The trials of the settings in force and of those found, on facts that the search has not seen."""
    by_stage = {trial["stage"]: trial for trial in row.evidence["trials"]}
    return by_stage.get(f"{HELD_OUT}present"), by_stage.get(f"{HELD_OUT}found")


def verdict(row: TunedRow) -> list[Message]:
    """How it did on facts that the search has not seen, and whether it was cut short."""
    before, after = held_out(row)
    lines = []
    if before and after:
        better = after["overall"] - before["overall"]
        lines.append(
            Message(
                "info",
                f"On {row.evidence.get('held_out_facts', '?')} facts that the search has not seen, edited as one "
                f"batch: overall score (teacher-forced) {before['overall']:.1f} before, {after['overall']:.1f} with "
                f"what was found ({better:+.1f}). A difference of a few points may be chance.",
            )
        )
    if not row.evidence.get("complete", True):
        lines.append(Message("info", "The search was cut short; the same command resumes where it stopped."))
    return lines


def table(trials: Sequence[Mapping[str, Any]]) -> tuple[list[tuple[str, str]], list[tuple[object, ...]]]:
    """Columns and rows of every trial."""
    names = [name for name in SETTINGS if any(name in trial["settings"] for trial in trials)]
    columns = [("Stage", "name"), *((SETTINGS[name], "right") for name in names)]
    columns += [(title, "right") for title in charts.SCORES.values()]
    columns += [("‖W‖ / ‖W₀‖", "right"), ("Perplexity", "right"), ("Time", "right")]
    rows = [
        (
            trial["stage"],
            *(as_text(trial["settings"].get(name)) for name in names),
            *(f"{trial[score]:.1f}" for score in charts.SCORES),
            "–" if trial["norm_ratio"] is None else f"{trial['norm_ratio']:.3f}",
            "–" if trial["perplexity_ratio"] is None else f"× {trial['perplexity_ratio']:.3f}",
            duration(trial["seconds"]),
        )
        for trial in trials
    ]
    return columns, rows


def as_text(value: object) -> str:
    if isinstance(value, list):
        in_a_row = len(value) > 2 and value == list(range(value[0], value[-1] + 1))
        return f"{value[0]}-{value[-1]}" if in_a_row else ",".join(map(str, value))
    return "" if value is None else f"{value:g}"
