"""What came of a run, in a few sentences with its figures. Knows no streamlit."""

from __future__ import annotations

import pandas as pd

from encore_core.runs import RunInfo

AHEAD = "the new answer is more probable than the true one after {value} of {n} edited prompts{sure}"
MOST = "the new answer is the most probable one after {value} of {n} edited prompts{sure}"
"""What the edit score says of facts without a true answer, which have no magnitude."""

SAID = (
    ("edit_score", AHEAD),
    ("generated_edit_contained", "the model itself writes it after {value}{sure}"),
    ("neighborhood_score", "neighbours keep their own answer in {value}{sure}"),
)
"""Score → what is said of it."""


def outcome(run: RunInfo, scores: pd.DataFrame) -> str:
    """The sentences.

    Args:
        run: which.
        scores: as `run_frames.scores` gives them, of the sample.

    Returns:
        "" before the first checkpoint.
    """
    if scores.empty:
        return ""
    last = int(scores["edits"].max())
    parts = [_reached(run, last), _scores(scores, last), _damage(scores, last)]
    return " ".join(part for part in parts if part)


def _reached(run: RunInfo, last: int) -> str:
    if not last:
        return "Only the unedited model has been measured so far."
    if run.status in ("done", "running", "queued") and (run.done == run.n_edits or run.status != "done"):
        return f"After {last:,} of {run.n_edits:,} edits."
    return f"It ended after {run.done:,} of {run.n_edits:,} edits; these figures are from after {last:,}."


def _scores(scores: pd.DataFrame, last: int) -> str:
    said = []
    for metric, template in SAID:
        row, before = _at(scores, metric, last), _at(scores, metric, 0)
        if row is None:
            continue
        sure = [f"95 % interval {row.low:.0f} to {row.high:.0f}"] if row.low == row.low else []
        sure += [f"before editing {before.value:.0f} %"] if last and before is not None else []
        if template == AHEAD and _at(scores, "magnitude", last) is None:
            template = MOST
        said.append(
            template.format(
                value=f"{row.value:.0f} %",
                n=f"{row.n:.0f}" if row.n == row.n else "the",
                sure=f" ({'; '.join(sure)})" if sure else "",
            )
        )
    text = ", ".join(said)
    return f"{text[0].upper()}{text[1:]}." if text else ""


def _damage(scores: pd.DataFrame, last: int) -> str:
    said = []
    perplexity = _at(scores, "perplexity_ratio", last)
    if perplexity is not None and last:
        said.append(f"perplexity is {_times(perplexity.value)} the unedited model's")
    growth = _at(scores, "norm_ratio", last)
    if growth is not None and last:
        change = 100 * (growth.value - 1)
        said.append(f"the edited matrix that grew most has a norm {abs(change):.1f} % {_more(change)} than as loaded")
    text = ", and ".join(said)
    return f"{text[0].upper()}{text[1:]}." if text else ""


def _more(change: float) -> str:
    return "larger" if change >= 0 else "smaller"


def _times(ratio: float) -> str:
    return f"{ratio:.2f} times" if ratio < 10 else f"{ratio:,.0f} times"


def _at(scores: pd.DataFrame, metric: str, edits: int):
    """The row of a measure at a checkpoint; None where it was not measured there."""
    rows = scores[(scores["metric"].astype(str) == metric) & (scores["edits"] == edits) & scores["value"].notna()]
    return next(rows.itertuples(), None)
