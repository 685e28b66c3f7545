"""Does it match what was published? The paper's tables, beside the results of this program's runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial

import pandas as pd
import streamlit as st
from streamlit.delta_generator import DeltaGenerator

from dashboard import links, page_list
from dashboard.charts import paper as paper_charts
from dashboard.elements import chart_card, run_picker, widgets
from dashboard.reading import paper_tables, recorded_choice, run_frames
from dashboard.reading.answers import published
from dashboard.reading.paper_tables import HERE, PUBLISHED, QUANTITIES, TABLES
from dashboard.reading.run_words import belongs, in_order, label, newest_comparison, short_model
from dashboard.visitors.messages import Message
from dashboard.visitors.widget_state import remembered
from encore_core.errors import InputError
from encore_core.measures.scores import PROTOCOL
from encore_core.runs import RunInfo
from encore_core.runs.fact_values import NO_INTERVAL

DATASETS = {"": "both", "CounterFact": "CounterFact", "zsRE": "zsRE"}
PAPER_MODELS = "GPT2-XL (1.5 B parameters), Llama-2-7B, Llama-3-8B"
SIZES = {"smollm2-135m": "SmolLM2-135M (0.135 B parameters)"}
DEVICES = {"cpu": "a processor", "cuda": "a GPU", "mps": "a GPU (mps)"}


# -- what is looked at -------------------------------------------------------------------------------------------------


def restore(asked: Mapping[str, Sequence[str]], known: Mapping[str, RunInfo]) -> None:
    """Set the page's controls to what a link asks for. What does not exist is left out."""
    first = {name: values[0] for name, values in asked.items() if values}
    if first.get("dataset", "") in DATASETS:
        st.session_state["paper_dataset"] = first.get("dataset", "")
    table = first.get("table", "")
    if table.isdecimal() and len(table) < 9 and int(table) in TABLES:
        st.session_state["paper_table"] = int(table)
    for name, key in (("model", "paper_models"), ("method", "paper_methods")):
        st.session_state[key] = list(asked.get(name, ()))
    if "run" in asked:
        st.session_state["paper_runs"] = [run for run in dict.fromkeys(asked["run"]) if run in known]
        st.session_state["paper_runs_missing"] = [run for run in asked["run"] if run not in known]


def pick_table() -> tuple[int, list[str], list[str]]:
    """Pick the table, its models (none means all) and its rows."""
    remembered("paper_dataset", "")
    remembered("paper_table", paper_tables.DEFAULT_TABLE)
    above = st.container()
    left, middle, right = st.columns(3)
    with left:
        st.selectbox("Dataset", list(DATASETS), key="paper_dataset", format_func=DATASETS.get, persist_state="session")
    there = paper_tables.tables_of(st.session_state["paper_dataset"])
    if st.session_state["paper_table"] not in there:
        st.session_state["paper_table"] = there[0]
    with above:
        st.selectbox(
            "Table of the paper",
            there,
            key="paper_table",
            format_func=lambda number: f"Table {number} · {TABLES[number].title}",
            persist_state="session",
        )
    number = st.session_state["paper_table"]
    models, rows = paper_tables.choices(number)
    for key, choices in (("paper_models", models), ("paper_methods", rows)):
        # Choices that only another table offers are dropped.
        st.session_state[key] = [value for value in remembered(key, []) if value in choices]
    with middle:
        st.multiselect("Models", models, key="paper_models", placeholder="all of them", persist_state="session")
    with right:
        st.multiselect("Methods", rows, key="paper_methods", placeholder="all of them", persist_state="session")
    chosen = st.session_state["paper_methods"]
    return number, st.session_state["paper_models"], [row for row in rows if row in chosen] or rows


