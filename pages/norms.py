"""Where does the growth land? Norms of the edited matrices over edits, and of every layer's at some checkpoints."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial

import pandas as pd
import streamlit as st

from dashboard import links, page_list
from dashboard.charts import norm_layers
from dashboard.charts import runs as run_charts
from dashboard.elements import chart_card, layer_choice, run_picker, widgets
from dashboard.reading import findings, run_frames
from dashboard.visitors.messages import Message
from dashboard.visitors.session_state import remembered
from encore_core.errors import InputError
from encore_core.runs import RunInfo

AT = "norms_at"  # the checkpoints chosen
USUAL = "norms_usual_at"  # those that were chosen for the visitor


def restore(asked: Mapping[str, Sequence[str]], known: Mapping[str, RunInfo]) -> None:
    """Set the page's controls to what a link asks for; nonsense is left out."""
    run_picker.restore(asked, known)
    layer_choice.restore("norms", asked)
    if "at" in asked:
        st.session_state[AT] = [int(text) for text in asked["at"] if text.isdecimal() and len(text) < 9]
        st.session_state[USUAL] = None


def usual(norms: pd.DataFrame) -> list[int]:
    """0, half and all of the edits that every run has come to, as far as there are checkpoints."""
    common = set.intersection(*(set(part["edits"]) for _, part in norms.groupby("run", sort=False)))
    if max(common, default=0) == 0:
        common = set(norms["edits"])
    last = max(common)
    half = min(common, key=lambda at: (abs(at - last / 2), at))
    return sorted({int(min(common)), int(half), int(last)})


def pick_checkpoints(norms: pd.DataFrame) -> list[int]:
    """The checkpoints at which all layers are shown; until others are chosen the usual ones, of runs that go on too."""
    there, at_first = sorted(int(at) for at in norms["edits"].unique()), usual(norms)
    chosen = [at for at in remembered(AT, at_first) if at in there][: norm_layers.MOST_CHECKPOINTS]
    if not chosen or st.session_state.get(USUAL) == st.session_state[AT]:
        chosen = at_first
    st.session_state[AT], st.session_state[USUAL] = chosen, at_first
    st.multiselect(
        "After … edits",
        there,
        key=AT,
        max_selections=norm_layers.MOST_CHECKPOINTS,
        persist_state="session",
        format_func=lambda edits: f"{edits:,}" if edits else "0, as loaded",
    )
    return sorted(st.session_state[AT]) or at_first


def drawn(norms: pd.DataFrame, runs: Sequence[RunInfo], value: str) -> pd.DataFrame:
    """Rows as the files have them: whether the layer is edited, and the value that is drawn, without the other one."""
    layers = {run.id: run.layers for run in runs}
    edited = [layer in layers[run] for run, layer in zip(norms["run"], norms["layer"], strict=True)]
    return norms[["run", "edits", "layer"]].assign(edited=edited, **{value: norms[value]})


def main() -> None:
    st.title(page_list.question("norms"), anchor=False)
    try:
        known = run_picker.measured_runs()
    except InputError as error:
        widgets.problem(error)
        return
    asked = links.opened("norms")
    if asked is not None:
        restore(asked, known)
    if not known:
        words = "No run has come to its first checkpoint yet. Start some on the Run page; their norms appear here."
        widgets.notice(Message("info", words))
        return
    runs = run_picker.pick(known)
    if not runs:
        widgets.notice(Message("info", "Pick one to four runs above."))
        links.write("norms", {})
        return
    run_picker.warn_of_differences(runs)
    try:
        shown(runs)
    except InputError as error:
        widgets.problem(error)


def shown(runs: Sequence[RunInfo]) -> None:
    """Everything below the choice of runs."""
    measured = run_frames.read("norms", runs)
    there = set(measured["run"])
    without = [run for run in runs if run.id not in there]
    runs = [run for run in runs if run.id in there]
    if without:
        names = ", ".join(run.id for run in without)
        widgets.notice(Message("info", f"No norms were measured in {names}."))
    if not runs:
        links.write("norms", {"run": [run.id for run in without]})
        return
    lines, commands = run_frames.lines(runs), chart_card.commands_of(runs)
    answer = st.container()
    with st.container(border=True, key="card_norms"):
        scale, layers = layer_choice.pick("norms", runs, measured)
        value = "ratio" if scale == "ratio" else "norm"
        rows = drawn(measured, runs, value)
        over_edits = rows[rows["edited"]] if layers is None else rows[rows["layer"].isin(layers)]
        names = ", ".join(line.name for line in lines)
        if over_edits.empty:
            widgets.notice(Message("info", "None of these runs has the layers chosen; choose others."))
        else:
            chart_card.show(
                partial(run_charts.norms, measured, lines, scale=scale, layers=layers),
                key="norms over edits",
                heading="Over edits",
                aside="Frobenius norm of the MLP output matrices, a line a layer",
                alt=f"Norms of the matrices against edits: {names}. The figures are in the CSV file below.",
                frame=over_edits,
                commands=commands,
                revision=f"{scale} {' '.join(there)}",
            )
    with st.container(border=True, key="card_layers"):
        checkpoints = pick_checkpoints(measured)
        at_checkpoints = rows[rows["edits"].isin(checkpoints)]
        chart_card.show(
            partial(norm_layers.norms, measured, lines, checkpoints, scale=scale),
            key="norms by layer",
            heading="Layer by layer",
            aside="every layer's matrix; edited ones are red diamonds",
            alt=f"Norms of all layers' matrices at {len(checkpoints)} checkpoints: {names}. "
            "The figures are in the CSV file below.",
            frame=at_checkpoints,
            commands=commands,
            revision=f"{scale} {' '.join(there)}",
        )
        late = [
            line.name for line in lines if checkpoints[-1] not in set(measured["edits"][measured["run"] == line.run])
        ]
        if late:
            words = f"{', '.join(late)}: no checkpoint after {checkpoints[-1]:,} edits, so no line for it."
            widgets.notice(Message("info", words))
    with answer:
        widgets.notice(Message("info", findings.growth(measured, lines, checkpoints[-1])))
    view = {"run": [run.id for run in [*runs, *without]], **layer_choice.view("norms")}
    if checkpoints != st.session_state[USUAL]:
        view["at"] = [str(at) for at in checkpoints]
    links.write("norms", view)
    run_picker.follow(runs)


main()
