"""What differs between methods that edited the same fact: sentences computed from what was measured.

They may say that nothing differs, or that there is too little to tell.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from dashboard.charts.labels import percent
from encore_core.measures.intervals import student

ALIKE = 0.02
"""Probabilities closer than this are called the same."""

FEWEST_NEIGHBOURS = 3

FEW_EDITS = 20
"""Up to so many edits per model it is said that they are few."""


@dataclass(frozen=True)
class Outcome:
    """What one method did to a fact.

    Attributes:
        label: of its column.
        new: probability of the new answer after the edit.
        true: of the true answer; None where the fact has none.
        stopped: why its search stopped, see `targets.Target`; None where it made no search for this fact.
        paraphrases: in how many of how many the new answer is ahead of the true one.
        moved: by neighbour that the model knew, how far the probability of its own answer moved, from 0 to 1.
        unknown: how many neighbours the model did not know as loaded.
    """

    label: str
    new: float
    true: float | None
    stopped: str | None
    moved: tuple[float, ...]
    paraphrases: tuple[int, int] = (0, 0)
    unknown: int = 0


def difference(new: str, outcomes: Sequence[Outcome]) -> str:
    """How the methods differ, in short sentences: the new answer, its paraphrases, the neighbours.

    Args:
        new: the new answer.
        outcomes: of at least two methods, with the same neighbours.
    """
    return " ".join(filter(None, (_answers(new, outcomes), _paraphrases(outcomes), _neighbours(outcomes))))


def why_early(outcomes: Sequence[Outcome], n_edits: int) -> str:
    """Why a method that stopped early may look weaker here than it is; "" where that explains nothing.

    Args:
        outcomes: as for `difference`.
        n_edits: on each model.
    """
    early = [one.label for one in outcomes if one.stopped == "mpes"]
    if not early or len(early) == len(outcomes) or n_edits > FEW_EDITS:
        return ""
    stops, it = ("stops", "it") if len(early) == 1 else ("stop", "they")
    few = "one edit" if n_edits == 1 else f"{n_edits} edits"
    return (
        f"{listed(early)} {stops} early so as to change the model less and take many edits. Whether {it} can, {few} "
        "cannot show: Compare and Norm growth show runs of thousands of edits."
    )


def _answers(new: str, outcomes: Sequence[Outcome]) -> str:
    parts = []
    for group in _groups(outcomes):
        names, values = listed([one.label for one in group]), _range([one.new for one in group])
        early = all(one.stopped == "mpes" for one in group)
        behind = all(one.true is not None and one.true > one.new for one in group)
        if behind:
            parts.append(f"{names} left {new} at {values}, behind the true answer")
        elif early and len(group) < len(outcomes):
            parts.append(f"{names} stopped at {values}, as soon as {new} was the most probable answer")
        else:
            parts.append(f"{names} at {values}" if parts else f"{names} put {new} at {values}")
    if len(parts) == 1 and len(outcomes) > 1:
        return f"No difference in the answer: {parts[0]}."
    return "; ".join(parts) + "."


def _paraphrases(outcomes: Sequence[Outcome]) -> str:
    """In how many paraphrases the new answer is ahead, where the methods differ; "" without any."""
    n = outcomes[0].paraphrases[1]
    counts = sorted({one.paraphrases[0] for one in outcomes}, reverse=True)
    if not n or len(counts) == 1:
        return ""
    parts = [
        f"{count} of {n} by {listed([one.label for one in outcomes if one.paraphrases[0] == count])}"
        for count in counts
    ]
    return f"New answer ahead in paraphrases: {', '.join(parts)}."


def _groups(outcomes: Sequence[Outcome]) -> list[list[Outcome]]:
    """Methods whose new answer is about as probable, the most probable first; a group spans no more than `ALIKE`."""
    groups: list[list[Outcome]] = []
    for one in sorted(outcomes, key=lambda outcome: -outcome.new):
        if groups and groups[-1][0].new - one.new <= ALIKE:
            groups[-1].append(one)
        else:
            groups.append([one])
    return groups


def _neighbours(outcomes: Sequence[Outcome]) -> str:
    n = len(outcomes[0].moved)
    if n == 0 and outcomes[0].unknown:
        return "The model knows none of this fact's neighbours, so side effects are not tested."
    if n == 0:
        return "This fact has no neighbours, so side effects are not tested."
    if n < FEWEST_NEIGHBOURS:
        return f"{n} neighbour{'s' * (n != 1)}: too few to tell which method moved them least."
    n_pairs = len(outcomes) * (len(outcomes) - 1) // 2
    ordered = sorted(outcomes, key=_mean_moved)
    least, most = ordered[0], max(outcomes, key=_mean_moved)
    span = f"{_points(_mean_moved(least))} to {_points(_mean_moved(most))} points on average"
    if not _differ(least.moved, most.moved, n_pairs):
        return f"The {n} neighbours moved by {span}, which is no clear difference."
    like_least = [one for one in ordered if not _differ(least.moved, one.moved, n_pairs)]
    like_most = [one for one in ordered if not _differ(one.moved, most.moved, n_pairs)]
    low, high = (_under([one for one in like if one not in other], _mean_moved)
                 for like, other in ((like_least, like_most), (like_most, like_least)))  # fmt: skip
    return f"The {n} neighbours moved least under {low} and most under {high}, in points on average."


def _under(outcomes: Sequence[Outcome], mean: Callable[[Outcome], float]) -> str:
    """Methods with what they moved: "ENCORE (0.1)", "AlphaEdit and EMMET (1.0 to 1.2)"."""
    ends = sorted({_points(mean(one)) for one in outcomes}, key=float)
    return f"{listed([one.label for one in outcomes])} ({ends[0]}{f' to {ends[-1]}' if len(ends) > 1 else ''})"


def _mean_moved(outcome: Outcome) -> float:
    return sum(outcome.moved) / len(outcome.moved)


def _differ(one: Sequence[float], other: Sequence[float], n_pairs: int) -> bool:
    """Whether paired differences are significant at 95 % by a t-test, of all pairs together (Bonferroni)."""
    differences = [b - a for a, b in zip(one, other, strict=True)]
    n = len(differences)
    mean = sum(differences) / n
    variance = sum((value - mean) ** 2 for value in differences) / (n - 1)
    limit = student(1 - 0.025 / n_pairs, n - 1)
    return abs(mean) > limit * math.sqrt(variance / n) and abs(mean) > 0.001


def _points(share: float) -> str:
    return f"{100 * share:.1f}"


def _range(values: Sequence[float]) -> str:
    low, high = percent(min(values)), percent(max(values))
    return low if low == high else f"{low} to {high}"


def listed(names: Sequence[str]) -> str:
    """Names as a native lists them: A, B and C."""
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
