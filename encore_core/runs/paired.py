"""How far two runs lie apart: differences on the same facts, or on the same tests of a task, each with its interval.

    between(RunAt(store, "encore-7k2q", 1000), RunAt(store, "memit-x9d3", 1000), "edit_score")

Runs may be in different stores. Facts are the same where subject, prompt, answers and all other prompts are.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cached_property

from encore_core.facts import Fact
from encore_core.measures import intervals
from encore_core.measures.intervals import Interval
from encore_core.runs import fact_values, series
from encore_core.runs.store import RunStore


@dataclass(frozen=True)
class RunAt:
    """A run at one of its checkpoints.

    Attributes:
        store: where it is.
        run: its id.
        edits: the checkpoint.
        subset: of facts, from `plan.SUBSETS`.
    """

    store: RunStore
    run: str
    edits: int
    subset: str = "sample"

    @cached_property
    def values(self) -> dict[int, fact_values.Values]:
        """Scores of the subset's facts by place; empty where none were recorded."""
        scored = series.scored(self.store, [self.run])
        places = set(scored.loc[(scored["edits"] == self.edits) & (scored["subset"] == self.subset), "fact"].tolist())
        frame = series.fact_scores(self.store, [self.run], [self.edits])
        found: dict[int, dict[str, float]] = {}
        for place, metric, value in zip(frame["fact"].tolist(), frame["metric"], frame["value"].tolist(), strict=True):
            if place in places:
                found.setdefault(place, {})[metric] = value
        return found

    @cached_property
    def answers(self) -> dict[str, dict[int, tuple[str, str | None, str | None]]]:
        """Answers to tests by task and place: the right one, what is said, and what is more probable."""
        frame = series.task_answers(self.store, [self.run], [self.edits])
        frame = frame.astype({"truth": object, "said": object, "likelier": object})
        frame = frame.where(frame.notna(), None)
        found: dict[str, dict[int, tuple]] = {}
        for row in frame.itertuples():
            found.setdefault(row.task, {})[row.test] = (row.truth, row.said, row.likelier)
        return found


def between(one: RunAt, other: RunAt, metric: str) -> Interval | None:
    """How much higher a score of the first run is on the facts that both scored, with its 95 % interval.

    Args:
        one, other: the runs.
        metric: as in `fact_values`.

    Returns:
        None where they share no fact with such a score, or one was recorded without values per fact.
    """
    if not one.values or not other.values:
        return None
    keyed, others_keyed = _by_fact(one, other)
    shared = [key for key in keyed if key in others_keyed]
    if not shared:
        return None
    return fact_values.difference(metric, [keyed[key] for key in shared], [others_keyed[key] for key in shared])


def _by_fact(one: RunAt, other: RunAt) -> tuple[dict, dict]:
    """Values by what tells facts apart in both runs: their place, where both have the same facts in the same order."""
    infos = one.store.get(one.run), other.store.get(other.run)
    if infos[0].order_digest == infos[1].order_digest:
        return one.values, other.values
    found = []
    for at in (one, other):
        facts = at.store.facts(at.run)
        found.append({_key(facts[place]): of_fact for place, of_fact in at.values.items()})
    return found[0], found[1]


def _key(fact: Fact) -> str:
    return json.dumps(fact.to_dict(), sort_keys=True)


def of_task(one: RunAt, other: RunAt, task: str, metric: str) -> Interval | None:
    """How much higher a score of a task is in the first run, on the tests that both were asked, × 100.

    Args:
        one, other: the runs.
        task: its name.
        metric: "f1", "f1_nll" or "accuracy".

    Returns:
        None where they share no test, or one was recorded without its answers.
    """
    answers, others = one.answers.get(task, {}), other.answers.get(task, {})
    # A test of other data has another right answer sooner or later; the same data has none.
    shared = [test for test in answers if test in others]
    if not shared or any(answers[test][0] != others[test][0] for test in shared):
        return None
    truth = [answers[test][0] for test in shared]
    place = 2 if metric == "f1_nll" else 1
    said, their = ([each[test][place] for test in shared] for each in (answers, others))
    if metric == "accuracy":
        rights = ([float(a == b) for a, b in zip(truth, column, strict=True)] for column in (said, their))
        found = intervals.of_difference(*rights)
    else:
        found = intervals.of_weighted_f1_difference(truth, said, their)
    return found and found.times(100.0)
