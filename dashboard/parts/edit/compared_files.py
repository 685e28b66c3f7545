"""A comparison as files: a CSV of every figure, and an HTML page that needs nothing else."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pandas as pd
import streamlit as st

from dashboard import links
from dashboard.charts import compared as charts
from dashboard.charts.labels import percent
from dashboard.charts.palette import LIGHT
from dashboard.parts.edit.compared_reading import Seen, outcomes_of
from dashboard.reading import fact_words, html_report, score_rows
from dashboard.reading.compared_words import difference
from dashboard.visitors.comparison import Column, Comparison
from encore_core.facts import Fact
from encore_core.spreadsheets import neutral_csv

PROTOCOL = "Probabilities are teacher-forced: the geometric mean over the answer's tokens."

_COLUMNS = (
    "method",
    "kind",
    "prompt",
    "new",
    "true",
    "new_before",
    "new_after",
    "true_before",
    "true_after",
    "verdict",
)
_OF_SCORES = ("protocol", "score", "value", "low", "high", "n")


def offer(
    comparison: Comparison, fact: Fact, seen: Mapping[str, Seen], measured: Sequence[score_rows.Column] = ()
) -> None:
    """Two buttons: the figures, and the page; with the scores of all facts where they have been measured."""
    if not seen:
        return
    left, right = st.columns(2)
    left.download_button("Download as CSV", lambda: csv(seen, measured), "encore-compared.csv", "text/csv",
                         on_click="ignore", width="stretch", key="compared_csv")  # fmt: skip
    # The address is read now: the function runs later, when there is no page.
    link = st.context.url or ""
    right.download_button(
        "Report, one HTML file", lambda: report(comparison, fact, seen, link, measured), "encore-compared.html",
        "text/html", on_click="ignore", width="stretch", key="compared_html",
    )  # fmt: skip


def csv(seen: Mapping[str, Seen], measured: Sequence[score_rows.Column] = ()) -> bytes:
    """All prompts under all methods, a row each; below them the scores of all facts, of the kind "score"."""
    table = pd.concat([found.rows.assign(method=label) for label, found in seen.items()], ignore_index=True)
    rows = table[list(_COLUMNS)].to_dict("records")
    scores = [{"method": row["model"], "kind": "score"} | row for row in score_rows.long_rows(measured)]
    names = (*_COLUMNS, *(_OF_SCORES if scores else ()))
    return neutral_csv(names, [[row.get(name) for name in names] for row in (*rows, *scores)])


def report(
    comparison: Comparison,
    fact: Fact,
    seen: Mapping[str, Seen],
    link: str,
    measured: Sequence[score_rows.Column] = (),
) -> bytes:
    """The comparison as a page: what differs, the figures, a chart per method, scores of all facts, the settings."""
    columns = [column for column in comparison.columns if column.label in seen]
    outcomes = outcomes_of(comparison, fact, seen)
    facts = html_report.Table(
        ("Method", fact.target_new, "Steps", "Stopped by", "Largest ‖W‖", "Seconds", "It says"),
        [_row(column, fact, seen[column.label]) for column in columns],
        f"{fact_words.asked(fact)}. {PROTOCOL}",
    )
    names = sorted({name for column in columns for name in vars(column.session.settings)})
    settings = html_report.Table(
        ("Setting", *(column.label for column in columns)),
        [(name, *(str(getattr(column.session.settings, name)) for column in columns)) for name in names],
        "",
    )
    drawn = {column.label: charts.column(seen[column.label].rows, LIGHT) for column in columns}
    said = difference(fact.target_new, outcomes) if len(outcomes) > 1 else ""
    lm = comparison.columns[0].session.lm if comparison.columns[0].session else columns[0].session.lm
    aside = f"{lm.name} · seed {comparison.seed} · {link or links.address({})}"
    scores = score_rows.compared_tables(measured) if measured else ()
    return html_report.side_by_side("One fact, several methods", aside, said, facts, drawn, settings, scores)


def _row(column: Column, fact: Fact, found: Seen) -> tuple[str, ...]:
    first = found.rows.iloc[0]
    items = [item for one in column.reports for item in one.edited if item.fact == fact and item.is_edited]
    growth = max(now / was for was, now in column.session.norms().values()) - 1
    return (
        column.label,
        f"{percent(first.new_before)} → {percent(first.new_after)}",
        str(items[-1].steps) if items else "–",
        items[-1].stopped if items else "–",
        f"{growth:+.3%}",
        f"{column.seconds:.1f}",
        found.text.text.strip(),
    )
