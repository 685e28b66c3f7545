"""What the microscope's pictures show, as sentences computed from them; they may say that there is nothing to see."""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence

import numpy as np
import pandas as pd

from dashboard.charts.labels import minus, percent
from dashboard.reading.microscope_frames import row_name
from encore_core.measures.answer_tokens import AnswerToken
from encore_core.measures.fact_trace import FactTrace, Peak
from encore_core.measures.logit_lens import LogitLens
from encore_core.measures.strength import Strength

THIRDS = ("the lower third", "the middle third", "the upper third")
BROKEN = "The edited model's states are no longer finite numbers, so there is nothing to read in them."
STILL = 0.005
"""Effects below this many logits, or points of probability, are called none."""


def lens_sentence(before: LogitLens, after: LogitLens | None) -> str:
    """From which layer on each answer leads at the prompt's last token, unedited and edited."""
    if after is not None and not np.isfinite(after.top_probabilities).all():
        return BROKEN
    told = []
    for number, answer in enumerate(before.answers):
        was = _lead(before, number)
        if after is None:
            told.append(f"{answer} {f'first leads {was}' if was else 'never leads'}.")
            continue
        now = _lead(after, number)
        if was == now:
            told.append(f"{answer} {f'first leads {was}, edited or not' if was else 'never leads, edited or not'}.")
        else:
            unedited = f"first leads {was}" if was else "never does"
            told.append(f"{answer} {f'first leads {now}' if now else 'never leads'}; unedited it {unedited}.")
    return " ".join(told)


def _lead(lens: LogitLens, answer: int) -> str:
    """Where an answer is first the most probable word at the last token; empty if nowhere."""
    rows = lens.leads(answer)[:, -1].nonzero()[0]
    if not len(rows):
        return ""
    return f"at layer {row_name(int(rows[0]))}" if rows[0] else "at the embedding"


def lens_map_sentence(before: LogitLens, after: LogitLens | None) -> str:
    """Where the edits changed the most probable word; without edits, at how many cells each answer is that word."""
    n = before.top_ids.size
    if after is None:
        counts = ", ".join(f"{answer} at {int(before.leads(i).sum())}" for i, answer in enumerate(before.answers))
        return f"The most probable word of {n} cells: {counts}." if counts else ""
    if not np.isfinite(after.top_probabilities).all():
        return BROKEN
    rows, columns = (before.top_ids != after.top_ids).nonzero()
    if not len(rows):
        return f"The edits changed the most probable word in none of the {n} cells."
    lowest = row_name(int(rows[0]))
    return (
        f"The edits changed the most probable word in {len(rows)} of {n} cells, lowest at layer {lowest}, at "
        f"“{after.tokens[columns[0]].strip()}”."
    )


def alike_sentence(lens: LogitLens) -> str:
    """A note where both answers begin with the same token; empty otherwise."""
    if len(set(lens.answer_ids)) == len(lens.answer_ids):
        return ""
    token = lens.answer_tokens[0].strip()
    return f"Both answers begin with the token “{token}”, which is all that is read here, so they cannot be told apart."


def trace_sentences(before: FactTrace, after: FactTrace | None) -> str:
    """Where the fact is recalled, unedited and edited, and whether that is where the paper found facts."""
    told = [f"{'As loaded' if after is not None else 'Here'} {_recalled(before)}"]
    if after is not None and not math.isfinite(after.clean + after.noisy):
        told.append(BROKEN)
    elif after is not None:
        told.append(f"After the edits {_recalled(after)}")
    return " ".join(told)


def _recalled(trace: FactTrace) -> str:
    answer = trace.answer.strip()
    if trace.clean - trace.noisy < STILL:
        return f"noise does not make the model forget “{answer}”, so nothing can be restored."
    peak = trace.peak("MLP")
    if peak.effect < STILL:
        return f"restoring MLPs does not bring “{answer}” back anywhere."
    return (
        f"restoring MLPs brings “{answer}” back most at “{peak.token.strip()}”{_whose(trace, peak)} around layer "
        f"{peak.layer}, in {THIRDS[peak.third]}: {percent(trace.noisy)} → {percent(trace.noisy + peak.effect)}. "
        + (
            "That is where Meng et al. (2022) found facts: the subject's last token, lower or middle layers."
            if peak.as_published
            else "Meng et al. (2022) found facts at the subject's last token, in lower or middle layers; this trace "
            "does not."
        )
    )


