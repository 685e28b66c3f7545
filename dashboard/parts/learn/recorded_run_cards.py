"""Steps 4 and 5: what repeated editing did in the chosen runs, with one slider over their checkpoints."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import partial

import pandas as pd
import streamlit as st
from streamlit.delta_generator import DeltaGenerator

from dashboard.charts import contributions as contribution_charts
from dashboard.charts import runs as run_charts
from dashboard.charts.contributions import Pair
from dashboard.charts.runs import Line
from dashboard.elements import chart_card, run_picker, widgets
from dashboard.reading import findings, run_frames, start_content
from dashboard.reading.answers import dominance, survival
from dashboard.reading.answers.answer import Answer
from dashboard.reading.answers.courses import Lines, courses
from dashboard.reading.run_words import MEASURES
from dashboard.reading.scores_at_checkpoint import AtCheckpoints
from dashboard.talk import presenter
from dashboard.visitors.messages import Message
from dashboard.visitors.widget_state import remembered
from encore_core.runs import RunInfo

SHOWN = ("edit_score", "paraphrase_score", "neighborhood_score", "perplexity_ratio")
TITLES = {measure.name: measure.title for measure in MEASURES}
AT = "learn_at"


def again() -> list[RunInfo]:
    """Norms and scores of the chosen runs over edits. Returns the runs."""
    place, runs = _pick("again")
    if not runs or _covered("again", runs):
        return runs
    with place:
        widgets.answer(_survival(runs))
    norms, scores = run_frames.read("norms", runs), run_frames.scores(runs, "sample")
    lines, commands = run_frames.lines(runs), chart_card.commands_of(runs)
    with st.container(border=True, key="card_learn"):
        at = pick_checkpoint(norms)
        values = AtCheckpoints(scores)
        widgets.tiles(
            [
                (line.name, _figure(values, line, "norm_ratio", at, 3), f"× ‖W₀‖ at most, after {at:,} edits", "")
                for line in lines
            ]
        )
        chart_card.show(
            partial(run_charts.norms, norms, lines, at=at),
            key="learn norms",
            heading="Norm of the edited matrices",
            aside=f"dotted line: after {at:,} edits",
            alt=f"Norm of each edited matrix over edits; the largest after {at:,} edits are above the chart.",
            frame=norms[norms["layer"].isin({layer for run in runs for layer in run.layers})],
            commands=commands,
            revision=" ".join(run.id for run in runs),
        )
        _scores(
            scores,
            lines,
            at,
            commands,
            "learn scores",
            "Scores and perplexity",
            "scores teacher-forced, of a sample of the facts edited so far",
        )
    return runs


def breaks() -> list[RunInfo]:
    """Shares of the residual stream at a checkpoint, and what is left of the first batch. Returns the runs."""
    place, runs = _pick("breaks")
    if not runs or _covered("breaks", runs):
        return runs
    with place:
        widgets.answer(_survival(runs))
    measured = run_frames.read("contributions", runs)
    with_shares = [run for run in runs if run.id in set(measured["run"])]
    commands = chart_card.commands_of(runs)
    with st.container(border=True, key="card_learn"):
        at = pick_checkpoint(run_frames.read("norms", runs))
        _health(runs, at, commands)
    with st.container(border=True, key="card_learn_shares"):
        if with_shares:
            _shares(measured, run_frames.lines(with_shares), [run.model for run in with_shares], at, commands)
        else:
            widgets.notice(Message("info", "Contributions to the residual stream were not measured in these runs."))
    with st.container(border=True, key="card_learn_first"):
        first = run_frames.scores(runs, "first")
        first = first[first["metric"] != "perplexity_ratio"]  # which is not about these facts
        lines = run_frames.lines(runs)
        _scores(first, lines, at, commands, "learn first", "What is left of the first batch", "teacher-forced")
        st.caption("Forgetting: these facts were edited once, at the beginning, and have only been disturbed since.")
    return runs


def _covered(step: str, runs: Sequence[RunInfo]) -> bool:
    """Whether the class is to guess first."""
    names = list(dict.fromkeys(line.name for line in run_frames.lines(runs)))
    n_edits = f"{max(run.done for run in runs):,} edits"
    question, choices = {
        "again": (f"After {n_edits}, which model still works best?", names),
        "breaks": (f"After {n_edits}, do the edited layers write most of the residual stream?", ["yes", "no"]),
    }[step]
    return presenter.covered(f"learn {step}", [run.id for run in runs], question, choices)


def _survival(runs: Sequence[RunInfo]) -> Answer:
    """How the models of the runs fared: what does show that they break."""
    names, lines = [line.name for line in run_frames.lines(runs)], Lines()
    found = courses(runs, names, run_frames.health(runs), lines)
    return survival.answer(found, lines, [run.model for run in runs])


def _pick(step: str) -> tuple[DeltaGenerator, list[RunInfo]]:
    """The place of the step's answer, and the runs."""
    known = run_picker.measured_runs()
    place = st.container(key="answer")
    if not known:
        words = "No run has reached its first checkpoint yet. Start some on the Run page; their curves appear here."
        widgets.notice(Message("info", words))
        return place, []
    runs = run_picker.pick(f"learn {step}", known)
    if not runs:
        widgets.notice(Message("info", "Pick one to four runs above."))
        return place, []
    run_picker.warn_of_differences(runs)
    return place, runs


