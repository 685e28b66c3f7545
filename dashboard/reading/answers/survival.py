"""Which method survives? How long each run's model stays on the good side of the lines (see `courses`).

What is compared are the edits between which a model collapses: a run lasts longer than another one where these spans do
not overlap.
"""

from __future__ import annotations

from collections.abc import Sequence, Set

import pandas as pd

from dashboard.charts.runs import RATIO
from dashboard.reading.answers import published
from dashboard.reading.answers.answer import FEW_EDITS, Answer, by_ratio, listed, times
from dashboard.reading.answers.courses import Course, Lines
from dashboard.reading.answers.crossings import spans
from dashboard.reading.scores_at_checkpoint import AtCheckpoints, Score
from encore_core.runs import RunInfo


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
    text = _joined(said.text, _tasks(known, lines), _unsure(alive))
    if brief:
        return Answer(said.outcome, text)
    paper = published.survival(said.outcome, [one.method for one in collapsed], models)
    return Answer(said.outcome, _joined(text, kept), _joined(_cut_short(found), others, paper))


def _joined(*sentences: str) -> str:
    return " ".join(one for one in sentences if one)


def _all_alive(known: Sequence[Course], lines: Lines) -> Answer:
    reach = min(one.reached for one in known)
    ratios = _ratios(known, reach)
    told = f" Perplexity after {ratios[0]:,} edits: {by_ratio(ratios[1])}." if ratios else ""
    if reach < FEW_EDITS:
        return Answer("too few edits", f"Too few edits to tell: after {reach:,} no model has collapsed.{told}")
    survived = min(one.survived for one in known)
    if not survived:
        return Answer("cannot be told", f"These runs cannot answer that for their {reach:,} edits.{told}")
    if len(known) == 1:
        who = f"{known[0].name} survives {'its ' * (survived == reach)}{survived:,} edits"
    else:
        who = f"{'Both ' * (len(known) == 2)}{listed(one.name for one in known)}"
        who += (
            f" survive the {reach:,} edits that all have made" if survived == reach else f" survive {survived:,} edits"
        )
    return Answer("all survive", f"{who}: {_not_reached(known, lines)}.{told}")


def _not_reached(known: Sequence[Course], lines: Lines) -> str:
    """That no line is crossed for good, and which runs had been beyond one."""
    back, told = [one.name for one in known if one.came_back], _lines_told(known, lines)
    if not back:
        return f"{'it does not reach' if len(known) == 1 else 'none reaches'} {told}"
    if len(known) == 1:
        return f"at the end it is not beyond {told}, though it had been"
    return f"at the end none is beyond {told}, though {listed(back)} had been"


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
    if not outlive:
        names = listed(one.name for one in alive)
        why = "is uncertain at the 95 % level" if any(one.is_unsure for one in alive) else \
            "cannot be known without more edits"  # fmt: skip
        last = "lasts" if len(alive) == 1 else "last"
        return Answer("cannot be told", f"These runs cannot answer that: {falls}; whether {names} {last} longer {why}.")
    names = listed(one.name for one in outlive)
    verb = "survives" if len(outlive) == 1 else "survive"
    ratios = _ratios([*outlive, *collapsed], min(one.reached for one in outlive))
    told = f" Perplexity after {ratios[0]:,} edits: {by_ratio(ratios[1])}." if ratios else ""
    back = [one.name for one in outlive if one.came_back]
    told += f" {listed(back)} had been beyond a threshold, and came back." if back else ""
    survived = min(one.survived for one in outlive)
    return Answer("some survive", f"{names} {verb} {survived:,} edits; {falls}.{told}")


def _none_alive(collapsed: Sequence[Course], lines: Lines) -> Answer:
    ratios = _ratios(collapsed, min(one.reached for one in collapsed))
    told = f" Perplexity after {ratios[0]:,} edits: {by_ratio(ratios[1])}." if ratios else ""
    if len(collapsed) == 1:
        return Answer("none survives", f"It does not: {_falls(collapsed, lines)}.{told}")
    names = [one.name for one in collapsed]
    first = f"Neither {' nor '.join(names)}" if len(names) == 2 else f"None of {listed(names)}"
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
    told, values, counts = [], AtCheckpoints(scores), set()
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
        counts |= {(one.n, one.edits) for one in found}
    return f"{_of_facts(counts)}, the new answer is {', and '.join(told)}." if told else ""


