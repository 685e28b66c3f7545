"""Scores as rows of tables, each with its interval and n, and what the two protocols come to in a sentence."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

from dashboard.charts.labels import minus
from dashboard.reading.html_report import Table
from encore_core.measures import intervals
from encore_core.measures.generated_scores import GeneratedScores, Metric, Part
from encore_core.measures.intervals import Interval
from encore_core.measures.scores import PROTOCOL, SHARE_AHEAD, Scores

FORCED = (
    ("edit_score", "Edit score", SHARE_AHEAD),
    ("paraphrase_score", "Paraphrase score", "the same for the paraphrases"),
    ("neighborhood_score", "Neighbourhood score", "share of neighbours whose own answer beats the new one"),
    ("overall_score", "Overall score", "harmonic mean of the three"),
    ("portability_score", "Portability", "share of the tokens of portability answers that are the most probable ones"),
    ("accuracy", "Accuracy", "share of facts whose new answer is the most probable"),
    ("generation_efficacy", "Generation efficacy", "share of facts whose new answer appears in what is generated"),
    ("magnitude", "Magnitude", "mean of p(new) − p(true)"),
)
GENERATED: tuple[tuple[Part, str, str], ...] = (
    ("edit", "Edited prompts", "the new answer"),
    ("paraphrase", "Paraphrases", "the new answer"),
    ("neighborhood", "Neighbours", "their own answer"),
    ("portability", "Portability", "what follows from the edit"),
)
"""Part → what the rows are called, and which answer is right."""

Row = tuple[str, ...]


def with_interval(found: Interval | None, digits: int = 0, sign: str = "") -> str:
    """A score with its 95 % interval: "87 (71 to 95)"; the score alone where there are too few to tell."""
    if found is None:
        return "–"
    value = f"{found.value:{sign}.{digits}f}"
    return value if found.low is None else f"{value} ({found.low:{sign}.{digits}f} to {found.high:{sign}.{digits}f})"


def forced_rows(was: Scores, now: Scores) -> list[Row]:
    """(name, before, after, n, what it is) of every teacher-forced score that the facts have prompts for."""
    rows = []
    for name, label, about in FORCED:
        before, after = was.interval(name), now.interval(name)
        if after is None:
            continue
        style = (2, "+") if name == "magnitude" else (0, "")
        rows.append((label, with_interval(before, *style), with_interval(after, *style), f"{after.n:,}", about))
    return rows


def generated_rows(was: GeneratedScores, now: GeneratedScores) -> list[Row]:
    """(prompts, right answer, contained before, contained after, exact after, n) of every part that has prompts."""
    rows = []
    for part, name, wanted in GENERATED:
        after = now.interval(part, "contained")
        if after is None:
            continue
        rows.append(_generated_row(name, wanted, was, now, part, None))
        if part == "portability" and len(now.kinds) > 1:
            rows += [_generated_row(f"· {kind}", wanted, was, now, part, kind) for kind in now.kinds]
    return rows


def _generated_row(
    name: str, wanted: str, was: GeneratedScores, now: GeneratedScores, part: Part, kind: str | None
) -> Row:
    before, after = was.interval(part, "contained", kind), now.interval(part, "contained", kind)
    exact = now.interval(part, "exact", kind)
    return name, wanted, with_interval(before), with_interval(after), with_interval(exact), f"{after.n:,}"


def judged_rows(was: GeneratedScores, now: GeneratedScores) -> list[Row]:
    """(prompts, judged right before, after, n before, n after) of every part that has verdicts."""
    rows = []
    for part, name, _ in GENERATED:
        kinds = now.kinds if part == "portability" and len(now.kinds) > 1 else []
        for kind in (None, *kinds):
            before, after = was.interval(part, "judged", kind), now.interval(part, "judged", kind)
            if before is not None or after is not None:
                n = [f"{one.n:,}" if one is not None else "0" for one in (before, after)]
                rows.append((f"· {kind}" if kind else name, with_interval(before), with_interval(after), *n))
    return rows


Column = tuple[str, Scores, GeneratedScores]
"""A model in a comparison: its name, and its scores by both protocols."""


def compared_forced_rows(columns: Sequence[Column]) -> list[Row]:
    """(name, a score of each column, n) of every teacher-forced score that the facts have prompts for."""
    rows = []
    for name, label, _ in FORCED:
        found = [forced.interval(name) for _, forced, _ in columns]
        if found[0] is not None:
            style = (2, "+") if name == "magnitude" else (0, "")
            rows.append((label, *(with_interval(one, *style) for one in found), f"{found[0].n:,}"))
    return rows


def compared_generated_rows(columns: Sequence[Column]) -> list[Row]:
    """(what is right, a score of each column, n) of every part and metric that has prompts."""
    rows = []
    for part, name, _ in GENERATED:
        for metric, words in METRICS.items():
            found = [written.interval(part, metric) for _, _, written in columns]
            known = [one for one in found if one is not None]
            if known:
                counts = sorted({one.n for one in known})  # a judge may not have had a word for each
                n = f"{counts[0]:,}" if len(counts) == 1 else f"{counts[0]:,} to {counts[-1]:,}"
                rows.append((f"{name}: {words}", *map(with_interval, found), n))
    return rows


def compared_tables(columns: Sequence[Column]) -> list[Table]:
    """A table for each protocol, which stands in its caption: a row per score, a column per model, and n."""
    names = tuple(label for label, _, _ in columns)
    written = columns[-1][2].protocol
    return [
        Table(("Score", *names, "n"), compared_forced_rows(columns), f"{PROTOCOL[0].upper()}{PROTOCOL[1:]}."),
        Table(("Texts after", *names, "n"), compared_generated_rows(columns), f"{written[0].upper()}{written[1:]}."),
    ]


def long_rows(columns: Sequence[Column]) -> list[dict[str, object]]:
    """A row for each model, protocol and score, for files."""
    rows = []
    for label, forced, written in columns:
        of_forced = [(PROTOCOL, name, forced.interval(name)) for name, _, _ in FORCED]
        of_written = [
            (written.protocol, f"{part}, {metric}{f', {kind}' if kind else ''}", written.interval(part, metric, kind))
            for part, _, _ in GENERATED
            for metric in METRICS
            for kind in (None, *(written.kinds if part == "portability" else ()))
        ]
        for protocol, score, found in (*of_forced, *of_written):
            if found is not None:
                rows.append({"model": label, "protocol": protocol, "score": score, **found._asdict()})
    return rows


METRICS: dict[Metric, str] = {"contained": "text contains it", "exact": "text is exactly it", "judged": "judged right"}
"""Metric → when a text is right."""


def gap_sentence(forced: Scores, generated: GeneratedScores) -> str:
    """How far the edited facts' scores of both protocols lie apart, and whether that is more than chance."""
    ahead = [100 * one.edit for one in forced.per_fact]
    said = [None if share is None else 100 * share for share in generated.of_facts("edit", "contained")]
    gap = _gap(tuple(ahead), tuple(said))
    if gap is None:
        return ""
    n = f"{gap.n:,} fact{'s' * (gap.n != 1)}"
    # A fact without a true answer counts where the new one is the most probable.
    is_ahead = "is the most probable one" if forced.magnitude is None else "beats the true one"
    first = (
        f"Teacher-forced, the new answer {is_ahead} in {_mean(ahead):.0f} % of {n}; when the model writes by "
        f"itself, its text contains the new answer in {_mean(said):.0f} %."
    )
    if gap.value == 0:
        return f"{first} The protocols agree."
    if gap.low is None or gap.n < FEWEST:
        return f"{first} Too few facts to tell how far the protocols lie apart."
    more = "more" if gap.value > 0 else "fewer"
    between = minus(f"{abs(gap.value):.0f} points {more} (95 %: {gap.low:+.0f} to {gap.high:+.0f})")
    verdict = "" if gap.excludes_zero else ", not significant"
    return f"{first} Teacher-forced is {between}{verdict}."


@lru_cache(maxsize=64)
def _gap(ahead: tuple[float, ...], said: tuple[float | None, ...]) -> Interval | None:
    """The interval of the difference; drawn once, because a page asks at every run."""
    return intervals.of_difference(ahead, said)


FEWEST = 5
"""With fewer facts no difference is called one."""


def _mean(values: Sequence[float | None]) -> float:
    known = [value for value in values if value is not None]
    return sum(known) / len(known)
