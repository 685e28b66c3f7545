"""Which method survives? How long each run's model stays on the good side of a line that the reader sets.

The lines are perplexity, as a ratio to the unedited model's, and the mean score of the tasks, as a share of the
unedited model's. A model collapses where it crosses one of them for good. What is compared are the edits between which
that happens: a run lasts longer than another one where these spans do not overlap.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import pandas as pd

from dashboard.charts.downstream import MEAN, TASKS
from dashboard.charts.runs import RATIO
from dashboard.reading.answers import published
from dashboard.reading.answers.answer import FEW_EDITS, Answer, by_ratio, listed, rough_half, times
from dashboard.reading.answers.crossings import Crossing, crossing, spans
from dashboard.reading.scores_at_checkpoint import AtCheckpoints, Score
from encore_core.runs import RunInfo

PERPLEXITIES = (1.5, 2.0, 5.0, 10.0)
SHARES = (0.75, 0.5, 0.25)
"""Lines to choose from."""


@dataclass(frozen=True)
class Lines:
    """What a model must not reach.

    Attributes:
        perplexity: ratio to the unedited model's.
        tasks: the mean score of the tasks, as a share of the unedited model's.
    """

    perplexity: float = 2.0
    tasks: float = 0.5

    @property
    def tasks_fallen(self) -> str:
        return "halved" if self.tasks == 0.5 else f"down to {100 * self.tasks:g} %"

    @property
    def perplexity_risen(self) -> str:
        return "doubles" if self.perplexity == 2 else f"reaches × {self.perplexity:g}"


@dataclass(frozen=True)
class Course:
    """How a run's model fared.

    Attributes:
        name: the run's, beside the others.
        done, planned: edits.
        ended: whether no more edits will come.
        perplexity, tasks: where each crosses its line; None where it was not measured.
        ratios: perplexity as a ratio, by edits.
        tasks_line: the mean of the tasks that is not to be reached; None where the unedited model was not asked.
    """

    name: str
    done: int
    planned: int
    ended: bool
    perplexity: Crossing | None
    tasks: Crossing | None
    ratios: tuple[tuple[int, float], ...] = ()
    tasks_line: float | None = None

    @property
    def measured(self) -> list[Crossing]:
        return [one for one in (self.perplexity, self.tasks) if one is not None]

    @property
    def collapse(self) -> Crossing | None:
        """The line that it crosses first, as far as that is known; None where it crosses none."""
        return min((one for one in self.measured if one.crosses), key=lambda one: (one.by, -one.after), default=None)

    @property
    def span(self) -> tuple[float, float]:
        """Edits between which it collapses; up to infinity where it has not.

        It may have crossed the line that is measured less often before the other one.
        """
        found = self.collapse
        return min(one.span[0] for one in self.measured if found is None or one.crosses), \
            found.span[1] if found else math.inf  # fmt: skip

    @property
    def reached(self) -> int:
        """Edits up to which everything that was measured is known."""
        return min(one.reached for one in self.measured)

    @property
    def is_unsure(self) -> bool:
        """Whether it may have crossed a line, within chance."""
        return any(not one.is_sure for one in self.measured)

    @property
    def ended_early(self) -> bool:
        return self.ended and self.done < self.planned

    def outlasts(self, other: Course) -> bool:
        return self.span[0] >= other.span[1]


def courses(runs: Sequence[RunInfo], names: Sequence[str], frame: pd.DataFrame, lines: Lines) -> list[Course]:
    """How the models of some runs fared.

    Args:
        runs: those shown.
        names: what each is called beside the others.
        frame: run, edits, metric ("perplexity_ratio", "mean" of the tasks), value, low, high, as
            `charts.downstream.in_panels` gives it.
        lines: what is not to be reached.
    """
    found = []
    for run, name in zip(runs, names, strict=True):
        of_run = frame[frame["run"] == run.id]
        ratios, tasks = (of_run[of_run["metric"] == metric] for metric in (RATIO, MEAN))
        at_first = tasks.loc[tasks["edits"] == 0, "value"]
        line = lines.tasks * float(at_first.iloc[0]) if len(at_first) else None
        fallen = None if line is None else crossing(_with_rough_ends(tasks, run), line, falls=True)
        course = tuple((int(row.edits), float(row.value)) for row in ratios.sort_values("edits").itertuples())
        risen = crossing(ratios, lines.perplexity)
        found.append(Course(name, run.done, run.n_edits, run.ended, risen, fallen, course, line))
    return found


def _with_rough_ends(tasks: pd.DataFrame, run: RunInfo) -> pd.DataFrame:
    """The mean of all tasks, with an interval by the number of tests where the answers to each were not recorded."""
    n = len(TASKS) * run.plan_json.get("measure", {}).get("downstream_tests", 0)
    if not n:
        return tasks
    half = rough_half(n)
    low, high = (tasks["value"] - half).clip(lower=0), (tasks["value"] + half).clip(upper=100)
    known = tasks.reindex(columns=["low", "high"]).astype(float)
    return tasks.assign(low=known["low"].fillna(low), high=known["high"].fillna(high))


# -- the answer --------------------------------------------------------------------------------------------------------


def answer(
    found: Sequence[Course],
    lines: Lines,
    models: Sequence[str] = (),
    *,
    brief: bool = False,
    kept: str = "",
    others: str = "",
) -> Answer:
    """Which method survives.

    Args:
        found: the runs.
        lines: what a model must not reach.
        models: names of the runs' models, for what the paper says.
        brief: what the models came to alone, and no word of the paper.
        kept: how much of the edits is left, see `retained`.
        others: the runs that went further, see `further`.
    """
    known = [one for one in found if one.measured]
    if not known:
        return Answer(
            "not measured",
            "These runs cannot answer that: neither perplexity nor tasks were measured after an edit in these runs.",
        )
    collapsed = [one for one in known if one.collapse]
    alive = [one for one in known if not one.collapse]
    if not collapsed:
        said = _all_alive(known, lines)
    elif alive:
        said = _some_alive(alive, collapsed, lines)
    else:
        said = _none_alive(collapsed, lines)
    if brief:
        return Answer(said.outcome, _joined(said.text, _tasks(known, lines)))
    text = _joined(said.text, _tasks(known, lines), _unsure(alive), kept)
    paper = published.survival(said.outcome, [one.name for one in collapsed], models)
    return Answer(said.outcome, text, _joined(_cut_short(found), others, paper))


def _joined(*sentences: str) -> str:
    return " ".join(one for one in sentences if one)


def _all_alive(known: Sequence[Course], lines: Lines) -> Answer:
    reach = min(one.reached for one in known)
    ratios = _ratios(known, reach)
    told = f" Perplexity after {ratios[0]:,} edits: {by_ratio(ratios[1])}." if ratios else ""
    if reach < FEW_EDITS:
        return Answer("too few edits", f"Too few edits to tell: after {reach:,} no model has collapsed.{told}")
    if len(known) == 1:
        first = f"{known[0].name} survives its {reach:,} edits: it does not reach {_lines_told(known, lines)}."
    else:
        who = "Both" if len(known) == 2 else f"All {len(known)}"
        first = f"{who} survive the {reach:,} edits that all have made: none reaches {_lines_told(known, lines)}."
    return Answer("all survive", first + told)


def _lines_told(known: Sequence[Course], lines: Lines) -> str:
    """The lines that none reaches, and which of them was not measured."""
    perplexity, tasks = f"perplexity × {lines.perplexity:g}", f"tasks {lines.tasks_fallen}"
    if all(one.perplexity is not None and one.tasks is not None for one in known):
        return f"a threshold ({perplexity}, or {tasks})"
    if not any(one.tasks is not None for one in known):
        return f"the threshold ({perplexity}; no tasks were run)"
    if not any(one.perplexity is not None for one in known):
        return f"the threshold ({tasks}; perplexity was not measured)"
    return f"a threshold ({perplexity}, or {tasks}; not both were measured in every run)"


def _some_alive(alive: Sequence[Course], collapsed: Sequence[Course], lines: Lines) -> Answer:
    outlive = [one for one in alive if all(one.outlasts(other) for other in collapsed)]
    falls = _falls(collapsed, lines)
    reach = min(one.reached for one in outlive or alive)
    if not outlive:
        names = listed(one.name for one in alive)
        why = "is uncertain at the 95 % level" if any(one.is_unsure for one in alive) else \
            "cannot be known without more edits"  # fmt: skip
        last = "lasts" if len(alive) == 1 else "last"
        return Answer("cannot be told", f"These runs cannot answer that: {falls}; whether {names} {last} longer {why}.")
    names = listed(one.name for one in outlive)
    verb = "survives" if len(outlive) == 1 else "survive"
    ratios = _ratios([*outlive, *collapsed], reach)
    told = f" Perplexity after {ratios[0]:,} edits: {by_ratio(ratios[1])}." if ratios else ""
    return Answer("some survive", f"{names} {verb} {reach:,} edits; {falls}.{told}")


def _none_alive(collapsed: Sequence[Course], lines: Lines) -> Answer:
    ratios = _ratios(collapsed, min(one.reached for one in collapsed))
    told = f" Perplexity after {ratios[0]:,} edits: {by_ratio(ratios[1])}." if ratios else ""
    if len(collapsed) == 1:
        return Answer("none survives", f"It does not: {_falls(collapsed, lines)}.{told}")
    first = "Neither of the two" if len(collapsed) == 2 else f"None of the {len(collapsed)}"
    ranked = sorted(collapsed, key=lambda one: one.span, reverse=True)
    if all(ranked[0].outlasts(other) for other in ranked[1:]):
        return Answer(
            "one lasts longest",
            f"{first} survives, but {ranked[0].name} lasts {'longer' if len(ranked) == 2 else 'longest'}: "
            f"{_falls(ranked, lines)}.{told}",
        )
    return Answer(
        "none survives",
        f"{first} survives, and it is unclear which lasts longest: {_falls(ranked, lines)}.{told}",
    )


def retained(scores: pd.DataFrame, runs: Sequence[RunInfo], names: Sequence[str]) -> str:
    """How much of what was edited is still there at the last checkpoint; "" where that was not measured for all.

    A model may keep its perplexity and have forgotten its edits.

    Args:
        scores: run, edits, metric, value (× 100), n, of a sample of all facts edited so far.
        runs: those shown.
        names: what each is called beside the others.
    """
    told, values = [], AtCheckpoints(scores)
    for metric, what in KEPT.items():
        # Without a true answer a fact has no magnitude, and its edit score says if the answer is the most probable one.
        known = metric != "edit_score" or _last_scores(values, runs, "magnitude") is not None
        found = _last_scores(values, runs, metric) if known else None
        if found is None:
            continue
        shares = []
        for name, one in zip(names, found, strict=True):
            which = "" if told or shares else "95 %: "
            sure = "" if one.low is None else f" ({which}{one.low:.0f} to {one.high:.0f})"
            shares.append(f"{one.value:.0f} %{sure} with {name}")
        told.append(f"{what} for {listed(shares)}")
        sample = {one.n for one in found if one.n is not None}
    if not told:
        return ""
    of = f"Of {sample.pop()} facts edited by then" if len(sample) == 1 else "Of the facts edited by then"
    return f"{of}, the new answer is {', and '.join(told)}."


KEPT = {"edit_score": "ahead of the true one", "accuracy": "the most probable of all"}
"""Score of the edited prompts → what it says of the new answer."""


def _last_scores(values: AtCheckpoints, runs: Sequence[RunInfo], metric: str) -> list[Score] | None:
    """Each run's last score by a metric; None where they are not after the same edits."""
    found = [values.score(run.id, metric) for run in runs]
    same = None not in found and len({one.edits for one in found}) == 1
    return found if same and found[0].edits else None


