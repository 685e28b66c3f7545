"""Every measure of every run at a checkpoint, with n, its interval, and which run is ahead by more than chance."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd

from dashboard.elements import widgets
from dashboard.parts.runs_compared.view import View
from dashboard.reading import html_report, run_frames, verdicts
from dashboard.reading.run_words import BOOTSTRAP, MEASURES, SUBSETS, Measure
from dashboard.reading.scores_at_checkpoint import AtCheckpoints, Score
from encore_core.measures.downstream import PROTOCOLS
from encore_core.runs import fact_values

ABOUT = (
    "In brackets: 95 % intervals, by a seeded bootstrap over facts unless stated otherwise. A run is marked best only "
    "if the 95 % interval of its lead over every other run on the same facts (paired bootstrap) lies above zero; "
    "for Tasks, that of the difference of the two means."
)
ON_TEXT = "one fixed text, teacher-forced"
ON_MEASURES = {
    "generation_entropy": "sampled continuations of ten prompts",
    "foretold_damage": "½ tr(F Δ C0 Δᵀ), summed over edited layers",
}
"""Protocols of measures that are not taken on the fixed text."""


def draw(view: View, rows: Sequence[Sequence[object]], told: Sequence[str]) -> html_report.Table:
    """Draw the table of these rows, as `rows_of` makes them; the same for files.

    Args:
        view: what is shown.
        rows: from `rows_of`.
        told: what else is to be known about the figures, from `remarks`.
    """
    headings = ("Measure", *view.names, "n", "Ahead", "What it is", "Protocol")
    table = html_report.Table(
        headings,
        [[_plain(cell) for cell in row] for row in rows],
        f"After {view.at:,} edits; scores on {SUBSETS[view.subset]}",
        (ABOUT, *told),
    )
    widgets.heading(f"After {view.at:,} edits", f"scores on {SUBSETS[view.subset]}")
    hows = ("name", *("right" for _ in view.names), "right", "told", "about", "about")
    widgets.table([*zip(headings, hows, strict=True)][:-1], [row[:-1] for row in rows], table.caption)
    for line in table.notes:
        widgets.remark(line)  # runs are named in it, and a name is no markdown
    return table


def rows_of(view: View, scores: pd.DataFrame, measures: Sequence[Measure]) -> list[list]:
    """Rows of the table: measure, a cell per run, n, which is ahead, what it is, and how it came about."""
    values = AtCheckpoints(scores)
    of_facts = [measure.name for measure in measures if measure.series == "scores"]
    found = run_frames.differences(view.runs, view.subset, of_facts, view.at)
    return [_row(view, measure, values, found) for measure in measures]


def _row(view: View, measure: Measure, values: AtCheckpoints, found: verdicts.Differences) -> list[object]:
    of_runs = [values.score(run.id, measure.name, view.at) for run in view.runs]
    apart = verdicts.of_other_edits(of_runs, view.at)
    if apart is not None:
        verdict = apart
    elif measure.series == "scores":
        verdict = verdicts.of_scores(measure, view.ids, view.names, of_runs, found)
    elif measure.series == "downstream":
        verdict = verdicts.of_means(measure, view.names, of_runs)
    else:
        shown = [None if one is None else round(one.value, measure.digits) for one in of_runs]
        verdict = verdicts.of_figures(measure, shown)
    cells: list[object] = []
    for place, one in enumerate(of_runs):
        text = "–" if one is None else _figure(one, measure, view.at)
        is_best = place == verdict.best
        cells.append((f"{text}, {verdict.mark} ✓", "good") if is_best else text)
    counts = [f"{one.n:,}" for one in of_runs if one is not None and one.n is not None]
    n = " / ".join(dict.fromkeys(counts)) or "–"
    return [measure.title, *cells, n, verdict.words, measure.about, protocol_of(view, measure)]


def _figure(one: Score, measure: Measure, at: int) -> str:
    digits = measure.digits
    text = f"{one.value:,.{digits}f}"
    if one.low is not None:
        text += f" ({one.low:,.{digits}f} to {one.high:,.{digits}f})"
    return text + (f", after {one.edits:,}" if one.edits != at else "")


def protocol_of(view: View, measure: Measure) -> str:
    """How a measure came about, in words; of several runs that differ, each."""
    if measure.series == "measures":
        return ON_MEASURES.get(measure.name, ON_TEXT)
    if measure.series == "downstream":
        return PROTOCOLS["f1"]
    if measure.series == "norms":
        return "Frobenius norms of the matrices"
    return " / ".join(dict.fromkeys(fact_values.protocol(measure.name, run.protocols) for run in view.runs))


def remarks(view: View, scores: pd.DataFrame) -> list[str]:
    """Which runs have intervals of another kind, or none, and by which protocols facts were scored."""
    reasons: dict[str, list[str]] = {}
    for line in view.lines:
        of_run = scores[(scores["run"] == line.run) & (scores["sure"] != "") & (scores["sure"] != BOOTSTRAP)]
        for reason in of_run["sure"].unique():
            titles = _titles(of_run.loc[of_run["sure"] == reason, "metric"])
            reasons.setdefault(f"{titles}: {reason}", []).append(line.name)
    told = [f"{', '.join(names)} · {reason}." for reason, names in reasons.items()]
    protocols = dict.fromkeys(words for run in view.runs for words in run.protocols.values())
    return [*told, *(f"Protocol · {words}." for words in protocols or (fact_values.protocol("edit_score", {}),))]


def _titles(metrics: pd.Series) -> str:
    there = set(metrics)
    return ", ".join(measure.title for measure in MEASURES if measure.name in there)


def _plain(cell: object) -> str:
    return cell[0] if isinstance(cell, tuple) else str(cell)
