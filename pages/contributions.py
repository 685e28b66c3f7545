"""Do the edited layers dominate the residual stream? What each sublayer adds to it, before (top) and after (bottom).

For stored checkpoints, and for any text on the Edit page's model, which is loaded only on request.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial

import pandas as pd
import streamlit as st
from streamlit.delta_generator import DeltaGenerator

from dashboard import links, page_list
from dashboard.charts import contributions as charts
from dashboard.charts.contributions import VALUES, Pair
from dashboard.charts.runs import Line
from dashboard.elements import chart_card, run_picker, widgets
from dashboard.parts.microscope import run_card
from dashboard.parts.runs_compared import foretold_card
from dashboard.parts.runs_compared.page_frame import ANSWER
from dashboard.reading import findings, run_frames, run_words
from dashboard.reading.answers import dominance
from dashboard.talk import presenter
from dashboard.visitors import browser_session
from dashboard.visitors.messages import Message
from dashboard.visitors.widget_state import remembered
from encore_core.errors import InputError
from encore_core.measures.contributions import Contributions
from encore_core.measures.sublayers import measure_contributions
from encore_core.runs import RunInfo

ALL, LAST = "all", "last"
LONGEST_TEXT = 1000
EXAMPLE = "The Eiffel Tower is in the city of Paris, and millions of people visit it every year."
KEEP = {"persist_state": "session"}


# -- what is shown -----------------------------------------------------------------------------------------------------


def restore(asked: Mapping[str, Sequence[str]], known: Mapping[str, RunInfo]) -> None:
    """Set the page's controls to what a link asks for; invalid values are ignored."""
    run_picker.restore(asked, known)
    first = {name: values[0] for name, values in asked.items() if values}
    st.session_state["contributions_value"] = first["value"] if first.get("value") in VALUES else "share"
    if "show" in first:
        st.session_state["contributions_run"] = first["show"]
    for name, usual in (("before", 0), ("after", LAST)):
        text = first.get(name, "")
        st.session_state[f"contributions_{name}"] = int(text) if text.isdecimal() and len(text) < 9 else usual
    if "text" in first:
        st.session_state["contributions_text"] = first["text"][:LONGEST_TEXT]
    run_card.restore(asked)


def pick_shown(runs: Sequence[RunInfo], lines: Sequence[Line]) -> list[RunInfo]:
    """Pick one of the runs, or all of them."""
    names = {line.run: line.name for line in lines} | ({ALL: "all of them"} if len(runs) > 1 else {})
    if remembered("contributions_run", runs[0].id) not in names:
        st.session_state["contributions_run"] = runs[0].id
    if len(runs) > 1:
        st.segmented_control(
            "Run shown",
            list(names),
            key="contributions_run",
            required=True,
            **KEEP,
            format_func=lambda run: widgets.plain(names[run]),
        )
    chosen = st.session_state["contributions_run"]
    return [run for run in runs if chosen in (ALL, run.id)]


def pick_value() -> str:
    remembered("contributions_value", "share")
    st.segmented_control(
        "What is measured", list(VALUES), key="contributions_value", format_func=VALUES.get, required=True,
        help="Share: the length of what a sublayer adds, over the sum for all (the paper's average norm proportion). "
        "Signed share: only the component along the final stream counts; all add up to 1.", **KEEP,
    )  # fmt: skip
    return st.session_state["contributions_value"]


def pick_checkpoints(there: Sequence[int]) -> tuple[int, int | str]:
    """Pick two checkpoints; "last" is the latest of each run, even of one in progress."""
    choices = {"before": list(there), "after": [LAST, *reversed(there)]}
    for name, known in choices.items():
        if remembered(f"contributions_{name}", known[0]) not in known:
            st.session_state[f"contributions_{name}"] = known[0]

    def named(at: int | str) -> str:
        return "the last checkpoint" if at == LAST else charts.moment(at)

    left, right = st.columns(2)
    left.selectbox("Before", choices["before"], key="contributions_before", format_func=named, **KEEP)
    right.selectbox("After", choices["after"], key="contributions_after", format_func=named, **KEEP)
    return st.session_state["contributions_before"], st.session_state["contributions_after"]


def pair_of(line: Line, there: Sequence[int], before: int, after: int | str) -> Pair:
    """A run's last checkpoints at or before those wanted; its first where there is none."""
    wanted_after = there[-1] if after == LAST else after
    found = [max((at for at in there if at <= wanted), default=there[0]) for wanted in (before, wanted_after)]
    return Pair(line, *found)


# -- stored checkpoints ------------------------------------------------------------------------------------------------