def pick_runs(known: Mapping[str, RunInfo]) -> list[RunInfo]:
    """Pick runs to compare with the paper: at first those of `comparison`."""
    remembered("paper_runs", [run.id for run in comparison(known)])
    st.session_state["paper_runs"] = [run for run in st.session_state["paper_runs"] if run in known]
    with st.container(horizontal=True, vertical_alignment="bottom", key="pick_runs"):
        st.multiselect(
            "Measured here: runs",
            list(known),
            key="paper_runs",
            format_func=lambda run: label(known[run]),
            placeholder="none; pick runs to compare with the paper",
            persist_state="session",
        )
        _offer_others(known)
    missing = st.session_state.pop("paper_runs_missing", [])
    if missing:
        widgets.notice(Message("warning", f"The link names runs that are not in this store: {', '.join(missing[:4])}."))
    return in_order([known[run] for run in st.session_state["paper_runs"]])


def comparison(known: Mapping[str, RunInfo]) -> list[RunInfo]:
    """The recorded runs of most of the paper's methods that belong together, else the newest runs that do.

    Of sets with as many methods, the one on a dataset of the paper is shown.
    """
    runs = list(known.values())
    return _recorded(runs) or _of_newest(runs)


def _recorded(runs: Sequence[RunInfo]) -> list[RunInfo]:
    return recorded_choice.broadest(runs, paper_tables.is_in_paper, rather=paper_tables.has_its_facts)


def _of_newest(runs: Sequence[RunInfo]) -> list[RunInfo]:
    """The newest run of each method that belongs with the newest comparison; own runs come first in `runs`."""
    anchors = newest_comparison(runs)
    if not anchors:
        return []
    group: dict[str, RunInfo] = {}
    for run in runs:
        if belongs(run) == belongs(anchors[0]):
            group.setdefault(run.method, run)
    return in_order(list(group.values()))


def _offer_others(known: Mapping[str, RunInfo]) -> None:
    """A press to one's own runs, or back to the recorded ones."""
    shown = [known[run] for run in st.session_state["paper_runs"]]
    own = _of_newest([run for run in known.values() if not run.recorded])
    recorded = _recorded(list(known.values()))
    if own and (not shown or any(run.recorded for run in shown)):
        words, icon, wanted = "Show my runs", "person", own
    elif recorded and shown and not any(run.recorded for run in shown):
        words, icon, wanted = "Show recorded runs", "inventory_2", recorded
    else:
        return
    key = "own_runs" if wanted is own else "recorded_runs"
    st.button(words, key=key, icon=f":material/{icon}:", on_click=_show, args=([run.id for run in wanted],))


def _show(runs: list[str]) -> None:
    st.session_state["paper_runs"] = runs


# -- what is shown -----------------------------------------------------------------------------------------------------


def together(number: int, paper: pd.DataFrame, here: pd.DataFrame, runs: Sequence[RunInfo]) -> pd.DataFrame:
    """Published figures and those measured here, each line with its source.

    Returns:
        table, dataset, model, method (as printed, or the run's), row, quantity, value, edits (missing for published
        ones), run, source ("published" or "measured here"), shown.
    """
    named = {run.id: run for run in runs}
    theirs = paper.assign(edits=pd.NA, n=pd.NA, low=pd.NA, high=pd.NA, run="", source=PUBLISHED)
    ours = here.assign(
        table=number,
        dataset=[str(named[run].plan_json.get("facts")) for run in here["run"]],
        model=[short_model(named[run].model) for run in here["run"]],
        method=[named[run].method for run in here["run"]],
        source=HERE,
    )
    frame = pd.concat([theirs.astype(object), ours.astype(object)], ignore_index=True) if len(ours) else theirs
    shown = [
        paper_tables.shown_value(row.quantity, float(row.value), row.source == HERE, row.n, row.low, row.high)
        for row in frame.itertuples()
    ]
    columns = ["table", "dataset", "model", "method", "row", "quantity", "value", "n", "low", "high", "edits", "run",
               "source"]  # fmt: skip
    return frame[columns].assign(shown=shown)


