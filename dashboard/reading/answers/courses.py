"""How the models of runs fared against lines that they must not cross.

The lines are perplexity, as a ratio to the unedited model's, and the mean score of the tasks, as a share of the
unedited model's. A model collapses where it crosses one of them for good.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import pandas as pd

from dashboard.charts.downstream import MEAN, TASKS
from dashboard.charts.runs import RATIO
from dashboard.reading.answers.answer import rough_half
from dashboard.reading.answers.crossings import Crossing, crossing
from encore_core.runs import RunInfo

PERPLEXITIES = (1.5, 2.0, 5.0, 10.0)
SHARES = (0.75, 0.5, 0.25)
"""Lines to choose from."""

_ENDS = {"interrupted": "stopped", "cancelled": "stopped", "failed": "failed"}


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
    def tasks_fall(self) -> str:
        share = "half" if self.tasks == 0.5 else f"{100 * self.tasks:g} % of"
        return f"fall below {share} their starting score"

    @property
    def perplexity_rises(self) -> str:
        return f"passes {'twice' if self.perplexity == 2 else f'{self.perplexity:g} times'} its starting value"


@dataclass(frozen=True)
class Course:
    """How a run's model fared.

    Attributes:
        name: the run's, beside the others.
        method: the run's.
        done, planned: edits.
        status: of the run.
        perplexity, tasks: where each crosses its line; None where it was not measured.
        ratios: perplexity as a ratio, by edits.
        tasks_line: the mean of the tasks that is not to be reached; None where the unedited model was not asked.
    """

    name: str
    method: str
    done: int
    planned: int
    status: str
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

        It may have crossed the line that is measured less often, or less surely, before the other one.
        """
        found = self.collapse
        return min(one.span[0] for one in self.measured), found.span[1] if found else math.inf

    @property
    def reached(self) -> int:
        """Edits up to which everything that was measured is known."""
        return min(one.reached for one in self.measured)

    @property
    def survived(self) -> int:
        """Edits up to which it has surely not collapsed."""
        return int(self.span[0])

    @property
    def is_unsure(self) -> bool:
        """Whether it may have crossed a line: its 95 % interval holds the line."""
        return any(not one.is_sure for one in self.measured)

    @property
    def came_back(self) -> bool:
        """Whether it has been beyond a line and is not at its last checkpoint."""
        return any(one.came_back for one in self.measured)

    @property
    def cut_short(self) -> str:
        """Why no more edits will come before all are made, as a verb; "" where all were made, or more may come.

        A run that was stopped has not collapsed.
        """
        return _ENDS.get(self.status, "") if self.done < self.planned else ""

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
        found.append(Course(name, run.method, run.done, run.n_edits, run.status, risen, fallen, course, line))
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
