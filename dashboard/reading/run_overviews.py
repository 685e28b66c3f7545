"""Runs at a glance, for the list: read in one go for all of them, and kept until a run reaches a checkpoint."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
import streamlit as st

from dashboard.reading import run_frames
from dashboard.reading.run_words import facts_label, short_model, status_line
from encore_core.runs import RunInfo
from encore_core.runs.overview import Curve, Overview, overviews

KEPT = 2000
CURVE_POINTS = 25
"""Points of a curve in a row, at equal steps of edits."""

SCORES = {
    "edit_score": "Edit score",
    "generated_edit_contained": "Says it",
    "paraphrase_score": "Paraphrases",
    "neighborhood_score": "Neighbours",
}
"""Score → its column; a column without any figure is left out."""

PERPLEXITY, PERPLEXITY_CURVE = "Perplexity ×", "Perpl., log"
GROWTH, GROWTH_CURVE = "‖W‖ / ‖W₀‖", "‖W‖, log"


def of(runs: Sequence[RunInfo]) -> dict[str, Overview]:
    """The overview of each run, by its id.

    Raises:
        InputError: when a store cannot be read.
    """
    kept = _kept()
    wanted = {run.id: (run.recorded, *run_frames.version(run)) for run in runs}
    for recorded in (False, True):
        missing = [run for run in runs if run.recorded is recorded and wanted[run.id] not in kept]
        if missing:
            found = overviews(run_frames.store_of(missing[0]), missing)
            kept.update((wanted[run_id], overview) for run_id, overview in found.items())
    while len(kept) > KEPT:
        kept.pop(next(iter(kept)), None)
    return {run.id: kept[wanted[run.id]] if wanted[run.id] in kept else Overview() for run in runs}


@st.cache_resource(show_spinner=False)
def _kept() -> dict[tuple[object, ...], Overview]:
    return {}


def listed(runs: Sequence[RunInfo]) -> pd.DataFrame:
    """The list: a row for each run, figures as numbers so that they can be sorted, and curves as lists.

    Args:
        runs: in the order of the rows.
    """
    glances = of(runs)
    rows = [_row(run, after_edits(glances[run.id])) for run in runs]
    frame = pd.DataFrame(rows)
    empty = [name for name in (*SCORES.values(), "n") if frame[name].isna().all()]
    empty += [name for name in ("Seed", "Status") if frame[name].nunique() < 2 < len(frame)]
    if frame["Model"].nunique() > 1:  # what differs is in sight; what does not stays among the last columns
        frame.insert(1, "Model", frame.pop("Model"))
    return frame.drop(columns=empty + ([] if frame["Tags"].any() else ["Tags"]))


def after_edits(seen: Overview) -> Overview:
    """An overview, or an empty one where the unedited model alone has been measured: that is no result of the run."""
    return seen if seen.growth and seen.growth[-1][0] else Overview()


def _row(run: RunInfo, seen: Overview) -> dict[str, object]:
    perplexity, growth = _last(seen.perplexity), _last(seen.growth)
    return {
        "Method": run.method,
        "Facts": facts_label(run),
        "Status": status_line(run),
        "Seed": int(run.plan_json.get("seed", 0)),
        "Edits": run.done,
        **{title: _value(seen, metric) for metric, title in SCORES.items()},
        "n": n_of(seen),
        PERPLEXITY: perplexity,
        PERPLEXITY_CURVE: stretched([(edits, math.log10(value)) for edits, value in seen.perplexity if value > 0]),
        GROWTH: growth,
        GROWTH_CURVE: stretched([(edits, math.log10(value)) for edits, value in seen.growth if value > 0]),
        "Time, min": (run.editing_seconds + run.measuring_seconds) / 60,
        "Planned": run.n_edits,
        "Device": run.device,
        "Model": short_model(run.model),
        "Name": run.name,
        "Started": _moment(run.started or run.created),
        "Tags": ", ".join(run.tags),
        "Id": run.id,
    }


def _value(seen: Overview, metric: str) -> float | None:
    return seen.scores[metric].value if metric in seen.scores else None


def n_of(seen: Overview) -> int | None:
    """How many facts were scored, at the last checkpoint with scores."""
    for metric in SCORES:
        if metric in seen.scores and seen.scores[metric].n is not None:
            return seen.scores[metric].n
    return int(seen.scores["facts"].value) if "facts" in seen.scores else None


def _last(curve: Curve) -> float | None:
    return curve[-1][1] if curve else None


def stretched(curve: Sequence[tuple[int, float]]) -> list[float]:
    """A curve at `CURVE_POINTS` equal steps of edits, because a row's picture has no axis of edits."""
    if len(curve) < 2:
        return []
    edits, values = zip(*curve, strict=True)
    return [float(value) for value in np.interp(np.linspace(edits[0], edits[-1], CURVE_POINTS), edits, values)]


def highest(frame: pd.DataFrame, column: str, least: float) -> float:
    """The top of the scale that all curves of a column share; at least `least`, so that noise looks like noise."""
    return max([least, *(max(curve) for curve in frame[column] if len(curve))])


def _moment(at: float) -> pd.Timestamp:
    return pd.Timestamp(time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(at)))


def protocols_of(glances: Mapping[str, Overview]) -> str:
    """How the scores of a list came about."""
    said = any("generated_edit_contained" in seen.scores for seen in glances.values())
    return (
        "Scores are in % of a sample of n of the facts edited so far, at the run's last checkpoint with scores. They "
        "compare the probabilities of two given answers (teacher-forced)"
        + ("; “Says it” instead counts generated texts that contain the new answer" if said else "")
        + ". The opened run shows their 95 % intervals."
    )
