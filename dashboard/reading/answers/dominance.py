"""Do the edited layers dominate the residual stream? They do where they give more than half of it, or where the largest
of all sublayers is an edited one and together they give twice an even share.

Shares are measured on one fixed text, so they have no interval; beside them stands the share that the edited MLPs would
have if all sublayers gave the same.
"""

from __future__ import annotations

from collections.abc import Sequence

from dashboard.charts.contributions import moment
from dashboard.reading.answers import published
from dashboard.reading.answers.answer import FEW_EDITS, Answer, listed, percent, sentence
from dashboard.reading.findings import Standing, blocks

HALF = 0.5
STOOD_STILL = 0.005
"""A share that changes by less than half a percentage point has not moved."""


def answer(found: Sequence[Standing], models: Sequence[str] = ()) -> Answer:
    """Whether the edited layers dominate.

    Args:
        found: the runs, each before and after.
        models: names of their models.
    """
    broken = [one for one in found if not one.is_number]
    known = [one for one in found if one.is_number]
    if not known:
        names = listed(one.pair.line.name for one in broken)
        return Answer("broken", f"The states of the model are no longer finite ({names}), so there are no shares.")
    if not any(one.pair.after for one in known):
        return Answer("nothing edited", f"Nothing has been edited yet: {_figures(known)}. {_even(known)}")
    ahead = [one for one in known if dominates(one)]
    most = max(one.pair.after for one in known)
    if ahead:
        first, outcome = f"Yes, with {listed(one.pair.line.name for one in ahead)}", "yes"
    elif most < FEW_EDITS:
        first, outcome = "Too few edits to tell", "too few edits"
    elif all(one.after - one.before < STOOD_STILL for one in known):
        grown = any(one.after > one.before for one in known)
        first, outcome = f"No, and their share has {'hardly' if grown else 'not'} grown", "no growth"
    else:
        first, outcome = "No, not on this model", "no"
        if len(set(models)) > 1:
            first = "No, on none of these models"
    text = f"{first}: {_figures(known)}. {_even(known)}"
    if broken:
        text += f" With {listed(one.pair.line.name for one in broken)} the model's states are no longer finite numbers."
    return Answer(outcome, text, published.dominance(outcome))


def dominates(one: Standing) -> bool:
    """Whether the edited MLPs dominate, as said above."""
    even = one.n_edited / one.sublayers
    return one.after > HALF or (one.place == 1 and one.after >= 2 * even and one.after > one.before)


def _figures(known: Sequence[Standing]) -> str:
    """The edited MLPs' share in each run; what is the same for all is said once."""
    layers = {blocks(one.pair.line.layers) for one in known}
    one_each = all(one.n_edited == 1 for one in known)
    mlps, write = ("MLP", "writes") if one_each else ("MLPs", "write")
    who = f"the edited {mlps} ({layers.pop()})" if len(layers) == 1 else f"the edited {mlps}"
    moments = {(one.pair.before, one.pair.after, percent(one.before)) for one in known}
    if len(moments) == 1:
        [(before, after, share)] = moments
        parts = listed(f"{percent(one.after)} with {one.pair.line.name}" for one in known)
        if before == after:
            return f"{moment(after)} {who} {write} {parts.replace(' with', ' of the stream with', 1)}"
        return f"{moment(before)} {who} {write} {share} of the stream; {moment(after)}, {parts}"
    parts = [
        f"{percent(one.before)} {moment(one.pair.before)}, {percent(one.after)} {moment(one.pair.after)} with "
        f"{one.pair.line.name}"
        for one in known
    ]
    return f"{who} {write} this share of the stream: {'; '.join(parts)}"


def _even(known: Sequence[Standing]) -> str:
    """What an even share would be, and where the largest edited sublayer ranks."""
    sizes = {(one.n_edited, one.sublayers) for one in known}
    said = [f"an even share for {n} of {of} sublayers is {percent(n / of)}" for n, of in sorted(sizes)]
    best = min(known, key=lambda one: one.place)
    rank = "is the largest of all" if best.place == 1 else f"ranks {_ordinal(best.place)} of {best.sublayers}"
    return (
        f"{sentence(listed(said))}; the largest edited one, {best.largest_edited} with {best.pair.line.name}, {rank}."
    )


def _ordinal(number: int) -> str:
    """1st, 2nd, 3rd, 4th, 11th, 21st."""
    suffix = "th" if number % 100 in (11, 12, 13) else {1: "st", 2: "nd", 3: "rd"}.get(number % 10, "th")
    return f"{number}{suffix}"
