"""The paper's tables as frames, in words, and what was measured here of them. Knows no streamlit.

Published and measured figures have separate rows; nothing here averages over both.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import combinations
from typing import Any

import pandas as pd

from dashboard.reading import mpes_pairs
from dashboard.reading.run_words import facts_label
from dashboard.reading.scores_at_checkpoint import AtCheckpoints
from encore_core.resources import ASSETS
from encore_core.runs import RunInfo

FILE = ASSETS / "paper" / "tables.csv"
SOURCE = "arXiv 2502.01636"
HERE = "measured here"
PUBLISHED = "published"
DEFAULT_TABLE = 4  # every method, on the paper's model nearest in size to the embedded one


@dataclass(frozen=True)
class Table:
    """What a table of the paper is about.

    Attributes:
        number: in the paper.
        title: in words.
        about: how to read it.
    """

    number: int
    title: str
    about: str


_SCORES = (
    "After sequential edits. Scores from 0 to 100, higher is better; entropy of what the model writes, × 100 bits: "
    "low when it repeats itself."
)
_ZSRE = (
    "zsRE counts the tokens of an answer that are the most probable ones, which is harder than being more probable "
    "than the old answer."
)
_SETTINGS = "Chosen by the authors, not measured."

TABLES = {
    table.number: table
    for table in (
        Table(
            1,
            "Overfitting: probability of edited facts, with and without MPES",
            "The model should not be surer of an edited fact than of facts that it knows by itself. MPES stops "
            "the optimisation early, which also saves time.",
        ),
        Table(2, "Early stopping (MPES) added to each method, Llama models", _SCORES),
        Table(3, "From MEMIT to ENCORE, one remedy at a time, Llama models", _SCORES),
        Table(4, "All methods, GPT2-XL", _SCORES),
        Table(5, "EMMET tuned for editing or for downstream tasks", _SCORES),
        Table(6, "Hyper-parameters with MPES, CounterFact", _SETTINGS),
        Table(7, "Hyper-parameters of the norm constraint, CounterFact", _SETTINGS),
        Table(8, "Hyper-parameters of ENCORE, CounterFact", _SETTINGS),
        Table(9, "Hyper-parameters with MPES, zsRE", _SETTINGS),
        Table(10, "Hyper-parameters of the norm constraint, zsRE", _SETTINGS),
        Table(11, "Hyper-parameters of ENCORE, zsRE", _SETTINGS),
        Table(12, "All methods on zsRE, GPT2-XL", _ZSRE),
        Table(13, "All methods on zsRE, Llama-2-7B", _ZSRE),
        Table(14, "All methods on zsRE, Llama-3-8B", _ZSRE),
    )
}


@dataclass(frozen=True)
class Quantity:
    """What a column of a table holds.

    Attributes:
        name: as in the data.
        title: its name for readers.
        axis: "hundred" from 0 to 100, "one" from 0 to 1, or "zero" from 0.
        digits: after the decimal point, for what was measured here; published figures stay as printed.
        here: what is measured here instead; empty where nothing is.
        is_setting: whether it was chosen, not measured.
    """

    name: str
    title: str
    axis: str
    digits: int
    here: str = ""
    is_setting: bool = False


_SAMPLE = "the same score, on a sample of the facts edited so far"
_KNOWN = "mean over facts of the same kind that the model knows by itself, before any edit"
_STOPPED = "probability when the optimisation stopped, before the matrices were changed; a mean over all edited facts"
_SECONDS = "the whole edit on this run's processor: target, keys and update"

QUANTITIES = {
    quantity.name: quantity
    for quantity in (
        Quantity("original_fact_prob", "p known facts", "one", 2, _KNOWN),
        Quantity("edited_fact_prob_without_mpes", "p edited, no MPES", "one", 2, _STOPPED),
        Quantity("edited_fact_prob_with_mpes", "p edited, MPES", "one", 2, _STOPPED),
        Quantity("seconds_per_edit_without_mpes", "s/edit, no MPES", "zero", 2, _SECONDS),
        Quantity("seconds_per_edit_with_mpes", "s/edit, MPES", "zero", 2, _SECONDS),
        Quantity("edit_score", "Edit score", "hundred", 1, _SAMPLE),
        Quantity("paraphrase_score", "Paraphrase score", "hundred", 1, _SAMPLE),
        Quantity("neighborhood_score", "Neighbourhood score", "hundred", 1, _SAMPLE),
        Quantity("overall_score", "Overall score", "hundred", 1, _SAMPLE),
        Quantity("generation_entropy", "Generation entropy", "zero", 0, "the same measure, our own prompts"),
        Quantity("lambda_p", "λp (preservation)", "zero", 0, "the setting of the run", is_setting=True),
        Quantity("lambda_n", "λn (norm constraint)", "zero", 0, "the setting of the run", is_setting=True),
        Quantity("mpes_extra_steps", "Steps after MPES", "zero", 0, "the setting of the run", is_setting=True),
    )
}

OVERFITTING, SETTINGS, ZSRE_SCORES = (1,), range(6, 12), (12, 13, 14)
PAIRED = {
    "edited_fact_prob_without_mpes": "edited_fact_prob_with_mpes",
    "seconds_per_edit_without_mpes": "seconds_per_edit_with_mpes",
}
"""Columns of table 1 to compare with each other."""


@cache
def published() -> pd.DataFrame:
    """Every figure of the paper's tables. Shared: do not change it.

    Returns:
        table, dataset, model, method (as printed), row (the method as this program calls it), quantity, value.
    """
    frame = pd.read_csv(FILE)
    frame.insert(4, "row", frame["method"].map(row_of))
    return frame


def row_of(printed: str) -> str:
    """This program's name for a method of the paper, where there is one."""
    name = printed.replace(" + ", "+")
    return "MEMIT+norm" if name in ("Norm-Constraint", "Norm Constraint", "MEMIT+Norm-Const") else name