def further(runs: Sequence[RunInfo], others: Sequence[RunInfo], health: pd.DataFrame) -> str:
    """Of each method shown, the run of the same model that went furthest, where that is another one; "" for none.

    Args:
        runs: those shown.
        others: all that could be.
        health: of the others, as `run_frames.health` gives it.
    """
    told, shown = [], {run.id for run in runs}
    for run in runs:
        longer = [one for one in others if (one.method, one.model) == (run.method, run.model) and one.done > run.done
                  and one.id not in shown]  # fmt: skip
        if not longer:
            continue
        most = max(longer, key=lambda one: one.done)
        ratios = health[(health["run"] == most.id) & (health["metric"] == RATIO) & (health["edits"] == most.done)]
        if len(ratios):
            told.append(
                f"Another run of {run.method} went on to {most.done:,} edits: perplexity "
                f"{times(float(ratios['value'].iloc[-1]))} ({most.id})."
            )
    return " ".join(dict.fromkeys(told))


def _falls(runs: Sequence[Course], lines: Lines) -> str:
    """Where each collapses, in the words of the line that it crosses first."""
    parts = []
    for said, what in ((lambda run: run.perplexity, f"perplexity {lines.perplexity_risen}"),
                       (lambda run: run.tasks, f"tasks are {lines.tasks_fallen}")):  # fmt: skip
        of_line = [run for run in runs if run.collapse is said(run)]
        if of_line:
            parts.append(f"{what} {spans([(run.name, said(run)) for run in of_line])}")
    return "; ".join(parts)