def source_names(frame: pd.DataFrame) -> dict[tuple[str, str], str]:
    """(source, model) → what the chart's legend calls it, published ones first."""
    pairs = frame[["source", "model"]].drop_duplicates().itertuples(index=False)
    return {(row.source, row.model): f"{row.model}, {row.source}" for row in pairs}


def draw(number: int, frame: pd.DataFrame, rows: Sequence[str], runs: Sequence[RunInfo]) -> None:
    """The table as a chart."""
    names = source_names(frame)
    drawn = frame.assign(source=[names[row.source, row.model] for row in frame.itertuples()])
    panels = [
        paper_charts.Panel(name, QUANTITIES[name].title, QUANTITIES[name].axis)
        for name in paper_tables.filtered(number)["quantity"].unique()
    ]
    sources = {name: source == HERE for (source, _), name in names.items()}
    used = [run for run in runs if run.id in set(frame["run"])]
    chart_card.show(
        partial(paper_charts.dots, drawn, panels, rows, sources),
        key=f"paper table {number}",
        heading=f"Table {number}: {TABLES[number].title}",
        aside=f"{paper_tables.SOURCE}; filled marks: published, hollow marks: {HERE}",
        alt=f"The figures of table {number} by method; they are in the table below.",
        frame=frame.drop(columns=["row", "shown"]),
        commands=chart_card.commands_of(used),
        revision=str(number),
    )


def figures_table(frame: pd.DataFrame, rows: Sequence[str], quantities: Sequence[str]) -> None:
    """Published figures and ours, grouped by method: a line per model, ours last and marked."""
    lines = []
    for row in rows:
        of_row = frame[frame["row"] == row]
        several = of_row["run"].nunique() > 2  # "" is the paper
        for (source, model, run), part in of_row.groupby(["source", "model", "run"], sort=False):
            value = dict(zip(part["quantity"], part["shown"], strict=True))
            cells = [value.get(name, "–") for name in quantities]
            edits = "–"
            if source == HERE:
                model = (f"◆ {model}, here" + (f": {run}" if several else ""), "warn")
                cells = [(cell, "warn") for cell in cells]
                edits = ", ".join(
                    f"{number:,}" for number in sorted({int(number) for number in part["edits"] if number})
                )
            lines.append([part["method"].iloc[0], model, *cells, edits])
    columns = [
        ("Method", "name"),
        ("Model", "name"),
        *((QUANTITIES[name].title, "right") for name in quantities),
        ("Edits, here", "right"),
    ]
    widgets.table(columns, lines, "Published figures, and those measured here in rows of their own")


def differences(runs: Sequence[RunInfo]) -> list[list[str]]:
    """What differs between the paper's runs and those here: aspect, there, here."""

    def all_of(values: Sequence[str]) -> str:
        return " / ".join(dict.fromkeys(values)) or "–"

    def planned(name: str) -> list[str]:
        return [f"{run.plan_json.get(name, '–')}" for run in runs]

    models = [SIZES.get(run.model, short_model(run.model)) for run in runs]
    tokens = [run.statistics_size for run in runs]
    samples = [str(run.plan_json.get("measure", {}).get("sample_facts", "–")) for run in runs]
    return [
        ["Model", PAPER_MODELS, all_of(models)],
        ["Edits", "up to 10,000, one batch after another", all_of([f"{run.done:,}" for run in runs])],
        ["Facts per batch", "100", all_of(planned("batch_size"))],
        ["Facts", "CounterFact (tables 1 to 8), zsRE (9 to 14)", all_of([short_model(f) for f in planned("facts")])],
        ["Scored on", "as the authors chose", f"{all_of(samples)} of the facts edited so far, drawn at random"],
        ["Computed on", "GPUs", all_of([DEVICES.get(run.device.split(":")[0], run.device) for run in runs])],
        ["Statistics (C0)", "Wikipedia", all_of(tokens)],
    ]


# -- the page ----------------------------------------------------------------------------------------------------------


