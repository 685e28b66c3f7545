"""Which runs a page opens with: recorded ones that answer its question, whoever's runs there are besides.

No streamlit.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from dashboard.reading.run_words import MOST_COMPARED, belongs, in_order, newest_comparison
from encore_core.methods import METHODS
from encore_core.runs import RunInfo

Has = Callable[[RunInfo], bool]


def anything(run: RunInfo) -> bool:
    """Every run will do."""
    return True


def comparable(runs: Sequence[RunInfo]) -> list[list[RunInfo]]:
    """The recorded runs that have been measured, in sets of the same facts, order, seed and kind of device.

    Returns:
        sets of one run per method, in the methods' order.
    """
    groups: dict[tuple[object, ...], dict[str, RunInfo]] = {}
    for run in in_order([run for run in runs if run.recorded and run.measuring_seconds]):
        key = (*belongs(run), run.device.partition(":")[0])
        groups.setdefault(key, {}).setdefault(run.method, run)
    return [in_order(list(group.values())) for group in groups.values()]


def longest(runs: Sequence[RunInfo], has: Has = anything) -> list[RunInfo]:
    """The comparable set that went furthest, at most as many runs as can be compared.

    Args:
        runs: any; recorded ones are chosen from.
        has: whether a run has what the page needs.

    Returns:
        two runs or more where there is such a set, else the longest run alone, or nothing.
    """
    return _first(runs, has, lambda group: (len(group) > 1, min(run.done for run in group), len(group)))[:MOST_COMPARED]


def broadest(runs: Sequence[RunInfo], has: Has = anything, rather: Has = anything) -> list[RunInfo]:
    """The comparable set with the most methods, all of its runs.

    Args:
        runs: any; recorded ones are chosen from.
        has: whether a run has what the page needs.
        rather: whether a run is one to prefer; of sets with as many methods the one with most of these is taken, and
            then the one that went furthest.
    """
    return _first(runs, has, lambda group: (len(group), sum(map(rather, group)), min(run.done for run in group)))


def _first(runs: Sequence[RunInfo], has: Has, rank: Callable[[list[RunInfo]], tuple]) -> list[RunInfo]:
    """The set of the highest rank of which at least as many runs as count for it have what is needed."""
    candidates = sorted(comparable(runs), key=rank, reverse=True)
    best: list[RunInfo] = []
    for group in candidates:
        kept = [run for run in group if has(run)]
        if kept and (not best or rank(kept) > rank(best)):
            best = kept
    return best


def at_first(runs: Sequence[RunInfo], has: Has = anything) -> list[RunInfo]:
    """What a page opens with: recorded runs that have what it needs, else any recorded ones, else the newest."""
    return longest(runs, has) or longest(runs) or newest_comparison(runs)


def own(runs: Sequence[RunInfo]) -> list[RunInfo]:
    """The visitor's own newest runs that belong together; nothing where there are none."""
    return newest_comparison([run for run in runs if not run.recorded])


def missing(runs: Sequence[RunInfo]) -> str:
    """What the recorded runs leave out: methods, and how much results depend on the seed; "" where none is recorded."""
    kept = [run for run in runs if run.recorded]
    if not kept:
        return ""
    without = [name for name in METHODS if name not in {run.method for run in kept}]
    seeds: dict[tuple[object, ...], set[object]] = {}
    for run in kept:
        seeds.setdefault((run.method, run.facts_digest, run.n_edits), set()).add(run.plan_json.get("seed"))
    told = [f"No recorded run yet by {', '.join(without)}: start one on the Run page."] if without else []
    if all(len(found) == 1 for found in seeds.values()):
        told.append("Recorded runs have one seed each, so how far results differ between seeds is not known.")
    return " ".join(told)