def _of_facts(counts: Set[tuple[int | None, int]]) -> str:
    """Of which facts something is said.

    Args:
        counts: how many were scored (None where that was not recorded), of how many that were edited.
    """
    n, edited = next(iter(counts)) if len(counts) == 1 else (None, 0)
    if n is None:
        return "Of the facts edited by then"
    if n >= edited:
        return f"Of the {edited:,} facts edited by then"
    return f"In a sample of {n:,} of the {edited:,} facts edited by then"


KEPT = {"edit_score": "ahead of the true one", "accuracy": "the most probable of all"}
"""Score of the edited prompts → what it says of the new answer."""


def _last_scores(values: AtCheckpoints, runs: Sequence[RunInfo], metric: str) -> list[Score] | None:
    """Each run's last score by a metric; None where they are not after the same edits."""
    found = [values.score(run.id, metric) for run in runs]
    same = None not in found and len({one.edits for one in found}) == 1
    return found if same and found[0].edits else None


def furthest(runs: Sequence[RunInfo], others: Sequence[RunInfo]) -> list[RunInfo]:
    """Of each method shown, the run of the same model that went furthest, where that is none of those shown."""
    found, shown = [], {run.id for run in runs}
    for run in runs:
        longer = [one for one in others if (one.method, one.model) == (run.method, run.model) and one.done > run.done
                  and one.id not in shown]  # fmt: skip
        found += [max(longer, key=lambda one: one.done)] if longer else []
    return found


def further(runs: Sequence[RunInfo], health: pd.DataFrame) -> str:
    """What became of runs that went further than those shown, see `furthest`; "" for none.

    Args:
        runs: those that went further.
        health: of them, as `run_frames.health` gives it.
    """
    told = []
    for run in runs:
        ratios = health[(health["run"] == run.id) & (health["metric"] == RATIO) & (health["edits"] == run.done)]
        if len(ratios):
            told.append(
                f"Another {'recorded ' * run.recorded}run of {run.method} went on to {run.done:,} edits: perplexity "
                f"{times(float(ratios['value'].iloc[-1]))}."
            )
    return " ".join(dict.fromkeys(told))


def _falls(runs: Sequence[Course], lines: Lines) -> str:
    """Where each collapses, in the words of the line that it crosses first."""
    parts = []
    for said, what in ((lambda run: run.perplexity, f"perplexity {lines.perplexity_rises}"),
                       (lambda run: run.tasks, f"tasks {lines.tasks_fall}")):  # fmt: skip
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
    never = [one for one in told if one.tasks.by is None and not one.tasks.came_back]
    perhaps = [one for one in told if not one.tasks.is_sure and one.collapse is not None]
    said = f"With {listed(one.name for one in perhaps)} the tasks are perhaps {lines.tasks_fallen} (not significant)." \
        if perhaps else ""  # fmt: skip
    if not fallen and not never:
        return said
    if not fallen:
        reach = min(one.tasks.reached for one in never)
        others = f" with {listed(one.name for one in never)}" if len(never) < len(known) else ""
        return _joined(f"The tasks are not {lines.tasks_fallen} within {reach:,} edits{others}.", said)
    text = f"The tasks {lines.tasks_fall} {spans(fallen)}"
    if never:
        text += f", not within {min(one.tasks.reached for one in never):,} with {listed(one.name for one in never)}"
    return _joined(f"{text}.", said)


def _unsure(alive: Sequence[Course]) -> str:
    """Which runs may have crossed a line."""
    unsure = [one for one in alive if one.is_unsure]
    if not unsure:
        return ""
    by = max(one.reached for one in unsure)
    names = listed(one.name for one in unsure)
    return f"With {names} a threshold may have been crossed by {by:,} edits (not significant)."


def _cut_short(found: Sequence[Course]) -> str:
    """Which runs were stopped, or failed, before all edits were made."""
    early: dict[tuple[str, int, int], list[str]] = {}
    for one in found:
        if one.cut_short:
            early.setdefault((one.cut_short, one.done, one.planned), []).append(one.name)
    told = []
    for (how, done, planned), names in early.items():
        be = "" if how == "failed" else "was " if len(names) == 1 else "were "
        told.append(f"{listed(names)} {be}{how} after {done:,} of {planned:,} edits.")
    return " ".join(told)


def _ratios(known: Sequence[Course], reach: int) -> tuple[int, list[tuple[str, float]]] | None:
    """The last checkpoint up to `reach` at which all of them have a perplexity, and what it was."""
    tables = [dict(one.ratios) for one in known]
    common = set.intersection(*(set(table) for table in tables)) if tables else set()
    at = max((edits for edits in common if 0 < edits <= reach), default=0)
    return (at, [(one.name, table[at]) for one, table in zip(known, tables, strict=True)]) if at else None