def stored(runs: Sequence[RunInfo], value: str, answer: DeltaGenerator) -> dict[str, str | list[str]]:
    """Show the contributions of the chosen runs; return the query of a link to them."""
    asked_for = {"run": [run.id for run in runs]}
    measured = run_frames.read("contributions", runs)
    there = {run: sorted(int(at) for at in part["edits"].unique()) for run, part in measured.groupby("run", sort=False)}
    without = [run for run in runs if run.id not in there]
    if without:
        widgets.notice(Message("info", f"Contributions were not measured in {run_words.listed(without)}."))
    runs = [run for run in runs if run.id in there]
    if not runs:
        return asked_for
    n_edits = f"{max(run.done for run in runs):,} edits"
    question = f"After {n_edits}, how much of the residual stream do the edited layers write?"
    choices = ["less than before", "as much as before", "more, but not most of it", "most of it"]
    if presenter.covered("contributions", asked_for["run"], question, choices):
        return asked_for
    lines = {line.run: line for line in run_frames.lines(runs)}
    with st.container(border=True, key="card_contributions"):
        above = st.container()
        shown = pick_shown(runs, list(lines.values()))
        before, after = pick_checkpoints(sorted({at for run in shown for at in there[run.id]}))
        pairs = [pair_of(lines[run.id], there[run.id], before, after) for run in shown]
        bars(measured, pairs, value, "contributions", chart_card.commands_of(shown), above=above)
    everyone = [
        findings.standing(measured, pair_of(lines[run.id], there[run.id], before, after), value) for run in runs
    ]
    with answer:
        widgets.answer(dominance.answer(everyone, [run.model for run in runs]))
        for note in depths(measured, pairs):
            widgets.notice(Message("info", note))
    with st.container(border=True, key="card_standings"):
        standings(everyone, VALUES[value])
    foretold_card.show(runs, list(lines.values()))
    view = {"before": str(before), "after": str(after)}
    return asked_for | view | ({"show": st.session_state["contributions_run"]} if len(runs) > 1 else {})


def depths(measured: pd.DataFrame, pairs: Sequence[Pair]) -> list[str]:
    """A note where the models differ in depth."""
    names = [(pair.line.name, int(measured["layer"][measured["run"] == pair.line.run].max()) + 1) for pair in pairs]
    if len({depth for _, depth in names}) < 2:
        return []
    told = ", ".join(f"{name} {depth}" for name, depth in names)
    return [f"These models differ in depth ({told} layers): compare shapes, not single bars."]


def bars(
    measured: pd.DataFrame,
    pairs: Sequence[Pair],
    value: str,
    key: str,
    commands: Sequence[str],
    aside: str = "",
    above: DeltaGenerator | None = None,
) -> None:
    """The two charts of some runs: before (top) and after (bottom), and the difference; the heading goes `above`."""
    panels = charts.moments(measured, pairs)
    rows = charts.shown(measured, panels, value)
    names = ", ".join(pair.line.name for pair in pairs)
    revision = f"{value} {' '.join(pair.line.run for pair in pairs)}"
    if any(pair.after != pair.before for pair in pairs):
        heading = "Before (top) and after (bottom)"
    else:
        heading = "One checkpoint" if any(panel.edits for panel in panels) else "As loaded"
    chart_card.show(
        partial(charts.bars, rows, panels, value=value),
        key=f"{key} before and after",
        heading=heading,
        aside=aside or f"{VALUES[value]} of each sublayer, mean over the tokens of a fixed text",
        alt=f"The {VALUES[value]} of every sublayer, edited layers violet and hatched: {names}. Its values are in the "
        "CSV file below.",
        frame=rows,
        commands=commands,
        revision=revision,
        above=above,
    )
    changed = [pair for pair in pairs if pair.after != pair.before]
    if not changed:
        return
    differences = charts.differences(measured, changed, value)
    chart_card.show(
        partial(charts.change, differences, changed, value=value),
        key=f"{key} difference",
        heading="Difference",
        aside="after minus before, in percentage points",
        alt=f"Change of the {VALUES[value]} of every sublayer: {names}. Its values are in the CSV file below.",
        frame=differences,
        commands=commands,
        revision=revision,
    )


def standings(found: Sequence[findings.Standing], value_name: str) -> None:
    """The runs in one table."""

    def percent(share: float) -> str:
        return "no number" if share != share else f"{100 * share:.2f} %"

    widgets.heading("The edited layers among all", f"{value_name} of their MLPs together")
    columns = [
        ("Run", "name"), ("Edited MLPs", "about"), ("Edits", "right"), ("Before", "right"), ("After", "right"),
        ("Change", "right"), ("Largest edited", "name"), ("Largest of all", "about"), ("Sum, after", "about"),
    ]  # fmt: skip
    rows = [
        (
            one.pair.line.name,
            findings.blocks(one.pair.line.layers),
            f"{one.pair.after:,}",
            percent(one.before),
            percent(one.after),
            *(
                (
                    f"{100 * (one.after - one.before):+.2f}",
                    f"{one.largest_edited}, {one.place} of {one.sublayers}",
                    f"{one.largest}, {percent(one.largest_share)}",
                    f"{one.sum_after:.4f}",
                )
                if one.is_number
                else ("–",) * 4
            ),
        )
        for one in found
    ]
    widgets.table(columns, rows, f"{value_name} of the edited MLPs before and after, by run")