def filtered(number: int, models: Sequence[str] = (), rows: Sequence[str] = ()) -> pd.DataFrame:
    """A table, or only the lines for some models and rows; an empty filter means all."""
    frame = published()
    frame = frame[frame["table"] == number]
    for column, wanted in (("model", models), ("row", rows)):
        frame = frame[frame[column].isin(list(wanted))] if wanted else frame
    return frame


def choices(number: int) -> tuple[list[str], list[str]]:
    """The models of a table, and its rows, in the paper's order."""
    frame = filtered(number)
    return list(frame["model"].unique()), list(frame["row"].unique())


def tables_of(dataset: str) -> list[int]:
    """The tables about a dataset; all of them for ""."""
    frame = published()
    return sorted(frame.loc[frame["dataset"] == dataset, "table"].unique().tolist()) if dataset else list(TABLES)


# -- what was measured here --------------------------------------------------------------------------------------------


def measured(
    number: int,
    runs: Sequence[RunInfo],
    scores: pd.DataFrame,
    targets: pd.DataFrame,
    seconds: Mapping[str, float | None],
    rows: Sequence[str],
) -> pd.DataFrame:
    """What was measured here for a table of the paper.

    Args:
        number: of the table.
        runs: where it was measured.
        scores: run, edits, metric, value, as `run_frames.scores` gives it.
        targets: run, probability, as the series `targets`; read for table 1 alone.
        seconds: a run's id → seconds per edit; for table 1 alone.
        rows: of the table, after filters; runs of other methods are left out.

    Returns:
        run, row, quantity, value, edits (at which it was measured, the last checkpoint that has it), n, low, high (the
        95 % interval over facts; missing where there is none).
    """
    found: list[tuple] = []
    last = AtCheckpoints(scores) if len(scores) else None
    names = filtered(number)["quantity"].unique()
    for run in runs:
        row = row_of_run(number, run)
        if row not in rows:
            continue
        if number in OVERFITTING:
            values = _overfitting(run, targets, seconds.get(run.id))
        elif number in SETTINGS:
            values = _settings(run)
        elif number in ZSRE_SCORES or last is None:
            values = {}
        else:  # without the unedited model
            scored = {name: last.score(run.id, name) for name in names}
            values = {name: one for name, one in scored.items() if one is not None and one.edits}
        found += [(run.id, row, quantity, *one, *[None] * (5 - len(one))) for quantity, one in values.items()]
    return pd.DataFrame(found, columns=["run", "row", "quantity", "value", "edits", "n", "low", "high"])


