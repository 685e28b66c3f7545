"""What did the model lose? The mean of the tasks before any edit and at the last checkpoint, beyond chance or not.

Where the answers to each test were recorded, the difference has its 95 % interval on the same tests, and that of the
mean follows from those of the tasks, which are independent (the interval of a sum by the method of variance estimates
recovery, Zou and Donner 2008, doi:10.1002/sim.3095). Of older runs only the number of tests is known: then a
difference is taken to be off by as much as one of two shares of a half, the least certain ones.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import pandas as pd

from dashboard.charts.downstream import MEAN, TASKS
from dashboard.charts.labels import minus
from dashboard.charts.runs import RATIO, Line
from dashboard.reading.answers import published
from dashboard.reading.answers.answer import FEW_EDITS, Answer, by_ratio, listed, rough_half, sentence
from dashboard.reading.scores_at_checkpoint import AtCheckpoints
from dashboard.reading.verdicts import FEWEST
from encore_core.measures import intervals
from encore_core.measures.intervals import Interval

GUESSED = {task: 25.0 if task == "mmlu" else 50.0 for task in TASKS}
"""Task → accuracy of guessing, in per cent: MMLU has four options, the others two."""


@dataclass(frozen=True)
class Loss:
    """What one run's model lost.

    Attributes:
        name, method: the run's.
        edits: at the last checkpoint that has a mean.
        before, after: the mean of the tasks, × 100.
        low, high: 95 % interval of after − before.
        n: tests of all tasks.
        is_rough: whether the interval is the rough one for runs without recorded answers.
        no_option: answers that are none of the options, before and after.
    """

    name: str
    method: str
    edits: int
    before: float
    after: float
    low: float
    high: float
    n: int
    is_rough: bool
    no_option: tuple[int, int] | None = None

    @property
    def lost(self) -> bool:
        """Whether it lost anything beyond chance: in the mean, or because it answers with none of the options."""
        return self.high < 0 or self.answers_less

    @property
    def answers_less(self) -> bool:
        """Whether more answers than before are none of the options, beyond their 95 % intervals."""
        if self.no_option is None:
            return False
        before, after = (intervals.of_share(count / self.n, self.n) for count in self.no_option)
        return after.low > before.high

    @property
    def degree(self) -> str:
        """How much of the mean it lost, in words."""
        share = self.after / self.before if self.before else 1.0
        return "nearly all" if share < 0.15 else "much" if share < 0.6 else "some"


def losses(
    frame: pd.DataFrame,
    raw: pd.DataFrame,
    lines: Sequence[Line],
    gaps: Mapping[tuple[str, str], tuple[int, Interval]],
) -> list[Loss]:
    """What the runs lost; runs without the mean before and after are left out.

    Args:
        frame: of `charts.downstream.in_panels`.
        raw: the series `downstream`.
        lines: the runs.
        gaps: of `run_frames.task_changes`.
    """
    values = AtCheckpoints(frame)
    counts = raw[raw["metric"].isin(["n", "unparsable"])].astype({"metric": str})
    sums = AtCheckpoints(counts.groupby(["run", "metric", "edits"], sort=False, as_index=False)["value"].sum())
    found = []
    for line in lines:
        first, _ = values.last(line.run, MEAN, 0)
        last, at = values.last(line.run, MEAN)
        n, _ = sums.last(line.run, "n")
        if first is None or last is None or not at or not n:
            continue
        of_run = [gap for (_, run), (edits, gap) in gaps.items() if run == line.run and edits == at]
        ends = _mean_difference(of_run, last - first)
        rough = math.sqrt(2) * rough_half(n)
        low, high = ends or (last - first - rough, last - first + rough)
        odd = [sums.last(line.run, "unparsable", until)[0] for until in (0, at)]
        no_option = None if None in odd else (round(odd[0]), round(odd[1]))
        found.append(Loss(line.name, line.method, at, first, last, low, high, round(n), ends is None, no_option))
    return found


def _mean_difference(gaps: Sequence[Interval], difference: float) -> tuple[float, float] | None:
    """The interval of the mean of differences that are independent; None where one has none, or is of too few tests."""
    if not gaps or any(gap.low is None or gap.n < FEWEST for gap in gaps):
        return None
    below = math.sqrt(sum((gap.value - gap.low) ** 2 for gap in gaps)) / len(gaps)
    above = math.sqrt(sum((gap.high - gap.value) ** 2 for gap in gaps)) / len(gaps)
    return difference - below, difference + above


def guesses(raw: pd.DataFrame, models: Sequence[str] = ()) -> str:
    """A sentence where the unedited model answers no better than one that guesses; "" where it does, or is unknown.

    Of several models, which need not be alike, nothing is said.

    Args:
        raw: the series `downstream`.
        models: names of the runs' models.
    """
    first = raw[(raw["edits"] == 0) & raw["metric"].isin(["accuracy", "n"])].astype({"metric": str, "task": str})
    if first.empty or len(set(models)) > 1:
        return ""
    one = first[first["run"] == first["run"].iloc[0]].pivot_table(index="task", columns="metric", values="value")
    if "accuracy" not in one or "n" not in one:
        return ""
    n = float(one["n"].sum())
    right = float((one["accuracy"] * one["n"]).sum() / n)
    chance = float((one.index.map(lambda task: GUESSED.get(task, 50.0)) * one["n"]).sum() / n)
    low = 100 * (intervals.of_share(right / 100, round(n)).low or 0.0)
    if low > chance:
        return ""
    return (
        f"As loaded, this model gives {right:.0f} % right answers where guessing gives {chance:.0f} %: it has little "
        "skill to lose, and what the tasks show is whether it still answers at all."
    )


# -- the answer --------------------------------------------------------------------------------------------------------


def answer(
    found: Sequence[Loss], frame: pd.DataFrame, lines: Sequence[Line], raw: pd.DataFrame, models: Sequence[str] = ()
) -> Answer:
    """What the models lost.

    Args:
        found: of `losses`.
        frame: of `charts.downstream.in_panels`; its perplexities are told.
        lines: the runs.
        raw: the series `downstream`.
        models: names of the runs' models.
    """
    perplexity, further = _perplexity(frame, lines), []
    if not found:
        return Answer(
            "no tasks",
            f"These runs cannot answer that: no task was run before and after edits. {perplexity}".strip(),
        )
    lost = [one for one in found if one.lost]
    kept = [one for one in found if not one.lost]
    if lost:
        outcome, (first, *further) = "some lost" if kept else "lost", _sentences(found)
    elif max(one.edits for one in found) < FEW_EDITS:
        outcome, first = "too few edits", "Too few edits to tell."
    else:
        outcome, first = "nothing lost", "In the tasks, nothing significant."
    parts = (first, guesses(raw, models), *further, _figures(found), perplexity)
    fallen = [one.method for one in found if one.high < 0]
    paper = published.lost(outcome, [one.method for one in kept], fallen, models)
    return Answer(outcome, " ".join(part for part in parts if part), paper)


def _sentences(found: Sequence[Loss]) -> list[str]:
    """Whether it still answers at all, where it does not; then how much of its skill is gone."""
    skill = _how_much([one for one in found if one.high < 0], [one for one in found if one.high >= 0])
    odd = [one for one in found if one.answers_less]
    if not odd:
        return [f"{skill}."]
    silent = [one.name for one in odd if one.no_option[1] > one.n / 2]
    lead = f"With {listed(silent)} the model stops answering" if silent else "The model answers less often"
    return [f"{lead}: {_no_options(odd)}.", f"{skill}."]


def _no_options(odd: Sequence[Loss]) -> str:
    """How many answers are none of the options, and were before; what is the same for all runs is said once."""
    [first, *others], what = odd, "answers are none of the allowed options with"
    before, after = first.no_option
    if len({(one.edits, one.n, one.no_option[0]) for one in odd}) == 1:
        parts = [
            f"{after} of {first.n} {what} {first.name}",
            *(f"{one.no_option[1]} with {one.name}" for one in others),
        ]
        was = f"{before or 'none'} {'was' if before == 1 else 'were'}"
        return f"after {first.edits:,} edits, {listed(parts)}; before editing, {was}"
    return listed(
        f"{one.no_option[1]} of {one.n} {what if one is first else 'with'} {one.name} after {one.edits:,} edits "
        f"({one.no_option[0]} before)"
        for one in odd
    )


def _how_much(lost: Sequence[Loss], kept: Sequence[Loss]) -> str:
    """How much each run lost of what the model could do in the tasks, by the mean."""
    if not lost:
        return "Its mean F1 does not fall significantly"
    groups: dict[str, list[str]] = {}
    for one in lost:
        groups.setdefault(one.degree, []).append(one.name)
    if len(groups) == 1 and not kept:
        return f"{sentence(next(iter(groups)))} of its skill in the tasks"
    ranked = [(degree, groups[degree]) for degree in ("nearly all", "much", "some") if degree in groups]
    parts = [f"{degree} with {listed(names)}" for degree, names in ranked]
    parts[0] = parts[0].replace(" with", " of its mean F1 with", 1)
    parts += [f"nothing significant with {listed(one.name for one in kept)}"] if kept else []
    return f"The model loses {listed(parts)}"


def _figures(found: Sequence[Loss]) -> str:
    """The mean of the tasks before and after in each run; what is the same for all is said once."""
    if len({(round(one.before, 1), one.edits, one.n, one.is_rough) for one in found}) == 1:
        one = found[0]
        parts = [f"{each.after:.1f} with {each.name} ({_gap(each)})" for each in found]
        text = f"Mean F1 is {one.before:.1f} before and, after {one.edits:,} edits, {listed(parts)}"
        if not one.is_rough:
            return f"{text}, of {one.n} tests."
        return f"{text}; the sampling error of a difference over {one.n} tests is up to ±{_half(one):.0f} (95 %)."
    parts = [
        f"{one.name} {one.before:.1f} → {one.after:.1f} after {one.edits:,} edits ({_gap(one)}"
        + (f", sampling error up to ±{_half(one):.0f}, n {one.n})" if one.is_rough else f", n {one.n})")
        for one in found
    ]
    return f"Mean F1: {'; '.join(parts)}."


def _gap(one: Loss) -> str:
    """The difference, with its interval where it is known."""
    text = f"{one.after - one.before:+.1f}"
    return minus(text if one.is_rough else f"{text}, 95 %: {one.low:+.1f} to {one.high:+.1f}")


def _half(one: Loss) -> float:
    return (one.high - one.low) / 2


def _perplexity(frame: pd.DataFrame, lines: Sequence[Line]) -> str:
    """Perplexity at each run's last checkpoint."""
    values = AtCheckpoints(frame)
    found = [(line.name, *values.last(line.run, RATIO)) for line in lines]
    known = [(name, ratio, at) for name, ratio, at in found if ratio is not None and at]
    if not known:
        return ""
    if len({at for _, _, at in known}) == 1:
        return f"Perplexity after {known[0][2]:,} edits: {by_ratio([(name, ratio) for name, ratio, _ in known])}."
    return f"Perplexity: {by_ratio([(f'{name}, after {at:,} edits', ratio) for name, ratio, at in known])}."