# -- live --------------------------------------------------------------------------------------------------------------


def live(value: str) -> None:
    """Contributions on a text of the visitor's, without and with the edits of the Edit page."""
    with st.container(border=True, key="card_live"):
        widgets.heading("On your own text", "the model of the Edit page, without and with your edits")
        remembered("contributions_text", EXAMPLE)
        with st.form("contributions_live", border=False):
            text = st.text_area("Text", key="contributions_text", max_chars=LONGEST_TEXT, height=80, **KEEP)
            ready = "visitor" in st.session_state
            asked = st.form_submit_button("Measure" if ready else "Load the model and measure", type="primary")
        if not ready:
            st.caption("The first start takes up to a minute; later ones take seconds.")
        try:
            if asked:
                measure(text)
            show_measured(text, value)
        except InputError as error:
            widgets.problem(error)


def measure(text: str) -> None:
    """Measure on a text, and remember it until the model or its edits change."""
    st.session_state.pop("contributions_found", None)
    if not text.strip():
        raise InputError("The text is blank; write at least one word.")
    was_there = "visitor" in st.session_state
    place = st.empty()
    visitor = browser_session.visitor(lambda what, share: place.progress(min(1.0, max(0.0, share)), text=f"{what} …"))
    place.empty()
    with st.spinner("Measuring; waits while somebody else edits this model …"):
        with visitor.session.pristine() as lm:
            found = {0: measure_contributions(lm, [text])}
        if visitor.session.n_edits:
            with visitor.session.edited() as lm:
                found[visitor.session.n_edits] = measure_contributions(lm, [text])
    # The readings are replaced as soon as the model or its edits change.
    st.session_state["contributions_found"] = (visitor.after, text, found)
    if not was_there:
        st.rerun()  # from now on the frame shows its choice of models


def show_measured(text: str, value: str) -> None:
    """Show what was measured last, if it still holds."""
    if "contributions_found" not in st.session_state:
        return
    visitor = browser_session.current()
    readings, measured_text, found = st.session_state["contributions_found"]
    if readings is not visitor.after or measured_text != text:
        words = "The text, your model or its edits have changed since this was measured; press Measure again."
        widgets.notice(Message("info", words))
        return
    settings = visitor.session.settings
    pair = Pair(Line("your-model", settings.method, settings.method, settings.layers), min(found), max(found))
    frame = pd.concat([frame_of(edits, one) for edits, one in found.items()], ignore_index=True)
    n_tokens = found[pair.before].n_tokens
    words = findings.dominance(findings.standing(frame, pair, value), VALUES[value])
    if pair.after == 0:
        words += "\nThere are no edits on your model; make some on the Edit page, and measure again to see after."
    widgets.notice(Message("info", words))
    bars(frame, [pair], value, "your text", (), f"{VALUES[value]} on {n_tokens} token{'s' * (n_tokens != 1)}")


def frame_of(edits: int, found: Contributions) -> pd.DataFrame:
    """What was measured, with the columns of the stored series."""
    rows = [
        ("your-model", edits, place, part.label, part.kind, part.layer, part.share, part.signed_share)
        for place, part in enumerate(found.parts)
    ]
    columns = ["run", "edits", "sublayer", "label", "kind", "layer", "share", "signed_share"]
    return pd.DataFrame(rows, columns=columns).astype({"layer": "Int64"})


# -- the page ----------------------------------------------------------------------------------------------------------


def main() -> None:
    st.title(page_list.question("contributions"), anchor=False)
    view: dict[str, str | list[str]] = {}
    runs: list[RunInfo] = []
    try:
        known = run_picker.measured_runs()
        asked = links.opened("contributions")
        if asked is not None:
            restore(asked, known)
        answer = st.container(key=ANSWER)
        runs = pick_runs(known)
        value = pick_value()
        if runs:
            view = stored(runs, value, answer)
            run_card.show(runs)
            view |= run_card.view(runs)
    except InputError as error:
        widgets.problem(error)
        value = remembered("contributions_value", "share")
    live(value)
    text = st.session_state["contributions_text"]
    links.write("contributions", {**view, "value": value, "text": text if text != EXAMPLE else ""})
    run_picker.follow(runs)


def _measured_twice(run: RunInfo) -> bool:
    """Whether contributions were measured before and after edits."""
    measured = run_frames.read("contributions", [run])
    return bool(len(measured)) and measured["edits"].min() == 0 < measured["edits"].max()


def pick_runs(known: Mapping[str, RunInfo]) -> list[RunInfo]:
    """The runs of the shared choice."""
    if not known:
        words = "No run has reached its first checkpoint yet. Start some on the Run page, or measure a text below."
        widgets.notice(Message("info", words))
        return []
    runs = run_picker.pick("contributions", known, has=_measured_twice)
    if runs:
        run_picker.warn_of_differences(runs)
    else:
        widgets.notice(Message("info", "Pick one to four runs above."))
    return runs


main()