def row_of_run(number: int, run: RunInfo) -> str:
    """The row of a table that a run belongs to."""
    if number in OVERFITTING:
        base, _, remedy = run.method.partition("+")
        return run.method if remedy == "norm" else base
    return "EMMET baseline" if number == 5 and run.method == "EMMET" else run.method


def is_in_paper(run: RunInfo) -> bool:
    """Whether the paper has figures of a run's method, ablations too."""
    return run.method in set(published()["row"])


def has_its_facts(run: RunInfo) -> bool:
    """Whether the file of a run's facts is named after a dataset of the paper, CounterFact or zsRE."""
    return any(dataset.lower() in facts_label(run).lower() for dataset in set(published()["dataset"]))


def _overfitting(run: RunInfo, targets: pd.DataFrame, seconds: float | None) -> dict[str, tuple[float, int]]:
    end = "with_mpes" if run.settings.get("mpes") else "without_mpes"
    of_run = targets.loc[targets["run"] == run.id, "probability"].dropna() if len(targets) else pd.Series(dtype=float)
    found = {}
    known = mpes_pairs.known_facts(run)
    if known is not None:
        found["original_fact_prob"] = (float(known[1].mean()), 0)
    if len(of_run):
        found[f"edited_fact_prob_{end}"] = (float(of_run.mean()), run.done)
    if seconds is not None:
        found[f"seconds_per_edit_{end}"] = (seconds, run.done)
    return found


def _settings(run: RunInfo) -> dict[str, tuple[float, int]]:
    """The settings that a run's method uses: AlphaEdit has no λp, MEMIT no steps after MPES."""
    settings = run.settings
    used = {
        "lambda_p": settings.get("preservation") == "inverse",
        "lambda_n": bool(settings.get("lambda_n")),
        "mpes_extra_steps": bool(settings.get("mpes")),
    }
    return {name: (float(settings[name]), run.done) for name, is_used in used.items() if is_used and name in settings}


Sure = Callable[[tuple[str, str], tuple[str, str]], bool]
"""Whether two places, each (row, quantity), differ here by more than chance."""


def agreement(
    number: int,
    paper: pd.DataFrame,
    here: pd.DataFrame,
    is_sure: Sure = lambda one, other: True,
    groups: Mapping[str, object] | None = None,
) -> list[tuple[str, int, int]]:
    """How many comparisons come out here as published, for each of the paper's models.

    A comparison asks which of two methods has the higher value; in table 1, with or without MPES. Ties on either side
    do not count, and neither do values after different numbers of edits, or of runs that do not belong together.

    Args:
        number: of the table.
        paper: as `filtered` gives it.
        here: as `measured` gives it, of one run per method; of several the first is taken.
        is_sure: which comparisons count.
        groups: run → what runs of one comparison share, see `run_words.belongs`; by default all belong together.

    Returns:
        model, comparisons that come out alike, comparisons made.
    """
    ours = _by_place(here)
    first = here.drop_duplicates(["row", "quantity"]).reindex(columns=["row", "quantity", "edits", "run"])
    after = {(row.row, row.quantity): (row.edits, (groups or {}).get(row.run))
             for row in first.fillna({"edits": 0}).itertuples()}  # fmt: skip
    found = []
    for model, of_model in paper.groupby("model", sort=False):
        theirs = _by_place(of_model)
        signs = [
            (theirs[a] - theirs[b]) * (ours[a] - ours[b])
            for a, b in _comparisons(number, theirs)
            if a in ours and b in ours and after[a] == after[b] and is_sure(a, b)
        ]
        counted = [sign for sign in signs if sign]
        if counted:
            found.append((str(model), sum(sign > 0 for sign in counted), len(counted)))
    return found