def _tasks(known: Sequence[Course], lines: Lines) -> str:
    """What is not said yet: where the tasks fall, where perplexity crosses its line first."""
    told = [one for one in known if one.tasks is not None and one.collapse is not one.tasks]
    if not told or not any(one.collapse for one in known):
        return ""
    fallen = [(one.name, one.tasks) for one in told if one.tasks.crosses]
    never = [one for one in told if one.tasks.by is None]
    perhaps = [one for one in told if not one.tasks.is_sure and one.collapse is not None]
    said = f"With {listed(one.name for one in perhaps)} the tasks are perhaps {lines.tasks_fallen} (not significant)." \
        if perhaps else ""  # fmt: skip
    if not fallen and not never:
        return said
    if not fallen:
        reach = min(one.tasks.reached for one in never)
        others = f" with {listed(one.name for one in never)}" if len(never) < len(known) else ""
        return _joined(f"The tasks are not {lines.tasks_fallen} within {reach:,} edits{others}.", said)
    text = f"The tasks are {lines.tasks_fallen} {spans(fallen)}"
    if never:
        text += f", not within {min(one.tasks.reached for one in never):,} with {listed(one.name for one in never)}"
    return _joined(f"{text}.", said)


def _unsure(alive: Sequence[Course]) -> str:
    """Which runs may have crossed a line."""
    names = [one.name for one in alive if one.is_unsure]
    return f"With {listed(names)} a threshold may have been crossed (not significant)." if names else ""


def _cut_short(found: Sequence[Course]) -> str:
    """Which runs ended early."""
    early: dict[tuple[int, int], list[str]] = {}
    for one in found:
        if one.ended_early:
            early.setdefault((one.done, one.planned), []).append(one.name)
    return " ".join(
        f"{listed(names)} ended early, after {done:,} of {planned:,} edits." for (done, planned), names in early.items()
    )


def _ratios(known: Sequence[Course], reach: int) -> tuple[int, list[tuple[str, float]]] | None:
    """The last checkpoint up to `reach` at which all of them have a perplexity, and what it was."""
    tables = [dict(one.ratios) for one in known]
    common = set.intersection(*(set(table) for table in tables)) if tables else set()
    at = max((edits for edits in common if 0 < edits <= reach), default=0)
    return (at, [(one.name, table[at]) for one, table in zip(known, tables, strict=True)]) if at else None