def _whose(trace: FactTrace, peak: Peak) -> str:
    if peak.is_subject_end:
        return ", the subject's last token,"
    if peak.place == trace.prompt_tokens - 1:
        return ", the prompt's last token,"
    return ", within the subject," if trace.subject[0] <= peak.place < trace.subject[1] else ","


def trace_terms(trace: FactTrace) -> str:
    """How the trace was made."""
    left_out = f"; {trace.left_out} tokens in between were left out" if trace.left_out else ""
    return (
        f"Noise of {trace.noise:g} standard deviations of the embeddings on the subject (bold), "
        f"{trace.samples} draw{'s' * (trace.samples != 1)}; MLPs and attention in windows of {trace.window} layers. "
        f"Tokens before the subject have no noise and are not shown{left_out}."
    )


def tokens_sentence(name: str, before: Sequence[AnswerToken], after: Sequence[AnswerToken] | None) -> str:
    """Which token of an answer decides.

    Args:
        name: of the answer.
        before, after: its tokens; `after` is None without edits.
    """
    now = after or before
    if len(now) == 1:
        was = f"{percent(before[0].probability)}, number {before[0].rank:,}"
        if after is None:
            return f"{name} is one token: {was}."
        return f"{name} is one token: {was} → {percent(now[0].probability)}, number {now[0].rank:,}."
    least = min(range(len(now)), key=lambda place: now[place].probability)
    told = f"{name} is {len(now)} tokens; the least probable is “{now[least].text.strip()}” with " + (
        percent(now[least].probability)
        if after is None
        else f"{percent(now[least].probability)} ({percent(before[least].probability)} unedited)"
    )
    wrong = [token for token in now if token.rank > 1]
    if not wrong:
        return f"{told}. Greedy decoding says all of them."
    return f"{told}. Greedy decoding leaves it at “{wrong[0].text.strip()}”: it says “{wrong[0].instead.strip()}”."


def moved_sentence(rows: pd.DataFrame, what: str, edited: Collection[int]) -> str:
    """What moved a logit most, and how much the edited MLPs wrote of it themselves.

    Args:
        rows: as `effect_rows` gives them.
        what: whose logit.
        edited: layers.
    """
    change = float(rows["effect"].sum(skipna=False))
    if not math.isfinite(change):
        return BROKEN
    if abs(change) < STILL and rows["effect"].abs().max() < STILL:
        return f"Nothing moved {what}."
    largest = rows.reindex(rows["effect"].abs().sort_values(ascending=False).index).head(3)
    parts = ", ".join(f"{row.label} {row.effect:+.2f}" for row in largest.itertuples())
    own = rows[rows["edited"]]["effect"].sum()
    return minus(
        f"{what[0].upper()}{what[1:]} changed by {change:+.2f}, most through {parts}. The edited MLPs "
        f"contributed {own:+.2f} of it directly; the other sublayers changed only because their input changed."
    )


def strength_sentence(found: Strength) -> str:
    """When the answer flips, and when the neighbours follow."""
    path, step = found.rewrite, found.betas[1] - found.betas[0] if len(found.betas) > 1 else 0.0
    rival = path.true if path.true is not None else "everything else"
    flip = found.flips(path)
    if path.ahead(0):
        told = f"{path.new} is ahead of {rival} from the start"
    elif flip is None:
        told = f"{path.new} does not get ahead of {rival} up to β = {found.betas[-1]:g}"
    else:
        told = f"{path.new} is ahead of {rival} from β = {flip:g} on"
    says = found.says(path)
    told += f" and is what the model says from β = {says:g} on." if says is not None else ", and is never said."
    neighbours = found.of("neighbour")
    if neighbours:
        follower = found.first_to_follow()
        if follower is None:
            told += f" None of the {len(neighbours)} neighbours follows." if len(neighbours) > 1 else (
                " The neighbour does not follow.")  # fmt: skip
        else:
            told += f" The first neighbour follows at β = {follower[0]:g}: {follower[1].prompt}"
            told += "." if not follower[1].prompt.endswith(".") else ""
    return f"{told} Tried in steps of {step:g}." if step else told