def beyond_chance(number: int, here: pd.DataFrame, n_facts: Mapping[str, int]) -> Sure:
    """Which differences here are larger than the choice of facts explains.

    Args:
        number: of the table. Table 1 is about all edited facts, and all of its differences count.
        here: as `measured` gives it; a score that has no interval is taken to be as unsure as a share of a half.
        n_facts: run → facts that its scores are of, where these have no interval.
    """
    if number in OVERFITTING:
        return lambda one, other: True
    first = here.drop_duplicates(["row", "quantity"]) if len(here) else here
    ends = {(row.row, row.quantity): _ends(row, n_facts.get(row.run, 0)) for row in first.itertuples()}

    def is_sure(one: tuple[str, str], other: tuple[str, str]) -> bool:
        pair = [found for place in (one, other) if (found := ends[place]) is not None]
        if len(pair) < 2:
            return False
        (_, lower, its_high), (its_low, higher, _) = sorted(pair, key=lambda found: found[1])
        return higher - lower > math.hypot(higher - its_low, its_high - lower)

    return is_sure


def _ends(row: Any, n_facts: int) -> tuple[float, float, float] | None:
    """A figure between the ends of its interval; None for what is not scored on facts."""
    if not pd.isna(row.low):
        return float(row.low), float(row.value), float(row.high)
    if QUANTITIES[row.quantity].axis != "hundred" or not n_facts:
        return None
    rough = 100 * 1.96 * math.sqrt(0.25 / n_facts)
    return row.value - rough, float(row.value), row.value + rough


def _by_place(frame: pd.DataFrame) -> dict[tuple[str, str], float]:
    """(row, quantity) → value."""
    first = frame.drop_duplicates(["row", "quantity"])
    return {(row.row, row.quantity): float(row.value) for row in first.itertuples()}


def _comparisons(number: int, places: Mapping[tuple[str, str], float]) -> list[tuple[tuple, tuple]]:
    """Pairs of places whose order is meaningful."""
    if number in SETTINGS:
        return []
    if number in OVERFITTING:
        pairs = [((row, name), (row, PAIRED[name])) for row, name in places if name in PAIRED]
    else:
        pairs = [(a, b) for a, b in combinations(places, 2) if a[1] == b[1]]
    return [(a, b) for a, b in pairs if b in places]


def without_counterpart(number: int, rows: Sequence[str], runs: Sequence[RunInfo], here: pd.DataFrame) -> list[str]:
    """What cannot be compared, and why: one sentence each.

    Args:
        number: of the table.
        rows: of the table, after filters.
        runs: what was measured here.
        here: as `measured` gives it.
    """
    told = []
    if number in OVERFITTING:
        told.append(
            "p of edited facts is not quite the same on both sides: here it is read when the optimisation stops, "
            "before the matrices are changed."
        )
        if runs and "original_fact_prob" not in set(here["quantity"]):
            told.append("p of known facts was not measured for these runs' models.")
    if number in ZSRE_SCORES:
        told.append(
            "Nothing here compares with this table: zsRE's scores count tokens of the answer, and runs here are "
            "scored as CounterFact's are, by which of two answers is more probable."
        )
        return told
    if number in SETTINGS and any("AlphaEdit" in row for row in rows):
        told.append("AlphaEdit has no λp here: it works in the null space of general text.")
    there = {row_of_run(number, run) for run in runs}
    missing = [row for row in rows if row not in there]
    if runs and missing:
        told.append(f"Not among the runs here: {', '.join(missing)}.")
    others = sorted({run.method for run in runs if row_of_run(number, run) not in rows})
    if others:
        told.append(f"Measured here, but not in this table as shown: {', '.join(others)}.")
    return told


def shown_value(quantity: str, value: float, is_ours: bool, n: float, low: float, high: float) -> str:
    """A figure as text: published ones with the digits they were printed with, ours with their interval and n."""
    if not is_ours or QUANTITIES[quantity].is_setting:
        return f"{value:,.10g}"
    digits = QUANTITIES[quantity].digits
    text = f"{value:,.{digits}f}"
    if not pd.isna(low):
        text += f" ({low:,.{digits}f} to {high:,.{digits}f})"
    return text if pd.isna(n) else f"{text}, n {n:.0f}"