def pick_checkpoint(norms: pd.DataFrame) -> int:
    """Pick the number of edits after which figures are read; at first the last checkpoint.

    Args:
        norms: edits of all checkpoints.
    """
    there = sorted(int(edits) for edits in norms["edits"].unique())
    presenter.plays_over(AT, there)
    at = remembered(AT, there[-1])
    if at not in there:
        st.session_state[AT] = max((edits for edits in there if edits <= at), default=there[0])
    if len(there) > 1:
        st.select_slider(
            "After … edits", there, key=AT, persist_state="session", format_func=lambda edits: f"{edits:,}"
        )
    return st.session_state[AT]


def _health(runs: Sequence[RunInfo], at: int, commands: Sequence[str]) -> None:
    """What does show that models break: perplexity and tasks, beside the growth."""
    health = run_frames.health(runs)
    titles = start_content.panels(health)
    chart_card.show(
        partial(run_charts.scores, health, run_frames.lines(runs), titles, at=at, fitted=True),
        key="learn health",
        heading="What the models have lost",
        aside=f"dotted line: after {at:,} edits",
        alt=f"{', '.join(titles.values())} over edits; what they come to is said above.",
        frame=health,
        commands=commands,
        revision=" ".join(run.id for run in runs),
    )


def _shares(
    measured: pd.DataFrame, lines: Sequence[Line], models: Sequence[str], at: int, commands: Sequence[str]
) -> None:
    pairs = []
    for line in lines:
        there = sorted(int(edits) for edits in measured["edits"][measured["run"] == line.run].unique())
        pairs.append(Pair(line, there[0], max((edits for edits in there if edits <= at), default=there[0])))
    standings = [findings.standing(measured, pair, "share") for pair in pairs]
    widgets.heading("Do the edited layers outvote the rest?")
    widgets.answer(dominance.answer(standings, models))
    widgets.tiles([(one.pair.line.name, *_share_words(one)) for one in standings])
    panels = contribution_charts.moments(measured, pairs)
    rows = contribution_charts.shown(measured, panels, "share")
    chart_card.show(
        partial(contribution_charts.bars, rows, panels),
        key="learn shares",
        heading="Who writes the residual stream",
        aside="edited layers violet and hatched",
        alt="Share of each sublayer in the residual stream; those of the edited layers together are above the chart.",
        frame=rows,
        commands=commands,
        revision=" ".join(line.run for line in lines),
    )


def _share_words(one: findings.Standing) -> tuple[str, str, str]:
    """Figure, remark and tone of a tile."""
    if not one.is_number:
        return "–", "the model's states are no longer finite numbers", ""
    blocks = findings.blocks(one.pair.line.layers)
    mlps = "MLP" if one.n_edited == 1 else "MLPs"
    remark = (
        f"of the stream from the {mlps} of {blocks} after {one.pair.after:,} edits, {100 * one.before:.1f} % before"
    )
    return f"{100 * one.after:.1f} %", remark, ""


def _scores(
    scores: pd.DataFrame, lines: Sequence[Line], at: int, commands: Sequence[str], key: str, heading: str, aside: str
) -> None:
    there = set(scores["metric"].astype(str)[scores["value"].notna()])
    titles = {name: TITLES[name] for name in SHOWN if name in there}
    if not titles:
        widgets.notice(Message("info", "No scores were measured in these runs."))
        return
    chart_card.show(
        partial(run_charts.scores, scores, lines, titles, at=at),
        key=key,
        heading=heading,
        aside=aside,
        alt=f"{heading}: {', '.join(titles.values())} over edits; those after {at:,} edits are in the table below.",
        frame=scores[scores["metric"].isin(list(titles))],
        commands=commands,
        revision=" ".join(line.run for line in lines),
    )
    values = AtCheckpoints(scores)
    rows = [
        (
            line.name,
            *(_figure(values, line, name, at, 2 if name == "perplexity_ratio" else 0) for name in titles),
            _n_facts(values, line, titles, at),
        )
        for line in lines
    ]
    columns = [("Run", "name"), *((title, "right") for title in titles.values()), ("Facts", "right")]
    widgets.table(columns, rows, f"{heading} after {at:,} edits")


def _figure(values: AtCheckpoints, line: Line, metric: str, at: int, digits: int) -> str:
    """A value with its 95 % interval, where it has one, and the edits it is from, where these are others."""
    found = values.score(line.run, metric, at)
    if found is None:
        return "–"
    interval = "" if found.low is None else f" ({found.low:.{digits}f} to {found.high:.{digits}f})"
    return f"{found.value:.{digits}f}{interval}" + (f", after {found.edits:,}" if found.edits != at else "")


def _n_facts(values: AtCheckpoints, line: Line, metrics: Iterable[str], at: int) -> str:
    """How many facts a run's scores are of; a fact may lack the prompts of one of them."""
    scores = [values.score(line.run, metric, at) for metric in metrics]
    return f"{max((one.n for one in scores if one is not None and one.n is not None), default=0):,}"
