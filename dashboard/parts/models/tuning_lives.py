"""The evidence for settings for thousands of edits: the lives of `encore tune --horizon`, and what was left of each."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import pandas as pd
import streamlit as st

from dashboard.charts import tuning as charts
from dashboard.elements import chart_card, widgets
from dashboard.parts.models.tuning import SETTINGS, as_text, command
from dashboard.reading.run_words import duration
from dashboard.visitors.messages import Message
from encore_core.tuned_rows import TunedRow
from encore_core.tuning.lives import HELD_OUT, Life


def show(row: TunedRow) -> None:
    """What was left over each life, how the settings found did on facts that were not seen, and every life."""
    lives = [Life.of(values) for values in row.evidence.get("lives") or []]
    with st.container(border=True, key="card_tuning"):
        if lives:
            _lives(row, lives)
        else:
            widgets.heading("What encore tune --horizon has found", row.method)
            widgets.notice(
                Message("warning", "These settings were stored without their trials, so there is no evidence to show.")
            )
    if not row.in_force:
        st.caption("These settings are not in use. Run encore tune --horizon … --adopt to use them.")


def _lives(row: TunedRow, lives: Sequence[Life]) -> None:
    n_edits, frame = row.evidence.get("facts", 0), looks(row, lives)
    chart_card.show(
        partial(charts.lives, frame),
        key="tuning lives",
        heading="What is left of the model",
        aside=f"{row.method}, {n_edits:,} edits in batches of {row.evidence.get('batch_size', '?')}",
        alt="What is left after some edits, a line for each of the settings tried; the table has the same figures.",
        frame=frame,
        commands=[f"{command(row.model, row.method)} --horizon {n_edits}"],
    )
    for line in verdict(row, lives):
        widgets.notice(line)
    with st.expander(f"All {len(lives)} trials", key="tuning_trials"):
        widgets.table(*table(lives), "Every trial of the search, in order")


def looks(row: TunedRow, lives: Sequence[Life]) -> pd.DataFrame:
    """What the chart shows: the lives of the search, not those of the comparison.

    Returns:
        life (a number), label, taken (whether its settings are the row's), edits, left, first, last, perplexity_ratio.
    """
    found = []
    searched = [life for life in lives if not life.stage.startswith(HELD_OUT)]
    for number, life in enumerate(searched):
        taken = life.settings == dict(row.settings)
        for look in life.looks:
            found.append(
                (number, label(life, searched[0]), taken, look.edits, look.left, look.first, look.last,
                 look.perplexity_ratio)
            )  # fmt: skip
    columns = ["life", "label", "taken", "edits", "left", "first", "last", "perplexity_ratio"]
    return pd.DataFrame(found, columns=columns)


def label(life: Life, first: Life) -> str:
    """What sets a life's settings apart from those for a few edits."""
    changed = [
        f"{SETTINGS[name]} {as_text(value)}"
        for name, value in life.settings.items()
        if name in SETTINGS and value != first.settings.get(name)
    ]
    return ", ".join(changed) or "settings for a few edits"


def verdict(row: TunedRow, lives: Sequence[Life]) -> list[Message]:
    """How the settings found did on facts that the search has not seen."""
    by_stage = {life.stage: life for life in lives}
    before, after = by_stage.get(f"{HELD_OUT}present"), by_stage.get(f"{HELD_OUT}found")
    lines = []
    if before and after and before.looks and after.looks:
        then, now = before.looks[-1], after.looks[-1]
        better = after.score - before.score
        lines.append(
            Message(
                "info",
                f"After {now.edits:,} edits of held-out facts the combined score (0 to 100) is {now.left:.1f}, against "
                f"{then.left:.1f} with the settings for a few edits ({better:+.1f}): perplexity × "
                f"{now.perplexity_ratio:.2f} instead of × {then.perplexity_ratio:.2f}, overall score of the facts "
                f"edited first {now.first:.1f} instead of {then.first:.1f} (teacher-forced). It is one run of "
                "each, so a difference of a few points may be chance.",
            )
        )
    elif before:
        lines.append(Message("info", "Nothing tried left more of the model than the settings for a few edits."))
    if not row.evidence.get("complete", True):
        lines.append(Message("info", "The search was cut short; the same command resumes where it stopped."))
    return lines


def table(lives: Sequence[Life]) -> tuple[list[tuple[str, str]], list[tuple[object, ...]]]:
    """Columns and rows of every life, as it was last looked at."""
    columns = [
        ("Settings", "name"), ("", "about"), ("Edits", "right"), ("Left", "right"), ("First", "right"),
        ("Last", "right"), ("Perplexity", "right"), ("Tasks", "right"), ("‖W‖ / ‖W₀‖", "right"), ("Time", "right"),
    ]  # fmt: skip
    rows: list[tuple[object, ...]] = []
    for life in lives:
        name = f"{life.stage}: {label(life, lives[0])}" if life.stage.startswith(HELD_OUT) else label(life, lives[0])
        if not life.looks:
            rows.append((name, life.stopped, *["–"] * 7, duration(life.seconds)))
            continue
        look = life.looks[-1]
        rows.append(
            (
                name, life.stopped, f"{look.edits:,}", f"{look.left:.1f}", f"{look.first:.1f}", f"{look.last:.1f}",
                f"×\u00a0{look.perplexity_ratio:.2f}", "–" if look.tasks is None else f"{look.tasks:.0f} %",
                f"{look.norm_ratio:.3f}", duration(life.seconds),
            )
        )  # fmt: skip
    return columns, rows