def main() -> None:
    st.title(page_list.question("paper"), anchor=False)
    try:
        known = run_picker.measured_runs()
    except InputError as error:
        # The paper's figures can still be shown.
        widgets.problem(error)
        known = {}
    asked = links.opened("paper")
    if asked is not None:
        restore(asked, known)
    answer = st.container(key="answer")
    with st.container(border=True, key="card_choice"):
        number, models, rows = pick_table()
        runs = pick_runs(known) if known else []
    if not known:
        widgets.notice(
            Message(
                "info",
                "Nothing has been measured here yet, so you see only the paper's figures. Start runs on the Run page, "
                "and their results appear beside them.",
            )
        )
    try:
        compared(number, models, rows, runs, answer)
    except InputError as error:
        widgets.problem(error)
    links.write(
        "paper",
        {
            "table": str(number),
            "dataset": st.session_state["paper_dataset"],
            "model": st.session_state["paper_models"],
            "method": st.session_state["paper_methods"],
            "run": [run.id for run in runs],
        },
    )
    run_picker.follow(runs)


def compared(
    number: int, models: Sequence[str], rows: Sequence[str], runs: Sequence[RunInfo], answer: DeltaGenerator
) -> None:
    """The table as chart and as table, beside our figures, and why the two differ."""
    run_picker.warn_of_differences(runs)
    paper = paper_tables.filtered(number, models, rows)
    here = paper_tables.measured(
        number,
        runs,
        run_frames.scores(runs, "sample") if runs and number not in paper_tables.SETTINGS else pd.DataFrame(),
        run_frames.read("targets", runs) if runs and number in paper_tables.OVERFITTING else pd.DataFrame(),
        {run.id: run_frames.seconds_of_edits(run) for run in runs} if number in paper_tables.OVERFITTING else {},
        rows,
    )
    frame = together(number, paper, here, runs)
    quantities = list(paper["quantity"].unique())
    groups = {run.id: belongs(run) for run in runs}
    samples = {run.id: int(run.plan_json.get("measure", {}).get("sample_facts", 0)) for run in runs}
    said = published.answer(
        paper_tables.agreement(number, paper, here, groups=groups),
        paper_tables.agreement(number, paper, here, paper_tables.beyond_chance(number, here, samples), groups),
        max((int(edits) for edits in here["edits"]), default=0) if len(here) else 0,
        table=number,
        models=[short_model(run.model) for run in runs],
        about_mpes=number in paper_tables.OVERFITTING,
    )
    if said:
        with answer:
            widgets.answer(said)
    with st.container(border=True, key="card_paper"):
        draw(number, frame, rows, runs)
        st.caption(TABLES[number].about)
        figures_table(frame, rows, quantities)
    with st.container(border=True, key="card_differences"):
        widgets.heading("What differs", "the paper's runs, and those here")
        if runs:
            widgets.table(
                [("", "name"), ("In the paper", ""), ("Here", "")], differences(runs), "The paper's runs and those here"
            )
        told = [*paper_tables.without_counterpart(number, rows, runs, here), *counterparts(quantities, here)]
        if "n" in here and here["n"].notna().any():
            told.append(f"Scores here: {PROTOCOL}; in brackets 95 % intervals over n facts.")
        elif len(here) and number not in (*paper_tables.SETTINGS, *paper_tables.OVERFITTING):
            told.append(f"Scores here: {PROTOCOL}; {NO_INTERVAL}.")
        told.append("The paper shows norms, contributions and downstream F1 as curves, not in tables: see those pages.")
        st.html("<ul>" + "".join(widgets.rich("<li>{text}</li>", text=text) for text in told) + "</ul>")


def counterparts(quantities: Sequence[str], here: pd.DataFrame) -> list[str]:
    """What is measured here for each quantity; quantities of one kind share a sentence."""
    kinds: dict[str, list[str]] = {}
    for name in quantities:
        if name in set(here["quantity"]):
            kinds.setdefault(QUANTITIES[name].here, []).append(QUANTITIES[name].title)
    return [f"{'; '.join(titles)}: {kind}." for kind, titles in kinds.items()]


main()
